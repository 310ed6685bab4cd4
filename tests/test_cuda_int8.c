/* The integer network of the cuda backend against ref: every operator on forced inputs (sums bit for bit,
 * codes by DESIGN rule 3), fused halves against their operators. Without a GPU each test is skipped, and
 * the last line says how many. Whole networks: test_cuda_int8_net. */
#include <math.h>

#include "quant/plan.h"
#include "quant/sim.h"
#include "runtime/base/half.h"
#include "runtime/ops/ops.h"
#include "runtime/swin/checkpoint.h"
#include "tests/support/ranges.h"
#include "tests/support/testing.h"
#include "tests/support/tiny.h"

static swin_dev *ref, *gpu;
static bool brief; /* SWIN_TEST_SMALL: small shapes alone, for compute-sanitizer */
static int skipped;

#define NEED_GPU()                                                                                           \
    if (!gpu) {                                                                                              \
        skipped++;                                                                                           \
        skip();                                                                                              \
    }

/* ---- matrices in both memories
 * --------------------------------------------------------------------------------- */

enum { GUARD = 64 };

/* One matrix for ref (floats as float32) and for the GPU (in its type), with poisoned guards around the
 * latter. */
typedef struct pair {
    char *host;   /* dense: float32, codes or INT32 */
    char *staged; /* what the GPU holds, guards included */
    void *memory; /* device */
    size_t bytes;
    swin_tensor h, d;
} pair;

static pair make(swin_dtype t, int64_t rows, int64_t cols, int64_t ld)
{
    const bool whole = t == SWIN_S8 || t == SWIN_S32;
    const size_t unit = swin_dtype_size(t), host_unit = whole ? unit : sizeof(float);
    pair m = { .bytes = (size_t)(rows * ld + 2 * GUARD) * unit };
    m.host = calloc((size_t)(rows * cols), host_unit);
    m.staged = malloc(m.bytes);
    CHECK(m.host && m.staged, "no memory");
    memset(m.staged, 0xa5, m.bytes);
    CHECK_OK(gpu->ops->alloc(gpu, &m.memory, m.bytes));
    CHECK_OK(gpu->ops->upload(gpu, m.memory, m.staged, m.bytes));
    m.h = swin_matrix(m.host, whole ? t : SWIN_F32, rows, cols);
    m.d = swin_matrix((char *)m.memory + GUARD * unit, t, rows, cols);
    m.d.ld = ld;
    return m;
}

static void how(pair *m, float scale, int zero_point, int qmin)
{
    m->h.scale = m->d.scale = scale;
    m->h.zero_point = m->d.zero_point = zero_point;
    m->h.qmin = m->d.qmin = qmin;
    m->h.qmax = m->d.qmax = 127;
}

static void put(pair *m)
{
    const size_t unit = swin_dtype_size(m->d.dtype);
    for (int64_t r = 0; r < m->d.rows; r++)
        for (int64_t c = 0; c < m->d.cols; c++) {
            char *at = m->staged + (size_t)(GUARD + r * m->d.ld + c) * unit;
            const int64_t i = r * m->d.cols + c;
            if (m->d.dtype == SWIN_S8) {
                *at = m->host[i];
                continue;
            }
            const float v = ((const float *)m->host)[i];
            const uint16_t half = m->d.dtype == SWIN_F16 ? swin_f32_to_f16(v) : swin_f32_to_bf16(v);
            memcpy(at, m->d.dtype == SWIN_F32 ? (const void *)&v : (const void *)&half, unit);
        }
    CHECK_OK(gpu->ops->upload(gpu, m->memory, m->staged, m->bytes));
}

/* Back to poison, for an output that is written again. */
static void poison(pair *m)
{
    memset(m->staged, 0xa5, m->bytes);
    CHECK_OK(gpu->ops->upload(gpu, m->memory, m->staged, m->bytes));
}

/* Normal values, representable in the type. */
static pair floats(swin_rng *rng, swin_dtype t, int64_t rows, int64_t cols, int64_t ld, double sd)
{
    pair m = make(t, rows, cols, ld);
    float *v = (float *)m.host;
    swin_fill_normal(rng, v, (size_t)(rows * cols), sd);
    for (int64_t i = 0; i < rows * cols; i++) v[i] = swin_round_to(v[i], t);
    put(&m);
    return m;
}

