/* The integer network of the cuda backend against ref: products and what makes codes of rows, on forced
 * inputs (sums bit for bit, codes by DESIGN rule 3). Without a GPU each test is skipped, and the last line
 * says how many. Attention, half blocks and blocks, whole networks: test_cuda_int8_attention, _blocks,
 * _net. */
#include "tests/support/gpu_pair.h"

static const swin_dtype types[] = { SWIN_F32, SWIN_F16, SWIN_BF16 };

/* ---- rows to codes
 * ----------------------------------------------------------------------------------------------- */

static void one_norm(swin_rng *rng, swin_dtype t, int c, int form, int zero_point)
{
    const swin_windows g = { .images = 2, .height = 14, .width = 14, .window = 7, .shift = 3 };
    const int64_t rows = swin_windows_tokens(&g);
    const int cols = form == 2 ? 4 * c : c;
    char what[96];
    pair x = floats(rng, t, rows, c, c + 16, 2),
         y = make(SWIN_S8, form == 2 ? rows / 4 : rows, cols, cols + 8);
    float *gamma_d, *beta_d, *gamma = vector(rng, cols, 1, 0.2, &gamma_d),
                             *beta = vector(rng, cols, 0, 0.2, &beta_d);
    const swin_norm nr = { gamma, beta, 1e-5f }, ng = { gamma_d, beta_d, 1e-5f };
    for (int with = 0; with < 2; with++) {
        const swin_norm *a = with ? &nr : NULL, *b = with ? &ng : NULL;
        how(&y, with ? 0.02f : 0.04f, zero_point, zero_point ? -128 : -127);
        poison(&y);
        snprintf(what, sizeof what, "norm form %d, %s, %d channels, norm %d", form, swin_dtype_name(t), c,
                 with);
        if (form == 0 && with) {
            CHECK_OK(ref->ops->layernorm(ref, &y.h, &x.h, a));
            CHECK_OK(gpu->ops->layernorm(gpu, &y.d, &x.d, b));
        } else if (form == 0) {
            CHECK_OK(ref->ops->quantize(ref, &y.h, &x.h));
            CHECK_OK(gpu->ops->quantize(gpu, &y.d, &x.d));
        } else if (form == 1) {
            CHECK_OK(ref->ops->layernorm_windows(ref, &y.h, &x.h, a, &g));
            CHECK_OK(gpu->ops->layernorm_windows(gpu, &y.d, &x.d, b, &g));
        } else {
            CHECK_OK(ref->ops->layernorm_merge(ref, &y.h, &x.h, a, &g));
            CHECK_OK(gpu->ops->layernorm_merge(gpu, &y.d, &x.d, b, &g));
        }
        compare_codes(&y, what);
    }
    gpu->ops->free(gpu, gamma_d), gpu->ops->free(gpu, beta_d);
    free(gamma), free(beta);
    drop(&x), drop(&y);
}

static void test_norms(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 31 };
    static const int channels[] = { 1, 5, 30, 96, 128, 192, 256, 384, 512, 768, 1024, 1536 };
    for (size_t t = 0; t < SWIN_COUNT(types); t++)
        for (size_t i = 0; i < SWIN_COUNT(channels); i++)
            for (int form = 0; form < 3 && !(brief && channels[i] > 192); form++)
                one_norm(&rng, types[t], channels[i], form, i % 2 ? -37 : 0);
    judge("layernorm to codes, quantize");
}

