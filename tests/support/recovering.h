/* tests/support/recovering.h - a small trained-like network with pictures to learn from and others to judge by, for tests of
 * accuracy recovery. Failures end the test. */
#ifndef SWIN_TESTS_RECOVERING_H
#define SWIN_TESTS_RECOVERING_H

#include "calib/run.h"
#include "quant/sim.h"

enum { RECOVERING_IMAGES = 30, RECOVERING_PROBES = 16, RECOVERING_CLASSES = 5 };

typedef struct recovering {
    char *folder;
    swin_config config;
    swin_weights weights;
    float *probes; /* [PROBES][3][S][S] */
    float fp32[RECOVERING_PROBES * RECOVERING_CLASSES];
    swin_dev *dev;
    const char *backend; /* that calibrates; NULL: cpu */
} recovering;

void recovering_setup(recovering *x, swin_family family);
void recovering_setup_of(recovering *x, const swin_config *c); /* RECOVERING_CLASSES classes */
void recovering_teardown(recovering *x);

/* Logits of the probes by the float network; f: with its factors. NULL: none. */
void recovering_float(recovering *x, const swin_weights *w, const swin_calib_file *f, float *logits);

/* Options of a calibration on the pictures. */
swin_calib_opts recovering_options(const recovering *x, const char *recover, swin_int8_mode mode);
void recovering_calibrate(recovering *x, swin_calib_file *f, const swin_calib_opts *o);

/* The network's weights with the file's corrections, by way of the file. */
void recovering_correct(recovering *x, const swin_calib_file *f, swin_weights *w);

/* SQNR of the probes' logits by int8-sim against fp32: with a file, and with one made by methods. */
double recovering_sqnr(recovering *x, const swin_calib_file *f);
double recovering_result(recovering *x, const char *recover, swin_int8_mode mode);
/* The same of a backend's integer network. */
double recovering_engine_sqnr(recovering *x, const swin_calib_file *f, const char *backend);

/* One file, to the byte, whatever batch and threads. */
void recovering_one_file(recovering *x, const char *recover, swin_int8_mode mode);

#endif
