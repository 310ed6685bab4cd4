/* Factors, moments and rows of float32 matrices, on every host backend: against plain loops, for any shape and thread count. */
#include "tests/support/testing.h"

#include <math.h>

#include "tests/support/ops.h"

static const struct {
    int rows, cols, ld, runs;
} shapes[] = {
    { 1, 1, 1, 1 }, { 6, 3, 5, 3 }, { 392, 96, 96, 8 }, { 98, 700, 711, 2 }, { 130, 257, 257, 1 },
};

enum { SEED = 41 };

/* Every 7th value an outlier; in the last column NaN, in the one before it an infinity. */
static mat make(size_t i, bool odd)
{
    swin_rng rng = { SEED + i };
    mat m = mat_make(shapes[i].rows, shapes[i].cols, shapes[i].ld);
    mat_fill(&m, &rng, false, 1.5);
    for (int64_t r = 0; r < m.rows; r += 7) mat_row(&m, r)[0] *= 1000;
    if (odd && m.cols > 2) {
        mat_row(&m, m.rows / 2)[m.cols - 1] = NAN;
        mat_row(&m, m.rows - 1)[m.cols - 2] = -INFINITY;
    }
    return m;
}

static void test_scale_columns(void **state)
{
    (void)state;
    for (size_t i = 0; i < SWIN_COUNT(shapes); i++)
        for (int b = 0; b < backend_count; b++) {
            mat x = make(i, false), before = make(i, false);
            swin_rng rng = { SEED };
            float *factor = numbers_make(&rng, (size_t)x.cols, false, 1);
            swin_tensor t = mat_view(&x);
            CHECK_OK(backends_under_test[b].ops->scale_columns(backends_under_test[b].dev, &t, factor));
            for (int64_t r = 0; r < x.rows; r++)
                for (int64_t k = 0; k < x.cols; k++)
                    CHECK(mat_row(&x, r)[k] == mat_row(&before, r)[k] * factor[k],
                          "%s, shape %zu: [%lld][%lld]", backends_under_test[b].label, i, (long long)r,
                          (long long)k);
            CHECK(mat_intact(&x), "%s, shape %zu: wrote outside", backends_under_test[b].label, i);
            free(factor);
            mat_free(&x), mat_free(&before);
        }
}

static void check_column(const backend *b, size_t i, const mat *x, const swin_moments *m, int run, int64_t k)
{
    const int64_t rows = x->rows / shapes[i].runs;
    const size_t at = (size_t)(run * x->cols + k);
    double sum = 0, square = 0, size = 0;
    float lo = INFINITY, hi = -INFINITY;
    for (int64_t r = run * rows; r < (run + 1) * rows; r++) {
        const float v = mat_row(x, r)[k];
        sum += v, square += (double)v * v, size += fabs(v);
        if (v < lo) lo = v;
        if (v > hi) hi = v;
    }
    CHECK(m->lo[at] == lo && m->hi[at] == hi, "%s, shape %zu, run %d, column %lld: [%g, %g], not [%g, %g]",
          b->label, i, run, (long long)k, m->lo[at], m->hi[at], lo, hi);
    if (!isfinite(sum)) {
        CHECK(!isfinite(m->sum[at]) && !isfinite(m->square[at]), "%s, shape %zu: what is not finite shows",
              b->label, i);
        return;
    }
    CHECK(fabs(m->sum[at] - sum) <= 1e-12 * size && fabs(m->square[at] - square) <= 1e-12 * square,
          "%s, shape %zu, run %d, column %lld: %g and %g, not %g and %g", b->label, i, run, (long long)k,
          m->sum[at], m->square[at], sum, square);
}

static void test_moments(void **state)
{
    (void)state;
    for (size_t i = 0; i < SWIN_COUNT(shapes); i++)
        for (int b = 0; b < backend_count; b++) {
            const backend *at = &backends_under_test[b];
            const size_t n = (size_t)shapes[i].runs * (size_t)shapes[i].cols;
            mat x = make(i, true);
            const swin_tensor t = mat_view(&x);
            double *sums = malloc(4 * n * sizeof *sums);
            float *ends = malloc(2 * n * sizeof *ends);
            CHECK(sums && ends, "no memory");
            const swin_moments m = { sums, sums + n, ends, ends + n },
                               other = { .square = sums + 3 * n, .sum = sums + 2 * n };
            CHECK_OK(at->ops->moments(at->dev, &m, &t, shapes[i].runs));
            CHECK_OK(at->ops->moments(at->single, &other, &t, shapes[i].runs));
            CHECK(memcmp(sums, sums + 2 * n, 2 * n * sizeof *sums) == 0, "%s, shape %zu: threads change sums",
                  at->label, i);
            for (int run = 0; run < shapes[i].runs; run++)
                for (int64_t k = 0; k < x.cols; k++) check_column(at, i, &x, &m, run, k);
            free(sums), free(ends);
            mat_free(&x);
        }
}

/* A run's sums do not depend on the runs beside it. */
static void test_runs_alone(void **state)
{
    (void)state;
    const size_t i = 2;
    mat x = make(i, false);
    const swin_tensor all = mat_view(&x);
    double together[8 * 96], alone[96];
    for (int b = 0; b < backend_count; b++) {
        const backend *at = &backends_under_test[b];
        CHECK_OK(at->ops->moments(at->dev, &(swin_moments){ .sum = together }, &all, 8));
        for (int run = 0; run < 8; run++) {
            swin_tensor one = swin_matrix(mat_row(&x, run * 49), SWIN_F32, 49, 96);
            CHECK_OK(at->ops->moments(at->dev, &(swin_moments){ .sum = alone }, &one, 1));
            CHECK(memcmp(alone, together + run * 96, sizeof alone) == 0, "%s: run %d", at->label, run);
        }
    }
    mat_free(&x);
}

static void test_take_rows(void **state)
{
    (void)state;
    static const int64_t rows[] = { 391, 0, 17, 17 };
    mat x = make(2, false);
    const swin_tensor t = mat_view(&x);
    float out[4 * 96];
    for (int b = 0; b < backend_count; b++) {
        const backend *at = &backends_under_test[b];
        CHECK_OK(at->ops->take_rows(at->dev, out, &t, rows, 4));
        for (int i = 0; i < 4; i++)
            CHECK(memcmp(out + i * 96, mat_row(&x, rows[i]), 96 * sizeof *out) == 0, "%s: row %d", at->label,
                  i);
    }
    mat_free(&x);
}

static void test_refused(void **state)
{
    (void)state;
    mat x = make(1, false);
    swin_tensor t = mat_view(&x);
    double sum[9];
    float out[3];
    for (int b = 0; b < backend_count; b++) {
        const backend *at = &backends_under_test[b];
        CHECK(at->ops->moments(at->dev, &(swin_moments){ .sum = sum }, &t, 4) == SWIN_ERR_VALUE,
              "4 runs of 6 rows");
        CHECK(at->ops->moments(at->dev, &(swin_moments){ .sum = sum }, &t, 0) == SWIN_ERR_VALUE, "no runs");
        CHECK(at->ops->take_rows(at->dev, out, &t, &(int64_t){ 6 }, 1) == SWIN_ERR_VALUE, "row 6 of 6");
        CHECK(at->ops->take_rows(at->dev, out, &t, &(int64_t){ -1 }, 1) == SWIN_ERR_VALUE, "row -1");
    }
    mat_free(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scale_columns), cmocka_unit_test(test_moments),
        cmocka_unit_test(test_runs_alone),    cmocka_unit_test(test_take_rows),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, open_backends_under_test, close_backends_under_test);
}
