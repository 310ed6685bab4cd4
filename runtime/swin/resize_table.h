/* runtime/swin/resize_table.h - position tables of a checkpoint whose window is not the configuration's. */
#ifndef SWIN_SWIN_RESIZE_TABLE_H
#define SWIN_SWIN_RESIZE_TABLE_H

#include <stdint.h>

#include "runtime/swin/checkpoint.h"

/* The root of a square up to 4096^2, 0 for other numbers. */
int64_t swin_square_root(int64_t n);

/* 2w - 1 of a table with (2w - 1)^2 rows; 0: there is no such window. */
int swin_table_side(int64_t rows);

/* out [side^2][heads] from in [from^2][heads]: PyTorch's bicubic interpolation (a = -0.75, corners not aligned, edges
 * repeated) over the square of offsets, as the official code does. SWIN_ERR_MEM. */
swin_status swin_resize_table(float *out, int side, const float *in, int from, int heads);

/* The window that V2's stored relative_coords_table [1][2w-1][2w-1][2] measures offsets by, and its own window w; both 0 where
 * the tensor is none. */
double swin_pretrained_window(const swin_ckpt_tensor *coords, int *window);

#endif
