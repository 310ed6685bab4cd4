/* Elementwise operators that observe what they read and write: bias and activation; bias and residual add.
 *
 * A thread keeps its columns, so that its share of the bias stays in registers, and takes every so many rows. */
#include "runtime/ops/kernels/observe.cuh"

namespace
{

constexpr int MOST_THREADS = 1024;

/* How a block's threads lie on a matrix: `width` vectors of `rows` rows at a time; a row is `tiles` times as long. */
struct lanes {
    int width, rows, tiles;
};

/* What the stored value of v is. */
template <class T> __device__ __forceinline__ float stored(float v)
{
    return to_float(from_float<T>(v));
}

template <int N> __device__ __forceinline__ void load_bias(float (&b)[N], const float *bias, int col)
{
#pragma unroll
    for (int k = 0; k < N; k += 4) {
        const float4 f = bias ? *reinterpret_cast<const float4 *>(bias + col + k) : make_float4(0, 0, 0, 0);
        b[k] = f.x, b[k + 1] = f.y, b[k + 2] = f.z, b[k + 3] = f.w;
    }
}

/* This thread's first row, the rows from one of its rows to the next, and its column. */
template <int N> struct place {
    int64_t row, step;
    int col, tile;
    bool live;
    __device__ __forceinline__ explicit place(const lanes &l)
    {
        tile = (int)(blockIdx.x % l.tiles);
        col = (tile * l.width + (int)threadIdx.x % l.width) * N;
        row = (int64_t)(blockIdx.x / l.tiles) * l.rows + (int)threadIdx.x / l.width;
        step = (int64_t)(gridDim.x / l.tiles) * l.rows;
        live = (int)threadIdx.x < l.width * l.rows;
    }
};

__device__ __forceinline__ void clear(unsigned *hist, int histograms)
{
    for (int i = threadIdx.x; i < histograms * OBSERVE_BINS; i += blockDim.x) hist[i] = 0;
}

/* ---- bias and activation ----------------------------------------------------------------------------------- */

struct bias_args {
    swin_tensor y;
    const float *bias;
    swin_watch before, after[3];
    lanes l;
    int parts;
};

/* A block's columns lie in one part. */
template <class T, bool GELU>
__global__ void __launch_bounds__(MOST_THREADS, 1)
    bias_act_observed_kernel(const __grid_constant__ bias_args p)
{
    extern __shared__ __align__(16) unsigned hist[];
    constexpr int N = vec<T>::n;
    const place<N> at(p.l);
    const int part = at.tile * p.parts / p.l.tiles;
    const swin_watch after = part == 0 ? p.after[0] : part == 1 ? p.after[1] : p.after[2];
    float bias[N];
    clear(hist, 2);
    load_bias<N>(bias, p.bias, at.col);
    chain_wait();
    __syncthreads();
    tally in, out;
    tally_begin(in, hist, p.before);
    tally_begin(out, hist + OBSERVE_BINS, after);
    T *y = (T *)p.y.data + at.row * p.y.ld + at.col;
    const int64_t pitch = at.step * p.y.ld;
    uint4 next = {};
    if (at.live && at.row < p.y.rows) next = *reinterpret_cast<const uint4 *>(y);
    for (int64_t row = at.row; at.live && row < p.y.rows; row += at.step, y += pitch) {
        vec<T> v;
        v.from(next);
        if (row + at.step < p.y.rows) next = *reinterpret_cast<const uint4 *>(y + pitch);
        count(in, v.v);
#pragma unroll
        for (int k = 0; k < N; k++) {
            v.v[k] += bias[k];
            v.v[k] = stored<T>(GELU ? gelu<T>(v.v[k]) : v.v[k]);
        }
        v.store(y);
        count(out, v.v);
    }
    __syncthreads();
    tally_end(in, hist, p.before);
    tally_end(out, hist + OBSERVE_BINS, after);
    if (!observe_last(p.before.scratch)) return;
    const unsigned long long elements = (unsigned long long)p.y.rows * (unsigned long long)p.y.cols;
    observe_fold(p.before, hist, elements);
    for (int i = 0; i < p.parts; i++) observe_fold(p.after[i], hist, elements / (unsigned)p.parts);
}

/* ---- bias and residual add --------------------------------------------------------------------------------- */

struct residual_args {
    swin_tensor residual, y;
    const float *bias;
    swin_windows g;
    bool windows;
    swin_watch seen[3]; /* y, y + bias, the sum; the last may be nobody */
    lanes l;
};

template <class T>
__global__ void __launch_bounds__(MOST_THREADS, 1)
    residual_observed_kernel(const __grid_constant__ residual_args p)
{
    extern __shared__ __align__(16) unsigned hist[];
    constexpr int N = vec<T>::n;
    const place<N> at(p.l);
    const bool third = p.seen[2].o != NULL;
    float bias[N];
    clear(hist, third ? 3 : 2);
    load_bias<N>(bias, p.bias, at.col);
    chain_wait();
    __syncthreads();
    tally product, local, sum = {};
    tally_begin(product, hist, p.seen[0]);
    tally_begin(local, hist + OBSERVE_BINS, p.seen[1]);
    if (third) tally_begin(sum, hist + 2 * OBSERVE_BINS, p.seen[2]);
    const T *y = (const T *)p.y.data + at.row * p.y.ld + at.col;
    auto residual_at = [&](int64_t row) {
        return (T *)p.residual.data + (p.windows ? window_source(p.g, row) : row) * p.residual.ld + at.col;
    };
    const int64_t pitch = at.step * p.y.ld;
    uint4 next = {}, next_to = {};
    T *to = NULL, *to_next = residual_at(at.row);
    if (at.live && at.row < p.y.rows) {
        next = *reinterpret_cast<const uint4 *>(y);
        next_to = *reinterpret_cast<const uint4 *>(to_next);
    }
    for (int64_t row = at.row; at.live && row < p.y.rows; row += at.step, y += pitch) {
        vec<T> v, r;
        v.from(next), r.from(next_to), to = to_next;
        if (row + at.step < p.y.rows) {
            to_next = residual_at(row + at.step);
            next = *reinterpret_cast<const uint4 *>(y + pitch);
            next_to = *reinterpret_cast<const uint4 *>(to_next);
        }
        count(product, v.v);
#pragma unroll
        for (int k = 0; k < N; k++) v.v[k] = stored<T>(v.v[k] + bias[k]);
        count(local, v.v);
#pragma unroll
        for (int k = 0; k < N; k++) r.v[k] = stored<T>(r.v[k] + v.v[k]);
        r.store(to);
        if (third) count(sum, r.v);
    }
    __syncthreads();
    tally_end(product, hist, p.seen[0]);
    tally_end(local, hist + OBSERVE_BINS, p.seen[1]);
    if (third) tally_end(sum, hist + 2 * OBSERVE_BINS, p.seen[2]);
    if (!observe_last(p.seen[0].scratch)) return;
    for (int i = 0; i < (third ? 3 : 2); i++)
        observe_fold(p.seen[i], hist, (unsigned long long)p.y.rows * (unsigned long long)p.y.cols);
}

/* ---- launchers --------------------------------------------------------------------------------------------- */

/* Rows of `vectors` pieces, cut so that a tile lies in one of `parts` equal ranges. */
lanes make_lanes(int64_t vectors, int parts)
{
    int64_t width = vectors / parts;
    for (int64_t n = 1; width > MOST_THREADS; n++)
        if (vectors / parts % n == 0) width = vectors / parts / n;
    return { (int)width, (int)(MOST_THREADS / width), (int)(vectors / width) };
}

/* One block on a multiprocessor, as many on every tile, and no more than have rows to take. */
unsigned make_grid(const lanes &l, int64_t rows, int multiprocessors)
{
    const int64_t most = multiprocessors / l.tiles > 0 ? multiprocessors / l.tiles : 1;
    const int64_t want = (rows + 2 * l.rows - 1) / (2 * l.rows);
    return (unsigned)((want < most ? want : most) * l.tiles);
}

/* 32-bit counts and 16-byte pieces. */
bool fits(const swin_tensor *y, const float *bias)
{
    return swin_vectors(y) && (uintptr_t)bias % 16 == 0 && y->rows > 0 &&
           y->rows * y->cols < (int64_t)1 << 31;
}

template <class A>
cudaError_t launch(cudaStream_t stream, void (*kernel)(A), const A &args, unsigned blocks, int histograms)
{
    const size_t shared = (size_t)histograms * OBSERVE_BYTES;
    const cudaError_t e =
        cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    if (e != cudaSuccess) {
        cudaGetLastError(); /* the next launch must not find it */
        return cudaErrorNotSupported;
    }
    const int threads = (args.l.width * args.l.rows + 31) / 32 * 32;
    return chain_launch(kernel, blocks, (unsigned)threads, shared, stream, args);
}

} // namespace

