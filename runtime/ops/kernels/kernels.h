/* runtime/ops/kernels/kernels.h - C launchers of the CUDA kernels: what ops_cuda.c calls.
 *
 * Every launcher queues work on `stream` and returns the launch's error; cudaErrorNotSupported means that the shape or type
 * is not one this kernel takes, and nothing was queued. Pointers are device pointers. Matrices are swin_tensor views of
 * SWIN_F32, SWIN_F16 or SWIN_BF16. An empty matrix queues nothing.
 */
#ifndef SWIN_OPS_KERNELS_H
#define SWIN_OPS_KERNELS_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" { /* ops.h is C; the standard headers in it guard themselves */
#endif

#include "runtime/ops/ops.h"

/* ---- elementwise.cu ---------------------------------------------------------------------------------------- */
cudaError_t swin_bias_act_launch(cudaStream_t stream, const swin_tensor *y, const float *bias, swin_act act);
cudaError_t swin_residual_add_launch(cudaStream_t stream, const swin_tensor *residual, const swin_tensor *y,
                                     const swin_windows *g);
cudaError_t swin_fake_quant_launch(cudaStream_t stream, const swin_tensor *x, float scale, int zero_point,
                                   int qmin, int qmax);
cudaError_t swin_round_to_launch(cudaStream_t stream, const swin_tensor *x, swin_dtype dtype);
cudaError_t swin_mean_tokens_launch(cudaStream_t stream, const swin_tensor *out, const swin_tensor *x,
                                    int tokens);
/* swin_ops.normalise_heads for the float types. */
cudaError_t swin_normalise_heads_launch(cudaStream_t stream, const swin_tensor *out, const swin_tensor *x,
                                        int heads, const float *head_scale);
/* The same for heads of 32 columns in whole 16-byte vectors; the first `scaled` heads take a scale. */
cudaError_t swin_heads32_launch(cudaStream_t stream, const swin_tensor *out, const swin_tensor *x, int heads,
                                int scaled, const float *head_scale);
/* Non-overlapping patches as rows: out [batch * (size/patch)^2][chans * patch * patch], (channel, y, x) order. */
cudaError_t swin_patches_launch(cudaStream_t stream, const swin_tensor *out, const float *images, int chans,
                                int size, int patch);

/* ---- columns.cu: float32 matrices -------------------------------------------------------------------------------- */
cudaError_t swin_scale_columns_launch(cudaStream_t stream, const swin_tensor *x, const float *factor);
/* swin_ops.moments; m's arrays are in device memory here. */
cudaError_t swin_moments_launch(cudaStream_t stream, const swin_moments *m, const swin_tensor *x, int runs);
/* out [n][cols], dense. */
cudaError_t swin_take_rows_launch(cudaStream_t stream, float *out, const swin_tensor *x, const int64_t *row,
                                  int n);

/* ---- patch_embed.cu ------------------------------------------------------------------------------------------ */
/* Patches of 4 x 4 pixels of three channels through a weight w [96, 128 or 192][48] of out's type, F16 or BF16, and
 * LayerNorm (gamma NULL: none), in one kernel; sm_80 and later. */
cudaError_t swin_patch_embed_launch(cudaStream_t stream, const swin_tensor *out, const float *images,
                                    int size, const void *w, const float *bias, const swin_norm *norm,
                                    int multiprocessors);

/* ---- norm.cu ----------------------------------------------------------------------------------------------- */
typedef enum swin_norm_rows { SWIN_ROWS_SAME, SWIN_ROWS_WINDOWS, SWIN_ROWS_MERGE } swin_norm_rows;

/* How out's rows are gathered from x: the same row, window order, or four neighbours side by side. n NULL: no norm. out is of
 * x's type, or in window order SWIN_F32. */
cudaError_t swin_norm_launch(cudaStream_t stream, const swin_tensor *out, const swin_tensor *x,
                             const swin_norm *n, swin_norm_rows rows, const swin_windows *g);

/* ---- gemm_*.cu --------------------------------------------------------------------------------------------- */
typedef enum swin_gemm_math {
    SWIN_GEMM_FP32, /* float32 multiply-adds on the CUDA cores */
    SWIN_GEMM_TF32, /* float32 in and out, inputs rounded to TF32 */
    SWIN_GEMM_F16,
    SWIN_GEMM_BF16
} swin_gemm_math;

/* y [m][n] = act(x [m][k] w [n][k]^T + bias), or residual += that. Every configuration sums k in the same order with the
 * same instructions: the choice changes the time, never a bit. */
typedef struct swin_gemm {
    swin_gemm_math math;
    int64_t m;
    int n, k;
    const void *x, *w; /* row-major */
    int64_t ldx, ldw;  /* elements */
    const float *bias; /* [n] or NULL */
    swin_act act;
    void *y; /* written; or, with residual set, read and added to */
    int64_t ldy;
    bool residual;
    bool windows;   /* with residual: row r of x belongs to row swin_windows_source(&g, r) of y */
    swin_windows g; /* read with windows only */
} swin_gemm;

int swin_gemm_configs(swin_gemm_math math);                         /* how many there are */
const char *swin_gemm_config_name(swin_gemm_math math, int config); /* "128x96" */
/* config -1: chosen from the shape. */
cudaError_t swin_gemm_launch(cudaStream_t stream, const swin_gemm *p, int config, int multiprocessors);
/* Any shape and alignment, slowly. Sums in float32, k upwards. */
cudaError_t swin_gemm_any_launch(cudaStream_t stream, const swin_gemm *p);

