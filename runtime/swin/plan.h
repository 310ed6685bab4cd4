/* runtime/swin/plan.h - what the integer engine must know of a calibrated network: quant fills it in from a calibration
 * file (quant/plan.h), so that runtime never includes quant.
 *
 * Precision belongs to a layer. A Linear runs on integers when its input and weight are both enabled, attention when q, k,
 * v and the softmax output are; everything else runs in the net's float type, but qkv before attention on integers in
 * float32. So an int8 mode, and any relaxation of single sites, is a set of enabled sites and nothing more.
 */
#ifndef SWIN_SWIN_PLAN_H
#define SWIN_SWIN_PLAN_H

#include "runtime/ops/ops.h"
#include "runtime/swin/config.h"
#include "runtime/swin/site.h"

typedef struct swin_site_plan {
    bool enabled;
    float scale; /* > 0 when enabled */
    int zero_point, qmin, qmax;
    float amax; /* weight sites: of the tensor... */
    const float *
        factor; /* fc2's input: [channels] what values are divided by before they are quantized, and the weight has been
                            multiplied by; NULL: nothing */
    const float *channel_amax; /* ...and of each output channel; NULL: one scale for the tensor */
    const float *
        channel_scale; /* what a Linear's product is rounded with, or q, k, v before attention: the scale of each
                                   channel, in place of `scale` (q, k, v: one for all channels of a head); NULL: one
                                   for all */
} swin_site_plan;

typedef struct swin_plan {
    const swin_site_plan *sites; /* [swin_site_count()], in swin_site_at order */
    swin_softmax softmax;        /* SWIN_SOFTMAX_U8 in int8-mode 3 */
} swin_plan;

#endif
