/* runtime/swin/net_impl.h - what net.c builds and forward.c walks. Private to these two. */
#ifndef SWIN_SWIN_NET_IMPL_H
#define SWIN_SWIN_NET_IMPL_H

#include "runtime/swin/net.h"

typedef struct net_block {
    swin_norm norm1, norm2;
    swin_linear qkv, proj, fc1, fc2;
    swin_attention attention;
    int shift;
} net_block;

typedef struct net_stage {
    swin_stage shape;
    net_block *blocks; /* [shape.depth], owned */
    swin_norm merge_norm;
    swin_linear reduction;
    int chunk; /* images at once, for the batch that the buffers were made for */
} net_stage;

struct swin_net {
    swin_dev *dev;
    const swin_ops *ops;
    swin_config config;
    swin_net_opts opts;
    swin_dtype act; /* how activations are stored: opts.dtype, or SWIN_F32 where halves are emulated */
    bool emulate;   /* round operator outputs to opts.dtype */

    swin_linear patch_proj;
    swin_patch_embed patch;
    net_stage stages[SWIN_MAX_STAGES];
    swin_norm norm;
    swin_linear head;

    void **params; /* device blocks of norms, biases, tables, masks: freed with the net */
    size_t nparams, params_capacity;

    /* Activations, made for `capacity` images. The residual stream swaps between x[0] and x[1] at each merge; the others
     * hold one chunk of one stage. */
    int capacity;
    float *images; /* device copy of the caller's images */
    void *x[2];
    void *normed; /* [rows][C] LayerNorm's output, then attention's */
    void *wide;   /* [rows][max(3C, hidden)] qkv, then fc1's output */
    void *narrow; /* [rows][C] a GEMM's output where a tap watches before the residual add */
    void *scores; /* made at the first forward that looks inside attention */
    void *pooled, *logits;
    void *host_logits; /* staging for types other than float32 */
};

/* Make the activation buffers fit a batch; with_scores: also the attention scores of one chunk. */
swin_status net_reserve(swin_net *net, int batch, bool with_scores);

/* The model walk: images (device) to net->logits. */
swin_status net_walk(swin_net *net, const float *images, int batch, const swin_tap *tap);

/* Whether the walk composes attention from scores, softmax and weighted sum for this tap. */
bool net_needs_scores(const swin_net *net, const swin_tap *tap);

#endif
