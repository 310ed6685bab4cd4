/* The one model walk. Every precision and every backend goes through it; calibration, fake quantization and dumps are
 * taps. Formulas and order: reference/swin.md section 1. */
#include "runtime/swin/net_impl.h"
#include "runtime/swin/outputs.h"

#include <stdio.h>

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
static void open_range(const walk *w, const char *name)
{
    if (w->ops->range) w->ops->range(w->dev, name);
}

static swin_status close_range(const walk *w, swin_status st)
{
    if (w->ops->range) w->ops->range(w->dev, NULL);
    return st;
}

static bool tap_wants(const swin_tap *tap, swin_site s)
{
    return tap && (!tap->wants || tap->wants(tap->user, s));
}

static bool wants(const walk *w, swin_site_kind kind)
{
    return tap_wants(w->tap, swin_site_make(w->stage, w->block, kind));
}

/* Show x to the tap, if it wants this site. */
static swin_status touch(const walk *w, swin_site_kind kind, swin_tensor *x)
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
static swin_observer *watcher(const walk *w, swin_site_kind kind)
{
    const swin_site site = swin_site_make(w->stage, w->block, kind);
    return !w->net->emulate && tap_wants(w->tap, site) && w->tap->observer
               ? w->tap->observer(w->tap->user, site)
               : NULL;
}

swin_observer *net_observer(const swin_net *net, const swin_tap *tap, swin_site s)
{
    const bool fused = net->ops->linear_seen && net->act == SWIN_F32 && !net->emulate;
    return fused && tap && tap->observer && tap_wants(tap, s) ? tap->observer(tap->user, s) : NULL;
}

static swin_observer *fused_watcher(const walk *w, swin_site_kind kind)
{
    return net_observer(w->net, w->tap, swin_site_make(w->stage, w->block, kind));
}

/* The site is wanted, and nothing that a fused operator can do for it is enough. */
static bool wants_composed(const walk *w, swin_site_kind kind)
{
    return wants(w, kind) && !fused_watcher(w, kind);
}

/* The input of a layer that may itself show it. */
static swin_status touch_input(const walk *w, const net_layer *layer, swin_site_kind kind, swin_tensor *x)
{
    return layer->integer || wants_composed(w, kind) ? touch(w, kind, x) : SWIN_OK;
}

/* The residual stream, which the operator that made it may have shown already. */
static swin_status touch_stream(const walk *w, swin_site_kind kind, swin_tensor *x)
{
    const bool seen = *w->stream_seen;
    *w->stream_seen = false;
    return seen ? SWIN_OK : touch(w, kind, x);
}

static swin_status rounded(const walk *w, swin_tensor *x)
{
    return w->net->emulate && x->dtype == SWIN_F32 ? w->ops->round_to(w->dev, x, w->net->opts.dtype)
                                                   : SWIN_OK;
}

static swin_tensor activation(const walk *w, void *buffer, int64_t rows, int64_t cols)
{
    return swin_matrix(buffer, w->net->act, rows, cols);
}

/* A matrix of codes for a planned site. */
static swin_tensor code_matrix(void *buffer, int64_t rows, int64_t cols, const swin_site_plan *q)
{
    swin_tensor t = swin_matrix(buffer, SWIN_S8, rows, cols);
    t.scale = q->scale;
    t.zero_point = q->zero_point;
    t.qmin = q->qmin;
    t.qmax = q->qmax;
    return t;
}

/* What a layer reads: codes where it runs on integers. */
static swin_tensor layer_input(const walk *w, const net_layer *l, void *buffer, int64_t rows, int64_t cols)
{
    if (!l->integer) return activation(w, buffer, rows, cols);
    swin_tensor t = code_matrix(buffer, rows, cols, &l->input);
    t.shrink = l->shrink;
    return t;
}

/* A float operator's output, made into codes (in net->narrow) if the next layer runs on integers. */
static swin_status as_input(const walk *w, const net_layer *l, swin_tensor *x)
{
    if (!l->integer || x->dtype == SWIN_S8) return SWIN_OK;
    swin_tensor codes = layer_input(w, l, w->net->narrow, x->rows, x->cols);
    SWIN_TRY(w->ops->quantize(w->dev, &codes, x));
    *x = codes;
    return SWIN_OK;
}

/* The sites of a Linear layer: its input, its product, and `parts` (0, 1 or 3) equal column ranges of its output. */
typedef struct linear_sites {
    swin_site_kind input, aftergemm, output[3];
    int parts;
} linear_sites;

static const linear_sites qkv_sites = { SWIN_SITE_QKV_INPUT,
                                        SWIN_SITE_QKV_AFTERGEMM,
                                        { SWIN_SITE_MATMUL_Q, SWIN_SITE_MATMUL_K, SWIN_SITE_MATMUL_V },
                                        3 },
                          fc1_sites = { SWIN_SITE_FC1_INPUT,
                                        SWIN_SITE_FC1_AFTERGEMM,
                                        { SWIN_SITE_FC2_INPUT },
                                        1 },
                          reduction_sites = { .input = SWIN_SITE_REDUCTION_INPUT,
                                              .aftergemm = SWIN_SITE_REDUCTION_AFTERGEMM };

/* What linear_seen is to show. An activation's output is left to the layer that takes it as its input. */
static swin_linear_seen seen_inside(const walk *w, const linear_sites *s, swin_act act)
{
    swin_linear_seen seen = { .input = fused_watcher(w, s->input),
                              .product = fused_watcher(w, s->aftergemm),
                              .parts = act == SWIN_ACT_NONE ? s->parts : 0 };
    for (int i = 0; i < seen.parts; i++) seen.biased[i] = fused_watcher(w, s->output[i]);
    return seen;
}

