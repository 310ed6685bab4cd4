/* runtime/ops/ops_cpu_body.h - rows and spans for one instruction set, and its table. Compiled three times; the including
 * file defines SWIN_CPU_TABLE and SWIN_CPU_ISA (ops_cpu_kernels.h). */
#include <math.h>

#include "runtime/base/half.h"
#include "runtime/ops/ops_cpu_body_gemm.h"

ALWAYS_INLINE void softmax_row(float *s, int n, const float *bias, const float *mask, float scale,
                               swin_softmax kind)
{
    vf most = vf_set(-INFINITY), sum = { 0 };
    for (int c = 0; c < n; c += VL) {
        const int left = n - c;
        vf v = vf_load_n(s + c, left) * scale;
        if (bias) v = v + vf_load_n(bias + c, left);
        if (mask) v = v + vf_load_n(mask + c, left);
        vf_store_n(s + c, v, left);
        most = vf_max(left >= VL ? v : vf_pick(vi_first(left), v, most), most);
    }
    const float top = vf_most(most);
    for (int c = 0; c < n; c += VL) {
        const int left = n - c;
        vf e = vf_exp_negative(vf_load_n(s + c, left) - top);
        if (kind == SWIN_SOFTMAX_U8) e = vf_rint(e * 255.0f);
        vf_store_n(s + c, e, left);
        sum = sum + (left >= VL ? e : vf_keep(e, vi_first(left)));
    }
    const float inverse = 1.0f / vf_sum(sum);
    for (int c = 0; c < n; c += VL) vf_store_n(s + c, vf_load_n(s + c, n - c) * inverse, n - c);
}

static void softmax(float *s, int64_t ld_s, int tokens, const float *bias, const float *mask, float scale,
                    swin_softmax kind)
{
    for (int64_t r = 0; r < tokens; r++)
        softmax_row(s + r * ld_s, tokens, bias ? bias + r * tokens : NULL, mask ? mask + r * tokens : NULL,
                    scale, kind);
}

/* Two passes over a row that the first one has brought into L1; four sums hide the adder's latency. */
static void norm(float *out, const float *x, int64_t cols, const swin_norm *n)
{
    vf a[4] = { { 0 } };
    int64_t c = 0;
    for (; c + 4 * VL <= cols; c += 4 * VL)
        for (int i = 0; i < 4; i++) a[i] = a[i] + vf_load(x + c + i * VL);
    for (; c < cols; c += VL) a[0] = a[0] + vf_load_n(x + c, cols - c < VL ? (int)(cols - c) : VL);
    const float mean = vf_sum((a[0] + a[1]) + (a[2] + a[3])) / (float)cols;
    memset(a, 0, sizeof a);
    for (c = 0; c + 4 * VL <= cols; c += 4 * VL)
        for (int i = 0; i < 4; i++) {
            const vf d = vf_load(x + c + i * VL) - mean;
            a[i] = vf_fma(d, d, a[i]);
        }
    for (; c < cols; c += VL) {
        const int left = cols - c < VL ? (int)(cols - c) : VL;
        vf d = vf_load_n(x + c, left) - mean;
        if (left < VL) d = vf_keep(d, vi_first(left));
        a[0] = vf_fma(d, d, a[0]);
    }
    const float var = vf_sum((a[0] + a[1]) + (a[2] + a[3])) / (float)cols,
                inverse = 1.0f / sqrtf(var + n->eps);
    for (c = 0; c < cols; c += VL) {
        const int left = cols - c < VL ? (int)(cols - c) : VL;
        const vf d = (vf_load_n(x + c, left) - mean) * inverse;
        vf_store_n(out + c, vf_fma(d, vf_load_n(n->gamma + c, left), vf_load_n(n->beta + c, left)), left);
    }
}

static void bias_act(float *y, const float *bias, int64_t cols, swin_act act)
{
    for (int64_t c = 0; c < cols; c += VL) {
        const int left = cols - c < VL ? (int)(cols - c) : VL;
        vf v = vf_load_n(y + c, left);
        if (bias) v = v + vf_load_n(bias + c, left);
        if (act == SWIN_ACT_GELU) v = vf_gelu(v);
        vf_store_n(y + c, v, left);
    }
}

static void add(float *y, const float *x, int64_t n)
{
    for (int64_t c = 0; c < n; c += VL) {
        const int left = n - c < VL ? (int)(n - c) : VL;
        vf_store_n(y + c, vf_load_n(y + c, left) + vf_load_n(x + c, left), left);
    }
}

static void mean(float *out, const float *x, int64_t ld, int tokens, int64_t cols)
{
    for (int64_t c = 0; c < cols; c += VL) {
        const int left = cols - c < VL ? (int)(cols - c) : VL;
        vf sum = { 0 };
        for (int t = 0; t < tokens; t++) sum = sum + vf_load_n(x + t * ld + c, left);
        vf_store_n(out + c, sum / (float)tokens, left);
    }
}

