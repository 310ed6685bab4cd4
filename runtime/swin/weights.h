/* runtime/swin/weights.h - a checkpoint's tensors as float32 in host memory: one block, named views.
 *
 * Shapes: C channels of the stage, H hidden (4C), h heads, w window. Every Linear weight is [out][in], row-major.
 */
#ifndef SWIN_SWIN_WEIGHTS_H
#define SWIN_SWIN_WEIGHTS_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/sha256.h"
#include "runtime/swin/config.h"

#define SWIN_PARAM_KEY_MAX 96
#define SWIN_CPB_HIDDEN    512 /* width of V2's position-bias network */

typedef struct swin_block_weights {
    float *norm1_weight, *norm1_bias; /* [C] */
    float *bias_table;                /* [(2w-1)^2][h]; V1 */
    float *logit_scale;               /* [h]; V2 */
    float *q_bias, *v_bias;           /* [C]; V2 */
    float *cpb0_weight, *cpb0_bias;   /* [512][2], [512]; V2 */
    float *cpb2_weight;               /* [h][512]; V2 */
    float *qkv_weight;                /* [3C][C] */
    float *qkv_bias;                  /* [3C]; V1, NULL without QKV_BIAS */
    float *proj_weight, *proj_bias;   /* [C][C], [C] */
    float *norm2_weight, *norm2_bias; /* [C] */
    float *fc1_weight, *fc1_bias;     /* [H][C], [H] */
    float *fc2_weight, *fc2_bias;     /* [C][H], [C] */
} swin_block_weights;

typedef struct swin_stage_weights {
    swin_block_weights *blocks;                 /* [depth] */
    float *reduction_weight;                    /* [2C][4C]; NULL in the last stage */
    float *merge_norm_weight, *merge_norm_bias; /* V1 [4C], V2 [2C]; NULL in the last stage */
} swin_stage_weights;

typedef struct swin_weights {
    float *block;                               /* owned: all numbers, in official order */
    size_t count;                               /* floats in it */
    float *patch_weight, *patch_bias;           /* [C][3][4][4], [C] */
    float *patch_norm_weight, *patch_norm_bias; /* [C]; NULL without PATCH_NORM */
    swin_stage_weights stages[SWIN_MAX_STAGES];
    float *norm_weight, *norm_bias; /* [C last] */
    float *head_weight, *head_bias; /* [classes][C last], [classes] */
} swin_weights;

/* One parameter of the network, as the official state dict names it. */
typedef struct swin_param {
    char key[SWIN_PARAM_KEY_MAX];
    int ndim;
    int64_t shape[4];
    size_t count; /* elements */
    float **slot; /* the view in the swin_weights given */
} swin_param;

/* Allocate the block (zeroed) and set every view. */
swin_status swin_weights_create(swin_weights *w, const swin_config *c);
/* A deep copy: its numbers may be changed freely. */
swin_status swin_weights_clone(swin_weights *dst, const swin_weights *src, const swin_config *c);
void swin_weights_free(swin_weights *w); /* a zeroed struct is fine */

/* Every parameter of the network in official state-dict order (buffers left out). Caller frees the array. */
swin_status swin_weights_list(const swin_config *c, swin_weights *w, swin_param **list, size_t *count);

/* Where one block's or merge's parameters lie: block[*at, *at + *count). Parts are numbered as swin_output_at does. */
swin_status swin_weights_part(const swin_weights *w, const swin_config *c, int part, size_t *at,
                              size_t *count);

/* checkpoint_sha256: over key, shape and float32 values of every parameter in official order (DESIGN.md rule 2). */
swin_status swin_weights_sha256(const swin_config *c, const swin_weights *w, char hex[SWIN_SHA256_HEX]);

#endif