static bool sees(const swin_linear_seen *s)
{
    return s->input || s->product || s->biased[0] || s->biased[1] || s->biased[2] || s->residual;
}

/* linear, then an operator that observes what bias_act reads and writes; *done false: it does not apply. */
static swin_status linear_observed(const walk *w, swin_tensor *y, const swin_tensor *x, const swin_linear *l,
                                   swin_act act, const linear_sites *sites, bool *done)
{
    swin_observer *const before = watcher(w, sites->aftergemm), *after[3] = { NULL };
    *done = w->ops->bias_act_observed && before && sites->parts > 0;
    for (int i = 0; i < sites->parts && *done; i++) {
        after[i] = watcher(w, sites->output[i]);
        *done = after[i] != NULL;
    }
    if (!*done) return SWIN_OK;
    SWIN_TRY(w->ops->linear(w->dev, y, x, l, false, SWIN_ACT_NONE));
    return w->ops->bias_act_observed(w->dev, y, l->bias, act, before, after, sites->parts);
}

/* y = act(x W^T + bias) of a float layer; split before the bias where the tap watches there. */
static swin_status linear_float(const walk *w, swin_tensor *y, swin_tensor *x, const swin_linear *l,
                                swin_act act, const linear_sites *sites)
{
    swin_linear_seen seen = seen_inside(w, sites, act);
    const int parts = seen.parts;
    if (wants_composed(w, sites->aftergemm)) {
        if (seen.input) SWIN_TRY(touch(w, sites->input, x));
        seen = (swin_linear_seen){ 0 };
        SWIN_TRY(w->ops->linear(w->dev, y, x, l, false, SWIN_ACT_NONE));
        SWIN_TRY(touch(w, sites->aftergemm, y));
        if (l->bias || act != SWIN_ACT_NONE) SWIN_TRY(w->ops->bias_act(w->dev, y, l->bias, act));
    } else if (sees(&seen)) {
        SWIN_TRY(w->ops->linear_seen(w->dev, y, x, l, act, &seen));
    } else {
        SWIN_TRY(w->ops->linear(w->dev, y, x, l, true, act));
    }
    SWIN_TRY(rounded(w, y));
    for (int i = 0; i < parts; i++) {
        swin_tensor part = swin_columns(y, i * (y->cols / parts), y->cols / parts);
        if (!seen.biased[i]) SWIN_TRY(touch(w, sites->output[i], &part));
    }
    return SWIN_OK;
}

/* y = act(x W^T + bias). *shown: the sites of its output have been shown. */
static swin_status linear(const walk *w, swin_tensor *y, swin_tensor *x, const net_layer *layer, swin_act act,
                          const linear_sites *sites, bool *shown)
{
    *shown = false;
    if (layer->integer) {
        SWIN_TRY(w->ops->linear_s8(w->dev, y, 1, x, &layer->l, layer->after_scale, act));
        return rounded(w, y);
    }
    SWIN_TRY(linear_observed(w, y, x, &layer->l, act, sites, shown));
    if (*shown) return SWIN_OK;
    *shown = act == SWIN_ACT_NONE;
    return linear_float(w, y, x, &layer->l, act, sites);
}

/* The sites of a branch that ends in a residual add. norm: LayerNorm's input, in V1 the residual stream, in V2 the branch. */
typedef struct branch_sites {
    swin_site_kind input, aftergemm, norm, residual, local;
} branch_sites;

static const branch_sites attention_sites = { SWIN_SITE_PROJ_INPUT, SWIN_SITE_PROJ_AFTERGEMM,
                                              SWIN_SITE_LAYERNORM_INPUT1, SWIN_SITE_ADD1_RESIDUAL,
                                              SWIN_SITE_ADD1_LOCAL },
                          mlp_sites = { SWIN_SITE_FC2_INPUT, SWIN_SITE_FC2_AFTERGEMM,
                                        SWIN_SITE_LAYERNORM_INPUT2, SWIN_SITE_ADD2_RESIDUAL,
                                        SWIN_SITE_ADD2_LOCAL };

/* V1: LayerNorm's input is the stream that the branch's last layer adds to, and that layer can show it. */
static swin_observer *stream_watcher(const walk *w, const net_layer *last, const branch_sites *sites)
{
    return last->integer || wants(w, sites->residual) ? NULL : fused_watcher(w, sites->norm);
}

/* V1's LayerNorm input, unless it is shown before or after. */
static swin_status touch_norm_input(const walk *w, const net_layer *last, const branch_sites *sites,
                                    swin_tensor *x)
{
    return stream_watcher(w, last, sites) ? SWIN_OK : touch_stream(w, sites->norm, x);
}

/* Who sees the residual stream after the branch at hand: what V1's next LayerNorm takes, if it is walked now. */
static swin_observer *next_watcher(const walk *w, const branch_sites *sites)
{
    if (sites == &attention_sites) return watcher(w, SWIN_SITE_LAYERNORM_INPUT2);
    walk next = *w;
    next.block++;
    return next.block < w->last ? watcher(&next, SWIN_SITE_LAYERNORM_INPUT1) : NULL;
}

/* x += y W^T + bias by operators that observe; *done false: they do not apply. */
static swin_status observed_residual(const walk *w, swin_tensor *x, const swin_tensor *y,
                                     const swin_linear *l, const swin_windows *g, const branch_sites *sites,
                                     bool *done)
{
    swin_observer *const product = watcher(w, sites->aftergemm), *const local = watcher(w, sites->local);
    *done = w->ops->residual_add_observed && product && local;
    if (!*done) return SWIN_OK;
    swin_observer *const sum = next_watcher(w, sites);
    swin_tensor room = activation(w, w->net->narrow, x->rows, x->cols);
    SWIN_TRY(w->ops->linear(w->dev, &room, y, l, false, SWIN_ACT_NONE));
    SWIN_TRY(touch(w, sites->residual, x));
    *w->stream_seen = sum != NULL;
    return w->ops->residual_add_observed(w->dev, x, &room, l->bias, g, product, local, sum);
}