/* LayerNorm, gathers and a product in one kernel: y = act(LN(x) w^T + bias), or residual += that. Rows that a product of
 * LayerNorm's output would give, but for the order in which LayerNorm adds. */
typedef struct swin_gemm_rows {
    swin_gemm gemm;     /* windows is not read */
    swin_norm norm;     /* gamma NULL: none */
    bool merge;         /* a row of x is four neighbours of the map g side by side, as SWIN_ROWS_MERGE */
    swin_windows g;     /* read with merge only */
    const void *packed; /* the weight, from swin_gemm_pack_launch */
} swin_gemm_rows;

bool swin_wgmma_available(void); /* this build and the current GPU have Hopper's warpgroup products */
/* 0: no fused kernel takes a weight of this shape. */
size_t swin_gemm_pack_bytes(swin_dtype dtype, int n, int k);
cudaError_t swin_gemm_pack_launch(cudaStream_t stream, void *packed, const void *w, int n, int k);
cudaError_t swin_gemm_rows_launch(cudaStream_t stream, const swin_gemm_rows *p, int multiprocessors);

/* ---- attention_*.cu ---------------------------------------------------------------------------------------- */
typedef enum swin_attention_part {
    SWIN_ATTENTION_ALL,     /* qkv -> out */
    SWIN_ATTENTION_SCORES,  /* qkv -> s */
    SWIN_ATTENTION_SOFTMAX, /* s -> s */
    SWIN_ATTENTION_SUM      /* s, qkv -> out */
} swin_attention_part;

typedef struct swin_attention_args {
    swin_attention a;
    swin_windows g;
    swin_tensor qkv, s, out; /* those that the part does not name are not read */
    bool image_order;        /* qkv and out are in image order: the kernel gathers and scatters the windows */
} swin_attention_args;

/* Tensor cores, F16 and BF16: windows of 49, 64 or 144 tokens with head size 32. */
cudaError_t swin_attention_mma_launch(cudaStream_t stream, const swin_attention_args *p,
                                      swin_attention_part part, int multiprocessors);
/* The whole of it for windows of 144, 256 or 576 tokens with head size 32, and 64 tokens with head size 24. */
cudaError_t swin_attention_tiles_launch(cudaStream_t stream, const swin_attention_args *p,
                                        int multiprocessors);
/* F32: windows of 49 or 64 tokens with head size 32. */
cudaError_t swin_attention_f32_launch(cudaStream_t stream, const swin_attention_args *p,
                                      swin_attention_part part);
/* Any window and head size that fits the multiprocessor's shared memory; float32 arithmetic. */
cudaError_t swin_attention_any_launch(cudaStream_t stream, const swin_attention_args *p,
                                      swin_attention_part part);

/* ---- observe.cu, observe_fused.cu ---------------------------------------------------------------------------- */
/* A running observation: swin_observed with integers for min and max, in device memory. */
typedef struct swin_observer_state {
    unsigned long long count, nonfinite;
    unsigned int min, max; /* floats as integers that compare alike; min > max: nothing finite yet */
    float width;           /* 0: nothing finite yet */
    unsigned int zero;     /* no gap: all of this is copied to the host */
    unsigned long long hist[SWIN_HIST_BINS];
} swin_observer_state;

/* Values outside the histogram, by power of two from 2^-48 up: 2048 bins up from it and 2049 down, one width for both. */
#define SWIN_FAR_OCTAVES 176
#define SWIN_FAR_BINS    4104

/* One tensor's share, kept by the device: zeroed once; every launch leaves it zeroed. */
typedef struct swin_observer_scratch {
    unsigned int min_inverted, max; /* ~min, so that zero is the neutral element */
    unsigned int ticket;
    unsigned long long nonfinite;
    unsigned int far[SWIN_FAR_OCTAVES * SWIN_FAR_BINS];
} swin_observer_scratch;

/* An observation and the scratch that a launch may use for it: another one for each observation of the launch. */
typedef struct swin_watch {
    swin_observer_state *o; /* NULL: nobody watches */
    swin_observer_scratch *scratch;
} swin_watch;

cudaError_t swin_observer_reset_launch(cudaStream_t stream, swin_observer_state *o);
/* For the first tensor of an observation: a width that fits it, so that few values are far. Counts nothing. */
cudaError_t swin_observe_range_launch(cudaStream_t stream, const swin_watch *w, const swin_tensor *x,
                                      int multiprocessors);
cudaError_t swin_observe_launch(cudaStream_t stream, const swin_watch *w, const swin_tensor *x,
                                int multiprocessors);
/* The float behind swin_observer_state's min and max. */
float swin_observer_float(unsigned int ordered);

/* swin_ops.bias_act_observed: 1 or 3 parts. */
cudaError_t swin_bias_act_observed_launch(cudaStream_t stream, const swin_tensor *y, const float *bias,
                                          swin_act act, const swin_watch *before, const swin_watch after[3],
                                          int parts, int multiprocessors);
/* swin_ops.residual_add_observed. */
cudaError_t swin_residual_observed_launch(cudaStream_t stream, const swin_tensor *residual,
                                          const swin_tensor *y, const float *bias, const swin_windows *g,
                                          const swin_watch seen[3], int multiprocessors);

#ifdef __cplusplus
}
#endif

#endif
