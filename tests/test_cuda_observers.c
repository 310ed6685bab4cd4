/* The cuda backend's observers against ref's, and operators that observe on their way against the plain ones. As
 * test_cuda_ops otherwise. */
#include "tests/support/gpu_float.h"

/* ---- observers
 * --------------------------------------------------------------------------------------------------- */

static void check_observed(swin_observer *a, swin_observer *b, const char *what)
{
    swin_observed *x = malloc(sizeof *x), *y = malloc(sizeof *y);
    CHECK(x && y, "no memory");
    CHECK_OK(ref->ops->observer_read(ref, a, x));
    CHECK_OK(gpu->ops->observer_read(gpu, b, y));
    CHECK(x->count == y->count && x->nonfinite == y->nonfinite, "%s: count %llu, %llu; bad %llu, %llu", what,
          (unsigned long long)x->count, (unsigned long long)y->count, (unsigned long long)x->nonfinite,
          (unsigned long long)y->nonfinite);
    CHECK(x->min == y->min && x->max == y->max, "%s: [%g, %g] and [%g, %g]", what, (double)x->min,
          (double)x->max, (double)y->min, (double)y->max);
    CHECK(x->bin_width == y->bin_width, "%s: width %g and %g", what, (double)x->bin_width,
          (double)y->bin_width);
    for (int i = 0; i < SWIN_HIST_BINS; i++)
        CHECK(x->hist[i] == y->hist[i], "%s: bin %d: %llu and %llu", what, i, (unsigned long long)x->hist[i],
              (unsigned long long)y->hist[i]);
    free(x), free(y);
}

static void observe(swin_observer *a, swin_observer *b, pair *m)
{
    CHECK_OK(ref->ops->observe(ref, a, &m->h));
    CHECK_OK(gpu->ops->observe(gpu, b, &m->d));
}

static void test_observers(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 7 };
    for (size_t t = 0; t < SWIN_COUNT(types); t++) {
        swin_observer *a, *b;
        CHECK_OK(ref->ops->observer_create(ref, &a));
        CHECK_OK(gpu->ops->observer_create(gpu, &b));
        check_observed(a, b, "nothing");
        pair nan = floats(&rng, types[t], 3, 5, 9, 1);
        for (int i = 0; i < 15; i++) numbers(&nan)[i] = i % 3 ? NAN : -INFINITY;
        put(&nan);
        observe(a, b, &nan);
        check_observed(a, b, "nothing finite");
        static const double sds[] = { 1e-6, 1e-6, 0.5, 0.3, 40, 1e-3, 900, 7 };
        for (size_t i = 0; i < SWIN_COUNT(sds); i++) {
            const int64_t cols = i % 2 ? 33 : 96;
            pair m = floats(&rng, types[t], i % 3 ? 2000 : 7, cols, cols + 8 * (int)(i % 4), sds[i]);
            if (i == 3)
                numbers(&m)[3] = NAN, numbers(&m)[50] = -0.f, numbers(&m)[51] = 1e-42f,
                numbers(&m)[52] = -1e-42f;
            if (i == 4)
                numbers(&m)[9] = -4096 * 0x1p-4f,
                numbers(&m)[10] = 4096 * 0x1p-5f; /* the ends of a histogram */
            for (int64_t k = 0; k < m.h.rows * m.h.cols; k++)
                numbers(&m)[k] = swin_round_to(numbers(&m)[k], types[t]);
            put(&m);
            observe(a, b, &m);
            char what[64];
            snprintf(what, sizeof what, "%s tensor %zu", swin_dtype_name(types[t]), i);
            check_observed(a, b, what);
            drop(&m);
        }
        pair zero = make(types[t], 10, 8, 8);
        for (int i = 0; i < 80; i++) numbers(&zero)[i] = 0;
        put(&zero);
        swin_observer *za, *zb;
        CHECK_OK(ref->ops->observer_create(ref, &za));
        CHECK_OK(gpu->ops->observer_create(gpu, &zb));
        observe(za, zb, &zero);
        check_observed(za, zb, "zeros");
        drop(&zero), drop(&nan);
        ref->ops->observer_free(ref, a), ref->ops->observer_free(ref, za);
        gpu->ops->observer_free(gpu, b), gpu->ops->observer_free(gpu, zb);
    }
}

/* Observers a and b of the GPU have seen the same. */
static void check_same(swin_observer *a, swin_observer *b, const char *what)
{
    swin_observed *x = calloc(1, sizeof *x), *y = calloc(1, sizeof *y);
    CHECK(x && y, "no memory");
    CHECK_OK(gpu->ops->observer_read(gpu, a, x));
    CHECK_OK(gpu->ops->observer_read(gpu, b, y));
    CHECK(x->count > 0 && memcmp(x, y, sizeof *x) == 0,
          "%s: other observations (width %g and %g, %llu and %llu values)", what, (double)x->bin_width,
          (double)y->bin_width, (unsigned long long)x->count, (unsigned long long)y->count);
    free(x), free(y);
}

enum { SEEN = 4 };

static void same_bytes(pair *a, pair *b, const char *what)
{
    float *x = values_of(a, what), *y = values_of(b, what);
    CHECK(memcmp(x, y, (size_t)(a->d.rows * a->d.cols) * sizeof *x) == 0, "%s: other results", what);
    free(x), free(y);
}

