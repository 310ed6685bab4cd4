/* runtime/main_bench.h - what swin-bench's files share. Private to them. */
#ifndef SWIN_MAIN_BENCH_H
#define SWIN_MAIN_BENCH_H

#include <stdbool.h>
#include <stddef.h>

#include "quant/calib_file.h"
#include "runtime/base/field.h"
#include "runtime/swin/net.h"
#include "runtime/swin/plan.h"
#include "runtime/swin/session.h"

typedef struct bench_options {
    swin_common common;
    const char *precision, *batch_size, *split, *calib, *weight_granularity;
    int chunk, limit, int8_mode;
    bool observers, kinds, floors, no_graph, tune, csv;
    double seconds;
} bench_options;

typedef struct bench {
    const bench_options *o;
    swin_session model;     /* without a device: each precision opens its own */
    swin_calib_file calib;  /* owned; no sites without --calib */
    swin_weights corrected; /* owned: the checkpoint's as the calibration file changes them, for INT8 */
    bool engine_shown;
    int rows; /* results printed */
} bench;

/* One precision on its own device, at one batch size. Times in seconds. */
typedef struct bench_run {
    const char *precision;
    swin_dev *dev;
    const swin_ops *ops;
    swin_net *net;
    const swin_weights *weights; /* borrowed */
    swin_net_opts net_opts;
    swin_plan plan; /* int8: what net_opts.plan points to */
    float *images;  /* device */
    int batch;
    double median, p99;       /* of passes one at a time */
    double each;              /* of a pass among many queued */
    size_t free_before, used; /* device memory, bytes; used: the network, its activations and the images */
    double observed;          /* a pass with observers at every site; 0: not measured */
    double floor_bytes,
        floor_ops; /* the least time for its memory traffic and its products; 0: not measured */
} bench_run;

/* main_bench_model.c: what is timed. Close also after a failure. */
swin_status bench_model_open(bench *b);
void bench_model_close(bench *b);
/* r's plan and options for INT8, and its weights where the calibration file changes them. */
swin_status bench_int8(bench *b, bench_run *r);

/* main_bench_kinds.c: each kind of operator timed by itself. */
swin_status bench_kinds(bench *b, bench_run *r);

/* main_bench_extra.c: the other measurements on request. */
swin_status bench_observers(bench *b, bench_run *r);
swin_status bench_floors(bench *b, bench_run *r);
swin_status bench_tune(bench *b, bench_run *r);
swin_status bench_pipeline(bench *b, bench_run *r);

/* main_bench_print.c: rows on stdout as text, CSV or JSON. */
swin_status bench_print_head(const bench *b);
swin_status bench_print(bench *b, const bench_run *r);
/* One named number beside the rows: a kind's time, a stage's share. unit: "ms", "images/s"... */
void bench_print_extra(bench *b, const bench_run *r, const char *what, double value, const char *unit);
swin_status bench_print_end(const bench *b);

#endif
