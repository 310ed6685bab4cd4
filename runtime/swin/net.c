#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/half.h"
#include "runtime/swin/net_impl.h"
#include "runtime/swin/tables.h"

/* ---- parameters ---------------------------------------------------------------------------------------------- */

swin_status net_put_vector(swin_net *net, const float **out, const float *host, size_t n)
{
    *out = NULL;
    if (!host) return SWIN_OK;
    if (net->nparams == net->params_capacity) {
        const size_t capacity = net->params_capacity ? 2 * net->params_capacity : 256;
        void **grown = realloc(net->params, capacity * sizeof *grown);
        if (!grown) return swin_fail(SWIN_ERR_MEM, "no memory for the network's parameters");
        net->params = grown;
        net->params_capacity = capacity;
    }
    void *p = NULL;
    SWIN_TRY(net->ops->alloc(net->dev, &p, n * sizeof *host));
    net->params[net->nparams++] = p;
    *out = p;
    return net->ops->upload(net->dev, p, host, n * sizeof *host);
}

static swin_status put_norm(swin_net *net, swin_norm *norm, const float *gamma, const float *beta,
                            int channels)
{
    norm->eps = 1e-5f;
    SWIN_TRY(net_put_vector(net, &norm->gamma, gamma, (size_t)channels));
    return net_put_vector(net, &norm->beta, beta, (size_t)channels);
}

static swin_status put_linear(swin_net *net, swin_linear *l, const float *w, const float *bias, int out,
                              int in)
{
    return net->ops->linear_prepare(net->dev, l, w, bias, out, in, net->opts.dtype);
}

static swin_status put_position_bias(swin_net *net, const float **out, const swin_block_weights *w,
                                     const swin_stage *s, int pretrained)
{
    const size_t n = (size_t)s->window * s->window, side = 2 * (size_t)s->window - 1,
                 heads = (size_t)s->heads;
    float *bias = malloc(heads * n * n * sizeof *bias), *table = NULL;
    swin_status st = bias ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "no memory for a position bias");
    if (st == SWIN_OK && !w->bias_table) {
        table = malloc(side * side * heads * sizeof *table);
        st = table ? swin_position_table(table, w, s->window, s->heads, pretrained)
                   : swin_fail(SWIN_ERR_MEM, "no memory for a position bias");
    }
    if (st == SWIN_OK) {
        swin_position_bias(bias, table ? table : w->bias_table, s->window, s->heads);
        st = net_put_vector(net, out, bias, heads * n * n);
    }
    free(table);
    free(bias);
    return st;
}

static swin_status put_mask(swin_net *net, const float **out, const swin_stage *s)
{
    const size_t w = (size_t)s->window, n = w * w, across = (size_t)s->resolution / w,
                 count = across * across * n * n;
    float *mask = malloc(count * sizeof *mask);
    if (!mask) return swin_fail(SWIN_ERR_MEM, "no memory for an attention mask");
    swin_attention_mask(mask, s);
    const swin_status st = net_put_vector(net, out, mask, count);
    free(mask);
    return st;
}

/* V2: what normalised queries are multiplied by, exp(min(logit_scale, ln 100)). */
static swin_status put_head_scale(swin_net *net, const float **out, const float *logit_scale, int heads)
{
    float *scale = malloc((size_t)heads * sizeof *scale);
    if (!scale) return swin_fail(SWIN_ERR_MEM, "no memory for %d logit scales", heads);
    for (int h = 0; h < heads; h++) scale[h] = expf(fminf(logit_scale[h], logf(100.0f)));
    const swin_status st = net_put_vector(net, out, scale, (size_t)heads);
    free(scale);
    return st;
}

/* A bias for queries, keys and values: V2 stores those of queries and values alone. NULL: none. Caller frees *joined. */
static swin_status qkv_bias(const float **bias, float **joined, const swin_block_weights *w, int channels)
{
    const size_t c = (size_t)channels;
    *bias = w->qkv_bias;
    *joined = NULL;
    if (!w->q_bias) return SWIN_OK;
    float *all = calloc(3 * c, sizeof *all);
    if (!all) return swin_fail(SWIN_ERR_MEM, "no memory for a bias of %d", 3 * channels);
    memcpy(all, w->q_bias, c * sizeof *all);
    memcpy(all + 2 * c, w->v_bias, c * sizeof *all);
    *bias = *joined = all;
    return SWIN_OK;
}

