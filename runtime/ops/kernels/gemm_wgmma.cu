/* The GEMM of gemm.cu for Hopper: wgmma reads both operands from shared memory, which cp.async fills ahead. F16 and BF16.
 *
 * WG warpgroups stand one above the other in the tile, 64 rows each. A step of the pipeline is 64 elements of k. */
#include "runtime/ops/kernels/gemm.cuh"
#include "runtime/ops/kernels/wgmma.cuh"

namespace
{

constexpr int KB = 128; /* bytes of k in a step */

template <class T, int WG, int BN, int STAGES>
__global__ void __launch_bounds__(WG * 128) gemm_wgmma_kernel(const __grid_constant__ swin_gemm p)
{
#if SWIN_HAVE_WGMMA
    constexpr int BM = 64 * WG, THREADS = 128 * WG, BYTES = (BM + BN) * KB;
    extern __shared__ __align__(1024) char smem_base[];
    __shared__ float bias[BN];
    const int tiles_n = (p.n + BN - 1) / BN, group = threadIdx.x / 128;
    const int64_t m0 = (int64_t)(blockIdx.x / tiles_n) * BM;
    const int n0 = blockIdx.x % tiles_n * BN, bytes = p.k * (int)sizeof(T), iters = (bytes + KB - 1) / KB;
    const unsigned smem = shared_address(smem_base);
    const char *x = (const char *)p.x + m0 * p.ldx * (int64_t)sizeof(T);
    const char *w = (const char *)p.w + n0 * p.ldw * (int64_t)sizeof(T);
    auto load_x = [&](int it) {
        tile_load<BM, KB, THREADS>(smem + it % STAGES * BYTES, x + it * KB, p.ldx * (int64_t)sizeof(T),
                                   p.m - m0, bytes - it * KB);
    };
    auto load_w = [&](int it) {
        tile_load<BN, KB, THREADS>(smem + it % STAGES * BYTES + BM * KB, w + it * KB,
                                   p.ldw * (int64_t)sizeof(T), p.n - n0, bytes - it * KB);
    };

    float acc[BN / 8][4] = {};
    load_bias<BN, THREADS>(bias, p, n0);
#pragma unroll
    for (int s = 0; s < STAGES - 2; s++)
        if (s < iters) load_w(s);
    chain_wait();
#pragma unroll
    for (int s = 0; s < STAGES - 2; s++) {
        if (s < iters) load_x(s);
        copy_commit();
    }
    for (int it = 0; it < iters; it++) {
        copy_wait<STAGES - 3>();
        fence_async_proxy();
        __syncthreads(); /* step `it` is there for all, and all are done with step it - 2, whose place is filled now */
        if (it + STAGES - 2 < iters) load_x(it + STAGES - 2), load_w(it + STAGES - 2);
        copy_commit();
        const unsigned stage = smem + it % STAGES * BYTES;
        const uint64_t a = wgmma_operand(stage + group * 64 * KB), b = wgmma_operand(stage + BM * KB);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < KB / 32; step++) wgmma<T, BN>::run(acc, a + 2 * step, b + 2 * step);
        wgmma_commit();
        wgmma_wait<1>();
    }
    wgmma_wait<0>();
    copy_wait<0>();
    __syncthreads(); /* the output tile is staged over the operands */

    T *tile = reinterpret_cast<T *>(smem_base);
    stage_rows<T, BN, BN / 8>(tile, bias, acc, p.act, threadIdx.x / 32 * 16, 0);
    __syncthreads();
    store_tile<T, BM, BN, THREADS>(tile, p, m0, n0, threadIdx.x);
#endif
}

template <class T, int WG, int BN, int STAGES> gemm_config config(const char *name)
{
    gemm_config c = { name, 64 * WG, BN, 128 * WG };
    c.stage = (64 * WG + BN) * KB, c.stages = STAGES, c.step = KB;
    c.out = 64 * WG * out_pitch<BN> * (int)sizeof(T);
    c.kernel = (const void *)gemm_wgmma_kernel<T, WG, BN, STAGES>;
    return c;
}

constexpr int CONFIGS = 12;

template <class T> gemm_config *table()
{
    static gemm_config all[CONFIGS] = {
        config<T, 2, 192, 4>("128x192"), config<T, 2, 128, 4>("128x128"), config<T, 2, 128, 3>("128x128/3"),
        config<T, 2, 96, 4>("128x96"),   config<T, 2, 96, 3>("128x96/3"), config<T, 2, 64, 4>("128x64"),
        config<T, 1, 128, 4>("64x128"),  config<T, 1, 96, 4>("64x96"),    config<T, 1, 64, 4>("64x64"),
        config<T, 1, 32, 4>("64x32"),    config<T, 1, 64, 8>("64x64/8"),  config<T, 1, 32, 8>("64x32/8"),
    };
    return all;
}

} // namespace

/* Whether a kernel for sm_90a is what the driver loaded: other builds of it are empty. */
extern "C" bool swin_wgmma_available(void)
{
#if SWIN_WITH_SM90A
    static int known = -1;
    int device = 0, major = 0, minor = 0;
    if (known >= 0) return known == 1;
    if (cudaGetDevice(&device) != cudaSuccess) return false;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    known = major == 9 && minor == 0;
    return known == 1;
#else
    return false;
#endif
}

gemm_config *swin_wgmma_table(swin_gemm_math math, int *count)
{
    *count = CONFIGS;
    if ((math != SWIN_GEMM_F16 && math != SWIN_GEMM_BF16) || !swin_wgmma_available()) return NULL;
    return math == SWIN_GEMM_F16 ? table<__half>() : table<__nv_bfloat16>();
}
