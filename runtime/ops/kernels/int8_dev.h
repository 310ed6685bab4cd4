/* runtime/ops/kernels/int8_dev.h - what the C files of the cuda backend's integer network share. */
#ifndef SWIN_OPS_KERNELS_INT8_DEV_H
#define SWIN_OPS_KERNELS_INT8_DEV_H

#include "runtime/ops/kernels/cuda_dev.h"
#include "runtime/ops/kernels/int8.h"

/* Refusals that name `op`: windows that do not fit `rows`; a layer, its input's codes or its rounding. */
swin_status swin_windows_check_cuda(const char *op, const swin_windows *g, int64_t rows);
swin_status swin_layer_check_cuda(const char *op, const swin_linear *l, const swin_tensor *x,
                                  float after_scale);

/* The product of x, codes, with a layer: all but its output. */
swin_gemm_s8 swin_gemm_s8_of(const swin_tensor *x, const swin_linear *l, float after_scale);
swin_s8_part swin_s8_part_of(const swin_tensor *y);

/* The same of a product that is rounded before its bias as codes (rule: theirs), the bias left to *r;
 * where it is not rounded, r->step is 0 and *rule as it was. */
swin_gemm_s8 swin_gemm_s8_rounded(swin_s8_rounding *r, swin_s8_rule *rule, const swin_tensor *x,
                                  const swin_layer_s8 *l);

/* Both layers of an MLP on x; false: shapes that no kernel for both takes. Its norm is V1's; V2's stands
 * before it. */
bool swin_mlp_s8_of(swin_mlp_s8 *p, const swin_tensor *x, const swin_norm *n, const swin_layer_s8 *fc1,
                    const swin_layer_s8 *fc2);

/* blocks_s8 for V2. */
swin_status swin_blocks_v2_s8_cuda(swin_dev *dev, swin_tensor *x, const swin_block_s8 *blocks, int count,
                                   const swin_windows *g);

/* On tensor cores where they take the shape, else by the plain kernels. */
swin_status swin_gemm_s8_run(swin_cuda *d, const swin_gemm_s8 *p);
swin_status swin_attention_s8_run(swin_cuda *d, const swin_attention_s8_args *p);

#endif
