/* calib/from_checkpoint.h - a calibration file from the ranges that a checkpoint of FasterTransformer's PyTorch toolkit stores. */
#ifndef SWIN_CALIB_FROM_CHECKPOINT_H
#define SWIN_CALIB_FROM_CHECKPOINT_H

#include "quant/calib_file.h"
#include "runtime/swin/checkpoint.h"

/*
 * Fill f (created here) from the `_amax` buffers of ck (quant/toolkit.h), one number each.
 *
 * c and w describe the network of that checkpoint; sha its hash. No image was seen: images 0, no histograms, count 1 (the range
 * itself), min and max as wide as the range allows (a softmax is never negative, a GELU never below -0.17). A weight's range
 * per tensor is the stored one, those of its channels are taken from its values.
 * SWIN_ERR_MISMATCH counts and names the sites without a buffer; SWIN_ERR_VALUE, _FORMAT name a buffer that is no range.
 */
swin_status swin_calib_from_checkpoint(swin_calib_file *f, const swin_config *c, const swin_weights *w,
                                       const swin_ckpt *ck, const char *sha, swin_int8_mode mode);

#endif
