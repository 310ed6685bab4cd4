/* The GEMM of gemm.cu for Hopper, F16 and BF16: wgmma reads both operands from shared memory, which the copy
 * engine fills.
 *
 * WG warpgroups stand one above the other in the tile, 64 rows each; one more warp asks the copy engine for
 * the tiles of the steps ahead, 64 elements of k each, in the layout that wgmma reads. A pair of barriers for
 * each place of the ring says when its tiles have arrived and when all have read them, so that no warp waits
 * for more than it needs. */
#include <cuda.h> /* types of the copy engine's maps; the function that makes one is asked of the driver */

#include "runtime/ops/kernels/barrier.cuh"
#include "runtime/ops/kernels/gemm.cuh"
#include "runtime/ops/kernels/wgmma.cuh"

#pragma nv_diag_suppress 177 /* code for other chips uses nothing of this */

namespace
{

constexpr int KB = 128, MOST_STAGES = 8; /* KB: bytes of k in a step */

/* The box at (k, row) of a matrix into shared memory; what lies outside the matrix becomes zero. */
__device__ __forceinline__ void box_copy(unsigned to, const CUtensorMap *map, int k, int64_t row,
                                         unsigned barrier)
{
#if SWIN_HAVE_WGMMA
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, "
        "%3}], [%4];\n" ::"r"(to),
        "l"(map), "r"(k), "r"((int)row), "r"(barrier)
        : "memory");
#endif
}

/* One thread: the tiles of every step. Those of the weight do not wait for the kernel before. */
template <int BM, int BN>
__device__ __forceinline__ void feed(unsigned tiles, unsigned full, unsigned empty, int stages, int steps,
                                     const CUtensorMap *x, const CUtensorMap *w, int64_t m0, int n0)
{
    constexpr int BYTES = (BM + BN) * KB;
    const int first = steps < stages ? steps : stages;
    for (int it = 0; it < first; it++) {
        barrier_expect(full + 8 * it, BYTES);
        box_copy(tiles + it * BYTES + BM * KB, w, it * KB / 2, n0, full + 8 * it);
    }
    chain_wait();
    int slot = 0;
    unsigned parity = 1; /* a new barrier counts as one whose phase before has ended */
    for (int it = 0; it < steps; it++) {
        const unsigned at = tiles + slot * BYTES, ready = full + 8 * slot;
        if (it >= first) {
            barrier_wait(empty + 8 * slot, parity);
            barrier_expect(ready, BYTES);
            box_copy(at + BM * KB, w, it * KB / 2, n0, ready);
        }
#pragma unroll
        for (int part = 0; part < BM / 64; part++)
            box_copy(at + part * 64 * KB, x, it * KB / 2, m0 + 64 * part, ready);
        if (++slot == stages) slot = 0, parity ^= 1;
    }
}

template <class T, int WG, int BN>
__global__ void __launch_bounds__(WG * 128 + 32)
    gemm_wgmma_kernel(const __grid_constant__ swin_gemm p, const __grid_constant__ CUtensorMap x,
                      const __grid_constant__ CUtensorMap w, int stages)
{
#if SWIN_HAVE_WGMMA
    constexpr int BM = 64 * WG, BYTES = (BM + BN) * KB;
    extern __shared__ __align__(1024) char smem_base[];
    __shared__ __align__(8) uint64_t barriers[2 * MOST_STAGES];
    __shared__ __align__(16) float bias[BN];
    const int tiles_n = (p.n + BN - 1) / BN, group = threadIdx.x / 128;
    const int64_t m0 = (int64_t)(blockIdx.x / tiles_n) * BM;
    const int n0 = blockIdx.x % tiles_n * BN, steps = (p.k * (int)sizeof(T) + KB - 1) / KB;
    const unsigned tiles = shared_address(smem_base), full = shared_address(barriers),
                   empty = full + 8 * MOST_STAGES;

    if (threadIdx.x < stages) {
        barrier_init(full + 8 * threadIdx.x, 1);
        barrier_init(empty + 8 * threadIdx.x, 4 * WG); /* the warps that read */
        barrier_init_done();
    }
    load_bias<BN, WG * 128 + 32>(bias, p, n0);
    __syncthreads();
    if (group == WG) {
        chain_start();
        if (threadIdx.x == WG * 128) feed<BM, BN>(tiles, full, empty, stages, steps, &x, &w, m0, n0);
        return;
    }
    chain_wait();
    float acc[BN / 8][4] = {};
    int slot = 0, before = 0;
    unsigned parity = 0;
    const bool leader = threadIdx.x % 32 == 0;
    for (int it = 0; it < steps; it++) {
        barrier_wait(full + 8 * slot, parity);
        const unsigned stage = tiles + slot * BYTES;
        const uint64_t a = wgmma_operand(stage + group * 64 * KB), b = wgmma_operand(stage + BM * KB);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < KB / 32; step++) wgmma<T, BN>::run(acc, a + 2 * step, b + 2 * step);
        wgmma_commit();
        wgmma_wait<1>();
        if (it > 0 && leader) barrier_arrive(empty + 8 * before);
        before = slot;
        if (++slot == stages) slot = 0, parity ^= 1;
    }
    wgmma_wait<0>();
    threads_sync(1, WG * 128); /* the output tile is staged over the operands, which all have read */

    T *tile = reinterpret_cast<T *>(smem_base);
    stage_rows<T, BN, BN / 8>(tile, bias, acc, p.act, threadIdx.x / 32 * 16, 0);
    threads_sync(1, WG * 128);
    store_tile<T, BM, BN, WG * 128>(tile, p, m0, n0, threadIdx.x);
