/* LayerNorm over rows, with the gathers that precede a GEMM: same row, window order, patch merging.
 *
 * A row belongs to a group of lanes; every lane holds its 16-byte vectors in registers, so a row is read once. Which lane
 * holds what depends on the row's length and type alone, so a row's bits do not depend on how many rows there are. */
#include "runtime/ops/kernels/norm.cuh"

struct norm_args {
    swin_tensor out, x;
    swin_norm norm;
    swin_windows g;
    int cols;  /* of out */
    int group; /* lanes of a row: a power of two */
};

/* Where vector element `col` of output row r comes from. */
template <class T, swin_norm_rows ROWS>
__device__ __forceinline__ const T *gather(const norm_args &p, int64_t row, int col)
{
    const T *x = (const T *)p.x.data;
    if (ROWS == SWIN_ROWS_SAME) return x + row * p.x.ld + col;
    if (ROWS == SWIN_ROWS_WINDOWS) return x + window_source(p.g, row) * p.x.ld + col;
    const int c = (int)p.x.cols, part = col / c; /* parts (0,0), (1,0), (0,1), (1,1) as (row, column) */
    const unsigned half_w = p.g.width / 2, per_image = p.g.height / 2 * half_w;
    const int64_t image = row / per_image;
    const unsigned at = (unsigned)(row - image * per_image), y = at / half_w, xx = at - y * half_w;
    const int64_t source = (image * p.g.height + 2 * y + (part & 1)) * p.g.width + 2 * xx + (part >> 1);
    return x + source * p.x.ld + (col - part * c);
}

template <class T, int VECTORS, swin_norm_rows ROWS>
static __global__ void __launch_bounds__(256) norm_kernel(norm_args p)
{
    constexpr int N = vec<T>::n;
    const int lane = threadIdx.x % p.group, total = p.cols / N;
    const int64_t row = (int64_t)blockIdx.x * (blockDim.x / p.group) + threadIdx.x / p.group;
    chain_wait();
    if (row - threadIdx.x % 32 / p.group >= p.out.rows) return; /* the whole warp is past the end */
    const bool live = row < p.out.rows;
    vec<T> v[VECTORS];
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int at = lane + i * p.group;
        if (live && at < total) v[i].load(gather<T, ROWS>(p, row, at * N));
    }
    if (p.norm.gamma) normalise_row<T, VECTORS>(v, p.norm, p.cols, lane, p.group);
    if (!live) return;
    T *out = (T *)p.out.data + row * p.out.ld;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int at = lane + i * p.group;
        if (at < total) v[i].store(out + at * N);
    }
}

/* One block a row, any length and alignment; O: out's type. */
template <class T, class O, swin_norm_rows ROWS>
static __global__ void __launch_bounds__(128) norm_any_kernel(norm_args p)
{
    __shared__ float part[4];
    const int64_t row = blockIdx.x;
    float mean = 0, factor = 1;
    chain_wait();
    for (int pass = 0; pass < 2 && p.norm.gamma; pass++) {
        float sum = 0;
        for (int i = threadIdx.x; i < p.cols; i += blockDim.x) {
            const float d = to_float(*gather<T, ROWS>(p, row, i)) - mean;
            sum += pass ? d * d : d;
        }
        for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, o);
        __syncthreads();
        if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
        __syncthreads();
        sum = (part[0] + part[1]) + (part[2] + part[3]);
        if (pass)
            factor = 1.f / sqrtf(sum / (float)p.cols + p.norm.eps);
        else
            mean = sum / (float)p.cols;
    }
    O *out = (O *)p.out.data + row * p.out.ld;
    for (int i = threadIdx.x; i < p.cols; i += blockDim.x) {
        float v = to_float(*gather<T, ROWS>(p, row, i));
        if (p.norm.gamma) v = (v - mean) * factor * p.norm.gamma[i] + p.norm.beta[i];
        out[i] = from_float<O>(v);
    }
}

template <class T, swin_norm_rows ROWS>
static cudaError_t launch(cudaStream_t stream, norm_args p, bool vectors)
{
    const int total = p.cols / vec<T>::n;
    p.group = norm_group(total);
    const int each = (total + p.group - 1) / p.group;
    if (!vectors || each > 12)
        return chain_launch(norm_any_kernel<T, T, ROWS>, (unsigned)p.out.rows, 128, 0, stream, p);
    const int64_t per_block = 256 / p.group;
    const unsigned blocks = (unsigned)((p.out.rows + per_block - 1) / per_block);
    if (each <= 3) return chain_launch(norm_kernel<T, 3, ROWS>, blocks, 256, 0, stream, p);
    if (each <= 6) return chain_launch(norm_kernel<T, 6, ROWS>, blocks, 256, 0, stream, p);
    return chain_launch(norm_kernel<T, 12, ROWS>, blocks, 256, 0, stream, p);
}

extern "C" cudaError_t swin_norm_launch(cudaStream_t stream, const swin_tensor *out, const swin_tensor *x,
                                        const swin_norm *n, swin_norm_rows rows, const swin_windows *g)
{
    if (out->rows == 0 || out->cols == 0) return cudaSuccess;
    norm_args p = {};
    p.out = *out, p.x = *x, p.cols = (int)out->cols;
    if (n) p.norm = *n;
    if (g) p.g = *g;
    const bool vectors = swin_vectors(out) && swin_vectors(x);
    SWIN_WITH_TYPE(x->dtype, {
        if (out->dtype != x->dtype) /* to float32, for a float layer before integers */
            return rows == SWIN_ROWS_WINDOWS && out->dtype == SWIN_F32
                       ? chain_launch(norm_any_kernel<T, float, SWIN_ROWS_WINDOWS>, (unsigned)p.out.rows, 128,
                                      0, stream, p)
                       : cudaErrorInvalidValue;
        if (rows == SWIN_ROWS_SAME) return launch<T, SWIN_ROWS_SAME>(stream, p, vectors);
        if (rows == SWIN_ROWS_WINDOWS) return launch<T, SWIN_ROWS_WINDOWS>(stream, p, vectors);
        return launch<T, SWIN_ROWS_MERGE>(stream, p, vectors);
    })
    return cudaErrorInvalidValue;
}
