/* runtime/ops/observed.h - what observers see, and what they may look at inside a Linear layer. */
#ifndef SWIN_OPS_OBSERVED_H
#define SWIN_OPS_OBSERVED_H

#include <stdint.h>

/* What an observer has seen of one site: reference/DESIGN rule 1. Bin i of the two-sided histogram counts x with
 * floor(x / bin_width) == i - SWIN_HIST_HALF. bin_width is the smallest power of two, not under SWIN_HIST_MIN_WIDTH, with
 * amax < bin_width * SWIN_HIST_HALF; when a larger value comes, it doubles and bins merge in pairs, exactly. So the result
 * depends on the values alone, not on their order or split. NaN and infinities are counted apart and enter nothing else. */
#define SWIN_HIST_HALF      4096
#define SWIN_HIST_BINS      (2 * SWIN_HIST_HALF)
#define SWIN_HIST_MIN_WIDTH 0x1p-60f

typedef struct swin_observed {
    uint64_t count; /* finite and non-finite elements */
    uint64_t nonfinite;
    float min, max; /* of finite values; 0 when there were none */
    float bin_width;
    uint64_t hist[SWIN_HIST_BINS];
} swin_observed;

/* A running observation in the device's memory. */
typedef struct swin_observer swin_observer;

/* Observers of a Linear layer (ops->linear_seen, linear_residual_seen); NULL: nobody looks there. */
typedef struct swin_linear_seen {
    swin_observer *input;     /* x */
    swin_observer *product;   /* x W^T, before the bias */
    swin_observer *biased[3]; /* x W^T + bias, before the activation, in `parts` equal column ranges */
    int parts;                /* 0 to 3 */
    swin_observer *residual;  /* linear_residual_seen: the stream before the addition */
} swin_linear_seen;

/* Fold src into dst, exactly as if dst had seen src's values too. */
void swin_observed_merge(swin_observed *dst, const swin_observed *src);
/* The smallest allowed bin width for values up to amax. */
float swin_observed_width(float amax);

#endif
