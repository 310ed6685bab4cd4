#if defined(__x86_64__)
/* Four outputs at a time, one in each 128-bit lane, four taps in one instruction: a weight is digit[2] *
 * 2^16 + digit[1] * 2^8 + digit[0], each of 8 signed bits. */
#include "data/resize.h"

#include <immintrin.h>

static inline __m128i load(const uint8_t *p)
{
    return _mm_loadu_si128((const __m128i *)(const void *)p);
}

/* Twelve bytes of each of four places, channel by channel: r0 r1 r2 r3 g0 g1 ... in each lane. */
static inline __m512i gather(const uint8_t *const p[4], ptrdiff_t at)
{
    const __m512i by_channel =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11, -1, -1, -1, -1));
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(load(p[0] + at)), load(p[1] + at), 1);
    const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(load(p[2] + at)), load(p[3] + at), 1);
    return _mm512_shuffle_epi8(_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1), by_channel);
}

static void horizontal(uint8_t *out, const uint8_t *in, int64_t origin, const swin_axis *a)
{
    const __m128i pack = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    const int groups = a->taps / 4;
    const int8_t *digits = a->digits;
    for (int o = 0; o < a->count; o += 4) {
        const uint8_t *p[4];
        for (int i = 0; i < 4; i++) p[i] = in + 3 * (a->from[o + i] - origin);
        __m512i s0 = _mm512_set1_epi32(1 << (SWIN_WEIGHT_BITS - 1)), s1 = _mm512_setzero_si512(), s2 = s1;
        for (int g = 0; g < groups; g++, digits += 192) {
            const __m512i v = gather(p, 12 * (ptrdiff_t)g);
            s0 = _mm512_dpbusd_epi32(s0, v, _mm512_load_si512(digits));
            s1 = _mm512_dpbusd_epi32(s1, v, _mm512_load_si512(digits + 64));
            s2 = _mm512_dpbusd_epi32(s2, v, _mm512_load_si512(digits + 128));
        }
        s1 = _mm512_add_epi32(s1, _mm512_slli_epi32(s2, 8));
        s0 = _mm512_add_epi32(s0, _mm512_slli_epi32(s1, 8));
        s0 = _mm512_max_epi32(_mm512_srai_epi32(s0, SWIN_WEIGHT_BITS), _mm512_setzero_si512());
        const __m128i rgb = _mm_shuffle_epi8(_mm512_cvtusepi32_epi8(s0), pack);
        _mm_storeu_si128((__m128i *)(void *)(out + 3 * o),
                         rgb); /* what is too much is the next outputs', or slack */
    }
}

const swin_passes swin_passes_vnni = { "vnni", horizontal, swin_vertical_avx512, SWIN_SPLIT_DIGITS };
#endif
