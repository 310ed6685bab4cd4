/* runtime/swin/forward_impl.h - the pieces of the model walk. Private to forward*.c.
 *
 * forward.c walks stages and chunks; forward_half.c has the halves of a block and the merge, forward_attention.c attention,
 * forward_linear.c Linear layers and the residual adds, all on what stands here: where the walk is, and how a tap is shown a site.
 */
#ifndef SWIN_SWIN_FORWARD_IMPL_H
#define SWIN_SWIN_FORWARD_IMPL_H

#include "runtime/swin/net_impl.h"
#include "runtime/swin/outputs.h"

typedef struct walk {
    swin_net *net;
    const swin_ops *ops;
    swin_dev *dev;
    const swin_tap *tap;
    int batch, image, images; /* the chunk at hand: images [image, image + images) */
    int stage, block;
    int last;          /* the blocks [block, last) of this stage are walked now */
    bool *stream_seen; /* the observer that the residual stream meets next has already seen it */
    bool *coded; /* net->normed holds the residual stream's codes for the next half (fused halves of V2) */
} walk;

/* Profilers show what runs between open and close under this name. */
static inline void open_range(const walk *w, const char *name)
{
    if (w->ops->range) w->ops->range(w->dev, name);
}

static inline swin_status close_range(const walk *w, swin_status st)
{
    if (w->ops->range) w->ops->range(w->dev, NULL);
    return st;
}

static inline bool tap_wants(const swin_tap *tap, swin_site s)
{
    return tap && (!tap->wants || tap->wants(tap->user, s));
}

static inline bool wants(const walk *w, swin_site_kind kind)
{
    return tap_wants(w->tap, swin_site_make(w->stage, w->block, kind));
}

/* Show x to the tap, if it wants this site. */
static inline swin_status touch(const walk *w, swin_site_kind kind, swin_tensor *x)
{
    if (!wants(w, kind)) return SWIN_OK;
    const swin_tap_point p = { .site = swin_site_make(w->stage, w->block, kind),
                               .x = x,
                               .dev = w->dev,
                               .image = w->image,
                               .images = w->images,
                               .batch = w->batch };
    return w->tap->at(w->tap->user, &p);
}

/* Whom to give this site's values where nothing else is to be done with them; NULL: touch it. */
static inline swin_observer *watcher(const walk *w, swin_site_kind kind)
{
    const swin_site site = swin_site_make(w->stage, w->block, kind);
    return !w->net->emulate && tap_wants(w->tap, site) && w->tap->observer
               ? w->tap->observer(w->tap->user, site)
               : NULL;
}

static inline swin_observer *fused_watcher(const walk *w, swin_site_kind kind)
{
    return net_observer(w->net, w->tap, swin_site_make(w->stage, w->block, kind));
}

/* The site is wanted, and nothing that a fused operator can do for it is enough. */
static inline bool wants_composed(const walk *w, swin_site_kind kind)
{
    return wants(w, kind) && !fused_watcher(w, kind);
}

/* The input of a layer that may itself show it. */
static inline swin_status touch_input(const walk *w, const net_layer *layer, swin_site_kind kind,
                                      swin_tensor *x)
{
    return layer->integer || wants_composed(w, kind) ? touch(w, kind, x) : SWIN_OK;
}

/* The residual stream, which the operator that made it may have shown already. */
static inline swin_status touch_stream(const walk *w, swin_site_kind kind, swin_tensor *x)
{
    const bool seen = *w->stream_seen;
    *w->stream_seen = false;
    return seen ? SWIN_OK : touch(w, kind, x);
}

static inline swin_status rounded(const walk *w, swin_tensor *x)
{
    return w->net->emulate && x->dtype == SWIN_F32 ? w->ops->round_to(w->dev, x, w->net->opts.dtype)
                                                   : SWIN_OK;
}

static inline swin_tensor activation(const walk *w, void *buffer, int64_t rows, int64_t cols)
{
    return swin_matrix(buffer, w->net->act, rows, cols);
}

/* A matrix of codes for a planned site. */
static inline swin_tensor code_matrix(void *buffer, int64_t rows, int64_t cols, const swin_site_plan *q)
{
    swin_tensor t = swin_matrix(buffer, SWIN_S8, rows, cols);
    t.scale = q->scale;
    t.zero_point = q->zero_point;
    t.qmin = q->qmin;
    t.qmax = q->qmax;
    return t;
}

/* Codes of q, k or v (i = 0, 1, 2) as attention reads them. */
static inline swin_tensor operand_codes(void *buffer, int64_t rows, int64_t cols, const net_block *b, int i)
{
    swin_tensor t = code_matrix(buffer, rows, cols, &b->operands[i]);
    t.shrink = b->operand_shrink[i];
    return t;
}

