/* Window attention. Windows are [batch][nW][N][C], heads [batch][nW][h][N][D]; around them the residual stream is a map. */
#include <math.h>
#include <string.h>

#include "quant/onnx_build.h"
#include "runtime/swin/tables.h"

/* Map to windows; `out` is [batch][nW][N][C]. */
static swin_onnx_value partition(onnx_build *b, const onnx_block_view *v, const char *out, swin_onnx_value x)
{
    const int w = v->s.window, across = v->s.resolution / w, c = v->s.channels;
    if (v->shift) x = onnx_roll(b, ONNX_NAME(b, "%s/shift", v->attn), x, v->s.resolution, v->shift);
    x = onnx_reshape(b, ONNX_NAME(b, "%s/grid", v->attn), x, 6, (int64_t[]){ 0, across, w, across, w, c });
    x = onnx_transpose(b, ONNX_NAME(b, "%s/windows", v->attn), x, 6, (int64_t[]){ 0, 1, 3, 2, 4, 5 });
    return onnx_reshape(b, out, x, 4, (int64_t[]){ 0, v->windows, v->n, c });
}

/* Windows back to the map. */
static swin_onnx_value reverse(onnx_build *b, const onnx_block_view *v, swin_onnx_value x)
{
    const int w = v->s.window, size = v->s.resolution, across = size / w, c = v->s.channels;
    x = onnx_reshape(b, ONNX_NAME(b, "%s/reverse_windows", v->attn), x, 6,
                     (int64_t[]){ 0, across, across, w, w, c });
    x = onnx_transpose(b, ONNX_NAME(b, "%s/reverse_grid", v->attn), x, 6, (int64_t[]){ 0, 1, 3, 2, 4, 5 });
    x = onnx_reshape(b, ONNX_NAME(b, "%s/map", v->attn), x, 4, (int64_t[]){ 0, size, size, c });
    return v->shift ? onnx_roll(b, ONNX_NAME(b, "%s/unshift", v->attn), x, size, size - v->shift) : x;
}

static swin_onnx_value transpose_last(onnx_build *b, const char *out, swin_onnx_value x)
{
    return onnx_transpose(b, out, x, 5, (int64_t[]){ 0, 1, 2, 4, 3 });
}

/* V2: each row x [..][N][D] over max(its length, 1e-12), in float32; queries times the logit scale of their head, keys
 * turned to [..][D][N]. */
static swin_onnx_value normalise(onnx_build *b, const onnx_block_view *v, swin_site_kind kind,
                                 swin_onnx_value x)
{
    swin_onnx *g = b->g;
    const bool half = b->opts->dtype == SWIN_F16;
    const char *name = onnx_site_name(b, kind), *last = half ? ONNX_NAME(b, "%s/float_output", name) : name;
    const int64_t axis = -1, dims[] = { v->s.heads, 1, 1 };
    x = onnx_to_float(b, ONNX_NAME(b, "%s/float_input", name), x);
    swin_onnx_value norm = swin_onnx_node(g, "ReduceL2", ONNX_NAME(b, "%s/norm", name), x, NULL, NULL);
    swin_onnx_attr_ints(g, "axes", 1, &axis);
    swin_onnx_attr_int(g, "keepdims", 1);
    const swin_onnx_value least = swin_onnx_number(g, SWIN_F32, 1e-12f);
    norm = swin_onnx_node(g, "Max", ONNX_NAME(b, "%s/length", name), norm, least, NULL);
    x = swin_onnx_node(g, "Div", ONNX_NAME(b, "%s/unit", name), x, norm, NULL);
    if (kind == SWIN_SITE_MHA_K) {
        x = transpose_last(b, last, x);
    } else {
        float *scale = swin_onnx_alloc(g, (size_t)v->s.heads * sizeof *scale);
        if (!scale) return x;
        for (int h = 0; h < v->s.heads; h++) scale[h] = expf(fminf(v->w->logit_scale[h], logf(100.0f)));
        const char *key = ONNX_NAME(b, "%s.logit_scale", v->attn);
        x = swin_onnx_node(g, "Mul", last, x, swin_onnx_const(g, key, SWIN_F32, 3, dims, scale), NULL);
    }
    return onnx_quantize(b, kind, onnx_from_float(b, name, x));
}

