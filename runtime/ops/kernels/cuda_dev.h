/* runtime/ops/kernels/cuda_dev.h - the cuda backend's device state and what its C files share. Included by *_cuda.c only: no CUDA
 * type reaches other files. */
#ifndef SWIN_OPS_KERNELS_CUDA_DEV_H
#define SWIN_OPS_KERNELS_CUDA_DEV_H

#include <cuda_runtime_api.h>

#include "runtime/ops/kernels/kernels.h"
#include "runtime/ops/ops.h"

/* One pinned half of the upload staging. */
typedef struct swin_cuda_stage {
    void *pinned;
    cudaEvent_t copied; /* the device has taken what lay here */
} swin_cuda_stage;

/* A download that was queued: its bytes lie in pinned memory once `done` has passed. */
typedef struct swin_cuda_later {
    void *pinned;
    size_t capacity;
    cudaEvent_t done;
} swin_cuda_later;

/* A GEMM shape whose fastest tile is known (swin-bench --tune). */
typedef struct swin_cuda_choice {
    int math, n, k;
    int64_t m;
    int config;
} swin_cuda_choice;

typedef struct swin_cuda {
    swin_dev base;
    int device, multiprocessors, major, minor, runtime, driver;
    size_t memory, l2;
    bool tf32, capturing, tuning;
    char name[256];
    cudaStream_t stream, copies; /* copies: of upload_beside; made when first needed */
    cudaEvent_t queued, arrived; /* the work before the last upload_beside; its copy */
    swin_cuda_stage stages[2];
    swin_cuda_later later[2];
    swin_observer_scratch *scratch; /* SWIN_WATCHED of them, from the first observer on */
    void *work;                     /* what the half blocks need between their kernels; grows */
    size_t work_bytes;
    void **retired; /* outgrown scratch */
    size_t nretired;
    swin_cuda_choice *choices;
    size_t nchoices;
} swin_cuda;

static inline swin_cuda *swin_cuda_of(swin_dev *dev)
{
    return (swin_cuda *)dev;
}

/* A CUDA error as a status: SWIN_ERR_MEM, SWIN_ERR_UNSUPPORTED or SWIN_ERR_DEVICE with `what` in the message. */
swin_status swin_cuda_status(cudaError_t e, const char *what);

/* At least `bytes` of scratch, valid until the next call; its content is not kept. */
swin_status swin_cuda_work(swin_cuda *d, void **p, size_t bytes);

/* linear_cuda.c: the operators of those names in swin_ops. */
swin_status swin_linear_prepare_cuda(swin_dev *dev, swin_linear *l, const float *w, const float *bias,
                                     int out, int in, swin_dtype dtype);
void swin_linear_release_cuda(swin_dev *dev, swin_linear *l);
swin_status swin_linear_cuda(swin_dev *dev, swin_tensor *y, const swin_tensor *x, const swin_linear *l,
                             bool with_bias, swin_act act);
swin_status swin_linear_residual_cuda(swin_dev *dev, swin_tensor *residual, const swin_tensor *x,
                                      const swin_linear *l, const swin_windows *g);
swin_status swin_attention_half_cuda(swin_dev *dev, swin_tensor *x, const swin_norm *n,
                                     const swin_linear *qkv, const swin_linear *proj, const swin_attention *a,
                                     const swin_windows *g);
swin_status swin_mlp_half_cuda(swin_dev *dev, swin_tensor *x, const swin_norm *n, const swin_linear *fc1,
                               const swin_linear *fc2);
swin_status swin_merge_cuda(swin_dev *dev, swin_tensor *out, const swin_tensor *x, const swin_norm *n,
                            const swin_linear *reduction, const swin_windows *g);
swin_status swin_patch_embed_cuda(swin_dev *dev, swin_tensor *out, const float *images, int batch, int size,
                                  const swin_patch_embed *p);

/* int8_cuda.c and int8_blocks_cuda.c: the operators of those names in swin_ops; norm_s8 is the three layernorm operators with an S8 output. */
swin_status swin_quantize_cuda(swin_dev *dev, swin_tensor *out, const swin_tensor *x);
swin_status swin_norm_s8_cuda(swin_dev *dev, swin_tensor *out, const swin_tensor *x, const swin_norm *n,
                              swin_norm_rows rows, const swin_windows *g);
swin_status swin_normalise_heads_s8_cuda(swin_dev *dev, swin_tensor *out, const swin_tensor *x, int heads,
                                         const float *head_scale);
swin_status swin_linear_s8_prepare_cuda(swin_dev *dev, swin_linear *l, const int8_t *codes,
                                        const float *scale, const float *bias, int out, int in,
                                        int x_zero_point);
void swin_linear_s8_release_cuda(swin_dev *dev, swin_linear *l);
swin_status swin_linear_s8_cuda(swin_dev *dev, swin_tensor *y, int parts, const swin_tensor *x,
                                const swin_linear *l, float after_scale, swin_act act);
swin_status swin_linear_s8_residual_cuda(swin_dev *dev, swin_tensor *residual, const swin_tensor *x,
                                         const swin_linear *l, float after_scale, const swin_windows *g);
swin_status swin_attention_s8_cuda(swin_dev *dev, swin_tensor *out, const swin_tensor qkv[3],
                                   const swin_attention *a, float prob_scale, const swin_windows *g);
swin_status swin_attention_half_s8_cuda(swin_dev *dev, swin_tensor *x, const swin_norm *n,
                                        const swin_layer_s8 *qkv, const swin_tensor parts[3],
                                        const swin_attention *a, float prob_scale, const swin_layer_s8 *proj,
                                        const swin_windows *g);
