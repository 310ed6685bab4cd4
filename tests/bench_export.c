/* Time and memory of ONNX exports: Swin-T against the two seconds asked for, Swin-L (197 M parameters) against a second copy of
 * its weights. Weights are random; files go to TMPDIR and are removed. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "runtime/base/log.h"
#include "tests/support/export_model.h"
#include "tests/support/testing.h"

static double peak_mb(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)u.ru_maxrss / 1024;
}

static swin_config variant(const char *name, int dim, int depth, int heads)
{
    swin_config c = swin_config_default();
    snprintf(c.name, sizeof c.name, "%s", name);
    c.embed_dim = dim;
    c.depths[2] = depth;
    for (int i = 0; i < 4; i++) c.heads[i] = heads << i;
    return c;
}

/* A calibration of all ones: only sizes matter here. */
static void fill(swin_calib_file *f, const swin_config *c)
{
    CHECK_OK(swin_calib_file_init(f, c));
    for (int i = 0; i < f->nsites; i++) {
        f->sites[i].amax = f->sites[i].max = 1;
        f->sites[i].count = 1;
    }
    for (int i = 0; i < f->nweights; i++) {
        f->weights[i].amax = 1;
        for (int k = 0; k < f->weights[i].channels; k++) f->weights[i].amax_channel[k] = 1;
    }
    CHECK_OK(swin_calib_file_derive(f, SWIN_INT8_MODE_1));
}

static void measure(const swin_config *c, const char *folder)
{
    static const char *const names[] = { "onnx-float", "onnx-fp16", "onnx-qdq" };
    swin_weights w = { 0 };
    swin_calib_file f;
    char path[4096];
    swin_rng r = { 1 };
    CHECK_OK(swin_weights_create(&w, c));
    for (size_t i = 0; i < w.count; i++) w.block[i] = (float)swin_rng_uniform(&r) - 0.5f;
    fill(&f, c);
    snprintf(path, sizeof path, "%s/model.onnx", folder);
    const double mb = (double)w.count * 4 / 0x1p20;
    for (size_t i = 0; i < SWIN_COUNT(names); i++) {
        const swin_export_job job = { .calib = &f, .config = c, .weights = &w, .output = path };
        const double before = peak_mb(), start = swin_now();
        CHECK_OK(swin_export_run(swin_export_find(names[i]), &job));
        printf("%-14s %-10s %6.3f s, peak memory +%.1f MB beside %.0f MB of weights (ratio %.3f)\n", c->name,
               names[i], swin_now() - start, peak_mb() - before, mb, (peak_mb() - before) / mb);
    }
    swin_calib_file_free(&f);
    swin_weights_free(&w);
}

int main(void)
{
    char *folder = swin_scratch_make("bench-export");
    const swin_config t = variant("swin_tiny", 96, 6, 3), l = variant("swin_large", 192, 18, 6);
    measure(&t, folder);
    measure(&l, folder);
    swin_scratch_remove(folder);
    return 0;
}
