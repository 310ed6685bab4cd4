/* Products with many more outputs than inputs (qkv, fc1), on Hopper: y = codes(act(w codes + bias)).
 *
 * One block stays on each multiprocessor and goes through its share of the output's tiles, columns first, so
 * the 192 rows of x at hand lie in shared memory until all of their columns are made, while the weight
 * streams past. Six warpgroups own 64 rows and half of a tile's columns each, and wait for one another only
 * through the ring of the weight's tiles: while one rounds and stores, the tensor cores work for the others.
 * One thread more asks for the tiles.
 *
 * Floor of fc1 of 384 channels at 64 images of 224 pixels (Swin-T): 14.8 GOP, 10 us at 1.5 POP/s; GELU and
 * codes, 19 instructions for each of 19 M values, 12 us; from L2 70 MB, 12 us. */
#include "runtime/ops/kernels/box.cuh"
#include "runtime/ops/kernels/gemm.cuh"
#include "runtime/ops/kernels/int8.cuh"
#include "runtime/ops/kernels/wgmma_s8.cuh"

#pragma nv_diag_suppress 177 /* code for other chips uses nothing of this */

namespace
{

constexpr int BANDS = 3, WG = 2 * BANDS, BM = 64 * BANDS, BN = 128, KB = 128, CONSUMERS = 128 * WG,
              THREADS = CONSUMERS + 128, MOST_STAGES = 8;

/* Shared memory: PANELS of 128 codes of k of the rows, the ring, factors and biases of all columns. */
template <int PANELS> struct wide_shape {
    static constexpr int PANEL = BM * KB, ROWS = PANELS * PANEL, TILE = BN * KB, MOST = 225 << 10;
    static constexpr int stages(int n)
    {
        const int fit = (MOST - ROWS - n * 8) / TILE;
        return fit < MOST_STAGES ? fit : MOST_STAGES;
    }
};

struct wide_memory {
    unsigned rows, tiles;                        /* addresses */
    unsigned full, empty, rows_full, rows_empty; /* barriers */
    int stages;
};

/* A place in the ring and the parity of its phase. */
struct place {
    int slot;
    unsigned parity;