/* One of q, k, v as the operand of a matrix product: [batch][nW][h][N][D], k as [..][D][N]. */
static swin_onnx_value operand(onnx_build *b, const onnx_block_view *v, swin_site_kind kind,
                               swin_onnx_value x)
{
    static const int64_t rows[] = { 0, 1, 3, 2, 4 }, columns[] = { 0, 1, 3, 4, 2 };
    const bool key = kind == SWIN_SITE_MATMUL_K;
    const char *name = onnx_site_name(b, kind);
    const int64_t shape[] = { 0, v->windows, v->n, v->s.heads, v->s.head_size };
    x = onnx_reshape(b, ONNX_NAME(b, "%s/heads", name), x, 5, shape);
    x = onnx_transpose(b, name, x, 5, key && !onnx_is_v2(b) ? columns : rows);
    x = onnx_quantize(b, kind, x);
    if (!onnx_is_v2(b) || kind == SWIN_SITE_MATMUL_V) return x;
    return normalise(b, v, key ? SWIN_SITE_MHA_K : SWIN_SITE_MHA_Q, x);
}

/* The position bias [h][N][N], gathered; V2's table comes from a small network. */
static swin_onnx_value position_bias(onnx_build *b, const onnx_block_view *v)
{
    const size_t heads = (size_t)v->s.heads, n = (size_t)v->n, side = 2 * (size_t)v->s.window - 1;
    float *bias = swin_onnx_alloc(b->g, heads * n * n * sizeof *bias);
    const float *table = v->w->bias_table;
    if (!bias) return "";
    if (!table) {
        float *made = swin_onnx_alloc(b->g, side * side * heads * sizeof *made);
        const int pretrained = b->config->pretrained_window[b->stage];
        if (!made || swin_position_table(made, v->w, v->s.window, v->s.heads, pretrained) != SWIN_OK) {
            swin_onnx_lost(b->g);
            return "";
        }
        table = made;
    }
    swin_position_bias(bias, table, v->s.window, v->s.heads);
    const int64_t dims[] = { v->s.heads, v->n, v->n };
    return onnx_table(b, ONNX_NAME(b, "%s.relative_position_bias", v->attn), bias, 3, dims);
}

/* Raw scores to what the softmax is taken of: scale s + position bias + mask. V2's queries carry their scale. */
static swin_onnx_value biased_scores(onnx_build *b, const onnx_block_view *v, swin_onnx_value s)
{
    const double scale = b->config->qk_scale > 0 ? b->config->qk_scale : 1 / sqrt(v->s.head_size);
    if (!onnx_is_v2(b))
        s = swin_onnx_node(b->g, "Mul", ONNX_NAME(b, "%s/scaled", v->attn), s,
                           swin_onnx_number(b->g, b->opts->dtype, (float)scale), NULL);
    s = swin_onnx_node(b->g, "Add", ONNX_NAME(b, "%s/biased", v->attn), s, position_bias(b, v), NULL);
    return v->mask ? swin_onnx_node(b->g, "Add", ONNX_NAME(b, "%s/masked", v->attn), s, v->mask, NULL) : s;
}

/* A product of heads whose operands, sites a and c, may have scales of their own: what it is called before it is multiplied by
 * them, and `out`, which is so afterwards. a and c may be the same one. */
static const char *inner_name(onnx_build *b, const char *out, swin_site_kind a, swin_site_kind c)
{
    return onnx_own_scales(b, a) || onnx_own_scales(b, c) ? ONNX_NAME(b, "%s/of_codes", out) : out;
}

