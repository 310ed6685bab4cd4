/* tests/support/trained.h - seeded weights whose sizes are like a trained network's: norm gains far from their initial
 * values, logit scales up to and over the clamp, position biases that matter. tests/support/rng.py is its twin. */
#ifndef SWIN_TESTS_TRAINED_H
#define SWIN_TESTS_TRAINED_H

#include "runtime/swin/weights.h"

/* Create w for c and fill it. A tensor's numbers depend on the seed and its official key alone:
 *     state = seed * 0x9e3779b97f4a7c15 + FNV-1a 64 of the key; value = mean + sd * swin_rng_normal
 *
 *     key ends in                    mean     sd
 *     norm*.weight (V2 blocks')      1 (0.5)  0.25
 *     norm*.bias, other *.bias       0        0.1
 *     relative_position_bias_table   0        0.5
 *     logit_scale                    3        1.5      (clamped at 4.605 by the network)
 *     cpb_mlp.0.*                    0        1
 *     cpb_mlp.2.weight               0        0.1
 *     patch_embed.proj.weight        0        1.5 / sqrt(inputs)
 *     other *.weight                 0        1.2 / sqrt(inputs)
 */
swin_status swin_trained_weights(swin_weights *w, const swin_config *c, uint64_t seed);

#endif
