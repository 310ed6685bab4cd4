/* runtime/ops/kernels/last_heads_s8.cuh - an INT8 product's last step to codes of Swin V2's q, k, v. */
#pragma once

#include "runtime/ops/kernels/last_values_s8.cuh"

/* Eight neighbours of a row and the other 24 columns of their head, in the row's four threads: divided by
 * their length, times the head's scale. The sum's order is that of normalise_heads32_s8 (norm_s8.cu). */
__device__ __forceinline__ void s8_cosine(float (&v)[8], float scale)
{
    float sum = 0;
#pragma unroll
    for (int k = 0; k < 8; k++) sum = fmaf(v[k], v[k], sum);
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    const float factor = scale / fmaxf(sqrtf(sum), 1e-12f);
#pragma unroll
    for (int k = 0; k < 8; k++) v[k] *= factor;
}

/* The same for a product's values of part 0 or 1. raw: the rule of their step `size`, if they are rounded first. */
template <bool RAW>
__device__ __forceinline__ void s8_cosine_of(float (&v)[8], const swin_s8_rule &raw, float size, float scale)
{
    if constexpr (RAW) {
        const s8_span to = s8_span_of(raw); /* as where they become codes in memory */
#pragma unroll
        for (int k = 0; k < 8; k++)
            v[k] = (s8_code_of_share(s8_share(v[k], to.factor, to.begin), to.lo, to.hi) - S8_MAGIC) * size;
    }
    s8_cosine(v, scale);
}

/* What Swin V2's q, k, v become codes as: values, vectors over their length, the same rounded first. */
enum s8_cosine_kind { S8_VALUES, S8_UNIT, S8_UNIT_OF_CODES };

/* Codes of eight columns of Swin V2's q, k, v, all in one head. Rows past the end take part in their neighbours' shuffles. */
template <int KIND>
__device__ __forceinline__ void s8_finish_cosine(const swin_gemm_s8 &p, float (&v)[8], int part, int64_t row,
                                                 int n)
{
    const swin_s8_part &y = p.y[part];
    if constexpr (KIND != S8_VALUES)
        s8_cosine_of<KIND == S8_UNIT_OF_CODES>(v, part ? p.raw[1] : p.raw[0],
                                               part ? p.raw_scale[1] : p.raw_scale[0],
                                               part ? 1.f : __ldg(p.head_scale + n / 32));
    const swin_s8_rule rule = s8_rule_in(y.rule, y.shrink, n - part * p.width);
    const uint2 codes = make_uint2(s8_codes4(v, rule), s8_codes4(v + 4, rule));
    if (row >= 0) *reinterpret_cast<uint2 *>((int8_t *)y.data + row * y.ld + n - part * p.width) = codes;
}

__device__ __forceinline__ int s8_kind_of(const swin_gemm_s8 &p, int part)
{
    return part > 1 ? S8_VALUES : (part ? p.raw_scale[1] : p.raw_scale[0]) > 0 ? S8_UNIT_OF_CODES : S8_UNIT;
}

/* The same of whatever part that is. */
__device__ __forceinline__ void s8_finish_cosine_any(const swin_gemm_s8 &p, float (&v)[8], int64_t row, int n)
{
    const int part = s8_part_of(p, n), kind = s8_kind_of(p, part);
    if (kind == S8_VALUES)
        s8_finish_cosine<S8_VALUES>(p, v, part, row, n);
    else if (kind == S8_UNIT)
        s8_finish_cosine<S8_UNIT>(p, v, part, row, n);
    else
        s8_finish_cosine<S8_UNIT_OF_CODES>(p, v, part, row, n);
}

/* A warp's sums, all of one part, without jumps (last_straight_s8.cuh). */
template <int NT, bool AFTER, int KIND>
__device__ __forceinline__ void s8_finish_heads(const swin_gemm_s8 &p, const int (&acc)[NT][4],
                                                const float *alpha, const float *bias, const int64_t (&to)[2],
                                                int col0, int n0, int part)
{
#pragma unroll
    for (int q = 0; q < NT / 4; q++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int col = col0 + 32 * q + 8 * (threadIdx.x & 3);
            float v[8];
            int sum[8];
#pragma unroll
            for (int k = 0; k < 8; k++) sum[k] = acc[4 * q + k / 2][2 * half + k % 2];
            s8_values_of<AFTER>(v, sum, alpha + col, bias + col, p.after);
            s8_finish_cosine<KIND>(p, v, part, to[half], n0 + col);
        }
}

template <int NT, bool AFTER>
__device__ __forceinline__ void s8_finish_heads_kind(const swin_gemm_s8 &p, const int (&acc)[NT][4],
                                                     const float *alpha, const float *bias,
                                                     const int64_t (&to)[2], int col0, int n0, int part)
{
    const int kind = s8_kind_of(p, part);
    if (kind == S8_VALUES)
        s8_finish_heads<NT, AFTER, S8_VALUES>(p, acc, alpha, bias, to, col0, n0, part);
    else if (kind == S8_UNIT)
        s8_finish_heads<NT, AFTER, S8_UNIT>(p, acc, alpha, bias, to, col0, n0, part);
    else
        s8_finish_heads<NT, AFTER, S8_UNIT_OF_CODES>(p, acc, alpha, bias, to, col0, n0, part);
}

/* The same of whichever part that is. */
template <int NT>
__device__ __forceinline__ void s8_finish_heads(const swin_gemm_s8 &p, const int (&acc)[NT][4],
                                                const float *alpha, const float *bias, const int64_t (&to)[2],
                                                int col0, int n0)
{
    const int part = s8_part_of(p, n0 + col0);
    if (p.after == 0.f)
        s8_finish_heads_kind<NT, false>(p, acc, alpha, bias, to, col0, n0, part);
    else
        s8_finish_heads_kind<NT, true>(p, acc, alpha, bias, to, col0, n0, part);
}