static swin_status put_attention(swin_net *net, net_block *b, int stage, int block,
                                 const swin_block_weights *w, const float *mask)
{
    const swin_stage *s = &net->stages[stage].shape;
    const swin_config *c = &net->config;
    const double scale = c->qk_scale > 0 ? c->qk_scale : 1.0 / __builtin_sqrt(s->head_size);
    b->attention =
        (swin_attention){ .heads = s->heads,
                          .head_size = s->head_size,
                          .scale = c->family == SWIN_V2 ? 1.0f : (float)scale, /* V2's queries carry it */
                          .mask = b->shift ? mask : NULL,
                          .softmax = net->opts.plan ? net->opts.plan->softmax : net->opts.softmax };
    net_plan_attention(net, b, stage, block);
    if (c->family == SWIN_V2) SWIN_TRY(put_head_scale(net, &b->head_scale, w->logit_scale, s->heads));
    return put_position_bias(net, &b->attention.bias, w, s, c->pretrained_window[stage]);
}

static swin_status put_qkv(swin_net *net, net_block *b, int stage, int block, const swin_block_weights *w)
{
    const int c = net->stages[stage].shape.channels;
    const float *bias;
    float *joined;
    SWIN_TRY(qkv_bias(&bias, &joined, w, c));
    const swin_status st =
        net_put_layer(net, &b->qkv, stage, block, SWIN_SITE_QKV_INPUT, w->qkv_weight, bias, 3 * c, c);
    free(joined);
    return st;
}

static swin_status put_layers(swin_net *net, net_block *b, int stage, int block, const swin_block_weights *w)
{
    const int c = net->stages[stage].shape.channels, hidden = net->stages[stage].shape.hidden;
    SWIN_TRY(put_qkv(net, b, stage, block, w));
    SWIN_TRY(
        net_put_layer(net, &b->proj, stage, block, SWIN_SITE_PROJ_INPUT, w->proj_weight, w->proj_bias, c, c));
    SWIN_TRY(net_put_layer(net, &b->fc1, stage, block, SWIN_SITE_FC1_INPUT, w->fc1_weight, w->fc1_bias,
                           hidden, c));
    return net_put_layer(net, &b->fc2, stage, block, SWIN_SITE_FC2_INPUT, w->fc2_weight, w->fc2_bias, c,
                         hidden);
}

static swin_status build_block(swin_net *net, int stage, int block, const swin_block_weights *w,
                               const float *mask)
{
    const swin_stage *s = &net->stages[stage].shape;
    net_block *b = &net->stages[stage].blocks[block];
    const int c = s->channels;
    b->shift = swin_config_shift(&net->config, stage, block);
    SWIN_TRY(put_attention(net, b, stage, block, w, mask));
    SWIN_TRY(put_norm(net, &b->norm1, w->norm1_weight, w->norm1_bias, c));
    SWIN_TRY(put_norm(net, &b->norm2, w->norm2_weight, w->norm2_bias, c));
    return put_layers(net, b, stage, block, w);
}

static int merge_norm_width(const swin_net *net, int stage)
{
    return (net->config.family == SWIN_V2 ? 2 : 4) * net->stages[stage].shape.channels;
}

static swin_status build_stage(swin_net *net, int stage, const swin_stage_weights *w)
{
    net_stage *s = &net->stages[stage];
    const float *mask = NULL;
    s->shape = swin_config_stage(&net->config, stage);
    s->blocks = calloc((size_t)s->shape.depth, sizeof *s->blocks);
    if (!s->blocks) return swin_fail(SWIN_ERR_MEM, "no memory for %d blocks", s->shape.depth);
    if (s->shape.shift && s->shape.depth > 1) SWIN_TRY(put_mask(net, &mask, &s->shape));
    for (int b = 0; b < s->shape.depth; b++) SWIN_TRY(build_block(net, stage, b, &w->blocks[b], mask));
    if (!s->shape.merge) return SWIN_OK;
    const int c = s->shape.channels;
    SWIN_TRY(put_norm(net, &s->merge_norm, w->merge_norm_weight, w->merge_norm_bias,
                      merge_norm_width(net, stage)));
    return net_put_layer(net, &s->reduction, stage, 0, SWIN_SITE_REDUCTION_INPUT, w->reduction_weight, NULL,
                         2 * c, 4 * c);
}

/* New numbers where put_norm put the old ones. */
static swin_status reload_norm(swin_net *net, const swin_norm *n, const float *gamma, const float *beta,
                               int channels)
{
    const size_t bytes = (size_t)channels * sizeof *gamma;
    SWIN_TRY(net->ops->upload(net->dev, (void *)(uintptr_t)n->gamma, gamma, bytes));
    return net->ops->upload(net->dev, (void *)(uintptr_t)n->beta, beta, bytes);
}

