/* runtime/swin/eval_report.h - the outcome of an evaluation, and its four forms: text, JSON, CSV, HTML.
 *
 * A report holds no clock time, path or host name: the same model, images and options give the same bytes.
 * JSON keys: DESIGN.md section 2 (`results.<precision>.{top1,top5,agreement,sqnr_db,images}`, percent and
 * decibels), and beside them `top1_drop`, `top5_drop` (points below FP16; null when FP16 did not run),
 * `nonfinite` (images with a NaN or an infinite logit) and `emulated`. sqnr_db is null for fp32 (the
 * reference), where there is no error at all, and where it is undefined because nonfinite > 0.
 */
#ifndef SWIN_SWIN_EVAL_REPORT_H
#define SWIN_SWIN_EVAL_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "runtime/base/status.h"
#include "runtime/swin/accuracy.h"
#include "runtime/swin/config.h"
#include "runtime/swin/layers.h"
#include "runtime/swin/site.h"

#define SWIN_EVAL_ROWS_MAX 8

typedef struct swin_eval_row {
    const char *precision; /* "fp32", "fp16", "bf16", "int8", "int8-sim" */
    bool emulated;         /* simulated by rounding in float32: its speed means nothing, its accuracy does */
    bool listed;           /* asked for; otherwise it ran because something is measured against it */
    swin_accuracy acc;
} swin_eval_row;

/* A quantized site's part in int8-sim's error (quant/site_error.h). */
typedef struct swin_eval_site {
    swin_site site;
    double alone_db;       /* logits, when nothing else is quantized */
    double accumulated_db; /* the tensor there, when everything is; NaN for weights */
    double share;          /* percent of the sum of all sites' errors alone */
} swin_eval_site;

/* Where the INT8 scales came from; strings of the calibration file. */
typedef struct swin_eval_calib {
    int int8_mode;
    const char *calibrator, *histogram, *recover, *granularity;
    double percentile;
    uint64_t images;
    const char *image_list_sha256;
} swin_eval_calib;

typedef struct swin_eval_skipped {
    const char *name, *reason;
} swin_eval_skipped;

/* Everything a report says. Pointers are borrowed. */
typedef struct swin_eval_report {
    const swin_config *config;
    const char *checkpoint_sha256, *engine, *preprocess, *split, *image_list_sha256;
    const swin_eval_calib *calib; /* NULL without INT8 */
    uint64_t images, jpeg_warnings;
    swin_eval_row rows[SWIN_EVAL_ROWS_MAX]; /* row 0 is fp32, the reference */
    int nrows;
    const swin_eval_skipped *skipped; /* images left out */
    size_t nskipped;
    const swin_layers *layers;   /* engine i is row i; NULL without --layers */
    const swin_eval_site *sites; /* [nsites]; NULL without --layers or int8-sim */
    int nsites, site_images;     /* images that they were measured on */
} swin_eval_report;

/* The table for people: acc@1, acc@5, for INT8 with the difference against FP16 in brackets... */
void swin_eval_report_text(const swin_eval_report *r, FILE *out);
/* JSON text, owned by the caller; NULL: no memory. */
char *swin_eval_report_json(const swin_eval_report *r);
/* One line per precision under a header line; RFC 4180 quoting. */
void swin_eval_report_csv(const swin_eval_report *r, FILE *out);
/* One page that needs no other file. */
void swin_eval_report_html(const swin_eval_report *r, FILE *out);

/* Write `path` in the form that its ending names, atomically. SWIN_ERR_USAGE for any ending but .json, .csv,
 * .html. */
swin_status swin_eval_report_write(const swin_eval_report *r, const char *path);
/* The same check alone, before any work is done. */
swin_status swin_eval_report_check_path(const char *path);

/* The row of that precision; NULL when it did not run. */
const swin_eval_row *swin_eval_report_row(const swin_eval_report *r, const char *precision);

/*
 * SWIN_ERR_LIMIT when a listed precision (other than fp16 and fp32) lost more than max_drop points of top-1
 * against FP16, or a listed one (other than fp32) agrees with fp32 on less than min_agreement percent: the
 * message says which and by how much. 100 and 0 are no limits. SWIN_ERR_VALUE, naming the precision, when
 * logits were not finite.
 */
swin_status swin_eval_report_judge(const swin_eval_report *r, double max_drop, double min_agreement);

#endif
