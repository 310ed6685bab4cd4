#include "data/normalise.h"

#include <pthread.h>

#include "data/image.h"

const float swin_image_mean[3] = { 0.485f, 0.456f, 0.406f };
const float swin_image_deviation[3] = { 0.229f, 0.224f, 0.225f };

static float table[3][256];
static swin_normalise_pass fastest = swin_normalise_plain;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* In float32, in the order of ToTensor and Normalize: three roundings. */
static void prepare(void)
{
    for (int c = 0; c < 3; c++)
        for (int v = 0; v < 256; v++) {
            const float x = (float)v / 255.0f;
            table[c][v] = (x - swin_image_mean[c]) / swin_image_deviation[c];
        }
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        fastest = swin_normalise_avx512;
    else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        fastest = swin_normalise_avx2;
#endif
}

static void look_up(float *out, const uint8_t *rgb, size_t from, size_t n)
{
    for (size_t i = from; i < n; i++) {
        out[i] = table[0][rgb[3 * i]];
        out[n + i] = table[1][rgb[3 * i + 1]];
        out[2 * n + i] = table[2][rgb[3 * i + 2]];
    }
}

size_t swin_normalise_plain(float *out, const uint8_t *rgb, size_t n)
{
    pthread_once(&once, prepare);
    look_up(out, rgb, 0, n);
    return n;
}

void swin_image_normalise(float *out, const uint8_t *rgb, int size)
{
    const size_t n = (size_t)size * (size_t)size;
    pthread_once(&once, prepare);
    look_up(out, rgb, fastest(out, rgb, n), n);
}