/* Ties go to even, the ends saturate, NaN is the lowest code. */
static void test_quantize_by_hand(void **state)
{
    (void)state;
    NEED_GPU();
    static const float in[] = { 0.5f,     1.5f,      -0.5f, -2.5f, 1000,  -1000,
                                INFINITY, -INFINITY, NAN,   3,     1e30f, -1e30f };
    static const int plain[] = { 0, 2, 0, -2, 127, -127, 127, -127, -127, 3, 127, -127 },
                     shifted[] = { -99, -97, -99, -101, 127, -128, 127, -128, -128, -96, 127, -128 };
    for (int zero = 0; zero < 2; zero++)
        for (size_t t = 0; t < SWIN_COUNT(types); t++) {
            pair x = make(types[t], 3, SWIN_COUNT(in), SWIN_COUNT(in) + 4),
                 y = make(SWIN_S8, 3, SWIN_COUNT(in), 16);
            for (int i = 0; i < 3 * (int)SWIN_COUNT(in); i++)
                ((float *)x.host)[i] = swin_round_to(in[i % (int)SWIN_COUNT(in)], types[t]);
            put(&x);
            how(&y, 1, zero ? -99 : 0, zero ? -128 : -127);
            CHECK_OK(gpu->ops->quantize(gpu, &y.d, &x.d));
            int8_t *got = (int8_t *)get(&y, "quantize");
            for (int i = 0; i < 3 * (int)SWIN_COUNT(in); i++) {
                const int k = i % (int)SWIN_COUNT(in);
                CHECK(got[i] == (zero ? shifted : plain)[k], "%s %g became %d, zero point %d",
                      swin_dtype_name(types[t]), (double)in[k], got[i], y.d.zero_point);
            }
            free(got);
            drop(&x), drop(&y);
        }
}

/* ---- products
 * ---------------------------------------------------------------------------------------------------- */

static void one_product(swin_rng *rng, int64_t m, int n, int k, swin_dtype t, fill f, float after,
                        swin_act act, int zero_point)
{
    char what[128];
    const int parts = n % 3 == 0 && act == SWIN_ACT_NONE ? 3 : 1;
    const float x_scale = 0.02f, size = typical(k, x_scale);
    snprintf(what, sizeof what, "linear_s8 %lldx%dx%d %s fill %d after %g act %d zero point %d", (long long)m,
             n, k, swin_dtype_name(t), (int)f, (double)after, (int)act, zero_point);
    pair x = codes(rng, m, k, k % 16 ? k : k + 16, x_scale, zero_point, f);
    layer l = layer_make(rng, n, k, zero_point, n % 2 == 0, f == HIGH ? EXTREME : f);
    pair y[3];
    swin_tensor h[3], d[3];
    for (int i = 0; i < parts; i++) {
        y[i] = make(t, m, n / parts, n / parts + (i ? 16 : 0));
        how(&y[i], size / 40 * (float)(i + 1), act == SWIN_ACT_GELU ? -110 : 0,
            act == SWIN_ACT_GELU ? -128 : -127);
        h[i] = y[i].h, d[i] = y[i].d;
    }
    CHECK_OK(ref->ops->linear_s8(ref, h, parts, &x.h, &l.r, after * size, act));
    CHECK_OK(gpu->ops->linear_s8(gpu, d, parts, &x.d, &l.g, after * size, act));
    for (int i = 0; i < parts; i++) {
        if (t == SWIN_S32)
            compare_sums(&y[i], what);
        else if (t == SWIN_S8)
            compare_codes(&y[i], what);
        else /* a rounding before the bias may fall to the other side of a tie */
            compare_floats(&y[i], after > 0 ? 3e-3 : one_rounding(t), what);
        drop(&y[i]);
    }
    layer_free(&l);
    drop(&x);
}

static const struct {
    int64_t m;
    int n, k;
} products[] = {
    { 1, 1, 1 },        { 1, 200, 768 },   { 3, 5, 7 },       { 53, 101, 37 },   { 49, 288, 96 },
    { 200, 96, 96 },    { 130, 384, 96 },  { 129, 96, 384 },  { 64, 96, 48 },    { 33, 192, 384 },
    { 196, 1152, 384 }, { 65, 384, 1536 }, { 50, 768, 3072 }, { 49, 3072, 768 }, { 1000, 512, 128 },
    { 100, 768, 192 },  { 7, 1536, 6144 }, { 257, 104, 72 },  { 144, 24, 112 },  { 70, 8, 16 },
    { 64, 40, 4 },      { 5, 1, 5000 },
};

