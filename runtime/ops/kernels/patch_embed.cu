/* Patch embedding in one kernel on tensor cores: patches of 4 x 4 pixels of three channels, their product
 * with the weight, LayerNorm; F16 and BF16.
 *
 * A warp takes 16 patches. Pixels go from memory straight to where the tensor cores want them, a channel of
 * a patch being one step of 16: eight patches side by side are 128 bytes of a picture's row. The weight lies
 * in shared memory with its rows dealt as in int8.cuh, so a thread ends with eight neighbours of a row, and
 * a row lies in four lanes: LayerNorm takes two shuffles, and stores are whole.
 *
 * Floor at 64 images of 224 pixels (Swin-T): 39 MB read, 39 MB written, 26 us at 3 TB/s. */
#include "runtime/ops/kernels/tile.cuh"

namespace
{

constexpr int K = 48, PITCH = K + 8,
              WARPS = 4; /* PITCH: elements between rows of the weight, for the banks' sake */

struct embed_args {
    swin_tensor out;
    const float *images;
    int size; /* of a picture's side */
    const void *w;
    const float *bias;
    swin_norm norm;
};

template <class T> struct mma_of {
    using type = mma_f16;
};
template <> struct mma_of<__nv_bfloat16> {
    using type = mma_bf16;
};

/* The column that position r of a product's columns takes. */
__device__ __forceinline__ int dealt_column(int r)
{
    return (r & ~31) | (r & 6) << 2 | (r & 24) >> 2 | (r & 1);
}

/* The first pixel of a patch. */
__device__ __forceinline__ const float *corner(const embed_args &p, int64_t row)
{
    const unsigned side = p.size / 4, per_image = side * side;
    const int64_t image = row / per_image;
    const unsigned at = (unsigned)(row - image * per_image), y = at / side, x = at - y * side;
    return p.images + (image * 3 * p.size + 4 * y) * p.size + 4 * x;
}

/* The left operand of all three steps: of patches `row` and row + 8. */
template <class T>
__device__ __forceinline__ void load_patches(unsigned (&a)[3][4], const embed_args &p, int64_t row)
{
    const int t = threadIdx.x & 3;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int64_t at = row + 8 * half < p.out.rows ? row + 8 * half : p.out.rows - 1;
        const float *from = corner(p, at) + t / 2 * p.size + t % 2 * 2;
#pragma unroll
        for (int chan = 0; chan < 3; chan++)
#pragma unroll
            for (int low = 0; low < 2; low++) {
                const float2 v = __ldg((const float2 *)(from + ((int64_t)chan * p.size + 2 * low) * p.size));
                a[chan][half + 2 * low] = pack2<T>(v.x, v.y);
            }
    }
}

