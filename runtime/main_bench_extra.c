/* swin-bench's measurements on request: observers, floors, tuning, the pipeline from JPEG to logits. */
#include <stdlib.h>
#include <string.h>

#include "calib/stats.h"
#include "data/loader.h"
#include "runtime/base/file.h"
#include "runtime/base/half.h"
#include "runtime/base/log.h"
#include "runtime/base/rng.h"
#include "runtime/main_bench.h"

/* ---- observers ------------------------------------------------------------------------------------------------- */

static swin_status time_tapped(const bench *b, bench_run *r, const swin_tap *tap)
{
    swin_tensor logits;
    int passes = 0;
    SWIN_TRY(
        swin_net_forward_device(r->net, r->images, r->batch, &logits, tap)); /* ranges settle, memory grows */
    SWIN_TRY(r->ops->sync(r->dev));
    const double start = swin_now();
    while (passes < 3 || swin_now() - start < b->o->seconds / 2) {
        SWIN_TRY(swin_net_forward_device(r->net, r->images, r->batch, &logits, tap));
        SWIN_TRY(r->ops->sync(r->dev));
        passes++;
    }
    r->observed = (swin_now() - start) / passes;
    return SWIN_OK;
}

swin_status bench_observers(bench *b, bench_run *r)
{
    swin_stats *seen;
    SWIN_TRY(swin_stats_create(&seen, r->dev, &b->model.config, SWIN_HIST_EXACT));
    const swin_tap tap = swin_stats_tap(seen);
    const swin_status st = time_tapped(b, r, &tap);
    swin_stats_free(seen);
    return st;
}

/* ---- floors ---------------------------------------------------------------------------------------------------- */

/* Fewest bytes of a pass: images read, the residual stream read and written once by each half block and merge, weights
 * read once. */
static double least_bytes(const bench *b, const bench_run *r)
{
    const swin_config *c = &b->model.config;
    const double unit = r->ops->native_half ? (double)swin_dtype_size(r->net_opts.dtype) : 4;
    double each = 4.0 * c->in_chans * c->image_size * c->image_size;
    for (int i = 0; i < c->num_stages; i++) {
        const swin_stage s = swin_config_stage(c, i);
        const double map = unit * s.resolution * s.resolution * s.channels;
        each += map *
                (1 + 4 * s.depth + 1); /* made, both halves of each block, taken by the merge or the pool */
    }
    return each * r->batch + (r->net_opts.plan ? 1 : unit) * (double)b->model.weights.count;
}

/* Multiply-adds of the products, times two. */
static double operations(const bench *b, const bench_run *r)
{
    const swin_config *c = &b->model.config;
    double each = 0;
    for (int i = 0; i < c->num_stages; i++) {
        const swin_stage s = swin_config_stage(c, i);
        const double t = (double)s.resolution * s.resolution, d = s.channels;
        if (i == 0) each += t * d * c->in_chans * c->patch_size * c->patch_size;
        each += s.depth * t * (4 * d * d + 2 * d * s.hidden + 2.0 * s.window * s.window * d);
        each += s.merge ? t / 4 * 4 * d * 2 * d : d * c->num_classes;
    }
    return 2 * each * r->batch;
}

/* Bytes a second of a large copy, read and written. */
static swin_status copy_rate(bench_run *r, size_t bytes, double *rate)
{
    void *a = NULL, *c = NULL;
    swin_status st = r->ops->alloc(r->dev, &a, bytes);
    if (st == SWIN_OK) st = r->ops->alloc(r->dev, &c, bytes);
    double best = 1e30;
    for (int i = 0; i < 6 && st == SWIN_OK; i++) {
        const double t = swin_now();
        for (int k = 0; k < 4 && st == SWIN_OK; k++)
            st = r->ops->copy(r->dev, k % 2 ? a : c, k % 2 ? c : a, bytes);
        if (st == SWIN_OK) st = r->ops->sync(r->dev);
        if (i && swin_now() - t < best) best = swin_now() - t;
    }
    r->ops->free(r->dev, a);
    r->ops->free(r->dev, c);
    *rate = 4 * 2 * (double)bytes / best;
    return st;
}

static swin_status product(bench_run *r, const swin_linear *l, void *x, void *y, int n, double *rate)
{
    const swin_dtype t = r->ops->native_half ? r->net_opts.dtype : SWIN_F32;
    const swin_tensor in = swin_matrix(x, t, n, n);
    swin_tensor out = swin_matrix(y, t, n, n);
    double best = 1e30;
    for (int i = 0; i < 5; i++) {
        const double start = swin_now();
        SWIN_TRY(r->ops->linear(r->dev, &out, &in, l, false, SWIN_ACT_NONE));
        SWIN_TRY(r->ops->sync(r->dev));
        if (i && swin_now() - start < best) best = swin_now() - start;
    }
    *rate = 2.0 * n * n * n / best;
    return SWIN_OK;
}

