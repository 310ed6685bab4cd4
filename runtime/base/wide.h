/* runtime/base/wide.h - plain loops compiled twice, for any processor and for AVX2, and chosen when they run. Bits are the same:
 * products and sums are not contracted (-ffp-contract=off), and the loops' own order of additions does not depend on vectors.
 *
 *     static SWIN_WIDE_BODY void scale_body(float *x, int n, float f) { for (int i = 0; i < n; i++) x[i] *= f; }
 *     SWIN_WIDE(scale, (float *x, int n, float f), (x, n, f))
 *
 * defines `static void scale(float *x, int n, float f)`.
 */
#ifndef SWIN_BASE_WIDE_H
#define SWIN_BASE_WIDE_H

/* A value that compilers cannot see through. Of two clamps to known limits they make jumps, and then no vectors. */
static inline float swin_opaque(float v)
{
    __asm__("" : "+m"(v));
    return v;
}

#define SWIN_WIDE_BODY inline __attribute__((always_inline))

#if defined(__x86_64__)
#define SWIN_WIDE(name, params, args)                                                                        \
    __attribute__((target("avx2"))) static void name##_avx2 params                                           \
    {                                                                                                        \
        name##_body args;                                                                                    \
    }                                                                                                        \
    static void name params                                                                                  \
    {                                                                                                        \
        if (__builtin_cpu_supports("avx2"))                                                                  \
            name##_avx2 args;                                                                                \
        else                                                                                                 \
            name##_body args;                                                                                \
    }
#else
#define SWIN_WIDE(name, params, args)                                                                        \
    static void name params                                                                                  \
    {                                                                                                        \
        name##_body args;                                                                                    \
    }
#endif

#endif
