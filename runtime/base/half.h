/* runtime/base/half.h - float16 and bfloat16 as bit patterns, rounded half to even as IEEE 754 and PyTorch do. */
#ifndef SWIN_BASE_HALF_H
#define SWIN_BASE_HALF_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/tensor.h"

float swin_f16_to_f32(uint16_t h);
uint16_t swin_f32_to_f16(float f); /* overflow gives infinity, NaN stays NaN */
float swin_bf16_to_f32(uint16_t h);
uint16_t swin_f32_to_bf16(float f);

/* Widen n elements of src (F32, F16, BF16 or F64; any alignment) into dst. */
void swin_widen(float *dst, const void *src, swin_dtype dtype, size_t n);

/* The nearest value of dtype (F16 or BF16; F32 returns x). */
float swin_round_to(float x, swin_dtype dtype);

#endif
