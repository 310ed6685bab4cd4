/* tests/support/calib_set.h - the tiny network with a data set of made pictures, calibrated as swin-calib does it. */
#ifndef SWIN_TESTS_CALIB_SET_H
#define SWIN_TESTS_CALIB_SET_H

#include "calib/run.h"

typedef struct swin_calib_set {
    char *folder, *zipped; /* pictures as files, and the same as a zip; owned */
    swin_config config;
    swin_weights weights;
    char sha[SWIN_SHA256_HEX];
} swin_calib_set;

/* `images` pictures in the split "train"; the zip is left empty unless asked for: it holds all of them in memory. The log falls
 * silent. */
void swin_calib_set_make(swin_calib_set *x, const char *name, int images, bool zip);
void swin_calib_set_free(swin_calib_set *x);

/* The folder's first `images`, batches of 8 on 2 threads, percentile 99.99, no recovery. */
swin_calib_opts swin_calib_set_opts(const swin_calib_set *x, size_t images, swin_int8_mode mode);

/* swin_calib_run on the cpu backend. */
swin_status swin_calib_set_run(swin_calib_set *x, swin_calib_file *f, const swin_calib_opts *o);

/* The bytes that f is written as; caller frees. */
unsigned char *swin_calib_set_bytes(const swin_calib_set *x, const swin_calib_file *f, size_t *n);

#endif
