#if defined(__x86_64__)
#include "data/normalise.h"

#include <immintrin.h>

static inline __m256 divide(__m256 x, __m256 by, __m256 reciprocal)
{
    const __m256 q = _mm256_mul_ps(x, reciprocal);
    return _mm256_fmadd_ps(_mm256_fnmadd_ps(q, by, x), reciprocal, q);
}

/* Channel c of 8 pixels, which lie in two vectors that overlap. */
static inline __m128i channel(const __m128i v[2], const __m128i pick[2])
{
    return _mm_or_si128(_mm_shuffle_epi8(v[0], pick[0]), _mm_shuffle_epi8(v[1], pick[1]));
}

size_t swin_normalise_avx2(float *out, const uint8_t *rgb, size_t n)
{
    const __m256 full = _mm256_set1_ps(255.0f), full_1 = _mm256_set1_ps(1.0f / 255.0f);
    __m256 mean[3], deviation[3], deviation_1[3];
    __m128i pick[3][2];
    for (int c = 0; c < 3; c++) {
        mean[c] = _mm256_set1_ps(swin_image_mean[c]);
        deviation[c] = _mm256_set1_ps(swin_image_deviation[c]);
        deviation_1[c] = _mm256_set1_ps(1.0f / swin_image_deviation[c]);
        int8_t at[2][16]; /* the second vector begins 8 bytes into the pixels */
        for (int i = 0; i < 32; i++) at[i / 16][i % 16] = -1;
        for (int i = 0; i < 8; i++) {
            const int byte = 3 * i + c;
            at[byte / 16][i] = (int8_t)(byte < 16 ? byte : byte - 8);
        }
        for (int j = 0; j < 2; j++) pick[c][j] = _mm_loadu_si128((const __m128i *)(const void *)at[j]);
    }
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const uint8_t *p = rgb + 3 * i;
        const __m128i v[2] = { _mm_loadu_si128((const __m128i *)(const void *)p),
                               _mm_loadu_si128((const __m128i *)(const void *)(p + 8)) };
        for (int c = 0; c < 3; c++) {
            const __m256 x = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(channel(v, pick[c])));
            const __m256 centred = _mm256_sub_ps(divide(x, full, full_1), mean[c]);
            _mm256_storeu_ps(out + (size_t)c * n + i, divide(centred, deviation[c], deviation_1[c]));
        }
    }
    return i;
}
#endif
