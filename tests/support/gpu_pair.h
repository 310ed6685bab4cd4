/* tests/support/gpu_pair.h - what the tests of the cuda backend's operators share: matrices in both
 * memories, layers and tables of both backends, comparisons. A header of functions: each test is one
 * program. */
#ifndef SWIN_TESTS_GPU_PAIR_H
#define SWIN_TESTS_GPU_PAIR_H

#include <math.h>

#include "runtime/base/half.h"
#include "runtime/ops/ops.h"
#include "tests/support/testing.h"

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
 * latter: NaN in floats. */
typedef struct pair {
    char *host;   /* dense: float32, codes or INT32 */
    char *staged; /* what the GPU holds, guards included */
    void *memory; /* device */
    size_t bytes;
    swin_tensor h, d;
} pair;

static inline int poison_of(swin_dtype t)
{
    return t == SWIN_S8 || t == SWIN_S32 ? 0xa5 : 0xff;
}

/* For an output: poisoned on the GPU, zeros for ref. */
static inline pair make(swin_dtype t, int64_t rows, int64_t cols, int64_t ld)
{
    const bool whole = t == SWIN_S8 || t == SWIN_S32;
    const size_t unit = swin_dtype_size(t), host_unit = whole ? unit : sizeof(float);
    pair m = { .bytes = (size_t)(rows * ld + 2 * GUARD) * unit };
    m.host = calloc((size_t)(rows * cols), host_unit);
    m.staged = malloc(m.bytes);
    CHECK(m.host && m.staged, "no memory");
    memset(m.staged, poison_of(t), m.bytes);
    CHECK_OK(gpu->ops->alloc(gpu, &m.memory, m.bytes));
    CHECK_OK(gpu->ops->upload(gpu, m.memory, m.staged, m.bytes));
    m.h = swin_matrix(m.host, whole ? t : SWIN_F32, rows, cols);
    m.d = swin_matrix((char *)m.memory + GUARD * unit, t, rows, cols);
    m.d.ld = ld;
    return m;
}

static inline void how(pair *m, float scale, int zero_point, int qmin)
{
    m->h.scale = m->d.scale = scale;
    m->h.zero_point = m->d.zero_point = zero_point;
    m->h.qmin = m->d.qmin = qmin;
    m->h.qmax = m->d.qmax = 127;
}

static inline void put(pair *m)
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
static inline void poison(pair *m)
{
    memset(m->staged, poison_of(m->d.dtype), m->bytes);
    CHECK_OK(gpu->ops->upload(gpu, m->memory, m->staged, m->bytes));
}

/* Normal values, representable in the type. */
static inline pair floats(swin_rng *rng, swin_dtype t, int64_t rows, int64_t cols, int64_t ld, double sd)
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

static inline void fill_codes(swin_rng *rng, int8_t *v, size_t n, fill f, int qmin)
{
    for (size_t i = 0; i < n; i++)
        v[i] = f == HIGH      ? (int8_t)(qmin == -128 ? -128 : 127)
               : f == EXTREME ? (int8_t)(swin_rng_below(rng, 2) ? 127 : qmin)
                              : (int8_t)((int)swin_rng_below(rng, (uint32_t)(128 - qmin)) + qmin);
}

static inline pair codes(swin_rng *rng, int64_t rows, int64_t cols, int64_t ld, float scale, int zero_point,
                         fill f)
{
    pair m = make(SWIN_S8, rows, cols, ld);
    how(&m, scale, zero_point, zero_point ? -128 : -127);
    fill_codes(rng, (int8_t *)m.host, (size_t)(rows * cols), f, m.h.qmin);
    put(&m);
    return m;
}

/* What the GPU has now, dense; guards and padding must still be as they were. Caller frees. */
static inline char *get(const pair *m, const char *what)
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

static inline void drop(pair *m)
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
static inline void compare_codes(const pair *m, const char *what)
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

static inline void compare_sums(const pair *m, const char *what)
{
    int32_t *got = (int32_t *)get(m, what);
    const int32_t *want = (const int32_t *)m->host;
    for (int64_t i = 0; i < m->d.rows * m->d.cols; i++)
        CHECK(got[i] == want[i], "%s: row %lld, column %lld: sum %d, not %d", what,
              (long long)(i / m->d.cols), (long long)(i % m->d.cols), got[i], want[i]);
    free(got);
}

