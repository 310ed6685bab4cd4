#if defined(__x86_64__)
#include "data/normalise.h"

#include <immintrin.h>

static inline __m512 divide(__m512 x, __m512 by, __m512 reciprocal)
{
    const __m512 q = _mm512_mul_ps(x, reciprocal);
    return _mm512_fmadd_ps(_mm512_fnmadd_ps(q, by, x), reciprocal, q);
}

/* Channel c of 16 pixels, which lie in three vectors. */
static inline __m128i channel(const __m128i v[3], const __m128i pick[3])
{
    return _mm_or_si128(_mm_or_si128(_mm_shuffle_epi8(v[0], pick[0]), _mm_shuffle_epi8(v[1], pick[1])),
                        _mm_shuffle_epi8(v[2], pick[2]));
}

size_t swin_normalise_avx512(float *out, const uint8_t *rgb, size_t n)
{
    const __m512 full = _mm512_set1_ps(255.0f), full_1 = _mm512_set1_ps(1.0f / 255.0f);
    __m512 mean[3], deviation[3], deviation_1[3];
    __m128i pick[3][3];
    for (int c = 0; c < 3; c++) {
        mean[c] = _mm512_set1_ps(swin_image_mean[c]);
        deviation[c] = _mm512_set1_ps(swin_image_deviation[c]);
        deviation_1[c] = _mm512_set1_ps(1.0f / swin_image_deviation[c]);
        int8_t at[3][16];
        for (int i = 0; i < 48; i++) at[i / 16][i % 16] = -1;
        for (int i = 0; i < 16; i++) at[(3 * i + c) / 16][i] = (int8_t)((3 * i + c) % 16);
        for (int j = 0; j < 3; j++) pick[c][j] = _mm_loadu_si128((const __m128i *)(const void *)at[j]);
    }
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m128i *p = (const __m128i *)(const void *)(rgb + 3 * i);
        const __m128i v[3] = { _mm_loadu_si128(p), _mm_loadu_si128(p + 1), _mm_loadu_si128(p + 2) };
        for (int c = 0; c < 3; c++) {
            const __m512 x = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(channel(v, pick[c])));
            const __m512 centred = _mm512_sub_ps(divide(x, full, full_1), mean[c]);
            _mm512_storeu_ps(out + (size_t)c * n + i, divide(centred, deviation[c], deviation_1[c]));
        }
    }
    return i;
}
#endif
