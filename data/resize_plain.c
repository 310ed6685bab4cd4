#include "data/resize.h"

#include <stdbool.h>

static uint8_t clip(int32_t sum)
{
    const int32_t v = sum >> SWIN_WEIGHT_BITS;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

void swin_horizontal_plain(uint8_t *out, const uint8_t *in, int64_t origin, const swin_axis *a)
{
    for (int o = 0; o < a->count; o++) {
        const uint8_t *p = in + 3 * (a->from[o] - origin);
        const int32_t *k = a->k + (size_t)o * (size_t)a->taps;
        for (int c = 0; c < 3; c++) {
            int32_t sum = 1 << (SWIN_WEIGHT_BITS - 1);
            for (int j = 0; j < a->used[o]; j++) sum += p[3 * j + c] * k[j];
            out[3 * o + c] = clip(sum);
        }
    }
}

void swin_vertical_plain(uint8_t *out, const uint8_t *const *rows, int used, const int32_t *k, size_t n)
{
    for (size_t x = 0; x < n; x++) {
        int32_t sum = 1 << (SWIN_WEIGHT_BITS - 1);
        for (int j = 0; j < used; j++) sum += rows[j][x] * k[j];
        out[x] = clip(sum);
    }
}

const swin_passes swin_passes_plain = { "plain", swin_horizontal_plain, swin_vertical_plain,
                                        SWIN_SPLIT_NONE };

const swin_passes *swin_passes_get(int i)
{
    const swin_passes *all[4];
    int n = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx512 = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512dq");
    if (avx512 && __builtin_cpu_supports("avx512vnni")) all[n++] = &swin_passes_vnni;
    if (avx512) all[n++] = &swin_passes_avx512;
    if (__builtin_cpu_supports("avx2")) all[n++] = &swin_passes_avx2;
#endif
    all[n++] = &swin_passes_plain;
    return i < n ? all[i] : NULL;
}
