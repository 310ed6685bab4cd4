/* runtime/ops/kernels/cluster_s8.cuh - what cluster_s8.cu's kernel is made of: its shared memory, the stream of
 * weights, products of a window's rows.
 *
 * Weights come in tiles of 32 rows by 128 codes of k, in the order in which they are used, through a ring with one
 * place for each tile where shared memory is long enough. Warpgroups own 32 columns of a product, or where that
 * leaves some idle, a share of k: INT32 sums do not mind. Left operands are either rows in shared memory or, once
 * they have passed between blocks, tensor cores' fragments in memory: 16 bytes for each lane, tile of 16 rows and
 * step of 32 codes (fragment_at). */
#pragma once

#include "runtime/ops/kernels/attention_s8_mma.cuh"
#include "runtime/ops/kernels/box.cuh"
#include "runtime/ops/kernels/cluster.cuh"
#include "runtime/ops/kernels/fused_s8.cuh"
#include "runtime/ops/kernels/gemm.cuh"
#include "runtime/ops/kernels/last_s8.cuh"

namespace
{

constexpr int CLUSTER_BARRIERS = 3; /* after attention, proj and fc1 */
constexpr int TILE = 32 * 128, ROWS = 64, WG = 4, CONSUMERS = 128 * WG, THREADS = CONSUMERS + 32;

/* HEADS of C / 32 in each block, so C / 32 / HEADS blocks for a window; 49 tokens. */
template <int C_, int HEADS_> struct cluster_shape {
    static constexpr int C = C_, HEADS = HEADS_, BLOCKS = C / 32 / HEADS, K = (C + 127) / 128,
                         K4 = (4 * C + 127) / 128; /* tiles of k in a row of C or 4 C */
    /* tiles before each product's first */
    static constexpr int QKV = 0, PROJ = 3 * HEADS * K, FC1 = PROJ + HEADS * K, FC2 = FC1 + 4 * HEADS * K,
                         TILES = FC2 + HEADS * K4;
    static constexpr int SPLIT = WG / HEADS; /* shares of k for proj and fc2 */
    /* bytes; PART: sums of all shares of k but one, where the rows lay */
    static constexpr int CODES = ROWS * 128 * K, PART = (SPLIT - 1) * HEADS * 128 * 16 * 4,
                         A = CODES > PART ? CODES : PART, QKV_CODES = HEADS * 3 * window_shape<49>::tile,
                         TABLE = HEADS * 4 * window_shape<49>::n8 * 32 * 16,
                         FACTORS = HEADS * (288 * 2 + 128) * 4 + 4 * C * 4;
    static constexpr int REST = A + QKV_CODES + TABLE + FACTORS, MOST = 226 << 10, FIT = (MOST - REST) / TILE,
                         SLOTS = FIT < TILES ? FIT : TILES, SHARED = SLOTS * TILE + REST;
    static_assert(C % (32 * HEADS) == 0 && HEADS <= WG, "whole heads, a warpgroup for each");
    static_assert(SLOTS == TILES || (K % SPLIT == 0 && SLOTS >= WG * K),
                  "a warpgroup's tiles of a product, at once");
};

template <class S> struct cluster_memory {
    unsigned tiles, a, heads;   /* addresses */
    unsigned full, empty;       /* barriers of the ring's places */
    char *a_at;                 /* what `a` is the address of */
    float4 *table;              /* position bias and mask */
    float *alpha, *bias, *gelu; /* of this block's columns: q, k, v, then proj, fc1, fc2; GELU's factors */
    float *norms;               /* gamma and beta of both norms */
    int *rows;                  /* which of x's rows is a token; -1: none */
    static constexpr int PROJ = 96 * S::HEADS, FC1 = 128 * S::HEADS, FC2 = 256 * S::HEADS;

    __device__ __forceinline__ cluster_memory(char *smem, uint64_t *barriers, int *tokens)
    {
        tiles = shared_address(smem), a_at = smem + S::SLOTS * TILE, a = shared_address(a_at);
        heads = a + S::A, table = (float4 *)(a_at + S::A + S::QKV_CODES);
        alpha = (float *)(a_at + S::A + S::QKV_CODES + S::TABLE), bias = alpha + 288 * S::HEADS;
        gelu = bias + 288 * S::HEADS, norms = gelu + 128 * S::HEADS, rows = tokens;
        full = shared_address(barriers), empty = full + 8 * S::SLOTS;
    }
};

/* Where a lane's share of a left operand lies. */
__device__ __forceinline__ int64_t fragment_at(int tile, int steps, int step, int lane)
{
    return ((int64_t)(tile * steps + step) * 32 + lane) * 16;
}

/* ---- weights
 * ------------------------------------------------------------------------------------------------- */

struct cluster_maps {
    CUtensorMap qkv, proj, fc1, fc2; /* of 32 rows by 128 codes */
};

/* Ask for tile i of block `rank`. Jobs of qkv and fc1 go round the warpgroups; a round has its tiles of k one after
 * the other, each for all warpgroups. */
template <class S>
__device__ __forceinline__ void ask(int i, int rank, const cluster_maps &w, unsigned to, unsigned full)
{
    constexpr int H = S::HEADS;
    barrier_expect(full, TILE);
    if (i < S::PROJ) {
        const int round = i / (WG * S::K), left = 3 * H - WG * round, across = left < WG ? left : WG,
                  in = i - round * WG * S::K, job = WG * round + in % across;
        box_copy(to, &w.qkv, in / across * 128, job / H * S::C + (rank * H + job % H) * 32, full);
    } else if (i < S::FC1) {
        box_copy(to, &w.proj, (i - S::PROJ) / H * 128, (rank * H + (i - S::PROJ) % H) * 32, full);
    } else if (i < S::FC2) {
        const int in = i - S::FC1, job = in / (WG * S::K) * WG + in % WG;
        box_copy(to, &w.fc1, in / WG % S::K * 128, (rank * 4 * H + job) * 32, full);
    } else {
        box_copy(to, &w.fc2, (i - S::FC2) / H * 128, (rank * H + (i - S::FC2) % H) * 32, full);
    }
}

/* One warp: all tiles, the first of them by all lanes. Weights do not wait for the kernel before. Where places are
 * used again, the warp still runs when the others meet at the cluster's barriers, so it has to come there too: as soon
 * as the tiles that it waits for are of a product that lies behind the barrier. */
template <class S>
__device__ __forceinline__ void feed(const cluster_memory<S> &m, int rank, const cluster_maps &w)
{
    const int lane = threadIdx.x % 32;
    for (int i = lane; i < S::SLOTS; i += 32) ask<S>(i, rank, w, m.tiles + i * TILE, m.full + 8 * i);
    if (S::SLOTS == S::TILES) return;
    __syncwarp();
    int passed = 0;
    auto pass = [&](int barriers) {
        for (; passed < barriers; passed++) {
            cluster_wait();
            if (passed + 1 < CLUSTER_BARRIERS) cluster_arrive();
        }
    };
    cluster_arrive();
    for (int i = S::SLOTS; i < S::TILES; i++) {
        const int before = i - S::SLOTS, slot = i % S::SLOTS;
        pass(before >= S::FC2 ? 3 : before >= S::FC1 ? 2 : before >= S::PROJ ? 1 : 0);
        if (lane == 0) {
            barrier_wait(m.empty + 8 * slot, (i / S::SLOTS - 1) & 1);
            ask<S>(i, rank, w, m.tiles + slot * TILE, m.full + 8 * slot);
        }
        __syncwarp();
    }
    pass(CLUSTER_BARRIERS);
}

/* ---- products
 * ------------------------------------------------------------------------------------------------ */

/* Which of a block's warpgroups this is, for all lanes alike. */
__device__ __forceinline__ int group_of_warp()
{
    return __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
}

/* Wait for tile i. */
template <class S> __device__ __forceinline__ void await_tile(const cluster_memory<S> &m, int i)
{
    if (S::SLOTS == S::TILES)
        barrier_wait(m.full + 8 * i, 0);
    else
        barrier_wait(m.full + 8 * (i % S::SLOTS), i / S::SLOTS & 1);
}

template <class S> __device__ __forceinline__ uint64_t operand_of(const cluster_memory<S> &m, int i)
{
    return wgmma_operand(m.tiles + (S::SLOTS == S::TILES ? i : i % S::SLOTS) * TILE);
}

/* This warpgroup is done with tile i. */
template <class S> __device__ __forceinline__ void give_back(const cluster_memory<S> &m, int i)
{
    if (S::SLOTS < S::TILES && threadIdx.x % 32 == 0) barrier_arrive(m.empty + 8 * (i % S::SLOTS));
}

/* Steps of 32 codes in tile k of a row of C. */
template <int C> __device__ constexpr int steps_of(int k)
{
    return C - 128 * k < 128 ? (C - 128 * k) / 32 : 4;
}

/* sums = rows in shared memory times the tiles first, first + across, ...: 32 columns. Where not `live`, there are no
 * such tiles and the sums are anything: products in a branch would wait for one another. */
template <class S>
__device__ __forceinline__ void multiply_rows(int (&sum)[4][4], const cluster_memory<S> &m, int first,
                                              int across, bool live)
{
    if (live)
        for (int k = 0; k < S::K; k++) await_tile(m, first + k * across);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < S::K; k++) {
        const uint64_t b = operand_of(m, live ? first + k * across : 0),
                       a = wgmma_operand(m.a + k * ROWS * 128);
#pragma unroll
        for (int step = 0; step < steps_of<S::C>(k); step++)
            wgmma_s8<32>::run(sum, a + 2 * step, b + 2 * step, k + step > 0);
    }
    wgmma_commit();
    wgmma_wait<0>();
    if (live)
        for (int k = 0; k < S::K; k++) give_back(m, first + k * across);
}

