/* runtime/swin/net_impl.h - what net.c builds and forward*.c walk. Private to net*.c and forward*.c. */
#ifndef SWIN_SWIN_NET_IMPL_H
#define SWIN_SWIN_NET_IMPL_H

#include "runtime/swin/net.h"
#include "runtime/swin/plan.h"

/* A Linear and how it runs: in the net's float type, or on integers. */
typedef struct net_layer {
    swin_linear l;
    bool integer;
    swin_site_plan input; /* integer: how its input is quantized */
    const float *shrink;  /* integer: inverse factors of its input, device; NULL: none */
    float after_scale;    /* integer: rounding of the product before the bias; 0: none */
} net_layer;

typedef struct net_block {
    swin_norm norm1, norm2;
    net_layer qkv, proj, fc1, fc2;
    swin_attention attention;
    bool attention_integer;
    const float *head_scale;    /* V2: [heads] logit scales of the normalised queries, device; NULL: V1 */
    swin_site_plan operands[3]; /* integer attention: q, k, v (V2: q and k normalised) */
    const float *operand_shrink
        [3]; /* where heads have scales of their own: [C] the site's over them, device; NULL: not */
    swin_site_plan raw[2]; /* V2: q and k before that */
    float prob_scale;
    int shift;
} net_block;

typedef struct net_stage {
    swin_stage shape;
    net_block *blocks; /* [shape.depth], owned */
    swin_norm merge_norm;
    net_layer reduction;
    int chunk; /* images at once, for the batch that the buffers were made for */
} net_stage;

/* A forward pass recorded for one batch size and one place of the images (backends that offer graphs). */
typedef struct net_replay {
    int batch, runs; /* runs: passes so far; the first one grows memory, the second is recorded */
    const float *images;
    swin_graph *graph;
} net_replay;

enum { NET_REPLAYS = 8 };

struct swin_net {
    swin_dev *dev;
    const swin_ops *ops;
    swin_config config;
    swin_net_opts opts;
    swin_dtype act; /* how activations are stored: opts.dtype, or SWIN_F32 where halves are emulated */
    bool emulate;   /* round operator outputs to opts.dtype */
    bool planned;   /* made with a plan: some layers run on integers */

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
    void *
        narrow; /* [rows][C], 4 bytes each: a GEMM's output where a tap watches before the residual add, or the codes
                     that a float operator's output becomes for an integer layer */
    void *scores; /* made at the first forward that looks inside attention */
    void *pooled, *logits;
    void *host_logits; /* staging for types other than float32 */

    float *second;       /* another place for images, for batches in flight; made by swin_net_queue */
    int queued[2];       /* their sizes; the older first */
    int in_flight, turn; /* turn: the place, 0 or 1, of the next one */
    float *held[2];      /* their logits, on a backend without downloads in flight */

    net_replay replays[NET_REPLAYS]; /* the oldest gives way */
    int replay_next;
};

/* Prepare a Linear that owns these sites: on integers where the plan enables its input and weight. */
swin_status net_put_layer(swin_net *net, net_layer *layer, int stage, int block, swin_site_kind input,
                          const float *w, const float *bias, int out, int in);

/* A host vector into the device's memory, freed with the net. NULL stays NULL. */
swin_status net_put_vector(swin_net *net, const float **out, const float *host, size_t n);

/* Whether the plan runs this block's attention on integers, and with which scales. */
swin_status net_plan_attention(swin_net *net, net_block *b, int stage, int block);

/* All parameters of net->config from weights already rounded. A failure leaves what was made to swin_net_free. */
swin_status net_build(swin_net *net, const swin_weights *w);

/* Norms and Linear layers of a block or merge from other weights. A failure leaves layers without weights. */
swin_status net_reload_block(swin_net *net, int stage, int block, const swin_block_weights *w);
swin_status net_reload_biases(swin_net *net, int stage, int block, const swin_block_weights *w);
swin_status net_reload_merge(swin_net *net, int stage, const swin_stage_weights *w);

/* Make the activation buffers fit a batch; with_scores: also the attention scores of one chunk. */
swin_status net_reserve(swin_net *net, int batch, bool with_scores);

/* The model walk: images (device) to net->logits. */
swin_status net_walk(swin_net *net, const float *images, int batch, const swin_tap *tap);
/* Parts [first, end) of it (swin_net_forward_parts), between the streams that net->x holds; images: only for part 0. */
swin_status net_walk_parts(swin_net *net, int first, int end, const float *images, int batch,
                           const swin_tap *tap);

/* The walk, or the replay of an earlier one: without a tap, on a backend with graphs, for a batch seen before. */
swin_status net_run(swin_net *net, const float *images, int batch, const swin_tap *tap);
/* Forget the recorded passes: their buffers are about to go. */
void net_drop_replays(swin_net *net);

/* The observer that a fused operator shows this site to; NULL: none, the tap is called instead if it wants the site. */
swin_observer *net_observer(const swin_net *net, const swin_tap *tap, swin_site s);

/* Whether the walk composes attention from scores, softmax and weighted sum for this tap. */
bool net_needs_scores(const swin_net *net, const swin_tap *tap);

#endif