/* Operations a second of a large square product of this precision, random numbers. */
static swin_status product_rate(bench_run *r, int n, double *rate)
{
    const size_t count = (size_t)n * (size_t)n;
    const swin_dtype t = r->ops->native_half ? r->net_opts.dtype : SWIN_F32;
    float *w = malloc(count * sizeof *w);
    void *x = NULL, *y = NULL;
    swin_linear l = { 0 };
    swin_rng rng = { 22 };
    if (!w) return swin_fail(SWIN_ERR_MEM, "no memory for a product of %d", n);
    for (size_t i = 0; i < count; i++) w[i] = (float)(swin_rng_uniform(&rng) - 0.5);
    swin_status st = r->ops->linear_prepare(r->dev, &l, w, NULL, n, n, t);
    if (st == SWIN_OK) st = r->ops->alloc(r->dev, &x, count * sizeof *w);
    if (st == SWIN_OK) st = r->ops->alloc(r->dev, &y, count * sizeof *w);
    if (t != SWIN_F32) { /* in place: the narrow numbers never overtake the wide ones */
        uint16_t *narrow = (uint16_t *)(void *)w;
        for (size_t i = 0; i < count; i++) {
            const float v = w[i];
            narrow[i] = t == SWIN_F16 ? swin_f32_to_f16(v) : swin_f32_to_bf16(v);
        }
    }
    if (st == SWIN_OK) st = r->ops->upload(r->dev, x, w, count * swin_dtype_size(t));
    if (st == SWIN_OK) st = product(r, &l, x, y, n, rate);
    r->ops->linear_release(r->dev, &l);
    r->ops->free(r->dev, x);
    r->ops->free(r->dev, y);
    free(w);
    return st;
}

/* The same of codes. Half of them lie on either side of zero. */
static swin_status product_rate_s8(bench_run *r, int n, double *rate)
{
    const size_t count = (size_t)n * (size_t)n;
    int8_t *codes = malloc(count);
    float *scale = calloc((size_t)n, sizeof *scale);
    void *x = NULL, *y = NULL;
    swin_linear l = { 0 };
    swin_rng rng = { 22 };
    swin_status st = codes && scale ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "no memory for a product of %d", n);
    for (size_t i = 0; st == SWIN_OK && i < count; i++)
        codes[i] = (int8_t)((int)swin_rng_below(&rng, 255) - 127);
    for (int i = 0; st == SWIN_OK && i < n; i++) scale[i] = 1e-3f;
    if (st == SWIN_OK) st = r->ops->linear_s8_prepare(r->dev, &l, codes, scale, NULL, n, n, 0);
    if (st == SWIN_OK) st = r->ops->alloc(r->dev, &x, count);
    if (st == SWIN_OK) st = r->ops->alloc(r->dev, &y, count);
    if (st == SWIN_OK) st = r->ops->upload(r->dev, x, codes, count);
    swin_tensor in = swin_matrix(x, SWIN_S8, n, n), out = swin_matrix(y, SWIN_S8, n, n);
    in.scale = out.scale = 1e-2f, in.qmin = out.qmin = -127, in.qmax = out.qmax = 127;
    double best = 1e30;
    for (int i = 0; i < 5 && st == SWIN_OK; i++) {
        const double start = swin_now();
        st = r->ops->linear_s8(r->dev, &out, 1, &in, &l, 0, SWIN_ACT_NONE);
        if (st == SWIN_OK) st = r->ops->sync(r->dev);
        if (i && swin_now() - start < best) best = swin_now() - start;
    }
    *rate = 2.0 * n * n * n / best;
    r->ops->linear_release(r->dev, &l);
    r->ops->free(r->dev, x);
    r->ops->free(r->dev, y);
    free(codes), free(scale);
    return st;
}

swin_status bench_floors(bench *b, bench_run *r)
{
    const bool gpu = r->ops->native_half;
    double bytes = 0, ops = 0;
    SWIN_TRY(copy_rate(r, (size_t)(gpu ? 1024 : 64) << 20, &bytes));
    const bool integer = r->net_opts.plan != NULL;
    SWIN_TRY((integer ? product_rate_s8 : product_rate)(r, gpu ? 8192 : integer ? 1536 : 768, &ops));
    bench_print_extra(b, r, "copy", bytes / 1e9, "GB/s");
    bench_print_extra(b, r, "large product", ops / 1e12, integer ? "TOP/s" : "TFLOP/s");
    r->floor_bytes = least_bytes(b, r) / bytes;
    r->floor_ops = operations(b, r) / ops;
    return SWIN_OK;
}

