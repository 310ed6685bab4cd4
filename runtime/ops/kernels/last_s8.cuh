/* runtime/ops/kernels/last_s8.cuh - an INT8 product's last step: sums that lie as the tensor cores leave
 * them, columns dealt as in int8.cuh, become values, codes and a residual stream. */
#pragma once

#include "runtime/ops/kernels/last_codes_s8.cuh"
#include "runtime/ops/kernels/last_heads_s8.cuh"

/* Rows of y that a thread's two rows of the product belong to; -1: past the end. */
__device__ __forceinline__ void s8_rows(int64_t (&to)[2], const swin_gemm_s8 &p, int64_t row)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int64_t m = row + 8 * half;
        to[half] = m >= p.m ? -1 : p.windows ? window_source(p.g, m) : m;
    }
}

/* What the residual stream holds, and what lies beside it, for a thread's columns in GROUPS times 32. */
template <int LAST, int GROUPS> struct s8_old {
    static constexpr bool USED = LAST == S8_RESIDUAL || LAST == S8_LOCAL;
    uint4 stream[USED ? GROUPS : 1][2];
    uint2 kept[LAST == S8_LOCAL ? GROUPS : 1][2];

    /* n: the thread's first column. */
    __device__ __forceinline__ void load(const swin_gemm_s8 &p, const int64_t (&to)[2], int n)
    {
        if constexpr (USED) {
#pragma unroll
            for (int i = 0; i < GROUPS; i++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const int at = n + 32 * i;
                    if (to[half] < 0 || at >= p.n) continue;
                    stream[i][half] =
                        *((const uint4 *)((const __half *)p.y[0].data + to[half] * p.y[0].ld + at));
                    if (LAST == S8_LOCAL)
                        kept[i][half] = *(const uint2 *)(p.local.codes + to[half] * p.local.ld + at);
                }
        }
    }
};

/* A warp's 16 rows x (8 NT) columns of sums to memory. to: rows of y for this thread's two (s8_rows); col0: the
 * warp's first column in the tile whose factors these are; n0: the tile's first. early: the residual stream's
 * values, if they have been read. */
template <int LAST, int NT>
__device__ __forceinline__ void s8_finish_rows(const swin_gemm_s8 &p, const int (&acc)[NT][4],
                                               const float *alpha, const float *bias, const int64_t (&to)[2],
                                               int col0, int n0, const s8_old<LAST, NT / 4> *early = NULL)
{
    if constexpr (LAST == S8_CODES || LAST == S8_GELU_CODES) {
        s8_finish_codes<LAST, NT>(p, acc, alpha, bias, to, col0, n0);
        return;
    }
    if constexpr (LAST == S8_COSINE) {
        const int end = n0 + col0 + 8 * NT;
        if (end <= p.n && s8_part_of(p, end - 1) == s8_part_of(p, n0 + col0)) {
            s8_finish_heads<NT>(p, acc, alpha, bias, to, col0, n0);
            return;
        }
    }
    /* reads of the residual that are under way together */
    constexpr int AHEAD = NT > 12 ? (LAST == S8_LOCAL ? 1 : 2) : NT / 4;
    s8_old<LAST, AHEAD> old;
#pragma unroll
    for (int q = 0; q < NT / 4; q++) {
        const int col = col0 + 32 * q + 8 * (threadIdx.x & 3), n = n0 + col;
        if (!early && q % AHEAD == 0) old.load(p, to, n);
        if (n >= p.n) continue;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            if (LAST != S8_COSINE && to[half] < 0) continue;
            float v[8];
            int sum[8];
#pragma unroll
            for (int k = 0; k < 8; k++) sum[k] = acc[4 * q + k / 2][2 * half + k % 2];
            if constexpr (LAST == S8_AFTERS) {
                s8_values_afters(v, sum, alpha + col, bias + col, p.afters + n);
                if (p.local.codes)
                    s8_add_local(v, *(const uint2 *)(p.local.codes + to[half] * p.local.ld + n), p.local, n);
            } else {
                s8_values(v, sum, alpha + col, bias + col, p.after);
            }
            if constexpr (LAST == S8_COSINE) {
                s8_finish_cosine_any(p, v, to[half], n);
            } else if constexpr (LAST == S8_ANY || LAST == S8_AFTERS) {
                s8_store_any(p, to[half], n, v, sum);
            } else {
                uint4 *at = (uint4 *)((__half *)p.y[0].data + to[half] * p.y[0].ld + n);
                if constexpr (LAST != S8_HALVES) {
                    vec<__half> a;
                    a.from(early ? early->stream[q][half] : old.stream[q % AHEAD][half]);
                    if constexpr (LAST == S8_LOCAL) { /* rounded as tail_s8.cu leaves it in memory */
                        s8_add_local(a.v, early ? early->kept[q][half] : old.kept[q % AHEAD][half], p.local,
                                     n);
                        a.from(s8_halves<__half>(a.v));
                    }
#pragma unroll
                    for (int k = 0; k < 8; k++) v[k] += a.v[k];
                }
                const uint4 rounded = s8_halves<__half>(v);
                *at = rounded;
                if (LAST == S8_RESIDUAL && p.local.codes) {
                    vec<__half> h;
                    h.from(rounded);
                    *(uint2 *)(p.local.codes + to[half] * p.local.ld + n) = s8_rest8(v, h.v);
                }
            }
        }
    }
}

/* The same for rows `row` and row + 8 of the matrix. */
template <int LAST, int NT>
__device__ __forceinline__ void s8_finish(const swin_gemm_s8 &p, const int (&acc)[NT][4], const float *alpha,
                                          const float *bias, int64_t row, int col0, int n0,
                                          const s8_old<LAST, NT / 4> *early = NULL)
{
    int64_t to[2];
    s8_rows(to, p, row);
    s8_finish_rows<LAST, NT>(p, acc, alpha, bias, to, col0, n0, early);
}
