#include "quant/onnx_swin.h"

#include <math.h>
#include <string.h>

#include "quant/onnx_build.h"
#include "runtime/swin/tables.h"

/* The residual stream is a map [batch][H][W][C] all the way; windows are [batch][nW][N][C], heads [batch][nW][h][N][D]. */

typedef struct block_view {
    swin_stage s;
    int shift, windows, n; /* windows of an image, tokens of a window */
    const swin_block_weights *w;
    const char *attn;     /* "layers.0.blocks.0.attn" */
    swin_onnx_value mask; /* of the stage; NULL for an unshifted block */
} block_view;

#define NAME(fmt, ...) swin_onnx_text(b->g, fmt, __VA_ARGS__)

/* ---- attention ------------------------------------------------------------------------------------------------------ */

/* Map to windows; `out` is [batch][nW][N][C]. */
static swin_onnx_value partition(onnx_build *b, const block_view *v, const char *out, swin_onnx_value x)
{
    const int w = v->s.window, across = v->s.resolution / w, c = v->s.channels;
    if (v->shift) x = onnx_roll(b, NAME("%s/shift", v->attn), x, v->s.resolution, v->shift);
    x = onnx_reshape(b, NAME("%s/grid", v->attn), x, 6, (int64_t[]){ 0, across, w, across, w, c });
    x = onnx_transpose(b, NAME("%s/windows", v->attn), x, 6, (int64_t[]){ 0, 1, 3, 2, 4, 5 });
    return onnx_reshape(b, out, x, 4, (int64_t[]){ 0, v->windows, v->n, c });
}

/* Windows back to the map. */
static swin_onnx_value reverse(onnx_build *b, const block_view *v, swin_onnx_value x)
{
    const int w = v->s.window, size = v->s.resolution, across = size / w, c = v->s.channels;
    x = onnx_reshape(b, NAME("%s/reverse_windows", v->attn), x, 6, (int64_t[]){ 0, across, across, w, w, c });
    x = onnx_transpose(b, NAME("%s/reverse_grid", v->attn), x, 6, (int64_t[]){ 0, 1, 3, 2, 4, 5 });
    x = onnx_reshape(b, NAME("%s/map", v->attn), x, 4, (int64_t[]){ 0, size, size, c });
    return v->shift ? onnx_roll(b, NAME("%s/unshift", v->attn), x, size, size - v->shift) : x;
}

static bool is_v2(const onnx_build *b)
{
    return b->config->family == SWIN_V2;
}

static swin_onnx_value transpose_last(onnx_build *b, const char *out, swin_onnx_value x)
{
    return onnx_transpose(b, out, x, 5, (int64_t[]){ 0, 1, 2, 4, 3 });
}

/* V2: each row x [..][N][D] over max(its length, 1e-12), in float32; queries times the logit scale of their head, keys
 * turned to [..][D][N]. */
static swin_onnx_value normalise(onnx_build *b, const block_view *v, swin_site_kind kind, swin_onnx_value x)
{
    swin_onnx *g = b->g;
    const bool half = b->opts->dtype == SWIN_F16;
    const char *name = onnx_site_name(b, kind), *last = half ? NAME("%s/float_output", name) : name;
    const int64_t axis = -1, dims[] = { v->s.heads, 1, 1 };
    x = onnx_to_float(b, NAME("%s/float_input", name), x);
    swin_onnx_value norm = swin_onnx_node(g, "ReduceL2", NAME("%s/norm", name), x, NULL, NULL);
    swin_onnx_attr_ints(g, "axes", 1, &axis);
    swin_onnx_attr_int(g, "keepdims", 1);
    const swin_onnx_value least = swin_onnx_number(g, SWIN_F32, 1e-12f);
    norm = swin_onnx_node(g, "Max", NAME("%s/length", name), norm, least, NULL);
    x = swin_onnx_node(g, "Div", NAME("%s/unit", name), x, norm, NULL);
    if (kind == SWIN_SITE_MHA_K) {
        x = transpose_last(b, last, x);
    } else {
        float *scale = swin_onnx_alloc(g, (size_t)v->s.heads * sizeof *scale);
        if (!scale) return x;
        for (int h = 0; h < v->s.heads; h++) scale[h] = expf(fminf(v->w->logit_scale[h], logf(100.0f)));
        const char *key = NAME("%s.logit_scale", v->attn);
        x = swin_onnx_node(g, "Mul", last, x, swin_onnx_const(g, key, SWIN_F32, 3, dims, scale), NULL);
    }
    return onnx_quantize(b, kind, onnx_from_float(b, name, x));
}