static void test_products(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 32 };
    static const swin_dtype outs[] = { SWIN_S32, SWIN_S8, SWIN_F32, SWIN_F16, SWIN_BF16 };
    for (size_t s = 0; s < SWIN_COUNT(products); s++) {
        const int64_t m = products[s].m;
        const int n = products[s].n, k = products[s].k;
        if (brief && m * n * k > 2000000) continue;
        for (int f = RANDOM; f <= HIGH; f++)
            one_product(&rng, m, n, k, SWIN_S32, (fill)f, 0, SWIN_ACT_NONE, f == RANDOM ? 0 : -100);
        for (size_t t = 1; t < SWIN_COUNT(outs); t++) {
            one_product(&rng, m, n, k, outs[t], RANDOM, 0, SWIN_ACT_NONE, 0);
            one_product(&rng, m, n, k, outs[t], EXTREME, 0, SWIN_ACT_GELU, -90);
            if (t < 3) one_product(&rng, m, n, k, outs[t], RANDOM, 0.03f, SWIN_ACT_NONE, 0);
            if (t < 3) one_product(&rng, m, n, k, outs[t], RANDOM, 0.03f, SWIN_ACT_GELU, 0);
        }
    }
    judge("linear_s8");
}

static void one_residual(swin_rng *rng, int n, int k, swin_dtype t, bool windows, float after)
{
    char what[96];
    const swin_windows g = { .images = 2, .height = 14, .width = 21, .window = 7, .shift = 3 };
    const int64_t m = swin_windows_tokens(&g);
    snprintf(what, sizeof what, "linear_s8_residual %dx%d %s windows %d", n, k, swin_dtype_name(t), windows);
    pair x = codes(rng, m, k, k, 0.02f, windows ? 0 : -77, RANDOM),
         y = floats(rng, t, m, n, n + 8, typical(k, 0.02f));
    layer l = layer_make(rng, n, k, windows ? 0 : -77, true, RANDOM);
    const swin_windows *how_windows = windows ? &g : NULL;
    CHECK_OK(ref->ops->linear_s8_residual(ref, &y.h, &x.h, &l.r, after * typical(k, 0.02f), how_windows));
    CHECK_OK(gpu->ops->linear_s8_residual(gpu, &y.d, &x.d, &l.g, after * typical(k, 0.02f), how_windows));
    compare_floats(&y, after > 0 ? 4e-3 : one_rounding(t), what);
    layer_free(&l);
    drop(&x), drop(&y);
}

static void test_residuals(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 33 };
    static const int shapes[][2] = { { 96, 96 },   { 96, 384 },  { 37, 29 },
                                     { 192, 768 }, { 768, 768 }, { 128, 512 } };
    for (size_t s = 0; s < SWIN_COUNT(shapes); s++)
        for (size_t t = 0; t < SWIN_COUNT(types); t++)
            for (int k = 0; k < 4 && !(brief && s != 0 && s != 2); k++)
                one_residual(&rng, shapes[s][0], shapes[s][1], types[t], k & 1, k & 2 ? 0.02f : 0);
    judge("linear_s8_residual");
}

/* A step of rounding for each output channel: into a residual stream and as an output of its own. */
static void test_output_scales(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 46 };
    static const int shapes[][2] = { { 96, 384 }, { 37, 29 }, { 384, 768 }, { 768, 3072 }, { 1024, 512 } };
    const swin_windows g = { .images = 2, .height = 14, .width = 21, .window = 7, .shift = 3 };
    const int64_t m = swin_windows_tokens(&g);
    for (size_t s = 0; s < SWIN_COUNT(shapes); s++)
        for (size_t t = 0; t < SWIN_COUNT(types) && !(brief && s > 1); t++) {
            const int n = shapes[s][0], k = shapes[s][1];
            const float size = typical(k, 0.02f), after = 0.02f * size;
            float *step_d, *step = vector(&rng, n, (double)after, 0.15 * (double)after, &step_d);
            layer l = layer_make(&rng, n, k, -77, true, RANDOM);
            l.r.after = step, l.g.after = step_d;
            pair x = codes(&rng, m, k, k, 0.02f, -77, RANDOM), y = floats(&rng, types[t], m, n, n + 8, size),
                 z = make(types[t], m, n, n);
            const swin_windows *order = t & 1 ? &g : NULL;
            CHECK_OK(ref->ops->linear_s8_residual(ref, &y.h, &x.h, &l.r, after, order));
            CHECK_OK(gpu->ops->linear_s8_residual(gpu, &y.d, &x.d, &l.g, after, order));
            compare_floats(&y, 4e-3, "linear_s8_residual with a step for each column");
            CHECK_OK(ref->ops->linear_s8(ref, &z.h, 1, &x.h, &l.r, after, SWIN_ACT_NONE));
            CHECK_OK(gpu->ops->linear_s8(gpu, &z.d, 1, &x.d, &l.g, after, SWIN_ACT_NONE));
            compare_floats(&z, 4e-3, "linear_s8 with a step for each column");
            gpu->ops->free(gpu, step_d);
            free(step);
            layer_free(&l);
            drop(&x), drop(&y), drop(&z);
        }
    judge("output scales");
}

