/* runtime/ops/kernels/observe.cuh - counting what passes by: the observers' device code, shared by the kernel that only
 * observes and by those that observe what they read and write anyway.
 *
 * A block gathers a histogram with the width that the running observation has, in shared memory, and adds it to the
 * observation: merging bins in pairs later is exact, so what was counted stays right when the range grows. A value outside
 * goes to the "far" histogram of its own power of two, in global memory; the block that finishes last widens the
 * observation and merges them in. Only integers are added, so the result does not depend on the order of anything. */
#pragma once

#include "runtime/ops/kernels/common.cuh"

constexpr int OBSERVE_HALF = SWIN_HIST_HALF, OBSERVE_BINS = SWIN_HIST_BINS;
constexpr int OBSERVE_BYTES = OBSERVE_BINS * 4;         /* of a block's histogram */
constexpr unsigned LEAST_WIDTH_BITS = (127 - 60) << 23; /* SWIN_HIST_MIN_WIDTH */
constexpr int FAR_EXPONENT = 127 - 60 + 12;             /* biased, of the smallest value that can be far */

/* Floats as unsigned integers that compare alike; 0 is below every float. */
__device__ __forceinline__ unsigned observe_order(float f)
{
    const unsigned u = __float_as_uint(f + 0.f); /* -0 becomes 0 */
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}
__host__ __device__ __forceinline__ unsigned observe_unorder(unsigned o)
{
    return o & 0x80000000u ? o & 0x7fffffffu : ~o;
}

/* swin_observed_width, with integers. */
__device__ __forceinline__ float observe_width(float amax)
{
    const int exponent = (int)(__float_as_uint(amax) >> 23) - 127 - 12 +
                         1; /* 4096 = 2^12; denormals end below -60 */
    return __uint_as_float((unsigned)((exponent < -60 ? -60 : exponent) + 127) << 23);
}

/* The width that an observation counts with: the least, as long as it has seen nothing finite. */
__device__ __forceinline__ float observe_current(const swin_observer_state *o)
{
    const float width = __ldcg(&o->width);
    return width > 0 ? width : __uint_as_float(LEAST_WIDTH_BITS);
}

/* What a thread counts into. */
struct tally {
    unsigned hist; /* shared address of bin 0, less the bits of MAGIC times 4 */
    float inverse; /* 1 / width, a power of two */
    float low, high;
    unsigned bad;
    unsigned *far;
};

/* Adding this to a float under 2^22 leaves its floor in the low bits when rounded down. */
constexpr float OBSERVE_MAGIC = 12582912.f;
constexpr unsigned OBSERVE_MAGIC_BITS = 0x4b400000u;

__device__ __forceinline__ void tally_begin(tally &t, const unsigned *hist, const swin_watch &w)
{
    t.hist = (unsigned)__cvta_generic_to_shared(hist) + 4u * OBSERVE_HALF - 4u * OBSERVE_MAGIC_BITS;
    t.inverse = 1.f / observe_current(w.o);
    t.low = INFINITY, t.high = -INFINITY, t.bad = 0;
    t.far = w.scratch->far;
}

/* A finite value outside the histogram: into one whose width is that of its own power of two. */
static __device__ __noinline__ void count_far(unsigned *far, float v)
{
    const int exponent = (int)(__float_as_uint(v) >> 23 & 255);
    const int bin =
        __float2int_rd(v * __uint_as_float((unsigned)(265 - exponent) << 23)); /* 2^11 <= |..| < 2^12 */
    atomicAdd(far + (exponent - FAR_EXPONENT) * SWIN_FAR_BINS + (bin > 0 ? bin - OBSERVE_HALF / 2 : -bin),
              1u);
}

/* Multiplying rounds down as well: a negative value never vanishes into bin 0. */
template <int N> __device__ __forceinline__ void count(tally &t, const float (&v)[N])
{
    bool all = true;
#pragma unroll
    for (int k = 0; k < N; k++) {
        const float at = __fmul_rd(v[k], t.inverse);
        const bool in = fabsf(at) < (float)OBSERVE_HALF;
        const unsigned to = 4u * __float_as_uint(__fadd_rd(at, OBSERVE_MAGIC)) + t.hist;
        asm volatile("{.reg .pred p; setp.ne.u32 p, %1, 0; @p red.shared.add.u32 [%0], 1;}\n" ::"r"(to),
                     "r"((unsigned)in)
                     : "memory");
        all = all && in;
    }
    if (all) {
#pragma unroll
        for (int k = 0; k < N; k++) t.low = fminf(t.low, v[k]), t.high = fmaxf(t.high, v[k]);
        return;
    }
#pragma unroll
    for (int k = 0; k < N; k++) {
        if (fabsf(v[k]) <= 3.402823466e38f) {
            t.low = fminf(t.low, v[k]), t.high = fmaxf(t.high, v[k]);
            if (!(fabsf(__fmul_rd(v[k], t.inverse)) < (float)OBSERVE_HALF)) count_far(t.far, v[k]);
        } else {
            t.bad++;
        }
    }
}

