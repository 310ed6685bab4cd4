/* A product over whole rows of the residual stream and the LayerNorm that comes after it, on Hopper: x += w codes +
 * bias, then codes of LN(x) for the next product. So LayerNorm costs no pass over memory and no kernel.
 *
 * A block makes 64 rows. Two warpgroups hold half of the columns each, so a row lies in four lanes of two warps: its
 * sums take two shuffles and one exchange through shared memory. A thread of a third asks for the tiles of the
 * steps ahead, 128 codes of k each. PAIR: two blocks of a cluster share the weight's tiles, each asks for half of a tile
 * and the copy engine gives it to both: at 64 rows a block, the weight's way from L2 is what takes the longest.
 *
 * Floor of fc2 of 384 channels at 64 images of 224 pixels (Swin-T): 14.8 GOP are 10 us at 1.5 POP/s; from L2 196
 * times 0.69 MB, in pairs 0.39 MB. */
#include <stdlib.h>

#include "runtime/ops/kernels/box.cuh"
#include "runtime/ops/kernels/gemm.cuh"
#include "runtime/ops/kernels/int8.cuh"
#include "runtime/ops/kernels/norm_s8.cuh"
#include "runtime/ops/kernels/wgmma_s8.cuh"

#pragma nv_diag_suppress 177 /* code for other chips uses nothing of this */

namespace
{

constexpr int ROWS = 64, KB = 128, STAGES = 3, CONSUMERS = 256, THREADS = CONSUMERS + 128;

template <int C> struct rows_shape {
    static constexpr int BN = C / 2, TILE = (ROWS + C) * KB; /* columns of a warpgroup; bytes of a step */
    static constexpr int SHARED = STAGES * TILE + (2 * C + 4 * ROWS) * 4; /* tiles, factors, sums of rows */
    /* How kernels with lanes for a row hold it (norm_s8.cuh): vectors of a lane; lanes' shares in a thread here. */
    static constexpr int EACH = C / 8 <= 48 ? (C / 8 + 15) / 16 : (C / 8 + 31) / 32, SHARES = BN / 32 / EACH;
    static_assert(BN % 32 == 0 && BN / 32 % EACH == 0 && (SHARES & (SHARES - 1)) == 0,
                  "whole shares, in pairs");
};

/* ---- tiles
 * ----------------------------------------------------------------------------------------------- */

/* Both blocks of a pair are here, and see what either has written. */
__device__ __forceinline__ void pair_sync()
{
#if SWIN_HAVE_WGMMA
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;\n" ::
                     : "memory");
#endif
}

__device__ __forceinline__ unsigned pair_rank()
{
    unsigned rank = 0;
#if SWIN_HAVE_WGMMA
    asm volatile("mov.u32 %0, %%cluster_ctarank;\n" : "=r"(rank));
#endif
    return rank;
}

/* Arrive at the same barrier of block `rank` of the pair. */
__device__ __forceinline__ void barrier_arrive_at(unsigned at, unsigned rank)
{
#if SWIN_HAVE_WGMMA
    asm volatile("{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [there];\n}\n" ::"r"(at),
                 "r"(rank)
                 : "memory");
#endif
}

/* The weight's part of a step. */
template <int C, bool PAIR>
__device__ __forceinline__ void ask_weight(unsigned tile, const CUtensorMap *w, int k, unsigned barrier,
                                           unsigned rank)
{
    constexpr int BN = C / 2;
#pragma unroll
    for (int part = 0; part < 2; part++)
        if (!PAIR)
            box_copy(tile + (ROWS + part * BN) * KB, w, k, part * BN, barrier);
        else if (part == (int)rank)
            box_copy_pair(tile + (ROWS + part * BN) * KB, w, k, part * BN, barrier);
}

/* One thread: the tiles of every step. Those of the weight do not wait for the kernel before. */
template <int C, bool PAIR>
__device__ __forceinline__ void feed(unsigned tiles, unsigned full, unsigned empty, int steps,
                                     const CUtensorMap *x, const CUtensorMap *w, int64_t m0, unsigned rank)
{
    constexpr int TILE = rows_shape<C>::TILE;
    const int first = steps < STAGES ? steps : STAGES;
    for (int it = 0; it < first; it++) {
        barrier_expect(full + 8 * it, TILE);
        ask_weight<C, PAIR>(tiles + it * TILE, w, it * KB, full + 8 * it, rank);
    }
    chain_wait();
    int slot = 0;
    unsigned parity = 1; /* a new barrier counts as one whose phase before has ended */
    for (int it = 0; it < steps; it++) {
        const unsigned at = tiles + slot * TILE, ready = full + 8 * slot;
        if (it >= first) {
            barrier_wait(empty + 8 * slot, parity);
            barrier_expect(ready, TILE);
            ask_weight<C, PAIR>(at, w, it * KB, ready, rank);
        }
        box_copy(at, x, it * KB, (int)m0, ready);
        if (++slot == STAGES) slot = 0, parity ^= 1;
    }
}