typedef enum fill {
    RANDOM,
    EXTREME,
    HIGH
} fill; /* EXTREME: +-127 at random; HIGH: all 127 (-128 allowed: -128) */

static void fill_codes(swin_rng *rng, int8_t *v, size_t n, fill f, int qmin)
{
    for (size_t i = 0; i < n; i++)
        v[i] = f == HIGH      ? (int8_t)(qmin == -128 ? -128 : 127)
               : f == EXTREME ? (int8_t)(swin_rng_below(rng, 2) ? 127 : qmin)
                              : (int8_t)((int)swin_rng_below(rng, (uint32_t)(128 - qmin)) + qmin);
}

static pair codes(swin_rng *rng, int64_t rows, int64_t cols, int64_t ld, float scale, int zero_point, fill f)
{
    pair m = make(SWIN_S8, rows, cols, ld);
    how(&m, scale, zero_point, zero_point ? -128 : -127);
    fill_codes(rng, (int8_t *)m.host, (size_t)(rows * cols), f, m.h.qmin);
    put(&m);
    return m;
}

/* What the GPU has now, dense; guards and padding must still be as they were. Caller frees. */
static char *get(const pair *m, const char *what)
{
    const size_t unit = swin_dtype_size(m->d.dtype);
    char *now = malloc(m->bytes), *out = malloc((size_t)(m->d.rows * m->d.cols) * sizeof(float));
    CHECK(now && out, "no memory");
    CHECK_OK(gpu->ops->download(gpu, now, m->memory, m->bytes));
    for (int64_t i = 0; i < (int64_t)(m->bytes / unit); i++) {
        const int64_t at = i - GUARD, row = at / m->d.ld, col = at % m->d.ld, to = row * m->d.cols + col;
        const char *from = now + (size_t)i * unit;
        if (at < 0 || row >= m->d.rows || col >= m->d.cols)
            CHECK(memcmp(from, m->staged + (size_t)i * unit, unit) == 0, "%s wrote outside: element %lld",
                  what, (long long)at);
        else if (m->d.dtype == SWIN_S8)
            out[to] = *from;
        else if (m->d.dtype == SWIN_S32)
            memcpy(out + 4 * to, from, 4);
        else
            swin_widen((float *)out + to, from, m->d.dtype, 1);
    }
    free(now);
    return out;
}

static void drop(pair *m)
{
    gpu->ops->free(gpu, m->memory);
    free(m->host);
    free(m->staged);
}

/* ---- comparisons
 * ------------------------------------------------------------------------------------------------- */

static struct {
    int64_t seen, off;
    double error;
} tally;

/* Codes: one step at most, each; the share is judged over a test's cases. */
static void compare_codes(const pair *m, const char *what)
{
    int8_t *got = (int8_t *)get(m, what);
    const int8_t *want = (const int8_t *)m->host;
    for (int64_t i = 0; i < m->d.rows * m->d.cols; i++) {
        const int d = got[i] - want[i];
        CHECK(d >= -1 && d <= 1, "%s: row %lld, column %lld: code %d, not %d", what,
              (long long)(i / m->d.cols), (long long)(i % m->d.cols), got[i], want[i]);
        tally.off += d != 0;
    }
    tally.seen += m->d.rows * m->d.cols;
    free(got);
}

static void compare_sums(const pair *m, const char *what)
{
    int32_t *got = (int32_t *)get(m, what);
    const int32_t *want = (const int32_t *)m->host;
    for (int64_t i = 0; i < m->d.rows * m->d.cols; i++)
        CHECK(got[i] == want[i], "%s: row %lld, column %lld: sum %d, not %d", what,
              (long long)(i / m->d.cols), (long long)(i % m->d.cols), got[i], want[i]);
    free(got);
}

static void compare_floats(const pair *m, double limit, const char *what)
{
    float *got = (float *)get(m, what);
    const double e = swin_rel_l2(got, (const float *)m->host, (size_t)(m->d.rows * m->d.cols));
    if (e > tally.error) tally.error = e;
    CHECK(e <= limit, "%s: relative error %.1e", what, e);
    free(got);
}