/* Block-wide counts into the observation, extremes into the scratch. All threads, after a barrier. */
__device__ __forceinline__ void tally_end(const tally &t, const unsigned *hist, const swin_watch &w)
{
    const bool any = t.low <= t.high;
    unsigned low = any ? ~observe_order(t.low) : 0, high = any ? observe_order(t.high) : 0, bad = t.bad;
    for (int d = 16; d; d >>= 1) {
        low = max(low, __shfl_xor_sync(0xffffffffu, low, d));
        high = max(high, __shfl_xor_sync(0xffffffffu, high, d));
        bad += __shfl_xor_sync(0xffffffffu, bad, d);
    }
    if (threadIdx.x % 32 == 0) {
        atomicMax(&w.scratch->min_inverted, low);
        atomicMax(&w.scratch->max, high);
        if (bad) atomicAdd(&w.scratch->nonfinite, (unsigned long long)bad);
    }
    /* Blocks that end together begin at different bins. */
    for (int i = threadIdx.x; i < OBSERVE_BINS; i += blockDim.x) {
        const int bin = (i + 64 * (int)blockIdx.x) % OBSERVE_BINS;
        if (hist[bin]) atomicAdd(&w.o->hist[bin], (unsigned long long)hist[bin]);
    }
}

/* Whether this block is the last to come here; what the others wrote is then visible. All threads. */
__device__ __forceinline__ bool observe_last(swin_observer_scratch *scratch)
{
    __shared__ unsigned last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(&scratch->ticket, 1u) == gridDim.x - 1;
    __syncthreads();
    if (!last) return false;
    __threadfence();
    if (threadIdx.x == 0) scratch->ticket = 0;
    return true;
}

/* Widen the observation's histogram by 2^shift: bins merge in groups, from zero outwards. */
static __device__ void observe_widen(swin_observer_state *o, unsigned long long *buffer, int shift)
{
    /* One side at a time: the sums of 4096 bins fit the shared memory that the counts no longer need. */
    for (int side = 0; side < 2; side++) {
        unsigned long long *hist = o->hist + side * OBSERVE_HALF;
        for (int i = threadIdx.x; i < OBSERVE_HALF; i += blockDim.x) buffer[i] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < OBSERVE_HALF; i += blockDim.x) {
            const int at = side ? i >> shift : OBSERVE_HALF - 1 - ((OBSERVE_HALF - 1 - i) >> shift);
            const unsigned long long n = __ldcg(&hist[i]);
            if (n) atomicAdd(buffer + at, n);
        }
        __syncthreads();
        for (int i = threadIdx.x; i < OBSERVE_HALF; i += blockDim.x) hist[i] = buffer[i];
        __syncthreads();
    }
}

/* The far histograms of values from 2^12 widths of before up to amax. */
static __device__ void observe_merge_far(swin_observer_state *o, unsigned *far, int before, int width,
                                         float amax)
{
    const int first = before + 12 - FAR_EXPONENT, end = (int)(__float_as_uint(amax) >> 23) + 1 - FAR_EXPONENT;
    for (int i = first * SWIN_FAR_BINS + (int)threadIdx.x; i < end * SWIN_FAR_BINS; i += (int)blockDim.x) {
        const unsigned n = __ldcg(far + i);
        if (!n) continue;
        const int place = i / SWIN_FAR_BINS, index = i - place * SWIN_FAR_BINS;
        const int shift = width - (place + FAR_EXPONENT - 11), half = OBSERVE_HALF / 2;
        const int bin = (index < half ? index + half : -index) >> min(shift, 31);
        atomicAdd(&o->hist[bin + OBSERVE_HALF], (unsigned long long)n);
        far[i] = 0;
    }
}

/* The last block: what the scratch holds into the observation. All threads; buffer: OBSERVE_BYTES of shared memory. */
static __device__ void observe_fold(const swin_watch &w, void *buffer, unsigned long long elements)
{
    swin_observer_state *o = w.o;
    swin_observer_scratch *s = w.scratch;
    const unsigned low = ~__ldcg(&s->min_inverted), high = __ldcg(&s->max);
    const unsigned min_all = min(__ldcg(&o->min), low), max_all = max(__ldcg(&o->max), high);
    const bool any = min_all <= max_all;
    const float a = __uint_as_float(observe_unorder(min_all)), b = __uint_as_float(observe_unorder(max_all));
    const float amax = any ? fmaxf(fabsf(a), fabsf(b)) : 0.f;
    const float before = observe_current(o),
                width = any ? fmaxf(observe_width(amax), before) : __ldcg(&o->width);
    const int from = (int)(__float_as_uint(before) >> 23), to = (int)(__float_as_uint(width) >> 23);
    __syncthreads(); /* all have read what thread 0 is about to change, and the buffer is free */
    if (to > from) {
        observe_widen(o, (unsigned long long *)buffer, min(to - from, 13));
        observe_merge_far(o, s->far, from, to, amax);
    }
    if (threadIdx.x != 0) return;
    o->min = min_all, o->max = max_all, o->width = width;
    o->count = __ldcg(&o->count) + elements;
    o->nonfinite = __ldcg(&o->nonfinite) + __ldcg(&s->nonfinite);
    s->min_inverted = s->max = 0, s->nonfinite = 0;
}
