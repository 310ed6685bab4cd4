/* Factors, moments and rows of float32 matrices: the cuda backend against ref. */
#include "tests/support/gpu_pair.h"

static const struct {
    int rows, cols, ld, runs;
} shapes[] = {
    { 1, 1, 1, 1 }, { 6, 33, 40, 3 }, { 130, 257, 257, 1 }, { 392, 96, 288, 8 }, { 512, 3072, 3072, 1 },
};

enum { SEED = 43 };

static pair filled(size_t i)
{
    swin_rng rng = { SEED + i };
    pair m = make(SWIN_F32, shapes[i].rows, shapes[i].cols, shapes[i].ld);
    float *x = (float *)m.host;
    swin_fill_normal(&rng, x, (size_t)shapes[i].rows * (size_t)shapes[i].cols, 2);
    if (shapes[i].cols > 2) x[1] = NAN;
    put(&m);
    return m;
}

static void test_scale_columns(void **state)
{
    (void)state;
    NEED_GPU();
    for (size_t i = 0; i < SWIN_COUNT(shapes) - brief; i++) {
        pair m = filled(i);
        const size_t n = (size_t)shapes[i].rows * (size_t)shapes[i].cols;
        float *factor = malloc((size_t)shapes[i].cols * sizeof *factor);
        swin_rng rng = { SEED };
        CHECK(factor != NULL, "no memory");
        swin_fill_normal(&rng, factor, (size_t)shapes[i].cols, 1);
        CHECK_OK(ref->ops->scale_columns(ref, &m.h, factor));
        CHECK_OK(gpu->ops->scale_columns(gpu, &m.d, factor));
        float *got = (float *)get(&m, "scale_columns");
        for (size_t k = 0; k < n; k++)
            CHECK(got[k] == ((float *)m.host)[k] || (isnan(got[k]) && k == 1), "shape %zu, value %zu: %g", i,
                  k, (double)got[k]);
        free(got), free(factor);
        drop(&m);
    }
}

static void test_moments(void **state)
{
    (void)state;
    NEED_GPU();
    double worst = 0;
    for (size_t i = 0; i < SWIN_COUNT(shapes) - brief; i++) {
        pair m = filled(i);
        const size_t n = (size_t)shapes[i].runs * (size_t)shapes[i].cols;
        double *sums = malloc(6 * n * sizeof *sums);
        float *ends = malloc(4 * n * sizeof *ends);
        CHECK(sums && ends, "no memory");
        const swin_moments want = { sums, sums + n, ends, ends + n },
                           got = { sums + 2 * n, sums + 3 * n, ends + 2 * n, ends + 3 * n },
                           again = { .sum = sums + 4 * n, .square = sums + 5 * n };
        CHECK_OK(ref->ops->moments(ref, &want, &m.h, shapes[i].runs));
        CHECK_OK(gpu->ops->moments(gpu, &got, &m.d, shapes[i].runs));
        CHECK_OK(gpu->ops->moments(gpu, &again, &m.d, shapes[i].runs));
        CHECK(memcmp(got.sum, again.sum, 2 * n * sizeof *sums) == 0, "shape %zu: other sums the second time",
              i);
        for (size_t k = 0; k < n; k++) {
            CHECK(got.lo[k] == want.lo[k] && got.hi[k] == want.hi[k], "shape %zu, column %zu: [%g, %g]", i, k,
                  (double)got.lo[k], (double)got.hi[k]);
            if (isnan(want.sum[k])) continue;
            const double e = fabs(got.sum[k] - want.sum[k]) / sqrt(want.square[k]),
                         f = fabs(got.square[k] - want.square[k]) / want.square[k];
            worst = fmax(worst, fmax(e, f));
            CHECK(e <= 1e-12 && f <= 1e-12, "shape %zu, column %zu: %g and %g", i, k, got.sum[k],
                  got.square[k]);
        }
        free(sums), free(ends);
        drop(&m);
    }
    print_message("  moments: worst relative error %.1e\n", worst);
}

static void test_take_rows(void **state)
{
    (void)state;
    NEED_GPU();
    static const int64_t row[] = { 391, 0, 17, 17 };
    pair m = filled(3);
    float out[4 * 96];
    CHECK_OK(gpu->ops->take_rows(gpu, out, &m.d, row, 4));
    for (int i = 0; i < 4; i++)
        CHECK(memcmp(out + 96 * i, (float *)m.host + 96 * row[i], 96 * sizeof *out) == 0, "row %d", i);
    CHECK(gpu->ops->take_rows(gpu, out, &m.d, &(int64_t){ 392 }, 1) == SWIN_ERR_VALUE, "row 392 of 392");
    CHECK(gpu->ops->moments(gpu, &(swin_moments){ 0 }, &m.d, 5) == SWIN_ERR_VALUE, "5 runs of 392 rows");
    drop(&m);
}

/* An argument chooses tests by name, as cmocka's filter does. */
int main(int argc, char **argv)
{
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scale_columns),
        cmocka_unit_test(test_moments),
        cmocka_unit_test(test_take_rows),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
