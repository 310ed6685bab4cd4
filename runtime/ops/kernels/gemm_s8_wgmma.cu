/* The products of gemm_s8.cu for Hopper: wgmma reads both operands from shared memory, which the copy
 * engine fills as in gemm_wgmma.cu.
 *
 * WG warpgroups stand one above the other in the tile, 64 rows each; one more warp asks for the tiles of
 * the steps ahead, 128 codes of k each. The weight lies in memory with its rows dealt (s8_column), so its
 * boxes need no more than that. */
#include "runtime/ops/kernels/box.cuh"
#include "runtime/ops/kernels/gemm.cuh"
#include "runtime/ops/kernels/gemm_s8.cuh"
#include "runtime/ops/kernels/last_s8.cuh"
#include "runtime/ops/kernels/wgmma_s8.cuh"

#pragma nv_diag_suppress 177 /* code for other chips uses nothing of this */

namespace
{

constexpr int KB = 128, MOST_STAGES = 8; /* KB: bytes of k in a step */

/* One thread: the tiles of every step. Those of the weight do not wait for the kernel before. */
template <int BM, int BN>
__device__ __forceinline__ void feed(unsigned tiles, unsigned full, unsigned empty, int stages, int steps,
                                     const CUtensorMap *x, const CUtensorMap *w, int64_t m0, int n0)
{
    constexpr int BYTES = (BM + BN) * KB;
    const int first = steps < stages ? steps : stages;
    for (int it = 0; it < first; it++) {
        barrier_expect(full + 8 * it, BYTES);
        box_copy(tiles + it * BYTES + BM * KB, w, it * KB, n0, full + 8 * it);
    }
    chain_wait();
    int slot = 0;
    unsigned parity = 1; /* a new barrier counts as one whose phase before has ended */
    for (int it = 0; it < steps; it++) {
        const unsigned at = tiles + slot * BYTES, ready = full + 8 * slot;
        if (it >= first) {
            barrier_wait(empty + 8 * slot, parity);
            barrier_expect(ready, BYTES);
            box_copy(at + BM * KB, w, it * KB, n0, ready);
        }
#pragma unroll
        for (int part = 0; part < BM / 64; part++)
            box_copy(at + part * 64 * KB, x, it * KB, (int)m0 + 64 * part, ready);
        if (++slot == stages) slot = 0, parity ^= 1;
    }
}

/* STEPS of 32 bytes of k, queued as one group. */
template <int BN, int STEPS>
__device__ __forceinline__ void multiply(int (&acc)[BN / 8][4], uint64_t a, uint64_t b)
{
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < STEPS; step++) wgmma_s8<BN>::run(acc, a + 2 * step, b + 2 * step);
    wgmma_commit();
}

template <int LAST, int WG, int BN, int FIT>
__global__ void __launch_bounds__(WG * 128 + 32, FIT)
    gemm_s8_wgmma_kernel(const __grid_constant__ swin_gemm_s8 p, const __grid_constant__ CUtensorMap x,
                         const __grid_constant__ CUtensorMap w, int stages)
{
#if SWIN_HAVE_WGMMA
    constexpr int BM = 64 * WG, BYTES = (BM + BN) * KB;
    extern __shared__ __align__(1024) char smem_base[];
    __shared__ __align__(8) uint64_t barriers[2 * MOST_STAGES];
    __shared__ __align__(16) float alpha[BN], bias[BN];
    const int tiles_n = (p.n + BN - 1) / BN, group = threadIdx.x / 128, steps = (p.k + KB - 1) / KB;
    const int64_t m0 = (int64_t)(blockIdx.x / tiles_n) * BM;
    const int n0 = blockIdx.x % tiles_n * BN;
    const unsigned tiles = shared_address(smem_base), full = shared_address(barriers),
                   empty = full + 8 * MOST_STAGES;

    if (threadIdx.x < stages) {
        barrier_init(full + 8 * threadIdx.x, 1);
        barrier_init(empty + 8 * threadIdx.x, 4 * WG); /* the warps that read */
        barrier_init_done();
    }
    __syncthreads();
    if (group == WG) {
        chain_start();
        if (threadIdx.x == WG * 128) feed<BM, BN>(tiles, full, empty, stages, steps, &x, &w, m0, n0);
        return;
    }
    int acc[BN / 8][4];
    s8_load_factors<LAST, BN, WG * 128>(alpha, bias, p, n0);
    s8_begin<BN / 8>(acc, p, n0);
    const int64_t row = m0 + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
    constexpr bool EARLY = BN <=
                           64; /* small tiles have registers for it, and little else to hide it behind */
    s8_old<LAST, EARLY ? BN / 32 : 1> early;
    chain_wait();
    if constexpr (EARLY) {
        int64_t to[2];
        s8_rows(to, p, row);
        early.load(p, to, n0 + 8 * (threadIdx.x & 3));
    }
    int slot = 0, before = 0;
    unsigned parity = 0;
    const bool leader = threadIdx.x % 32 == 0;
    for (int it = 0; it < steps; it++) {
        barrier_wait(full + 8 * slot, parity);
        const unsigned stage = tiles + slot * BYTES;
        const uint64_t a = wgmma_operand(stage + group * 64 * KB), b = wgmma_operand(stage + BM * KB);
        const int left = p.k - it * KB;
        if (left > 96)
            multiply<BN, 4>(acc, a, b);
        else if (left > 64)
            multiply<BN, 3>(acc, a, b);
        else
            multiply<BN, 2>(acc, a, b);
        wgmma_wait<1>();
        if (it > 0 && leader) barrier_arrive(empty + 8 * before);
        before = slot;
        if (++slot == stages) slot = 0, parity ^= 1;
    }
    wgmma_wait<0>();
    threads_sync(1, WG * 128); /* the factors are there */
    if constexpr (EARLY)
        s8_finish<LAST, BN / 8>(p, acc, alpha, bias, row, 0, n0, &early);
    else
        s8_finish<LAST, BN / 8>(p, acc, alpha, bias, row, 0, n0);
#endif
}

