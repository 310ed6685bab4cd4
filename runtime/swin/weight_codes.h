/* runtime/swin/weight_codes.h - a weight's range and values as int8 codes: the one rounding that exports, engines and
 * int8-sim share. */
#ifndef SWIN_SWIN_WEIGHT_CODES_H
#define SWIN_SWIN_WEIGHT_CODES_H

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>

/* scale: weight units of one code; inverse: codes of one weight unit, 127 / amax as PyTorch computes it: reciprocal, then
 * product. FP16 checkpoints have many weights at exactly half a step, where its last bit decides. A dead channel (amax 0,
 * or nearly) has codes 0 at scale 1. */
static inline void swin_weight_scale(float *scale, float *inverse, float amax)
{
    const bool dead = !(amax / 127.0f >= FLT_MIN); /* a subnormal scale has no usable inverse */
    *scale = dead ? 1.0f : amax / 127.0f;
    *inverse = dead ? 0.0f : 1.0f / amax * 127.0f;
}

/* Half to even, codes [-127, 127]. */
static inline int8_t swin_weight_code(float w, float inverse)
{
    return (int8_t)fmaxf(-127.0f, fminf(127.0f, rintf(w * inverse)));
}

#endif
