/* Observers: count, non-finite count, min, max and the two-sided histogram of a tensor, exactly as
 * swin_observed defines them, without a word to the host.
 *
 * Blocks gather a histogram with the width that the running observation has, in shared memory, and add it to
 * the observation: merging bins in pairs later is exact, so what was counted stays right when the range
 * grows. When a value lay outside, the block that finishes last widens the observation, and a second pass,
 * which every other time finds nothing to do, counts those values alone. Only integers are added, so the
 * result does not depend on the order of anything. */
#include "runtime/ops/kernels/common.cuh"

namespace
{

constexpr int THREADS = 1024, HALF = SWIN_HIST_HALF, BINS = SWIN_HIST_BINS;

/* Floats as unsigned integers that compare alike; 0 is below every float. */
__device__ __forceinline__ unsigned order(float f)
{
    const unsigned u = __float_as_uint(f + 0.f); /* -0 becomes 0 */
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}
__host__ __device__ __forceinline__ unsigned unorder(unsigned o)
{
    return o & 0x80000000u ? o & 0x7fffffffu : ~o;
}

/* swin_observed_width, with integers. */
__device__ __forceinline__ float width_for(float amax)
{
    const int exponent = (int)(__float_as_uint(amax) >> 23) - 127 - 12 +
                         1; /* 4096 = 2^12; denormals end below -60 */
    return __uint_as_float((unsigned)((exponent < -60 ? -60 : exponent) + 127) << 23);
}

struct tally {
    unsigned hist;                /* shared memory */
    float inverse, limit;         /* 1 / width; HALF, or -1 when there is no width yet */
    float was_inverse, was_limit; /* those of the first pass */
    float low, high;
    unsigned bad;
    bool outside;
};

__device__ __forceinline__ void set_width(float width, float *inverse, float *limit)
{
    *inverse = width > 0 ? 1.f / width : 0.f;
    *limit = width > 0 ? (float)HALF : -1.f;
}

template <bool FIRST> __device__ __forceinline__ void count(tally &t, float v)
{
    if (!FIRST && fabsf(v * t.was_inverse) < t.was_limit) return;
    const float at = v * t.inverse;
    if (fabsf(at) < t.limit) {
        int bin = __float2int_rd(at);
        if (v < 0) bin = min(bin, -1); /* where the product vanished */
        asm volatile("red.shared.add.u32 [%0], 1;\n" ::"r"(t.hist + 4 * (bin + HALF)) : "memory");
    } else if (fabsf(v) <= 3.402823466e38f) {
        t.outside = true;
    } else {
        if (FIRST) t.bad++;
        return;
    }
    if (FIRST) t.low = fminf(t.low, v), t.high = fmaxf(t.high, v);
}

/* Every element of x, 16 bytes at a time where the rows allow it. */
template <class T, bool FIRST>
__device__ __forceinline__ void walk(tally &t, const swin_tensor &x, bool vectors)
{
    const int64_t step = (int64_t)gridDim.x * THREADS, start = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (vectors) {
        constexpr int N = vec<T>::n;
        const bool dense = x.cols == x.ld;
        const int64_t total = x.rows * x.cols / N;
        const unsigned per_row = (unsigned)(x.cols / N);
        const T *data = (const T *)x.data;
#pragma unroll 2
        for (int64_t i = start; i < total; i += step) {
            const T *at = data + i * N;
            if (!dense) {
                const int64_t row = total <= 0xffffffffll ? (unsigned)i / per_row : i / per_row;
                at = data + row * x.ld + (i - row * per_row) * N;
            }
            vec<T> v;
            v.load(at);
#pragma unroll
            for (int k = 0; k < N; k++) count<FIRST>(t, v.v[k]);
        }
        return;
    }
    for (int64_t i = start; i < x.rows * x.cols; i += step)
        count<FIRST>(t, to_float(((const T *)x.data)[i / x.cols * x.ld + i % x.cols]));
}

/* Block-wide counts into the observation, maxima into the scratch. */
__device__ void flush(const tally &t, const unsigned *hist, swin_observer_state *o,
                      swin_observer_scratch *scratch, bool first)
{
    unsigned low = t.low <= t.high ? ~order(t.low) : 0, high = t.low <= t.high ? order(t.high) : 0,
             bad = t.bad;
    for (int d = 16; d; d >>= 1) {
        low = max(low, __shfl_xor_sync(0xffffffffu, low, d));
        high = max(high, __shfl_xor_sync(0xffffffffu, high, d));
        bad += __shfl_xor_sync(0xffffffffu, bad, d);
    }
    if (first && threadIdx.x % 32 == 0) {
        atomicMax(&scratch->min_inverted, low);
        atomicMax(&scratch->max, high);
        if (bad) atomicAdd(&scratch->nonfinite, (unsigned long long)bad);
    }
    for (int i = threadIdx.x; i < BINS; i += THREADS)
        if (hist[i]) atomicAdd(&o->hist[i], (unsigned long long)hist[i]);
}

/* Widen the observation's histogram to `width` (all threads): bins merge in groups of 2^shift, from zero
 * outwards. */
__device__ void widen(swin_observer_state *o, unsigned long long *buffer, float width)
{
    const int from = (int)(__float_as_uint(o->width) >> 23), to = (int)(__float_as_uint(width) >> 23);
    const int shift = from == 0 ? 0 : min(to - from, 13);
    if (shift <= 0) return;
    /* One side at a time: the sums of 4096 bins fit the shared memory that the tally no longer needs. */
    for (int side = 0; side < 2; side++) {
        unsigned long long *hist = o->hist + side * HALF;
        for (int i = threadIdx.x; i < HALF; i += THREADS) buffer[i] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < HALF; i += THREADS) {
            const int at = side ? i >> shift : HALF - 1 - ((HALF - 1 - i) >> shift);
            const unsigned long long n = __ldcg(&hist[i]);
            if (n) atomicAdd(buffer + at, n);
        }
        __syncthreads();
        for (int i = threadIdx.x; i < HALF; i += THREADS) hist[i] = buffer[i];
        __syncthreads();
    }
}

