/* swin-bench - latency and throughput of the float and the integer network, against what the machine could do at best. */
#include "runtime/main_bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quant/plan.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/rng.h"

#define F(member, kind, lo, hi, arg, help, choices)                                                          \
    {                                                                                                        \
        .name = #member, SWIN_FIELD_##kind, offsetof(bench_options, member), lo, hi, arg, help, choices      \
    }

static const swin_field fields[] = {
    { "Measuring:", SWIN_FIELD_HEADING, 0, 0, 0, NULL, NULL, NULL },
    F(precision, LIST, 0, 0, "LIST",
      "what to time, separated by commas; tf32 is float32 with TF32 products (cuda)",
      "fp32|tf32|fp16|bf16|int8"),
    F(int8_mode, INT, 1, 3, "MODE",
      "of int8 without --calib: which tensors are rounded; their ranges are made up, time does not depend on "
      "them",
      NULL),
    F(calib, STR, 0, 0, "FILE.h5", "int8: the network of this calibration file, with --resume its checkpoint",
      NULL),
    F(weight_granularity, CHOICE, 0, 0, "NAME",
      "with --calib: one weight scale for each output channel, or one per tensor", "channel|tensor"),
    F(batch_size, STR, 0, 0, "LIST", "images in a forward pass, separated by commas", NULL),
    F(seconds, DOUBLE, 0.01, 600, "S", "how long to time each precision and batch size", NULL),
    F(observers, BOOL, 0, 0, NULL, "also time a pass that observes every site, as calibration does", NULL),
    F(kinds, BOOL, 0, 0, NULL, "also time each kind of operator, one by one (their sum exceeds the whole)",
      NULL),
    F(floors, BOOL, 0, 0, NULL,
      "also measure copies and a large product, and print the share of them reached", NULL),
    F(chunk, INT, 0, 4096, "N", "images that a stage works on at once; 0: the backend's choice", NULL),
    F(no_graph, BOOL, 0, 0, NULL, "launch every kernel anew instead of replaying a recorded pass", NULL),
    F(tune, BOOL, 0, 0, NULL,
      "first find the fastest tile for every product here, and remember it for this GPU", NULL),
    F(split, STR, 0, 0, "NAME", "with --data-path: which part of the data set", NULL),
    F(limit, INT, 0, 2147483647, "N", "with --data-path: only the first N images; 0 for all", NULL),
    F(csv, BOOL, 0, 0, NULL, "results on stdout as CSV", NULL),
    SWIN_COMMON_FIELDS(bench_options),
    { "Of older toolkits:", SWIN_FIELD_HEADING, 0, 0, 0, NULL, NULL, NULL },
    SWIN_LEGACY_FIELDS,
};

static const swin_program program = { "swin-bench",
                                      "latency, throughput and memory for each precision and batch size; "
                                      "with --data-path from JPEG to logits. Without "
                                      "--resume the weights are random: time does not depend on them",
                                      fields, SWIN_COUNT(fields), NULL };

/* ---- lists ------------------------------------------------------------------------------------------------------ */

/* Words of a comma-separated list. */
static bool next_word(const char **at, char word[16])
{
    while (**at == ',') (*at)++;
    const size_t n = strcspn(*at, ",");
    if (n == 0) return false;
    snprintf(word, 16, "%.*s", (int)(n < 15 ? n : 15), *at);
    *at += n;
    return true;
}

static swin_status next_batch(const char **at, int *batch)
{
    char word[16], *end;
    *batch = 0;
    if (!next_word(at, word)) return SWIN_OK;
    const long v = strtol(word, &end, 10);
    if (*end || v < 1 || v > 4096)
        return swin_fail(SWIN_ERR_USAGE, "--batch-size: '%s' is not a number from 1 to 4096", word);
    *batch = (int)v;
    return SWIN_OK;
}

/* ---- one precision --------------------------------------------------------------------------------------------- */

static swin_status open_precision(bench *b, bench_run *r)
{
    const swin_common *c = &b->o->common;
    const swin_dev_opts dev = { .device = c->device,
                                .threads = c->threads,
                                .tf32 = c->tf32 || strcmp(r->precision, "tf32") == 0 };
    SWIN_TRY(swin_dev_open(&r->dev, c->backend, &dev));
    r->ops = r->dev->ops;
    if (dev.tf32 && strcmp(r->ops->name, "cuda") != 0)
        return swin_fail(SWIN_ERR_UNSUPPORTED, "--precision tf32: only the cuda backend has it, not %s",
                         r->ops->name);
    if (r->ops->memory) {
        size_t total;
        SWIN_TRY(r->ops->memory(r->dev, &r->free_before, &total));
    }
    r->net_opts = (swin_net_opts){ .dtype = strcmp(r->precision, "fp16") == 0   ? SWIN_F16
                                            : strcmp(r->precision, "bf16") == 0 ? SWIN_BF16
                                                                                : SWIN_F32,
                                   .chunk = b->o->chunk,
                                   .no_graph = b->o->no_graph };
    r->weights = &b->model.weights;
    if (strcmp(r->precision, "int8") == 0) SWIN_TRY(bench_int8(b, r));
    return swin_net_create(&r->net, r->dev, &b->model.config, r->weights, &r->net_opts);
}

static void close_precision(bench_run *r)
{
    swin_plan_free(&r->plan);
    if (r->images) r->ops->free(r->dev, r->images);
    swin_net_free(r->net);
    swin_dev_close(r->dev);
    r->images = NULL, r->net = NULL, r->dev = NULL;
}

