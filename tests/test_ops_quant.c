/* Fake quantization, rounding to halves and observers of the cpu backend: equal to ref, value for value. */
#include "tests/support/testing.h"

#include <math.h>

#include "tests/support/ops.h"

static uint32_t bits_of(float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    return u;
}

/* Equal bits, or NaN both. */
static bool same_value(float a, float b)
{
    return bits_of(a) == bits_of(b) || (isnan(a) && isnan(b));
}

/* Values that break careless kernels, then ordinary ones, then any bit pattern. */
static mat awkward_values(int64_t rows, int64_t cols, int64_t ld, unsigned seed, bool finite)
{
    static const float special[] = { 0.0f,      -0.0f,    1e-45f,   -1e-45f,     1e-38f,      -1e-38f,
                                     0.5f,      -0.5f,    1.5f,     2.5f,        -2.5f,       127.5f,
                                     -127.5f,   65504.0f, 65520.0f, -65519.9f,   5.9e-8f,     2.98e-8f,
                                     6.1e-5f,   3.4e38f,  -3.4e38f, 1.00390625f, 1.01171875f, INFINITY,
                                     -INFINITY, NAN };
    swin_rng rng = { seed };
    mat m = mat_make(rows, cols, ld);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) {
            const uint64_t i = (uint64_t)(r * cols + c);
            float v = (float)(3 * swin_rng_normal(&rng));
            const uint32_t any = (uint32_t)swin_rng_next(&rng);
            if (i % 7 == 3) memcpy(&v, &any, sizeof v);
            if (i < SWIN_COUNT(special)) v = special[i];
            mat_row(&m, r)[c] = finite && !isfinite(v) ? 1.0f : v;
        }
    return m;
}

typedef swin_status (*in_place)(const backend *b, swin_tensor *x, const void *how);

/* op on every backend, each on its own copy of the same values: equal to ref's. */
static void check_in_place(const char *what, in_place op, const void *how)
{
    static const int cols[] = { 1, 15, 16, 33, 257 };
    for (size_t k = 0; k < SWIN_COUNT(cols); k++) {
        mat want = awkward_values(131, cols[k], cols[k], 5, false);
        swin_tensor t = mat_view(&want);
        CHECK_OK(op(&backends_under_test[0], &t, how));
        for (int i = 1; i < backend_count; i++) {
            const backend *b = &backends_under_test[i];
            mat got = awkward_values(131, cols[k], cols[k] + 3, 5, false),
                in = awkward_values(131, cols[k], cols[k], 5, false);
            swin_tensor u = mat_view(&got);
            CHECK_OK(op(b, &u, how));
            CHECK(mat_intact(&got), "%s %s wrote outside", b->label, what);
            for (int64_t r = 0; r < 131; r++)
                for (int64_t c = 0; c < cols[k]; c++)
                    CHECK(same_value(mat_row(&got, r)[c], mat_row(&want, r)[c]), "%s %s of %a is %a, not %a",
                          b->label, what, (double)mat_row(&in, r)[c], (double)mat_row(&got, r)[c],
                          (double)mat_row(&want, r)[c]);
            mat_free(&got), mat_free(&in);
        }
        mat_free(&want);
    }
}

typedef struct quantizer {
    float scale;
    int zero, lo, hi;
} quantizer;

static swin_status fake_quant(const backend *b, swin_tensor *x, const void *how)
{
    const quantizer *q = how;
    return b->ops->fake_quant(b->dev, x, q->scale, q->zero, q->lo, q->hi);
}

static swin_status round_to(const backend *b, swin_tensor *x, const void *how)
{
    return b->ops->round_to(b->dev, x, *(const swin_dtype *)how);
}

static void test_fake_quant(void **state)
{
    (void)state;
    static const quantizer quantizers[] = { { 1, 0, -127, 127 },         { 0.037f, 0, -127, 127 },
                                            { 0.031f, -110, -128, 127 }, { 1.0f / 255, 0, 0, 255 },
                                            { 1e-30f, 3, -128, 127 },    { 1e30f, 0, -127, 127 } };
    for (size_t i = 0; i < SWIN_COUNT(quantizers); i++)
        check_in_place("fake_quant", fake_quant, &quantizers[i]);
}