/* The layer computes in float32 although the network's type is a half one. */
static inline bool net_wide(const walk *w, const net_layer *l)
{
    return !l->integer && !w->net->emulate && l->l.dtype != w->net->act;
}

/* What a layer reads: codes where it runs on integers. */
static inline swin_tensor layer_input(const walk *w, const net_layer *l, void *buffer, int64_t rows,
                                      int64_t cols)
{
    if (net_wide(w, l)) return swin_matrix(buffer, SWIN_F32, rows, cols);
    if (!l->integer) return activation(w, buffer, rows, cols);
    swin_tensor t = code_matrix(buffer, rows, cols, &l->input);
    t.shrink = l->shrink;
    return t;
}

/* A float operator's output, made into codes (in net->narrow) if the next layer runs on integers. */
static inline swin_status as_input(const walk *w, const net_layer *l, swin_tensor *x)
{
    if (!l->integer || x->dtype == SWIN_S8) return SWIN_OK;
    swin_tensor codes = layer_input(w, l, w->net->narrow, x->rows, x->cols);
    SWIN_TRY(w->ops->quantize(w->dev, &codes, x));
    *x = codes;
    return SWIN_OK;
}

/* No tap inside [first, last] of the block's kinds, and halves are the backend's own: a fused half block may run. */
static inline bool unwatched(const walk *w, swin_site_kind first, swin_site_kind last)
{
    if (w->net->emulate) return false;
    for (int k = (int)first; k <= (int)last; k++)
        if (swin_site_role_of(swin_site_make(0, 0, (swin_site_kind)k)) != SWIN_ROLE_WEIGHT &&
            wants(w, (swin_site_kind)k))
            return false;
    return true;
}

/* ---- forward_linear.c */

/* The sites of a Linear layer: its input, its product, and `parts` (0, 1 or 3) equal column ranges of its output. */
typedef struct linear_sites {
    swin_site_kind input, aftergemm, output[3];
    int parts;
} linear_sites;

/* The sites of a branch that ends in a residual add. norm: LayerNorm's input, in V1 the residual stream, in V2 the branch. */
typedef struct branch_sites {
    swin_site_kind input, aftergemm, norm, residual, local;
} branch_sites;

/* Told apart by address. */
extern const linear_sites net_qkv_sites, net_fc1_sites, net_reduction_sites;
extern const branch_sites net_attention_sites, net_mlp_sites;

/* y = act(x W^T + bias). *shown: the sites of its output have been shown. */
swin_status net_linear(const walk *w, swin_tensor *y, swin_tensor *x, const net_layer *layer, swin_act act,
                       const linear_sites *sites, bool *shown);
/* V1's LayerNorm input, unless it is shown before or after. */
swin_status net_touch_norm_input(const walk *w, const net_layer *last, const branch_sites *sites,
                                 swin_tensor *x);
/* x += y W^T + bias. */
swin_status net_linear_residual(const walk *w, swin_tensor *x, swin_tensor *y, const net_layer *layer,
                                const swin_windows *g, const branch_sites *sites);
/* V2: x += LN(y W^T + bias). y is no longer needed once the product is made, and its memory (normed) takes LN's output;
 * where codes came through narrow, the product goes to wide. */
swin_status net_linear_norm_residual(const walk *w, swin_tensor *x, swin_tensor *y, const net_layer *layer,
                                     const swin_norm *n, const swin_windows *g, const branch_sites *sites);

/* ---- forward_attention.c */

/* out = attention(qkv(x)), x in window order; out may share x's memory. */
swin_status net_attention(const walk *w, swin_tensor *out, swin_tensor *x, const net_block *b,
                          const swin_windows *g);

/* ---- forward_half.c */

/* What an integer layer needs in a fused half. */
swin_layer_s8 net_fused_layer(const net_layer *l);
/* How V2's queries (i = 0) and keys (1) are quantized before they are normalised; SWIN_F32: not. */
swin_tensor net_raw_codes(const net_block *b, int i);
/* x += proj(attention(qkv(LN1(x)))), windows shifted and partitioned. V2: x += LN1(proj(attention(qkv(x)))). */
swin_status net_attention_half(const walk *w, const net_block *b, swin_tensor *x, const swin_windows *g);
/* x += fc2(GELU(fc1(LN2(x)))). V2: x += LN2(fc2(GELU(fc1(x)))). */
swin_status net_mlp_half(const walk *w, const net_block *b, swin_tensor *x);
/* V1: reduction(LN(neighbours)). V2: LN(reduction(neighbours)). */
swin_status net_merge(const walk *w, const net_stage *s, swin_tensor *out, const swin_tensor *x,
                      const swin_windows *g);

#endif
