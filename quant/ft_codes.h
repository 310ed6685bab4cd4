/* quant/ft_codes.h - a Linear's weight as FasterTransformer's INT8 engine keeps it: codes of one scale, in the order of
 * cuBLASLt's tensor-core tiles (reference/swin.md 4.3).
 */
#ifndef SWIN_QUANT_FT_CODES_H
#define SWIN_QUANT_FT_CODES_H

#include <stdint.h>

#include "runtime/base/status.h"

/* Which GPUs the tiles are for. */
typedef enum swin_ft_layout {
    SWIN_FT_FLOAT16, /* no codes: the toolkit's own operator is to make them */
    SWIN_FT_SM75,    /* compute capability below 8.0: COL4_4R2_8C */
    SWIN_FT_SM80     /* 8.0 and above: COL32_2R_4R4 */
} swin_ft_layout;

/*
 * codes[out * in] of w [out][in]: w rounded to float16, times 127 / amax, half to even, saturated to [-128, 127].
 *
 * layout  SM75 or SM80. SWIN_ERR_UNSUPPORTED where out or in are no multiples of the tiles' sides; the caller adds the name.
 */
swin_status swin_ft_codes(int8_t *codes, const float *w, int out, int in, float amax, swin_ft_layout layout);

#endif