/* x += y W^T + bias in plain operators, for a tap that looks in between. */
static swin_status residual_composed(const walk *w, swin_tensor *x, swin_tensor *y, const net_layer *layer,
                                     const swin_windows *g, const branch_sites *sites)
{
    const swin_linear *l = &layer->l;
    swin_tensor sum = activation(w, w->net->narrow, x->rows, x->cols);
    if (stream_watcher(w, layer, sites)) SWIN_TRY(touch(w, sites->norm, x));
    if (fused_watcher(w, sites->input)) SWIN_TRY(touch(w, sites->input, y));
    SWIN_TRY(w->ops->linear(w->dev, &sum, y, l, false, SWIN_ACT_NONE));
    SWIN_TRY(touch(w, sites->aftergemm, &sum));
    if (l->bias) SWIN_TRY(w->ops->bias_act(w->dev, &sum, l->bias, SWIN_ACT_NONE));
    SWIN_TRY(touch(w, sites->residual, x));
    SWIN_TRY(touch(w, sites->local, &sum));
    return w->ops->residual_add(w->dev, x, &sum, g);
}

/* x += y W^T + bias. */
static swin_status linear_residual(const walk *w, swin_tensor *x, swin_tensor *y, const net_layer *layer,
                                   const swin_windows *g, const branch_sites *sites)
{
    const swin_linear *l = &layer->l;
    const linear_sites inside = { sites->input, sites->aftergemm, { sites->local }, 1 };
    swin_linear_seen seen = seen_inside(w, &inside, SWIN_ACT_NONE);
    seen.residual = wants(w, sites->residual) ? fused_watcher(w, sites->residual)
                                              : stream_watcher(w, layer, sites);
    bool done = false;
    if (!layer->integer) SWIN_TRY(observed_residual(w, x, y, l, g, sites, &done));
    if (done) return SWIN_OK;
    if (layer->integer) {
        SWIN_TRY(w->ops->linear_s8_residual(w->dev, x, y, l, layer->after_scale, g));
    } else if (wants_composed(w, sites->aftergemm) || wants_composed(w, sites->residual) ||
               wants_composed(w, sites->local)) {
        SWIN_TRY(residual_composed(w, x, y, layer, g, sites));
    } else if (sees(&seen)) {
        SWIN_TRY(w->ops->linear_residual_seen(w->dev, x, y, l, g, &seen));
    } else {
        SWIN_TRY(w->ops->linear_residual(w->dev, x, y, l, g));
    }
    return rounded(w, x);
}

/* V2: x += LN(y W^T + bias). y is no longer needed once the product is made, and its memory (normed) takes LN's output;
 * where codes came through narrow, the product goes to wide. */
static swin_status linear_norm_residual(const walk *w, swin_tensor *x, swin_tensor *y, const net_layer *layer,
                                        const swin_norm *n, const swin_windows *g, const branch_sites *sites)
{
    void *room = y->data == w->net->narrow ? w->net->wide : w->net->narrow;
    swin_tensor sum = activation(w, room, x->rows, x->cols);
    bool shown;
    const linear_sites inside = { sites->input, sites->aftergemm, { sites->norm }, 1 };
    SWIN_TRY(linear(w, &sum, y, layer, SWIN_ACT_NONE, &inside, &shown));
    if (!shown) SWIN_TRY(touch(w, sites->norm, &sum));
    swin_tensor local = activation(w, w->net->normed, x->rows, x->cols);
    SWIN_TRY(w->ops->layernorm(w->dev, &local, &sum, n));
    SWIN_TRY(rounded(w, &local));
    SWIN_TRY(touch(w, sites->residual, x));
    SWIN_TRY(touch(w, sites->local, &local));
    SWIN_TRY(w->ops->residual_add(w->dev, x, &local, g));
    return rounded(w, x);
}

static swin_status attention_composed(const walk *w, swin_tensor *out, const swin_tensor *qkv,
                                      const swin_attention *a, const swin_windows *g)
{
    const int64_t n = (int64_t)g->window * g->window;
    swin_tensor s = activation(w, w->net->scores, qkv->rows * a->heads, n);
    SWIN_TRY(w->ops->scores(w->dev, &s, qkv, a, g));
    SWIN_TRY(touch(w, SWIN_SITE_SOFTMAX_INPUT, &s));
    SWIN_TRY(w->ops->softmax(w->dev, &s, a, g));
    SWIN_TRY(rounded(w, &s));
    SWIN_TRY(touch(w, SWIN_SITE_MATMUL_A, &s));
    return w->ops->weighted_sum(w->dev, out, &s, qkv, a, g);
}

static bool looks_inside_attention(const walk *w)
{
    return w->net->emulate || wants_composed(w, SWIN_SITE_SOFTMAX_INPUT) ||
           wants_composed(w, SWIN_SITE_MATMUL_A);
}

static const swin_site_kind operand_kinds[] = { SWIN_SITE_MATMUL_Q, SWIN_SITE_MATMUL_K, SWIN_SITE_MATMUL_V };

static const swin_site_kind normalised_kinds[] = { SWIN_SITE_MHA_Q, SWIN_SITE_MHA_K };

/* V2: q and k in place, normalised, and the queries times their logit scale. */
static swin_status normalise_operands(const walk *w, swin_tensor *qkv, const net_block *b)
{
    const int64_t c = qkv->cols / 3;
    for (int i = 0; i < 2; i++) {
        swin_tensor part = swin_columns(qkv, i * c, c);
        SWIN_TRY(w->ops->normalise_heads(w->dev, &part, &part, b->attention.heads, i ? NULL : b->head_scale));
        SWIN_TRY(rounded(w, &part));
        SWIN_TRY(touch(w, normalised_kinds[i], &part));
    }
    return SWIN_OK;
}

