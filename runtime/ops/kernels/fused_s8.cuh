/* runtime/ops/kernels/fused_s8.cuh - LayerNorm as a product's first step: rows of F16 to codes in shared
 * memory. */
#pragma once

#include "runtime/ops/kernels/int8.cuh"
#include "runtime/ops/kernels/norm_s8.cuh"
#include "runtime/ops/kernels/wgmma_s8.cuh"

/* norm_group for a constant. */
template <int C> constexpr int fused_group = C / 8 <= 12 ? 4 : C / 8 <= 24 ? 8 : C / 8 <= 48 ? 16 : 32;

/* Queue copies of rows [m0, m0 + ROWS) of a product's codes to where fused_norm puts its own; zeros past the end. */
template <int C, int ROWS, int THREADS>
__device__ __forceinline__ void copy_rows(unsigned to, const swin_gemm_s8 &p, int64_t m0)
{
#pragma unroll
    for (int i = threadIdx.x; i < ROWS * 8; i += THREADS) {
        const int row = i / 8, chunk = i % 8;
        const bool in = m0 + row < p.m;
        const int8_t *from = in ? p.x + (m0 + row) * p.ldx + chunk * 16 : p.x;
#pragma unroll
        for (int block = 0; block < (C + 127) / 128; block++)
            if (block * 128 + 128 <= C || block * 128 + chunk * 16 < C)
                copy16(to + block * ROWS * 128 + chunk_at<128>(row, chunk), in ? from + block * 128 : from,
                       in);
    }
}

/* Rows [m0, m0 + ROWS) of x, normalised and coded, as blocks of 128 columns: block b at `a` + b * ROWS *
 * 128, rows of 128 bytes with the 128-byte swizzle. The lanes' shares are norm_s8.cu's, so are the bits.
 * Rows past the end are zeros' codes. LOCAL: of x + local, where that has codes. */
template <int C, int ROWS, int THREADS, bool LOCAL>
__device__ __forceinline__ void fused_norm(char *a, const __half *x, int64_t ldx, int64_t m0, int64_t m,
                                           const swin_norm &norm, const swin_s8_rule &rule,
                                           const swin_s8_local &local)
{
    constexpr int VECTORS = C / 8, GROUP = fused_group<C>, EACH = (VECTORS + GROUP - 1) / GROUP;
    constexpr int TOGETHER = THREADS / GROUP, PASSES = ROWS / TOGETHER;
    static_assert(ROWS % TOGETHER == 0, "whole passes");
    const int lane = threadIdx.x % GROUP, first = threadIdx.x / GROUP;
    uint4 raw[PASSES][EACH];
    uint2 codes[LOCAL ? PASSES : 1][EACH];
#pragma unroll
    for (int pass = 0; pass < PASSES; pass++) /* all loads first: they take the longest */
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int64_t row = m0 + first + pass * TOGETHER;
            const int at = s8_vector(lane, i, EACH);
            raw[pass][i] = make_uint4(0, 0, 0, 0);
            if (row >= m || at >= VECTORS) continue;
            raw[pass][i] = *(const uint4 *)(x + row * ldx + at * 8);
            if (LOCAL && local.codes)
                codes[pass][i] = *(const uint2 *)(local.codes + row * local.ld + at * 8);
        }
#pragma unroll
    for (int pass = 0; pass < PASSES; pass++) {
        const int row = first + pass * TOGETHER;
        vec<__half> v[EACH];
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int at = s8_vector(lane, i, EACH);
            v[i].from(raw[pass][i]);
            if (LOCAL && local.codes && m0 + row < m && at < VECTORS)
                s8_add_local(v[i].v, codes[pass][i], local, at * 8);
        }
        s8_normalise_row<EACH>(v, norm, C, 1.f / C, lane, GROUP, EACH);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int at = s8_vector(lane, i, EACH);
            if (at < VECTORS)
                *(uint2 *)(a + at / 16 * ROWS * 128 + chunk_at<128>(row, at % 16 / 2) + at % 2 * 8) =
                    make_uint2(s8_codes4(v[i].v, rule), s8_codes4(v[i].v + 4, rule));
        }
    }
}
