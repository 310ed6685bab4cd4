#include "runtime/swin/tables.h"

#include <stddef.h>

void swin_position_bias(float *out, const float *table, int window, int heads)
{
    const int n = window * window, side = 2 * window - 1;
    for (int h = 0; h < heads; h++)
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++) {
                const int dy = i / window - j / window + window - 1,
                          dx = i % window - j % window + window - 1;
                *out++ = table[(size_t)(dy * side + dx) * (size_t)heads + (size_t)h];
            }
}

/* Which of the three bands that the shift cuts an axis into a coordinate is in. */
static int band(int p, const swin_stage *s)
{
    return p < s->resolution - s->window ? 0 : p < s->resolution - s->shift ? 1 : 2;
}

void swin_attention_mask(float *out, const swin_stage *s)
{
    const int w = s->window, n = w * w, across = s->resolution / w;
    for (int win = 0; win < across * across; win++) {
        const int y0 = win / across * w, x0 = win % across * w;
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++) {
                const int id_i = 3 * band(y0 + i / w, s) + band(x0 + i % w, s);
                const int id_j = 3 * band(y0 + j / w, s) + band(x0 + j % w, s);
                *out++ = id_i == id_j ? 0.0f : -100.0f;
            }
    }
}
