#include "data/image.h"

#include <pthread.h>

static float table[3][256];
static pthread_once_t table_once = PTHREAD_ONCE_INIT;

/* In float32, in the order of ToTensor and Normalize: three roundings. */
static void table_make(void)
{
    static const float mean[3] = { 0.485f, 0.456f, 0.406f }, deviation[3] = { 0.229f, 0.224f, 0.225f };
    for (int c = 0; c < 3; c++)
        for (int v = 0; v < 256; v++) {
            const float x = (float)v / 255.0f;
            table[c][v] = (x - mean[c]) / deviation[c];
        }
}

void swin_image_normalise(float *out, const uint8_t *rgb, int size)
{
    const size_t n = (size_t)size * (size_t)size;
    pthread_once(&table_once, table_make);
    for (size_t i = 0; i < n; i++) {
        out[i] = table[0][rgb[3 * i]];
        out[n + i] = table[1][rgb[3 * i + 1]];
        out[2 * n + i] = table[2][rgb[3 * i + 2]];
    }
}
