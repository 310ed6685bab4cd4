/* runtime/ops/ops_cpu_body.h - rows and spans for one instruction set, and its table. Compiled four times; the including
 * file defines SWIN_CPU_TABLE and SWIN_CPU_ISA (ops_cpu_kernels.h). */
#include <math.h>

#include "runtime/base/half.h"
#include "runtime/ops/ops_cpu_body_gemm.h"
#include "runtime/ops/ops_cpu_body_int8.h"

#include "runtime/ops/ops_cpu_body_attention_int8.h"

/* The row is worked on in `e`, [n rounded up to VL]: a masked store into s would hold up the next row's loads, which lie
 * beside it. */
ALWAYS_INLINE void softmax_row(float *s, float *e, int n, const float *bias, const float *mask, float scale,
                               swin_softmax kind)
{
    vf most = vf_set(-INFINITY), sum = { 0 };
    for (int c = 0; c < n; c += VL) {
        const int left = n - c;
        vf v = vf_load_n(s + c, left) * scale;
        if (bias) v = v + vf_load_n(bias + c, left);
        if (mask) v = v + vf_load_n(mask + c, left);
        vf_store(e + c, v);
        most = vf_max(left >= VL ? v : vf_pick(vi_first(left), v, most), most);
    }
    const float top = vf_most(most);
    for (int c = 0; c < n; c += VL) {
        const int left = n - c;
        vf v = vf_exp_negative(vf_load(e + c) - top);
        if (kind == SWIN_SOFTMAX_U8) v = vf_rint(v * 255.0f);
        vf_store(e + c, v);
        sum = sum + (left >= VL ? v : vf_keep(v, vi_first(left)));
    }
    const float inverse = 1.0f / vf_sum(sum);
    int c = 0;
    for (; c + VL <= n; c += VL) vf_store(s + c, vf_load(e + c) * inverse);
    if (c < n && n >= VL)
        vf_store(s + n - VL, vf_load(e + n - VL) * inverse); /* some values again, the same */
    else if (c < n)
        vf_store_part(s, vf_load(e) * inverse, n);
}

/* room: `tokens` rounded up to 16 floats. */
static void softmax(float *s, int64_t ld_s, int tokens, const float *bias, const float *mask, float scale,
                    swin_softmax kind, float *room)
{
    for (int64_t r = 0; r < tokens; r++)
        softmax_row(s + r * ld_s, room, tokens, bias ? bias + r * tokens : NULL,
                    mask ? mask + r * tokens : NULL, scale, kind);
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

/* Squares of values under 1e-19 vanish in float32, and those over 1e19 overflow: such rows are scaled first. */
static void normalise(float *out, const float *x, int64_t n, float scale)
{
    vf most = { 0 }, sum = { 0 };
    for (int64_t c = 0; c < n; c += VL) {
        const int left = n - c < VL ? (int)(n - c) : VL;
        vf v = vf_load_n(x + c, left);
        if (left < VL) v = vf_keep(v, vi_first(left));
        most = vf_max(most, vf_max(v, -v));
        sum = vf_fma(v, v, sum);
    }
    const float top = vf_most(most);
    float square = vf_sum(sum), unit = 1.0f;
    if (top > 0 && top < INFINITY && !(square > 1e-20f && square < 1e30f)) {
        unit = ldexpf(1.0f, -ilogbf(top) > 126 ? 126 : -ilogbf(top));
        sum = vf_set(0.0f);
        for (int64_t c = 0; c < n; c += VL) {
            const int left = n - c < VL ? (int)(n - c) : VL;
            vf v = vf_load_n(x + c, left) * unit;
            if (left < VL) v = vf_keep(v, vi_first(left));
            sum = vf_fma(v, v, sum);
        }
        square = vf_sum(sum);
    }
    const float length = sqrtf(square) / unit, factor = scale / (length > 1e-12f ? length : 1e-12f);
    for (int64_t c = 0; c < n; c += VL) {
        const int left = n - c < VL ? (int)(n - c) : VL;
        vf_store_n(out + c, vf_load_n(x + c, left) * factor, left);
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
    const vu u = (vu)v, even = (u >> 16) & 1;
    const vu rounded = (u + 0x7fff + even) & 0xffff0000u, quiet = (u | 0x400000) & 0xffff0000u;
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
    .normalise = normalise,
    .bias_act = bias_act,
    .add = add,
    .mean = mean,
    .fake_quant = fake_quant,
    .round_to = round_to,
    .group = GROUP,
    .pack_weights = pack_weights,
    .linear_s8 = linear_s8,
    .attention_s8 = attention_s8,
    .quantize = quantize,
    .dequantize = dequantize,
    .watch = watch,
    .drain = drain,
    .most = most,
    .collect = collect,
};