/* shown: q, k and v as they are have been. */
static swin_status attention_float(const walk *w, swin_tensor *out, swin_tensor *qkv, const net_block *b,
                                   const swin_windows *g, bool shown)
{
    const swin_attention *a = &b->attention;
    swin_observer *scores = fused_watcher(w, SWIN_SITE_SOFTMAX_INPUT),
                  *probabilities = fused_watcher(w, SWIN_SITE_MATMUL_A);
    const int64_t c = out->cols;
    for (int i = 0; i < 3 && !shown; i++) {
        swin_tensor part = swin_columns(qkv, i * c, c);
        SWIN_TRY(touch(w, operand_kinds[i], &part));
    }
    if (b->head_scale) SWIN_TRY(normalise_operands(w, qkv, b));
    if (looks_inside_attention(w))
        SWIN_TRY(attention_composed(w, out, qkv, a, g));
    else if (scores || probabilities)
        SWIN_TRY(w->ops->attention_seen(w->dev, out, qkv, a, g, scores, probabilities));
    else
        SWIN_TRY(w->ops->attention(w->dev, out, qkv, a, g));
    return rounded(w, out);
}

/* The i-th of q, k, v as codes side by side in a buffer. */
static swin_tensor operand(void *buffer, int i, int64_t rows, int64_t c, const swin_site_plan *q)
{
    swin_tensor t = code_matrix((char *)buffer + i * c, rows, c, q);
    t.ld = 3 * c;
    return t;
}

/* q, k, v of an integer qkv layer: codes in `buffer`, but for queries and keys that V2 normalises first. */
static swin_status integer_operands(const walk *w, swin_tensor parts[3], const swin_tensor *x,
                                    const net_block *b)
{
    const int64_t c = b->qkv.l.in;
    const bool v2 = b->head_scale != NULL;
    swin_tensor qkv = swin_matrix(w->net->wide, SWIN_F32, x->rows, 3 * c);
    for (int i = 0; i < 3; i++) {
        parts[i] = operand(v2 ? w->net->narrow : w->net->wide, i, x->rows, c, &b->operands[i]);
        if (v2 && i < 2)
            parts[i] = b->raw[i].enabled ? operand(w->net->wide, i, x->rows, c, &b->raw[i])
                                         : swin_columns(&qkv, i * c, c);
    }
    SWIN_TRY(w->ops->linear_s8(w->dev, parts, 3, x, &b->qkv.l, b->qkv.after_scale, SWIN_ACT_NONE));
    return SWIN_OK;
}

/* The same of a float one. */
static swin_status quantized_operands(const walk *w, swin_tensor parts[3], swin_tensor *x, const net_block *b)
{
    const linear_sites sites = { .input = qkv_sites.input, .aftergemm = qkv_sites.aftergemm };
    const int64_t c = b->qkv.l.in;
    bool shown;
    swin_tensor qkv = activation(w, w->net->wide, x->rows, 3 * c);
    SWIN_TRY(linear(w, &qkv, x, &b->qkv, SWIN_ACT_NONE, &sites, &shown));
    for (int i = 0; i < 3; i++) {
        const swin_tensor part = swin_columns(&qkv, i * c, c);
        const bool raw = b->head_scale && i < 2;
        const swin_site_plan *q = raw ? &b->raw[i] : &b->operands[i];
        parts[i] = part;
        if (raw && !q->enabled) continue;
        parts[i] = operand(w->net->narrow, i, x->rows, c, q);
        SWIN_TRY(w->ops->quantize(w->dev, &parts[i], &part));
    }
    return SWIN_OK;
}

/* The qkv layer and attention on its codes. */
static swin_status attention_integer(const walk *w, swin_tensor *out, swin_tensor *x, const net_block *b,
                                     const swin_windows *g)
{
    const int64_t c = b->qkv.l.in;
    swin_tensor parts[3];
    SWIN_TRY(b->qkv.integer ? integer_operands(w, parts, x, b) : quantized_operands(w, parts, x, b));
    for (int i = 0; i < 3; i++) SWIN_TRY(touch(w, operand_kinds[i], &parts[i]));
    for (int i = 0; i < 2 && b->head_scale; i++) {
        swin_tensor codes = operand(w->net->narrow, i, x->rows, c, &b->operands[i]);
        SWIN_TRY(
            w->ops->normalise_heads(w->dev, &codes, &parts[i], b->attention.heads, i ? NULL : b->head_scale));
        SWIN_TRY(touch(w, normalised_kinds[i], &codes));
        parts[i] = codes;
    }
    SWIN_TRY(w->ops->attention_s8(w->dev, out, parts, &b->attention, b->prob_scale, g));
    return rounded(w, out);
}

/* No tap inside [first, last] of the block's kinds, and halves are the backend's own: a fused half block may run. */
static bool unwatched(const walk *w, swin_site_kind first, swin_site_kind last)
{
    if (w->net->emulate) return false;
    for (int k = (int)first; k <= (int)last; k++)
        if (swin_site_role_of(swin_site_make(0, 0, (swin_site_kind)k)) != SWIN_ROLE_WEIGHT &&
            wants(w, (swin_site_kind)k))
            return false;
    return true;
}

