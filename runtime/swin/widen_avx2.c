/* AVX2 and F16C: the compiler's flags for this file come from its name. */
#if defined(__x86_64__)

#include <immintrin.h>

#include "runtime/swin/widen.h"

static inline __m256 load8(const char *p, swin_dtype dtype)
{
    if (dtype == SWIN_F32) return _mm256_loadu_ps((const float *)(const void *)p);
    const __m128i h = _mm_loadu_si128((const __m128i *)(const void *)p);
    if (dtype == SWIN_F16) return _mm256_cvtph_ps(h);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

static inline __attribute__((always_inline)) bool widen8(float *dst, const char *src, swin_dtype dtype,
                                                         size_t n)
{
    const size_t step = dtype == SWIN_F32 ? 32 : 16;
    const __m256i exponent = _mm256_set1_epi32(0x7f800000);
    __m256i bad = _mm256_setzero_si256();
    for (size_t i = 0; i < n; i += 8, src += step) {
        const __m256 v = load8(src, dtype);
        const __m256i e = _mm256_and_si256(_mm256_castps_si256(v), exponent);
        bad = _mm256_or_si256(bad, _mm256_cmpeq_epi32(e, exponent));
        _mm256_storeu_ps(dst + i, v);
    }
    return _mm256_testz_si256(bad, bad) != 0;
}

bool swin_widen_finite_avx2(float *dst, const void *src, swin_dtype dtype, size_t n)
{
    if (dtype == SWIN_F32) return widen8(dst, src, SWIN_F32, n);
    if (dtype == SWIN_F16) return widen8(dst, src, SWIN_F16, n);
    return widen8(dst, src, SWIN_BF16, n);
}

#endif
typedef int swin_widen_avx2_is_not_empty;
