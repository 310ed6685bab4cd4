/* Calibrators against the formulas taken literally, and against what the PyTorch reference chose from its histograms. */
#include "tests/support/testing.h"

#include <math.h>

#include "calib/calibrator.h"
#include "runtime/base/h5.h"
#include "runtime/base/log.h"
#include "tests/support/literal.h"

/* ---- the literal formulas (reference/swin.md 4.5) ------------------------------------------------------------- */

static double literal_mse(const swin_abs_hist *h)
{
    double best = INFINITY, amax = 0;
    for (int j = 128; j < h->bins; j++) {
        const double error = swin_literal_mse_error(h, j);
        if (error >= best) continue;
        best = error;
        amax = (j + 0.5) * h->width;
    }
    return amax;
}

static double literal_entropy(const swin_abs_hist *h)
{
    double best = INFINITY;
    int arg = h->bins;
    for (int i = 128; i <= h->bins; i++) {
        const double kl = swin_literal_kl(h, i);
        if (!(kl <= best)) continue;
        best = kl;
        arg = i;
    }
    return arg * h->width;
}

static double literal_percentile(const swin_abs_hist *h, double p)
{
    double below = 0;
    for (int i = 0; i < h->bins; i++) {
        below += (double)h->counts[i];
        if (below / (double)h->total >= p / 100) return i > 0 ? i * h->width : h->width;
    }
    return h->bins * h->width;
}

/* ---- made histograms ------------------------------------------------------------------------------------------- */

enum { MOST = 700 };

/* shape 0: half normal; 1: heavy tail; 2: sparse; 3: uniform; 4: a peak and one far outlier. */
static void fill_shape(uint64_t *counts, int bins, int shape, swin_rng *r)
{
    for (int i = 0; i < bins; i++) {
        const double x = (i + 0.5) / bins, noise = 0.9 + 0.2 * swin_rng_uniform(r);
        double n = 0;
        if (shape == 0) n = 1e7 * exp(-12 * x * x);
        if (shape == 1) n = 1e6 / (1e-3 + x * x * x);
        if (shape == 2) n = swin_rng_below(r, 4) == 0 ? 1e4 * (1 - x) : 0;
        if (shape == 3) n = 5e3;
        if (shape == 4) n = i < bins / 3 ? 1e6 * exp(-30 * x) : 0;
        counts[i] = (uint64_t)(n * noise);
    }
    if (counts[bins - 1] == 0) counts[bins - 1] = 1;
}

static void test_literal(void **state)
{
    (void)state;
    uint64_t counts[MOST];
    for (unsigned seed = 1; seed <= 6; seed++)
        for (int shape = 0; shape < 5; shape++) {
            swin_rng r = { seed };
            const int bins = 129 + (int)swin_rng_below(&r, MOST - 129);
            fill_shape(counts, bins, shape, &r);
            swin_abs_hist h = { .counts = counts, .bins = bins, .width = 0.0125, .amax = bins * 0.0125 };
            for (int i = 0; i < bins; i++) h.total += counts[i];
            const swin_calibrator_opts o = { .percentile = 99.9 };
            const double want[] = { literal_percentile(&h, 99.9), literal_mse(&h), literal_entropy(&h),
                                    h.amax };
            const char *names[] = { "percentile", "mse", "entropy", "max" };
            for (int k = 0; k < 4; k++) {
                double got;
                CHECK_OK(swin_calibrator_find(names[k])->amax(&h, &o, &got));
                CHECK(fabs(got - want[k]) < 1e-9, "%s, shape %d, %d bins, seed %u: bin %.2f, literally %.2f",
                      names[k], shape, bins, seed, got / h.width, want[k] / h.width);
            }
        }
}