static void judge(const char *what)
{
    const double share = tally.seen ? 100.0 * (double)tally.off / (double)tally.seen : 0;
    print_message("  %s: %.4f %% of %lld codes one step off, worst relative error %.1e\n", what, share,
                  (long long)tally.seen, tally.error);
    CHECK(share < 0.1, "%s: %.3f %% of codes differ", what, share);
    tally.seen = tally.off = 0;
    tally.error = 0;
}

static float *vector(swin_rng *rng, int64_t n, double mean, double sd, float **device)
{
    float *v = malloc((size_t)n * sizeof *v);
    void *p;
    CHECK(v != NULL, "no memory");
    for (int64_t i = 0; i < n; i++) v[i] = (float)(mean + sd * swin_rng_normal(rng));
    CHECK_OK(gpu->ops->alloc(gpu, &p, (size_t)n * sizeof *v));
    CHECK_OK(gpu->ops->upload(gpu, p, v, (size_t)n * sizeof *v));
    *device = p;
    return v;
}

/* One rounding to the type. */
static double one_rounding(swin_dtype t)
{
    return t == SWIN_F16 ? 4e-4 : t == SWIN_BF16 ? 3e-3 : 1e-6;
}

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

typedef struct layer {
    int8_t *codes;
    float *scale, *bias;
    swin_linear r, g;
} layer;

static layer layer_make(swin_rng *rng, int n, int k, int zero_point, bool with_bias, fill f)
{
    layer l = { .codes = malloc((size_t)n * (size_t)k),
                .scale = malloc((size_t)n * sizeof(float)),
                .bias = malloc((size_t)n * sizeof(float)) };
    CHECK(l.codes && l.scale && l.bias, "no memory");
    fill_codes(rng, l.codes, (size_t)n * (size_t)k, f, -127);
    for (int i = 0; i < n; i++) l.scale[i] = (float)(0.001 * (1 + swin_rng_uniform(rng)));
    swin_fill_normal(rng, l.bias, (size_t)n, 0.5);
    const float *bias = with_bias ? l.bias : NULL;
    CHECK_OK(ref->ops->linear_s8_prepare(ref, &l.r, l.codes, l.scale, bias, n, k, zero_point));
    CHECK_OK(gpu->ops->linear_s8_prepare(gpu, &l.g, l.codes, l.scale, bias, n, k, zero_point));
    return l;
}

static void layer_free(layer *l)
{
    ref->ops->linear_release(ref, &l->r);
    gpu->ops->linear_release(gpu, &l->g);
    free(l->codes), free(l->scale), free(l->bias);
}

/* The size of a typical value, to scale codes and roundings by: random codes of deviation 74 each. */
static float typical(int k, float x_scale)
{
    return 74.f * 74.f * sqrtf((float)k) * x_scale * 0.0015f;
}

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

/* ---- attention
 * --------------------------------------------------------------------------------------------------- */

typedef struct bias_mask {
    float *bias, *mask, *bias_d, *mask_d;
} bias_mask;

static bias_mask tables(swin_rng *rng, int heads, int n, int windows)
{
    bias_mask t;
    t.bias = vector(rng, (int64_t)heads * n * n, 0, 1, &t.bias_d);
    t.mask = vector(rng, (int64_t)windows * n * n, 0, 1, &t.mask_d);
    for (int i = 0; i < windows * n * n; i++)
        t.mask[i] = i % n != i / n % n && swin_rng_below(rng, 3) == 0 ? -100.f : 0.f;
    CHECK_OK(gpu->ops->upload(gpu, t.mask_d, t.mask, (size_t)(windows * n * n) * sizeof(float)));
    return t;
}

static void tables_free(bias_mask *t)
{
    gpu->ops->free(gpu, t->bias_d), gpu->ops->free(gpu, t->mask_d);
    free(t->bias), free(t->mask);
}