/* out = attention(qkv(x)), x in window order; out may share x's memory. */
static swin_status attention(const walk *w, swin_tensor *out, swin_tensor *x, const net_block *b,
                             const swin_windows *g)
{
    if (b->attention_integer) return attention_integer(w, out, x, b, g);
    swin_tensor qkv = activation(w, w->net->wide, x->rows, 3 * out->cols);
    bool shown;
    SWIN_TRY(linear(w, &qkv, x, &b->qkv, SWIN_ACT_NONE, &qkv_sites, &shown));
    swin_tensor real =
        activation(w, out->data, out->rows, out->cols); /* codes come after, where proj wants them */
    SWIN_TRY(attention_float(w, &real, &qkv, b, g, shown));
    *out = real;
    return SWIN_OK;
}

static bool half_is_float(const net_layer *a, const net_layer *b)
{
    return !a->integer && !b->integer;
}

/* The part between a block's input and its first layer: V1 normalises here, V2 takes the residual stream as it is. */
static const swin_norm *norm_before(const net_block *b, const swin_norm *n)
{
    return b->head_scale ? NULL : n;
}

/* What an integer layer needs in a fused half. */
static swin_layer_s8 fused_layer(const net_layer *l)
{
    swin_layer_s8 f = { .l = &l->l,
                        .input = code_matrix(NULL, 0, 0, &l->input),
                        .after_scale = l->after_scale };
    f.input.shrink = l->shrink;
    return f;
}

static swin_status fused_attention(const walk *w, const net_block *b, swin_tensor *x, const swin_windows *g)
{
    const swin_layer_s8 qkv = fused_layer(&b->qkv), proj = fused_layer(&b->proj);
    swin_tensor parts[3];
    for (int i = 0; i < 3; i++) parts[i] = code_matrix(NULL, 0, 0, &b->operands[i]);
    return w->ops->attention_half_s8(w->dev, x, &b->norm1, &qkv, parts, &b->attention, b->prob_scale, &proj,
                                     g);
}

static swin_status fused_mlp(const walk *w, const net_block *b, swin_tensor *x)
{
    const swin_layer_s8 fc1 = fused_layer(&b->fc1), fc2 = fused_layer(&b->fc2);
    return w->ops->mlp_half_s8(w->dev, x, &b->norm2, &fc1, &fc2);
}

/* ---- V2's fused halves: codes of the residual stream go from half to half in net->normed ------------------------ */

static bool fuses_attention_v2(const walk *w, const net_block *b)
{
    return w->ops->attention_half_v2_s8 && b->qkv.integer && b->attention_integer && b->proj.integer &&
           b->head_scale && unwatched(w, SWIN_SITE_LAYERNORM_INPUT1, SWIN_SITE_ADD1_LOCAL);
}

static bool fuses_mlp_v2(const walk *w, const net_block *b)
{
    return w->ops->mlp_half_v2_s8 && b->fc1.integer && b->fc2.integer && b->head_scale &&
           unwatched(w, SWIN_SITE_LAYERNORM_INPUT2, SWIN_SITE_ADD2_LOCAL);
}

/* What a half reads and, where the one after it is fused too, leaves. */
static swin_stream_s8 stream_codes(const walk *w, const swin_tensor *x, const net_layer *now,
                                   const net_layer *next)
{
    void *at = w->net->normed;
    swin_stream_s8 s = { .now = code_matrix(at, x->rows, x->cols, &now->input), .ready = *w->coded };
    if (next) s.next = code_matrix(at, x->rows, x->cols, &next->input);
    return s;
}

static swin_status fused_attention_v2(const walk *w, const net_block *b, swin_tensor *x,
                                      const swin_windows *g)
{
    const bool more = fuses_mlp_v2(w, b);
    const swin_stream_s8 codes = stream_codes(w, x, &b->qkv, more ? &b->fc1 : NULL);
    const swin_layer_s8 qkv = fused_layer(&b->qkv), proj = fused_layer(&b->proj);
    swin_tensor parts[3], raw[2];
    for (int i = 0; i < 3; i++) parts[i] = code_matrix(NULL, 0, 0, &b->operands[i]);
    for (int i = 0; i < 2; i++)
        raw[i] = b->raw[i].enabled ? code_matrix(NULL, 0, 0, &b->raw[i]) : swin_matrix(NULL, SWIN_F32, 0, 0);
    *w->coded = false;
    SWIN_TRY(w->ops->attention_half_v2_s8(w->dev, x, &codes, &b->norm1, &qkv, raw, parts, b->head_scale,
                                          &b->attention, b->prob_scale, &proj, g));
    *w->coded = more;
    return SWIN_OK;
}

/* The layer that reads the stream after block b, if it may have it as codes. */
static const net_layer *coded_follower(const walk *w)
{
    walk next = *w;
    next.block++;
    if (next.block >= w->last || wants(w, SWIN_SITE_BLOCK_OUT))
        return NULL; /* a tap may change what it sees */
    const net_block *b = &w->net->stages[w->stage].blocks[next.block];
    return fuses_attention_v2(&next, b) ? &b->qkv : NULL;
}

static swin_status fused_mlp_v2(const walk *w, const net_block *b, swin_tensor *x)
{
    const net_layer *follower = coded_follower(w);
    const swin_stream_s8 codes = stream_codes(w, x, &b->fc1, follower);
    const swin_layer_s8 fc1 = fused_layer(&b->fc1), fc2 = fused_layer(&b->fc2);
    *w->coded = false;
    SWIN_TRY(w->ops->mlp_half_v2_s8(w->dev, x, &codes, &b->norm2, &fc1, &fc2));
    *w->coded = follower != NULL;
    return SWIN_OK;
}

/* V2's attention half in one call, where the backend has it for these precisions. */
static swin_status whole_attention_v2(const walk *w, const net_block *b, swin_tensor *x,
                                      const swin_windows *g)
{
    const bool is_float = half_is_float(&b->qkv, &b->proj) && !b->attention_integer;
    if (w->ops->attention_half_v2 && is_float &&
        unwatched(w, SWIN_SITE_LAYERNORM_INPUT1, SWIN_SITE_ADD1_LOCAL))
        return w->ops->attention_half_v2(w->dev, x, &b->norm1, &b->qkv.l, b->head_scale, &b->attention,
                                         &b->proj.l, g);
    return fuses_attention_v2(w, b) ? fused_attention_v2(w, b, x, g) : SWIN_ERR_UNSUPPORTED;
}

