/* Every operator of the cpu backend, on each instruction set this processor has, against the ref backend. */
#include "tests/support/testing.h"

#include <math.h>

#include "tests/support/ops.h"

/* ---- Linear layers ---------------------------------------------------------------------------------------------- */
typedef struct shape {
    int m, n, k;
} shape;

static const shape odd_shapes[] = {
    { 1, 1, 1 },     { 1, 200, 768 }, { 13, 31, 5 },  { 14, 32, 96 },  { 15, 33, 97 },    { 49, 288, 96 },
    { 53, 101, 37 }, { 98, 64, 48 },  { 99, 65, 49 }, { 197, 7, 129 }, { 49, 768, 3072 }, { 211, 130, 24 },
};

/* y = act(x W^T + bias), then the same with a residual in window order: on backend i, into guarded memory. */
static void run_linear(const backend *b, mat *y, const mat *x, const float *w, const float *bias,
                       swin_act act)
{
    swin_linear l;
    swin_tensor out = mat_view(y), in = mat_view(x);
    CHECK_OK(b->ops->linear_prepare(b->dev, &l, w, bias, (int)y->cols, (int)x->cols, SWIN_F32));
    CHECK_OK(b->ops->linear(b->dev, &out, &in, &l, bias != NULL, act));
    b->ops->linear_release(b->dev, &l);
    CHECK(mat_intact(y), "%s linear wrote outside of y", b->label);
}

static double check_linear(const shape *s, bool integers, swin_act act, unsigned seed)
{
    swin_rng rng = { seed };
    mat x = mat_make(s->m, s->k, s->k + 3), want = mat_make(s->m, s->n, s->n);
    float *w = numbers_make(&rng, (size_t)s->n * (size_t)s->k, integers, 0.05),
          *bias = numbers_make(&rng, (size_t)s->n, integers, 1);
    mat_fill(&x, &rng, integers, 1);
    run_linear(&backends_under_test[0], &want, &x, w, bias, act);
    double worst = 0;
    for (int i = 1; i < backend_count; i++) {
        mat y = mat_make(s->m, s->n, s->n + 5);
        run_linear(&backends_under_test[i], &y, &x, w, bias, act);
        const double e = mat_rel_l2(&y, &want);
        CHECK(integers ? e == 0 : e <= (s->k <= 1024 ? 1e-6 : 2e-6), /* a running float32 sum of K terms */
              "%s linear %dx%dx%d act %d seed %u: %.2e", backends_under_test[i].label, s->m, s->n, s->k,
              (int)act, seed, e);
        worst = e > worst ? e : worst;
        mat_free(&y);
    }
    mat_free(&x), mat_free(&want);
    free(w), free(bias);
    return worst;
}

static void test_linear_odd(void **state)
{
    (void)state;
    double worst = 0;
    for (size_t i = 0; i < SWIN_COUNT(odd_shapes); i++) {
        check_linear(&odd_shapes[i], true, SWIN_ACT_NONE, 100 + (unsigned)i);
        worst = fmax(worst, check_linear(&odd_shapes[i], false, SWIN_ACT_NONE, 200 + (unsigned)i));
        worst = fmax(worst, check_linear(&odd_shapes[i], false, SWIN_ACT_GELU, 300 + (unsigned)i));
    }
    print_message("linear, odd shapes: integers equal; worst relative L2 %.2e\n", worst);
}

/* Every layer of every stage of Swin-T, B and L. */
static void test_linear_stages(void **state)
{
    (void)state;
    double worst = 0;
    static const int channels[] = { 96, 128, 192 };
    for (size_t v = 0; v < SWIN_COUNT(channels); v++)
        for (int stage = 0; stage < 4; stage++) {
            const int c = channels[v] << stage;
            const shape layers[] = {
                { 16, 3 * c, c }, { 16, c, c }, { 16, 4 * c, c }, { 16, c, 4 * c }, { 16, 2 * c, 4 * c }
            };
            for (size_t i = 0; i < SWIN_COUNT(layers); i++)
                worst = fmax(worst, check_linear(&layers[i], false, SWIN_ACT_NONE, 400 + (unsigned)i));
        }
    print_message("linear, shapes of T, B and L: worst relative L2 %.2e\n", worst);
}