/* One of q, k, v as the operand of a matrix product: [batch][nW][h][N][D], k as [..][D][N]. */
static swin_onnx_value operand(onnx_build *b, const block_view *v, swin_site_kind kind, swin_onnx_value x)
{
    static const int64_t rows[] = { 0, 1, 3, 2, 4 }, columns[] = { 0, 1, 3, 4, 2 };
    const bool key = kind == SWIN_SITE_MATMUL_K;
    const char *name = onnx_site_name(b, kind);
    const int64_t shape[] = { 0, v->windows, v->n, v->s.heads, v->s.head_size };
    x = onnx_reshape(b, NAME("%s/heads", name), x, 5, shape);
    x = onnx_transpose(b, name, x, 5, key && !is_v2(b) ? columns : rows);
    x = onnx_quantize(b, kind, x);
    if (!is_v2(b) || kind == SWIN_SITE_MATMUL_V) return x;
    return normalise(b, v, key ? SWIN_SITE_MHA_K : SWIN_SITE_MHA_Q, x);
}

/* The position bias [h][N][N], gathered; V2's table comes from a small network. */
static swin_onnx_value position_bias(onnx_build *b, const block_view *v)
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
    return onnx_table(b, NAME("%s.relative_position_bias", v->attn), bias, 3, dims);
}

/* Raw scores to what the softmax is taken of: scale s + position bias + mask. V2's queries carry their scale. */
static swin_onnx_value biased_scores(onnx_build *b, const block_view *v, swin_onnx_value s)
{
    const double scale = b->config->qk_scale > 0 ? b->config->qk_scale : 1 / sqrt(v->s.head_size);
    if (!is_v2(b))
        s = swin_onnx_node(b->g, "Mul", NAME("%s/scaled", v->attn), s,
                           swin_onnx_number(b->g, b->opts->dtype, (float)scale), NULL);
    s = swin_onnx_node(b->g, "Add", NAME("%s/biased", v->attn), s, position_bias(b, v), NULL);
    return v->mask ? swin_onnx_node(b->g, "Add", NAME("%s/masked", v->attn), s, v->mask, NULL) : s;
}

/* softmax(s) v. The u8 form quantizes exp(s - max), which is in [0, 1], and divides by the sum of the quantized values after
 * the product: codes over the whole range whatever the row looks like (DESIGN.md section 4, mode 3). */
static swin_onnx_value weighted_sum(onnx_build *b, const block_view *v, swin_onnx_value s,
                                    swin_onnx_value values)
{
    swin_onnx *g = b->g;
    const char *a_name = onnx_site_name(b, SWIN_SITE_MATMUL_A), *out = NAME("%s/weighted_sum", v->attn);
    const int64_t last = -1;
    if (!onnx_softmax_is_u8(b)) {
        s = onnx_to_float(b, NAME("%s/float_scores", v->attn), s);
        s = swin_onnx_node(g, "Softmax", b->opts->dtype == SWIN_F32 ? a_name : NAME("%s/float", a_name), s,
                           NULL, NULL);
        swin_onnx_attr_int(g, "axis", -1);
        s = onnx_quantize(b, SWIN_SITE_MATMUL_A, onnx_from_float(b, a_name, s));
        return swin_onnx_node(g, "MatMul", out, s, values, NULL);
    }
    const swin_onnx_value max = swin_onnx_node(g, "ReduceMax", NAME("%s/row_max", v->attn), s, NULL, NULL);
    swin_onnx_attr_ints(g, "axes", 1, &last);
    swin_onnx_attr_int(g, "keepdims", 1);
    s = swin_onnx_node(g, "Sub", NAME("%s/below_max", v->attn), s, max, NULL);
    s = onnx_quantize(b, SWIN_SITE_MATMUL_A, swin_onnx_node(g, "Exp", a_name, s, NULL, NULL));
    const swin_onnx_value sum =
        swin_onnx_node(g, "ReduceSum", NAME("%s/row_sum", v->attn), s, swin_onnx_ints(g, 1, &last), NULL);
    swin_onnx_attr_int(g, "keepdims", 1);
    const swin_onnx_value y = swin_onnx_node(g, "MatMul", NAME("%s/product", v->attn), s, values, NULL);
    return swin_onnx_node(g, "Div", out, y, sum, NULL);
}