static void one_attention(swin_rng *rng, int images, int window, int heads, int d, int shift, swin_softmax kind,
                          swin_dtype t, fill f)
{
    char what[128];
    const swin_windows g = {
        .images = images, .height = 2 * window, .width = 3 * window, .window = window, .shift = shift
    };
    const int64_t rows = swin_windows_tokens(&g);
    const int n = window * window, c = heads * d;
    snprintf(what, sizeof what, "attention_s8 window %d, %d heads of %d, shift %d, softmax %d, %s, fill %d",
             window, heads, d, shift, (int)kind, swin_dtype_name(t), (int)f);
    pair q = codes(rng, rows, c, 3 * c, 0.02f, 0, f), k = codes(rng, rows, c, 3 * c, 0.03f, 0, f),
         v = codes(rng, rows, c, c + 16, 0.025f, 0, f), out = make(t, rows, c, c + (t == SWIN_S8 ? 16 : 8));
    how(&out, 0.02f, 0, -127);
    bias_mask b = tables(rng, heads, n, swin_windows_per_image(&g));
    const float scale = 1 / sqrtf((float)d);
    const swin_attention ar = { heads, d, scale, b.bias, shift ? b.mask : NULL, kind },
                         ag = { heads, d, scale, b.bias_d, shift ? b.mask_d : NULL, kind };
    const swin_tensor h[3] = { q.h, k.h, v.h }, dev[3] = { q.d, k.d, v.d };
    CHECK_OK(ref->ops->attention_s8(ref, &out.h, h, &ar, 1.0f / 127, &g));
    CHECK_OK(gpu->ops->attention_s8(gpu, &out.d, dev, &ag, 1.0f / 127, &g));
    if (t == SWIN_S8)
        compare_codes(&out, what);
    else /* single codes of the softmax may fall to the other side of a tie */
        compare_floats(&out, one_rounding(t) + 2e-4, what);
    tables_free(&b);
    drop(&q), drop(&k), drop(&v), drop(&out);
}

static void test_attention(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 35 };
    for (int kind = 0; kind < 2; kind++) {
        const swin_softmax s = kind ? SWIN_SOFTMAX_U8 : SWIN_SOFTMAX_EXACT;
        one_attention(&rng, 2, 7, 3, 32, 0, s, SWIN_S8, RANDOM);
        one_attention(&rng, 2, 7, 6, 32, 3, s, SWIN_S8, RANDOM);
        one_attention(&rng, 2, 7, 1, 32, 3, s, SWIN_S8, EXTREME);
        one_attention(&rng, 2, 7, 2, 32, 3, s, SWIN_S8, HIGH);
        one_attention(&rng, 2, 7, 4, 32, 3, s, SWIN_F16, RANDOM);
        one_attention(&rng, 2, 7, 4, 32, 3, s, SWIN_F32, RANDOM);
        one_attention(&rng, 2, 7, 4, 32, 3, s, SWIN_BF16, RANDOM);
        one_attention(&rng, 2, 8, 4, 32, 4, s, SWIN_S8, RANDOM);
        one_attention(&rng, 2, 12, 3, 32, 6, s, SWIN_S8, RANDOM);
        one_attention(&rng, 2, 12, 2, 32, 6, s, SWIN_S8, HIGH);
        one_attention(&rng, 2, 12, 2, 32, 0, s, SWIN_F16, EXTREME);
        one_attention(&rng, 2, 7, 2, 24, 3, s, SWIN_S8, RANDOM);
        one_attention(&rng, 2, 5, 2, 17, 2, s, SWIN_S8, RANDOM);
        one_attention(&rng, 2, 5, 2, 17, 2, s, SWIN_F16, RANDOM);
        one_attention(&rng, 2, 16, 1, 32, 8, s, SWIN_S8, RANDOM);
        one_attention(&rng, 2, 24, 1, 32, 12, s, SWIN_S8, RANDOM);
        one_attention(&rng, 2, 2, 1, 4, 1, s, SWIN_S8, RANDOM);
        one_attention(&rng, 2, 8, 4, 24, 4, s, SWIN_S8, RANDOM);
        one_attention(&rng, 2, 8, 2, 24, 0, s, SWIN_F16, EXTREME);
        one_attention(&rng, 2, 16, 1, 24, 8, s, SWIN_S8, HIGH);
        /* enough images for blocks that walk several */
        one_attention(&rng, 25, 8, 12, 32, 4, s, SWIN_S8, RANDOM);
        one_attention(&rng, 17, 12, 4, 32, 6, s, SWIN_S8, RANDOM);
        one_attention(&rng, 13, 16, 3, 32, 8, s, SWIN_S8, RANDOM);
        one_attention(&rng, 5, 24, 1, 32, 12, s, SWIN_S8, EXTREME);
        judge(kind ? "attention_s8, u8 softmax" : "attention_s8, exact softmax");
    }
}

