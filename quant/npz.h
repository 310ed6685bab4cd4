/* quant/npz.h - NumPy's .npz: a stored (not deflated) zip of .npy members, with no clock time in it. */
#ifndef SWIN_QUANT_NPZ_H
#define SWIN_QUANT_NPZ_H

#include <stdio.h>

#include "runtime/swin/safetensors_write.h"

/* Write the tensors as members "<name>.npy", in order, atomically. numpy.load gives them back under their names. BF16 is
 * refused: NumPy has no such type. */
swin_status swin_npz_write(const char *path, const swin_named_tensor *tensors, size_t count);

/* One tensor as a .npy file, atomically. */
swin_status swin_npy_write(const char *path, const swin_named_tensor *tensor);

#endif
