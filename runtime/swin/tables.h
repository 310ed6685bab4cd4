/* runtime/swin/tables.h - what attention adds to its scores, as dense tables on the host. */
#ifndef SWIN_SWIN_TABLES_H
#define SWIN_SWIN_TABLES_H

#include "runtime/swin/config.h"

/* out[heads][N][N]: the relative position bias of each pair of a window's tokens, gathered from table[(2w-1)^2][heads]. */
void swin_position_bias(float *out, const float *table, int window, int heads);

/* out[nW][N][N]: 0, or -100 between tokens of a shifted window that were no neighbours in the map. */
void swin_attention_mask(float *out, const swin_stage *s);

#endif