swin_status swin_mlp_half_s8_cuda(swin_dev *dev, swin_tensor *x, const swin_norm *n, const swin_layer_s8 *fc1,
                                  const swin_layer_s8 *fc2);
swin_status swin_blocks_s8_cuda(swin_dev *dev, swin_tensor *x, const swin_block_s8 *blocks, int count,
                                const swin_windows *g);
swin_status swin_merge_s8_cuda(swin_dev *dev, swin_tensor *out, const swin_tensor *x, const swin_norm *n,
                               const swin_layer_s8 *reduction, const swin_windows *g);

/* observe_cuda.c: the operators of those names in swin_ops. */
#define SWIN_WATCHED 4 /* observers that one launch may serve */
swin_status swin_observer_create_cuda(swin_dev *dev, swin_observer **o);
void swin_observer_free_cuda(swin_dev *dev, swin_observer *o);
swin_status swin_observe_cuda(swin_dev *dev, swin_observer *o, const swin_tensor *x);
swin_status swin_observer_read_cuda(swin_dev *dev, const swin_observer *o, swin_observed *out);
swin_status swin_bias_act_observed_cuda(swin_dev *dev, swin_tensor *y, const float *bias, swin_act act,
                                        swin_observer *before, swin_observer *const after[3], int parts);
swin_status swin_residual_add_observed_cuda(swin_dev *dev, swin_tensor *residual, swin_tensor *y,
                                            const float *bias, const swin_windows *g, swin_observer *product,
                                            swin_observer *local, swin_observer *sum);

/* linear_s8 of Swin V2's qkv layer with three parts of codes, queries and keys (heads of 32) normalised on the way; raw: as
 * attention_half_v2_s8. SWIN_ERR_UNSUPPORTED: not these shapes, nothing was queued. */
swin_status swin_cosine_s8_cuda(swin_dev *dev, swin_tensor y[3], const swin_tensor *x,
                                const swin_layer_s8 *qkv, const swin_tensor raw[2], const float *head_scale);

/* v2_cuda.c: the operators of those names. */
swin_status swin_attention_half_v2_cuda(swin_dev *dev, swin_tensor *x, const swin_norm *n,
                                        const swin_linear *qkv, const float *head_scale,
                                        const swin_attention *a, const swin_linear *proj,
                                        const swin_windows *g);
swin_status swin_mlp_half_v2_cuda(swin_dev *dev, swin_tensor *x, const swin_norm *n, const swin_linear *fc1,
                                  const swin_linear *fc2);
swin_status swin_attention_half_v2_s8_cuda(swin_dev *dev, swin_tensor *x, const swin_stream_s8 *codes,
                                           const swin_norm *n, const swin_layer_s8 *qkv,
                                           const swin_tensor raw[2], const swin_tensor parts[3],
                                           const float *head_scale, const swin_attention *a, float prob_scale,
                                           const swin_layer_s8 *proj, const swin_windows *g);
swin_status swin_mlp_half_v2_s8_cuda(swin_dev *dev, swin_tensor *x, const swin_stream_s8 *codes,
                                     const swin_norm *n, const swin_layer_s8 *fc1, const swin_layer_s8 *fc2);

/* ops_cuda.c: what the operators on matrices check, those operators, and one part of attention, on tensor cores where they take it. */
swin_status swin_check_cuda(const char *op, const swin_tensor *a, const swin_tensor *b, int64_t rows,
                            int64_t cols);
swin_status swin_bias_act_cuda(swin_dev *dev, swin_tensor *y, const float *bias, swin_act act);
swin_status swin_residual_add_cuda(swin_dev *dev, swin_tensor *residual, const swin_tensor *y,
                                   const swin_windows *g);
swin_status swin_attention_run_cuda(swin_dev *dev, const swin_attention_args *args, swin_attention_part part);

/* columns_cuda.c: the operators of those names in swin_ops. */
swin_status swin_scale_columns_cuda(swin_dev *dev, swin_tensor *x, const float *factor);
swin_status swin_moments_cuda(swin_dev *dev, const swin_moments *m, const swin_tensor *x, int runs);
swin_status swin_take_rows_cuda(swin_dev *dev, float *host, const swin_tensor *x, const int64_t *row, int n);

/* tune_cuda.c: choices of tiles. load takes what an earlier run found for this GPU, if anything; find returns -1 for a
 * shape without a choice; learn measures every configuration of one product and keeps the fastest. */
void swin_tune_load(swin_cuda *d);
int swin_tune_find(const swin_cuda *d, const swin_gemm *p);
swin_status swin_tune_learn(swin_cuda *d, const swin_gemm *p);
swin_status swin_tune_cuda(swin_dev *dev, bool on);

/* memory_cuda.c */
swin_status swin_alloc_cuda(swin_dev *dev, void **p, size_t bytes);
void swin_free_cuda(swin_dev *dev, void *p);
swin_status swin_upload_cuda(swin_dev *dev, void *dst, const void *host, size_t bytes);
swin_status swin_download_cuda(swin_dev *dev, void *host, const void *src, size_t bytes);
swin_status swin_copy_cuda(swin_dev *dev, void *dst, const void *src, size_t bytes);
swin_status swin_sync_cuda(swin_dev *dev);
swin_status swin_upload_beside_cuda(swin_dev *dev, void *dst, const void *host, size_t bytes);
swin_status swin_download_later_cuda(swin_dev *dev, int slot, const void *src, size_t bytes);
swin_status swin_download_wait_cuda(swin_dev *dev, int slot, void *host, size_t bytes);
void swin_memory_close_cuda(swin_cuda *d); /* staging, streams and events of this file */

#endif