swin_status net_reload_block(swin_net *net, int stage, int block, const swin_block_weights *w)
{
    net_block *b = &net->stages[stage].blocks[block];
    const int c = net->stages[stage].shape.channels;
    net_layer *all[] = { &b->qkv, &b->proj, &b->fc1, &b->fc2 };
    SWIN_TRY(reload_norm(net, &b->norm1, w->norm1_weight, w->norm1_bias, c));
    SWIN_TRY(reload_norm(net, &b->norm2, w->norm2_weight, w->norm2_bias, c));
    for (size_t k = 0; k < SWIN_COUNT(all); k++) net->ops->linear_release(net->dev, &all[k]->l);
    return put_layers(net, b, stage, block, w);
}

swin_status net_reload_merge(swin_net *net, int stage, const swin_stage_weights *w)
{
    net_stage *s = &net->stages[stage];
    const int c = s->shape.channels;
    SWIN_TRY(reload_norm(net, &s->merge_norm, w->merge_norm_weight, w->merge_norm_bias,
                         merge_norm_width(net, stage)));
    net->ops->linear_release(net->dev, &s->reduction.l);
    return net_put_layer(net, &s->reduction, stage, 0, SWIN_SITE_REDUCTION_INPUT, w->reduction_weight, NULL,
                         2 * c, 4 * c);
}

static swin_status build(swin_net *net, const swin_weights *w)
{
    const swin_config *c = &net->config;
    const int last = c->embed_dim << (c->num_stages - 1), patch = c->patch_size;
    SWIN_TRY(put_linear(net, &net->patch_proj, w->patch_weight, w->patch_bias, c->embed_dim,
                        c->in_chans * patch * patch));
    net->patch = (swin_patch_embed){
        .patch = patch, .in_chans = c->in_chans, .channels = c->embed_dim, .proj = &net->patch_proj
    };
    SWIN_TRY(put_norm(net, &net->patch.norm, w->patch_norm_weight, w->patch_norm_bias, c->embed_dim));
    for (int i = 0; i < c->num_stages; i++) SWIN_TRY(build_stage(net, i, &w->stages[i]));
    SWIN_TRY(put_norm(net, &net->norm, w->norm_weight, w->norm_bias, last));
    return put_linear(net, &net->head, w->head_weight, w->head_bias, c->num_classes, last);
}

/* V2's logit scales and the position bias that its small network makes are float32 in every precision. */
static void keep_tables(swin_block_weights *b, const swin_block_weights *from, int heads)
{
    const size_t n = (size_t)heads, hidden = SWIN_CPB_HIDDEN;
    memcpy(b->logit_scale, from->logit_scale, n * sizeof(float));
    memcpy(b->cpb0_weight, from->cpb0_weight, 2 * hidden * sizeof(float));
    memcpy(b->cpb0_bias, from->cpb0_bias, hidden * sizeof(float));
    memcpy(b->cpb2_weight, from->cpb2_weight, n * hidden * sizeof(float));
}

static swin_status round_weights(swin_weights *rounded, const swin_weights *w, const swin_config *c,
                                 swin_dtype dtype)
{
    SWIN_TRY(swin_weights_clone(rounded, w, c));
    for (size_t i = 0; i < rounded->count; i++) rounded->block[i] = swin_round_to(rounded->block[i], dtype);
    for (int s = 0; c->family == SWIN_V2 && s < c->num_stages; s++)
        for (int b = 0; b < c->depths[s]; b++)
            keep_tables(&rounded->stages[s].blocks[b], &w->stages[s].blocks[b], c->heads[s]);
    return SWIN_OK;
}

