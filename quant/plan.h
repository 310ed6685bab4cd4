/* quant/plan.h - a calibration file as the integer engine reads it (runtime/swin/plan.h). */
#ifndef SWIN_QUANT_PLAN_H
#define SWIN_QUANT_PLAN_H

#include "quant/calib_file.h"
#include "quant/sim.h"
#include "runtime/swin/plan.h"

/* Fill p from f, which must outlive it: enabled sites, scales, zero points, and with SWIN_PER_CHANNEL the weights' amax of
 * each output channel. swin_plan_free releases p's own array. */
swin_status swin_plan_create(swin_plan *p, const swin_calib_file *f, swin_granularity granularity);
/* A plan without a calibration: every site that the mode quantizes has the range [-amax, amax], and a Linear one weight
 * scale. For timing, where no value matters. */
swin_status swin_plan_uniform(swin_plan *p, const swin_config *c, swin_int8_mode mode, float amax);
void swin_plan_free(swin_plan *p); /* a zeroed struct is fine */

#endif
