#include <stdlib.h>
#include <string.h>

#include "runtime/base/half.h"
#include "runtime/swin/net_impl.h"

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
    if (st == SWIN_OK) st = net_build(net, net->emulate ? &rounded : w);
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

/* ---- activations
 * --------------------------------------------------------------------------------------------- */

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

/* Some q, k and v are float32 before they become codes: V2's, before it normalises them, and those of a
 * float layer. */
static bool has_wide_operands(const swin_net *net)
{
    for (int i = 0; i < net->config.num_stages; i++)
        for (int b = 0; b < net->stages[i].shape.depth; b++)
            if (net->stages[i].blocks[b].attention_integer &&
                (net->stages[i].blocks[b].head_scale || !net->stages[i].blocks[b].qkv.integer))
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
    SWIN_TRY(ops->alloc(net->dev, &net->wide, wide * (has_wide_operands(net) ? sizeof(float) : unit)));
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

/* ---- forward
 * ------------------------------------------------------------------------------------------------- */

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
