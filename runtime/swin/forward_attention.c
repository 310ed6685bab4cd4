/* Window attention of the walk: in float, composed for a tap that looks inside, and on codes. */
#include "runtime/swin/forward_impl.h"

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

/* The i-th of q, k, v as codes side by side in a buffer; raw: before V2 normalises it. */
static swin_tensor operand(void *buffer, int i, int64_t rows, int64_t c, const net_block *b, bool raw)
{
    char *at = (char *)buffer + i * c;
    swin_tensor t = raw ? code_matrix(at, rows, c, &b->raw[i]) : operand_codes(at, rows, c, b, i);
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
        parts[i] = operand(v2 ? w->net->narrow : w->net->wide, i, x->rows, c, b, false);
        if (v2 && i < 2)
            parts[i] = b->raw[i].enabled ? operand(w->net->wide, i, x->rows, c, b, true)
                                         : swin_columns(&qkv, i * c, c);
    }
    SWIN_TRY(w->ops->linear_s8(w->dev, parts, 3, x, &b->qkv.l, b->qkv.after_scale, SWIN_ACT_NONE));
    return SWIN_OK;
}

/* The same of a float one. */
static swin_status quantized_operands(const walk *w, swin_tensor parts[3], swin_tensor *x, const net_block *b)
{
    const linear_sites sites = { .input = net_qkv_sites.input, .aftergemm = net_qkv_sites.aftergemm };
    const int64_t c = b->qkv.l.in;
    bool shown;
    swin_tensor qkv = activation(w, w->net->wide, x->rows, 3 * c);
    if (net_wide(w, &b->qkv)) qkv.dtype = SWIN_F32;
    SWIN_TRY(net_linear(w, &qkv, x, &b->qkv, SWIN_ACT_NONE, &sites, &shown));
    for (int i = 0; i < 3; i++) {
        const swin_tensor part = swin_columns(&qkv, i * c, c);
        const bool raw = b->head_scale && i < 2;
        parts[i] = part;
        if (raw && !b->raw[i].enabled) continue;
        parts[i] = operand(w->net->narrow, i, x->rows, c, b, raw);
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
        swin_tensor codes = operand(w->net->narrow, i, x->rows, c, b, false);
        SWIN_TRY(
            w->ops->normalise_heads(w->dev, &codes, &parts[i], b->attention.heads, i ? NULL : b->head_scale));
        SWIN_TRY(touch(w, normalised_kinds[i], &codes));
        parts[i] = codes;
    }
    SWIN_TRY(w->ops->attention_s8(w->dev, out, parts, &b->attention, b->prob_scale, g));
    return rounded(w, out);
}

/* out = attention(qkv(x)), x in window order; out may share x's memory. */
swin_status net_attention(const walk *w, swin_tensor *out, swin_tensor *x, const net_block *b,
                          const swin_windows *g)
{
    if (b->attention_integer) return attention_integer(w, out, x, b, g);
    swin_tensor qkv = activation(w, w->net->wide, x->rows, 3 * out->cols);
    bool shown;
    SWIN_TRY(net_linear(w, &qkv, x, &b->qkv, SWIN_ACT_NONE, &net_qkv_sites, &shown));
    swin_tensor real =
        activation(w, out->data, out->rows, out->cols); /* codes come after, where proj wants them */
    SWIN_TRY(attention_float(w, &real, &qkv, b, g, shown));
    *out = real;
    return SWIN_OK;
}