swin_status swin_net_create(swin_net **out, swin_dev *dev, const swin_config *c, const swin_weights *w,
                            const swin_net_opts *opts)
{
    *out = NULL;
    if (c->family == SWIN_V2 && !dev->ops->normalise_heads)
        return swin_fail(SWIN_ERR_UNSUPPORTED,
                         "%s: the %s backend cannot run Swin V2 yet; take --backend cpu", c->name,
                         dev->ops->name);
    if (opts->plan && !dev->ops->linear_s8)
        return swin_fail(SWIN_ERR_UNSUPPORTED, "int8: the %s backend has no integer network yet",
                         dev->ops->name);
    swin_net *net = calloc(1, sizeof *net);
    if (!net) return swin_fail(SWIN_ERR_MEM, "no memory for a network");
    *net = (swin_net){ .dev = dev, .ops = dev->ops, .config = *c, .opts = *opts };
    net->emulate = opts->dtype != SWIN_F32 && !dev->ops->native_half;
    net->act = net->emulate ? SWIN_F32 : opts->dtype;

    swin_weights rounded = { 0 };
    swin_status st = SWIN_OK;
    if (net->emulate) { st = round_weights(&rounded, w, c, opts->dtype); }
    if (st == SWIN_OK) st = build(net, net->emulate ? &rounded : w);
    swin_weights_free(&rounded);
    if (st != SWIN_OK) {
        swin_net_free(net);
        return st;
    }
    net->planned = opts->plan != NULL;
    net->opts.plan = NULL; /* the caller's; all that was needed of it is in the layers */
    *out = net;
    return SWIN_OK;
}

/* ---- activations --------------------------------------------------------------------------------------------- */

static void drop(swin_net *net, void **p)
{
    net->ops->free(net->dev, *p);
    *p = NULL;
}

