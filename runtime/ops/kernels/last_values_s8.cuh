/* runtime/ops/kernels/last_values_s8.cuh - an INT8 product's last step, in parts: factors of columns, sums to values, values
 * of any type to memory. */
#pragma once

#include "runtime/ops/kernels/int8.cuh"

/* What a thread's sums start from: minus the zero point's share. col: the warp's first column in the
 * matrix. */
template <int NT> __device__ __forceinline__ void s8_begin(int (&acc)[NT][4], const swin_gemm_s8 &p, int col)
{
#pragma unroll
    for (int j = 0; j < NT; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const int n = col + 32 * (j / 4) + 8 * (threadIdx.x & 3) + 2 * (j % 4) + e;
            acc[j][e] = acc[j][e + 2] = p.zero_share && n < p.n ? -__ldg(p.zero_share + n) : 0;
        }
}

/* What a sum of column n is multiplied by: its scale, or the scale over that of the rounding before the
 * bias. */
__device__ __forceinline__ float s8_alpha(const swin_gemm_s8 &p, int n)
{
    const float alpha = p.x_scale * p.w_scale[n];
    if (p.afters) return alpha * (1.f / p.afters[n]);
    return p.after == 0.f ? alpha : alpha * p.after_inverse;
}

/* One sum to a value: scale, rounding before the bias, bias. */
__device__ __forceinline__ float s8_rounded_value(int acc, float alpha, float bias, float after)
{
    const float code = fminf(fmaxf(fmaf((float)acc, alpha, S8_MAGIC), S8_MAGIC - 127.f), S8_MAGIC + 127.f);
    return fmaf(code - S8_MAGIC, after, bias);
}

/* The same where `after` may be 0, for no such rounding. */
__device__ __forceinline__ float s8_value(int acc, float alpha, float bias, float after)
{
    return after == 0.f ? fmaf((float)acc, alpha, bias) : s8_rounded_value(acc, alpha, bias, after);
}

/* What a kernel's last step can do: lean code for the network's own cases, one for all others. */
enum s8_last {
    S8_ANY,
    S8_CODES,      /* every part S8, no activation */
    S8_GELU_CODES, /* the same after GELU */
    S8_RESIDUAL,   /* added to a residual of F16; p.local: its rest is stored there */
    S8_LOCAL,      /* the same where more is to be added, a product in p.local */
    S8_HALVES,     /* F16 in one part, no activation */
    S8_COSINE,     /* codes of Swin V2's q, k, v: swin_gemm_s8.head_scale */
    S8_AFTERS /* a step of rounding for each column, p.afters; all else as ANY, or added to p.local too */
};

/* Eight sums to values. alpha, bias: of the eight columns, 16-byte aligned. AFTER: rounded in steps of `after` first. */
template <bool AFTER>
__device__ __forceinline__ void s8_values_of(float (&v)[8], const int (&sum)[8], const float *alpha,
                                             const float *bias, float after)
{
    float a[8], b[8];
    *reinterpret_cast<float4 *>(a) = *reinterpret_cast<const float4 *>(alpha);
    *reinterpret_cast<float4 *>(a + 4) = *reinterpret_cast<const float4 *>(alpha + 4);
    *reinterpret_cast<float4 *>(b) = *reinterpret_cast<const float4 *>(bias);
    *reinterpret_cast<float4 *>(b + 4) = *reinterpret_cast<const float4 *>(bias + 4);
#pragma unroll
    for (int k = 0; k < 8; k++)
        v[k] = AFTER ? s8_rounded_value(sum[k], a[k], b[k], after) : fmaf((float)sum[k], a[k], b[k]);
}
__device__ __forceinline__ void s8_values(float (&v)[8], const int (&sum)[8], const float *alpha,
                                          const float *bias, float after)
{
    if (after == 0.f)
        s8_values_of<false>(v, sum, alpha, bias, after);
    else
        s8_values_of<true>(v, sum, alpha, bias, after);
}

/* The same with a step of rounding for each column. */
__device__ __forceinline__ void s8_values_afters(float (&v)[8], const int (&sum)[8], const float *alpha,
                                                 const float *bias, const float *afters)
{
#pragma unroll
    for (int k = 0; k < 8; k++) v[k] = s8_value(sum[k], alpha[k], bias[k], __ldg(afters + k));
}

/* Which part column n belongs to. */
__device__ __forceinline__ int s8_part_of(const swin_gemm_s8 &p, int n)
{
    int part = n >= p.width;
#pragma unroll
    for (int i = 2; i < SWIN_S8_PARTS; i++) part += n >= i * p.width;
    return part < p.parts ? part : 0;
}