static swin_onnx_value attention(onnx_build *b, const block_view *v, swin_onnx_value qkv)
{
    swin_onnx *g = b->g;
    const swin_onnx_value parts[] = { NAME("%s/q", v->attn), NAME("%s/k", v->attn), NAME("%s/v", v->attn) };
    swin_onnx_nodes(g, "Split", 3, parts, 1, &qkv);
    swin_onnx_attr_int(g, "axis", 3);
    const swin_onnx_value q = operand(b, v, SWIN_SITE_MATMUL_Q, parts[0]);
    const swin_onnx_value k = operand(b, v, SWIN_SITE_MATMUL_K, parts[1]);
    const swin_onnx_value values = operand(b, v, SWIN_SITE_MATMUL_V, parts[2]);
    swin_onnx_value s = swin_onnx_node(g, "MatMul", onnx_site_name(b, SWIN_SITE_SOFTMAX_INPUT), q, k, NULL);
    s = onnx_quantize(b, SWIN_SITE_SOFTMAX_INPUT, s);
    s = weighted_sum(b, v, biased_scores(b, v, s), values);
    s = onnx_transpose(b, NAME("%s/tokens", v->attn), s, 5, (int64_t[]){ 0, 1, 3, 2, 4 });
    return onnx_reshape(b, onnx_site_name(b, SWIN_SITE_PROJ_INPUT), s, 4,
                        (int64_t[]){ 0, v->windows, v->n, v->s.channels });
}

/* ---- blocks and stages ---------------------------------------------------------------------------------------------- */

/* A bias for queries, keys and values; NULL for none. V2 stores those of queries and values alone. */
static const float *qkv_bias(onnx_build *b, const block_view *v)
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
static swin_onnx_value attention_half(onnx_build *b, const block_view *v, swin_onnx_value x)
{
    const int c = v->s.channels;
    const swin_block_weights *w = v->w;
    const char *block = onnx_site_module(b, SWIN_SITE_BLOCK_OUT), *norm = NAME("%s.norm1", block);
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
    if (!is_v2(b)) y = onnx_layernorm(b, norm, y, norm, w->norm1_weight, w->norm1_bias, c);
    y = partition(b, v, onnx_site_name(b, SWIN_SITE_QKV_INPUT), y);
    y = attention(b, v, onnx_linear_add(b, y, &qkv));
    y = reverse(b, v, onnx_linear_add(b, y, &proj));
    if (is_v2(b)) y = onnx_layernorm(b, norm, y, norm, w->norm1_weight, w->norm1_bias, c);
    /* V2's MLP reads the sum itself, so the sum has that site's name. */
    const char *sum = is_v2(b) ? onnx_site_name(b, SWIN_SITE_FC1_INPUT) : NAME("%s/add1", block);
    return swin_onnx_node(b->g, "Add", sum, x, y, NULL);
}

/* x + fc2(GELU(fc1(LN x))). V2: x + LN(fc2(GELU(fc1(x)))). */
static swin_onnx_value mlp_half(onnx_build *b, const block_view *v, swin_onnx_value x)
{
    const int c = v->s.channels, hidden = v->s.hidden;
    const swin_block_weights *w = v->w;
    const char *block = onnx_site_module(b, SWIN_SITE_BLOCK_OUT), *norm = NAME("%s.norm2", block);
    const onnx_linear fc1 = { .input = SWIN_SITE_FC1_INPUT,
                              .weight = SWIN_SITE_FC1_WEIGHT,
                              .aftergemm = SWIN_SITE_FC1_AFTERGEMM,
                              .w = w->fc1_weight,
                              .bias = w->fc1_bias,
                              .out = hidden,
                              .in = c };
    const onnx_linear fc2 = { .input = SWIN_SITE_FC2_INPUT,
                              .weight = SWIN_SITE_FC2_WEIGHT,
                              .aftergemm = SWIN_SITE_FC2_AFTERGEMM,
                              .w = w->fc2_weight,
                              .bias = w->fc2_bias,
                              .out = c,
                              .in = hidden };
    swin_onnx_value y = x;
    if (!is_v2(b))
        y = onnx_layernorm(b, onnx_site_name(b, SWIN_SITE_FC1_INPUT), y, norm, w->norm2_weight, w->norm2_bias,
                           c);
    y = onnx_linear_add(b, y, &fc1);
    y = onnx_gelu(b, onnx_site_name(b, SWIN_SITE_FC2_INPUT), NAME("%s.mlp", block), y);
    y = onnx_linear_add(b, y, &fc2);
    if (is_v2(b)) y = onnx_layernorm(b, norm, y, norm, w->norm2_weight, w->norm2_bias, c);
    return swin_onnx_node(b->g, "Add", block, x, y, NULL);
}