/* sums += fragments times tiles of k share, share + SPLIT, ... of the n-th 32 columns; past the last tile, zeros. COLS:
 * codes in a row; base: the product's first tile. */
template <class S, int COLS>
__device__ __forceinline__ void multiply_fragments(int (&sum)[4][4], const cluster_memory<S> &m,
                                                   const char *fragments, int base, int n, int share)
{
    constexpr int K = (COLS + 127) / 128, EACH = (K + S::SPLIT - 1) / S::SPLIT,
                  TOGETHER = EACH % 3 == 0   ? 3
                             : EACH % 2 == 0 ? 2
                                             : 1;
    static_assert(EACH % TOGETHER == 0, "whole rounds of loads");
    const int tile = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
#pragma unroll 1
    for (int first = 0; first < EACH; first += TOGETHER) {
        unsigned a[TOGETHER][4][4];
#pragma unroll
        for (int i = 0; i < TOGETHER; i++) /* all loads first: they take the longest */
#pragma unroll
            for (int step = 0; step < 4; step++) {
                const int k = share + (first + i) * S::SPLIT;
                uint4 v = make_uint4(0, 0, 0, 0);
                if (share < S::SPLIT && k * 128 + step * 32 < COLS)
                    v = __ldcg((const uint4 *)(fragments + fragment_at(tile, COLS / 32, 4 * k + step, lane)));
                a[i][step][0] = v.x, a[i][step][1] = v.y, a[i][step][2] = v.z, a[i][step][3] = v.w;
            }
        auto at = [&](int i) { return base + min(share + (first + i) * S::SPLIT, K - 1) * S::HEADS + n; };
        for (int i = 0; i < TOGETHER; i++) await_tile(m, at(i));
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < TOGETHER; i++) {
            const uint64_t b = operand_of(m, at(i));
#pragma unroll
            for (int step = 0; step < 4; step++) wgmma_s8<32>::run(sum, a[i][step], b + 2 * step);
        }
        wgmma_commit();
        wgmma_wait<0>();
        for (int i = 0; i < TOGETHER; i++) give_back(m, at(i));
    }
}

/* Sums of all shares of k to the warpgroups of the first. Where rows lay for qkv or fc1. */
template <class S>
__device__ __forceinline__ void add_shares(int (&sum)[4][4], const cluster_memory<S> &m, int n, int share)
{
    if constexpr (S::SPLIT > 1) {
        int *part = (int *)m.a_at + n * 16 * 128 + threadIdx.x % 128;
        constexpr int STEP = S::HEADS * 16 * 128; /* to the next share's */
        if (share > 0 && share < S::SPLIT) {
#pragma unroll
            for (int i = 0; i < 16; i++) part[(share - 1) * STEP + i * 128] = sum[i / 4][i % 4];
        }
        threads_sync(1, CONSUMERS);
        if (share > 0) return;
#pragma unroll
        for (int other = 0; other < S::SPLIT - 1; other++)
#pragma unroll
            for (int i = 0; i < 16; i++) sum[i / 4][i % 4] += part[other * STEP + i * 128];
    }
}

} // namespace
