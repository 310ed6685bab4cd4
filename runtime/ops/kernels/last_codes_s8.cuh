/* runtime/ops/kernels/last_codes_s8.cuh - an INT8 product's last step to codes, with or without GELU. */
#pragma once

#include "runtime/ops/kernels/last_values_s8.cuh"

/* Four neighbours of a row to codes (s8_join). a, b: s8_line of their columns; f: factors of GELU's
 * values. */
template <int LAST, bool AFTER>
__device__ __forceinline__ uint2 s8_four(const int (&sum)[4], const float (&a)[4], const float (&b)[4],
                                         const float (&f)[4], float after, const s8_span &to)
{
    float code[4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
        float share;
        if (LAST == S8_CODES && !AFTER) {
            share = s8_share((float)sum[k], a[k], b[k]);
        } else {
            float v = AFTER ? s8_rounded_value(sum[k], a[k], b[k], after) : fmaf((float)sum[k], a[k], b[k]);
            if (LAST == S8_GELU_CODES) v = s8_gelu(v);
            share = s8_share(v, f[k], to.begin);
        }
        code[k] = s8_code_of_share(share, to.lo, to.hi);
    }
    return s8_pairs(code[0], code[1], code[2], code[3]);
}

/* Where a thread's codes go: its columns' first, in two rows eight apart; NULL: past the end. */
struct s8_spot {
    int8_t *row[2];
    const float *shrink; /* of that first column; NULL: none */
    swin_s8_rule rule;
};

/* Of a thread whose first row of the matrix is `row`, in columns n and up, which are of one part. */
template <int LAST> __device__ __forceinline__ s8_spot s8_spot_of(const swin_gemm_s8 &p, int64_t row, int n)
{
    const int part = LAST == S8_CODES ? s8_part_of(p, n) : 0,
              first = n - part * p.width + 8 * (threadIdx.x & 3);
    const swin_s8_part &y = p.y[part];
    int8_t *to = (int8_t *)y.data + row * y.ld + first;
    return { { row < p.m ? to : NULL, row + 8 < p.m ? to + 8 * y.ld : NULL },
             LAST == S8_GELU_CODES && y.shrink ? y.shrink + first : NULL,
             y.rule };
}

/* A warp's 16 rows x (8 NT) columns of sums to codes of one part, all of whose columns exist. alpha, bias:
 * of the thread's first column. */
template <int LAST, int NT, bool AFTER, bool SHRINK>
__device__ __forceinline__ void s8_finish_part(const int (&acc)[NT][4], const float *alpha, const float *bias,
                                               const s8_spot &at, const s8_span &to, float after)
{
#pragma unroll
    for (int q = 0; q < NT / 4; q++) {
        unsigned word[2][2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float a[4], b[4], f[4] = { to.factor, to.factor, to.factor, to.factor };
            *reinterpret_cast<float4 *>(a) = *reinterpret_cast<const float4 *>(alpha + 32 * q + 4 * h);
            *reinterpret_cast<float4 *>(b) = *reinterpret_cast<const float4 *>(bias + 32 * q + 4 * h);
            if (SHRINK) {
                *reinterpret_cast<float4 *>(f) =
                    __ldg(reinterpret_cast<const float4 *>(at.shrink + 32 * q + 4 * h));
#pragma unroll
                for (int k = 0; k < 4; k++) f[k] *= to.factor;
            }
#pragma unroll
            for (int below = 0; below < 2; below++) {
                const int(&j)[4] = acc[4 * q + 2 * h], (&i)[4] = acc[4 * q + 2 * h + 1];
                const int sum[4] = { j[2 * below], j[2 * below + 1], i[2 * below], i[2 * below + 1] };
                word[below][h] = s8_join(s8_four<LAST, AFTER>(sum, a, b, f, after, to));
            }
        }
#pragma unroll
        for (int below = 0; below < 2; below++)
            if (at.row[below])
                *reinterpret_cast<uint2 *>(at.row[below] + 32 * q) =
                    make_uint2(word[below][0], word[below][1]);
    }
}

/* The leanest of it. */
template <int LAST, int NT>
__device__ __forceinline__ void s8_finish_whole(const swin_gemm_s8 &p, const int (&acc)[NT][4],
                                                const float *alpha, const float *bias, const s8_spot &at,
                                                const s8_span &to)
{
    if (LAST == S8_GELU_CODES && at.shrink) {
        if (p.after == 0.f)
            s8_finish_part<LAST, NT, false, true>(acc, alpha, bias, at, to, p.after);
        else
            s8_finish_part<LAST, NT, true, true>(acc, alpha, bias, at, to, p.after);
    } else if (p.after == 0.f) {
        s8_finish_part<LAST, NT, false, false>(acc, alpha, bias, at, to, p.after);
    } else {
        s8_finish_part<LAST, NT, true, false>(acc, alpha, bias, at, to, p.after);
    }
}

/* The same wherever the columns end, and in several parts. */
template <int LAST, int NT>
__device__ __forceinline__ void s8_finish_codes(const swin_gemm_s8 &p, const int (&acc)[NT][4],
                                                const float *alpha, const float *bias,
                                                const int64_t (&row)[2], int col0, int n0)
{
    const int first = n0 + col0 + 8 * (threadIdx.x & 3);
    int part = LAST == S8_CODES ? s8_part_of(p, n0 + col0) : 0;
    const bool one_part = LAST != S8_CODES || s8_part_of(p, min(n0 + col0 + 8 * NT, p.n) - 1) == part;
    s8_span to = s8_span_of(p.y[part].rule);
#pragma unroll
    for (int q = 0; q < NT / 4; q++) {
        const int n = first + 32 * q;
        if (n >= p.n) continue;
        if (!one_part) part = s8_part_of(p, n), to = s8_span_of(p.y[part].rule);
        const swin_s8_part &y = p.y[part];
        s8_spot at = { { NULL, NULL }, LAST == S8_GELU_CODES && y.shrink ? y.shrink + n : NULL, y.rule };
#pragma unroll
        for (int half = 0; half < 2; half++)
            if (row[half] >= 0) at.row[half] = (int8_t *)y.data + row[half] * y.ld + n - part * p.width;
        const int col = col0 + 32 * q + 8 * (threadIdx.x & 3);
        s8_finish_whole<LAST, 4>(p, *reinterpret_cast<const int(*)[4][4]>(&acc[4 * q]), alpha + col,
                                 bias + col, at, to);
    }
}
