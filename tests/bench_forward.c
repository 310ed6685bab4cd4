/* Time of the forward on the cpu backend, and where it goes: float32, with and without observers at every site, or int8=MODE
 * beside it.
 *
 *     bench_forward [model=tiny|small|base|large] [batch=8] [threads=2] [repeats=7] [int8=1|2|3] [profile=1] [clock=cpu]
 *                   [resume=CHECKPOINT] [data=DATASET]
 *
 * Weights and images are random unless named: only observing depends on them, a little. With int8, float32 and the integer
 * network run in turns, and int8_speedup is the median of their ratios. Prints one figure a line, which tests/peers/ort_forward.py
 * reads: it runs this program and onnxruntime in turns.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calib/stats.h"
#include "data/loader.h"
#include "quant/plan.h"
#include "runtime/base/rng.h"
#include "runtime/swin/checkpoint.h"
#include "runtime/swin/net.h"
#include "tests/support/bench.h"

typedef struct options {
    const char *model, *resume, *data; /* resume, data: NULL for random ones */
    int batch, threads, repeats, int8;
    bool profile;
} options;

static swin_config config_named(const char *model)
{
    swin_config c = swin_config_default();
    if (strcmp(model, "tiny") != 0) c.depths[2] = 18;
    const int unit = strcmp(model, "base") == 0 ? 4 : strcmp(model, "large") == 0 ? 6 : 3;
    c.embed_dim = 32 * unit;
    for (int i = 0; i < 4; i++) c.heads[i] = unit << i;
    return c;
}

static swin_status fill_images(float *images, size_t pixels, const swin_config *c, const options *o)
{
    swin_rng rng = { 1 };
    for (size_t i = 0; i < pixels; i++) images[i] = (float)swin_rng_normal(&rng);
    if (!o->data) return SWIN_OK;
    swin_dataset *ds;
    swin_loader *l = NULL;
    swin_batch b;
    SWIN_TRY(swin_dataset_open(&ds, o->data, "val"));
    const swin_loader_opts opts = {
        .count = (size_t)o->batch, .batch = o->batch, .workers = 1, .preprocess = { c->image_size, true }
    };
    swin_status st = swin_loader_open(&l, ds, &opts);
    if (st == SWIN_OK) st = swin_loader_next(l, &b);
    if (st == SWIN_OK) memcpy(images, b.pixels, pixels / (size_t)o->batch * (size_t)b.n * sizeof *images);
    swin_loader_close(l);
    swin_dataset_close(ds);
    return st;
}

static swin_status fill_weights(swin_weights *w, swin_config *c, const char *resume)
{
    if (resume) return swin_weights_load(w, c, resume);
    swin_rng rng = { 1 };
    SWIN_TRY(swin_weights_create(w, c));
    for (size_t i = 0; i < w->count; i++) w->block[i] = (float)(0.03 * swin_rng_normal(&rng));
    return SWIN_OK;
}

/* Multiply-adds of one image. */
static double work_of(const swin_config *c)
{
    double sum = 0, side = (double)c->image_size / c->patch_size, d = c->embed_dim;
    sum += side * side * d * 3 * c->patch_size * c->patch_size;
    for (int i = 0; i < c->num_stages; i++) {
        const swin_stage s = swin_config_stage(c, i);
        const double tokens = (double)s.resolution * s.resolution, ch = s.channels,
                     n = (double)s.window * s.window;
        sum += s.depth * tokens * (4 * ch * ch + 2 * ch * s.hidden + 2 * n * ch);
        if (s.merge) sum += tokens / 4 * 8 * ch * ch;
        d = ch;
    }
    return sum + d * c->num_classes;
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef struct runner {
    swin_net *net, *integer; /* integer NULL: not asked for */
    const float *images;
    float *logits;
    const options *o;
} runner;

static double timed_net(const runner *r, swin_net *net, const swin_tap *tap)
{
    const double start = bench_now();
    if (swin_net_forward(net, r->images, r->o->batch, r->logits, tap) != SWIN_OK)
        exit(swin_report(SWIN_ERR_VALUE));
    return bench_now() - start;
}

static double timed(const runner *r, const swin_tap *tap)
{
    return timed_net(r, r->net, tap);
}

static double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, compare_doubles);
    return v[n / 2];
}

static void report(const runner *r, const swin_config *c, const swin_tap *observe)
{
    double plain[64], watched[64], ratio[64];
    const int n = r->o->repeats < 64 ? r->o->repeats : 64;
    timed(r, NULL);
    timed(r, observe);
    for (int i = 0; i < n; i++) { /* in turns: the machine's mood is shared */
        plain[i] = timed(r, NULL);
        watched[i] = timed(r, observe);
        ratio[i] = watched[i] / plain[i];
    }
    const double t = median(plain, n), w = median(watched, n), flops = 2 * work_of(c) * r->o->batch;
    const double peak = bench_fma_peak() * r->o->threads;
    printf("forward_ms %.2f\nimages_per_s %.2f\n", 1e3 * t, r->o->batch / t);
    printf("gflops %.1f\npeak_gflops %.1f\nshare_of_fma_peak %.3f\n", flops / t / 1e9, peak / 1e9,
           flops / t / peak);
    printf("observed_ms %.2f\nobserved_ratio %.3f\n", 1e3 * w, median(ratio, n));
    if (!r->o->profile) return;
    bench_profile_clear();
    for (int i = 0; i < 3; i++) timed(r, NULL);
    bench_profile_print("plain", 3);
    for (int i = 0; i < 3; i++) timed(r, observe);
    bench_profile_print("observed", 3);
}