/* Rows alone, in pieces and together; one thread and five: the same bits. */
static void test_linear_split(void **state)
{
    (void)state;
    enum { M = 213, N = 200, K = 136 };
    static const int pieces[] = { 1, 7, 14, 98, 93 };
    swin_rng rng = { 7 };
    mat x = mat_make(M, K, K);
    mat_fill(&x, &rng, false, 1);
    float *w = numbers_make(&rng, N * K, false, 0.1), *bias = numbers_make(&rng, N, false, 1);
    for (int i = 0; i < backend_count; i++) {
        const backend *b = &backends_under_test[i];
        mat whole = mat_make(M, N, N), parts = mat_make(M, N, N);
        run_linear(b, &whole, &x, w, bias, SWIN_ACT_GELU);
        swin_linear l;
        CHECK_OK(b->ops->linear_prepare(b->single, &l, w, bias, N, K, SWIN_F32));
        for (int p = 0, at = 0; p < (int)SWIN_COUNT(pieces); at += pieces[p++]) {
            const swin_tensor all_x = mat_view(&x), all_y = mat_view(&parts);
            const swin_tensor in = swin_rows(&all_x, at, pieces[p]);
            swin_tensor out = swin_rows(&all_y, at, pieces[p]);
            CHECK_OK(b->ops->linear(b->single, &out, &in, &l, true, SWIN_ACT_GELU));
        }
        b->ops->linear_release(b->single, &l);
        CHECK(mat_same(&whole, &parts), "%s: rows in pieces on one thread differ from all at once", b->label);
        mat_free(&whole), mat_free(&parts);
    }
    mat_free(&x);
    free(w), free(bias);
}

/* The fused forms give the bits of their parts. */
static void test_linear_composed(void **state)
{
    (void)state;
    const swin_windows g = { .images = 2, .height = 12, .width = 8, .window = 4, .shift = 2 };
    const int64_t m = swin_windows_tokens(&g);
    enum { N = 75, K = 50 };
    swin_rng rng = { 8 };
    mat x = mat_make(m, K, K + 1);
    mat_fill(&x, &rng, false, 1);
    float *w = numbers_make(&rng, N * K, false, 0.2), *bias = numbers_make(&rng, N, false, 1);
    for (int i = 0; i < backend_count; i++) {
        const backend *b = &backends_under_test[i];
        mat fused = mat_make(m, N, N + 2), plain = mat_make(m, N, N), sum = mat_make(m, N, N + 2),
            way = mat_make(m, N, N + 2);
        swin_linear l;
        swin_tensor in = mat_view(&x), f = mat_view(&fused), p = mat_view(&plain), s = mat_view(&sum),
                    r = mat_view(&way);
        CHECK_OK(b->ops->linear_prepare(b->dev, &l, w, bias, N, K, SWIN_F32));
        CHECK_OK(b->ops->linear(b->dev, &f, &in, &l, true, SWIN_ACT_GELU));
        CHECK_OK(b->ops->linear(b->dev, &p, &in, &l, false, SWIN_ACT_NONE));
        CHECK_OK(b->ops->bias_act(b->dev, &p, l.bias, SWIN_ACT_GELU));
        CHECK(mat_same(&fused, &plain), "%s: linear + bias_act is not linear with both", b->label);
        for (int windows = 0; windows < 2; windows++) {
            swin_rng again = { 9 };
            mat_fill(&sum, &again, false, 1);
            again.state = 9;
            mat_fill(&way, &again, false, 1);
            CHECK_OK(b->ops->linear_residual(b->dev, &s, &in, &l, windows ? &g : NULL));
            CHECK_OK(b->ops->linear(b->dev, &p, &in, &l, false, SWIN_ACT_NONE));
            CHECK_OK(b->ops->bias_act(b->dev, &p, l.bias, SWIN_ACT_NONE));
            CHECK_OK(b->ops->residual_add(b->dev, &r, &p, windows ? &g : NULL));
            CHECK(mat_same(&sum, &way), "%s: linear + residual_add is not linear_residual (windows %d)",
                  b->label, windows);
            CHECK(mat_intact(&sum) && mat_intact(&way), "%s: a residual was written outside", b->label);
        }
        b->ops->linear_release(b->dev, &l);
        mat_free(&fused), mat_free(&plain), mat_free(&sum), mat_free(&way);
    }
    mat_free(&x);
    free(w), free(bias);
}