/* Factors of GELU's output: in a product's last step on tensor cores and in the plain kernel, and where a
 * float layer's output becomes codes. */
static void test_factors(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 40 };
    static const int shapes[][3] = { { 49, 384, 96 }, { 300, 768, 192 }, { 2200, 1536, 384 }, { 20, 30, 7 } };
    for (size_t s = 0; s < SWIN_COUNT(shapes); s++) {
        if (brief && s == 2) continue;
        const int m = shapes[s][0], n = shapes[s][1], k = shapes[s][2];
        const float size = typical(k, 0.02f);
        float *factor_d, *factor = vector(&rng, n, 1, 0.3, &factor_d);
        layer l = layer_make(&rng, n, k, 0, true, RANDOM);
        pair x = codes(&rng, m, k, k, 0.02f, 0, RANDOM), y = make(SWIN_S8, m, n, n),
             z = floats(&rng, SWIN_F16, m, n, n, size);
        how(&y, size / 40, -110, -128);
        y.h.shrink = factor, y.d.shrink = factor_d;
        for (int act = 0; act < 2; act++) {
            CHECK_OK(ref->ops->linear_s8(ref, &y.h, 1, &x.h, &l.r, 0, (swin_act)act));
            CHECK_OK(gpu->ops->linear_s8(gpu, &y.d, 1, &x.d, &l.g, 0, (swin_act)act));
            compare_codes(&y, "linear_s8 with factors");
        }
        CHECK_OK(ref->ops->quantize(ref, &y.h, &z.h));
        CHECK_OK(gpu->ops->quantize(gpu, &y.d, &z.d));
        compare_codes(&y, "quantize with factors");
        gpu->ops->free(gpu, factor_d);
        free(factor);
        layer_free(&l);
        drop(&x), drop(&y), drop(&z);
    }
    judge("factors of GELU's output");
}

/* A row depends on itself alone: the first rows of a long product equal a short one, bit for bit, whatever
 * tile either takes; and the long one is right, by every 997th row. */