/* The last block of the first pass: the scratch's extremes into the observation, and its width after them. */
__device__ void fold(swin_observer_state *o, swin_observer_scratch *scratch, unsigned long long *buffer,
                     unsigned long long elements)
{
    const unsigned low = ~__ldcg(&scratch->min_inverted), high = __ldcg(&scratch->max);
    const unsigned min_all = min(o->min, low), max_all = max(o->max, high);
    const bool any = min_all <= max_all;
    const float amax =
        any ? fmaxf(fabsf(__uint_as_float(unorder(min_all))), fabsf(__uint_as_float(unorder(max_all)))) : 0.f;
    const float before = o->width, width = any ? width_for(amax) : before;
    __syncthreads(); /* all have read what thread 0 is about to change */
    if (width != before) widen(o, buffer, width);
    if (threadIdx.x != 0) return;
    o->min = min_all, o->max = max_all, o->width = width, o->before = before;
    o->count += elements, o->nonfinite += __ldcg(&scratch->nonfinite);
    scratch->min_inverted = scratch->max = 0, scratch->nonfinite = 0;
}

/* FIRST: every value. Otherwise those that lay outside the width of before, where there were any. */
template <class T, bool FIRST>
__global__ void __launch_bounds__(THREADS, 2)
    observe_kernel(swin_observer_state *o, swin_observer_scratch *scratch, swin_tensor x, bool vectors)
{
    __shared__ __align__(16) unsigned hist[BINS]; /* later the buffer of widen() */
    __shared__ unsigned last, outside;
    if (FIRST)
        for (int i = threadIdx.x; i < BINS; i += THREADS) hist[i] = 0;
    chain_wait();
    if (!FIRST) {
        if (!__ldcg(&scratch->again)) return;
        for (int i = threadIdx.x; i < BINS; i += THREADS) hist[i] = 0;
    }
    if (threadIdx.x == 0) outside = 0;
    __syncthreads();
    tally t = {};
    t.hist = (unsigned)__cvta_generic_to_shared(hist), t.low = INFINITY, t.high = -INFINITY;
    set_width(__ldcg(&o->width), &t.inverse, &t.limit);
    if (!FIRST) set_width(__ldcg(&o->before), &t.was_inverse, &t.was_limit);
    walk<T, FIRST>(t, x, vectors);
    if (t.outside) atomicOr(&outside, 1u);
    __syncthreads();
    flush(t, hist, o, scratch, FIRST);
    if (FIRST && threadIdx.x == 0 && outside) atomicOr(&scratch->again, 1u);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(&scratch->ticket, 1u) == gridDim.x - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    if (FIRST)
        fold(o, scratch, (unsigned long long *)hist, (unsigned long long)x.rows * (unsigned long long)x.cols);
    if (threadIdx.x != 0) return;
    if (!FIRST) scratch->again = 0;
    scratch->ticket = 0;
}

__global__ void reset_kernel(swin_observer_state *o)
{
    for (int i = threadIdx.x; i < BINS; i += blockDim.x) o->hist[i] = 0;
    if (threadIdx.x == 0) {
        o->count = o->nonfinite = 0;
        o->min = 0xffffffffu, o->max = 0, o->width = o->before = 0;
    }
}

} // namespace

/* The same elements as a matrix whose rows can be read 16 bytes at a time, where there is one: rows without
 * padding can be cut anywhere. */
static swin_tensor flatten(const swin_tensor *x)
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

extern "C" cudaError_t swin_observe_launch(cudaStream_t stream, swin_observer_state *o,
                                           swin_observer_scratch *scratch, const swin_tensor *x,
                                           int multiprocessors)
{
    const int64_t most = (int64_t)1 << 31; /* elements of a launch: a block counts with 32 bits */
    if (x->rows == 0 || x->cols == 0) return cudaSuccess;
    const swin_tensor flat = flatten(x);
    const int64_t rows_each = most / flat.cols > 0 ? most / flat.cols : 1;
    for (int64_t at = 0; at < flat.rows; at += rows_each) {
        const swin_tensor part =
            swin_rows(&flat, at, flat.rows - at < rows_each ? flat.rows - at : rows_each);
        const unsigned blocks = swin_blocks(part.rows * part.cols, THREADS * 32, 2 * multiprocessors);
        SWIN_WITH_TYPE(x->dtype, {
            cudaError_t e = chain_launch(observe_kernel<T, true>, blocks, THREADS, 0, stream, o, scratch,
                                         part, swin_vectors(&part));
            if (e == cudaSuccess)
                e = chain_launch(observe_kernel<T, false>, blocks, THREADS, 0, stream, o, scratch, part,
                                 swin_vectors(&part));
            if (e != cudaSuccess) return e;
        })
    }
    return cudaGetLastError();
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
    } bits = { unorder(ordered) };
    return bits.f;
}