    __device__ __forceinline__ void next(int stages)
    {
        if (++slot == stages) slot = 0, parity ^= 1;
    }
};

/* One thread: rows where they change, and the weight's tiles, in the order in which they are used. */
template <int PANELS>
__device__ __forceinline__ void feed(const wide_memory &s, const CUtensorMap *x, const CUtensorMap *w,
                                     int first, int last, int pieces)
{
    using S = wide_shape<PANELS>;
    place at = { 0, 1 }; /* a new barrier counts as one whose phase before has ended */
    unsigned rows_parity = 1;
    int asked = 0; /* of the weight, before the kernel before has ended */
    const int ahead = min(s.stages, (last - first) * PANELS);
    for (; asked < ahead; asked++) {
        barrier_expect(s.full + 8 * asked, S::TILE);
        box_copy(s.tiles + asked * S::TILE, w, asked % PANELS * KB, (first + asked / PANELS) % pieces * BN,
                 s.full + 8 * asked);
    }
    chain_wait();
    int count = 0;
    for (int unit = first; unit < last; unit++) {
        if (unit == first || unit % pieces == 0) {
            barrier_wait(s.rows_empty, rows_parity);
            rows_parity ^= 1;
            barrier_expect(s.rows_full, S::ROWS);
            for (int panel = 0; panel < PANELS; panel++)
                for (int part = 0; part < BANDS; part++)
                    box_copy(s.rows + panel * S::PANEL + part * 64 * KB, x, panel * KB,
                             unit / pieces * BM + 64 * part, s.rows_full);
        }
        for (int panel = 0; panel < PANELS; panel++, count++) {
            if (count >= asked) {
                barrier_wait(s.empty + 8 * at.slot, at.parity);
                barrier_expect(s.full + 8 * at.slot, S::TILE);
                box_copy(s.tiles + at.slot * S::TILE, w, panel * KB, unit % pieces * BN,
                         s.full + 8 * at.slot);
            }
            at.next(s.stages);
        }
    }
}

template <int LAST, int PANELS>
__device__ __forceinline__ void consume(const swin_gemm_s8 &p, const wide_memory &s, const float *alpha,
                                        const float *bias, int first, int last, int pieces)
{
    using S = wide_shape<PANELS>;
    constexpr int HALF = BN / 2;
    const int band = threadIdx.x / 128 % BANDS, col0 = threadIdx.x / 128 / BANDS * HALF;
    const bool leader = threadIdx.x % 32 == 0;
    place at = { 0, 0 };
    unsigned rows_parity = 0;
    for (int unit = first; unit < last; unit++) {
        if (unit == first || unit % pieces == 0) {
            barrier_wait(s.rows_full, rows_parity);
            rows_parity ^= 1;
        }
        int acc[HALF / 8][4];
        int before = 0;
#pragma unroll
        for (int panel = 0; panel < PANELS; panel++) {
            barrier_wait(s.full + 8 * at.slot, at.parity);
            const uint64_t a = wgmma_operand(s.rows + panel * S::PANEL + band * 64 * KB),
                           b = wgmma_operand(s.tiles + at.slot * S::TILE + col0 * KB);
            wgmma_fence();
#pragma unroll
            for (int step = 0; step < 4; step++)
                wgmma_s8<HALF>::run(acc, a + 2 * step, b + 2 * step, panel + step > 0);
            wgmma_commit();
            if (panel > 0) {
                wgmma_wait<1>();
                if (leader) barrier_arrive(s.empty + 8 * before);
            }
            before = at.slot;
            at.next(s.stages);
        }
        wgmma_wait<0>();
        if (leader) {
            barrier_arrive(s.empty + 8 * before);
            if (unit + 1 < last && (unit + 1) % pieces == 0) barrier_arrive(s.rows_empty);
        }
        const int64_t row = (int64_t)(unit / pieces) * BM + threadIdx.x / 32 % (4 * BANDS) * 16 +
                            threadIdx.x % 32 / 4;
        s8_finish<LAST, HALF / 8>(p, acc, alpha, bias, row, unit % pieces * BN + col0, 0);
    }
}

template <int LAST, int PANELS>
__global__ void __launch_bounds__(THREADS, 1)
    wide_s8_kernel(const __grid_constant__ swin_gemm_s8 p, const __grid_constant__ CUtensorMap x,
                   const __grid_constant__ CUtensorMap w, int stages)
{
#if SWIN_HAVE_WGMMA
    using S = wide_shape<PANELS>;
    extern __shared__ __align__(1024) char smem_base[];
    __shared__ __align__(8) uint64_t barriers[2 * MOST_STAGES + 2];
    const int pieces = p.n / BN, units = (int)((p.m + BM - 1) / BM) * pieces;
    const int first = (int)((int64_t)units * blockIdx.x / gridDim.x),
              last = (int)((int64_t)units * (blockIdx.x + 1) / gridDim.x);
    float *alpha = (float *)(smem_base + S::ROWS + stages * S::TILE), *bias = alpha + p.n;
    wide_memory s = { shared_address(smem_base), shared_address(smem_base) + S::ROWS,
                      shared_address(barriers) };
    s.empty = s.full + 8 * MOST_STAGES, s.rows_full = s.empty + 8 * MOST_STAGES,
    s.rows_empty = s.rows_full + 8;
    s.stages = stages;

    if (threadIdx.x < stages) {
        barrier_init(s.full + 8 * threadIdx.x, 1);
        barrier_init(s.empty + 8 * threadIdx.x, 4 * WG); /* the warps that read */
    }
    if (threadIdx.x == 0) barrier_init(s.rows_full, 1), barrier_init(s.rows_empty, 4 * WG);
    if (threadIdx.x < stages) barrier_init_done();
    for (int i = threadIdx.x; i < p.n; i += THREADS) {
        alpha[i] = p.x_scale * p.w_scale[i];
        bias[i] = p.bias ? p.bias[i] : 0.f;
    }
    __syncthreads();
    if (threadIdx.x >= CONSUMERS) {
        registers_give<24>();
        chain_start();
        if (threadIdx.x == CONSUMERS) feed<PANELS>(s, &x, &w, first, last, pieces);
    } else {
        registers_take<80>();
        chain_wait();
        consume<LAST, PANELS>(p, s, alpha, bias, first, last, pieces);
    }
#endif
}

template <int LAST, int PANELS>
cudaError_t launch(cudaStream_t stream, const swin_gemm_s8 *p, int multiprocessors)
{
    using S = wide_shape<PANELS>;
    static bool ready;
    const void *kernel = (const void *)wide_s8_kernel<LAST, PANELS>;
    int stages = S::stages(p->n);
    const int64_t units = (p->m + BM - 1) / BM * (p->n / BN);
    CUtensorMap x, w;
    if (stages < 3 || units > 0x7fffffff / BM || !swin_codes_map(&x, p->x, p->m, p->k, p->ldx, 64) ||
        !swin_codes_map(&w, p->dealt, p->n, p->k, p->k, BN))
        return cudaErrorNotSupported;
    if (!ready) {
        const cudaError_t e =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::MOST);
        if (e != cudaSuccess) return e;
        ready = true;
    }
    void *args[] = { (void *)p, &x, &w, &stages };
    return chain_launch_pointer(kernel, (unsigned)(units < multiprocessors ? units : multiprocessors),
                                THREADS, (size_t)(S::ROWS + stages * S::TILE + p->n * 8), stream, args);
}

template <int LAST> cudaError_t pick(cudaStream_t stream, const swin_gemm_s8 *p, int multiprocessors)
{
    switch (p->k) {
    case 384:
        return launch<LAST, 3>(stream, p, multiprocessors);
    case 512:
        return launch<LAST, 4>(stream, p, multiprocessors);
    case 768:
        return launch<LAST, 6>(stream, p, multiprocessors);
    default:
        return cudaErrorNotSupported;
    }
}

} // namespace

extern "C" cudaError_t swin_wide_s8_launch(cudaStream_t stream, const swin_gemm_s8 *p, int multiprocessors)
{
    if (p->m == 0) return cudaSuccess;
    if (!swin_wgmma_available() || p->n % 128 != 0 || p->zero_share || p->residual || p->head_scale ||
        p->afters || p->ldx % 16 != 0 || (uintptr_t)p->x % 16 != 0)
        return cudaErrorNotSupported;
    for (int i = 0; i < p->parts; i++)
        if (p->y[i].dtype != SWIN_S8 || p->y[i].ld % 8 != 0 || (uintptr_t)p->y[i].data % 8 != 0 ||
            p->width % 8 != 0 ||
            (p->y[i].shrink && (p->act == SWIN_ACT_NONE || (uintptr_t)p->y[i].shrink % 16 != 0)))
            return cudaErrorNotSupported;
    /* A few tiles would leave most of the chip idle. */
    if (p->m < 16 * (int64_t)multiprocessors) return cudaErrorNotSupported;
    if (p->act == SWIN_ACT_NONE) return pick<S8_CODES>(stream, p, multiprocessors);
    return p->parts == 1 ? pick<S8_GELU_CODES>(stream, p, multiprocessors) : cudaErrorNotSupported;
}