static void test_rows(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 34 };
    static const int shapes[][2] = { { 288, 96 }, { 384, 1536 }, { 3072, 768 }, { 192, 384 }, { 96, 384 } };
    const int64_t rows[] = { brief ? 200 : 40000, brief ? 199 : 6000, 196, 49, 1 };
    for (size_t s = 0; s < SWIN_COUNT(shapes); s++)
        for (int form = 0; form < 2 && !(brief && s > 0); form++) {
            const int n = shapes[s][0], k = shapes[s][1];
            const swin_dtype t = form ? SWIN_F16 : SWIN_S8;
            const float size = typical(k, 0.02f);
            layer l = layer_make(&rng, n, k, -60, true, RANDOM);
            char *first = NULL;
            pair x = codes(&rng, rows[0], k, k, 0.02f, -60, RANDOM),
                 start = floats(&rng, SWIN_F16, rows[0], n, n, size);
            for (size_t i = 0; i < SWIN_COUNT(rows); i++) {
                pair y = make(t, rows[i], n, n);
                how(&y, size / 40, -100, -128);
                const swin_tensor in = swin_rows(&x.d, 0, rows[i]);
                if (form) {
                    memcpy(y.host, start.host, (size_t)(rows[i] * n) * sizeof(float));
                    put(&y);
                    CHECK_OK(gpu->ops->linear_s8_residual(gpu, &y.d, &in, &l.g, 0, NULL));
                } else {
                    CHECK_OK(gpu->ops->linear_s8(gpu, &y.d, 1, &in, &l.g, 0, SWIN_ACT_GELU));
                }
                char *now = get(&y, "linear_s8");
                const size_t unit = form ? sizeof(float) : 1, row = (size_t)n * unit;
                for (int64_t r = 0; !first && r < rows[0]; r += 997) {
                    swin_tensor one = swin_rows(&x.h, r, 1), out = swin_rows(&y.h, r, 1);
                    if (form)
                        CHECK_OK(ref->ops->linear_s8_residual(ref, &out, &one, &l.r, 0, NULL));
                    else
                        CHECK_OK(ref->ops->linear_s8(ref, &out, 1, &one, &l.r, 0, SWIN_ACT_GELU));
                    for (int c = 0; c < n; c++) {
                        const double got = form ? ((float *)now)[r * n + c] : ((int8_t *)now)[r * n + c],
                                     want = form ? ((float *)y.host)[r * n + c]
                                                 : ((int8_t *)y.host)[r * n + c];
                        CHECK(fabs(got - want) <= (form ? 1e-3 * (fabs(want) + size) : 1),
                              "%d x %d, row %lld, column %d: %g, not %g", n, k, (long long)r, c, got, want);
                    }
                }
                if (first)
                    CHECK(memcmp(first, now, (size_t)rows[i] * row) == 0,
                          "%d x %d: %lld rows differ from %lld", n, k, (long long)rows[i],
                          (long long)rows[0]);
                if (first)
                    free(now);
                else
                    first = now;
                drop(&y);
            }
            free(first);
            drop(&x), drop(&start);
            layer_free(&l);
        }
}

/* Many columns over few: a long product equals the same in shorter ones, which other tiles take, byte for
 * byte, and is right by every 101st row. */
static void one_wide(swin_rng *rng, int64_t m, int n, int k, swin_act act, float after, bool shrunk)
{
    enum { PIECE = 1000 };
    const int parts = act == SWIN_ACT_NONE ? 3 : 1, width = n / parts;
    const float size = typical(k, 0.02f);
    float *factor_d, *factor = vector(rng, n, 1, 0.3, &factor_d);
    pair x = codes(rng, m, k, k, 0.02f, 0, RANDOM), y[3], z[3];
    layer l = layer_make(rng, n, k, 0, true, RANDOM);
    swin_tensor whole[3], some[3], host[3];
    for (int i = 0; i < parts; i++) {
        y[i] = make(SWIN_S8, m, width, width), z[i] = make(SWIN_S8, m, width, width);
        how(&y[i], size / 40 * (float)(i + 1), parts == 1 ? -110 : 0, parts == 1 ? -128 : -127);
        z[i].d.scale = y[i].d.scale, z[i].d.zero_point = y[i].d.zero_point;
        z[i].d.qmin = y[i].d.qmin, z[i].d.qmax = y[i].d.qmax;
        if (shrunk) y[i].h.shrink = factor, y[i].d.shrink = z[i].d.shrink = factor_d;
        whole[i] = y[i].d;
        poison(&y[i]), poison(&z[i]);
    }
    CHECK_OK(gpu->ops->linear_s8(gpu, whole, parts, &x.d, &l.g, after * size, act));
    for (int64_t r = 0; r < m; r += PIECE) {
        const int64_t rows = m - r < PIECE ? m - r : PIECE;
        const swin_tensor in = swin_rows(&x.d, r, rows);
        for (int i = 0; i < parts; i++) some[i] = swin_rows(&z[i].d, r, rows);
        CHECK_OK(gpu->ops->linear_s8(gpu, some, parts, &in, &l.g, after * size, act));
    }
    for (int i = 0; i < parts; i++) {
        int8_t *a = (int8_t *)get(&y[i], "a long product"), *b = (int8_t *)get(&z[i], "shorter ones");
        int64_t differ = 0, off = 0, far = 0, judged = 0;
        for (int64_t at = 0; at < m * width; at++) differ += a[at] != b[at];
        for (int64_t r = 0; r < m; r += 101) {
            const swin_tensor one = swin_rows(&x.h, r, 1);
            for (int j = 0; j < parts; j++) host[j] = swin_rows(&y[j].h, r, 1);
            if (i == 0) CHECK_OK(ref->ops->linear_s8(ref, host, parts, &one, &l.r, after * size, act));
            for (int c = 0; c < width; c++, judged++) {
                const int step = abs(a[r * width + c] - ((int8_t *)y[i].host)[r * width + c]);
                off += step > 0, far += step > 1;
            }
        }
        CHECK(differ == 0, "%lldx%dx%d act %d after %g: part %d differs from shorter products in %lld codes",
              (long long)m, n, k, (int)act, (double)after, i, (long long)differ);
        CHECK(far == 0 && (double)off < 1e-3 * (double)judged, "%lldx%dx%d: %lld of %lld codes off, %lld far",
              (long long)m, n, k, (long long)off, (long long)judged, (long long)far);
        free(a), free(b);
        drop(&y[i]), drop(&z[i]);
    }
    gpu->ops->free(gpu, factor_d);
    free(factor);
    layer_free(&l);
    drop(&x);
}

