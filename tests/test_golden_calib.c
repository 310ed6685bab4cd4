/* A calibration of the shared Swin-T as the PyTorch reference ran it: 80 first images in batches of 8, compat histograms.
 * One run of the network; the calibrators then work on the histograms that it left. */
#include "tests/support/testing.h"

#include <math.h>

#include "calib/run.h"
#include "runtime/base/h5.h"
#include "runtime/swin/checkpoint.h"
#include "tests/support/literal.h"

typedef struct golden {
    swin_h5 *h;
    double *width;
    float *amax[4]; /* max, percentile, mse, entropy */
    size_t sites;
} golden;

static const char *const names[] = { "max", "percentile", "mse", "entropy" };

static void golden_open(golden *g, const char *path)
{
    *g = (golden){ 0 };
    CHECK_OK(swin_h5_open(&g->h, path));
    CHECK_OK(swin_h5_read(g->h, "/bin_width", SWIN_F64, (void **)&g->width, &g->sites));
    for (int k = 0; k < 4; k++) {
        char set[32];
        size_t n;
        snprintf(set, sizeof set, "/amax/%s", names[k]);
        CHECK_OK(swin_h5_read(g->h, set, SWIN_F32, (void **)&g->amax[k], &n));
        CHECK(n == g->sites, "%s: %zu ranges", set, n);
    }
}

static void golden_close(golden *g)
{
    for (int k = 0; k < 4; k++) free(g->amax[k]);
    free(g->width);
    swin_h5_close(g->h);
}

static void calibrate(swin_calib_file *f, const char *data, const char *checkpoint)
{
    const swin_calib_opts o = { .data_path = data,
                                .split = "train",
                                .images = 80,
                                .batch = 8,
                                .sample = SWIN_SAMPLE_FIRST,
                                .mode = SWIN_INT8_MODE_1,
                                .histogram = SWIN_HIST_COMPAT,
                                .calibrator = swin_calibrator_find("max"),
                                .calibrator_opts = { .percentile = 99.99 } };
    swin_config c = swin_config_default();
    swin_weights w;
    swin_dev *dev;
    swin_calib_timing t;
    char sha[SWIN_SHA256_HEX];
    CHECK_OK(swin_weights_load(&w, &c, checkpoint));
    CHECK_OK(swin_weights_sha256(&c, &w, sha));
    CHECK_OK(swin_dev_open(&dev, "cpu", &(swin_dev_opts){ 0 }));
    CHECK_OK(swin_calib_run(f, dev, &c, &w, sha, &o, &t));
    print_message("80 images and ranges in %.1f s\n", t.observe_s);
    swin_dev_close(dev);
    swin_weights_free(&w);
}

/* What the four calibrators make of our histogram, and what the golden histogram says of that. */
typedef struct worst {
    double max, percentile, mse, entropy, on_golden;
    int other_bin; /* sites where entropy took another bin */
} worst;

static void check_site(worst *bad, const golden *g, size_t at, const swin_site_record *s,
                       const swin_abs_hist *theirs)
{
    const swin_site_stats seen = { .count = s->count,
                                   .min = s->min,
                                   .max = s->max,
                                   .bin_width = s->bin_width,
                                   .hist_abs = true,
                                   .bins = s->bins,
                                   .hist = s->hist };
    const swin_calibrator_opts o = { .percentile = 99.99 };
    float ours[4];
    for (int k = 0; k < 4; k++)
        CHECK_OK(swin_calibrate_site(swin_calibrator_find(names[k]), &o, &seen, &ours[k]));
    const double w = theirs->width;
    bad->max = fmax(bad->max, fabs((double)ours[0] / (double)g->amax[0][at] - 1));
    bad->percentile = fmax(bad->percentile, fabs((double)ours[1] - (double)g->amax[1][at]) / w);
    const double mse_best = swin_literal_mse_error(theirs, (int)lrint((double)g->amax[2][at] / w - 0.5));
    const double mse_ours = swin_literal_mse_error(theirs, (int)lrint((double)ours[2] / w - 0.5));
    bad->mse = fmax(bad->mse, mse_ours / mse_best - 1);
    /* The divergence jumps with single counts in nearly empty bins, so that two correct float32 runs may find another of two
     * near-equal minima. Both choices are weighed on the histogram that this run chose from. */
    const swin_abs_hist h = { .counts = s->hist, .bins = s->bins, .width = s->bin_width, .total = s->count };
    const int best = (int)lrint((double)g->amax[3][at] / w), mine = (int)lrint((double)ours[3] / w);
    if (best != mine) {
        bad->other_bin++;
        bad->entropy = fmax(bad->entropy, fabs(swin_literal_kl(&h, best) / swin_literal_kl(&h, mine) - 1));
        bad->on_golden =
            fmax(bad->on_golden, swin_literal_kl(theirs, mine) / swin_literal_kl(theirs, best) - 1);
    }
}

static void test_golden(void **state)
{
    (void)state;
    SWIN_TEST_FILE(path, "golden/swin_tiny_tin200.h5");
    SWIN_TEST_FILE(checkpoint, "weights/swin_tiny_patch4_window7_224_tin200_fp16.pth");
    SWIN_TEST_FILE(data, "tiny-imagenet");
    golden g;
    swin_calib_file f;
    worst bad = { 0 };
    size_t at = 0;
    golden_open(&g, path);
    calibrate(&f, data, checkpoint);
    for (int i = 0; i < f.nsites; i++) {
        char name[SWIN_SITE_NAME_MAX], set[SWIN_SITE_NAME_MAX + 16];
        void *counts;
        size_t bins;
        swin_site_name(f.sites[i].site, name);
        snprintf(set, sizeof set, "/hist/%s", name);
        if (!swin_h5_exists(g.h, set)) continue;
        CHECK_OK(swin_h5_read(g.h, set, SWIN_S64, &counts, &bins));
        swin_abs_hist theirs = { .counts = counts, .bins = (int)bins, .width = g.width[at] };
        for (size_t b = 0; b < bins; b++) theirs.total += theirs.counts[b];
        CHECK(theirs.total == f.sites[i].count, "%s: %llu elements, golden %llu", name,
              (unsigned long long)f.sites[i].count, (unsigned long long)theirs.total);
        check_site(&bad, &g, at++, &f.sites[i], &theirs);
        free(counts);
    }
    print_message(
        "%zu sites. max: %.1e relative; percentile: %.3f bins; mse: %.1e, entropy: %.1e above the best\n", at,
        bad.max, bad.percentile, bad.mse, bad.entropy);
    print_message("entropy: another bin at %d sites, at worst %.1e above the best on the golden histogram\n",
                  bad.other_bin, bad.on_golden);
    CHECK(at == g.sites, "%zu of %zu sites", at, g.sites);
    CHECK(bad.max <= 1e-5, "max: %.2e", bad.max);
    CHECK(bad.percentile <= 1.01, "percentile: %.2f bins", bad.percentile);
    CHECK(bad.mse <= 1e-3, "mse: %.2e", bad.mse);
    CHECK(bad.other_bin <= (int)at / 20, "entropy: another bin at %d sites", bad.other_bin);
    CHECK(bad.entropy <= 1e-3, "entropy: %.2e", bad.entropy);
    swin_calib_file_free(&f);
    golden_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_golden) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