/* By hand: ties to even, clamps, zero point, NaN to the lowest. */
static void test_fake_quant_by_hand(void **state)
{
    (void)state;
    static const float in[] = { 0.5f, 1.5f, -0.5f, -2.5f, 1000, -1000, INFINITY, -INFINITY, NAN, 3 },
                       plain[] = { 0, 2, 0, -2, 127, -127, 127, -127, -127, 3 },
                       shifted[] = {
                           0, 2, 0, -2, 227, -28, 227, -28, -28, 3
                       }; /* zero point -100, codes -128 to 127 */
    for (int i = 0; i < backend_count; i++) {
        const backend *b = &backends_under_test[i];
        for (int zero = 0; zero >= -100; zero -= 100) {
            float x[SWIN_COUNT(in)];
            memcpy(x, in, sizeof x);
            swin_tensor t = swin_matrix(x, SWIN_F32, 1, SWIN_COUNT(in));
            CHECK_OK(b->ops->fake_quant(b->dev, &t, 1, zero, zero ? -128 : -127, 127));
            for (size_t k = 0; k < SWIN_COUNT(in); k++)
                CHECK(x[k] == (zero ? shifted : plain)[k], "%s: %g became %g, zero point %d", b->label, in[k],
                      x[k], zero);
        }
    }
}

static void test_round_to(void **state)
{
    (void)state;
    static const swin_dtype types[] = { SWIN_F16, SWIN_BF16, SWIN_F32 };
    for (size_t i = 0; i < SWIN_COUNT(types); i++)
        check_in_place(swin_dtype_name(types[i]), round_to, &types[i]);
}

/* ---- observers -------------------------------------------------------------------------------------------------- */
/* Everything observed in pieces of `rows` rows (0: all at once), backwards or not. */
static swin_observed *seen(const backend *b, swin_dev *dev, const mat *m, int64_t rows, bool backwards)
{
    swin_observer *o;
    swin_observed *out = malloc(sizeof *out);
    CHECK(out != NULL, "no memory");
    CHECK_OK(b->ops->observer_create(dev, &o));
    const swin_tensor all = mat_view(m);
    const int64_t step = rows ? rows : m->rows, pieces = (m->rows + step - 1) / step;
    for (int64_t p = 0; p < pieces; p++) {
        const int64_t from = (backwards ? pieces - 1 - p : p) * step;
        const swin_tensor part = swin_rows(&all, from, m->rows - from < step ? m->rows - from : step);
        CHECK_OK(b->ops->observe(dev, o, &part));
    }
    CHECK_OK(b->ops->observer_read(dev, o, out));
    b->ops->observer_free(dev, o);
    return out;
}

static void check_same(const char *label, const swin_observed *got, const swin_observed *want,
                       const char *what)
{
    CHECK(got->count == want->count && got->nonfinite == want->nonfinite,
          "%s %s: %llu values, %llu not finite; ref %llu, %llu", label, what, (unsigned long long)got->count,
          (unsigned long long)got->nonfinite, (unsigned long long)want->count,
          (unsigned long long)want->nonfinite);
    CHECK(bits_of(got->min) == bits_of(want->min) && bits_of(got->max) == bits_of(want->max),
          "%s %s: range %a to %a; ref %a to %a", label, what, (double)got->min, (double)got->max,
          (double)want->min, (double)want->max);
    CHECK(got->bin_width == want->bin_width, "%s %s: bins of %a; ref %a", label, what, (double)got->bin_width,
          (double)want->bin_width);
    for (int i = 0; i < SWIN_HIST_BINS; i++)
        CHECK(got->hist[i] == want->hist[i], "%s %s: bin %d holds %llu; ref %llu", label, what,
              i - SWIN_HIST_HALF, (unsigned long long)got->hist[i], (unsigned long long)want->hist[i]);
}

static void check_observers(const mat *m, const char *what)
{
    swin_observed *want = seen(&backends_under_test[0], backends_under_test[0].dev, m, 0, false);
    for (int i = 0; i < backend_count; i++) {
        const backend *b = &backends_under_test[i];
        for (int how = 0; how < 5; how++) {
            const int64_t rows = how == 0 ? 0 : how == 1 ? 1 : 7;
            swin_observed *got = seen(b, how == 4 ? b->single : b->dev, m, rows, how == 3);
            check_same(b->label, got, want, what);
            free(got);
        }
    }
    free(want);
}

