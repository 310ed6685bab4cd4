/* runtime/ops/kernels/cluster_s8.cuh - what cluster_s8.cu's kernel is made of: its shared memory, its weights,
 * products of a window's rows.
 *
 * Weights lie in shared memory as tiles of 32 rows by 128 codes of k. A warpgroup makes 32 columns of a product at a
 * time, or where that leaves some idle, a share of k: INT32 sums do not mind. Left operands are rows of codes, in
 * blocks of 128 columns with the 128-byte swizzle, or where a thread has what the tensor cores want, their fragments:
 * 16 bytes for each lane, tile of 16 rows and step of 32 codes (fragment_at). */
#pragma once

#include "runtime/ops/kernels/attention_s8_mma.cuh"
#include "runtime/ops/kernels/box.cuh"
#include "runtime/ops/kernels/cluster.cuh"
#include "runtime/ops/kernels/fused_s8.cuh"
#include "runtime/ops/kernels/gemm.cuh"
#include "runtime/ops/kernels/last_s8.cuh"

namespace
{

constexpr int TILE = 32 * 128, ROWS = 64, TOKENS = 49, WG = 4, CONSUMERS = 128 * WG, THREADS = CONSUMERS + 32;

/* HEADS of C / 32 in each block, so C / 32 / HEADS blocks for a window. */
template <int C_, int HEADS_> struct cluster_shape {
    static constexpr int C = C_, HEADS = HEADS_, BLOCKS = C / 32 / HEADS;
    static constexpr int SPLIT = WG / HEADS;                   /* shares of k for proj and fc2 */
    static constexpr int OWN = (TOKENS + BLOCKS - 1) / BLOCKS; /* tokens whose rows a block normalises... */
    static constexpr int LANES = (OWN * fused_group<C> + 31) / 32 *
                                 32; /* ...and by how many of its last threads */
    /* tiles before each product's first */
    static constexpr int K = (C + 127) / 128, QKV = 0, PROJ = 3 * HEADS * K, FC1 = PROJ + HEADS * K,
                         FC2 = FC1 + 4 * HEADS * K, TILES = FC2 + HEADS * (4 * C / 128);
    /* bytes: of left operands; of q, k, v, where rows lie between the halves, later; of position bias and mask */
    static constexpr int NORMED = ROWS * 128 * K, MIXED = ROWS * C, HIDDEN = 4 * ROWS * C,
                         QKV_CODES = HEADS * 3 * window_shape<TOKENS>::tile,
                         TABLE = HEADS * 4 * window_shape<TOKENS>::n8 * 32 * 16,
                         VECTORS = (HEADS * (288 * 2 + 128 + 4) + 4 * C) * 4;
    static constexpr int LEAST = TILES * TILE + NORMED + MIXED + QKV_CODES + TABLE + VECTORS,
                         MOST = 226 << 10;
    /* The hidden layer's codes: here, or where the table was, or else in global memory. */
    static constexpr bool IN_TABLE = HIDDEN <= TABLE, HERE = IN_TABLE || LEAST + HIDDEN <= MOST;
    static constexpr int SHARED = LEAST + (HERE && !IN_TABLE ? HIDDEN : 0);
    static_assert(C % (32 * HEADS) == 0 && HEADS <= WG && LANES <= CONSUMERS && SHARED <= MOST,
                  "a block's share");
    static_assert(OWN * C * 3 <= QKV_CODES, "rows where q, k and v were");
    static_assert((SPLIT - 1) * HEADS * 128 * 16 * 4 <= PROJ * TILE && PROJ <= FC2 - FC1,
                  "sums where weights were");
};

/* Named barriers, each used once. */
enum { SYNC_QKV = 1, SYNC_FIRST, SYNC_SECOND };

/* Barriers: of the four weights, of what blocks send one another, of shares of k. */
enum {
    FULL_QKV,
    FULL_PROJ,
    FULL_FC1,
    FULL_FC2,
    SENT_FIRST,
    SENT_MIXED,
    SENT_ROWS,
    SENT_SECOND,
    SENT_HIDDEN,
    SUMS_PROJ,
    SUMS_FC2,
    BARRIERS
};

template <class S> struct cluster_memory {
    unsigned tiles, barriers;
    unsigned normed, mixed, hidden; /* left operands: of qkv and fc1 (rows), of proj and fc2 (fragments) */
    unsigned heads;                 /* q, k, v */
    char *base;                     /* what `tiles` is the address of */
    float4 *table;                  /* position bias and mask */
    float *alpha, *bias, *gelu; /* of this block's columns: q, k, v, then proj, fc1, fc2; GELU's factors */
    float *norms;               /* gamma and beta of both norms */
    float2 *scales;             /* of a head: of sums of q and k, in units of log 2; of v */
    int *rows;                  /* which of x's rows is a token; -1: none */
    static constexpr int PROJ = 96 * S::HEADS, FC1 = 128 * S::HEADS, FC2 = 256 * S::HEADS; /* first columns */

    __device__ __forceinline__ cluster_memory(char *smem, uint64_t *barriers_at, int *tokens)
    {
        base = smem, tiles = shared_address(smem), barriers = shared_address(barriers_at), rows = tokens;
        normed = tiles + S::TILES * TILE, mixed = normed + S::NORMED, heads = mixed + S::MIXED;
        const unsigned bias_at = heads + S::QKV_CODES, vectors = bias_at + S::TABLE;
        hidden = S::IN_TABLE ? bias_at : vectors + S::VECTORS;
        table = (float4 *)at(bias_at);
        alpha = (float *)at(vectors), bias = alpha + 288 * S::HEADS, gelu = bias + 288 * S::HEADS;
        norms = gelu + 128 * S::HEADS, scales = (float2 *)(norms + 4 * S::C);
    }
    __device__ __forceinline__ char *at(unsigned address) const { return base + (address - tiles); }
    __device__ __forceinline__ unsigned barrier(int which) const { return barriers + 8 * which; }
};

/* Where a lane's share of a left operand lies. */
__device__ __forceinline__ int fragment_at(int tile, int step, int lane)
{
    return ((step * 4 + tile) * 32 + lane) * 16;
}

/* A warp's fragment at `at` in this block's shared memory to the same place in all others'. Every lane has written of it,
 * and every lane says so. */
template <class S>
__device__ __forceinline__ void send_fragment(const cluster_memory<S> &m, unsigned at, int sent, int rank)
{
    const int lane = threadIdx.x % 32;
    fence_async_proxy();
    barrier_arrive(m.barrier(sent));
    __syncwarp();
    if (lane < S::BLOCKS && lane != rank)
        cluster_copy(cluster_address(at, lane), at, 512, cluster_address(m.barrier(sent), lane));
}

/* ---- before the kernel before has ended
 * ---------------------------------------------------------------------- */

template <class S>
__device__ __forceinline__ void load_factors(const cluster_memory<S> &m, const swin_cluster_s8 &p, int rank)
{
    constexpr int H = S::HEADS;
    const s8_span hidden = s8_span_of(p.fc1.y[0].rule);
    const float *shrink = p.fc1.y[0].shrink;
    for (int i = threadIdx.x; i < 288 * H; i += CONSUMERS) {
        float2 line;
        if (i < m.PROJ) {
            line = s8_line<S8_CODES>(p.qkv, i / (32 * H) * S::C + rank * 32 * H + i % (32 * H));
        } else if (i < m.FC1) {
            const int n = rank * 32 * H + i - m.PROJ;
            line = p.proj.residual ? s8_line<S8_RESIDUAL>(p.proj, n) : s8_line<S8_CODES>(p.proj, n);
        } else if (i < m.FC2) {
            const int n = rank * 128 * H + i - m.FC1;
            line = s8_line<S8_GELU_CODES>(p.fc1, n);
            m.gelu[i - m.FC1] = shrink ? shrink[n] * hidden.factor : hidden.factor;
        } else {
            line = s8_line<S8_RESIDUAL>(p.fc2, rank * 32 * H + i - m.FC2);
        }
        m.alpha[i] = line.x, m.bias[i] = line.y;
    }
}

/* Bias and mask of the scores that this thread is to see, and the head's scales. */
template <class S>
__device__ __forceinline__ void load_table(const cluster_memory<S> &m, const swin_attention_s8_args &p,
                                           int rank, int window)
{
    constexpr int N = 49, n8 = window_shape<N>::n8;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, tile = warp % 4;
    if (warp >= 4 * S::HEADS) return;
    const int64_t head = rank * S::HEADS + warp / 4, position = window % swin_windows_count(p.g);
    float4 bias[n8];
    bias_of_tiles<N>(bias, p.a.bias ? p.a.bias + head * N * N : NULL,
                     p.a.mask ? p.a.mask + position * N * N : NULL, 16 * tile + lane / 4, 0);
#pragma unroll
    for (int j = 0; j < n8; j++) m.table[(warp * n8 + j) * 32 + lane] = bias[j];
    const int col = (int)head * 32;
    if (threadIdx.x % 128 == 0)
        m.scales[warp / 4] = make_float2(
            p.a.scale * (s8_scale_in(p.q, col) * s8_scale_in(p.k, col)) * S8_LOG2E, s8_scale_in(p.v, col));
}

template <int C> __device__ __forceinline__ void load_norms(float *to, const swin_norm &a, const swin_norm &b)
{
    const float *const from[4] = { a.gamma, a.beta, b.gamma, b.beta };
#pragma unroll
    for (int which = 0; which < 4; which++)
        for (int i = threadIdx.x; i < C; i += CONSUMERS) to[which * C + i] = from[which][i];
}

/* What each barrier waits for: bytes from other blocks or from memory, arrivals of this one's warps or threads. */
template <class S>
__device__ __forceinline__ void begin_barriers(const cluster_memory<S> &m, const swin_cluster_s8 &p, int rank)
{
    constexpr int H = S::HEADS, NORMS = S::LANES / 32, SUMS = (S::SPLIT - 1) * H * 128;
    const int left = TOKENS - rank * S::OWN, own = left < 0 ? 0 : left < S::OWN ? left : S::OWN;
    const int others = (TOKENS - own) * S::K * 128;
    const int2 all[BARRIERS] = { { S::PROJ * TILE, 0 },
                                 { (S::FC1 - S::PROJ) * TILE, 0 },
                                 { (S::FC2 - S::FC1) * TILE, 0 },
                                 { (S::TILES - S::FC2) * TILE, 0 },
                                 { others, NORMS },
                                 { S::MIXED - H * 32 * ROWS, 4 * H * 32 },
                                 { own * S::C * (p.proj.residual ? 3 : 1), 0 },
                                 { others, NORMS },
                                 { S::HIDDEN - H * 128 * ROWS, 4 * WG * H * 32 },
                                 { 0, SUMS },
                                 { 0, SUMS } };
#pragma unroll
    for (int i = 0; i < BARRIERS; i++) barrier_init(m.barrier(i), 1 + all[i].y);
    barrier_init_done();
#pragma unroll
    for (int i = 0; i < BARRIERS; i++) barrier_expect(m.barrier(i), all[i].x);
}

struct cluster_maps {
    CUtensorMap qkv, proj, fc1, fc2; /* of 32 rows by 128 codes */
};

/* One warp: all tiles of this block, 32 columns after another. Weights do not wait for the kernel before. */
template <class S>
__device__ __forceinline__ void ask(const cluster_memory<S> &m, int rank, const cluster_maps &w)
{
    constexpr int H = S::HEADS, K4 = 4 * S::C / 128;
    for (int i = threadIdx.x % 32; i < S::TILES; i += 32) {
        const unsigned to = m.tiles + i * TILE;
        if (i < S::PROJ) {
            const int job = i / S::K;
            box_copy(to, &w.qkv, i % S::K * 128, job / H * S::C + (rank * H + job % H) * 32,
                     m.barrier(FULL_QKV));
        } else if (i < S::FC1) {
            const int in = i - S::PROJ;
            box_copy(to, &w.proj, in % S::K * 128, (rank * H + in / S::K) * 32, m.barrier(FULL_PROJ));
        } else if (i < S::FC2) {
            const int in = i - S::FC1;
            box_copy(to, &w.fc1, in % S::K * 128, (rank * 4 * H + in / S::K) * 32, m.barrier(FULL_FC1));
        } else {
            const int in = i - S::FC2;
            box_copy(to, &w.fc2, in % K4 * 128, (rank * H + in / K4) * 32, m.barrier(FULL_FC2));
        }
    }
}

/* ---- products
 * ------------------------------------------------------------------------------------------------ */

/* Which of a block's warpgroups this is, for all lanes alike. */
__device__ __forceinline__ int group_of_warp()
{
    return __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
}

/* sums = rows of C codes in shared memory times 32 columns, whose tiles begin at `tiles`. */
template <int C>
__device__ __forceinline__ void multiply_rows(int (&sum)[4][4], unsigned rows, unsigned tiles)
{
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < C / 32; step++)
        wgmma_s8<32>::run(sum, wgmma_operand(rows + step / 4 * ROWS * 128) + 2 * (step % 4),
                          wgmma_operand(tiles + step / 4 * TILE) + 2 * (step % 4), step > 0);
    wgmma_commit();
    wgmma_wait<0>();
}