/* A warpgroup: 64 rows times its half of the columns. */
template <int C, bool PAIR>
__device__ __forceinline__ void multiply(int (&acc)[C / 16][4], unsigned tiles, unsigned full, unsigned empty,
                                         int steps, int group)
{
    using S = rows_shape<C>;
    int slot = 0, before = 0;
    unsigned parity = 0;
    for (int it = 0; it < steps; it++) {
        barrier_wait(full + 8 * slot, parity);
        const unsigned tile = tiles + slot * S::TILE;
        const uint64_t a = wgmma_operand(tile), b = wgmma_operand(tile + (ROWS + group * S::BN) * KB);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < 4; step++) wgmma_s8<S::BN>::run(acc, a + 2 * step, b + 2 * step);
        wgmma_commit();
        wgmma_wait<1>();
        if (it > 0 && threadIdx.x % 32 == 0) {
            barrier_arrive_at(empty + 8 * before, 0);
            if (PAIR) barrier_arrive_at(empty + 8 * before, 1);
        }
        before = slot;
        if (++slot == STAGES) slot = 0, parity ^= 1;
    }
    wgmma_wait<0>();
}

/* ---- rows
 * ------------------------------------------------------------------------------------------------ */

enum form {
    ADD,       /* the stream takes the product */
    ADD_LOCAL, /* and what was kept */
    KEEP       /* the product is kept */
};

/* Sums to values of the stream, which stay in acc; to memory what belongs there. row[half] < 0: past the end. */
template <int C, int FORM>
__device__ __forceinline__ void finish(int (&acc)[C / 16][4], const swin_rows_s8 &p, const float *alpha,
                                       const float *bias, const int64_t (&row)[2], int col0)
{
    constexpr int Q = C / 64,
                  AHEAD = Q % 3 == 0 ? 3 : 4; /* reads of the stream that are under way together */
    const int t = threadIdx.x & 3;
    const swin_s8_part &y = p.gemm.y[0];
#pragma unroll
    for (int first = 0; first < Q; first += AHEAD) {
        uint4 old[AHEAD][2];
        uint2 kept[AHEAD][2];
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int col = col0 + 32 * (first + i) + 8 * t;
                old[i][half] = make_uint4(0, 0, 0, 0), kept[i][half] = make_uint2(0, 0);
                if (row[half] < 0) continue;
                old[i][half] = *(const uint4 *)((const __half *)y.data + row[half] * y.ld + col);
                if (FORM == ADD_LOCAL)
                    kept[i][half] = *(const uint2 *)(p.gemm.local.codes + row[half] * p.gemm.local.ld + col);
            }
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int q = first + i, col = col0 + 32 * q + 8 * t;
                int sum[8];
                float v[8];
                vec<__half> x;
#pragma unroll
                for (int k = 0; k < 8; k++) sum[k] = acc[4 * q + k / 2][2 * half + k % 2];
                x.from(old[i][half]);
                if constexpr (FORM == KEEP) {
                    float code[8];
#pragma unroll
                    for (int k = 0; k < 8; k++) {
                        code[k] =
                            fminf(fmaxf(fmaf((float)sum[k] * alpha[col + k], p.gemm.after_inverse, S8_MAGIC),
                                        S8_MAGIC - 127.f),
                                  S8_MAGIC + 127.f);
                        x.v[k] += fmaf(code[k] - S8_MAGIC, p.gemm.after, bias[col + k]);
                    }
                    if (row[half] >= 0)
                        *(uint2 *)(p.kept + row[half] * C + col) =
                            make_uint2(s8_pack(code[0], code[1], code[2], code[3]),
                                       s8_pack(code[4], code[5], code[6], code[7]));
                } else {
                    s8_values(v, sum, alpha + col, bias + col, p.gemm.after, p.gemm.after_inverse);
                    if (FORM == ADD_LOCAL) s8_add_local(x.v, kept[i][half], p.gemm.local, col);
#pragma unroll
                    for (int k = 0; k < 8; k++) x.v[k] += v[k];
                    const uint4 raw = x.raw();
                    if (row[half] >= 0) *(uint4 *)((__half *)y.data + row[half] * y.ld + col) = raw;
                    x.from(raw); /* LayerNorm reads what memory has */
                }
#pragma unroll
                for (int k = 0; k < 8; k++) acc[4 * q + k / 2][2 * half + k % 2] = __float_as_int(x.v[k]);
            }
    }
}