static swin_status whole_mlp_v2(const walk *w, const net_block *b, swin_tensor *x)
{
    if (w->ops->mlp_half_v2 && half_is_float(&b->fc1, &b->fc2) &&
        unwatched(w, SWIN_SITE_LAYERNORM_INPUT2, SWIN_SITE_ADD2_LOCAL))
        return w->ops->mlp_half_v2(w->dev, x, &b->norm2, &b->fc1.l, &b->fc2.l);
    return fuses_mlp_v2(w, b) ? fused_mlp_v2(w, b, x) : SWIN_ERR_UNSUPPORTED;
}

/* x += proj(attention(qkv(LN1(x)))), windows shifted and partitioned. V2: x += LN1(proj(attention(qkv(x)))). */
static swin_status attention_half(const walk *w, const net_block *b, swin_tensor *x, const swin_windows *g)
{
    const bool is_float = half_is_float(&b->qkv, &b->proj) && !b->attention_integer,
               v2 = b->head_scale != NULL;
    if (w->ops->attention_half && is_float && !v2 &&
        unwatched(w, SWIN_SITE_LAYERNORM_INPUT1, SWIN_SITE_ADD1_LOCAL)) {
        const swin_status st =
            w->ops->attention_half(w->dev, x, &b->norm1, &b->qkv.l, &b->proj.l, &b->attention, g);
        if (st != SWIN_ERR_UNSUPPORTED) return st;
    }
    if (w->ops->attention_half_s8 && b->qkv.integer && b->attention_integer && b->proj.integer && !v2 &&
        unwatched(w, SWIN_SITE_LAYERNORM_INPUT1, SWIN_SITE_ADD1_LOCAL)) {
        const swin_status st = fused_attention(w, b, x, g);
        if (st != SWIN_ERR_UNSUPPORTED) return st;
    }
    if (v2) {
        const swin_status st = whole_attention_v2(w, b, x, g);
        if (st != SWIN_ERR_UNSUPPORTED) return st;
        *w->coded = false;
    }
    swin_tensor a = layer_input(w, &b->qkv, w->net->normed, x->rows, x->cols);
    if (!v2) SWIN_TRY(touch_norm_input(w, &b->proj, &attention_sites, x));
    SWIN_TRY(w->ops->layernorm_windows(w->dev, &a, x, norm_before(b, &b->norm1), g));
    SWIN_TRY(rounded(w, &a));
    SWIN_TRY(touch_input(w, &b->qkv, SWIN_SITE_QKV_INPUT, &a));
    swin_tensor mixed = layer_input(w, &b->proj, w->net->normed, x->rows, x->cols);
    SWIN_TRY(attention(w, &mixed, &a, b, g));
    SWIN_TRY(as_input(w, &b->proj, &mixed));
    SWIN_TRY(touch_input(w, &b->proj, SWIN_SITE_PROJ_INPUT, &mixed));
    return v2 ? linear_norm_residual(w, x, &mixed, &b->proj, &b->norm1, g, &attention_sites)
              : linear_residual(w, x, &mixed, &b->proj, g, &attention_sites);
}

/* What V2's first MLP layer reads: x itself, or a copy where it becomes codes or a tap may change it. */
static swin_status stream_as_input(const walk *w, swin_tensor *a, const swin_tensor *x,
                                   const net_layer *layer)
{
    if (layer->integer) return w->ops->quantize(w->dev, a, x);
    if (!wants_composed(w, SWIN_SITE_FC1_INPUT)) {
        *a = *x;
        return SWIN_OK;
    }
    return w->ops->copy(w->dev, a->data, x->data,
                        (size_t)(x->rows * x->cols) * swin_dtype_size(x->dtype)); /* x is a dense chunk */
}

/* x += fc2(GELU(fc1(LN2(x)))). V2: x += LN2(fc2(GELU(fc1(x)))). */
static swin_status mlp_half(const walk *w, const net_block *b, swin_tensor *x)
{
    const bool is_float = half_is_float(&b->fc1, &b->fc2), v2 = b->head_scale != NULL;
    if (w->ops->mlp_half && is_float && !v2 &&
        unwatched(w, SWIN_SITE_LAYERNORM_INPUT2, SWIN_SITE_ADD2_LOCAL)) {
        const swin_status st = w->ops->mlp_half(w->dev, x, &b->norm2, &b->fc1.l, &b->fc2.l);
        if (st != SWIN_ERR_UNSUPPORTED) return st;
    }
    if (w->ops->mlp_half_s8 && b->fc1.integer && b->fc2.integer && !v2 &&
        unwatched(w, SWIN_SITE_LAYERNORM_INPUT2, SWIN_SITE_ADD2_LOCAL)) {
        const swin_status st = fused_mlp(w, b, x);
        if (st != SWIN_ERR_UNSUPPORTED) return st;
    }
    if (v2) {
        const swin_status st = whole_mlp_v2(w, b, x);
        if (st != SWIN_ERR_UNSUPPORTED) return st;
        *w->coded = false;
    }
    swin_tensor a = layer_input(w, &b->fc1, w->net->normed, x->rows, x->cols);
    if (v2) {
        SWIN_TRY(stream_as_input(w, &a, x, &b->fc1));
    } else {
        SWIN_TRY(touch_norm_input(w, &b->fc2, &mlp_sites, x));
        SWIN_TRY(w->ops->layernorm(w->dev, &a, x, &b->norm2));
        SWIN_TRY(rounded(w, &a));
    }
    SWIN_TRY(touch_input(w, &b->fc1, SWIN_SITE_FC1_INPUT, &a));
    swin_tensor hidden = b->fc1.integer ? layer_input(w, &b->fc2, w->net->wide, x->rows, b->fc1.l.out)
                                        : activation(w, w->net->wide, x->rows, b->fc1.l.out);
    linear_sites sites = fc1_sites;
    bool shown;
    if (b->fc2.integer) sites.parts = 0; /* it sees codes */
    SWIN_TRY(linear(w, &hidden, &a, &b->fc1, SWIN_ACT_GELU, &sites, &shown));
    SWIN_TRY(as_input(w, &b->fc2, &hidden));
    if (!shown) SWIN_TRY(touch_input(w, &b->fc2, SWIN_SITE_FC2_INPUT, &hidden));
    return v2 ? linear_norm_residual(w, x, &hidden, &b->fc2, &b->norm2, NULL, &mlp_sites)
              : linear_residual(w, x, &hidden, &b->fc2, NULL, &mlp_sites);
}