extern "C" cudaError_t swin_bias_act_observed_launch(cudaStream_t stream, const swin_tensor *y,
                                                     const float *bias, swin_act act,
                                                     const swin_watch *before, const swin_watch after[3],
                                                     int parts, int multiprocessors)
{
    if (!fits(y, bias) || (parts != 1 && parts != 3)) return cudaErrorNotSupported;
    SWIN_WITH_TYPE(y->dtype, {
        if (y->cols % (parts * vec<T>::n) != 0) return cudaErrorNotSupported;
        bias_args p = {};
        p.y = *y, p.bias = bias, p.before = *before, p.parts = parts;
        for (int i = 0; i < parts; i++) p.after[i] = after[i];
        p.l = make_lanes(y->cols / vec<T>::n, parts);
        const unsigned blocks = make_grid(p.l, y->rows, multiprocessors);
        if (act == SWIN_ACT_GELU) return launch(stream, bias_act_observed_kernel<T, true>, p, blocks, 2);
        return launch(stream, bias_act_observed_kernel<T, false>, p, blocks, 2);
    })
    return cudaErrorInvalidValue;
}

extern "C" cudaError_t swin_residual_observed_launch(cudaStream_t stream, const swin_tensor *residual,
                                                     const swin_tensor *y, const float *bias,
                                                     const swin_windows *g, const swin_watch seen[3],
                                                     int multiprocessors)
{
    if (!fits(y, bias) || !swin_vectors(residual)) return cudaErrorNotSupported;
    SWIN_WITH_TYPE(y->dtype, {
        residual_args p = {};
        p.residual = *residual, p.y = *y, p.bias = bias, p.windows = g != NULL;
        if (g) p.g = *g;
        for (int i = 0; i < 3; i++) p.seen[i] = seen[i];
        p.l = make_lanes(y->cols / vec<T>::n, 1);
        return launch(stream, residual_observed_kernel<T>, p, make_grid(p.l, y->rows, multiprocessors),
                      p.seen[2].o ? 3 : 2);
    })
    return cudaErrorInvalidValue;
}