__device__ __forceinline__ void eight(float (&v)[8], const int (*acc)[4], int q, int half)
{
#pragma unroll
    for (int k = 0; k < 8; k++) v[k] = __int_as_float(acc[4 * q + k / 2][2 * half + k % 2]);
}

/* Sum over a row of values, or of their squared distances from a mean, in the order of norm_s8.cuh. exchange: one
 * number for each row and warpgroup. */
template <int C, bool SQUARES>
__device__ __forceinline__ void row_sums(float (&total)[2], const int (&acc)[C / 16][4],
                                         const float (&mean)[2], float *exchange)
{
    using S = rows_shape<C>;
    const int group = threadIdx.x / 128, at = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float share[S::SHARES];
#pragma unroll
        for (int j = 0; j < S::SHARES; j++) {
            share[j] = 0;
#pragma unroll
            for (int i = 0; i < S::EACH; i++) {
                float v[8];
                eight(v, acc, S::EACH * j + i, half);
                share[j] = SQUARES ? s8_add8_squares(share[j], v, mean[half]) : s8_add8(share[j], v);
            }
            share[j] = s8_group_sum(share[j], 4);
        }
#pragma unroll
        for (int o = 1; o < S::SHARES; o *= 2)
#pragma unroll
            for (int j = 0; j < S::SHARES; j += 2 * o) share[j] += share[j + o];
        total[half] = share[0];
        if (threadIdx.x % 4 == 0) exchange[group * ROWS + at + 8 * half] = share[0];
    }
    threads_sync(1, CONSUMERS);
#pragma unroll
    for (int half = 0; half < 2; half++) total[half] += exchange[(group ^ 1) * ROWS + at + 8 * half];
}

/* LayerNorm of the rows in acc, and its codes to memory. */
template <int C>
__device__ __forceinline__ void normalise(const int (&acc)[C / 16][4], const swin_rows_s8 &p, float *exchange,
                                          const int64_t (&row)[2], int col0)
{
    float mean[2], squares[2], factor[2];
    row_sums<C, false>(mean, acc, mean, exchange);
#pragma unroll
    for (int half = 0; half < 2; half++) mean[half] /= (float)C;
    row_sums<C, true>(squares, acc, mean, exchange + 2 * ROWS);
#pragma unroll
    for (int half = 0; half < 2; half++) factor[half] = s8_norm_factor(squares[half], C, p.norm.eps);
#pragma unroll
    for (int q = 0; q < C / 64; q++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int col = col0 + 32 * q + 8 * (threadIdx.x & 3);
            float v[8];
            eight(v, acc, q, half);
            s8_normalise8(v, p.norm, col, mean[half], factor[half]);
            if (row[half] >= 0)
                *(uint2 *)(p.normed + row[half] * C + col) =
                    make_uint2(s8_codes4(v, p.input), s8_codes4(v + 4, p.input));
        }
}

