/* Observers: count, non-finite count, min, max and the two-sided histogram of a tensor, exactly as
 * swin_observed defines them, without a word to the host. */
#include "runtime/ops/kernels/observe.cuh"

namespace
{

constexpr int THREADS = 1024;

/* f(values, how many) for every element of x, 16 bytes at a time where the rows allow it. */
template <class T, class F> __device__ __forceinline__ void walk(const swin_tensor &x, bool vectors, F f)
{
    const int64_t step = (int64_t)gridDim.x * THREADS, start = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const T *data = (const T *)x.data;
    if (!vectors) {
        for (int64_t i = start; i < x.rows * x.cols; i += step) {
            const float v[1] = { to_float(data[i / x.cols * x.ld + i % x.cols]) };
            f(v);
        }
        return;
    }
    constexpr int N = vec<T>::n;
    const bool dense = x.cols == x.ld;
    const int64_t total = x.rows * x.cols / N;
    const unsigned per_row = (unsigned)(x.cols / N);
    auto load = [&](int64_t i) {
        const T *at = data + i * N;
        if (!dense) {
            const int64_t row = total <= 0xffffffffll ? (unsigned)i / per_row : i / per_row;
            at = data + row * x.ld + (i - row * per_row) * N;
        }
        return *reinterpret_cast<const uint4 *>(at);
    };
    uint4 next[2] = {};
#pragma unroll
    for (int k = 0; k < 2; k++)
        if (start + k * step < total) next[k] = load(start + k * step);
    for (int64_t i = start; i < total; i += 2 * step) {
        uint4 now[2] = { next[0], next[1] };
#pragma unroll
        for (int k = 0; k < 2; k++)
            if (i + (k + 2) * step < total) next[k] = load(i + (k + 2) * step);
#pragma unroll
        for (int k = 0; k < 2; k++) {
            vec<T> v;
            v.from(now[k]);
            if (i + k * step < total) f(v.v);
        }
    }
}

template <class T>
__global__ void __launch_bounds__(THREADS, 1) observe_kernel(swin_watch w, swin_tensor x, bool vectors)
{
    __shared__ __align__(16) unsigned hist[OBSERVE_BINS]; /* later the buffer of widening */
    for (int i = threadIdx.x; i < OBSERVE_BINS; i += THREADS) hist[i] = 0;
    chain_wait();
    __syncthreads();
    tally t;
    tally_begin(t, hist, w);
    walk<T>(x, vectors, [&](const auto &v) { count(t, v); });
    __syncthreads();
    tally_end(t, hist, w);
    if (observe_last(w.scratch))
        observe_fold(w, hist, (unsigned long long)x.rows * (unsigned long long)x.cols);
}

template <class T>
__global__ void __launch_bounds__(THREADS, 1) range_kernel(swin_watch w, swin_tensor x, bool vectors)
{
    float amax = 0;
    chain_wait();
    walk<T>(x, vectors, [&](const auto &v) {
#pragma unroll
        for (float one : v) {
            one = fabsf(one);
            if (one <= 3.402823466e38f) amax = fmaxf(amax, one);
        }
    });
    for (int d = 16; d; d >>= 1) amax = fmaxf(amax, __shfl_xor_sync(0xffffffffu, amax, d));
    if (threadIdx.x % 32 == 0) atomicMax(&w.scratch->max, __float_as_uint(amax));
    if (!observe_last(w.scratch) || threadIdx.x != 0) return;
    const unsigned all = __ldcg(&w.scratch->max);
    if (!(__ldcg(&w.o->width) > 0) && all) w.o->width = observe_width(__uint_as_float(all));
    w.scratch->max = 0;
}

__global__ void reset_kernel(swin_observer_state *o)
{
    for (int i = threadIdx.x; i < OBSERVE_BINS; i += blockDim.x) o->hist[i] = 0;
    if (threadIdx.x == 0) {
        o->count = o->nonfinite = 0;
        o->min = 0xffffffffu, o->max = 0, o->width = 0, o->zero = 0;
    }
}

/* The same elements as a matrix whose rows can be read 16 bytes at a time, where there is one: rows without
 * padding can be cut anywhere. */
swin_tensor flatten(const swin_tensor *x)
{
    static const int64_t widths[] = { 1024, 512, 256, 128, 64, 32, 16, 8 };
    swin_tensor flat = *x;
    const int64_t total = x->rows * x->cols;
    if (x->ld != x->cols) return flat;
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        if (total % widths[i] == 0) {
            flat.cols = flat.ld = widths[i], flat.rows = total / widths[i];
            break;
        }
    return flat;
}

/* Parts of x of at most 2^31 elements: a block counts with 32 bits. */
template <class F> cudaError_t in_parts(const swin_tensor *x, int multiprocessors, F launch)
{
    const int64_t most = (int64_t)1 << 31;
    if (x->rows == 0 || x->cols == 0) return cudaSuccess;
    const swin_tensor flat = flatten(x);
    const int64_t each = most / flat.cols > 0 ? most / flat.cols : 1;
    for (int64_t at = 0; at < flat.rows; at += each) {
        const swin_tensor part = swin_rows(&flat, at, flat.rows - at < each ? flat.rows - at : each);
        const cudaError_t e = launch(part, swin_blocks(part.rows * part.cols, THREADS * 16, multiprocessors));
        if (e != cudaSuccess) return e;
    }
    return cudaSuccess;
}

} // namespace

extern "C" cudaError_t swin_observe_launch(cudaStream_t stream, const swin_watch *w, const swin_tensor *x,
                                           int multiprocessors)
{
    return in_parts(x, multiprocessors, [&](const swin_tensor &part, unsigned blocks) {
        SWIN_WITH_TYPE(x->dtype, return chain_launch(observe_kernel<T>, blocks, THREADS, 0, stream, *w, part,
                                                     swin_vectors(&part)))
        return cudaErrorInvalidValue;
    });
}

extern "C" cudaError_t swin_observe_range_launch(cudaStream_t stream, const swin_watch *w,
                                                 const swin_tensor *x, int multiprocessors)
{
    return in_parts(x, multiprocessors, [&](const swin_tensor &part, unsigned blocks) {
        SWIN_WITH_TYPE(x->dtype, return chain_launch(range_kernel<T>, blocks, THREADS, 0, stream, *w, part,
                                                     swin_vectors(&part)))
        return cudaErrorInvalidValue;
    });
}

extern "C" cudaError_t swin_observer_reset_launch(cudaStream_t stream, swin_observer_state *o)
{
    reset_kernel<<<1, 1024, 0, stream>>>(o);
    return cudaGetLastError();
}

extern "C" float swin_observer_float(unsigned int ordered)
{
    const union {
        unsigned u;
        float f;
    } bits = { observe_unorder(ordered) };
    return bits.f;
}
