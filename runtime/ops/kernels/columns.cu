/* Columns of float32 matrices: factors, moments, rows taken out. Used for statistics: simple, and fast enough beside the
 * products that make the matrices. */
#include "runtime/ops/kernels/common.cuh"

static __global__ void __launch_bounds__(256) scale_kernel(swin_tensor x, const float *factor)
{
    const int64_t total = x.rows * x.cols, step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < total; i += step) {
        const int64_t row = i / x.cols, col = i - row * x.cols;
        ((float *)x.data)[row * x.ld + col] *= factor[col];
    }
}

extern "C" cudaError_t swin_scale_columns_launch(cudaStream_t stream, const swin_tensor *x,
                                                 const float *factor)
{
    if (x->rows * x->cols == 0) return cudaSuccess;
    const int64_t blocks = (x->rows * x->cols + 255) / 256;
    scale_kernel<<<(unsigned)(blocks < 4096 ? blocks : 4096), 256, 0, stream>>>(*x, factor);
    return cudaGetLastError();
}

/* 32 columns of one run: lane by column, 32 warps by row; then each column's 32 parts one after the other. */
static __global__ void __launch_bounds__(1024) moments_kernel(swin_moments m, swin_tensor x, int64_t rows)
{
    __shared__ double sums[32][33], squares[32][33];
    __shared__ float los[32][33], his[32][33];
    const int lane = threadIdx.x, warp = threadIdx.y;
    const int64_t col = (int64_t)blockIdx.y * 32 + lane, run = blockIdx.x;
    const float *at = (const float *)x.data + run * rows * x.ld + col;
    double sum = 0, square = 0;
    float lo = INFINITY, hi = -INFINITY;
    for (int64_t r = warp; col < x.cols && r < rows; r += 32) {
        const float v = at[r * x.ld];
        sum += (double)v;
        square += (double)v * (double)v;
        lo = v < lo ? v : lo;
        hi = v > hi ? v : hi;
    }
    sums[warp][lane] = sum, squares[warp][lane] = square;
    los[warp][lane] = lo, his[warp][lane] = hi;
    __syncthreads();
    if (warp > 0 || col >= x.cols) return;
    for (int i = 1; i < 32; i++) {
        sum += sums[i][lane], square += squares[i][lane];
        lo = fminf(lo, los[i][lane]), hi = fmaxf(hi, his[i][lane]);
    }
    const int64_t to = run * x.cols + col;
    if (m.sum) m.sum[to] = sum;
    if (m.square) m.square[to] = square;
    if (m.lo) m.lo[to] = lo;
    if (m.hi) m.hi[to] = hi;
}

extern "C" cudaError_t swin_moments_launch(cudaStream_t stream, const swin_moments *m, const swin_tensor *x,
                                           int runs)
{
    const dim3 grid((unsigned)runs, (unsigned)((x->cols + 31) / 32));
    moments_kernel<<<grid, dim3(32, 32), 0, stream>>>(*m, *x, x->rows / runs);
    return cudaGetLastError();
}

static __global__ void __launch_bounds__(256) take_kernel(float *out, swin_tensor x, const int64_t *row)
{
    const float *from = (const float *)x.data + row[blockIdx.x] * x.ld;
    for (int64_t k = threadIdx.x; k < x.cols; k += blockDim.x)
        out[(int64_t)blockIdx.x * x.cols + k] = from[k];
}

extern "C" cudaError_t swin_take_rows_launch(cudaStream_t stream, float *out, const swin_tensor *x,
                                             const int64_t *row, int n)
{
    if (n == 0 || x->cols == 0) return cudaSuccess;
    take_kernel<<<(unsigned)n, 256, 0, stream>>>(out, *x, row);
    return cudaGetLastError();
}
