/* quant/linear_weight.h - the matrix behind a weight site. */
#ifndef SWIN_QUANT_LINEAR_WEIGHT_H
#define SWIN_QUANT_LINEAR_WEIGHT_H

#include "runtime/swin/site.h"
#include "runtime/swin/weights.h"

typedef struct swin_linear_weight {
    float *data; /* [out][in], inside the swin_weights */
    int out, in;
} swin_linear_weight;

/* SWIN_ERR_VALUE when the site is no weight site of this network. */
swin_status swin_linear_weight_of(swin_linear_weight *l, const swin_config *c, const swin_weights *w,
                                  swin_site weight_site);

/* The shape alone: data is NULL. */
swin_status swin_linear_shape_of(swin_linear_weight *l, const swin_config *c, swin_site weight_site);

#endif
