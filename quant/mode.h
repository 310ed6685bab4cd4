/* quant/mode.h - which sites are quantized, and the one function that turns a range into scale, zero point and codes.
 *
 * An int8 mode is a set of enabled sites (reference/swin.md 4.1, DESIGN.md section 4):
 *   1  every GEMM input, weight and output, and the attention operands: what FasterTransformer-like engines run
 *   2  as 1, with fc2's and PatchMerging's outputs left in INT32
 *   3  ours: GEMM inputs, weights and attention operands only; GELU's output and the softmax use all 256 codes. In Swin V2
 *      the attention's operands are mha_q and mha_k: what they are normalised from (matmul_q, matmul_k) stays float
 */
#ifndef SWIN_QUANT_MODE_H
#define SWIN_QUANT_MODE_H

#include <stdbool.h>

#include "runtime/swin/site.h"

typedef enum swin_int8_mode {
    SWIN_INT8_MODE_1 = 1,
    SWIN_INT8_MODE_2 = 2,
    SWIN_INT8_MODE_3 = 3
} swin_int8_mode;

/* Whether the mode quantizes the site. False for OFF and OUTPUT roles. */
bool swin_mode_enabled(swin_int8_mode mode, swin_family family, swin_site site);

typedef struct swin_quant {
    float scale; /* real = (code - zero_point) * scale */
    int zero_point;
    int qmin, qmax; /* codes */
} swin_quant;

/*
 * The only place where a range becomes a scale.
 *
 * amax      calibrated clipping magnitude, > 0
 * min, max  what was observed; used by the two asymmetric sites of mode 3
 *
 * Symmetric sites: scale = amax / 127, codes [-127, 127]. Mode 3's GELU output: [max(min, -amax), min(max, amax)] widened to
 * hold 0, on codes [-128, 127]. Mode 3's softmax: u8 codes of exp(score - row max), scale 1/255, zero point 0.
 * SWIN_ERR_VALUE names the site when amax is zero, negative or not finite.
 */
swin_status swin_quant_derive(swin_quant *q, swin_int8_mode mode, swin_site site, float amax, float min,
                              float max);

#endif
