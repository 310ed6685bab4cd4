/* runtime/swin/widen.h - stored numbers to float32, watching for NaN and infinity on the way. */
#ifndef SWIN_SWIN_WIDEN_H
#define SWIN_SWIN_WIDEN_H

#include <stdbool.h>
#include <stddef.h>

#include "runtime/base/tensor.h"

/* Widen n elements of src (F32, F16, BF16 or F64; any alignment) into dst. False when one of the results is NaN or
 * infinite; dst is complete all the same. */
bool swin_widen_finite(float *dst, const void *src, swin_dtype dtype, size_t n);

/* The same for a whole number of 8-element groups of F32, F16 or BF16, with AVX2 and F16C; absent on other machines. */
bool swin_widen_finite_avx2(float *dst, const void *src, swin_dtype dtype, size_t n);

#endif
