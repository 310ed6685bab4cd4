/* runtime/ops/kernels/fused_s8.cuh - LayerNorm as a product's first step: rows of F16 to codes in shared
 * memory. */
#pragma once

#include "runtime/ops/kernels/int8.cuh"
#include "runtime/ops/kernels/norm_s8.cuh"
#include "runtime/ops/kernels/wgmma_s8.cuh"

/* norm_group for a constant. */
template <int C> constexpr int fused_group = C / 8 <= 12 ? 4 : C / 8 <= 24 ? 8 : C / 8 <= 48 ? 16 : 32;

/* ROWS rows of x, normalised and coded, as blocks of 128 columns: block b at `a` + b * ROWS * 128, rows of 128
 * bytes with the 128-byte swizzle. row_of(i): which of x's rows is the i-th; -1: none, and zeros' codes. The
 * lanes' shares are norm_s8.cu's, so are the bits. LOCAL: of x + local, where that has codes. SHARED: norm's vectors lie in shared memory. For the first THREADS
 * threads of a block. x and what lies beside it may have been written by other blocks of a cluster. */
template <int C, int ROWS, int THREADS, bool LOCAL, bool SHARED, class ROW>
__device__ __forceinline__ void fused_norm_rows(char *a, const __half *x, int64_t ldx, const ROW &row_of,
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
    for (int pass = 0; pass < PASSES; pass++) { /* all loads first: they take the longest */
        const int64_t row = row_of(first + pass * TOGETHER);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int at = s8_vector(lane, i, EACH);
            raw[pass][i] = make_uint4(0, 0, 0, 0);
            if (LOCAL) codes[pass][i] = make_uint2(0, 0);
            if (row < 0 || at >= VECTORS) continue;
            raw[pass][i] = __ldcg((const uint4 *)(x + row * ldx + at * 8));
            if (LOCAL && local.codes)
                codes[pass][i] = __ldcg((const uint2 *)(local.codes + row * local.ld + at * 8));
        }
    }
#pragma unroll
    for (int pass = 0; pass < PASSES; pass++) {
        const int row = first + pass * TOGETHER;
        vec<__half> v[EACH];
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int at = s8_vector(lane, i, EACH);
            v[i].from(raw[pass][i]);
            if (LOCAL && local.codes && at < VECTORS) s8_add_local(v[i].v, codes[pass][i], local, at * 8);
        }
        s8_normalise_row<EACH, SHARED>(v, norm, C, 1.f / C, lane, GROUP, EACH);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int at = s8_vector(lane, i, EACH);
            if (at < VECTORS)
                *(uint2 *)(a + at / 16 * ROWS * 128 + chunk_at<128>(row, at % 16 / 2) + at % 2 * 8) =
                    make_uint2(s8_codes4(v[i].v, rule), s8_codes4(v[i].v + 4, rule));
        }
    }
}

/* Of rows [m0, m0 + ROWS) of x's m. */
template <int C, int ROWS, int THREADS, bool LOCAL>
__device__ __forceinline__ void fused_norm(char *a, const __half *x, int64_t ldx, int64_t m0, int64_t m,
                                           const swin_norm &norm, const swin_s8_rule &rule,
                                           const swin_s8_local &local)
{
    fused_norm_rows<C, ROWS, THREADS, LOCAL, false>(
        a, x, ldx, [&](int i) { return m0 + i < m ? m0 + i : (int64_t)-1; }, norm, rule, local);
}