static inline void compare_floats(const pair *m, double limit, const char *what)
{
    float *got = (float *)get(m, what);
    const double e = swin_rel_l2(got, (const float *)m->host, (size_t)(m->d.rows * m->d.cols));
    if (e > tally.error) tally.error = e;
    CHECK(e <= limit, "%s: relative error %.1e", what, e);
    free(got);
}

static inline void judge(const char *what)
{
    const double share = tally.seen ? 100.0 * (double)tally.off / (double)tally.seen : 0;
    print_message("  %s: %.4f %% of %lld codes one step off, worst relative error %.1e\n", what, share,
                  (long long)tally.seen, tally.error);
    CHECK(share < 0.1, "%s: %.3f %% of codes differ", what, share);
    tally.seen = tally.off = 0;
    tally.error = 0;
}

static inline float *vector(swin_rng *rng, int64_t n, double mean, double sd, float **device)
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

/* `shrink` of q, k or v: one number for the d columns of a head, from `least` to eight times that. */
static inline float *head_factors(swin_rng *rng, int c, int d, double least, float **device)
{
    float *v = vector(rng, c, 0, 1, device);
    for (int i = 0; i < c; i++) v[i] = i % d ? v[i - 1] : (float)(least * pow(8, swin_rng_uniform(rng)));
    CHECK_OK(gpu->ops->upload(gpu, *device, v, (size_t)c * sizeof *v));
    return v;
}

/* One rounding to the type. */
static inline double one_rounding(swin_dtype t)
{
    return t == SWIN_F16 ? 4e-4 : t == SWIN_BF16 ? 3e-3 : 1e-6;
}

/* ---- products
 * ---------------------------------------------------------------------------------------------------- */

typedef struct layer {
    int8_t *codes;
    float *scale, *bias;
    swin_linear r, g;
} layer;

static inline layer layer_make(swin_rng *rng, int n, int k, int zero_point, bool with_bias, fill f)
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

static inline void layer_free(layer *l)
{
    ref->ops->linear_release(ref, &l->r);
    gpu->ops->linear_release(gpu, &l->g);
    free(l->codes), free(l->scale), free(l->bias);
}

/* The size of a typical value, to scale codes and roundings by: random codes of deviation 74 each. */
static inline float typical(int k, float x_scale)
{
    return 74.f * 74.f * sqrtf((float)k) * x_scale * 0.0015f;
}

/* ---- attention's tables
 * ---------------------------------------------------------------------------------------------- */

typedef struct bias_mask {
    float *bias, *mask, *bias_d, *mask_d;
} bias_mask;

static inline bias_mask tables(swin_rng *rng, int heads, int n, int windows)
{
    bias_mask t;
    t.bias = vector(rng, (int64_t)heads * n * n, 0, 1, &t.bias_d);
    t.mask = vector(rng, (int64_t)windows * n * n, 0, 1, &t.mask_d);
    for (int i = 0; i < windows * n * n; i++)
        t.mask[i] = i % n != i / n % n && swin_rng_below(rng, 3) == 0 ? -100.f : 0.f;
    CHECK_OK(gpu->ops->upload(gpu, t.mask_d, t.mask, (size_t)(windows * n * n) * sizeof(float)));
    return t;
}

static inline void tables_free(bias_mask *t)
{
    gpu->ops->free(gpu, t->bias_d), gpu->ops->free(gpu, t->mask_d);
    free(t->bias), free(t->mask);
}

static inline int open_devices(void **state)
{
    (void)state;
    brief = getenv("SWIN_TEST_SMALL") != NULL;
    CHECK_OK(swin_dev_open(&ref, "ref", &(swin_dev_opts){ 0 }));
    if (swin_dev_open(&gpu, "cuda", &(swin_dev_opts){ 0 }) != SWIN_OK)
        print_message("no GPU: %s\n", swin_error_message());
    return 0;
}

static inline int close_devices(void **state)
{
    (void)state;
    swin_dev_close(ref);
    swin_dev_close(gpu);
    if (skipped) print_message("skipped: %d tests need a GPU\n", skipped);
    return 0;
}

#endif