/* V1: reduction(LN(neighbours)). V2: LN(reduction(neighbours)). */
static swin_status merge(const walk *w, const net_stage *s, swin_tensor *out, const swin_tensor *x,
                         const swin_windows *g)
{
    const bool v2 = w->net->config.family == SWIN_V2;
    if (w->ops->merge && !s->reduction.integer && !v2 &&
        unwatched(w, SWIN_SITE_REDUCTION_INPUT, SWIN_SITE_REDUCTION_AFTERGEMM)) {
        const swin_status st = w->ops->merge(w->dev, out, x, &s->merge_norm, &s->reduction.l, g);
        if (st != SWIN_ERR_UNSUPPORTED) return st == SWIN_OK ? touch(w, SWIN_SITE_MERGE_OUT, out) : st;
    }
    if (w->ops->merge_s8 && s->reduction.integer && !v2 &&
        unwatched(w, SWIN_SITE_REDUCTION_INPUT, SWIN_SITE_REDUCTION_AFTERGEMM)) {
        const swin_layer_s8 reduction = fused_layer(&s->reduction);
        const swin_status st = w->ops->merge_s8(w->dev, out, x, &s->merge_norm, &reduction, g);
        if (st != SWIN_ERR_UNSUPPORTED) return st == SWIN_OK ? touch(w, SWIN_SITE_MERGE_OUT, out) : st;
    }
    swin_tensor a = layer_input(w, &s->reduction, w->net->normed, x->rows / 4, 4 * x->cols);
    SWIN_TRY(w->ops->layernorm_merge(w->dev, &a, x, v2 ? NULL : &s->merge_norm, g));
    SWIN_TRY(rounded(w, &a));
    SWIN_TRY(touch_input(w, &s->reduction, SWIN_SITE_REDUCTION_INPUT, &a));
    swin_tensor sum = v2 ? activation(w, w->net->narrow, out->rows, out->cols) : *out;
    bool shown;
    SWIN_TRY(linear(w, &sum, &a, &s->reduction, SWIN_ACT_NONE, &reduction_sites, &shown));
    if (v2) {
        SWIN_TRY(w->ops->layernorm(w->dev, out, &sum, &s->merge_norm));
        SWIN_TRY(rounded(w, out));
    }
    return touch(w, SWIN_SITE_MERGE_OUT, out);
}

/* The final LayerNorm and the mean over an image's tokens, for one chunk. */
static swin_status pool(walk *w, swin_tensor *x, int tokens)
{
    swin_tensor a = activation(w, w->net->normed, x->rows, x->cols);
    swin_tensor all = activation(w, w->net->pooled, w->batch, x->cols);
    swin_tensor out = swin_rows(&all, w->image, w->images);
    w->stage = w->block = 0;
    SWIN_TRY(w->ops->layernorm(w->dev, &a, x, &w->net->norm));
    SWIN_TRY(rounded(w, &a));
    SWIN_TRY(touch(w, SWIN_SITE_NORM_OUT, &a));
    SWIN_TRY(w->ops->mean_tokens(w->dev, &out, &a, tokens));
    return rounded(w, &out);
}

enum { MOST_FUSED = 32 };

/* How many blocks, from w->block up to `end`, are wholly on integers with nothing watched inside them. */
static int integer_blocks(walk *w, const net_stage *s, int end)
{
    const int first = w->block;
    int count = 0;
    for (; w->block < end && count < MOST_FUSED; w->block++) {
        const net_block *b = &s->blocks[w->block];
        if (!b->qkv.integer || !b->attention_integer || !b->proj.integer || !b->fc1.integer ||
            !b->fc2.integer || b->head_scale ||
            !unwatched(w, SWIN_SITE_LAYERNORM_INPUT1, SWIN_SITE_ADD2_LOCAL))
            break;
        count++;
        if (wants(w, SWIN_SITE_BLOCK_OUT)) break;
    }
    w->block = first;
    return count;
}

/* Those blocks as one operator, where the backend has it for them. Done is how many were run; 0: none. */
static swin_status fused_blocks(walk *w, int *done, const net_stage *s, swin_tensor *x, const swin_windows *g,
                                int end)
{
    swin_block_s8 all[MOST_FUSED];
    const int count = w->ops->blocks_s8 ? integer_blocks(w, s, end) : 0;
    *done = 0;
    if (count == 0) return SWIN_OK;
    for (int k = 0; k < count; k++) {
        const net_block *b = &s->blocks[w->block + k];
        all[k] = (swin_block_s8){ .norm1 = b->norm1,
                                  .norm2 = b->norm2,
                                  .qkv = fused_layer(&b->qkv),
                                  .proj = fused_layer(&b->proj),
                                  .fc1 = fused_layer(&b->fc1),
                                  .fc2 = fused_layer(&b->fc2),
                                  .attention = b->attention,
                                  .prob_scale = b->prob_scale,
                                  .shift = b->shift };
        for (int i = 0; i < 3; i++) all[k].parts[i] = code_matrix(NULL, 0, 0, &b->operands[i]);
    }
    open_range(w, "blocks");
    const swin_status st = close_range(w, w->ops->blocks_s8(w->dev, x, all, count, g));
    if (st == SWIN_ERR_UNSUPPORTED) return SWIN_OK;
    *done = count;
    return st;
}