static swin_onnx_value in_own_scales(onnx_build *b, const onnx_block_view *v, const char *out,
                                     swin_onnx_value x, swin_site_kind a, swin_site_kind c)
{
    const swin_site_record *r[] = { onnx_own_scales(b, a), a == c ? NULL : onnx_own_scales(b, c) };
    if (!r[0] && !r[1]) return x;
    float *factor = swin_onnx_alloc(b->g, (size_t)v->s.heads * sizeof *factor);
    if (!factor) return "";
    for (int h = 0; h < v->s.heads; h++) {
        factor[h] = 1;
        for (int i = 0; i < 2; i++)
            if (r[i]) factor[h] *= r[i]->channel_scale[h * v->s.head_size] / r[i]->q.scale;
    }
    return onnx_times_heads(b, out, x, factor, v->s.heads);
}

/* softmax(s) v. The u8 form quantizes exp(s - max), which is in [0, 1], and divides by the sum of the quantized values after
 * the product: codes over the whole range whatever the row looks like (DESIGN.md section 4, mode 3). */
static swin_onnx_value weighted_sum(onnx_build *b, const onnx_block_view *v, swin_onnx_value s,
                                    swin_onnx_value values)
{
    swin_onnx *g = b->g;
    const char *a_name = onnx_site_name(b, SWIN_SITE_MATMUL_A),
               *whole = ONNX_NAME(b, "%s/weighted_sum", v->attn),
               *out = inner_name(b, whole, SWIN_SITE_MATMUL_V, SWIN_SITE_MATMUL_V);
    const int64_t last = -1;
    if (!onnx_softmax_is_u8(b)) {
        s = onnx_to_float(b, ONNX_NAME(b, "%s/float_scores", v->attn), s);
        s = swin_onnx_node(g, "Softmax",
                           b->opts->dtype == SWIN_F32 ? a_name : ONNX_NAME(b, "%s/float", a_name), s, NULL,
                           NULL);
        swin_onnx_attr_int(g, "axis", -1);
        s = onnx_quantize(b, SWIN_SITE_MATMUL_A, onnx_from_float(b, a_name, s));
        s = swin_onnx_node(g, "MatMul", out, s, values, NULL);
        return in_own_scales(b, v, whole, s, SWIN_SITE_MATMUL_V, SWIN_SITE_MATMUL_V);
    }
    const swin_onnx_value max =
        swin_onnx_node(g, "ReduceMax", ONNX_NAME(b, "%s/row_max", v->attn), s, NULL, NULL);
    swin_onnx_attr_ints(g, "axes", 1, &last);
    swin_onnx_attr_int(g, "keepdims", 1);
    s = swin_onnx_node(g, "Sub", ONNX_NAME(b, "%s/below_max", v->attn), s, max, NULL);
    s = onnx_quantize(b, SWIN_SITE_MATMUL_A, swin_onnx_node(g, "Exp", a_name, s, NULL, NULL));
    const swin_onnx_value sum = swin_onnx_node(g, "ReduceSum", ONNX_NAME(b, "%s/row_sum", v->attn), s,
                                               swin_onnx_ints(g, 1, &last), NULL);
    swin_onnx_attr_int(g, "keepdims", 1);
    const swin_onnx_value y =
        swin_onnx_node(g, "MatMul", ONNX_NAME(b, "%s/product", v->attn), s, values, NULL);
    return in_own_scales(b, v, whole, swin_onnx_node(g, "Div", out, y, sum, NULL), SWIN_SITE_MATMUL_V,
                         SWIN_SITE_MATMUL_V);
}

