/* quant/ft_list.h - FasterTransformer's scale list of one block: 96 float32, layout in reference/swin.md section 4.2. */
#ifndef SWIN_QUANT_FT_LIST_H
#define SWIN_QUANT_FT_LIST_H

#include "quant/calib_file.h"

#define SWIN_FT_LIST 96

/*
 * f has passed swin_export_check. SWIN_ERR_VALUE names the block and the index of a value that float32 cannot hold: the
 * list has quotients of ranges, and ranges at the edge of float32 overflow there.
 */
swin_status swin_ft_list(float list[SWIN_FT_LIST], const swin_calib_file *f, int stage, int block);

#endif