/* Residual rows land where the window order says: against an independent loop over (window, token). */
static void test_residual_windows(void **state)
{
    (void)state;
    const swin_windows g = { .images = 2, .height = 6, .width = 9, .window = 3, .shift = 1 };
    for (int i = 0; i < backend_count; i++) {
        const backend *b = &backends_under_test[i];
        mat res = mat_make(108, 2, 2), y = mat_make(108, 2, 2);
        for (int r = 0; r < 108; r++)
            for (int c = 0; c < 2; c++) mat_row(&res, r)[c] = (float)(1000 * r), mat_row(&y, r)[c] = (float)r;
        swin_tensor t = mat_view(&res), u = mat_view(&y);
        CHECK_OK(b->ops->residual_add(b->dev, &t, &u, &g));
        int r = 0;
        for (int image = 0; image < 2; image++)
            for (int wy = 0; wy < 2; wy++)
                for (int wx = 0; wx < 3; wx++)
                    for (int ty = 0; ty < 3; ty++)
                        for (int tx = 0; tx < 3; tx++, r++) {
                            const int at = (image * 6 + (3 * wy + ty + 1) % 6) * 9 + (3 * wx + tx + 1) % 9;
                            CHECK(mat_row(&res, at)[1] == (float)(1000 * at + r), "%s: row %d", b->label, at);
                        }
        mat_free(&res), mat_free(&y);
    }
}

static void test_half_weights(void **state)
{
    (void)state;
    static const swin_dtype types[] = { SWIN_F16, SWIN_BF16 };
    swin_rng rng = { 11 };
    enum { M = 5, N = 40, K = 33 };
    mat x = mat_make(M, K, K), want = mat_make(M, N, N), y = mat_make(M, N, N);
    mat_fill(&x, &rng, true, 1);
    float *w = numbers_make(&rng, N * K, false, 1), *rounded = malloc(N * K * sizeof *rounded);
    for (size_t t = 0; t < SWIN_COUNT(types); t++) {
        for (int i = 0; i < N * K; i++) rounded[i] = swin_round_to(w[i], types[t]);
        for (int i = 0; i < backend_count; i++) {
            const backend *b = &backends_under_test[i];
            swin_linear l;
            swin_tensor out = mat_view(&y), in = mat_view(&x);
            CHECK_OK(b->ops->linear_prepare(b->dev, &l, w, NULL, N, K, types[t]));
            CHECK_OK(b->ops->linear(b->dev, &out, &in, &l, true, SWIN_ACT_NONE));
            b->ops->linear_release(b->dev, &l);
            run_linear(b, &want, &x, rounded, NULL, SWIN_ACT_NONE);
            CHECK(mat_same(&y, &want), "%s: %s weights", b->label, swin_dtype_name(types[t]));
        }
    }
    mat_free(&x), mat_free(&want), mat_free(&y);
    free(w), free(rounded);
}

/* ---- LayerNorm and rows ------------------------------------------------------------------------------------------- */
static void compare(const char *what, const mat *y, const mat *want, const backend *b, double tolerance,
                    double *worst)
{
    const double e = mat_rel_l2(y, want);
    CHECK(e <= tolerance, "%s %s: %.2e", b->label, what, e);
    CHECK(mat_intact(y), "%s %s wrote outside of its output", b->label, what);
    *worst = fmax(*worst, e);
}

static void test_norms(void **state)
{
    (void)state;
    static const int cols[] = { 1, 3, 15, 16, 17, 63, 65, 96, 128, 192, 384, 768, 1536, 3072 };
    const swin_windows g = { .images = 3, .height = 6, .width = 6, .window = 3, .shift = 1 };
    double worst = 0;
    for (size_t t = 0; t < SWIN_COUNT(cols); t++) {
        const int c = cols[t], m = (int)swin_windows_tokens(&g);
        swin_rng rng = { 20 + t };
        mat x = mat_make(m, c, c + 1);
        mat_fill(&x, &rng, false, 3);
        for (int r = 0; r < m; r++)
            for (int i = 0; i < c; i++)
                mat_row(&x, r)[i] += 5; /* a mean that a one-pass variance would feel */
        float *gamma = numbers_make(&rng, 4 * (size_t)c, false, 1),
              *beta = numbers_make(&rng, 4 * (size_t)c, false, 1);
        const swin_norm n = { gamma, beta, 1e-5f };
        mat want[4], y[4];
        for (int i = 0; i < backend_count; i++) {
            const backend *b = &backends_under_test[i];
            mat *to = i == 0 ? want : y;
            for (int k = 0; k < 4; k++)
                to[k] = k == 2 ? mat_make(m / 4, 4 * c, 4 * c + 2) : mat_make(m, c, c + 2);
            swin_tensor in = mat_view(&x), o0 = mat_view(&to[0]), o1 = mat_view(&to[1]),
                        o2 = mat_view(&to[2]), o3 = mat_view(&to[3]);
            CHECK_OK(b->ops->layernorm(b->dev, &o0, &in, &n));
            CHECK_OK(b->ops->layernorm_windows(b->dev, &o1, &in, &n, &g));
            CHECK_OK(b->ops->layernorm_merge(b->dev, &o2, &in, &n, &g));
            CHECK_OK(b->ops->layernorm_windows(b->dev, &o3, &in, NULL, &g));
            if (i == 0) continue;
            compare("layernorm", &y[0], &want[0], b, 1e-6, &worst);
            compare("layernorm_windows", &y[1], &want[1], b, 1e-6, &worst);
            compare("layernorm_merge", &y[2], &want[2], b, 1e-6, &worst);
            compare("window partition", &y[3], &want[3], b, 0, &worst);
            for (int k = 0; k < 4; k++) mat_free(&y[k]);
        }
        for (int k = 0; k < 4; k++) mat_free(&want[k]);
        mat_free(&x);
        free(gamma), free(beta);
    }
    print_message("LayerNorm: worst relative L2 %.2e\n", worst);
}

