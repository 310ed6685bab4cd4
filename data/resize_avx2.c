#if defined(__x86_64__)
#include "data/resize.h"

#include <immintrin.h>
#include <string.h>

/* (high << 11) + low + half, >> 22 */
static inline __m256i finish(__m256i high, __m256i low)
{
    const __m256i half = _mm256_set1_epi32(1 << (SWIN_WEIGHT_BITS - 1));
    const __m256i sum = _mm256_add_epi32(_mm256_slli_epi32(high, SWIN_LOW_BITS), _mm256_add_epi32(low, half));
    return _mm256_srai_epi32(sum, SWIN_WEIGHT_BITS);
}

/* The two 128-bit lanes hold r, g, b, - sums of different taps: their sum in each lane. */
static inline __m256i join(__m256i v)
{
    return _mm256_add_epi32(v, _mm256_permute2x128_si256(v, v, 1));
}

static void horizontal(uint8_t *out, const uint8_t *in, int64_t origin, const swin_axis *a)
{
    const __m256i spread = _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1, 6, -1,
                                            9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);
    const int groups = a->taps / 4;
    for (int o = 0; o < a->count; o++) {
        const uint8_t *p = in + 3 * (a->from[o] - origin);
        const size_t at = ((size_t)(o / 2) * (size_t)groups * 2 + (size_t)(o % 2)) * 16;
        const int16_t *kh = a->high + at, *kl = a->low + at;
        __m256i high = _mm256_setzero_si256(), low = high;
        for (int g = 0; g < groups; g++) {
            const __m128i px = _mm_loadu_si128((const __m128i *)(const void *)(p + 12 * g));
            const __m256i v = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(px), spread);
            const __m256i h = _mm256_loadu_si256((const __m256i *)(const void *)(kh + 32 * g));
            const __m256i l = _mm256_loadu_si256((const __m256i *)(const void *)(kl + 32 * g));
            high = _mm256_add_epi32(high, _mm256_madd_epi16(v, h));
            low = _mm256_add_epi32(low, _mm256_madd_epi16(v, l));
        }
        const __m256i v = finish(join(high), join(low));
        const __m256i words = _mm256_packs_epi32(v, v);
        const int rgb = _mm256_cvtsi256_si32(_mm256_packus_epi16(words, words));
        memcpy(out + 3 * o, &rgb, 4); /* the fourth byte is the next pixel's, or slack */
    }
}

/* 32 bytes of one output row. */
static inline __m256i vertical_block(const uint8_t *const *rows, int used, const int32_t *k, size_t x)
{
    const __m256i zero = _mm256_setzero_si256();
    __m256i high[4], low[4];
    for (int i = 0; i < 4; i++) high[i] = low[i] = zero;
    for (int j = 0; j < used; j += 2) {
        const int32_t k1 = j + 1 < used ? k[j + 1] : 0;
        const int32_t mask = (1 << SWIN_LOW_BITS) - 1;
        const __m256i h = _mm256_set1_epi32(
            (int)(((uint32_t)(k1 >> SWIN_LOW_BITS) << 16) | ((uint32_t)(k[j] >> SWIN_LOW_BITS) & 0xffff)));
        const __m256i l = _mm256_set1_epi32(((k1 & mask) << 16) | (k[j] & mask));
        const __m256i r0 = _mm256_loadu_si256((const __m256i *)(const void *)(rows[j] + x));
        const __m256i r1 =
            _mm256_loadu_si256((const __m256i *)(const void *)(rows[j + 1 < used ? j + 1 : j] + x));
        const __m256i lo = _mm256_unpacklo_epi8(r0, r1), hi = _mm256_unpackhi_epi8(r0, r1);
        const __m256i v[4] = { _mm256_unpacklo_epi8(lo, zero), _mm256_unpackhi_epi8(lo, zero),
                               _mm256_unpacklo_epi8(hi, zero), _mm256_unpackhi_epi8(hi, zero) };
        for (int i = 0; i < 4; i++) {
            high[i] = _mm256_add_epi32(high[i], _mm256_madd_epi16(v[i], h));
            low[i] = _mm256_add_epi32(low[i], _mm256_madd_epi16(v[i], l));
        }
    }
    const __m256i a = _mm256_packs_epi32(finish(high[0], low[0]), finish(high[1], low[1]));
    const __m256i b = _mm256_packs_epi32(finish(high[2], low[2]), finish(high[3], low[3]));
    return _mm256_packus_epi16(a, b);
}

static void vertical(uint8_t *out, const uint8_t *const *rows, int used, const int32_t *k, size_t n)
{
    size_t x = 0;
    for (; x + 32 <= n; x += 32)
        _mm256_storeu_si256((__m256i *)(void *)(out + x), vertical_block(rows, used, k, x));
    if (x < n) {
        uint8_t last[32];
        _mm256_storeu_si256((__m256i *)(void *)last, vertical_block(rows, used, k, x));
        memcpy(out + x, last, n - x);
    }
}

const swin_passes swin_passes_avx2 = { "avx2", horizontal, vertical, SWIN_SPLIT_WORDS };
#endif
