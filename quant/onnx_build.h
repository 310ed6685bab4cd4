/* quant/onnx_build.h - the pieces that a network's graph is made of. Shared by onnx_swin.c, onnx_attention.c and
 * onnx_layers.c. */
#ifndef SWIN_QUANT_ONNX_BUILD_H
#define SWIN_QUANT_ONNX_BUILD_H

#include "quant/onnx_swin.h"

typedef struct onnx_build {
    swin_onnx *g;
    const swin_config *config;
    const swin_weights *weights;
    const onnx_swin_opts *opts;
    const swin_calib_file *file; /* whose corrections the weights have; NULL: none */
    int stage, block;            /* the place that site kinds refer to */
} onnx_build;

/* A site's name or its module's; the graph's memory. */
const char *onnx_site_name(onnx_build *b, swin_site_kind kind);
const char *onnx_site_module(onnx_build *b, swin_site_kind kind);

/* A parameter vector in the graph's type. n floats at v, which outlive the graph. */
swin_onnx_value onnx_vector(onnx_build *b, const char *name, const float *v, int n);
/* The same for more dimensions. */
swin_onnx_value onnx_table(onnx_build *b, const char *name, const float *v, int ndim, const int64_t *dims);

/* The tensor x, which has the name of the site, behind Q/DQ where the site is enabled; else x itself. Where heads have scales of
 * their own they are multiplied before Q/DQ to meet the tensor's one, and what is computed of them is to be multiplied back:
 * engines with integer products have these of one scale alone (ONNX Runtime fails on Q/DQ along the axis of heads). */
swin_onnx_value onnx_quantize(onnx_build *b, swin_site_kind kind, swin_onnx_value x);
/* The record of such a site; NULL: the site is off or has one scale. */
const swin_site_record *onnx_own_scales(const onnx_build *b, swin_site_kind kind);
/* out = x [..][heads][..][..] times a factor [heads] for each, which outlives the graph. */
swin_onnx_value onnx_times_heads(onnx_build *b, const char *out, swin_onnx_value x, const float *factor,
                                 int heads);
/* Whether the site is enabled with u8 codes of exp(score - max): int8-mode 3's softmax. */
bool onnx_softmax_is_u8(const onnx_build *b);

/* Between the graph's type and float32; x itself in a float32 graph. */
swin_onnx_value onnx_to_float(onnx_build *b, const char *out, swin_onnx_value x);
swin_onnx_value onnx_from_float(onnx_build *b, const char *out, swin_onnx_value x);

/* LayerNorm over the last axis; in float32 whatever the graph's type. The result is named `out`. */
swin_onnx_value onnx_layernorm(onnx_build *b, const char *out, swin_onnx_value x, const char *module,
                               const float *gamma, const float *beta, int channels);

/* A Linear layer as the graph sees it. */
typedef struct onnx_linear {
    swin_site_kind input, weight, aftergemm;
    const float *w, *bias; /* [out][in]; [out] or NULL */
    int out, in;
} onnx_linear;

/* x W^T + bias with the Q/DQ of its three sites; x has the input site's name. */
swin_onnx_value onnx_linear_add(onnx_build *b, swin_onnx_value x, const onnx_linear *l);

/* 0.5 x (1 + erf(x / sqrt 2)), over the site's factors where it has some; named after the site. */
swin_onnx_value onnx_gelu(onnx_build *b, swin_site_kind kind, const char *module, swin_onnx_value x);

/* One block of a stage. */
typedef struct onnx_block_view {
    swin_stage s;
    int shift, windows, n; /* windows of an image, tokens of a window */
    const swin_block_weights *w;
    const char *attn;     /* "layers.0.blocks.0.attn" */
    swin_onnx_value mask; /* of the stage; NULL for an unshifted block */
} onnx_block_view;

/* x + proj(attention(qkv(LN x))), or V2's x + LN(proj(attention(qkv(x)))), of a map x [batch][H][W][C]. V2's sum has the name
 * of the site that reads it, fc1's input. */
swin_onnx_value onnx_attention_half(onnx_build *b, const onnx_block_view *v, swin_onnx_value x);

bool onnx_is_v2(const onnx_build *b);

/* printf into the graph's memory. */
#define ONNX_NAME(b, fmt, ...) swin_onnx_text((b)->g, fmt, __VA_ARGS__)

/* Shape operators; 0 in a shape keeps the dimension, as the batch is kept everywhere. */
swin_onnx_value onnx_reshape(onnx_build *b, const char *out, swin_onnx_value x, size_t n,
                             const int64_t *shape);
swin_onnx_value onnx_transpose(onnx_build *b, const char *out, swin_onnx_value x, size_t n,
                               const int64_t *perm);
swin_onnx_value onnx_slice(onnx_build *b, const char *out, swin_onnx_value x, int64_t axis, int64_t from,
                           int64_t to, int64_t step);
/* x [batch][side][side][C] moved cyclically: out[y][x] = in[(y + by) mod side][(x + by) mod side]. */
swin_onnx_value onnx_roll(onnx_build *b, const char *out, swin_onnx_value x, int side, int by);

#endif
