#if defined(__x86_64__)
#include "data/resize.h"

#include <immintrin.h>
#include <string.h>

static inline __m512i finish(__m512i high, __m512i low)
{
    const __m512i half = _mm512_set1_epi32(1 << (SWIN_WEIGHT_BITS - 1));
    const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(high, SWIN_LOW_BITS), _mm512_add_epi32(low, half));
    return _mm512_srai_epi32(sum, SWIN_WEIGHT_BITS);
}

/* Two outputs at a time, one in each 256-bit half. */
static void horizontal(uint8_t *out, const uint8_t *in, int64_t origin, const swin_axis *a)
{
    const __m512i spread =
        _mm512_broadcast_i64x4(_mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1, 6,
                                                -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1));
    const int groups = a->taps / 4;
    for (int o = 0; o < a->count; o += 2) {
        const uint8_t *p = in + 3 * (a->from[o] - origin);
        const uint8_t *q = in + 3 * (a->from[o + 1] - origin);
        const int16_t *kh = a->high + (size_t)o * (size_t)groups * 16,
                      *kl = a->low + (size_t)o * (size_t)groups * 16;
        __m512i high = _mm512_setzero_si512(), low = high;
        for (int g = 0; g < groups; g++) {
            const __m512i one =
                _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)(p + 12 * g)));
            const __m128i two = _mm_loadu_si128((const __m128i *)(const void *)(q + 12 * g));
            const __m512i v = _mm512_shuffle_epi8(_mm512_mask_broadcast_i32x4(one, 0xff00, two), spread);
            high = _mm512_add_epi32(high, _mm512_madd_epi16(v, _mm512_loadu_si512(kh + 32 * g)));
            low = _mm512_add_epi32(low, _mm512_madd_epi16(v, _mm512_loadu_si512(kl + 32 * g)));
        }
        high = _mm512_add_epi32(high, _mm512_shuffle_i64x2(high, high, _MM_SHUFFLE(2, 3, 0, 1)));
        low = _mm512_add_epi32(low, _mm512_shuffle_i64x2(low, low, _MM_SHUFFLE(2, 3, 0, 1)));
        const __m512i v = finish(high, low);
        const __m128i first = _mm512_castsi512_si128(v), second = _mm512_extracti32x4_epi32(v, 2);
        const __m128i words = _mm_packs_epi32(first, second);
        const int64_t rgb = _mm_cvtsi128_si64(_mm_packus_epi16(words, words));
        memcpy(out + 3 * o, &rgb, 4);
        memcpy(out + 3 * o + 3, (const char *)&rgb + 4, 4); /* past an odd count this is slack */
    }
}

/* 64 bytes of one output row. */
static inline __m512i vertical_block(const uint8_t *const *rows, int used, const int32_t *k, size_t x)
{
    const __m512i zero = _mm512_setzero_si512();
    __m512i high[4], low[4];
    for (int i = 0; i < 4; i++) high[i] = low[i] = zero;
    for (int j = 0; j < used; j += 2) {
        const int32_t k1 = j + 1 < used ? k[j + 1] : 0;
        const int32_t mask = (1 << SWIN_LOW_BITS) - 1;
        const __m512i h = _mm512_set1_epi32(
            (int)(((uint32_t)(k1 >> SWIN_LOW_BITS) << 16) | ((uint32_t)(k[j] >> SWIN_LOW_BITS) & 0xffff)));
        const __m512i l = _mm512_set1_epi32(((k1 & mask) << 16) | (k[j] & mask));
        const __m512i r0 = _mm512_loadu_si512(rows[j] + x);
        const __m512i r1 = _mm512_loadu_si512(rows[j + 1 < used ? j + 1 : j] + x);
        const __m512i lo = _mm512_unpacklo_epi8(r0, r1), hi = _mm512_unpackhi_epi8(r0, r1);
        const __m512i v[4] = { _mm512_unpacklo_epi8(lo, zero), _mm512_unpackhi_epi8(lo, zero),
                               _mm512_unpacklo_epi8(hi, zero), _mm512_unpackhi_epi8(hi, zero) };
        for (int i = 0; i < 4; i++) {
            high[i] = _mm512_add_epi32(high[i], _mm512_madd_epi16(v[i], h));
            low[i] = _mm512_add_epi32(low[i], _mm512_madd_epi16(v[i], l));
        }
    }
    const __m512i a = _mm512_packs_epi32(finish(high[0], low[0]), finish(high[1], low[1]));
    const __m512i b = _mm512_packs_epi32(finish(high[2], low[2]), finish(high[3], low[3]));
    return _mm512_packus_epi16(a, b);
}

void swin_vertical_avx512(uint8_t *out, const uint8_t *const *rows, int used, const int32_t *k, size_t n)
{
    for (size_t x = 0; x < n; x += 64) {
        const __mmask64 in = n - x >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << (n - x)) - 1;
        _mm512_mask_storeu_epi8(out + x, in, vertical_block(rows, used, k, x));
    }
}

const swin_passes swin_passes_avx512 = { "avx512", horizontal, swin_vertical_avx512, SWIN_SPLIT_WORDS };
#endif