/* sums += fragments of COLS codes times the same: those of k share, share + SHARES, ... GLOBAL: fragments that other
 * blocks wrote to memory. */
template <int COLS, int SHARES, bool GLOBAL>
__device__ __forceinline__ void multiply_fragments(int (&sum)[4][4], const char *fragments, unsigned tiles,
                                                   int share)
{
    constexpr int K = (COLS + 127) / 128, EACH = (K + SHARES - 1) / SHARES,
                  TOGETHER = EACH % 3 == 0   ? 3
                             : EACH % 2 == 0 ? 2
                                             : 1;
    const char *from = fragments + fragment_at(threadIdx.x / 32 % 4, 0, threadIdx.x % 32);
#pragma unroll 1
    for (int first = 0; first < EACH; first += TOGETHER) {
        unsigned a[TOGETHER][4][4];
#pragma unroll
        for (int i = 0; i < TOGETHER; i++) /* all loads first: they take the longest */
#pragma unroll
            for (int step = 0; step < 4; step++) {
                const int at = 4 * (share + (first + i) * SHARES) + step;
                uint4 v = make_uint4(0, 0, 0, 0);
                if (at < COLS / 32) {
                    const uint4 *p = (const uint4 *)(from + fragment_at(0, at, 0));
                    v = GLOBAL ? __ldcg(p) : *p;
                }
                a[i][step][0] = v.x, a[i][step][1] = v.y, a[i][step][2] = v.z, a[i][step][3] = v.w;
            }
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < TOGETHER;
             i++) { /* zeros past the last: a branch would make products wait for one another */
            const uint64_t b = wgmma_operand(tiles + min(share + (first + i) * SHARES, K - 1) * TILE);
#pragma unroll
            for (int step = 0; step < 4; step++) wgmma_s8<32>::run(sum, a[i][step], b + 2 * step);
        }
        wgmma_commit();
        wgmma_wait<0>();
    }
}

/* Sums of all shares of k to the warpgroups of the first; the others are done. tile: where a weight was that nobody
 * reads any more; sums: the barrier that counts the others' threads. */
template <class S>
__device__ __forceinline__ void add_shares(int (&sum)[4][4], const cluster_memory<S> &m, int n, int share,
                                           int tile, int sums)
{
    if constexpr (S::SPLIT > 1) {
        int *part = (int *)(m.base + tile * TILE) + n * 16 * 128 + threadIdx.x % 128;
        constexpr int STEP = S::HEADS * 16 * 128; /* to the next share's */
        if (share >= S::SPLIT) return;
        if (share > 0) {
#pragma unroll
            for (int i = 0; i < 16; i++) part[(share - 1) * STEP + i * 128] = sum[i / 4][i % 4];
            barrier_arrive(m.barrier(sums));
            return;
        }
        barrier_wait(m.barrier(sums), 0);
#pragma unroll
        for (int other = 0; other < S::SPLIT - 1; other++)
#pragma unroll
            for (int i = 0; i < 16; i++) sum[i / 4][i % 4] += part[other * STEP + i * 128];
    }
}

} // namespace