static void fake_quant(float *x, int64_t n, float scale, float zero, float lo, float hi)
{
    const float inverse = 1.0f / scale;
    for (int64_t c = 0; c < n; c += VL) {
        const int left = n - c < VL ? (int)(n - c) : VL;
        const vf code = vf_rint(vf_load_n(x + c, left) * inverse) + zero;
        const vf kept = vf_min(vf_max(code, vf_set(lo)), vf_set(hi)); /* vf_max turns NaN into lo */
        vf_store_n(x + c, (kept - zero) * scale, left);
    }
}

ALWAYS_INLINE vf round_bf16(vf v)
{
    const vi u = (vi)v, even = (u >> 16) & 1;
    const vi rounded = (u + 0x7fff + even) & (int32_t)0xffff0000u,
             quiet = (u | 0x400000) & (int32_t)0xffff0000u;
    return vf_pick(v == v, (vf)rounded, (vf)quiet);
}

ALWAYS_INLINE vf round_f16(vf v)
{
#if VL == 16
    return (vf)_mm512_cvtph_ps(_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif VL == 8
    return (vf)_mm256_cvtph_ps(_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
#else
    for (int i = 0; i < VL; i++) v[i] = swin_round_to(v[i], SWIN_F16);
    return v;
#endif
}

static void round_to(float *x, int64_t n, swin_dtype dtype)
{
    for (int64_t c = 0; c < n && dtype != SWIN_F32; c += VL) {
        const int left = n - c < VL ? (int)(n - c) : VL;
        const vf v = vf_load_n(x + c, left);
        vf_store_n(x + c, dtype == SWIN_F16 ? round_f16(v) : round_bf16(v), left);
    }
}

static bool range(const float *x, int64_t n, float *min, float *max)
{
    vf lo[2] = { vf_set(x[0]), vf_set(x[0]) }, hi[2] = { lo[0], lo[0] }, zero[2] = { { 0 } };
    int64_t c = 0;
    for (; c + 2 * VL <= n; c += 2 * VL)
        for (int i = 0; i < 2; i++) {
            const vf v = vf_load(x + c + i * VL);
            lo[i] = vf_min(lo[i], v);
            hi[i] = vf_max(hi[i], v);
            zero[i] = vf_fma(v, vf_set(0.0f), zero[i]); /* NaN once v is NaN or infinite */
        }
    for (; c < n; c += VL) {
        const int left = n - c < VL ? (int)(n - c) : VL;
        const vf v = left == VL ? vf_load(x + c) : vf_pick(vi_first(left), vf_load_part(x + c, left), lo[0]);
        lo[0] = vf_min(lo[0], v);
        hi[0] = vf_max(hi[0], v);
        zero[0] = vf_fma(v, vf_set(0.0f), zero[0]);
    }
    *min = vf_least(vf_min(lo[0], lo[1]));
    *max = vf_most(vf_max(hi[0], hi[1]));
    return vf_sum(zero[0] + zero[1]) == 0;
}

/* floor(v / width) + HALF. Rounding v / width + HALF downwards keeps its integer part; without such an instruction,
 * truncate and correct where that went up (v / width may underflow to 0, so v itself is compared). */
ALWAYS_INLINE vi bin_of(vf v, float width, float inverse)
{
#if VL == 16
    (void)width;
    return (vi)_mm512_cvttps_epi32(_mm512_fmadd_round_ps((__m512)v, _mm512_set1_ps(inverse),
                                                         _mm512_set1_ps(SWIN_HIST_HALF),
                                                         _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC));
#else
    const vi t = vf_to_int(v * inverse);
    return t + (v < __builtin_convertvector(t, vf) * width) + SWIN_HIST_HALF;
#endif
}

static void bins(uint16_t *index, const float *x, int64_t n, float width)
{
    const float inverse = 1.0f / width;
    typedef uint16_t vh __attribute__((vector_size(2 * VL)));
    for (int64_t c = 0; c < n; c += VL) {
        const int left = n - c < VL ? (int)(n - c) : VL;
        const vh h = __builtin_convertvector(bin_of(vf_load_n(x + c, left), width, inverse), vh);
        memcpy(index + c, &h, sizeof h);
    }
}

const swin_cpu_kernels SWIN_CPU_TABLE = {
    .isa = SWIN_CPU_ISA,
    .tile_rows = ROWS,
    .tile_cols = COLS,
    .task_rows = TASK_ROWS,
    .linear = linear,
    .scores = scores,
    .softmax = softmax,
    .weighted_sum = weighted_sum,
    .norm = norm,
    .bias_act = bias_act,
    .add = add,
    .mean = mean,
    .fake_quant = fake_quant,
    .round_to = round_to,
    .range = range,
    .bins = bins,
};