static void test_wide(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 41 };
    static const int64_t rows[] = { 2112, 2501, 6272 };
    static const int inputs[] = { 384, 512, 768 };
    for (int i = 0; i < (brief ? 1 : 9); i++) {
        const int k = inputs[i % 3];
        const int64_t m = rows[(i + i / 3) % 3];
        one_wide(&rng, m, 3 * k, k, SWIN_ACT_NONE, 0, false);
        one_wide(&rng, m, 4 * k, k, SWIN_ACT_GELU, 0, i % 2);
        if (i > 2) continue;
        one_wide(&rng, m, 3 * k, k, SWIN_ACT_NONE, 0.03f, false);
        one_wide(&rng, m, 4 * k, k, SWIN_ACT_GELU, 0.03f, i % 2);
    }
}

/* ---- refusals and devices --------------------------------------------------------------------------- */

static void test_refusals(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 37 };
    layer l = layer_make(&rng, 32, 32, 0, true, RANDOM);
    pair x = codes(&rng, 16, 32, 32, 0.1f, 0, RANDOM), y = make(SWIN_F32, 16, 32, 32);
    CHECK_FAILS(gpu->ops->linear_s8(gpu, &y.d, 5, &x.d, &l.g, 0, SWIN_ACT_NONE), SWIN_ERR_VALUE, "parts");
    CHECK_FAILS(gpu->ops->linear_s8(gpu, &y.d, 1, &x.d, &l.g, NAN, SWIN_ACT_NONE), SWIN_ERR_VALUE, "scale");
    swin_tensor bad = x.d;
    bad.scale = 0;
    CHECK_FAILS(gpu->ops->linear_s8(gpu, &y.d, 1, &bad, &l.g, 0, SWIN_ACT_NONE), SWIN_ERR_VALUE, "scale");
    CHECK_FAILS(gpu->ops->linear_s8(gpu, &y.d, 1, &y.d, &l.g, 0, SWIN_ACT_NONE), SWIN_ERR_VALUE, "float32");
    const swin_windows g = { .images = 1, .height = 4, .width = 4, .window = 4 };
    const swin_attention a = { .heads = 1, .head_size = 32 };
    const swin_tensor qkv[3] = { x.d, x.d, x.d };
    CHECK_FAILS(gpu->ops->attention_s8(gpu, &y.d, qkv, &a, 0, &g), SWIN_ERR_VALUE, "probabilities");
    CHECK_OK(gpu->ops->sync(gpu));
    layer_free(&l);
    drop(&x), drop(&y);
}

/* An argument chooses tests by name, as cmocka's filter does: "test_atten*". */
int main(int argc, char **argv)
{
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norms),         cmocka_unit_test(test_quantize_by_hand),
        cmocka_unit_test(test_products),      cmocka_unit_test(test_residuals),
        cmocka_unit_test(test_rows),          cmocka_unit_test(test_factors),
        cmocka_unit_test(test_output_scales), cmocka_unit_test(test_wide),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
