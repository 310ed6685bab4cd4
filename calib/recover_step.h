/* calib/recover_step.h - what a quantizer does to one value, written so that compilers make vectors of loops over it. Private
 * to recover*.c. */
#ifndef SWIN_CALIB_RECOVER_STEP_H
#define SWIN_CALIB_RECOVER_STEP_H

#include "quant/mode.h"

/* x becomes scale * clamp(round(x / scale), low, high). */
typedef struct recover_step {
    float scale, inverse, low, high;
} recover_step;

static inline recover_step recover_step_of(const swin_quant *q)
{
    return (recover_step){ q->scale, 1.0f / q->scale, (float)(q->qmin - q->zero_point),
                           (float)(q->qmax - q->zero_point) };
}

/* Half to even for |v| < 2^22, without a call: adding 1.5 * 2^23 leaves no room for a fraction. */
static inline float recover_round_even(float v)
{
    return (v + 12582912.0f) - 12582912.0f;
}

/* Clamped first: the ends are whole. Comparisons, not fminf: a NaN becomes an end either way, and these need no call. */
static inline float recover_clamp(float v, float low, float high)
{
    v = v > low ? v : low;
    return v < high ? v : high;
}

static inline float recover_step_error(const recover_step *s, float x)
{
    return recover_round_even(recover_clamp(x * s->inverse, s->low, s->high)) * s->scale - x;
}

#endif