/* The four neighbours in their order, by hand: a map whose values are their own positions. */
static void test_merge_order(void **state)
{
    (void)state;
    const swin_windows g = { .images = 1, .height = 4, .width = 6, .window = 2 };
    for (int i = 0; i < backend_count; i++) {
        const backend *b = &backends_under_test[i];
        mat x = mat_make(24, 1, 1), y = mat_make(6, 4, 4);
        for (int r = 0; r < 24; r++) *mat_row(&x, r) = (float)r;
        swin_tensor in = mat_view(&x), out = mat_view(&y);
        CHECK_OK(b->ops->layernorm_merge(b->dev, &out, &in, NULL, &g));
        static const float last[4] = { 16, 22, 17, 23 };
        CHECK(memcmp(mat_row(&y, 5), last, sizeof last) == 0, "%s: neighbours of the last row", b->label);
        mat_free(&x), mat_free(&y);
    }
}

static void test_patch_and_mean(void **state)
{
    (void)state;
    enum { B = 3, SIZE = 20, PATCH = 4, C = 33, IN = 3 * PATCH * PATCH, TOKENS = 25 };
    swin_rng rng = { 30 };
    double worst = 0;
    float *images = numbers_make(&rng, B * 3 * SIZE * SIZE, false, 1),
          *w = numbers_make(&rng, C * IN, false, 0.1), *bias = numbers_make(&rng, C, false, 1);
    mat want = mat_make(B * TOKENS, C, C + 1), want_mean = mat_make(B, C, C);
    for (int normed = 0; normed < 2; normed++)
        for (int i = 0; i < backend_count; i++) {
            const backend *b = &backends_under_test[i];
            mat y = mat_make(B * TOKENS, C, C + 1), mean = mat_make(B, C, C + 1);
            mat *to = i == 0 ? &want : &y, *to_mean = i == 0 ? &want_mean : &mean;
            swin_tensor out = mat_view(to), m = mat_view(to_mean);
            swin_linear l;
            CHECK_OK(b->ops->linear_prepare(b->dev, &l, w, bias, C, IN, SWIN_F32));
            const swin_patch_embed p = { PATCH, 3, C, &l, { normed ? bias : NULL, bias, 1e-5f } };
            CHECK_OK(b->ops->patch_embed(b->dev, &out, images, B, SIZE, &p));
            CHECK_OK(b->ops->mean_tokens(b->dev, &m, &out, TOKENS));
            b->ops->linear_release(b->dev, &l);
            if (i > 0) {
                compare("patch_embed", &y, &want, b, 1e-6, &worst);
                compare("mean_tokens", &mean, &want_mean, b, 1e-6, &worst);
            }
            mat_free(&y), mat_free(&mean);
        }
    print_message("patch_embed, mean_tokens: worst relative L2 %.2e\n", worst);
    mat_free(&want), mat_free(&want_mean);
    free(images), free(w), free(bias);
}

/* GELU where float32 forms go wrong: the left tail, around zero, and far out. */
static void test_gelu(void **state)
{
    (void)state;
    enum { N = 200001 };
    mat y = mat_make(1, N, N);
    for (int i = 1; i < backend_count; i++) {
        const backend *b = &backends_under_test[i];
        double worst = 0, worst_tail = 0;
        for (int k = 0; k < N; k++) mat_row(&y, 0)[k] = (float)(-12 + 24.0 * k / (N - 1));
        swin_tensor t = mat_view(&y);
        CHECK_OK(b->ops->bias_act(b->dev, &t, NULL, SWIN_ACT_GELU));
        for (int k = 0; k < N; k++) {
            const double x = (float)(-12 + 24.0 * k / (N - 1)), want = 0.5 * x * erfc(-x / sqrt(2)),
                         got = mat_row(&y, 0)[k];
            worst = fmax(worst, fabs(got - want) / fmax(1, fabs(x)));
            if (x > -5) worst_tail = fmax(worst_tail, fabs(got - want) / fmax(fabs(want), 1e-30));
        }
        CHECK(worst <= 1.2e-7, "%s: GELU is off by %.2e", b->label, worst);
        CHECK(worst_tail <= 3e-6, "%s: GELU is off by %.2e of its value", b->label, worst_tail);
        print_message("%s GELU: worst error %.2e of max(1, |x|), relative to its value %.2e above -5\n",
                      b->label, worst, worst_tail);
    }
    mat_free(&y);
}