static void test_observe_any_bits(void **state)
{
    (void)state;
    static const int cols[] = { 1, 16, 131, 4099 };
    for (size_t k = 0; k < SWIN_COUNT(cols); k++) {
        mat all = awkward_values(61, cols[k], cols[k], 70, false),
            finite = awkward_values(61, cols[k], cols[k] + 5, 71, true);
        check_observers(&all, "any bits");
        check_observers(&finite, "finite bits");
        mat_free(&all), mat_free(&finite);
    }
}

/* Values on and beside bin edges; magnitudes that grow from row to row, so that the width doubles again and again. */
static void test_observe_edges(void **state)
{
    (void)state;
    mat m = mat_make(64, 64, 64);
    for (int r = 0; r < 64; r++)
        for (int c = 0; c < 64; c++) {
            const float edge = ldexpf((float)(c - 32), r - 40);
            mat_row(&m, r)[c] = r % 3 == 0 ? edge : nextafterf(edge, r % 3 == 1 ? -INFINITY : INFINITY);
        }
    check_observers(&m, "edges");
    mat_free(&m);
}

static void test_observe_small(void **state)
{
    (void)state;
    static const float sets[][4] = { { 0, 0, 0, 0 },
                                     { -0.0f, -0.0f, -0.0f, -0.0f },
                                     { NAN, INFINITY, -INFINITY, NAN },
                                     { -1e-45f, 0, 0, 0 },
                                     { 3.4028235e38f, 0, -0.0f, 1 },
                                     { -3.4028235e38f, -1e-45f, 1e-45f, 0 },
                                     { 1, NAN, -0.0f, 1e-20f },
                                     { -1, -1, -1, -1 },
                                     { 0x1p-48f, -0x1p-48f, 0x1p-60f, -0x1p-60f } };
    for (size_t i = 0; i < SWIN_COUNT(sets); i++) {
        mat m = mat_make(4, 1, 1);
        memcpy(m.data, sets[i], sizeof sets[i]);
        char what[32];
        snprintf(what, sizeof what, "set %zu", i);
        check_observers(&m, what);
        mat_free(&m);
    }
}

/* More equal values than a 16-bit counter holds. */
static void test_observe_overflow(void **state)
{
    (void)state;
    enum { ROWS = 400, COLS = 2500 };
    mat m = mat_make(ROWS, COLS, COLS);
    for (int64_t i = 0; i < (int64_t)ROWS * COLS; i++) m.data[i] = i % 5 == 0 ? -0.25f : 0.75f;
    for (int i = 0; i < backend_count; i++) {
        const backend *b = &backends_under_test[i];
        swin_observed *o = seen(b, b->single, &m, 0, false);
        uint64_t sum = 0;
        for (int k = 0; k < SWIN_HIST_BINS; k++) sum += o->hist[k];
        CHECK(o->bin_width == 0x1p-12f && sum == (uint64_t)ROWS * COLS, "%s: width %a", b->label,
              (double)o->bin_width);
        CHECK(o->hist[SWIN_HIST_HALF + 3072] == 800000 && o->hist[SWIN_HIST_HALF - 1024] == 200000,
              "%s: counts", b->label);
        free(o);
    }
    mat_free(&m);
}

/* An observer that saw nothing, and one that saw an empty matrix. */
static void test_observe_nothing(void **state)
{
    (void)state;
    for (int i = 0; i < backend_count; i++) {
        const backend *b = &backends_under_test[i];
        swin_observer *o;
        swin_observed *out = malloc(sizeof *out);
        float v = 1;
        CHECK_OK(b->ops->observer_create(b->dev, &o));
        const swin_tensor empty = swin_matrix(&v, SWIN_F32, 0, 5);
        CHECK_OK(b->ops->observe(b->dev, o, &empty));
        CHECK_OK(b->ops->observer_read(b->dev, o, out));
        CHECK(out->count == 0 && out->min == 0 && out->max == 0 && out->bin_width == SWIN_HIST_MIN_WIDTH,
              "%s: %g", b->label, (double)out->bin_width);
        b->ops->observer_free(b->dev, o);
        b->ops->observer_free(b->dev, NULL);
        free(out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fake_quant),       cmocka_unit_test(test_fake_quant_by_hand),
        cmocka_unit_test(test_round_to),         cmocka_unit_test(test_observe_any_bits),
        cmocka_unit_test(test_observe_edges),    cmocka_unit_test(test_observe_small),
        cmocka_unit_test(test_observe_overflow), cmocka_unit_test(test_observe_nothing),
    };
    return cmocka_run_group_tests(tests, open_backends_under_test, close_backends_under_test);
}
