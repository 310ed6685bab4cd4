/* A network's parameters: from weights to what the operators take. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/swin/net_impl.h"
#include "runtime/swin/tables.h"

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
    SWIN_TRY(net_plan_attention(net, b, stage, block));
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

/* A prepared layer holds its bias as it came. */
static swin_status reload_bias(swin_net *net, const swin_linear *l, const float *bias)
{
    if (!l->bias || !bias) return SWIN_OK;
    return net->ops->upload(net->dev, (void *)(uintptr_t)l->bias, bias, (size_t)l->out * sizeof *bias);
}

swin_status net_reload_biases(swin_net *net, int stage, int block, const swin_block_weights *w)
{
    net_block *b = &net->stages[stage].blocks[block];
    const int c = net->stages[stage].shape.channels;
    const float *bias;
    float *joined;
    SWIN_TRY(reload_norm(net, &b->norm1, w->norm1_weight, w->norm1_bias, c));
    SWIN_TRY(reload_norm(net, &b->norm2, w->norm2_weight, w->norm2_bias, c));
    SWIN_TRY(reload_bias(net, &b->proj.l, w->proj_bias));
    SWIN_TRY(reload_bias(net, &b->fc1.l, w->fc1_bias));
    SWIN_TRY(reload_bias(net, &b->fc2.l, w->fc2_bias));
    SWIN_TRY(qkv_bias(&bias, &joined, w, c));
    const swin_status st = reload_bias(net, &b->qkv.l, bias);
    free(joined);
    return st;
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

swin_status net_build(swin_net *net, const swin_weights *w)
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
