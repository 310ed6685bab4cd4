/* runtime/ops/kernels/mlp_s8.cuh - fc1, GELU and fc2 of a block's rows on Hopper, the hidden layer in
 * registers alone.
 *
 * Weights pass through shared memory in pieces of 64 hidden columns; a warpgroup makes 32 of them at a
 * time for its 64 rows, and the rows of fc1's weight are dealt so that the sums, once they are codes,
 * already lie as fc2's left operand. While one warpgroup's values go through GELU, the tensor cores work
 * for another: fc1 for the next 32 together with fc2's share of the last. */
#pragma once

#include "runtime/ops/kernels/fused_s8.cuh"
#include "runtime/ops/kernels/gemm.cuh"
#include "runtime/ops/kernels/last_straight_s8.cuh"

namespace
{

constexpr int PIECE = 64, STAGES = 3;

template <int C, int WG> struct mlp_shape {
    static constexpr int ROWS = 64 * WG, THREADS = 128 * WG, BLOCKS = (C + 127) / 128, STEPS = C / 32;
    static constexpr int A = BLOCKS * ROWS * 128;                   /* bytes of the normalised rows */
    static constexpr int W1 = BLOCKS * PIECE * 128, W2 = C * PIECE; /* of a piece's weights */
    static constexpr int STAGE = W1 + W2, FACTORS = (3 * 4 * C + 3 * C) * 4;
    static constexpr int SHARED = A + STAGES * STAGE + FACTORS;
};

/* The hidden column that row r of a piece of fc1's weight makes. */
__device__ __forceinline__ int hidden_column(int r)
{
    return (r & ~15) | (r & 6) << 1 | (r & 8) >> 2 | (r & 1);
}

/* What a thread copies of a piece lies at fixed distances from these. */
template <int C, int WG> struct piece_copy {
    using S = mlp_shape<C, WG>;
    const int8_t *w1, *w2; /* its first 16 bytes of either weight, in the piece at hand */
    unsigned to1, to2;     /* where they go, from the stage's start */

    __device__ __forceinline__ explicit piece_copy(const swin_mlp_s8 &p)
    {
        const int row1 = threadIdx.x / 8, chunk1 = threadIdx.x % 8, row2 = threadIdx.x / 4,
                  chunk2 = threadIdx.x % 4;
        w1 = p.fc1.w + hidden_column(row1) * C + chunk1 * 16;
        w2 = p.fc2.w + (int64_t)s8_column(row2) * (4 * C) + chunk2 * 16;
        to1 = chunk_at<128>(row1, chunk1), to2 = S::W1 + chunk_at<64>(row2, chunk2);
    }
    /* Queue this piece's copies, and go on to the next. */
    __device__ __forceinline__ void run(unsigned stage)
    {
        constexpr int ROWS1 = S::THREADS / 8, ROWS2 = S::THREADS / 4;
        static_assert(ROWS1 % 16 == 0 && ROWS2 % 32 == 0, "the dealing of rows repeats");
#pragma unroll
        for (int row = 0; row < PIECE; row += ROWS1)
#pragma unroll
            for (int block = 0; block < S::BLOCKS; block++) {
                const bool in_row = row + ROWS1 <= PIECE || row + (int)threadIdx.x / 8 < PIECE;
                const bool in_col = block * 128 + 128 <= C || block * 128 + (int)threadIdx.x % 8 * 16 < C;
                if (in_row && in_col)
                    copy16(stage + to1 + block * PIECE * 128 + row * 128, w1 + row * C + block * 128, true);
            }
#pragma unroll
        for (int row = 0; row < C; row += ROWS2)
            if (row + ROWS2 <= C || row + (int)threadIdx.x / 4 < C)
                copy16(stage + to2 + row * PIECE, w2 + row * 4 * C, true);
        w1 += PIECE * C, w2 += PIECE;
    }
};

/* fc1 for 32 hidden columns. */
template <int C, int WG>
__device__ __forceinline__ void first_product(int (&sum)[4][4], unsigned a, unsigned w1)
{
    using S = mlp_shape<C, WG>;
#pragma unroll
    for (int step = 0; step < S::STEPS; step++)
        wgmma_s8<32>::run(sum, wgmma_operand(a + step / 4 * S::ROWS * 128) + 2 * (step % 4),
                          wgmma_operand(w1 + step / 4 * PIECE * 128) + 2 * (step % 4), step > 0);
}

/* Sums of 32 hidden columns to fc2's left operand (s8_join). alpha, bias, factor: of the first of them; factor: what
 * GELU's output is multiplied by for its share of the span, one for all with AFTER. */
template <bool AFTER>
__device__ __forceinline__ void hidden_codes(uint2 (&code)[4], const int (&sum)[4][4], const float *alpha,
                                             const float *bias, const float *factor, float after,
                                             const s8_span &to)
{
    const int t = threadIdx.x & 3;
#pragma unroll
    for (int half = 0; half < 2; half++) { /* columns 16 half + 4 t and up */
        float a[4], b[4], f[4] = { to.factor, to.factor, to.factor, to.factor };
        *reinterpret_cast<float4 *>(a) = *reinterpret_cast<const float4 *>(alpha + 16 * half + 4 * t);
        *reinterpret_cast<float4 *>(b) = *reinterpret_cast<const float4 *>(bias + 16 * half + 4 * t);
        if (!AFTER)
            *reinterpret_cast<float4 *>(f) = *reinterpret_cast<const float4 *>(factor + 16 * half + 4 * t);
#pragma unroll
        for (int below = 0; below < 2; below++) { /* the thread's upper row, then the lower */
            int four[4];
#pragma unroll
            for (int k = 0; k < 4; k++) four[k] = sum[2 * half + k / 2][2 * below + k % 2];
            code[2 * half + below] = s8_four<S8_GELU_CODES, AFTER>(four, a, b, f, after, to);
        }
    }
}

/* Where a block's parts lie in shared memory: rows of codes, the ring of weights, then these. */
template <int C, int WG> struct mlp_factors {
    float *alpha1, *bias1, *factor, *alpha2, *bias2;
    int *start; /* what fc2's sums start from (s8_begin) */
    __device__ __forceinline__ explicit mlp_factors(char *smem)
    {
        using S = mlp_shape<C, WG>;
        alpha1 = (float *)(smem + S::A + STAGES * S::STAGE), bias1 = alpha1 + 4 * C, factor = bias1 + 4 * C;
        alpha2 = factor + 4 * C, bias2 = alpha2 + C, start = (int *)(bias2 + C);
    }
    template <bool AFTER> __device__ __forceinline__ void load(const swin_mlp_s8 &p)
    {
        constexpr int THREADS = mlp_shape<C, WG>::THREADS;
        const s8_span to = s8_span_of(p.hidden);
        s8_load_factors<S8_GELU_CODES, 4 * C, THREADS, true>(alpha1, bias1, p.fc1, 0);
        s8_load_factors<S8_RESIDUAL, C, THREADS, true>(alpha2, bias2, p.fc2, 0);
        for (int i = threadIdx.x; i < C; i += THREADS) start[i] = p.fc2.zero_share ? -p.fc2.zero_share[i] : 0;
        for (int i = threadIdx.x; !AFTER && i < 4 * C; i += THREADS)
            factor[i] = p.fc1.y[0].shrink ? p.fc1.y[0].shrink[i] * to.factor : to.factor;
    }
    /* After a block-wide barrier. */
    __device__ __forceinline__ void begin(int (&acc)[C / 8][4]) const
    {
        __syncwarp(); /* and not among what is ahead of it: registers */
#pragma unroll
        for (int j = 0; j < C / 8; j++) {
            const int2 two = *(const int2 *)(start + 32 * (j / 4) + 8 * (threadIdx.x & 3) + 2 * (j % 4));
            acc[j][0] = acc[j][2] = two.x, acc[j][1] = acc[j][3] = two.y;
        }
    }
};

/* acc += fc2 of the rows whose codes lie in shared memory at `smem`. The first piece of weights is under
 * way to the ring's first stage; whatever else lies in the ring is overwritten once all have come here. */
template <int C, int WG, bool AFTER>
__device__ __forceinline__ void mlp_products(int (&acc)[C / 8][4], unsigned smem, piece_copy<C, WG> &copy,
                                             const mlp_factors<C, WG> &f, const swin_mlp_s8 &p)
{
#if SWIN_HAVE_WGMMA
    using S = mlp_shape<C, WG>;
    constexpr int PIECES = 4 * C / PIECE;
    const unsigned a = smem + threadIdx.x / 128 * 64 * 128, ring = smem + S::A;
    const s8_span to = s8_span_of(p.hidden);
    int sum[4][4];
    unsigned code[4] = { 0, 0, 0, 0 };
    unsigned last = ring +
                    S::W1; /* where fc2's weights for the codes at hand lie; at first the codes are zeros */
    for (int piece = 0; piece < PIECES; piece++) {
        const unsigned stage = ring + piece % STAGES * S::STAGE;
        copy_wait<0>();
        fence_async_proxy();
        /* The piece is there for all, and all are done with the last but one, whose place is filled. */
        __syncthreads();
        if (piece + 1 < PIECES) copy.run(ring + (piece + 1) % STAGES * S::STAGE);
        copy_commit();
#pragma unroll
        for (int part = 0; part < PIECE / 32; part++) {
            wgmma_fence();
            first_product<C, WG>(sum, a, stage + part * 32 * 128);
            wgmma_s8<C>::run(acc, code, wgmma_operand64(last)); /* fc2's share of the last 32 */
            wgmma_commit();
            wgmma_wait<0>();
            const int first = piece * PIECE + 32 * part;
            uint2 pairs[4];
            hidden_codes<AFTER>(pairs, sum, f.alpha1 + first, f.bias1 + first, f.factor + first, p.fc1.after,
                                to);
#pragma unroll
            for (int i = 0; i < 4; i++) code[i] = s8_join(pairs[i]);
            last = stage + S::W1 + 32 * part;
        }
    }
    wgmma_fence();
    wgmma_s8<C>::run(acc, code, wgmma_operand64(last)); /* fc2's share of the last 32 */
    wgmma_commit();
    wgmma_wait<0>();
#endif
}

} // namespace
