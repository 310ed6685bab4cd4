#include "tests/support/bench.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

bool bench_cpu_clock;

double bench_now(void)
{
    struct timespec t;
    clock_gettime(bench_cpu_clock ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#if defined(__x86_64__)
#include <immintrin.h>

/* 24 independent chains hide the latency of both ports. */
#define FMA_LOOP(type, set, fma, store, isa)                                                                 \
    __attribute__((target(isa))) static double fma_##type(long rounds)                                       \
    {                                                                                                        \
        type sum[12], x = set(1.0f), y = set(1e-9f);                                                         \
        float out[16];                                                                                       \
        for (int i = 0; i < 12; i++) sum[i] = set((float)i);                                                 \
        const double start = bench_now();                                                                    \
        for (long r = 0; r < rounds; r++)                                                                    \
            for (int i = 0; i < 12; i++) sum[i] = fma(x, y, sum[i]);                                         \
        const double seconds = bench_now() - start;                                                          \
        for (int i = 1; i < 12; i++) sum[0] = fma(sum[i], x, sum[0]);                                        \
        store(out, sum[0]);                                                                                  \
        return out[0] > 0 ? (double)rounds * 12 * 2 * (sizeof(type) / 4) / seconds : 0;                      \
    }
FMA_LOOP(__m512, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_storeu_ps, "avx512f")
FMA_LOOP(__m256, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_storeu_ps, "avx2,fma")
#endif

double bench_fma_peak(void)
{
    double best = 0;
#if defined(__x86_64__)
    for (int i = 0; i < 5; i++) {
        double v = 0;
        if (__builtin_cpu_supports("avx512f"))
            v = fma___m512(2000000);
        else if (__builtin_cpu_supports("fma"))
            v = fma___m256(2000000);
        best = v > best ? v : best;
    }
#endif
    return best;
}

#if defined(__x86_64__)
/* The same 12 chains; `per` operations of a lane and step. */
#define S8_LOOP(name, type, set, dot, lanes, per, isa)                                                       \
    __attribute__((target(isa))) static double s8_##name(long rounds)                                        \
    {                                                                                                        \
        type sum[12], x = set(0x01020304), y = set(0x01fe0102);                                              \
        int out[16];                                                                                         \
        for (int i = 0; i < 12; i++) sum[i] = set(i);                                                        \
        const double start = bench_now();                                                                    \
        for (long r = 0; r < rounds; r++)                                                                    \
            for (int i = 0; i < 12; i++) sum[i] = dot(sum[i], x, y);                                         \
        const double seconds = bench_now() - start;                                                          \
        for (int i = 1; i < 12; i++) sum[0] = dot(sum[0], sum[i], y);                                        \
        memcpy(out, &sum[0], sizeof sum[0]);                                                                 \
        return out[0] != 1 ? (double)rounds * 12 * (per) * (lanes) / seconds : 0;                            \
    }
#define MADD512(s, a, b) _mm512_add_epi32(s, _mm512_madd_epi16(a, b))
#define MADD256(s, a, b) _mm256_add_epi32(s, _mm256_madd_epi16(a, b))
S8_LOOP(vnni, __m512i, _mm512_set1_epi32, _mm512_dpbusd_epi32, 16, 8, "avx512f,avx512vnni")
S8_LOOP(avx512, __m512i, _mm512_set1_epi32, MADD512, 16, 4, "avx512f,avx512bw")
S8_LOOP(avx2, __m256i, _mm256_set1_epi32, MADD256, 8, 4, "avx2")
#endif

double bench_s8_peak(void)
{
    double best = 0;
#if defined(__x86_64__)
    for (int i = 0; i < 5; i++) {
        double v = 0;
        if (__builtin_cpu_supports("avx512vnni"))
            v = s8_vnni(2000000);
        else if (__builtin_cpu_supports("avx512bw"))
            v = s8_avx512(2000000);
        else if (__builtin_cpu_supports("avx2"))
            v = s8_avx2(2000000);
        best = v > best ? v : best;
    }
#endif
    return best;
}

/* ---- time by operator --------------------------------------------------------------------------------------------- */
enum {
    LINEAR,
    LINEAR_RESIDUAL,
    ATTENTION,
    SCORES,
    SOFTMAX,
    WEIGHTED,
    NORM,
    NORM_WINDOWS,
    MERGE,
    BIAS_ACT,
    ADD,
    OBSERVE,
    PATCH,
    LINEAR_S8,
    RESIDUAL_S8,
    ATTENTION_S8,
    QUANTIZE,
    KINDS
};
static const char *const names[KINDS] = {
    "linear",      "linear_residual",   "attention",          "scores",       "softmax",      "weighted_sum",
    "layernorm",   "layernorm_windows", "layernorm_merge",    "bias_act",     "residual_add", "observe",
    "patch_embed", "linear_s8",         "linear_s8_residual", "attention_s8", "quantize"
};

static swin_dev *profiled;
static const swin_ops *real;
static swin_ops timing;
static double spent[KINDS], flops[KINDS];

static swin_status add_time(int kind, double start, swin_status st)
{
    spent[kind] += bench_now() - start;
    return st;
}

static swin_status t_linear(swin_dev *d, swin_tensor *y, const swin_tensor *x, const swin_linear *l, bool b,
                            swin_act a)
{
    flops[LINEAR] += 2.0 * (double)x->rows * l->in * l->out;
    const double start = bench_now();
    return add_time(LINEAR, start, real->linear(d, y, x, l, b, a));
}
static swin_status t_residual(swin_dev *d, swin_tensor *y, const swin_tensor *x, const swin_linear *l,
                              const swin_windows *g)
{
    flops[LINEAR_RESIDUAL] += 2.0 * (double)x->rows * l->in * l->out;
    const double start = bench_now();
    return add_time(LINEAR_RESIDUAL, start, real->linear_residual(d, y, x, l, g));
}
static swin_status t_attention(swin_dev *d, swin_tensor *o, const swin_tensor *q, const swin_attention *a,
                               const swin_windows *g)
{
    const double start = bench_now();
    return add_time(ATTENTION, start, real->attention(d, o, q, a, g));
}
static swin_status t_linear_seen(swin_dev *d, swin_tensor *y, const swin_tensor *x, const swin_linear *l,
                                 swin_act a, const swin_linear_seen *s)
{
    flops[LINEAR] += 2.0 * (double)x->rows * l->in * l->out;
    const double start = bench_now();
    return add_time(LINEAR, start, real->linear_seen(d, y, x, l, a, s));
}
static swin_status t_residual_seen(swin_dev *d, swin_tensor *y, const swin_tensor *x, const swin_linear *l,
                                   const swin_windows *g, const swin_linear_seen *s)
{
    flops[LINEAR_RESIDUAL] += 2.0 * (double)x->rows * l->in * l->out;
    const double start = bench_now();
    return add_time(LINEAR_RESIDUAL, start, real->linear_residual_seen(d, y, x, l, g, s));
}
static swin_status t_attention_seen(swin_dev *d, swin_tensor *o, const swin_tensor *q,
                                    const swin_attention *a, const swin_windows *g, swin_observer *s,
                                    swin_observer *p)
{
    const double start = bench_now();
    return add_time(ATTENTION, start, real->attention_seen(d, o, q, a, g, s, p));
}
static swin_status t_scores(swin_dev *d, swin_tensor *s, const swin_tensor *q, const swin_attention *a,
                            const swin_windows *g)
{
    const double start = bench_now();
    return add_time(SCORES, start, real->scores(d, s, q, a, g));
}
static swin_status t_softmax(swin_dev *d, swin_tensor *s, const swin_attention *a, const swin_windows *g)
{
    const double start = bench_now();
    return add_time(SOFTMAX, start, real->softmax(d, s, a, g));
}
static swin_status t_weighted(swin_dev *d, swin_tensor *o, const swin_tensor *s, const swin_tensor *q,
                              const swin_attention *a, const swin_windows *g)
{
    const double start = bench_now();
    return add_time(WEIGHTED, start, real->weighted_sum(d, o, s, q, a, g));
}
static swin_status t_norm(swin_dev *d, swin_tensor *o, const swin_tensor *x, const swin_norm *n)
{
    const double start = bench_now();
    return add_time(NORM, start, real->layernorm(d, o, x, n));
}
static swin_status t_windows(swin_dev *d, swin_tensor *o, const swin_tensor *x, const swin_norm *n,
                             const swin_windows *g)
{
    const double start = bench_now();
    return add_time(NORM_WINDOWS, start, real->layernorm_windows(d, o, x, n, g));
}
static swin_status t_merge(swin_dev *d, swin_tensor *o, const swin_tensor *x, const swin_norm *n,
                           const swin_windows *g)
{
    const double start = bench_now();
    return add_time(MERGE, start, real->layernorm_merge(d, o, x, n, g));
}
static swin_status t_bias(swin_dev *d, swin_tensor *y, const float *b, swin_act a)
{
    const double start = bench_now();
    return add_time(BIAS_ACT, start, real->bias_act(d, y, b, a));
}
static swin_status t_add(swin_dev *d, swin_tensor *r, const swin_tensor *y, const swin_windows *g)
{
    const double start = bench_now();
    return add_time(ADD, start, real->residual_add(d, r, y, g));
}
static swin_status t_observe(swin_dev *d, swin_observer *o, const swin_tensor *x)
{
    flops[OBSERVE] += (double)x->rows * (double)x->cols; /* elements */
    const double start = bench_now();
    return add_time(OBSERVE, start, real->observe(d, o, x));
}
static swin_status t_patch(swin_dev *d, swin_tensor *o, const float *images, int batch, int size,
                           const swin_patch_embed *p)
{
    const double start = bench_now();
    return add_time(PATCH, start, real->patch_embed(d, o, images, batch, size, p));
}

static swin_status t_linear_s8(swin_dev *d, swin_tensor *y, int parts, const swin_tensor *x,
                               const swin_linear *l, float after, swin_act a)
{
    flops[LINEAR_S8] += 2.0 * (double)x->rows * l->in * l->out;
    const double start = bench_now();
    return add_time(LINEAR_S8, start, real->linear_s8(d, y, parts, x, l, after, a));
}
static swin_status t_residual_s8(swin_dev *d, swin_tensor *y, const swin_tensor *x, const swin_linear *l,
                                 float after, const swin_windows *g)
{
    flops[RESIDUAL_S8] += 2.0 * (double)x->rows * l->in * l->out;
    const double start = bench_now();
    return add_time(RESIDUAL_S8, start, real->linear_s8_residual(d, y, x, l, after, g));
}
static swin_status t_attention_s8(swin_dev *d, swin_tensor *o, const swin_tensor q[3],
                                  const swin_attention *a, float prob_scale, const swin_windows *g)
{
    const double start = bench_now();
    return add_time(ATTENTION_S8, start, real->attention_s8(d, o, q, a, prob_scale, g));
}
static swin_status t_quantize(swin_dev *d, swin_tensor *o, const swin_tensor *x)
{
    const double start = bench_now();
    return add_time(QUANTIZE, start, real->quantize(d, o, x));
}

void bench_profile_begin(swin_dev *dev)
{
    profiled = dev;
    real = dev->ops;
    timing = *real;
    timing.linear = t_linear, timing.linear_residual = t_residual, timing.attention = t_attention;
    if (real->linear_seen) {
        timing.linear_seen = t_linear_seen, timing.linear_residual_seen = t_residual_seen;
        timing.attention_seen = t_attention_seen;
    }
    timing.scores = t_scores, timing.softmax = t_softmax, timing.weighted_sum = t_weighted;
    timing.layernorm = t_norm, timing.layernorm_windows = t_windows, timing.layernorm_merge = t_merge;
    timing.bias_act = t_bias, timing.residual_add = t_add, timing.observe = t_observe,
    timing.patch_embed = t_patch;
    timing.linear_s8 = t_linear_s8, timing.linear_s8_residual = t_residual_s8;
    timing.attention_s8 = t_attention_s8, timing.quantize = t_quantize;
    dev->ops = &timing;
    bench_profile_clear();
}

void bench_profile_clear(void)
{
    memset(spent, 0, sizeof spent);
    memset(flops, 0, sizeof flops);
}

void bench_profile_print(const char *what, int runs)
{
    double total = 0;
    for (int i = 0; i < KINDS; i++) total += spent[i];
    printf("-- %s, operators only: %.2f ms\n", what, 1e3 * total / runs);
    for (int i = 0; i < KINDS; i++)
        if (spent[i] > 0)
            printf("   %-18s %8.2f ms %5.1f %%  %s%.2f\n", names[i], 1e3 * spent[i] / runs,
                   100 * spent[i] / total, flops[i] > 0 ? "G/s " : "", flops[i] / spent[i] / 1e9);
    bench_profile_clear();
}

void bench_profile_end(void)
{
    if (profiled) profiled->ops = real;
    profiled = NULL;
}