static void report_integer(const runner *r, const swin_config *c)
{
    double plain[64], integer[64], ratio[64];
    const int n = r->o->repeats < 64 ? r->o->repeats : 64;
    timed(r, NULL);
    timed_net(r, r->integer, NULL);
    for (int i = 0; i < n; i++) {
        plain[i] = timed(r, NULL);
        integer[i] = timed_net(r, r->integer, NULL);
        ratio[i] = plain[i] / integer[i];
    }
    const double t = median(integer, n), ops = 2 * work_of(c) * r->o->batch;
    printf("forward_ms %.2f\nint8_ms %.2f\nint8_speedup %.3f\n", 1e3 * median(plain, n), 1e3 * t,
           median(ratio, n));
    const double peak = bench_s8_peak() * r->o->threads;
    printf("int8_images_per_s %.2f\nint8_gops %.1f\n", r->o->batch / t, ops / t / 1e9);
    printf("int8_peak_gops %.1f\nshare_of_int8_peak %.3f\n", peak / 1e9, ops / t / peak);
    if (!r->o->profile) return;
    bench_profile_clear();
    for (int i = 0; i < 3; i++) timed_net(r, r->integer, NULL);
    bench_profile_print("int8", 3);
}

static swin_status create_integer(swin_net **net, swin_dev *dev, const swin_config *c, const swin_weights *w,
                                  int mode)
{
    swin_plan plan;
    SWIN_TRY(swin_plan_uniform(&plan, c, (swin_int8_mode)mode, 4));
    const swin_status st =
        swin_net_create(net, dev, c, w, &(swin_net_opts){ .dtype = SWIN_F32, .plan = &plan });
    swin_plan_free(&plan);
    return st;
}

static swin_status run(const options *o)
{
    swin_config c = config_named(o->model);
    const size_t pixels = (size_t)o->batch * 3 * (size_t)c.image_size * (size_t)c.image_size;
    swin_weights w = { 0 };
    swin_dev *dev = NULL;
    swin_net *net = NULL, *integer = NULL;
    swin_stats *stats = NULL;
    float *images = malloc(pixels * sizeof *images), *logits = NULL;
    swin_status st = fill_weights(&w, &c, o->resume);
    if (st == SWIN_OK) logits = malloc((size_t)(o->batch * c.num_classes) * sizeof *logits);
    if (st == SWIN_OK)
        st = images && logits ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "no memory for %d images", o->batch);
    if (st != SWIN_OK) goto done;
    SWIN_TRY_GOTO(st, fill_images(images, pixels, &c, o), done);
    SWIN_TRY_GOTO(st, swin_dev_open(&dev, "cpu", &(swin_dev_opts){ .threads = o->threads }), done);
    if (o->profile) bench_profile_begin(dev);
    SWIN_TRY_GOTO(st, swin_net_create(&net, dev, &c, &w, &(swin_net_opts){ .dtype = SWIN_F32 }), done);
    if (o->int8) SWIN_TRY_GOTO(st, create_integer(&integer, dev, &c, &w, o->int8), done);
    SWIN_TRY_GOTO(st, swin_stats_create(&stats, dev, &c, SWIN_HIST_EXACT), done);
    char engine[256];
    dev->ops->engine(dev, engine, sizeof engine);
    printf("engine %s\nmodel %s batch %d threads %d\n", engine, o->model, o->batch, o->threads);
    const swin_tap tap = swin_stats_tap(stats);
    const runner r = { net, integer, images, logits, o };
    if (integer)
        report_integer(&r, &c);
    else
        report(&r, &c, &tap);
done:
    swin_stats_free(stats);
    swin_net_free(integer);
    swin_net_free(net);
    if (o->profile && dev) bench_profile_end();
    swin_dev_close(dev);
    swin_weights_free(&w);
    free(images);
    free(logits);
    return st;
}

int main(int argc, char **argv)
{
    options o = { .model = "tiny", .batch = 8, .threads = 2, .repeats = 7 };
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "model=", 6) == 0)
            o.model = argv[i] + 6;
        else if (strncmp(argv[i], "resume=", 7) == 0)
            o.resume = argv[i] + 7;
        else if (strncmp(argv[i], "data=", 5) == 0)
            o.data = argv[i] + 5;
        else if (sscanf(argv[i], "batch=%d", &o.batch) != 1 &&
                 sscanf(argv[i], "threads=%d", &o.threads) != 1 && sscanf(argv[i], "int8=%d", &o.int8) != 1 &&
                 sscanf(argv[i], "repeats=%d", &o.repeats) != 1) {
            if (strcmp(argv[i], "clock=cpu") == 0) {
                bench_cpu_clock = true;
                continue;
            }
            if (strcmp(argv[i], "profile=1") != 0) return fprintf(stderr, "unknown: %s\n", argv[i]), 2;
            o.profile = true;
        }
    }
    return swin_report(run(&o));
}
