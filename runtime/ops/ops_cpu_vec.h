/* runtime/ops/ops_cpu_vec.h - the vector that one build of the cpu kernels works in. Internal to ops_cpu_*.c.
 *
 * VL floats (vf) or 32-bit integers (vi): 16 with AVX-512, 8 with AVX2, 4 elsewhere. Both are GCC vector types, so + - * and
 * comparisons are the language's own; below is what the language lacks. A "part" is the first n < VL lanes.
 */
#ifndef SWIN_OPS_CPU_VEC_H
#define SWIN_OPS_CPU_VEC_H

#include <stdint.h>
#include <string.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
#include <immintrin.h>
#define VL 16
#elif defined(__AVX2__)
#include <immintrin.h>
#define VL 8
#else
#define VL 4
#endif

typedef float vf __attribute__((vector_size(4 * VL)));
typedef int32_t vi __attribute__((vector_size(4 * VL)));
typedef uint32_t vu __attribute__((vector_size(4 * VL))); /* where a sum may wrap */

/* Written out: { 0 } + x would be an addition, and turn -0 into 0. */
#if VL == 16
ALWAYS_INLINE vf vf_set(float x)
{
    return (vf){ x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x };
}
#elif VL == 8
ALWAYS_INLINE vf vf_set(float x)
{
    return (vf){ x, x, x, x, x, x, x, x };
}
#else
ALWAYS_INLINE vf vf_set(float x)
{
    return (vf){ x, x, x, x };
}
#endif

