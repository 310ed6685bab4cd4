/* data/loader.h - a data set as a stream of batches, read, decoded and resized ahead by worker threads.
 *
 * Order and bytes do not depend on the number of workers or the queue's depth. A file that cannot be
 * decoded is named, counted and left out (strict: it ends the stream with an error), and the next one takes
 * its place in the batch.
 */
#ifndef SWIN_DATA_LOADER_H
#define SWIN_DATA_LOADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "data/dataset.h"
#include "data/image.h"
#include "runtime/base/sha256.h"

typedef struct swin_loader swin_loader;

typedef struct swin_loader_opts {
    const size_t *indices; /* positions in the data set, in the order wanted; copied. NULL: all of it */
    size_t count;          /* of indices; with NULL: the first `count`, 0 for all */
    int batch;             /* images in a batch; the last one may be smaller */
    int workers;           /* decoding threads; 0: one for each processor */
    int ahead;             /* images decoded ahead of the consumer; 0: two batches or two for each worker */
    bool strict;
    bool u8; /* give cropped pixels [n][S][S][3] instead of normalised float32 [n][3][S][S] */
    swin_preprocess preprocess;
} swin_loader_opts;

typedef struct swin_batch {
    int n;               /* images; 0: the stream has ended */
    const float *pixels; /* [n][3][S][S] float32, NULL with u8. Valid until the next call */
    const uint8_t *u8;   /* [n][S][S][3], NULL without u8 */
    const int *labels;   /* [n] */
    const size_t *index; /* [n] positions in the data set */
} swin_batch;

typedef struct swin_loader_report {
    size_t images;                           /* delivered */
    size_t warnings;                         /* of them, with recoverable JPEG faults */
    size_t broken;                           /* left out */
    const size_t *broken_index;              /* [broken] positions in the data set, in order; the loader's */
    const char *const *broken_reason;        /* [broken] */
    char image_list_sha256[SWIN_SHA256_HEX]; /* over each delivered image, in order: its label (8 bytes,
                                                little-endian) and the SHA-256 of its file; complete
                                                only at the end of the stream */
} swin_loader_report;

/* ds must outlive the loader. */
swin_status swin_loader_open(swin_loader **l, swin_dataset *ds, const swin_loader_opts *opts);
swin_status swin_loader_next(swin_loader *l, swin_batch *b);
swin_status swin_loader_report_get(swin_loader *l, swin_loader_report *r);
void swin_loader_close(swin_loader *l); /* stops the workers; NULL is fine */

#endif
