/* The one model walk. Every precision and every backend goes through it; calibration, fake quantization and dumps are
 * taps. Formulas and order: reference/swin.md section 1. */
#include <stdio.h>

#include "runtime/swin/forward_impl.h"

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
            !b->fc2.integer || !unwatched(w, SWIN_SITE_LAYERNORM_INPUT1, SWIN_SITE_ADD2_LOCAL))
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
                                  .qkv = net_fused_layer(&b->qkv),
                                  .proj = net_fused_layer(&b->proj),
                                  .fc1 = net_fused_layer(&b->fc1),
                                  .fc2 = net_fused_layer(&b->fc2),
                                  .attention = b->attention,
                                  .prob_scale = b->prob_scale,
                                  .shift = b->shift,
                                  .head_scale = b->head_scale };
        for (int i = 0; i < 3; i++) all[k].parts[i] = operand_codes(NULL, 0, 0, b, i);
        for (int i = 0; i < 2; i++) all[k].raw[i] = net_raw_codes(b, i);
    }
    open_range(w, "blocks");
    const swin_status st = close_range(w, w->ops->blocks_s8(w->dev, x, all, count, g));
    if (st == SWIN_ERR_UNSUPPORTED) return SWIN_OK;
    *w->coded = false; /* what a half left of the stream is no longer its codes */
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
        SWIN_TRY(close_range(w, net_attention_half(w, b, &x, &g)));
        open_range(w, "mlp half");
        SWIN_TRY(close_range(w, net_mlp_half(w, b, &x)));
        SWIN_TRY(touch(w, SWIN_SITE_BLOCK_OUT, &x));
    }
    w->block = 0;
    if (end <= s->shape.depth) return SWIN_OK;
    if (!s->shape.merge) return pool(w, &x, tokens);
    swin_tensor next = activation(w, w->net->x[(stage + 1) & 1], (int64_t)w->batch * tokens / 4, 2 * c);
    swin_tensor out = swin_rows(&next, (int64_t)w->image * tokens / 4, (int64_t)w->images * tokens / 4);
    return net_merge(w, s, &out, &x, &g);
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