static swin_onnx_value attention(onnx_build *b, const onnx_block_view *v, swin_onnx_value qkv)
{
    swin_onnx *g = b->g;
    const swin_onnx_value parts[] = { ONNX_NAME(b, "%s/q", v->attn), ONNX_NAME(b, "%s/k", v->attn),
                                      ONNX_NAME(b, "%s/v", v->attn) };
    swin_onnx_nodes(g, "Split", 3, parts, 1, &qkv);
    swin_onnx_attr_int(g, "axis", 3);
    const swin_onnx_value q = operand(b, v, SWIN_SITE_MATMUL_Q, parts[0]);
    const swin_onnx_value k = operand(b, v, SWIN_SITE_MATMUL_K, parts[1]);
    const swin_onnx_value values = operand(b, v, SWIN_SITE_MATMUL_V, parts[2]);
    const swin_site_kind of_q = onnx_is_v2(b) ? SWIN_SITE_MHA_Q : SWIN_SITE_MATMUL_Q,
                         of_k = onnx_is_v2(b) ? SWIN_SITE_MHA_K : SWIN_SITE_MATMUL_K;
    const char *scores = onnx_site_name(b, SWIN_SITE_SOFTMAX_INPUT);
    swin_onnx_value s = swin_onnx_node(g, "MatMul", inner_name(b, scores, of_q, of_k), q, k, NULL);
    s = in_own_scales(b, v, scores, s, of_q, of_k);
    s = onnx_quantize(b, SWIN_SITE_SOFTMAX_INPUT, s);
    s = weighted_sum(b, v, biased_scores(b, v, s), values);
    s = onnx_transpose(b, ONNX_NAME(b, "%s/tokens", v->attn), s, 5, (int64_t[]){ 0, 1, 3, 2, 4 });
    return onnx_reshape(b, onnx_site_name(b, SWIN_SITE_PROJ_INPUT), s, 4,
                        (int64_t[]){ 0, v->windows, v->n, v->s.channels });
}

/* A bias for queries, keys and values; NULL for none. V2 stores those of queries and values alone. */
static const float *qkv_bias(onnx_build *b, const onnx_block_view *v)
{
    const size_t c = (size_t)v->s.channels;
    if (!v->w->q_bias) return v->w->qkv_bias;
    float *all = swin_onnx_alloc(b->g, 3 * c * sizeof *all);
    if (!all) return NULL;
    memcpy(all, v->w->q_bias, c * sizeof *all);
    memcpy(all + 2 * c, v->w->v_bias, c * sizeof *all);
    return all;
}

/* x + proj(attention(qkv(LN x))). V2: x + LN(proj(attention(qkv(x)))). */
swin_onnx_value onnx_attention_half(onnx_build *b, const onnx_block_view *v, swin_onnx_value x)
{
    const int c = v->s.channels;
    const swin_block_weights *w = v->w;
    const char *block = onnx_site_module(b, SWIN_SITE_BLOCK_OUT), *norm = ONNX_NAME(b, "%s.norm1", block);
    const onnx_linear qkv = { .input = SWIN_SITE_QKV_INPUT,
                              .weight = SWIN_SITE_QKV_WEIGHT,
                              .aftergemm = SWIN_SITE_QKV_AFTERGEMM,
                              .w = w->qkv_weight,
                              .bias = qkv_bias(b, v),
                              .out = 3 * c,
                              .in = c };
    const onnx_linear proj = { .input = SWIN_SITE_PROJ_INPUT,
                               .weight = SWIN_SITE_PROJ_WEIGHT,
                               .aftergemm = SWIN_SITE_PROJ_AFTERGEMM,
                               .w = w->proj_weight,
                               .bias = w->proj_bias,
                               .out = c,
                               .in = c };
    swin_onnx_value y = x;
    if (!onnx_is_v2(b)) y = onnx_layernorm(b, norm, y, norm, w->norm1_weight, w->norm1_bias, c);
    y = partition(b, v, onnx_site_name(b, SWIN_SITE_QKV_INPUT), y);
    y = attention(b, v, onnx_linear_add(b, y, &qkv));
    y = reverse(b, v, onnx_linear_add(b, y, &proj));
    if (onnx_is_v2(b)) y = onnx_layernorm(b, norm, y, norm, w->norm1_weight, w->norm1_bias, c);
    /* V2's MLP reads the sum itself, so the sum has that site's name. */
    const char *sum = onnx_is_v2(b) ? onnx_site_name(b, SWIN_SITE_FC1_INPUT) : ONNX_NAME(b, "%s/add1", block);
    return swin_onnx_node(b->g, "Add", sum, x, y, NULL);
}