ALWAYS_INLINE vf vf_load(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
ALWAYS_INLINE void vf_store(float *p, vf v)
{
    memcpy(p, &v, sizeof v);
}

/* Lanes where mask is all ones, zero elsewhere. */
ALWAYS_INLINE vf vf_keep(vf v, vi mask)
{
    return (vf)((vi)v & mask);
}
/* mask ? a : b */
ALWAYS_INLINE vf vf_pick(vi mask, vf a, vf b)
{
    return (vf)(((vi)a & mask) | ((vi)b & ~mask));
}
ALWAYS_INLINE vf vf_abs(vf v)
{
    return (vf)((vi)v & 0x7fffffff);
}

#if VL == 16
ALWAYS_INLINE vf vf_fma(vf a, vf b, vf c)
{
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
ALWAYS_INLINE vf vf_max(vf a, vf b)
{
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
} /* NaN in a: b */
ALWAYS_INLINE vf vf_min(vf a, vf b)
{
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
}
ALWAYS_INLINE vf vf_rint(vf a)
{
    return (vf)_mm512_roundscale_ps((__m512)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
ALWAYS_INLINE vi vf_to_int(vf a)
{
    return (vi)_mm512_cvttps_epi32((__m512)a);
}
ALWAYS_INLINE vi vf_round_int(vf a) /* half to even */
{
    return (vi)_mm512_cvtps_epi32((__m512)a);
}
ALWAYS_INLINE vf vf_reciprocal(vf a) /* under 1 ulp for normal results */
{
    const vf r = (vf)_mm512_rcp14_ps((__m512)a);
    return vf_fma(r, (vf)_mm512_fnmadd_ps((__m512)a, (__m512)r, _mm512_set1_ps(1.0f)), r);
}
ALWAYS_INLINE vf vf_load_part(const float *p, int n)
{
    return (vf)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
ALWAYS_INLINE void vf_store_part(float *p, vf v, int n)
{
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
}
ALWAYS_INLINE vi vi_first(int n)
{
    return (vi)_mm512_movm_epi32((__mmask16)((1u << n) - 1));
}

#elif VL == 8
ALWAYS_INLINE vf vf_fma(vf a, vf b, vf c)
{
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
ALWAYS_INLINE vf vf_max(vf a, vf b)
{
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
}
ALWAYS_INLINE vf vf_min(vf a, vf b)
{
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
}
ALWAYS_INLINE vf vf_rint(vf a)
{
    return (vf)_mm256_round_ps((__m256)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
ALWAYS_INLINE vi vf_to_int(vf a)
{
    return (vi)_mm256_cvttps_epi32((__m256)a);
}
ALWAYS_INLINE vi vf_round_int(vf a)
{
    return (vi)_mm256_cvtps_epi32((__m256)a);
}
ALWAYS_INLINE vf vf_reciprocal(vf a)
{
    return 1.0f / a;
}
ALWAYS_INLINE vi vi_first(int n)
{
    return (vi){ 0, 1, 2, 3, 4, 5, 6, 7 } < n;
}
ALWAYS_INLINE vf vf_load_part(const float *p, int n)
{
    return (vf)_mm256_maskload_ps(p, (__m256i)vi_first(n));
}
ALWAYS_INLINE void vf_store_part(float *p, vf v, int n)
{
    _mm256_maskstore_ps(p, (__m256i)vi_first(n), (__m256)v);
}

#else
ALWAYS_INLINE vf vf_fma(vf a, vf b, vf c)
{
    return a * b + c;
} /* two roundings: this build's own arithmetic */
ALWAYS_INLINE vf vf_max(vf a, vf b)
{
    return vf_pick(a > b, a, b);
}
ALWAYS_INLINE vf vf_min(vf a, vf b)
{
    return vf_pick(a < b, a, b);
}
ALWAYS_INLINE vf vf_rint(vf a) /* half to even, by the adder, where there are bits behind the point */
{
    const vi sign = (vi)a & (int32_t)0x80000000u;
    const vf big = (vf)((vi)vf_set(0x1p23f) | sign), r = (a + big) - big;
    return vf_pick(vf_abs(a) < 0x1p23f, (vf)((vi)r | sign), a);
}
ALWAYS_INLINE vi vf_to_int(vf a)
{
    return __builtin_convertvector(a, vi);
}
ALWAYS_INLINE vi vf_round_int(vf a)
{
    return vf_to_int(vf_rint(a));
}
ALWAYS_INLINE vf vf_reciprocal(vf a)
{
    return 1.0f / a;
}
ALWAYS_INLINE vi vi_first(int n)
{
    return (vi){ 0, 1, 2, 3 } < n;
}
ALWAYS_INLINE vf vf_load_part(const float *p, int n)
{
    vf v = { 0 };
    memcpy(&v, p, (size_t)n * sizeof *p);
    return v;
}
ALWAYS_INLINE void vf_store_part(float *p, vf v, int n)
{
    memcpy(p, &v, (size_t)n * sizeof *p);
}
#endif

/* n in [1, VL] lanes, zero elsewhere. */
ALWAYS_INLINE vf vf_load_n(const float *p, int n)
{
    return n >= VL ? vf_load(p) : vf_load_part(p, n);
}
ALWAYS_INLINE void vf_store_n(float *p, vf v, int n)
{
    if (n >= VL)
        vf_store(p, v);
    else
        vf_store_part(p, v, n);
}

/* Across the lanes, in halves: one fixed order. */
#if VL == 16
#define VF_FOLD(v, op)                                                                                       \
    v = op(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));          \
    v = op(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3));                \
    v = op(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1));                \
    v = op(v, __builtin_shufflevector(v, v, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0))
#elif VL == 8
#define VF_FOLD(v, op)                                                                                       \
    v = op(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3));                                        \
    v = op(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 2, 3, 0, 1));                                        \
    v = op(v, __builtin_shufflevector(v, v, 1, 0, 1, 0, 1, 0, 1, 0))
#else
#define VF_FOLD(v, op)                                                                                       \
    v = op(v, __builtin_shufflevector(v, v, 2, 3, 0, 1));                                                    \
    v = op(v, __builtin_shufflevector(v, v, 1, 0, 1, 0))
#endif
ALWAYS_INLINE vf vf_add(vf a, vf b)
{
    return a + b;
}
ALWAYS_INLINE float vf_sum(vf v)
{
    VF_FOLD(v, vf_add);
    return v[0];
}
ALWAYS_INLINE float vf_most(vf v)
{
    VF_FOLD(v, vf_max);
    return v[0];
}
ALWAYS_INLINE float vf_least(vf v)
{
    VF_FOLD(v, vf_min);
    return v[0];
}

/* exp(x) for x <= 0 to about 1 ulp; results under 2^-126 are 0, which is what float32 sums make of them. */
ALWAYS_INLINE vf vf_exp_negative(vf x)
{
    const vi alive = x > -87.3f;
    const vf y = vf_keep(x, alive), n = vf_rint(y * 1.44269504f);
    vf r = vf_fma(n, vf_set(-0.693359375f), y); /* ln 2 in two parts: the first product is exact */
    r = vf_fma(n, vf_set(2.12194440e-4f), r);
    vf p = vf_set(0.001381422160193324f); /* minimax on |r| <= ln(2) / 2: 3e-9 */
    p = vf_fma(p, r, vf_set(0.00836889911442995f));
    p = vf_fma(p, r, vf_set(0.04166840389370918f));
    p = vf_fma(p, r, vf_set(0.1666651964187622f));
    p = vf_fma(p, r, vf_set(0.4999999403953552f));
    p = vf_fma(p, r * r, r) + 1.0f;
    return vf_keep((vf)((vu)p + ((vu)vf_to_int(n) << 23)), alive);
}

/* GELU in its erf form: max(x, 0) - |x| Q(|x|), Q the upper tail of the normal distribution, written as
 * exp(-x^2 / 2) t P(t) with t = 1 / (1 + 0.3 |x|) and P minimax (4e-8, |x| <= 6) to erfcx(|x| / sqrt 2) / 2t. This form
 * has no cancellation in the left tail. A NaN stays one (vf_min gives its second operand then). */
ALWAYS_INLINE vf vf_gelu(vf x)
{
    const vf a = vf_min(vf_set(1e4f), vf_abs(x)), t = vf_reciprocal(vf_fma(a, vf_set(0.3f), vf_set(1.0f)));
    vf p = vf_set(0.03609737381339073f);
    p = vf_fma(p, t, vf_set(-0.1581195890903473f));
    p = vf_fma(p, t, vf_set(0.20603971183300018f));
    p = vf_fma(p, t, vf_set(-0.051073916256427765f));
    p = vf_fma(p, t, vf_set(0.1255047768354416f));
    p = vf_fma(p, t, vf_set(0.10155069828033447f));
    p = vf_fma(p, t, vf_set(0.12032826244831085f));
    p = vf_fma(p, t, vf_set(0.11967269331216812f));
    const vf tail = a * (p * t * vf_exp_negative(x * x * -0.5f));
    return vf_max(x, vf_set(0.0f)) - tail;
}

#endif
