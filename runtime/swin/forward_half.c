/* The halves of a block and the merge: as the backend's one operator where it has it, else from the pieces. */
#include "runtime/swin/forward_impl.h"

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
swin_layer_s8 net_fused_layer(const net_layer *l)
{
    swin_layer_s8 f = { .l = &l->l,
                        .input = code_matrix(NULL, 0, 0, &l->input),
                        .after_scale = l->after_scale };
    f.input.shrink = l->shrink;
    return f;
}

swin_tensor net_raw_codes(const net_block *b, int i)
{
    return b->raw[i].enabled ? code_matrix(NULL, 0, 0, &b->raw[i]) : swin_matrix(NULL, SWIN_F32, 0, 0);
}

static swin_status fused_attention(const walk *w, const net_block *b, swin_tensor *x, const swin_windows *g)
{
    const swin_layer_s8 qkv = net_fused_layer(&b->qkv), proj = net_fused_layer(&b->proj);
    swin_tensor parts[3];
    for (int i = 0; i < 3; i++) parts[i] = operand_codes(NULL, 0, 0, b, i);
    return w->ops->attention_half_s8(w->dev, x, &b->norm1, &qkv, parts, &b->attention, b->prob_scale, &proj,
                                     g);
}

static swin_status fused_mlp(const walk *w, const net_block *b, swin_tensor *x)
{
    const swin_layer_s8 fc1 = net_fused_layer(&b->fc1), fc2 = net_fused_layer(&b->fc2);
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
    const swin_layer_s8 qkv = net_fused_layer(&b->qkv), proj = net_fused_layer(&b->proj);
    swin_tensor parts[3], raw[2];
    for (int i = 0; i < 3; i++) parts[i] = operand_codes(NULL, 0, 0, b, i);
    for (int i = 0; i < 2; i++) raw[i] = net_raw_codes(b, i);
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
    const swin_layer_s8 fc1 = net_fused_layer(&b->fc1), fc2 = net_fused_layer(&b->fc2);
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
swin_status net_attention_half(const walk *w, const net_block *b, swin_tensor *x, const swin_windows *g)
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
    void *room = net_wide(w, &b->qkv) ? w->net->narrow : w->net->normed;
    swin_tensor a = layer_input(w, &b->qkv, room, x->rows, x->cols);
    if (!v2) SWIN_TRY(net_touch_norm_input(w, &b->proj, &net_attention_sites, x));
    SWIN_TRY(w->ops->layernorm_windows(w->dev, &a, x, norm_before(b, &b->norm1), g));
    SWIN_TRY(rounded(w, &a));
    SWIN_TRY(touch_input(w, &b->qkv, SWIN_SITE_QKV_INPUT, &a));
    swin_tensor mixed = layer_input(w, &b->proj, w->net->normed, x->rows, x->cols);
    SWIN_TRY(net_attention(w, &mixed, &a, b, g));
    SWIN_TRY(as_input(w, &b->proj, &mixed));
    SWIN_TRY(touch_input(w, &b->proj, SWIN_SITE_PROJ_INPUT, &mixed));
    return v2 ? net_linear_norm_residual(w, x, &mixed, &b->proj, &b->norm1, g, &net_attention_sites)
              : net_linear_residual(w, x, &mixed, &b->proj, g, &net_attention_sites);
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
swin_status net_mlp_half(const walk *w, const net_block *b, swin_tensor *x)
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
        SWIN_TRY(net_touch_norm_input(w, &b->fc2, &net_mlp_sites, x));
        SWIN_TRY(w->ops->layernorm(w->dev, &a, x, &b->norm2));
        SWIN_TRY(rounded(w, &a));
    }
    SWIN_TRY(touch_input(w, &b->fc1, SWIN_SITE_FC1_INPUT, &a));
    swin_tensor hidden = b->fc1.integer ? layer_input(w, &b->fc2, w->net->wide, x->rows, b->fc1.l.out)
                                        : activation(w, w->net->wide, x->rows, b->fc1.l.out);
    linear_sites sites = net_fc1_sites;
    bool shown;
    if (b->fc2.integer) sites.parts = 0; /* it sees codes */
    SWIN_TRY(net_linear(w, &hidden, &a, &b->fc1, SWIN_ACT_GELU, &sites, &shown));
    SWIN_TRY(as_input(w, &b->fc2, &hidden));
    if (!shown) SWIN_TRY(touch_input(w, &b->fc2, SWIN_SITE_FC2_INPUT, &hidden));
    return v2 ? net_linear_norm_residual(w, x, &hidden, &b->fc2, &b->norm2, NULL, &net_mlp_sites)
              : net_linear_residual(w, x, &hidden, &b->fc2, NULL, &net_mlp_sites);
}

/* V1: reduction(LN(neighbours)). V2: LN(reduction(neighbours)). */
swin_status net_merge(const walk *w, const net_stage *s, swin_tensor *out, const swin_tensor *x,
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
        const swin_layer_s8 reduction = net_fused_layer(&s->reduction);
        const swin_status st = w->ops->merge_s8(w->dev, out, x, &s->merge_norm, &reduction, g);
        if (st != SWIN_ERR_UNSUPPORTED) return st == SWIN_OK ? touch(w, SWIN_SITE_MERGE_OUT, out) : st;
    }
    swin_tensor a = layer_input(w, &s->reduction, w->net->normed, x->rows / 4, 4 * x->cols);
    SWIN_TRY(w->ops->layernorm_merge(w->dev, &a, x, v2 ? NULL : &s->merge_norm, g));
    SWIN_TRY(rounded(w, &a));
    SWIN_TRY(touch_input(w, &s->reduction, SWIN_SITE_REDUCTION_INPUT, &a));
    swin_tensor sum = v2 ? activation(w, w->net->narrow, out->rows, out->cols) : *out;
    bool shown;
    SWIN_TRY(net_linear(w, &sum, &a, &s->reduction, SWIN_ACT_NONE, &net_reduction_sites, &shown));
    if (v2) {
        SWIN_TRY(w->ops->layernorm(w->dev, out, &sum, &s->merge_norm));
        SWIN_TRY(rounded(w, out));
    }
    return touch(w, SWIN_SITE_MERGE_OUT, out);
}