/* The 2 x 2 neighbours of a map side by side, named `out`. */
static swin_onnx_value neighbours(onnx_build *b, const swin_stage *s, const char *out, swin_onnx_value x)
{
    const char *module = onnx_site_module(b, SWIN_SITE_MERGE_OUT);
    swin_onnx_value parts[4];
    for (int i = 0; i < 4; i++) { /* (row, column): (0,0) (1,0) (0,1) (1,1) */
        const swin_onnx_value rows =
            onnx_slice(b, NAME("%s/rows%d", module, i), x, 1, i & 1, s->resolution, 2);
        parts[i] = onnx_slice(b, NAME("%s/part%d", module, i), rows, 2, i >> 1, s->resolution, 2);
    }
    swin_onnx_nodes(b->g, "Concat", 1, &out, 4, parts);
    swin_onnx_attr_int(b->g, "axis", 3);
    return out;
}

/* reduction(LN(neighbours)). V2: LN(reduction(neighbours)). */
static swin_onnx_value merge(onnx_build *b, const swin_stage *s, const swin_stage_weights *w,
                             swin_onnx_value x)
{
    const int c = s->channels;
    const char *module = onnx_site_module(b, SWIN_SITE_MERGE_OUT), *norm = NAME("%s.norm", module);
    const char *input = onnx_site_name(b, SWIN_SITE_REDUCTION_INPUT);
    const onnx_linear reduction = { .input = SWIN_SITE_REDUCTION_INPUT,
                                    .weight = SWIN_SITE_REDUCTION_WEIGHT,
                                    .aftergemm = SWIN_SITE_REDUCTION_AFTERGEMM,
                                    .w = w->reduction_weight,
                                    .out = 2 * c,
                                    .in = 4 * c };
    if (is_v2(b)) {
        x = onnx_linear_add(b, neighbours(b, s, input, x), &reduction);
        return onnx_layernorm(b, module, x, norm, w->merge_norm_weight, w->merge_norm_bias, 2 * c);
    }
    x = neighbours(b, s, NAME("%s/neighbours", module), x);
    x = onnx_layernorm(b, input, x, norm, w->merge_norm_weight, w->merge_norm_bias, 4 * c);
    return onnx_linear_add(b, x, &reduction);
}

/* The stage's attention mask [nW][1][N][N]; NULL when no block of it is shifted. */
static swin_onnx_value stage_mask(onnx_build *b, const swin_stage *s)
{
    if (!s->shift || s->depth < 2) return NULL;
    const int n = s->window * s->window, across = s->resolution / s->window, windows = across * across;
    float *mask = swin_onnx_alloc(b->g, (size_t)windows * n * n * sizeof *mask);
    if (!mask) return NULL;
    swin_attention_mask(mask, s);
    return onnx_table(b, NAME("layers.%d.attn_mask", b->stage), mask, 4, (int64_t[]){ windows, 1, n, n });
}

static swin_onnx_value stage(onnx_build *b, swin_onnx_value x)
{
    const swin_stage s = swin_config_stage(b->config, b->stage);
    const swin_stage_weights *w = &b->weights->stages[b->stage];
    const int across = s.resolution / s.window;
    const swin_onnx_value mask = stage_mask(b, &s);
    for (b->block = 0; b->block < s.depth; b->block++) {
        const int shift = swin_config_shift(b->config, b->stage, b->block);
        const block_view v = { .s = s,
                               .shift = shift,
                               .windows = across * across,
                               .n = s.window * s.window,
                               .w = &w->blocks[b->block],
                               .attn = onnx_site_module(b, SWIN_SITE_MATMUL_Q),
                               .mask = shift ? mask : NULL };
        x = mlp_half(b, &v, attention_half(b, &v, x));
    }
    b->block = 0;
    return s.merge ? merge(b, &s, w, x) : x;
}

