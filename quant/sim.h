/* quant/sim.h - int8-sim: float32 fake quantization of a calibrated network, for parity with the PyTorch toolkit. */
#ifndef SWIN_QUANT_SIM_H
#define SWIN_QUANT_SIM_H

#include "quant/calib_file.h"
#include "runtime/swin/net.h"

typedef enum swin_granularity { SWIN_PER_CHANNEL, SWIN_PER_TENSOR } swin_granularity;

typedef struct swin_sim swin_sim;

/* A network whose enabled weights are fake-quantized, and the tap that quantizes activations. f must outlive it. */
swin_status swin_sim_create(swin_sim **sim, swin_dev *dev, const swin_calib_file *f, const swin_weights *w,
                            swin_granularity granularity);
void swin_sim_free(swin_sim *sim); /* NULL is fine */

/* Take one part's weights (runtime/swin/net.h, swin_net_reload), f's ranges for them and its kind of softmax anew. What else
 * f says of activations needs nothing: it is read whenever a site passes. */
swin_status swin_sim_reload(swin_sim *sim, int part, const swin_weights *w);
/* The norms and biases of one block alone (swin_net_reload_biases). */
swin_status swin_sim_reload_biases(swin_sim *sim, int part, const swin_weights *w);

/* As swin_net_forward_parts, quantized. `also` as below. */
swin_status swin_sim_forward_parts(swin_sim *sim, int first, int end, const float *in, int batch, float *out,
                                   const swin_tap *also);

/* As swin_net_forward. `also` (NULL for none) sees every site after its quantization. */
swin_status swin_sim_forward(swin_sim *sim, const float *images, int batch, float *logits,
                             const swin_tap *also);

#endif
