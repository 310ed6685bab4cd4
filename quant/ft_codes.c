#include "quant/ft_codes.h"

#include <math.h>
#include <stddef.h>

#include "runtime/base/half.h"

enum { PANEL = 32 }; /* columns that stand together; within them tiles follow each other down the rows */

/* The engine multiplies and divides in double and rounds a float32. */
static int8_t code(float w, float amax)
{
    const float v = (float)(swin_f16_to_f32(swin_f32_to_f16(w)) * 127.0 / amax);
    return (int8_t)fminf(fmaxf(rintf(v), -128.0f), 127.0f);
}

/* Tiles of 32 rows: pairs of neighbouring rows stay together, and every fourth pair of the tile follows. */
static size_t in_tile_sm80(int row, int col)
{
    const int pair = row % 8 / 2, eighth = row / 8;
    return (size_t)(((pair * 4 + eighth) * 2 + row % 2) * PANEL + col);
}

/* Tiles of 8 rows: the even rows, then the odd ones, each as 4 blocks of 8 columns, each as 2 halves of 4 rows by 4 columns. */
static size_t in_tile_sm75(int row, int col)
{
    const int block = row % 2 * 4 + col / 8, half = col % 8 / 4;
    return (size_t)(block * 32 + (half * 4 + row / 2) * 4 + col % 4);
}

swin_status swin_ft_codes(int8_t *codes, const float *w, int out, int in, float amax, swin_ft_layout layout)
{
    const int rows = layout == SWIN_FT_SM80 ? 32 : 8;
    if (out % rows || in % PANEL)
        return swin_fail(SWIN_ERR_UNSUPPORTED, "%d x %d is no multiple of the engine's tiles of %d x %d", out,
                         in, rows, PANEL);
    for (int o = 0; o < out; o++)
        for (int i = 0; i < in; i++) {
            const size_t tile = (size_t)(i / PANEL) * (size_t)out * PANEL + (size_t)(o / rows * rows) * PANEL;
            const size_t at = layout == SWIN_FT_SM80 ? in_tile_sm80(o % rows, i % PANEL)
                                                     : in_tile_sm75(o % rows, i % PANEL);
            codes[tile + at] = code(w[(size_t)o * (size_t)in + (size_t)i], amax);
        }
    return SWIN_OK;
}