static void test_non_finite_pass(void **state)
{
    (void)state;
    for (int i = 0; i < backend_count; i++) {
        const backend *b = &backends_under_test[i];
        mat y = mat_make(1, 5, 5);
        static const float values[5] = { NAN, INFINITY, 3e38f, -3e38f, -0.0f };
        memcpy(y.data, values, sizeof values);
        swin_tensor t = mat_view(&y);
        CHECK_OK(b->ops->bias_act(b->dev, &t, NULL, SWIN_ACT_GELU));
        CHECK(isnan(y.data[0]) && y.data[1] == INFINITY && y.data[2] == 3e38f && y.data[3] == 0 &&
                  y.data[4] == 0,
              "%s: GELU of special values: %g %g %g %g %g", b->label, y.data[0], y.data[1], y.data[2],
              y.data[3], y.data[4]);
        mat_free(&y);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    float v[64] = { 0 };
    for (int i = 0; i < backend_count; i++) {
        const backend *b = &backends_under_test[i];
        swin_tensor x = swin_matrix(v, SWIN_F32, 4, 4), y = swin_matrix(v + 16, SWIN_F32, 4, 5),
                    half = swin_matrix(v, SWIN_F16, 4, 4);
        const swin_windows g = { .images = 1, .height = 2, .width = 2, .window = 2, .shift = 2 };
        const swin_norm n = { v, v, 1e-5f };
        CHECK_FAILS(b->ops->layernorm(b->dev, &y, &x, &n), SWIN_ERR_VALUE, "layernorm: matrix is 4 x 5");
        CHECK_FAILS(b->ops->bias_act(b->dev, &half, NULL, SWIN_ACT_NONE), SWIN_ERR_UNSUPPORTED, "float16");
        CHECK_FAILS(b->ops->layernorm_windows(b->dev, &x, &x, &n, &g), SWIN_ERR_VALUE, "shift 2");
        CHECK_FAILS(b->ops->fake_quant(b->dev, &x, 0, 0, -127, 127), SWIN_ERR_VALUE, "scale 0");
        CHECK_FAILS(b->ops->fake_quant(b->dev, &x, NAN, 0, -127, 127), SWIN_ERR_VALUE, "nan");
        CHECK_FAILS(b->ops->fake_quant(b->dev, &x, 1e-40f, 0, -127, 127), SWIN_ERR_VALUE, "scale");
        CHECK_FAILS(b->ops->mean_tokens(b->dev, &x, &x, 0), SWIN_ERR_VALUE, "0 tokens");
    }
}

static void test_isa_named(void **state)
{
    (void)state;
    swin_dev *dev;
    char engine[256];
    setenv("SWIN_CPU_ISA", "sse9", 1);
    CHECK_FAILS(swin_dev_open(&dev, "cpu", NULL), SWIN_ERR_USAGE, "SWIN_CPU_ISA=sse9");
    CHECK(dev == NULL, "a device after a failure");
    setenv("SWIN_CPU_ISA", "generic", 1);
    CHECK_OK(swin_dev_open(&dev, "cpu", &(swin_dev_opts){ .threads = 1 }));
    unsetenv("SWIN_CPU_ISA");
    dev->ops->engine(dev, engine, sizeof engine);
    CHECK(strstr(engine, "generic") != NULL && dev->ops->threads(dev) == 1, "%s", engine);
    swin_dev_close(dev);
    swin_dev_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear_odd),
        cmocka_unit_test(test_linear_stages),
        cmocka_unit_test(test_linear_split),
        cmocka_unit_test(test_linear_composed),
        cmocka_unit_test(test_residual_windows),
        cmocka_unit_test(test_half_weights),
        cmocka_unit_test(test_norms),
        cmocka_unit_test(test_merge_order),
        cmocka_unit_test(test_patch_and_mean),
        cmocka_unit_test(test_gelu),
        cmocka_unit_test(test_non_finite_pass),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_isa_named),
    };
    return cmocka_run_group_tests(tests, open_backends_under_test, close_backends_under_test);
}
