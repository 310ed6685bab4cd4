/* calib/run.h - the calibration run: images through the float network, statistics, ranges, scales. */
#ifndef SWIN_CALIB_RUN_H
#define SWIN_CALIB_RUN_H

#include "calib/auto.h"
#include "calib/calibrator.h"
#include "calib/recover.h"
#include "data/loader.h"
#include "quant/calib_file.h"

typedef struct swin_calib_opts {
    const char *data_path, *split;
    size_t images; /* num-calib-batch * calib-batchsz */
    int batch, threads;
    swin_sample sample;
    uint64_t seed;
    bool strict;
    swin_int8_mode mode;
    swin_hist_kind histogram;
    const swin_calibrator *calibrator;
    swin_calibrator_opts calibrator_opts;
    unsigned recover;         /* methods, of swin_recover_choose */
    const char *recover_name; /* as the user named them; NULL: none */
    size_t auto_images;       /* --int8-mode auto: images to hold back, besides `images`; 0: not auto */
    swin_auto_limit limit;    /* of auto */
} swin_calib_opts;

typedef struct swin_calib_timing {
    double open_s, observe_s, recover_s, auto_s; /* printed, never stored */
    int looks;                                   /* at images, that observe_s is the sum of */
    char recover_parts[256];                     /* of recover_s, in words; "": no recovery */
} swin_calib_timing;

/* Fill f (created here). c and w describe the checkpoint; sha its hash. */
swin_status swin_calib_run(swin_calib_file *f, swin_dev *dev, const swin_config *c, const swin_weights *w,
                           const char *checkpoint_sha256, const swin_calib_opts *o, swin_calib_timing *t);

/* The weights' ranges in f->weights, per tensor and per output channel, from their values. */
swin_status swin_calib_weight_ranges(swin_calib_file *f, const swin_weights *w);

#endif