template <int LAST, int WG, int BN, int FIT> gemm_s8_config config(const char *name, int stages)
{
    gemm_s8_config c = { name, 64 * WG, BN, 128 * WG + 32, (64 * WG + BN) * KB, stages };
    c.kernel = (const void *)gemm_s8_wgmma_kernel<LAST, WG, BN, FIT>;
    c.boxes = true;
    return c;
}

/* Tall tiles fill the chip once where a residual's few columns do not: 33 x 4 of them at 32 images of 224
 * pixels in stage 2. */
template <int LAST> constexpr bool TALL = LAST == S8_RESIDUAL || LAST == S8_LOCAL;

template <int LAST> gemm_s8_config *table(int *count)
{
    static gemm_s8_config all[9] = {
        config<LAST, 2, 192, 1>("128x192", 5), config<LAST, 2, 128, 1>("128x128", 3),
        config<LAST, 2, 96, 2>("128x96", 3),   config<LAST, 2, 64, 2>("128x64", 3),
        config<LAST, 1, 64, 3>("64x64", 4),    config<LAST, 1, 32, 3>("64x32", 8),
    };
    *count = 6;
    if constexpr (TALL<LAST>) {
        if (!all[6].kernel) {
            all[6] = config<LAST, 3, 192, 1>("192x192", 4), all[7] = config<LAST, 3, 128, 1>("192x128", 5),
            all[8] = config<LAST, 3, 96, 1>("192x96", 5);
        }
        *count = 9;
    }
    return all;
}

} // namespace

gemm_s8_config *swin_wgmma_s8_table(int last, int *count)
{
    if (!swin_wgmma_available()) return NULL;
    switch (last) {
    case S8_CODES:
        return table<S8_CODES>(count);
    case S8_GELU_CODES:
        return table<S8_GELU_CODES>(count);
    case S8_RESIDUAL:
        return table<S8_RESIDUAL>(count);
    case S8_LOCAL:
        return table<S8_LOCAL>(count);
    case S8_HALVES:
        return table<S8_HALVES>(count);
    case S8_COSINE:
        return table<S8_COSINE>(count);
    case S8_AFTERS:
        return table<S8_AFTERS>(count);
    default:
        return table<S8_ANY>(count);
    }
}

cudaError_t swin_wgmma_s8_launch(cudaStream_t stream, const swin_gemm_s8 *p, const gemm_s8_config *c,
                                 unsigned blocks, size_t shared, int stages)
{
    CUtensorMap x, w;
    if (!swin_codes_map(&x, p->x, p->m, p->k, p->ldx, 64) ||
        !swin_codes_map(&w, p->dealt, (p->n + 31) / 32 * 32, p->k, p->k, c->bn))
        return cudaErrorNotSupported;
    void *args[] = { (void *)p, &x, &w, &stages };
    return chain_launch_pointer(c->kernel, blocks, (unsigned)c->threads, shared, stream, args);
}
