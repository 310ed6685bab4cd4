/* Half a block in one kernel, on Hopper: x += fc2(codes(GELU(fc1(codes(LN x))))), for the row lengths of
 * Swin's models.
 *
 * Past 192 channels the sums leave registers for few warps only, and a block with two warpgroups took 1.35
 * times as long as LayerNorm and two products (384 channels, H100): those shapes are left to them.
 *
 * Floors at 64 images of 224 pixels (Swin-T): the stream read and written is 77 MB in stage 0, 26 us at 3
 * TB/s; weights from L2, 115 MB in every stage; GELU and codes, about 17 instructions for each of 77 M
 * values, 46 us. So GELU is what the time goes into, and what the rest should hide behind. */
#include "runtime/ops/kernels/mlp_s8.cuh"

#pragma nv_diag_suppress 177 /* code for other chips uses nothing of this */

namespace
{

template <int C, int WG, int FIT, bool AFTER>
__global__ void __launch_bounds__(128 * WG, FIT) mlp_s8_kernel(const __grid_constant__ swin_mlp_s8 p)
{
#if SWIN_HAVE_WGMMA
    using S = mlp_shape<C, WG>;
    extern __shared__ __align__(1024) char smem_base[];
    mlp_factors<C, WG> f(smem_base);
    const unsigned smem = shared_address(smem_base);
    const int64_t m0 = (int64_t)blockIdx.x * S::ROWS;

    piece_copy<C, WG> copy(p);
    copy.run(smem + S::A);
    copy_commit();
    f.template load<AFTER>(p);
    chain_wait();
    fused_norm<C, S::ROWS, S::THREADS, false>(smem_base, (const __half *)p.fc2.y[0].data, p.fc2.y[0].ld, m0,
                                              p.fc2.m, p.norm, p.input, p.fc2.local);
    int acc[C / 8][4];
    __syncthreads(); /* the factors are there */
    f.begin(acc);
    mlp_products<C, WG, AFTER>(acc, smem, copy, f, p);
    s8_finish_straight<C / 8>(p.fc2, acc, f.alpha2, f.bias2,
                              m0 + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4);
#endif
}

template <int C, int WG, int FIT, bool AFTER> cudaError_t launch(cudaStream_t stream, const swin_mlp_s8 *p)
{
    using S = mlp_shape<C, WG>;
    static bool ready;
    const int64_t blocks = (p->fc2.m + S::ROWS - 1) / S::ROWS;
    if (blocks > 0x7fffffff) return cudaErrorNotSupported;
    if (!ready) {
        const cudaError_t e = cudaFuncSetAttribute(mlp_s8_kernel<C, WG, FIT, AFTER>,
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize, S::SHARED);
        if (e != cudaSuccess) return e;
        ready = true;
    }
    void *args[] = { (void *)p };
    return chain_launch_pointer((const void *)mlp_s8_kernel<C, WG, FIT, AFTER>, (unsigned)blocks, S::THREADS,
                                S::SHARED, stream, args);
}

template <int C, int WG, int FIT> cudaError_t pick(cudaStream_t stream, const swin_mlp_s8 *p)
{
    return p->fc1.after > 0 ? launch<C, WG, FIT, true>(stream, p) : launch<C, WG, FIT, false>(stream, p);
}

} // namespace

extern "C" cudaError_t swin_mlp_s8_launch(cudaStream_t stream, const swin_mlp_s8 *p, int multiprocessors)
{
    const swin_s8_part *y = &p->fc2.y[0];
    const int c = p->fc2.n;
    if (p->fc2.m == 0) return cudaSuccess;
    if (!swin_wgmma_available()) return cudaErrorNotSupported;
    if (p->fc1.n != 4 * c || p->fc1.k != c || p->fc2.k != 4 * c || y->dtype != SWIN_F16 || y->ld % 8 != 0 ||
        (uintptr_t)y->data % 16 != 0 || p->fc1.zero_share || p->fc1.afters || p->fc2.afters)
        return cudaErrorNotSupported;
    if (p->fc1.after > 0 && p->fc1.y[0].shrink)
        return cudaErrorNotSupported; /* factors come with int8-mode 3 */
    /* Long rows take long, so few of them wait for one another: then the operators one by one are faster. */
    if (c > 128 && p->fc2.m < 64 * (int64_t)multiprocessors) return cudaErrorNotSupported;
    switch (c) {
    case 96:
        return pick<96, 2, 2>(stream, p);
    case 128:
        return pick<128, 2, 2>(stream, p);
    case 192:
        return pick<192, 3, 1>(stream, p);
    default:
        return cudaErrorNotSupported;
    }
}