/* ---- the network ---------------------------------------------------------------------------------------------------- */

static swin_onnx_value patch_embed(onnx_build *b, swin_onnx_value images)
{
    const int64_t c = b->config->embed_dim, p = b->config->patch_size;
    const swin_weights *w = b->weights;
    const int64_t dims[] = { c, b->config->in_chans, p, p }, sides[] = { p, p };
    const char *proj = "patch_embed.proj";
    images = onnx_from_float(b, "images/half", images);
    const swin_onnx_value weight = onnx_table(b, NAME("%s.weight", proj), w->patch_weight, 4, dims);
    const swin_onnx_value bias = onnx_vector(b, NAME("%s.bias", proj), w->patch_bias, (int)c);
    swin_onnx_value x = swin_onnx_node(b->g, "Conv", proj, images, weight, bias);
    swin_onnx_attr_ints(b->g, "kernel_shape", 2, sides);
    swin_onnx_attr_ints(b->g, "strides", 2, sides);
    x = onnx_transpose(b, "patch_embed/map", x, 4, (int64_t[]){ 0, 2, 3, 1 });
    if (!w->patch_norm_weight) return x;
    return onnx_layernorm(b, "patch_embed", x, "patch_embed.norm", w->patch_norm_weight, w->patch_norm_bias,
                          (int)c);
}

static swin_onnx_value classify(onnx_build *b, swin_onnx_value x)
{
    const int last = b->config->embed_dim << (b->config->num_stages - 1), classes = b->config->num_classes;
    const swin_weights *w = b->weights;
    const int64_t dims[] = { classes, last }, map[] = { 1, 2 };
    swin_onnx *g = b->g;
    x = onnx_layernorm(b, "norm", x, "norm", w->norm_weight, w->norm_bias, last);
    x = onnx_to_float(b, "pool/float", x);
    x = swin_onnx_node(g, "ReduceMean", b->opts->dtype == SWIN_F32 ? "pool" : "pool/mean", x, NULL, NULL);
    swin_onnx_attr_ints(g, "axes", 2, map);
    swin_onnx_attr_int(g, "keepdims", 0);
    x = onnx_from_float(b, "pool", x);
    const bool half = b->opts->dtype == SWIN_F16;
    x = swin_onnx_node(g, "Gemm", half ? "head" : "logits", x,
                       onnx_table(b, "head.weight", w->head_weight, 2, dims),
                       onnx_vector(b, "head.bias", w->head_bias, classes));
    swin_onnx_attr_int(g, "transB", 1);
    return onnx_to_float(b, "logits", x);
}

static void metadata(onnx_build *b)
{
    const swin_calib_file *f = b->opts->calib;
    swin_onnx_meta(b->g, "model", b->config->name);
    if (!f) return;
    swin_onnx_meta(b->g, "checkpoint_sha256", f->checkpoint_sha256);
    swin_onnx_meta(b->g, "int8_mode", swin_onnx_text(b->g, "%d", (int)f->mode));
    if (f->calibrator) swin_onnx_meta(b->g, "calibrator", f->calibrator);
}

swin_status onnx_swin_export(const swin_export_job *job, const onnx_swin_opts *opts)
{
    onnx_build b = { .config = job->config, .weights = job->weights, .opts = opts };
    const int64_t size = b.config->image_size, classes = b.config->num_classes;
    SWIN_TRY(swin_onnx_create(&b.g, "swin"));
    metadata(&b);
    const int64_t images[] = { SWIN_ONNX_BATCH, b.config->in_chans, size, size };
    swin_onnx_value x = patch_embed(&b, swin_onnx_input(b.g, "images", SWIN_F32, 4, images));
    for (b.stage = 0; b.stage < b.config->num_stages; b.stage++) x = stage(&b, x);
    swin_onnx_output(b.g, classify(&b, x), SWIN_F32, 2, (int64_t[]){ SWIN_ONNX_BATCH, classes });
    const swin_status st = swin_onnx_write(b.g, job->output, job->external_data);
    swin_onnx_free(b.g);
    return st;
}