/* ---- tuning ---------------------------------------------------------------------------------------------------- */

swin_status bench_tune(bench *b, bench_run *r)
{
    (void)b;
    swin_tensor logits;
    if (!r->ops->tune) {
        swin_note("--tune: nothing to choose on the %s backend", r->ops->name);
        return SWIN_OK;
    }
    SWIN_TRY(r->ops->tune(r->dev, true));
    const swin_status st = swin_net_forward_device(r->net, r->images, r->batch, &logits, NULL);
    const swin_status off = r->ops->tune(r->dev, false);
    return st != SWIN_OK ? st : off;
}

/* ---- the pipeline ---------------------------------------------------------------------------------------------- */

typedef struct stages {
    /* Seconds: for the decoders, for copies and the network, until the first batch was done. */
    double waiting, running, first;
    size_t images;
} stages;

static swin_status fetch(bench_run *r, float *logits, size_t images, stages *s)
{
    SWIN_TRY(swin_net_fetch(r->net, logits));
    s->images += images;
    return swin_check_interrupt();
}

/* One batch is in the network while the next is waited for and copied. */
static swin_status stream(bench_run *r, swin_loader *l, float *logits, stages *s)
{
    swin_batch batch;
    size_t before = 0; /* images of the batch in flight */
    const double start = swin_now();
    for (;;) {
        const double a = swin_now();
        SWIN_TRY(swin_loader_next(l, &batch));
        const double c = swin_now();
        if (batch.n) SWIN_TRY(swin_net_queue(r->net, batch.pixels, batch.n));
        if (before) SWIN_TRY(fetch(r, logits, before, s));
        const double e = swin_now();
        if (s->first == 0 && before) s->first = e - start;
        s->waiting += c - a, s->running += e - c;
        if (batch.n == 0) return SWIN_OK;
        before = (size_t)batch.n;
    }
}

static swin_status time_stream(bench *b, bench_run *r, swin_dataset *ds)
{
    const swin_config *c = &b->model.config;
    const swin_loader_opts opts = { .count = (size_t)b->o->limit,
                                    .batch = r->batch,
                                    .workers = b->o->common.threads,
                                    .strict = b->o->common.strict,
                                    .preprocess = { .size = c->image_size, .crop = c->test_crop } };
    swin_loader *l = NULL;
    stages s = { 0 };
    float *logits = malloc((size_t)r->batch * (size_t)c->num_classes * sizeof *logits);
    swin_status st = logits ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "no memory for logits");
    if (st == SWIN_OK) st = swin_loader_open(&l, ds, &opts);
    const double start = swin_now();
    if (st == SWIN_OK) st = stream(r, l, logits, &s);
    const double total = swin_now() - start;
    swin_loader_close(l);
    free(logits);
    if (st != SWIN_OK) return st;
    if (s.images == 0) return swin_fail(SWIN_ERR_VALUE, "--data-path: no image could be read");
    bench_print_extra(b, r, "images", (double)s.images, "images");
    bench_print_extra(b, r, "JPEG to logits", (double)s.images / total, "images/s");
    bench_print_extra(b, r, "total", total, "s");
    bench_print_extra(b, r, "first batch", s.first, "s");
    bench_print_extra(b, r, "waiting for decoders", s.waiting, "s");
    bench_print_extra(b, r, "copies and network", s.running, "s");
    bench_print_extra(b, r, s.waiting > s.running ? "limited by: decoding" : "limited by: network",
                      100 * (s.waiting > s.running ? s.waiting : s.running) / (s.waiting + s.running + 1e-9),
                      "% of time");
    return SWIN_OK;
}

swin_status bench_pipeline(bench *b, bench_run *r)
{
    swin_dataset *ds = NULL;
    SWIN_TRY(swin_dataset_open(&ds, b->o->common.data_path, b->o->split));
    swin_status st = SWIN_OK;
    for (const char *at = b->o->batch_size; st == SWIN_OK && *at;) {
        char *end;
        const long batch = strtol(at, &end, 10);
        if (batch < 1 || batch > 4096 || (*end && *end != ','))
            st = swin_fail(SWIN_ERR_USAGE, "--batch-size: '%s' is not a list of numbers from 1 to 4096", at);
        r->batch = (int)batch;
        at = *end == ',' ? end + 1 : end;
        if (st == SWIN_OK) st = time_stream(b, r, ds);
    }
    swin_dataset_close(ds);
    return st;
}