/* ---- Swin V2's heads
 * ---------------------------------------------------------------------------------------------- */

static void test_heads(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 38 };
    static const int shapes[][2] = { { 3, 32 }, { 6, 32 }, { 2, 24 }, { 1, 5 } };
    for (size_t i = 0; i < SWIN_COUNT(shapes); i++)
        for (int form = 0; form < 4; form++) {
            const int heads = shapes[i][0], c = heads * shapes[i][1];
            float *scale_d, *scale = vector(&rng, heads, 10, 3, &scale_d);
            pair x = form < 2 ? codes(&rng, 97, c, 3 * c, 0.02f, 0, RANDOM)
                              : floats(&rng, SWIN_F32, 97, c, 3 * c, form == 2 ? 1 : 0),
                 y = make(SWIN_S8, 97, c, c + 8);
            how(&y, form % 2 ? 0.01f : 0.05f, 0, -127);
            CHECK_OK(ref->ops->normalise_heads(ref, &y.h, &x.h, heads, form % 2 ? NULL : scale));
            CHECK_OK(gpu->ops->normalise_heads(gpu, &y.d, &x.d, heads, form % 2 ? NULL : scale_d));
            compare_codes(&y, "normalise_heads");
            gpu->ops->free(gpu, scale_d);
            free(scale);
            drop(&x), drop(&y);
        }
    judge("normalise_heads");
}

/* ---- fused halves
 * ------------------------------------------------------------------------------------------------- */

static swin_tensor format(float scale, int zero_point)
{
    return (swin_tensor){ .dtype = SWIN_S8,
                          .scale = scale,
                          .zero_point = zero_point,
                          .qmin = zero_point ? -128 : -127,
                          .qmax = 127 };
}

static swin_tensor coded(const pair *m, const swin_tensor *f)
{
    swin_tensor t = m->d;
    t.scale = f->scale, t.zero_point = f->zero_point, t.qmin = f->qmin, t.qmax = f->qmax;
    return t;
}

static void same_floats(const pair *a, const pair *b, const char *what)
{
    float *x = (float *)get(a, what), *y = (float *)get(b, what);
    int64_t off = 0;
    for (int64_t i = 0; i < a->d.rows * a->d.cols; i++) off += memcmp(&x[i], &y[i], sizeof *x) != 0;
    CHECK(off == 0, "%s: %lld of %lld values differ from the operators one by one", what, (long long)off,
          (long long)(a->d.rows * a->d.cols));
    free(x), free(y);
}

/* mode 3: no rounding of products, a zero point at fc2; else modes 1 and 2 in one. */
static void one_mlp(swin_rng *rng, int64_t rows, int c, int mode)
{
    char what[96];
    snprintf(what, sizeof what, "mlp half of %lld rows, %d channels, mode %d", (long long)rows, c, mode);
    const int zero = mode == 3 ? -100 : 0;
    const float size1 = typical(c, 0.03f), after1 = mode == 3 ? 0 : size1 * 0.03f;
    pair x = floats(rng, SWIN_F16, rows, c, c, 2), copy = make(SWIN_F16, rows, c, c);
    memcpy(copy.host, x.host, (size_t)(rows * c) * sizeof(float));
    put(&copy);
    layer fc1 = layer_make(rng, 4 * c, c, 0, true, RANDOM),
          fc2 = layer_make(rng, c, 4 * c, zero, true, RANDOM);
    float *gamma_d, *beta_d, *gamma = vector(rng, c, 1, 0.2, &gamma_d),
                             *beta = vector(rng, c, 0, 0.2, &beta_d);
    const swin_norm n = { gamma_d, beta_d, 1e-5f };
    const swin_layer_s8 a = { &fc1.g, format(0.03f, 0), after1 },
                        b = { &fc2.g, format(size1 / 60, zero), mode == 1 ? size1 : 0 };
    CHECK_OK(gpu->ops->mlp_half_s8(gpu, &x.d, &n, &a, &b));

    pair normed = make(SWIN_S8, rows, c, c), hidden = make(SWIN_S8, rows, 4 * c, 4 * c);
    swin_tensor nt = coded(&normed, &a.input), ht = coded(&hidden, &b.input);
    CHECK_OK(gpu->ops->layernorm(gpu, &nt, &copy.d, &n));
    CHECK_OK(gpu->ops->linear_s8(gpu, &ht, 1, &nt, &fc1.g, a.after_scale, SWIN_ACT_GELU));
    CHECK_OK(gpu->ops->linear_s8_residual(gpu, &copy.d, &ht, &fc2.g, b.after_scale, NULL));
    same_floats(&x, &copy, what);
    gpu->ops->free(gpu, gamma_d), gpu->ops->free(gpu, beta_d);
    free(gamma), free(beta);
    layer_free(&fc1), layer_free(&fc2);
    drop(&x), drop(&copy), drop(&normed), drop(&hidden);
}