/* Bias and activation, plainly into one[] and observed on the way into two[]. */
static void observed_bias(swin_observer **one, swin_observer **two, swin_rng *rng, swin_dtype t, int64_t rows,
                          int64_t cols, int parts, double sd, const char *what)
{
    pair a = floats(rng, t, rows, cols, cols, sd), b = floats(rng, t, rows, cols, cols, sd);
    memcpy(numbers(&b), numbers(&a), (size_t)(rows * cols) * sizeof *numbers(&a));
    if (rows > 2) numbers(&b)[3] = NAN, numbers(&b)[7] = -INFINITY, numbers(&b)[9] = -0.f;
    memcpy(numbers(&a), numbers(&b), (size_t)(rows * cols) * sizeof *numbers(&a));
    put(&a), put(&b);
    float *bias, *host = vector(rng, (int)cols, 0, sd / 3, &bias);
    const swin_act act = parts == 1 ? SWIN_ACT_GELU : SWIN_ACT_NONE;
    CHECK_OK(gpu->ops->observe(gpu, one[0], &a.d));
    CHECK_OK(gpu->ops->bias_act(gpu, &a.d, bias, act));
    for (int i = 0; i < parts; i++) {
        const swin_tensor part = swin_columns(&a.d, i * (cols / parts), cols / parts);
        CHECK_OK(gpu->ops->observe(gpu, one[i + 1], &part));
    }
    CHECK_OK(gpu->ops->bias_act_observed(gpu, &b.d, bias, act, two[0], two + 1, parts));
    same_bytes(&a, &b, what);
    for (int i = 0; i <= parts; i++) check_same(one[i], two[i], what);
    gpu->ops->free(gpu, bias), free(host), drop(&a), drop(&b);
}

/* Bias and residual add, in window order. */
static void observed_residual(swin_observer **one, swin_observer **two, swin_rng *rng, swin_dtype t,
                              int64_t cols, bool sum, double sd, const char *what)
{
    const swin_windows g = { .images = 3, .height = 14, .width = 14, .window = 7, .shift = 3 };
    const int64_t rows = swin_windows_tokens(&g);
    pair r = floats(rng, t, rows, cols, cols, sd), a = floats(rng, t, rows, cols, cols, sd);
    pair rr = floats(rng, t, rows, cols, cols, sd), b = floats(rng, t, rows, cols, cols, sd);
    memcpy(numbers(&rr), numbers(&r), (size_t)(rows * cols) * sizeof *numbers(&a));
    memcpy(numbers(&b), numbers(&a), (size_t)(rows * cols) * sizeof *numbers(&a));
    put(&rr), put(&b);
    float *bias, *host = vector(rng, (int)cols, 0, sd / 3, &bias);
    CHECK_OK(gpu->ops->observe(gpu, one[0], &a.d));
    CHECK_OK(gpu->ops->bias_act(gpu, &a.d, bias, SWIN_ACT_NONE));
    CHECK_OK(gpu->ops->observe(gpu, one[1], &a.d));
    CHECK_OK(gpu->ops->residual_add(gpu, &r.d, &a.d, &g));
    if (sum) CHECK_OK(gpu->ops->observe(gpu, one[2], &r.d));
    CHECK_OK(
        gpu->ops->residual_add_observed(gpu, &rr.d, &b.d, bias, &g, two[0], two[1], sum ? two[2] : NULL));
    same_bytes(&r, &rr, what);
    for (int i = 0; i < (sum ? 3 : 2); i++) check_same(one[i], two[i], what);
    gpu->ops->free(gpu, bias), free(host), drop(&a), drop(&b), drop(&r), drop(&rr);
}

static void make_observers(swin_observer *o[2 * SEEN])
{
    for (int i = 0; i < 2 * SEEN; i++) CHECK_OK(gpu->ops->observer_create(gpu, &o[i]));
}

static void free_observers(swin_observer *o[2 * SEEN])
{
    for (int i = 0; i < 2 * SEEN; i++) gpu->ops->observer_free(gpu, o[i]);
}

/* Operators that observe on their way see and leave what the plain ones do, also where values outgrow the histogram. */
static void test_observing(void **state)
{
    (void)state;
    NEED_GPU();
    static const double sds[] = { 0.02, 0.5, 1e-3, 40, 3, 6000 };
    swin_rng rng = { 11 };
    for (size_t t = 0; t < SWIN_COUNT(types); t++)
        for (int shape = 0; shape < 5; shape++) {
            static const int64_t cols[] = { 288, 384, 9216, 33, 24 };
            if (brief && (shape < 3 || t > 0)) continue;
            swin_observer *o[2 * SEEN], *p[2 * SEEN];
            make_observers(o), make_observers(p);
            for (size_t i = 0; i < SWIN_COUNT(sds); i++) {
                if (brief && i % 3) continue;
                char what[96];
                snprintf(what, sizeof what, "%s, %lld columns, tensor %zu", swin_dtype_name(types[t]),
                         (long long)cols[shape], i);
                observed_bias(o, o + SEEN, &rng, types[t], i == 2 ? 1 : 1500 / (shape == 2 ? 10 : 1),
                              cols[shape], shape % 2 ? 1 : 3, sds[i], what);
                if (shape != 2)
                    observed_residual(p, p + SEEN, &rng, types[t], cols[shape], shape % 2 == 0, sds[i], what);
            }
            free_observers(o), free_observers(p);
        }
}

/* An argument chooses tests by name, as cmocka's filter does: "test_atten*". */
int main(int argc, char **argv)
{
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_observers),
        cmocka_unit_test(test_observing),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
