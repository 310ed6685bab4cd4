/* Linear layers of the walk, and the residual adds that end a branch. */
#include "runtime/swin/forward_impl.h"

swin_observer *net_observer(const swin_net *net, const swin_tap *tap, swin_site s)
{
    const bool fused = net->ops->linear_seen && net->act == SWIN_F32 && !net->emulate;
    return fused && tap && tap->observer && tap_wants(tap, s) ? tap->observer(tap->user, s) : NULL;
}

const linear_sites net_qkv_sites = { SWIN_SITE_QKV_INPUT,
                                     SWIN_SITE_QKV_AFTERGEMM,
                                     { SWIN_SITE_MATMUL_Q, SWIN_SITE_MATMUL_K, SWIN_SITE_MATMUL_V },
                                     3 },
                   net_fc1_sites = { SWIN_SITE_FC1_INPUT,
                                     SWIN_SITE_FC1_AFTERGEMM,
                                     { SWIN_SITE_FC2_INPUT },
                                     1 },
                   net_reduction_sites = { .input = SWIN_SITE_REDUCTION_INPUT,
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
swin_status net_linear(const walk *w, swin_tensor *y, swin_tensor *x, const net_layer *layer, swin_act act,
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

const branch_sites net_attention_sites = { SWIN_SITE_PROJ_INPUT, SWIN_SITE_PROJ_AFTERGEMM,
                                           SWIN_SITE_LAYERNORM_INPUT1, SWIN_SITE_ADD1_RESIDUAL,
                                           SWIN_SITE_ADD1_LOCAL },
                   net_mlp_sites = { SWIN_SITE_FC2_INPUT, SWIN_SITE_FC2_AFTERGEMM, SWIN_SITE_LAYERNORM_INPUT2,
                                     SWIN_SITE_ADD2_RESIDUAL, SWIN_SITE_ADD2_LOCAL };

/* V1: LayerNorm's input is the stream that the branch's last layer adds to, and that layer can show it. */
static swin_observer *stream_watcher(const walk *w, const net_layer *last, const branch_sites *sites)
{
    return last->integer || wants(w, sites->residual) ? NULL : fused_watcher(w, sites->norm);
}

/* V1's LayerNorm input, unless it is shown before or after. */
swin_status net_touch_norm_input(const walk *w, const net_layer *last, const branch_sites *sites,
                                 swin_tensor *x)
{
    return stream_watcher(w, last, sites) ? SWIN_OK : touch_stream(w, sites->norm, x);
}

/* Who sees the residual stream after the branch at hand: what V1's next LayerNorm takes, if it is walked now. */
static swin_observer *next_watcher(const walk *w, const branch_sites *sites)
{
    if (sites == &net_attention_sites) return watcher(w, SWIN_SITE_LAYERNORM_INPUT2);
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
swin_status net_linear_residual(const walk *w, swin_tensor *x, swin_tensor *y, const net_layer *layer,
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
swin_status net_linear_norm_residual(const walk *w, swin_tensor *x, swin_tensor *y, const net_layer *layer,
                                     const swin_norm *n, const swin_windows *g, const branch_sites *sites)
{
    void *room = y->data == w->net->narrow ? w->net->wide : w->net->narrow;
    swin_tensor sum = activation(w, room, x->rows, x->cols);
    bool shown;
    const linear_sites inside = { sites->input, sites->aftergemm, { sites->norm }, 1 };
    SWIN_TRY(net_linear(w, &sum, y, layer, SWIN_ACT_NONE, &inside, &shown));
    if (!shown) SWIN_TRY(touch(w, sites->norm, &sum));
    swin_tensor local = activation(w, w->net->normed, x->rows, x->cols);
    SWIN_TRY(w->ops->layernorm(w->dev, &local, &sum, n));
    SWIN_TRY(rounded(w, &local));
    SWIN_TRY(touch(w, sites->residual, x));
    SWIN_TRY(touch(w, sites->local, &local));
    SWIN_TRY(w->ops->residual_add(w->dev, x, &local, g));
    return rounded(w, x);
}
