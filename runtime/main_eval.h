/* runtime/main_eval.h - swin-eval's two halves: main_eval.c (flags, results) and main_eval_run.c (networks,
 * images). */
#ifndef SWIN_MAIN_EVAL_H
#define SWIN_MAIN_EVAL_H

#include "data/loader.h"
#include "quant/calib_file.h"
#include "quant/sim.h"
#include "runtime/base/field.h"
#include "runtime/swin/dump.h"
#include "runtime/swin/eval_report.h"
#include "runtime/swin/net.h"
#include "runtime/swin/session.h"

typedef struct eval_options {
    swin_common common;
    const char *calib, *precision, *split, *weight_granularity, *dump, *report;
    int batch_size, limit, dump_images;
    double max_drop, min_agreement;
    bool layers;
} eval_options;

#define EVAL_ENGINES_MAX 5

/* A precision that can be run. */
typedef enum eval_form { EVAL_FLOAT, EVAL_INTEGER, EVAL_SIM } eval_form;

typedef struct eval_kind {
    const char *name;
    eval_form form;   /* all but EVAL_FLOAT need a calibration file */
    swin_dtype dtype; /* of what is float */
} eval_kind;

typedef struct eval_engine {
    const eval_kind *kind;
    bool listed;
    swin_net *net; /* one of the two */
    swin_sim *sim;
    float *logits; /* [batch size][classes] */
    double seconds;
} eval_engine;

/* One evaluation; zeroed but for o. */
typedef struct eval_job {
    const eval_options *o;
    swin_session model;
    swin_calib_file calib;
    swin_weights corrected; /* owned: the checkpoint's as the calibration file changes them, for INT8 */
    swin_dataset *data;
    swin_loader *loader;
    eval_engine engines[EVAL_ENGINES_MAX];
    float *images; /* owned, in the device's memory: a batch, for all engines but simulations */
    int count;     /* engines; 0 is fp32 */
    int active;    /* the one that runs, for the tap */
    swin_layers *layers;
    swin_dump *dump;
    swin_outputs outputs;
    double copying;        /* seconds that copies of images to the device took */
    swin_eval_site *sites; /* owned: of int8-sim, with --layers */
    int nsites, site_images;
    swin_eval_report report;
} eval_job;

/* Decide what runs, from --precision and from what the limits are measured against. Usage errors name the
 * flag. */
swin_status eval_job_choose(eval_job *j);
/* Open model, images, scales, networks, and whatever watches them. */
swin_status eval_job_open(eval_job *j);
/* The pass over the images: fills the report's rows. */
swin_status eval_job_run(eval_job *j);
void eval_job_close(eval_job *j);

#endif