/* Places [first, end) of one stage over one chunk of images: its blocks, then the merge or the final norm. */
static swin_status run_chunk(walk *w, int stage, int first, int end)
{
    const net_stage *s = &w->net->stages[stage];
    const int tokens = s->shape.resolution * s->shape.resolution, c = s->shape.channels;
    swin_tensor all = activation(w, w->net->x[stage & 1], (int64_t)w->batch * tokens, c);
    swin_tensor x = swin_rows(&all, (int64_t)w->image * tokens, (int64_t)w->images * tokens);
    swin_windows g = { .images = w->images,
                       .height = s->shape.resolution,
                       .width = s->shape.resolution,
                       .window = s->shape.window };
    w->stage = stage;
    w->last = end < s->shape.depth ? end : s->shape.depth;
    for (w->block = first; w->block < w->last; w->block++) {
        int done;
        SWIN_TRY(fused_blocks(w, &done, s, &x, &g, w->last));
        if (done > 0) {
            w->block += done - 1;
            SWIN_TRY(touch(w, SWIN_SITE_BLOCK_OUT, &x));
            continue;
        }
        const net_block *b = &s->blocks[w->block];
        g.shift = b->shift;
        open_range(w, "attention half");
        SWIN_TRY(close_range(w, attention_half(w, b, &x, &g)));
        open_range(w, "mlp half");
        SWIN_TRY(close_range(w, mlp_half(w, b, &x)));
        SWIN_TRY(touch(w, SWIN_SITE_BLOCK_OUT, &x));
    }
    w->block = 0;
    if (end <= s->shape.depth) return SWIN_OK;
    if (!s->shape.merge) return pool(w, &x, tokens);
    swin_tensor next = activation(w, w->net->x[(stage + 1) & 1], (int64_t)w->batch * tokens / 4, 2 * c);
    swin_tensor out = swin_rows(&next, (int64_t)w->image * tokens / 4, (int64_t)w->images * tokens / 4);
    return merge(w, s, &out, &x, &g);
}

static swin_status embed(walk *w, const float *images)
{
    const swin_config *c = &w->net->config;
    const int side = c->image_size / c->patch_size;
    swin_tensor x = activation(w, w->net->x[0], (int64_t)w->batch * side * side, c->embed_dim);
    SWIN_TRY(w->ops->patch_embed(w->dev, &x, images, w->batch, c->image_size, &w->net->patch));
    SWIN_TRY(rounded(w, &x));
    return touch(w, SWIN_SITE_PATCH_EMBED_OUT, &x);
}

static swin_status classify(walk *w)
{
    const swin_config *c = &w->net->config;
    const int last = c->embed_dim << (c->num_stages - 1);
    swin_tensor pooled = activation(w, w->net->pooled, w->batch, last);
    swin_tensor logits = activation(w, w->net->logits, w->batch, c->num_classes);
    w->stage = w->block = 0;
    SWIN_TRY(w->ops->linear(w->dev, &logits, &pooled, &w->net->head, true, SWIN_ACT_NONE));
    SWIN_TRY(rounded(w, &logits));
    return touch(w, SWIN_SITE_LOGITS, &logits);
}

swin_status net_walk_parts(swin_net *net, int first, int end, const float *images, int batch,
                           const swin_tap *tap)
{
    bool seen = false, coded = false;
    walk w = { .net = net,
               .ops = net->ops,
               .dev = net->dev,
               .tap = tap,
               .batch = batch,
               .images = batch,
               .stream_seen = &seen,
               .coded = &coded };
    open_range(&w, "patch embedding");
    SWIN_TRY(close_range(&w, first == 0 ? embed(&w, images) : SWIN_OK));
    int at = 1; /* the part that a stage begins with */
    for (int stage = 0; stage < net->config.num_stages; stage++) {
        const int places = net->config.depths[stage] + 1, chunk = net->stages[stage].chunk;
        const int from = first > at ? first - at : 0, to = end - at < places ? end - at : places;
        char name[32];
        snprintf(name, sizeof name, "stage %d", stage);
        at += places;
        for (w.image = 0; from < to && w.image < batch; w.image += chunk) {
            w.images = batch - w.image < chunk ? batch - w.image : chunk;
            open_range(&w, name);
            SWIN_TRY(close_range(&w, run_chunk(&w, stage, from, to)));
        }
    }
    w.image = 0;
    w.images = batch;
    return end == at ? classify(&w) : SWIN_OK;
}

swin_status net_walk(swin_net *net, const float *images, int batch, const swin_tap *tap)
{
    return net_walk_parts(net, 0, swin_output_count(&net->config), images, batch, tap);
}

bool net_needs_scores(const swin_net *net, const swin_tap *tap)
{
    if (net->emulate) return true;
    for (int s = 0; s < net->config.num_stages; s++)
        for (int b = 0; b < net->config.depths[s]; b++)
            for (int i = 0; i < 2; i++) {
                const swin_site site = swin_site_make(s, b, i ? SWIN_SITE_MATMUL_A : SWIN_SITE_SOFTMAX_INPUT);
                if (tap_wants(tap, site) && !net_observer(net, tap, site)) return true;
            }
    return false;
}