#endif
}

template <class T, int WG, int BN> gemm_config config(const char *name, int stages)
{
    gemm_config c = { name, 64 * WG, BN, 128 * WG + 32 };
    c.rate = 1;
    c.stage = (64 * WG + BN) * KB, c.stages = stages, c.step = KB;
    c.out = 64 * WG * out_pitch<BN> * (int)sizeof(T);
    c.kernel = (const void *)gemm_wgmma_kernel<T, WG, BN>;
    c.boxes = true;
    return c;
}

constexpr int CONFIGS = 12;

template <class T> gemm_config *table()
{
    static gemm_config all[CONFIGS] = {
        config<T, 3, 192>("192x192", 4), config<T, 4, 128>("256x128", 4),   config<T, 2, 192>("128x192", 5),
        config<T, 2, 128>("128x128", 3), config<T, 2, 128>("128x128/6", 6), config<T, 2, 96>("128x96", 4),
        config<T, 2, 64>("128x64", 4),   config<T, 1, 128>("64x128", 4),    config<T, 1, 96>("64x96", 5),
        config<T, 1, 64>("64x64", 6),    config<T, 1, 32>("64x32", 8),      config<T, 2, 32>("128x32", 5),
    };
    return all;
}

/* ---- maps for the copy engine
 * ----------------------------------------------------------------------------------- */

typedef CUresult (*encoder)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                            const cuuint64_t *, const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave,
                            CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

encoder find_encoder()
{
    static encoder known = NULL;
    if (known) return known;
    void *f = NULL;
    cudaDriverEntryPointQueryResult found;
#if CUDART_VERSION >= 12050
    const cudaError_t e =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found);
#else
    const cudaError_t e = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &f, cudaEnableDefault, &found);
#endif
    if (e == cudaSuccess && found == cudaDriverEntryPointSuccess) known = (encoder)f;
    return known;
}

/* A row-major matrix of half numbers, taken in boxes of box_rows rows by 64 columns. */
bool make_map(CUtensorMap *map, swin_gemm_math math, const void *data, int64_t rows, int cols, int64_t ld,
              int box_rows)
{
    const cuuint64_t size[2] = { (cuuint64_t)cols, (cuuint64_t)rows }, pitch[1] = { (cuuint64_t)ld * 2 };
    const cuuint32_t box[2] = { 64, (cuuint32_t)box_rows }, step[2] = { 1, 1 };
    const encoder encode = find_encoder();
    return encode && rows <= 0x7fffffff &&
           encode(map,
                  math == SWIN_GEMM_F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                  2, (void *)data, size, pitch, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                  CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

} // namespace

bool swin_codes_map(void *map, const void *data, int64_t rows, int cols, int64_t ld, int box_rows)
{
    const cuuint64_t size[2] = { (cuuint64_t)cols, (cuuint64_t)rows }, pitch[1] = { (cuuint64_t)ld };
    const cuuint32_t box[2] = { 128, (cuuint32_t)box_rows }, step[2] = { 1, 1 };
    const encoder encode = find_encoder();
    return encode && rows <= 0x7fffffff &&
           encode((CUtensorMap *)map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, (void *)(uintptr_t)data, size, pitch,
                  box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

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
    known = major == 9 && minor == 0 && find_encoder();
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

cudaError_t swin_wgmma_launch(cudaStream_t stream, const swin_gemm *p, const gemm_config *c, unsigned blocks,
                              size_t shared, int stages)
{
    CUtensorMap x, w;
    if (!make_map(&x, p->math, p->x, p->m, p->k, p->ldx, 64) ||
        !make_map(&w, p->math, p->w, p->n, p->k, p->ldw, c->bn))
        return cudaErrorNotSupported;
    void *args[] = { (void *)p, &x, &w, &stages };
    return chain_launch_pointer(c->kernel, blocks, (unsigned)c->threads, shared, stream, args);
}