/* Factor and bias of column n, as s8_finish<LAST> wants them: those of plain codes lead to the codes' share
 * of their span without a value between, past the part's factor of that column. */
template <int LAST> __device__ __forceinline__ float2 s8_line(const swin_gemm_s8 &p, int n)
{
    const float alpha = s8_alpha(p, n), bias = p.bias ? p.bias[n] : 0.f;
    if (LAST != S8_CODES || p.after != 0.f) return make_float2(alpha, bias);
    const int part = s8_part_of(p, n);
    const swin_s8_part &y = p.y[part];
    s8_span to = s8_span_of(y.rule);
    if (y.shrink) to.factor *= __ldg(y.shrink + n - part * p.width);
    return make_float2(alpha * to.factor, fmaf(bias, to.factor, to.begin));
}

/* Factor and bias of column n0 + i to place i. */
template <int LAST>
__device__ __forceinline__ void s8_load_factor(float *alpha, float *bias, const swin_gemm_s8 &p, int n0,
                                               int i)
{
    const float2 line = n0 + i < p.n ? s8_line<LAST>(p, n0 + i) : make_float2(0.f, 0.f);
    alpha[i] = line.x, bias[i] = line.y;
}

/* Factors and biases of a tile's columns, in their own order. ROLLED: fewer instructions, for kernels of many. */
template <int LAST, int BN, int THREADS, bool ROLLED = false>
__device__ __forceinline__ void s8_load_factors(float *alpha, float *bias, const swin_gemm_s8 &p, int n0)
{
    if constexpr (ROLLED) {
#pragma unroll 1
        for (int i = threadIdx.x; i < BN; i += THREADS) s8_load_factor<LAST>(alpha, bias, p, n0, i);
    } else {
        for (int i = threadIdx.x; i < BN; i += THREADS) s8_load_factor<LAST>(alpha, bias, p, n0, i);
    }
}

/* Eight neighbours as 16 bytes of a half type. */
template <class T> __device__ __forceinline__ uint4 s8_halves(const float (&v)[8])
{
    return make_uint4(pack2<T>(v[0], v[1]), pack2<T>(v[2], v[3]), pack2<T>(v[4], v[5]), pack2<T>(v[6], v[7]));
}

/* Add what lies at a residual of T to eight neighbours. */
template <class T> __device__ __forceinline__ void s8_add_old(float (&v)[8], const char *at)
{
    vec<T> old;
#pragma unroll
    for (int h = 0; h < 8; h += vec<T>::n) {
        old.load((const T *)at + h);
#pragma unroll
        for (int k = 0; k < vec<T>::n; k++) v[h + k] += old.v[k];
    }
}

/* Store eight neighbours as whatever the part is. A template, so that each file may have its own. */
template <class G>
__device__ __noinline__ void s8_store_any(const G &p, int64_t row, int n, float (&v)[8], const int (&sum)[8])
{
    const int part = s8_part_of(p, n);
    const swin_s8_part &y = p.y[part];
    char *at = (char *)y.data + (row * y.ld + n - part * p.width) * (int64_t)y.unit;
    if (p.act == SWIN_ACT_GELU) {
#pragma unroll
        for (int k = 0; k < 8; k++) v[k] = s8_gelu_value(v[k]);
    }
    if (y.dtype == SWIN_S8) {
        *reinterpret_cast<uint2 *>(at) = s8_codes8(v, y, n - part * p.width);
    } else if (y.dtype == SWIN_F16) {
        if (p.residual) s8_add_old<__half>(v, at);
        *reinterpret_cast<uint4 *>(at) = s8_halves<__half>(v);
    } else if (y.dtype == SWIN_BF16) {
        if (p.residual) s8_add_old<__nv_bfloat16>(v, at);
        *reinterpret_cast<uint4 *>(at) = s8_halves<__nv_bfloat16>(v);
    } else if (y.dtype == SWIN_F32) {
        if (p.residual) s8_add_old<float>(v, at);
        *reinterpret_cast<float4 *>(at) = make_float4(v[0], v[1], v[2], v[3]);
        *reinterpret_cast<float4 *>(at + 16) = make_float4(v[4], v[5], v[6], v[7]);
    } else {
        *reinterpret_cast<int4 *>(at) = make_int4(sum[0], sum[1], sum[2], sum[3]);
        *reinterpret_cast<int4 *>(at + 16) = make_int4(sum[4], sum[5], sum[6], sum[7]);
    }
}