static void test_few_bins(void **state)
{
    (void)state;
    uint64_t counts[2 * 64] = { 0 };
    counts[64 + 3] = 5; /* in [3, 4) */
    counts[63] = 7;     /* in [-1, 0) */
    for (const swin_calibrator *const *c = swin_calibrators(); *c; c++) {
        const swin_site_stats s = {
            .count = 12, .min = -0.5f, .max = 3.5f, .bin_width = 1, .bins = 128, .hist = counts
        };
        const swin_calibrator_opts o = { .percentile = 100 };
        float amax = 0;
        CHECK_OK(swin_calibrate_site(*c, &o, &s, &amax));
        const float want = strcmp((*c)->name, "percentile") == 0 ? 3.0f : 3.5f;
        CHECK(amax == want, "%s: %g, not %g", (*c)->name, (double)amax, (double)want);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    uint64_t counts[256] = { 0 };
    counts[128] = 10;
    const swin_calibrator *c = swin_calibrator_find("percentile");
    const swin_calibrator_opts o = { .percentile = 99.99 };
    float amax;
    swin_site_stats s = { .bin_width = 1, .bins = 256, .hist = counts };
    CHECK_FAILS(swin_calibrate_site(c, &o, &s, &amax), SWIN_ERR_VALUE, "never observed");
    s.count = 10;
    CHECK_FAILS(swin_calibrate_site(c, &o, &s, &amax), SWIN_ERR_VALUE, "only zeros");
    s.nonfinite = 10;
    CHECK_FAILS(swin_calibrate_site(c, &o, &s, &amax), SWIN_ERR_VALUE, "NaN");
    assert_null(swin_calibrator_find("nonsense"));
}

/* A two-sided histogram and the |x| one of the same values give the same ranges. */
static void test_two_sided(void **state)
{
    (void)state;
    enum { HALF = 300 };
    uint64_t abs_counts[HALF], both[2 * HALF];
    swin_rng r = { 5 };
    fill_shape(abs_counts, HALF, 0, &r);
    uint64_t total = 0;
    for (int i = 0; i < HALF; i++) {
        const uint64_t left = swin_rng_below(&r, abs_counts[i] + 1);
        both[HALF - 1 - i] = left;
        both[HALF + i] = abs_counts[i] - left;
        total += abs_counts[i];
    }
    const swin_calibrator_opts o = { .percentile = 99.99 };
    for (const swin_calibrator *const *c = swin_calibrators(); *c; c++) {
        swin_site_stats s = { .count = total,
                              .min = -29,
                              .max = 29.95f,
                              .bin_width = 0.1,
                              .bins = HALF,
                              .hist = abs_counts,
                              .hist_abs = true };
        float a = 0, b = 1;
        CHECK_OK(swin_calibrate_site(*c, &o, &s, &a));
        s.hist = both;
        s.bins = 2 * HALF;
        s.hist_abs = false;
        CHECK_OK(swin_calibrate_site(*c, &o, &s, &b));
        CHECK(a == b, "%s: %g and %g", (*c)->name, (double)a, (double)b);
    }
}

/* ---- the golden file ------------------------------------------------------------------------------------------- */

typedef struct golden {
    swin_h5 *h;
    double *width;
    float *amax[4];
    int site, differ;
    double spent;
} golden;

static const char *const golden_names[] = { "max", "percentile", "mse", "entropy" };

static void check_site(golden *g, const char *name)
{
    void *data;
    size_t bins;
    CHECK_OK(swin_h5_read(g->h, name, SWIN_S64, &data, &bins));
    swin_abs_hist h = {
        .counts = data, .bins = (int)bins, .width = g->width[g->site], .amax = (double)g->amax[0][g->site]
    };
    for (size_t i = 0; i < bins; i++) h.total += h.counts[i];
    const swin_calibrator_opts o = { .percentile = 99.99 };
    for (int k = 0; k < 4; k++) {
        double got;
        const double start = swin_now(), want = (double)g->amax[k][g->site];
        CHECK_OK(swin_calibrator_find(golden_names[k])->amax(&h, &o, &got));
        g->spent += swin_now() - start;
        const double off = fabs(got - want) / h.width;
        if (!(off < 0.01)) {
            print_error("%s %s: %.7g, golden %.7g, %.2f bins off\n", golden_names[k], name, got, want, off);
            g->differ++;
        }
    }
    free(data);
}

static void test_golden_histograms(void **state)
{
    (void)state;
    SWIN_TEST_FILE(path, "golden/swin_tiny_tin200.h5");
    golden g = { 0 };
    size_t n;
    CHECK_OK(swin_h5_open(&g.h, path));
    CHECK_OK(swin_h5_read(g.h, "/bin_width", SWIN_F64, (void **)&g.width, &n));
    for (int k = 0; k < 4; k++) {
        char name[32];
        snprintf(name, sizeof name, "/amax/%s", golden_names[k]);
        CHECK_OK(swin_h5_read(g.h, name, SWIN_F32, (void **)&g.amax[k], &n));
    }
    /* The file lists its sites in walk order: ours, without weights and without what it does not observe. */
    const swin_config c = swin_config_default();
    for (int i = 0; i < swin_site_count(&c); i++) {
        char site[SWIN_SITE_NAME_MAX], set[SWIN_SITE_NAME_MAX + 8];
        swin_site_name(swin_site_at(&c, i), site);
        snprintf(set, sizeof set, "/hist/%s", site);
        if (!swin_h5_exists(g.h, set)) continue;
        CHECK(g.site < (int)n, "more histograms than ranges");
        check_site(&g, set);
        g.site++;
    }
    CHECK(g.site == (int)n && n == 162, "%d histograms, %zu ranges", g.site, n);
    print_message("4 calibrators on %zu golden histograms: %d differ, %.3f s\n", n, g.differ, g.spent);
    CHECK(g.differ == 0, "%d ranges differ", g.differ);
    free(g.width);
    for (int k = 0; k < 4; k++) free(g.amax[k]);
    swin_h5_close(g.h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_literal),           cmocka_unit_test(test_few_bins),
        cmocka_unit_test(test_refusals),          cmocka_unit_test(test_two_sided),
        cmocka_unit_test(test_golden_histograms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
