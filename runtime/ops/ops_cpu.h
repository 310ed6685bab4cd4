/* runtime/ops/ops_cpu.h - the parts of the cpu backend, which its table in ops_cpu.c puts together. Internal. */
#ifndef SWIN_OPS_CPU_H
#define SWIN_OPS_CPU_H

#include "runtime/ops/host.h"
#include "runtime/ops/ops_cpu_kernels.h"
#include "runtime/ops/ops_cpu_watch.h"

typedef struct swin_cpu_worker {
    float *room; /* owned scratch floats, grown by swin_cpu_room */
    size_t floats;
    swin_cpu_watch *watch; /* owned; NULL until something is observed */
} swin_cpu_worker;

typedef struct swin_cpu_dev {
    swin_host_dev host;
    const swin_cpu_kernels *kernels;
    swin_cpu_worker *workers; /* owned, one for each thread */
} swin_cpu_dev;

static inline const swin_cpu_kernels *swin_cpu_kernels_of(swin_dev *dev)
{
    return ((swin_cpu_dev *)dev)->kernels;
}

/* At least `floats` floats of scratch memory for this worker, valid until its next call; NULL when there are none. */
float *swin_cpu_room(swin_dev *dev, int worker, size_t floats);

swin_status swin_linear_prepare_cpu(swin_dev *dev, swin_linear *l, const float *w, const float *bias, int out,
                                    int in, swin_dtype dtype);
void swin_linear_release_cpu(swin_dev *dev, swin_linear *l);
swin_status swin_linear_run_cpu(swin_dev *dev, swin_tensor *y, const swin_tensor *x, const swin_linear *l,
                                bool with_bias, swin_act act);
swin_status swin_linear_residual_cpu(swin_dev *dev, swin_tensor *residual, const swin_tensor *x,
                                     const swin_linear *l, const swin_windows *g);
swin_status swin_linear_seen_cpu(swin_dev *dev, swin_tensor *y, const swin_tensor *x, const swin_linear *l,
                                 swin_act act, const swin_linear_seen *seen);
swin_status swin_linear_residual_seen_cpu(swin_dev *dev, swin_tensor *residual, const swin_tensor *x,
                                          const swin_linear *l, const swin_windows *g,
                                          const swin_linear_seen *seen);
swin_status swin_patch_embed_cpu(swin_dev *dev, swin_tensor *out, const float *images, int batch, int size,
                                 const swin_patch_embed *p);

swin_status swin_attention_cpu(swin_dev *dev, swin_tensor *out, const swin_tensor *qkv,
                               const swin_attention *a, const swin_windows *g);
swin_status swin_attention_seen_cpu(swin_dev *dev, swin_tensor *out, const swin_tensor *qkv,
                                    const swin_attention *a, const swin_windows *g, swin_observer *scores,
                                    swin_observer *probabilities);
swin_status swin_scores_cpu(swin_dev *dev, swin_tensor *s, const swin_tensor *qkv, const swin_attention *a,
                            const swin_windows *g);
swin_status swin_softmax_cpu(swin_dev *dev, swin_tensor *s, const swin_attention *a, const swin_windows *g);
swin_status swin_weighted_sum_cpu(swin_dev *dev, swin_tensor *out, const swin_tensor *s,
                                  const swin_tensor *qkv, const swin_attention *a, const swin_windows *g);

swin_status swin_linear_s8_prepare_cpu(swin_dev *dev, swin_linear *l, const int8_t *codes, const float *scale,
                                       const float *bias, int out, int in, int x_zero_point);
swin_status swin_linear_s8_cpu(swin_dev *dev, swin_tensor *y, int parts, const swin_tensor *x,
                               const swin_linear *l, float after_scale, swin_act act);
swin_status swin_linear_s8_residual_cpu(swin_dev *dev, swin_tensor *residual, const swin_tensor *x,
                                        const swin_linear *l, float after_scale, const swin_windows *g);
swin_status swin_attention_s8_cpu(swin_dev *dev, swin_tensor *out, const swin_tensor qkv[3],
                                  const swin_attention *a, float prob_scale, const swin_windows *g);

swin_status swin_observer_create_cpu(swin_dev *dev, swin_observer **o);
void swin_observer_free_cpu(swin_dev *dev, swin_observer *o);
swin_status swin_observe_cpu(swin_dev *dev, swin_observer *o, const swin_tensor *x);
swin_status swin_observer_read_cpu(swin_dev *dev, const swin_observer *o, swin_observed *out);

#endif
