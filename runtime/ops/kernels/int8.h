/* runtime/ops/kernels/int8.h - C launchers of the integer network's kernels; conventions as in kernels.h. */
#ifndef SWIN_OPS_KERNELS_INT8_H
#define SWIN_OPS_KERNELS_INT8_H

#include "runtime/ops/kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How values become codes, as the kernels want it: the zero point and the range lie on top of 1.5 * 2^23. */
typedef struct swin_s8_rule {
    float inverse, zero, lo, hi;
} swin_s8_rule;

static inline swin_s8_rule swin_s8_rule_of(const swin_tensor *t)
{
    const swin_s8_rule r = { 1.0f / t->scale, 12582912.0f + (float)t->zero_point,
                             12582912.0f + (float)t->qmin, 12582912.0f + (float)t->qmax };
    return r;
}

/* One column range of a product's output. */
typedef struct swin_s8_part {
    void *data;
    int64_t ld; /* elements */
    int unit;   /* bytes of one */
    swin_dtype dtype;
    swin_s8_rule rule;   /* S8 only */
    const float *shrink; /* S8 only: [columns] factors of the values, 16-byte aligned; NULL: none */
} swin_s8_part;

/* What a residual stream of F16 is short of, in eights, beside it: with a bias, a product that was rounded
 * before it and still has to be added; without, what rounding the stream to F16 took off (s8_rest of
 * int8.cuh). */
typedef struct swin_s8_local {
    int8_t *codes; /* [rows][ld]; NULL: nothing */
    int64_t ld;
    float scale;
    const float *bias; /* [columns] */
} swin_s8_local;

enum { SWIN_S8_PARTS = 4 };

/* y = act(round(x w^T * x_scale w_scale) + bias) in `parts` column ranges, or y[0] += that; see linear_s8
 * in ops.h. */
typedef struct swin_gemm_s8 {
    int64_t m;
    int n, k;
    const int8_t *x, *w; /* x [m][ldx]; w [n][k] */
    /* w with its rows in the order of the tensor cores, up to whole 32: row r is column swin_s8_dealt(r) */
    const int8_t *dealt;
    int64_t ldx;
    float x_scale;
    const float *w_scale;       /* [n] */
    const int32_t *zero_share;  /* [n], taken off every sum; NULL: none */
    const float *bias;          /* [n] or NULL */
    float after, after_inverse; /* 0: no rounding before the bias */
    const float *afters;        /* [n] in place of `after`; NULL: one step for all columns */
    swin_act act;
    int parts, width; /* width: columns of a part */
    swin_s8_part y[SWIN_S8_PARTS];
    const float
        *head_scale; /* not NULL: parts 0 and 1 are Swin V2's queries and keys, in heads of 32 columns... */
    swin_s8_rule raw[2];    /* ...which become codes before they are divided by their length... */
    float raw_scale[2];     /* ...of these scales; 0: they do not */
    bool residual, windows; /* windows: row r of x belongs to row swin_windows_source(&g, r) of y */
    swin_windows g;
    /* Residual of F16 only. With a bias: y[0] += this first. Without: the sum's rest goes there. */
    swin_s8_local local;
} swin_gemm_s8;

/* Whether the lean last steps take the factors of part i: GELU's codes as they come, plain codes as part of their columns'
 * factors (s8_line of last_s8.cuh), which a rounding before the bias does not leave room for. */
static inline bool swin_s8_lean_shrink(const swin_gemm_s8 *p, int i)
{
    const float *shrink = p->y[i].shrink;
    return !shrink || ((size_t)shrink % 16 == 0 && (p->act != SWIN_ACT_NONE || p->after == 0));
}

/* Tensor cores of sm_80 and later. cudaErrorNotSupported: columns not in eights, or pointers not aligned
 * to 16 bytes. */
cudaError_t swin_gemm_s8_launch(cudaStream_t stream, const swin_gemm_s8 *p, int config, int multiprocessors);
/* Many columns over few (qkv, Swin V2's too, and fc1), for Hopper: k of 384, 512 or 768, outputs of codes.
 * cudaErrorNotSupported also where few rows make it the slower way. */
cudaError_t swin_wide_s8_launch(cudaStream_t stream, const swin_gemm_s8 *p, int multiprocessors);
int swin_gemm_s8_configs(void);
const char *swin_gemm_s8_config_name(int config);
/* Any shape and alignment, slowly. */
cudaError_t swin_gemm_s8_any_launch(cudaStream_t stream, const swin_gemm_s8 *p);

/* The column that the tensor cores' position r of an output's columns takes (kernels/int8.cuh). */
static inline int swin_s8_dealt(int r)
{
    return (r & ~31) | (r & 6) << 2 | (r & 24) >> 2 | (r & 1);
}

/* In place or not, every head's columns divided by their L2 norm, as normalise_heads in ops.h; x of codes
 * or floats, out of codes. */
cudaError_t swin_normalise_heads_s8_launch(cudaStream_t stream, const swin_tensor *out, const swin_tensor *x,
                                           int heads, const float *head_scale);

/* x += LayerNorm(y), of one float type, or y of codes to which y_bias (NULL: none) is added; codes (S8) of
 * the new x beside it, unless NULL or without data. exact: LayerNorm's output is not rounded to the type
 * before it is added, nor the sum before it becomes codes. */
cudaError_t swin_norm_add_launch(cudaStream_t stream, const swin_tensor *x, const swin_tensor *y,
                                 const float *y_bias, const swin_norm *n, const swin_tensor *codes,
                                 bool exact);