static void drop_activations(swin_net *net)
{
    net_drop_replays(net);
    void *images = net->images, *second = net->second;
    drop(net, &images);
    drop(net, &second);
    net->images = net->second = NULL;
    void **all[] = { &net->x[0],   &net->x[1],   &net->normed, &net->wide,
                     &net->narrow, &net->scores, &net->pooled, &net->logits };
    for (size_t i = 0; i < SWIN_COUNT(all); i++) drop(net, all[i]);
    free(net->host_logits);
    net->host_logits = NULL;
    for (int i = 0; i < 2; i++) free(net->held[i]), net->held[i] = NULL;
    net->in_flight = net->turn = 0;
    net->capacity = 0;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t tokens_of(const swin_stage *s)
{
    return (size_t)s->resolution * s->resolution;
}

static size_t wide_of(const swin_stage *s)
{
    return (size_t)(3 * s->channels > s->hidden ? 3 * s->channels : s->hidden);
}

static void choose_chunks(swin_net *net, int batch)
{
    for (int i = 0; i < net->config.num_stages; i++) {
        net_stage *s = &net->stages[i];
        const size_t per_image = tokens_of(&s->shape) * (2 * (size_t)s->shape.channels + wide_of(&s->shape));
        int chunk = net->opts.chunk;
        if (chunk <= 0) chunk = net->ops->chunk(net->dev, per_image * swin_dtype_size(net->act), batch);
        s->chunk = chunk < 1 ? 1 : chunk > batch ? batch : chunk;
    }
}

static bool has_raw_operands(const swin_net *net)
{
    for (int i = 0; i < net->config.num_stages; i++)
        for (int b = 0; b < net->stages[i].shape.depth; b++)
            if (net->stages[i].blocks[b].head_scale && net->stages[i].blocks[b].attention_integer)
                return true;
    return false;
}

static swin_status alloc_activations(swin_net *net, int batch)
{
    const swin_config *c = &net->config;
    const swin_ops *ops = net->ops;
    const size_t unit = swin_dtype_size(net->act), images = (size_t)batch;
    size_t stream[2] = { 0, 0 }, normed = 0, narrow = 0, wide = 0;
    for (int i = 0; i < c->num_stages; i++) {
        const swin_stage *s = &net->stages[i].shape;
        const size_t tokens = tokens_of(s), rows = tokens * (size_t)net->stages[i].chunk;
        stream[i & 1] = larger(stream[i & 1], images * tokens * (size_t)s->channels);
        normed = larger(normed, rows * (size_t)s->channels);
        narrow =
            larger(narrow, rows * larger(4 * (size_t)s->channels, wide_of(s))); /* bytes: floats, or codes */
        wide = larger(wide, rows * wide_of(s));
    }
    const size_t last = (size_t)(c->embed_dim << (c->num_stages - 1)), classes = (size_t)c->num_classes;
    void *copy = NULL;
    SWIN_TRY(ops->alloc(net->dev, &copy,
                        images * (size_t)c->in_chans * (size_t)c->image_size * (size_t)c->image_size *
                            sizeof(float)));
    net->images = copy;
    SWIN_TRY(ops->alloc(net->dev, &net->x[0], stream[0] * unit));
    if (stream[1]) SWIN_TRY(ops->alloc(net->dev, &net->x[1], stream[1] * unit));
    SWIN_TRY(ops->alloc(net->dev, &net->normed, normed * unit));
    SWIN_TRY(ops->alloc(net->dev, &net->narrow, narrow));
    /* V2's integer attention reads queries and keys as float32 before it normalises them. */
    SWIN_TRY(ops->alloc(net->dev, &net->wide, wide * (has_raw_operands(net) ? sizeof(float) : unit)));
    SWIN_TRY(ops->alloc(net->dev, &net->pooled, images * last * unit));
    SWIN_TRY(ops->alloc(net->dev, &net->logits, images * classes * unit));
    net->host_logits = malloc(images * classes * unit);
    if (!net->host_logits) return swin_fail(SWIN_ERR_MEM, "no memory for %d rows of logits", batch);
    net->capacity = batch;
    return SWIN_OK;
}

static swin_status alloc_scores(swin_net *net)
{
    size_t scores = 0;
    for (int i = 0; i < net->config.num_stages; i++) {
        const swin_stage *s = &net->stages[i].shape;
        const size_t n = (size_t)s->window * s->window;
        scores = larger(scores, (size_t)net->stages[i].chunk * tokens_of(s) * (size_t)s->heads * n);
    }
    return net->ops->alloc(net->dev, &net->scores, scores * swin_dtype_size(net->act));
}

swin_status net_reserve(swin_net *net, int batch, bool with_scores)
{
    swin_status st = SWIN_OK;
    if (batch > net->capacity) {
        drop_activations(net);
        choose_chunks(net, batch);
        st = alloc_activations(net, batch);
    }
    if (st == SWIN_OK && with_scores && !net->scores) st = alloc_scores(net);
    if (st != SWIN_OK) drop_activations(net);
    return st;
}

/* ---- forward ------------------------------------------------------------------------------------------------- */

swin_status swin_net_forward_device(swin_net *net, const float *images, int batch, swin_tensor *logits,
                                    const swin_tap *tap)
{
    if (batch < 1) return swin_fail(SWIN_ERR_VALUE, "a batch of %d images", batch);
    SWIN_TRY(net_reserve(net, batch, net_needs_scores(net, tap)));
    SWIN_TRY(net_run(net, images, batch, tap));
    *logits = swin_matrix(net->logits, net->act, batch, net->config.num_classes);
    return SWIN_OK;
}

swin_status swin_net_logits(swin_net *net, const swin_tensor *logits, float *host)
{
    const size_t n = (size_t)(logits->rows * logits->cols);
    if (net->act == SWIN_F32) return net->ops->download(net->dev, host, logits->data, n * sizeof *host);
    SWIN_TRY(net->ops->download(net->dev, net->host_logits, logits->data, n * swin_dtype_size(net->act)));
    swin_widen(host, net->host_logits, net->act, n);
    return SWIN_OK;
}

swin_status swin_net_forward(swin_net *net, const float *images, int batch, float *logits,
                             const swin_tap *tap)
{
    const swin_config *c = &net->config;
    if (batch < 1) return swin_fail(SWIN_ERR_VALUE, "a batch of %d images", batch);
    SWIN_TRY(net_reserve(net, batch, net_needs_scores(net, tap)));
    const size_t pixels = (size_t)batch * (size_t)c->in_chans * (size_t)c->image_size * (size_t)c->image_size;
    SWIN_TRY(net->ops->upload(net->dev, net->images, images, pixels * sizeof *images));
    swin_tensor out;
    SWIN_TRY(swin_net_forward_device(net, net->images, batch, &out, tap));
    return logits ? swin_net_logits(net, &out, logits) : SWIN_OK;
}

void swin_net_free(swin_net *net)
{
    if (!net) return;
    const swin_ops *ops = net->ops;
    drop_activations(net);
    for (int i = 0; i < net->config.num_stages; i++) {
        net_stage *s = &net->stages[i];
        for (int b = 0; s->blocks && b < s->shape.depth; b++) {
            net_layer *all[] = { &s->blocks[b].qkv, &s->blocks[b].proj, &s->blocks[b].fc1,
                                 &s->blocks[b].fc2 };
            for (size_t k = 0; k < SWIN_COUNT(all); k++) ops->linear_release(net->dev, &all[k]->l);
        }
        free(s->blocks);
        ops->linear_release(net->dev, &s->reduction.l);
    }
    ops->linear_release(net->dev, &net->patch_proj);
    ops->linear_release(net->dev, &net->head);
    for (size_t i = 0; i < net->nparams; i++) ops->free(net->dev, net->params[i]);
    free(net->params);
    free(net);
}

const swin_config *swin_net_config(const swin_net *net)
{
    return &net->config;
}

swin_dev *swin_net_dev(const swin_net *net)
{
    return net->dev;
}
