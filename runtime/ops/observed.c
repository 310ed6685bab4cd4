#include <math.h>
#include <string.h>

#include "runtime/ops/ops.h"

float swin_observed_width(float amax)
{
    if (!(amax >= SWIN_HIST_MIN_WIDTH * SWIN_HIST_HALF)) /* the division might underflow */
        return SWIN_HIST_MIN_WIDTH;
    int exponent;
    frexpf(amax / SWIN_HIST_HALF, &exponent); /* in [2^(e-1), 2^e): 2^e is the smallest power of two above */
    return ldexpf(1.0f, exponent);
}

/* Double the bin width: index k (from zero) becomes floor(k / 2), on both sides. */
static void coarsen(swin_observed *o)
{
    uint64_t merged[SWIN_HIST_BINS] = { 0 };
    for (int i = 0; i < SWIN_HIST_BINS; i++)
        merged[((i - SWIN_HIST_HALF) >> 1) + SWIN_HIST_HALF] += o->hist[i];
    memcpy(o->hist, merged, sizeof merged);
    o->bin_width *= 2;
}

void swin_observed_merge(swin_observed *dst, const swin_observed *src)
{
    const bool dst_empty = dst->count == dst->nonfinite, src_empty = src->count == src->nonfinite;
    dst->count += src->count;
    dst->nonfinite += src->nonfinite;
    if (src_empty) return;
    if (dst_empty) {
        dst->min = src->min;
        dst->max = src->max;
        dst->bin_width = src->bin_width;
        memcpy(dst->hist, src->hist, sizeof dst->hist);
        return;
    }
    swin_observed copy = *src;
    while (copy.bin_width < dst->bin_width) coarsen(&copy);
    while (dst->bin_width < copy.bin_width) coarsen(dst);
    for (int i = 0; i < SWIN_HIST_BINS; i++) dst->hist[i] += copy.hist[i];
    dst->min = fminf(dst->min, src->min);
    dst->max = fmaxf(dst->max, src->max);
}