template <int C, int FORM, bool PAIR>
__global__ void __launch_bounds__(THREADS, 1)
    rows_s8_kernel(const __grid_constant__ swin_rows_s8 p, const __grid_constant__ CUtensorMap x,
                   const __grid_constant__ CUtensorMap w)
{
#if SWIN_HAVE_WGMMA
    using S = rows_shape<C>;
    extern __shared__ __align__(1024) char smem_base[];
    __shared__ __align__(8) uint64_t barriers[2 * STAGES];
    float *alpha = (float *)(smem_base + STAGES * S::TILE), *bias = alpha + C, *exchange = bias + C;
    const int64_t m0 = (int64_t)blockIdx.x * ROWS;
    const int steps = p.gemm.k / KB, group = threadIdx.x / 128;
    const unsigned tiles = shared_address(smem_base), full = shared_address(barriers),
                   empty = full + 8 * STAGES, rank = PAIR ? pair_rank() : 0;

    if (threadIdx.x < STAGES) {
        barrier_init(full + 8 * threadIdx.x, 1);
        barrier_init(empty + 8 * threadIdx.x, CONSUMERS / 32 * (PAIR ? 2 : 1)); /* the warps that read */
        barrier_init_done();
    }
    s8_load_factors<C, THREADS>(alpha, bias, p.gemm, 0);
    __syncthreads();
    if (PAIR) pair_sync();
    if (threadIdx.x >= CONSUMERS) {
        registers_give<24>();
        chain_start();
        if (threadIdx.x == CONSUMERS) feed<C, PAIR>(tiles, full, empty, steps, &x, &w, m0, rank);
        __syncwarp();
    } else {
        registers_take<240>();
        const int col0 = group * S::BN;
        int acc[S::BN / 8][4];
        s8_begin<S::BN / 8>(acc, p.gemm, col0);
        chain_wait();
        multiply<C, PAIR>(acc, tiles, full, empty, steps, group);
        int64_t row[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            row[half] = m0 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4 + 8 * half;
            if (row[half] >= p.gemm.m) row[half] = -1;
        }
        finish<C, FORM>(acc, p, alpha, bias, row, col0);
        if (p.normed) normalise<C>(acc, p, exchange, row, col0);
    }
    if (PAIR) pair_sync(); /* the other may still copy into this block's memory, or arrive at its barriers */
#endif
}

/* ---- launching
 * ------------------------------------------------------------------------------------------- */

template <int C, int FORM, bool PAIR> cudaError_t launch(cudaStream_t stream, const swin_rows_s8 *p)
{
    using S = rows_shape<C>;
    static bool ready;
    CUtensorMap x, w;
    if (!swin_codes_map(&x, p->gemm.x, p->gemm.m, p->gemm.k, p->gemm.ldx, ROWS) ||
        !swin_codes_map(&w, p->gemm.dealt, C, p->gemm.k, p->gemm.k, S::BN))
        return cudaErrorNotSupported;
    const void *kernel = (const void *)rows_s8_kernel<C, FORM, PAIR>;
    if (!ready) {
        const cudaError_t e =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::SHARED);
        if (e != cudaSuccess) return e;
        ready = true;
    }
    const int64_t blocks = (p->gemm.m + ROWS - 1) / ROWS;
    if (blocks > 0x7ffffffe) return cudaErrorNotSupported;
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim.x = 2, attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)(PAIR ? (blocks + 1) / 2 * 2 : blocks)), config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = S::SHARED, config.stream = stream;
    config.attrs = attributes, config.numAttrs = PAIR ? 2 : 1;
    void *args[] = { (void *)p, &x, &w };
    return cudaLaunchKernelExC(&config, kernel, args);
}

template <int C, bool PAIR> cudaError_t pick(cudaStream_t stream, const swin_rows_s8 *p)
{
    if (p->kept) return launch<C, KEEP, PAIR>(stream, p);
    return p->gemm.local.codes ? launch<C, ADD_LOCAL, PAIR>(stream, p) : launch<C, ADD, PAIR>(stream, p);
}

} // namespace

extern "C" cudaError_t swin_rows_s8_launch(cudaStream_t stream, const swin_rows_s8 *p, int multiprocessors)
{
    const swin_gemm_s8 *g = &p->gemm;
    const swin_s8_part *y = &g->y[0];
    const char *way = getenv("SWIN_S8_ROWS");
    const int chosen = way ? atoi(way) : 0;
    if (chosen == 0) return cudaErrorNotSupported;
    if (g->m == 0) return cudaSuccess;
    if (!swin_wgmma_available()) return cudaErrorNotSupported;
    if (g->k % KB != 0 || g->ldx % 16 != 0 || (uintptr_t)g->x % 16 != 0 || y->dtype != SWIN_F16 ||
        y->ld % 8 != 0 || (uintptr_t)y->data % 16 != 0 || !g->bias || (p->kept && g->after <= 0))
        return cudaErrorNotSupported;
    /* A few blocks would leave most of the chip idle. */
    if (chosen < 3 && g->m < 16 * (int64_t)multiprocessors) return cudaErrorNotSupported;
    switch (g->n) {
    case 384:
        return chosen == 1 ? pick<384, false>(stream, p) : pick<384, true>(stream, p);
    case 512:
        return chosen == 1 ? pick<512, false>(stream, p) : pick<512, true>(stream, p);
    default:
        return cudaErrorNotSupported;
    }
}