static swin_status put_images(const bench *b, bench_run *r)
{
    const size_t n = (size_t)r->batch * (size_t)b->model.config.in_chans *
                     (size_t)b->model.config.image_size * (size_t)b->model.config.image_size;
    void *p;
    if (r->images) r->ops->free(r->dev, r->images);
    r->images = NULL;
    float *host = malloc(n * sizeof *host);
    if (!host) return swin_fail(SWIN_ERR_MEM, "no memory for %d images", r->batch);
    swin_rng rng = { 21 };
    for (size_t i = 0; i < n; i++) host[i] = (float)(4 * swin_rng_uniform(&rng) - 2);
    swin_status st = r->ops->alloc(r->dev, &p, n * sizeof *host);
    if (st == SWIN_OK) {
        r->images = p;
        st = r->ops->upload(r->dev, p, host, n * sizeof *host);
    }
    free(host);
    return st;
}

static swin_status forward(bench_run *r)
{
    swin_tensor logits;
    return swin_net_forward_device(r->net, r->images, r->batch, &logits, NULL);
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* One pass at a time, waited for: latency. Then passes queued back to back: throughput. */
static swin_status time_forward(const bench *b, bench_run *r)
{
    enum { MOST = 20000 };
    double *times = malloc(MOST * sizeof *times);
    if (!times) return swin_fail(SWIN_ERR_MEM, "no memory for the timings");
    swin_status st = SWIN_OK;
    for (int i = 0; i < 3 && st == SWIN_OK; i++) st = forward(r); /* memory, recording, first replay */
    if (st == SWIN_OK) st = r->ops->sync(r->dev);
    int n = 0;
    const double begin = swin_now(), half = b->o->seconds / 2;
    while (st == SWIN_OK && n < MOST && (n < 3 || swin_now() - begin < half)) {
        const double t = swin_now();
        st = forward(r);
        if (st == SWIN_OK) st = r->ops->sync(r->dev);
        times[n++] = swin_now() - t;
        if (st == SWIN_OK) st = swin_check_interrupt();
    }
    if (st == SWIN_OK) {
        qsort(times, (size_t)n, sizeof *times, by_value);
        r->median = times[n / 2];
        r->p99 = times[n - 1 - n / 100];
        const int passes = n < 10 ? n : (int)(half / r->median) + 1;
        const double t = swin_now();
        for (int i = 0; i < passes && st == SWIN_OK; i++) st = forward(r);
        if (st == SWIN_OK) st = r->ops->sync(r->dev);
        r->each = (swin_now() - t) / passes;
    }
    free(times);
    return st;
}

static swin_status measure(bench *b, bench_run *r)
{
    SWIN_TRY(put_images(b, r));
    if (b->o->tune) SWIN_TRY(bench_tune(b, r));
    SWIN_TRY(time_forward(b, r));
    if (r->ops->memory) {
        size_t left, total;
        SWIN_TRY(r->ops->memory(r->dev, &left, &total));
        r->used = r->free_before > left ? r->free_before - left : 0;
    }
    if (b->o->observers) SWIN_TRY(bench_observers(b, r));
    if (b->o->floors) SWIN_TRY(bench_floors(b, r));
    return bench_print(b, r);
}

static swin_status run_precision(bench *b, const char *precision)
{
    bench_run r = { .precision = precision };
    swin_status st = open_precision(b, &r);
    if (st == SWIN_OK && !b->engine_shown) {
        char engine[512];
        r.ops->engine(r.dev, engine, sizeof engine);
        swin_note("%s: %s", b->model.config.name, engine);
        b->engine_shown = true;
    }
    if (st == SWIN_OK && b->o->common.data_path) {
        st = bench_pipeline(b, &r);
    } else {
        const char *at = b->o->batch_size;
        while (st == SWIN_OK) {
            st = next_batch(&at, &r.batch);
            if (st != SWIN_OK || r.batch == 0) break;
            st = measure(b, &r);
            if (st == SWIN_OK && b->o->kinds) st = bench_kinds(b, &r);
        }
    }
    close_precision(&r);
    return st;
}

/* Every batch size is looked at before anything is loaded. */
static swin_status check_batches(const char *list)
{
    int batch, n = 0;
    do {
        SWIN_TRY(next_batch(&list, &batch));
        n += batch > 0;
    } while (batch);
    return n ? SWIN_OK : swin_fail(SWIN_ERR_USAGE, "--batch-size: at least one size is needed");
}

static swin_status run(bench *b)
{
    SWIN_TRY(check_batches(b->o->batch_size));
    if (b->o->observers && strstr(b->o->precision, "int8"))
        return swin_fail(SWIN_ERR_USAGE, "--observers: they watch float networks, not int8");
    SWIN_TRY(bench_model_open(b));
    SWIN_TRY(bench_print_head(b));
    char word[16];
    for (const char *at = b->o->precision; next_word(&at, word);) SWIN_TRY(run_precision(b, word));
    return bench_print_end(b);
}

int main(int argc, char **argv)
{
    bench_options o = { .common = SWIN_COMMON_DEFAULTS,
                        .precision = "fp32",
                        .batch_size = "1,8,64",
                        .split = "val",
                        .weight_granularity = "channel",
                        .seconds = 2,
                        .int8_mode = 3 };
    const swin_status parsed = swin_fields_parse(&program, &o, argc, argv, NULL, NULL);
    if (parsed != SWIN_OK) return swin_report(parsed);
    swin_common_apply(&o.common);
    swin_catch_interrupts();
    bench b = { .o = &o };
    const swin_status st = run(&b);
    bench_model_close(&b);
    return swin_report(st);
}
