#include "quant/onnx_swin.h"

#include "quant/onnx_build.h"
#include "runtime/swin/tables.h"

/* The residual stream is a map [batch][H][W][C] all the way. */

bool onnx_is_v2(const onnx_build *b)
{
    return b->config->family == SWIN_V2;
}

/* ---- blocks and stages ---------------------------------------------------------------------------------------------- */

/* x + fc2(GELU(fc1(LN x))). V2: x + LN(fc2(GELU(fc1(x)))). */
static swin_onnx_value mlp_half(onnx_build *b, const onnx_block_view *v, swin_onnx_value x)
{
    const int c = v->s.channels, hidden = v->s.hidden;
    const swin_block_weights *w = v->w;
    const char *block = onnx_site_module(b, SWIN_SITE_BLOCK_OUT), *norm = ONNX_NAME(b, "%s.norm2", block);
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
    if (!onnx_is_v2(b))
        y = onnx_layernorm(b, onnx_site_name(b, SWIN_SITE_FC1_INPUT), y, norm, w->norm2_weight, w->norm2_bias,
                           c);
    y = onnx_linear_add(b, y, &fc1);
    y = onnx_gelu(b, SWIN_SITE_FC2_INPUT, ONNX_NAME(b, "%s.mlp", block), y);
    y = onnx_linear_add(b, y, &fc2);
    if (onnx_is_v2(b)) y = onnx_layernorm(b, norm, y, norm, w->norm2_weight, w->norm2_bias, c);
    return swin_onnx_node(b->g, "Add", block, x, y, NULL);
}

/* The 2 x 2 neighbours of a map side by side, named `out`. */
static swin_onnx_value neighbours(onnx_build *b, const swin_stage *s, const char *out, swin_onnx_value x)
{
    const char *module = onnx_site_module(b, SWIN_SITE_MERGE_OUT);
    swin_onnx_value parts[4];
    for (int i = 0; i < 4; i++) { /* (row, column): (0,0) (1,0) (0,1) (1,1) */
        const swin_onnx_value rows =
            onnx_slice(b, ONNX_NAME(b, "%s/rows%d", module, i), x, 1, i & 1, s->resolution, 2);
        parts[i] = onnx_slice(b, ONNX_NAME(b, "%s/part%d", module, i), rows, 2, i >> 1, s->resolution, 2);
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
    const char *module = onnx_site_module(b, SWIN_SITE_MERGE_OUT), *norm = ONNX_NAME(b, "%s.norm", module);
    const char *input = onnx_site_name(b, SWIN_SITE_REDUCTION_INPUT);
    const onnx_linear reduction = { .input = SWIN_SITE_REDUCTION_INPUT,
                                    .weight = SWIN_SITE_REDUCTION_WEIGHT,
                                    .aftergemm = SWIN_SITE_REDUCTION_AFTERGEMM,
                                    .w = w->reduction_weight,
                                    .out = 2 * c,
                                    .in = 4 * c };
    if (onnx_is_v2(b)) {
        x = onnx_linear_add(b, neighbours(b, s, input, x), &reduction);
        return onnx_layernorm(b, module, x, norm, w->merge_norm_weight, w->merge_norm_bias, 2 * c);
    }
    x = neighbours(b, s, ONNX_NAME(b, "%s/neighbours", module), x);
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
    return onnx_table(b, ONNX_NAME(b, "layers.%d.attn_mask", b->stage), mask, 4,
                      (int64_t[]){ windows, 1, n, n });
}

static swin_onnx_value stage(onnx_build *b, swin_onnx_value x)
{
    const swin_stage s = swin_config_stage(b->config, b->stage);
    const swin_stage_weights *w = &b->weights->stages[b->stage];
    const int across = s.resolution / s.window;
    const swin_onnx_value mask = stage_mask(b, &s);
    for (b->block = 0; b->block < s.depth; b->block++) {
        const int shift = swin_config_shift(b->config, b->stage, b->block);
        const onnx_block_view v = { .s = s,
                                    .shift = shift,
                                    .windows = across * across,
                                    .n = s.window * s.window,
                                    .w = &w->blocks[b->block],
                                    .attn = onnx_site_module(b, SWIN_SITE_MATMUL_Q),
                                    .mask = shift ? mask : NULL };
        x = mlp_half(b, &v, onnx_attention_half(b, &v, x));
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
    const swin_onnx_value weight = onnx_table(b, ONNX_NAME(b, "%s.weight", proj), w->patch_weight, 4, dims);
    const swin_onnx_value bias = onnx_vector(b, ONNX_NAME(b, "%s.bias", proj), w->patch_bias, (int)c);
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
    onnx_build b = { .config = job->config, .weights = job->weights, .opts = opts, .file = job->calib };
    const int64_t size = b.config->image_size, classes = b.config->num_classes;
    SWIN_TRY(swin_onnx_create(&b.g, "swin"));
    metadata(&b);
    const int64_t images[] = { SWIN_ONNX_BATCH, b.config->in_chans, size, size };
    swin_onnx_value x = patch_embed(&b, swin_onnx_input(b.g, "images", SWIN_F32, 4, images));
    for (b.stage = 0; b.stage < b.config->num_stages; b.stage++) x = stage(&b, x);
    swin_onnx_output(b.g, classify(&b, x), SWIN_F32, 2, (int64_t[]){ SWIN_ONNX_BATCH, classes });
    const swin_status st = swin_onnx_write(b.g, job->output, job->external_data ? 0 : SWIN_ONNX_ONE_FILE);
    swin_onnx_free(b.g);
    return st;
}
