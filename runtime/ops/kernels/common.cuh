/* runtime/ops/kernels/common.cuh - what the kernels share: types, 16-byte vectors, rows, activation
 * functions. */
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "runtime/ops/kernels/chain.cuh"
#include "runtime/ops/kernels/kernels.h"

/* Run a statement with T bound to the element type of a matrix. */
#define SWIN_WITH_TYPE(dtype, ...)                                                                           \
    switch (dtype) {                                                                                         \
    case SWIN_F32: {                                                                                         \
        using T = float;                                                                                     \
        __VA_ARGS__;                                                                                         \
        break;                                                                                               \
    }                                                                                                        \
    case SWIN_F16: {                                                                                         \
        using T = __half;                                                                                    \
        __VA_ARGS__;                                                                                         \
        break;                                                                                               \
    }                                                                                                        \
    case SWIN_BF16: {                                                                                        \
        using T = __nv_bfloat16;                                                                             \
        __VA_ARGS__;                                                                                         \
        break;                                                                                               \
    }                                                                                                        \
    default:                                                                                                 \
        return cudaErrorInvalidValue;                                                                        \
    }

__device__ __forceinline__ float to_float(float v)
{
    return v;
}
__device__ __forceinline__ float to_float(__half v)
{
    return __half2float(v);
}
__device__ __forceinline__ float to_float(__nv_bfloat16 v)
{
    return __bfloat162float(v);
}

template <class T> __device__ __forceinline__ T from_float(float v);
template <> __device__ __forceinline__ float from_float<float>(float v)
{
    return v;
}
template <> __device__ __forceinline__ __half from_float<__half>(float v)
{
    return __float2half_rn(v);
}
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float v)
{
    return __float2bfloat16_rn(v);
}

/* Two neighbours as one 32-bit word (half types). */
template <class T> __device__ __forceinline__ unsigned pack2(float lo, float hi);
template <> __device__ __forceinline__ unsigned pack2<__half>(float lo, float hi)
{
    const __half2 h = __floats2half2_rn(lo, hi);
    return *reinterpret_cast<const unsigned *>(&h);
}
template <> __device__ __forceinline__ unsigned pack2<__nv_bfloat16>(float lo, float hi)
{
    const __nv_bfloat162 h = __floats2bfloat162_rn(lo, hi);
    return *reinterpret_cast<const unsigned *>(&h);
}
template <class T> __device__ __forceinline__ float2 unpack2(unsigned v);
template <> __device__ __forceinline__ float2 unpack2<__half>(unsigned v)
{
    return __half22float2(*reinterpret_cast<const __half2 *>(&v));
}
template <> __device__ __forceinline__ float2 unpack2<__nv_bfloat16>(unsigned v)
{
    return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162 *>(&v));
}

/* 16 bytes of T, as floats. */
template <class T> struct vec {
    static constexpr int n = 16 / (int)sizeof(T);
    float v[n];
    __device__ __forceinline__ void from(uint4 raw)
    {
        if constexpr (sizeof(T) == 4) {
            v[0] = __uint_as_float(raw.x), v[1] = __uint_as_float(raw.y);
            v[2] = __uint_as_float(raw.z), v[3] = __uint_as_float(raw.w);
        } else {
            const unsigned w[4] = { raw.x, raw.y, raw.z, raw.w };
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float2 f = unpack2<T>(w[i]);
                v[2 * i] = f.x, v[2 * i + 1] = f.y;
            }
        }
    }
    __device__ __forceinline__ uint4 raw() const
    {
        if constexpr (sizeof(T) == 4) {
            return make_uint4(__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]),
                              __float_as_uint(v[3]));
        } else {
            return make_uint4(pack2<T>(v[0], v[1]), pack2<T>(v[2], v[3]), pack2<T>(v[4], v[5]),
                              pack2<T>(v[6], v[7]));
        }
    }
    __device__ __forceinline__ void load(const T *p)
    {
        from(*reinterpret_cast<const uint4 *>(p));
    }
    __device__ __forceinline__ void store(T *p) const
    {
        *reinterpret_cast<uint4 *>(p) = raw();
    }
};

/* Whether rows of x can be read 16 bytes at a time. */
static inline bool swin_vectors(const swin_tensor *x)
{
    const int64_t n = 16 / (x->dtype == SWIN_F32 ? 4 : 2);
    return x->cols % n == 0 && x->ld % n == 0 && (uintptr_t)x->data % 16 == 0;
}

__device__ __forceinline__ int swin_windows_count(const swin_windows &g) /* in an image */
{
    return (g.height / g.window) * (g.width / g.window);
}

/* swin_windows_source for the device. */
__device__ __forceinline__ int64_t window_source(const swin_windows &g, int64_t r)
{
    const unsigned w = g.window, n = w * w, across = g.width / w, per_image = across * (g.height / w);
    const int64_t win = r / n;
    const unsigned token = (unsigned)(r - win * n);
    const int64_t image = win / per_image;
    const unsigned at = (unsigned)(win - image * per_image);
    unsigned y = at / across * w + token / w + g.shift, x = at % across * w + token % w + g.shift;
    if (y >= (unsigned)g.height) y -= g.height;
    if (x >= (unsigned)g.width) x -= g.width;
    return (image * g.height + y) * g.width + x;
}

/* 2^x, 2 units in the last place. */
__device__ __forceinline__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* 0.5 x (1 + erf(x / sqrt 2)) = max(x, 0) - |x| Q(|x|), where Q is the normal distribution's upper tail.
 * float32 uses the library's erf. The half types take log2 Q from a polynomial (minimax over [0, 5.6], where
 * Q falls under 2^-26; beyond, its last term takes Q to 0): relative error under 2e-4, below their own
 * rounding. */
template <class T> __device__ __forceinline__ float gelu(float x)
{
    if constexpr (sizeof(T) == 4) {
        return 0.5f * x * (1.f + erff(x * 0.70710678118654752f));
    } else {
        const float a = fabsf(x);
        float p = fmaf(a, -2.50865963e-04f, 5.08600940e-03f);
        p = fmaf(a, p, -4.55073675e-02f);
        p = fmaf(a, p, -4.68162328e-01f);
        p = fmaf(a, p, -1.14712365e+00f);
        p = fmaf(a, p, -1.00028330e+00f);
        return fmaf(-a, exp2_fast(p), fmaxf(x, 0.f));
    }
}

template <class T> __device__ __forceinline__ float activate(float v, swin_act act)
{
    return act == SWIN_ACT_GELU ? gelu<T>(v) : v;
}

/* exp(x) for x <= 0: accurate for float32; 2^-21 or so for the half types. */
template <class T> __device__ __forceinline__ float exp_neg(float x)
{
    if constexpr (sizeof(T) == 4)
        return expf(x);
    else
        return __expf(x);
}

static inline unsigned swin_blocks(int64_t items, int per_block, int64_t most)
{
    const int64_t n = (items + per_block - 1) / per_block;
    return (unsigned)(n < most ? n : most);
}