/* out (S8) = codes of LayerNorm(x); rows as for swin_norm_launch; n NULL: of x itself. */
cudaError_t swin_norm_s8_launch(cudaStream_t stream, const swin_tensor *out, const swin_tensor *x,
                                const swin_norm *n, swin_norm_rows rows, const swin_windows *g);
/* The same of x + local, rows as they are; cudaErrorNotSupported but for rows of F16 in whole eights. */
cudaError_t swin_norm_local_s8_launch(cudaStream_t stream, const swin_tensor *out, const swin_tensor *x,
                                      const swin_norm *n, const swin_s8_local *local);

/* x += fc2(codes(GELU(fc1(codes(LN x))))) in one kernel; x is fc2.y[0], and fc1's x and y are not read but
 * for the factors of y[0]. */
typedef struct swin_mlp_s8 {
    swin_norm norm;
    swin_s8_rule input, hidden; /* codes of fc1's input and of GELU's output */
    swin_gemm_s8 fc1, fc2;
} swin_mlp_s8;

/* Hopper; rows of 96, 128 or 192 F16 values. cudaErrorNotSupported also where few rows make it the slower
 * way. */
cudaError_t swin_mlp_s8_launch(cudaStream_t stream, const swin_mlp_s8 *p, int multiprocessors);

/* A product that becomes codes of y[0].rule, `step` each, and then gets `bias`; step 0: it is as it is. */
typedef struct swin_s8_rounding {
    float step;
    const float *bias;
} swin_s8_rounding;

/* All of a block after attention in one kernel; x is mlp.fc2.y[0], attention's output proj.x.
 * V1: x += proj, then the MLP half; x between the halves is rounded to F16 and its rest where it is
 * normalised (where proj is not rounded before its bias), and to F16 where it is added to.
 * V2: x += LN(proj), norm of mlp, then x += last(fc2(GELU(fc1 x))), both as swin_norm_add_launch with
 * `exact`. */
typedef struct swin_tail_s8 {
    swin_mlp_s8 mlp;
    swin_gemm_s8 proj;
    swin_s8_rounding proj_rounding, last_rounding; /* last: V2's fc2; y[0] is x with that rule */
    bool v2;
    swin_norm last; /* V2 */
    int8_t *codes;  /* V2: [rows][ld] codes of the new x; NULL: none */
    int64_t ld;
    swin_s8_rule rule; /* of these */
} swin_tail_s8;

/* Where swin_mlp_s8_launch is at home. */
cudaError_t swin_tail_s8_launch(cudaStream_t stream, const swin_tail_s8 *p, int multiprocessors);

/* y = codes(act(w codes(LN x) + bias)) in one kernel: gemm, whose x is not read, over LayerNorm of x
 * (F16), or of x + gemm.local. */
typedef struct swin_norm_gemm_s8 {
    swin_norm norm;
    swin_s8_rule input; /* codes of LN's output */
    const void *x;
    int64_t ldx;
    swin_gemm_s8 gemm;
} swin_norm_gemm_s8;

/* Hopper; rows of 96, 128 or 192 F16 values (192 alone, and with GELU, gemm.local); outputs of codes three or
 * four times as wide. */
cudaError_t swin_norm_gemm_s8_launch(cudaStream_t stream, const swin_norm_gemm_s8 *p, int multiprocessors);
/* Swin V2's q, k, v (head_scale) of rows of 96, 128 or 192 codes in the same kernel. */
cudaError_t swin_heads_gemm_s8_launch(cudaStream_t stream, const swin_gemm_s8 *p, int multiprocessors);

typedef struct swin_attention_s8_args {
    swin_attention a;
    swin_windows g;
    swin_tensor q, k, v, out;
    float prob_scale;
    bool image_order; /* q, k, v and out are in image order: the kernel gathers and scatters the windows */
} swin_attention_s8_args;

/* Rows of a window of 49 in whole tiles. */
enum { SWIN_CLUSTER_ROWS = 64 };

/* A block of Swin V1 in place on x, which is fc2.y[0], in image order; inputs of the products are not read from memory.
 * qkv, fc1: codes, of attention's q, k, v and of y[0].rule. proj: added to x; or codes of y[0].rule, which wait
 * beside x until fc2 is added: fc2.local, of which nothing is stored. */
typedef struct swin_cluster_s8 {
    swin_norm norm1, norm2;
    swin_s8_rule input1, input2, mixed; /* codes of LayerNorm's outputs and of attention's */
    swin_gemm_s8 qkv, proj, fc1, fc2;
    swin_s8_local beside;             /* what the second LayerNorm sees with x */
    swin_attention_s8_args attention; /* its tensors have no data */
    char *exchange;                   /* windows * SWIN_CLUSTER_ROWS * 4 C bytes */
} swin_cluster_s8;

/* Hopper; windows of 49 tokens, rows of 96, 128, 192, 256 or 384 F16 values. cudaErrorNotSupported also where many
 * windows make it the slower way. */
cudaError_t swin_cluster_s8_launch(cudaStream_t stream, const swin_cluster_s8 *p);

/* Tensor cores: windows of 49, 64 or 144 tokens with head size 32. */
cudaError_t swin_attention_s8_mma_launch(cudaStream_t stream, const swin_attention_s8_args *p,
                                         int multiprocessors);
/* The same for windows of 256 or 576 tokens with head size 32, and 64 tokens with head size 24. */
cudaError_t swin_attention_s8_tiles_launch(cudaStream_t stream, const swin_attention_s8_args *p,
                                           int multiprocessors);
cudaError_t swin_attention_s8_any_launch(cudaStream_t stream, const swin_attention_s8_args *p);

#ifdef __cplusplus
}
#endif

#endif