static void one_attention_half(swin_rng *rng, int window, int heads, int d, int shift, int images, int mode)
{
    char what[128];
    const int c = heads * d, n = window * window;
    const swin_windows g = {
        .images = images, .height = 2 * window, .width = 2 * window, .window = window, .shift = shift
    };
    const int64_t rows = swin_windows_tokens(&g);
    snprintf(what, sizeof what, "attention half, window %d, %d heads of %d, shift %d, %d images, mode %d",
             window, heads, d, shift, images, mode);
    const float size = typical(c, 0.03f);
    pair x = floats(rng, SWIN_F16, rows, c, c, 2), copy = make(SWIN_F16, rows, c, c);
    memcpy(copy.host, x.host, (size_t)(rows * c) * sizeof(float));
    put(&copy);
    layer qkv = layer_make(rng, 3 * c, c, 0, true, RANDOM), proj = layer_make(rng, c, c, 0, true, RANDOM);
    float *gamma_d, *beta_d, *gamma = vector(rng, c, 1, 0.2, &gamma_d),
                             *beta = vector(rng, c, 0, 0.2, &beta_d);
    bias_mask b = tables(rng, heads, n, swin_windows_per_image(&g));
    const swin_norm norm = { gamma_d, beta_d, 1e-5f };
    const swin_attention at = {
        heads, d, 0.02f, b.bias_d, shift ? b.mask_d : NULL, mode == 3 ? SWIN_SOFTMAX_U8 : SWIN_SOFTMAX_EXACT
    };
    const swin_layer_s8 lq = { &qkv.g, format(0.03f, 0), mode == 3 ? 0 : size * 0.03f },
                        lp = { &proj.g, format(size / 50, 0), mode == 3 ? 0 : size };
    const swin_tensor parts[3] = { format(size / 40, 0), format(size / 41, 0), format(size / 42, 0) };
    CHECK_OK(gpu->ops->attention_half_s8(gpu, &x.d, &norm, &lq, parts, &at, 1.0f / 127, &lp, &g));

    pair normed = make(SWIN_S8, rows, c, c), wide = make(SWIN_S8, rows, 3 * c, 3 * c),
         mixed = make(SWIN_S8, rows, c, c);
    swin_tensor nt = coded(&normed, &lq.input), mt = coded(&mixed, &lp.input), qt[3];
    for (int i = 0; i < 3; i++) {
        const swin_tensor whole = coded(&wide, &parts[i]);
        qt[i] = swin_columns(&whole, i * c, c);
    }
    CHECK_OK(gpu->ops->layernorm_windows(gpu, &nt, &copy.d, &norm, &g));
    CHECK_OK(gpu->ops->linear_s8(gpu, qt, 3, &nt, &qkv.g, lq.after_scale, SWIN_ACT_NONE));
    CHECK_OK(gpu->ops->attention_s8(gpu, &mt, qt, &at, 1.0f / 127, &g));
    CHECK_OK(gpu->ops->linear_s8_residual(gpu, &copy.d, &mt, &proj.g, lp.after_scale, &g));
    same_floats(&x, &copy, what);
    gpu->ops->free(gpu, gamma_d), gpu->ops->free(gpu, beta_d);
    free(gamma), free(beta);
    tables_free(&b);
    layer_free(&qkv), layer_free(&proj);
    drop(&x), drop(&copy), drop(&normed), drop(&wide), drop(&mixed);
}

