/* runtime/swin/tables.h - what attention adds to its scores, as dense tables on the host. */
#ifndef SWIN_SWIN_TABLES_H
#define SWIN_SWIN_TABLES_H

#include "runtime/base/status.h"
#include "runtime/swin/config.h"
#include "runtime/swin/weights.h"

/* out[heads][N][N]: the relative position bias of each pair of a window's tokens, gathered from table[(2w-1)^2][heads]. */
void swin_position_bias(float *out, const float *table, int window, int heads);

/* Swin V2's table [(2w-1)^2][heads]: 16 sigmoid of what a small network makes of each offset's logarithm. pretrained: the
 * window that offsets are measured by; 0: this one. SWIN_ERR_MEM. */
swin_status swin_position_table(float *table, const swin_block_weights *w, int window, int heads,
                                int pretrained);

/* out[nW][N][N]: 0, or -100 between tokens of a shifted window that were no neighbours in the map. */
void swin_attention_mask(float *out, const swin_stage *s);

#endif