__device__ __forceinline__ float quad_sum(float v)
{
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

/* In place: LayerNorm of the thread's two rows. */
template <int C> __device__ __forceinline__ void normalise(float (&acc)[C / 8][4], const swin_norm &n)
{
    float mean[2], factor[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float sum = 0, squares = 0;
#pragma unroll
        for (int j = 0; j < C / 8; j++) sum += acc[j][2 * half] + acc[j][2 * half + 1];
        mean[half] = quad_sum(sum) / (float)C;
#pragma unroll
        for (int j = 0; j < C / 8; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const float d = acc[j][2 * half + e] - mean[half];
                squares = fmaf(d, d, squares);
            }
        factor[half] = 1.f / sqrtf(quad_sum(squares) / (float)C + n.eps);
    }
#pragma unroll
    for (int j = 0; j < C / 8; j++) {
        const int col = 32 * (j / 4) + 8 * (threadIdx.x & 3) + 2 * (j % 4);
        const float2 a = __ldg((const float2 *)(n.gamma + col)), b = __ldg((const float2 *)(n.beta + col));
#pragma unroll
        for (int half = 0; half < 2; half++) {
            acc[j][2 * half] = fmaf((acc[j][2 * half] - mean[half]) * factor[half], a.x, b.x);
            acc[j][2 * half + 1] = fmaf((acc[j][2 * half + 1] - mean[half]) * factor[half], a.y, b.y);
        }
    }
}

template <class T, int C>
__global__ void __launch_bounds__(32 * WARPS, C <= 96    ? 5
                                              : C <= 128 ? 4
                                                         : 3)
    patch_embed_kernel(const __grid_constant__ embed_args p)
{
    __shared__ __align__(16) T weight[C * PITCH];
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    for (int i = threadIdx.x; i < C * (K / 8); i += 32 * WARPS) {
        const int row = i / (K / 8), piece = i % (K / 8) * 8;
        *(uint4 *)(weight + row * PITCH + piece) =
            *(const uint4 *)((const T *)p.w + dealt_column(row) * K + piece);
    }
    __syncthreads();
    chain_wait();
    for (int64_t first = ((int64_t)blockIdx.x * WARPS + threadIdx.x / 32) * 16; first < p.out.rows;
         first += (int64_t)gridDim.x * WARPS * 16) {
        unsigned a[3][4];
        float acc[C / 8][4];
        load_patches<T>(a, p, first + g);
#pragma unroll
        for (int j = 0; j < C / 8; j++) {
            const int col = 32 * (j / 4) + 8 * t + 2 * (j % 4);
            const float2 b = p.bias ? __ldg((const float2 *)(p.bias + col)) : make_float2(0.f, 0.f);
            acc[j][0] = acc[j][2] = b.x, acc[j][1] = acc[j][3] = b.y;
        }
#pragma unroll
        for (int j = 0; j < C / 8; j++)
#pragma unroll
            for (int chan = 0; chan < 3; chan++) {
                const unsigned *b = (const unsigned *)(weight + (8 * j + g) * PITCH + 16 * chan + 2 * t);
                mma_of<T>::type::run(acc[j], a[chan], b[0], b[4]);
            }
        if (p.norm.gamma) normalise<C>(acc, p.norm);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int64_t row = first + g + 8 * half;
            if (row >= p.out.rows) continue;
            T *to = (T *)p.out.data + row * p.out.ld + 8 * t;
#pragma unroll
            for (int q = 0; q < C / 32; q++)
                *(uint4 *)(to + 32 * q) =
                    make_uint4(pack2<T>(acc[4 * q][2 * half], acc[4 * q][2 * half + 1]),
                               pack2<T>(acc[4 * q + 1][2 * half], acc[4 * q + 1][2 * half + 1]),
                               pack2<T>(acc[4 * q + 2][2 * half], acc[4 * q + 2][2 * half + 1]),
                               pack2<T>(acc[4 * q + 3][2 * half], acc[4 * q + 3][2 * half + 1]));
        }
    }
}

template <class T, int C> cudaError_t launch(cudaStream_t stream, const embed_args &p, int multiprocessors)
{
    return chain_launch(patch_embed_kernel<T, C>, swin_blocks(p.out.rows, 16 * WARPS, multiprocessors * 8),
                        32 * WARPS, 0, stream, p);
}

template <class T> cudaError_t pick(cudaStream_t stream, const embed_args &p, int multiprocessors)
{
    switch (p.out.cols) {
    case 96:
        return launch<T, 96>(stream, p, multiprocessors);
    case 128:
        return launch<T, 128>(stream, p, multiprocessors);
    case 192:
        return launch<T, 192>(stream, p, multiprocessors);
    default:
        return cudaErrorNotSupported;
    }
}

} // namespace

extern "C" cudaError_t swin_patch_embed_launch(cudaStream_t stream, const swin_tensor *out,
                                               const float *images, int size, const void *w,
                                               const float *bias, const swin_norm *norm, int multiprocessors)
{
    if (out->rows == 0) return cudaSuccess;
    if (size % 4 != 0 || (uintptr_t)images % 16 != 0 || !swin_vectors(out) || out->dtype == SWIN_F32)
        return cudaErrorNotSupported;
    const embed_args p = { *out, images, size, w, bias, *norm };
    if (out->dtype == SWIN_F16) return pick<__half>(stream, p, multiprocessors);
    return out->dtype == SWIN_BF16 ? pick<__nv_bfloat16>(stream, p, multiprocessors) : cudaErrorNotSupported;
}