static void one_merge(swin_rng *rng, int images, int side, int c, int mode)
{
    char what[96];
    const swin_windows g = { .images = images, .height = side, .width = side, .window = side };
    const int64_t rows = swin_windows_tokens(&g);
    snprintf(what, sizeof what, "merge of %d maps of %d, %d channels, mode %d", images, side, c, mode);
    pair x = floats(rng, SWIN_F16, rows, c, c, 2), normed = make(SWIN_S8, rows / 4, 4 * c, 4 * c),
         one = make(SWIN_F16, rows / 4, 2 * c, 2 * c), two = make(SWIN_F16, rows / 4, 2 * c, 2 * c);
    layer l = layer_make(rng, 2 * c, 4 * c, 0, false, RANDOM);
    float *gamma_d, *beta_d, *gamma = vector(rng, 4 * c, 1, 0.2, &gamma_d),
                             *beta = vector(rng, 4 * c, 0, 0.2, &beta_d);
    const swin_norm n = { gamma_d, beta_d, 1e-5f };
    const swin_layer_s8 r = { &l.g, format(0.03f, 0), mode == 1 ? typical(4 * c, 0.03f) * 0.03f : 0 };
    swin_tensor nt = coded(&normed, &r.input);
    CHECK_OK(gpu->ops->merge_s8(gpu, &one.d, &x.d, &n, &r, &g));
    CHECK_OK(gpu->ops->layernorm_merge(gpu, &nt, &x.d, &n, &g));
    CHECK_OK(gpu->ops->linear_s8(gpu, &two.d, 1, &nt, &l.g, r.after_scale, SWIN_ACT_NONE));
    same_floats(&one, &two, what);
    gpu->ops->free(gpu, gamma_d), gpu->ops->free(gpu, beta_d);
    free(gamma), free(beta);
    layer_free(&l);
    drop(&x), drop(&normed), drop(&one), drop(&two);
}

static void test_halves(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 36 };
    static const int channels[] = { 48, 96, 128, 192, 256, 384, 512, 768 };
    static const int64_t rows[] = { 1, 49, 200, 5000 };
    for (int mode = 1; mode <= 3; mode++) {
        for (size_t i = 0; i < (brief ? 4 : SWIN_COUNT(channels)); i++)
            one_mlp(&rng, rows[(i + (size_t)mode) % (brief ? 3 : SWIN_COUNT(rows))], channels[i], mode);
        one_attention_half(&rng, 7, 3, 32, 0, 1, mode);
        one_attention_half(&rng, 7, 3, 32, 3, 9, mode);
        one_attention_half(&rng, 7, 4, 32, 3, 3, mode);
        one_attention_half(&rng, 7, 6, 32, 3, 2, mode);
        one_attention_half(&rng, 7, 12, 32, 3, 2, mode);
        one_attention_half(&rng, 7, 24, 32, 0, 2, mode);
        one_attention_half(&rng, 8, 4, 24, 4, 2, mode);
        one_attention_half(&rng, 12, 4, 32, 6, 2, mode);
        for (int c = 48; c <= (brief ? 96 : 768); c *= 2) one_merge(&rng, 3, 14, c, mode);
        one_merge(&rng, 2, 14, 128, mode);
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

static int open_devices(void **state)
{
    (void)state;
    brief = getenv("SWIN_TEST_SMALL") != NULL;
    CHECK_OK(swin_dev_open(&ref, "ref", &(swin_dev_opts){ 0 }));
    if (swin_dev_open(&gpu, "cuda", &(swin_dev_opts){ 0 }) != SWIN_OK)
        print_message("no GPU: %s\n", swin_error_message());
    return 0;
}

static int close_devices(void **state)
{
    (void)state;
    swin_dev_close(ref);
    swin_dev_close(gpu);
    if (skipped) print_message("skipped: %d tests need a GPU\n", skipped);
    return 0;
}

/* An argument chooses tests by name, as cmocka's filter does: "test_atten*". */
int main(int argc, char **argv)
{
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norms),    cmocka_unit_test(test_quantize_by_hand),
        cmocka_unit_test(test_products), cmocka_unit_test(test_residuals),
        cmocka_unit_test(test_rows),     cmocka_unit_test(test_attention),
        cmocka_unit_test(test_heads),    cmocka_unit_test(test_halves),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
