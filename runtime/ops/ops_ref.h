/* runtime/ops/ops_ref.h - the parts of the ref backend, which its table in ops_ref.c puts together. Internal. */
#ifndef SWIN_OPS_REF_H
#define SWIN_OPS_REF_H

#include "runtime/ops/host.h"

swin_status swin_linear_prepare_ref(swin_dev *dev, swin_linear *l, const float *w, const float *bias, int out,
                                    int in, swin_dtype dtype);
void swin_linear_release_ref(swin_dev *dev, swin_linear *l);
swin_status swin_linear_ref(swin_dev *dev, swin_tensor *y, const swin_tensor *x, const swin_linear *l,
                            bool with_bias, swin_act act);
swin_status swin_linear_residual_ref(swin_dev *dev, swin_tensor *residual, const swin_tensor *x,
                                     const swin_linear *l, const swin_windows *g);
swin_status swin_patch_embed_ref(swin_dev *dev, swin_tensor *out, const float *images, int batch, int size,
                                 const swin_patch_embed *p);
swin_status swin_bias_act_ref(swin_dev *dev, swin_tensor *y, const float *bias, swin_act act);
swin_status swin_residual_add_ref(swin_dev *dev, swin_tensor *residual, const swin_tensor *y,
                                  const swin_windows *g);

swin_status swin_layernorm_ref(swin_dev *dev, swin_tensor *out, const swin_tensor *x, const swin_norm *n);
swin_status swin_layernorm_windows_ref(swin_dev *dev, swin_tensor *out, const swin_tensor *x,
                                       const swin_norm *n, const swin_windows *g);
swin_status swin_layernorm_merge_ref(swin_dev *dev, swin_tensor *out, const swin_tensor *x,
                                     const swin_norm *n, const swin_windows *g);
swin_status swin_mean_tokens_ref(swin_dev *dev, swin_tensor *out, const swin_tensor *x, int tokens);

swin_status swin_attention_ref(swin_dev *dev, swin_tensor *out, const swin_tensor *qkv,
                               const swin_attention *a, const swin_windows *g);
swin_status swin_scores_ref(swin_dev *dev, swin_tensor *s, const swin_tensor *qkv, const swin_attention *a,
                            const swin_windows *g);
swin_status swin_softmax_ref(swin_dev *dev, swin_tensor *s, const swin_attention *a, const swin_windows *g);
swin_status swin_weighted_sum_ref(swin_dev *dev, swin_tensor *out, const swin_tensor *s,
                                  const swin_tensor *qkv, const swin_attention *a, const swin_windows *g);

swin_status swin_normalise_heads_ref(swin_dev *dev, swin_tensor *out, const swin_tensor *x, int heads,
                                     const float *head_scale);

swin_status swin_fake_quant_ref(swin_dev *dev, swin_tensor *x, float scale, int zero_point, int qmin,
                                int qmax);
swin_status swin_round_to_ref(swin_dev *dev, swin_tensor *x, swin_dtype dtype);
swin_status swin_observer_create_ref(swin_dev *dev, swin_observer **o);
void swin_observer_free_ref(swin_dev *dev, swin_observer *o);
swin_status swin_observe_ref(swin_dev *dev, swin_observer *o, const swin_tensor *x);
swin_status swin_observer_read_ref(swin_dev *dev, const swin_observer *o, swin_observed *out);

swin_status swin_quantize_ref(swin_dev *dev, swin_tensor *out, const swin_tensor *x);
swin_status swin_linear_s8_prepare_ref(swin_dev *dev, swin_linear *l, const int8_t *codes, const float *scale,
                                       const float *bias, int out, int in, int x_zero_point);
swin_status swin_linear_s8_ref(swin_dev *dev, swin_tensor *y, int parts, const swin_tensor *x,
                               const swin_linear *l, float after_scale, swin_act act);
swin_status swin_linear_s8_residual_ref(swin_dev *dev, swin_tensor *residual, const swin_tensor *x,
                                        const swin_linear *l, float after_scale, const swin_windows *g);
swin_status swin_attention_s8_ref(swin_dev *dev, swin_tensor *out, const swin_tensor qkv[3],
                                  const swin_attention *a, float prob_scale, const swin_windows *g);

void swin_linear_release_s8_ref(swin_linear *l); /* l->packed is not NULL */

/* n values to codes with t's scale, zero point and range. */
void swin_quantize_row_ref(int8_t *codes, const float *x, int64_t n, const swin_tensor *t);

/* One row of LayerNorm, in place. n NULL: nothing. */
void swin_norm_row_ref(float *x, int64_t cols, const swin_norm *n);

#endif
