/* Scales of heads: attention multiplies and sums within a head, so each head's codes of q, k and v may have a scale of their
 * own, which our kernels apply for nothing (int8-mode 3). Equalization cannot do as much: in Swin V1 what a query is divided
 * by its key is multiplied by, so a head whose q and k are both small stays coarse beside others; in V2 the queries' logit
 * scales differ from head to head. Where heads get scales of their own, equalization of V1's queries and keys goes head by
 * head (recover_balance.c).
 *
 * q and v take the range with the least error of what reads them, the tensor's own among the candidates. Where to cut hangs on
 * few large values, which other images do not have: so a range is judged by the quarter of the images that gains least by it,
 * and no quarter's error grows. Keys are not cut: see recover_range.c.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calib/recover_impl.h"
#include "runtime/swin/outputs.h"

enum { ROWS = 4096, STEPS = 24, FOLDS = 4, SEED = 7 };
static const double ratio = 0.92; /* the last candidate is a seventh of the head's own range */

/* One block's q, k and v as attention reads them. */
typedef struct heads {
    swin_recover *r;
    swin_stage shape;
    const swin_block_weights *b;
    recover_samples x[3];
    swin_site_record *site[3];
    double *weight; /* owned: [3][C] what a channel's error counts beside the others of its head */
    float *scale;   /* owned: [3][heads] chosen */
} heads;

static void heads_free(heads *h)
{
    for (int p = 0; p < 3; p++) recover_samples_free(&h->x[p]);
    free(h->weight);
    free(h->scale);
}

/* out [cols] = sum of the squares of the columns of x; minus the square of their mean, summed, where `mean` [cols] is room for
 * it (NULL: not). */
static void column_squares(double *out, double *mean, const float *x, int rows, int cols)
{
    for (int k = 0; k < cols; k++) out[k] = 0;
    for (int k = 0; mean && k < cols; k++) mean[k] = 0;
    for (int r = 0; r < rows; r++, x += cols)
        for (int k = 0; k < cols; k++) {
            const double v = x[k];
            out[k] += v * v;
            if (mean) mean[k] += v / rows;
        }
    for (int k = 0; mean && k < cols; k++) out[k] -= rows * mean[k] * mean[k];
}

/* As recover_view.c has it, without what is common to a head: a query's error counts by the variance of its key, a value's by
 * what proj makes of it. V2's keys, normalised, are alike; keys are not judged, and their place is room. */
static void weigh(heads *h)
{
    const int c = h->shape.channels;
    column_squares(h->weight, h->weight + c, h->x[1].x, h->x[1].rows, c);
    for (int k = 0; h->b->logit_scale && k < c; k++) h->weight[k] = 1;
    column_squares(h->weight + 2 * c, NULL, h->b->proj_weight, c, c);
}

/* [STEPS] of one fold's rows; with very few images there may be none. */
static void errors_of(double *error, const swin_quant *q, const heads *h, int part, int at, int fold)
{
    const recover_samples *x = &h->x[part];
    const int d = h->shape.head_size, c = h->shape.channels, from = x->rows * fold / FOLDS,
              to = x->rows * (fold + 1) / FOLDS;
    memset(error, 0, STEPS * sizeof *error);
    for (int i = 0; i < STEPS && to > from; i += RECOVER_CLIPS)
        recover_column_errors(error + i, q + i, RECOVER_CLIPS, x->x + (size_t)from * (size_t)c + at,
                              to - from, d, c, NULL, h->weight + part * c + at, part == 2);
}

static swin_status choose_range(void *user, size_t task, int worker)
{
    (void)worker;
    const heads *h = user;
    const int part = (int)task / h->shape.heads, at = (int)task % h->shape.heads * h->shape.head_size;
    const recover_samples *x = &h->x[part];
    const swin_quant *tensors = &h->site[part]->q;
    float own = 0;
    int best = 0;
    double worst[STEPS] = { 0 };
    swin_quant q[STEPS];
    for (int k = at; k < at + h->shape.head_size; k++) own = fmaxf(own, fmaxf(-x->lo[k], x->hi[k]));
    if (part == 1) {
        h->scale[task] = own / 127.0f > 1e-6f * tensors->scale ? own / 127.0f : tensors->scale;
        return SWIN_OK;
    }
    for (int i = 0; i < STEPS; i++) {
        q[i] = *tensors;
        if (i > 0) q[i].scale = own * (float)pow(ratio, i - 1) / 127.0f;
        if (!(q[i].scale > 1e-6f * tensors->scale)) q[i] = *tensors; /* a dead head */
    }
    for (int fold = 0; fold < FOLDS; fold++) {
        double error[STEPS];
        errors_of(error, q, h, part, at, fold);
        for (int i = 0; i < STEPS; i++) worst[i] = fmax(worst[i], error[0] > 0 ? error[i] / error[0] : 1);
    }
    for (int i = 1; i < STEPS; i++) best = worst[i] < worst[best] ? i : best;
    h->scale[task] = q[best].scale;
    return SWIN_OK;
}

/* Into the file's record, a scale for each channel. */
static swin_status settle(const heads *h, int part)
{
    swin_site_record *s = h->site[part];
    const int c = h->shape.channels;
    float *scale = malloc((size_t)c * sizeof *scale);
    if (!scale) return swin_fail(SWIN_ERR_MEM, "--recover: no memory for %d channels", c);
    for (int k = 0; k < c; k++) scale[k] = h->scale[part * h->shape.heads + k / h->shape.head_size];
    free(s->channel_scale);
    s->channel_scale = scale;
    s->channels = c;
    return SWIN_OK;
}

static swin_status gather(heads *h, recover_walk *k, int stage, int block)
{
    static const swin_site_kind kinds[][3] = {
        [SWIN_V1] = { SWIN_SITE_MATMUL_Q, SWIN_SITE_MATMUL_K, SWIN_SITE_MATMUL_V },
        [SWIN_V2] = { SWIN_SITE_MHA_Q, SWIN_SITE_MHA_K, SWIN_SITE_MATMUL_V },
    };
    const int c = h->shape.channels;
    for (int p = 0; p < 3; p++) {
        const swin_site site = swin_site_make(stage, block, kinds[h->r->config->family][p]);
        h->site[p] = &h->r->f->sites[swin_site_index(h->r->config, site)];
        SWIN_TRY(recover_samples_init(&h->x[p], h->r, site, c, ROWS, SEED));
    }
    recover_gather g = { .r = h->r, .samples = h->x, .count = 3 };
    const swin_tap tap = recover_gather_tap(&g);
    return recover_walk_part(k, &tap, true);
}

static swin_status block_heads(recover_walk *k, int stage, int block, int *count)
{
    heads h = { .r = k->r, .shape = swin_config_stage(k->r->config, stage) };
    const size_t c = (size_t)h.shape.channels, n = 3 * (size_t)h.shape.heads;
    h.b = &k->r->w.stages[stage].blocks[block];
    h.weight = malloc(3 * c * sizeof *h.weight);
    h.scale = malloc(n * sizeof *h.scale);
    swin_status st = h.weight && h.scale
                         ? gather(&h, k, stage, block)
                         : swin_fail(SWIN_ERR_MEM, "--recover: no memory for %zu channels", c);
    if (st == SWIN_OK) weigh(&h);
    if (st == SWIN_OK) st = swin_pool_run(k->r->pool, n, choose_range, &h);
    for (int p = 0; st == SWIN_OK && p < 3; p++) {
        if (!h.site[p]->enabled) continue;
        st = settle(&h, p);
        *count += h.shape.heads;
    }
    heads_free(&h);
    return st;
}

static swin_status head_scales(swin_recover *r, char *changed, size_t size)
{
    const int parts = swin_output_count(r->config);
    int count = 0;
    swin_net *net = NULL;
    recover_walk k = { 0 };
    if (!r->dev->ops->shrinks) {
        snprintf(changed, size, "the %s backend has one scale for a tensor", r->dev->ops->name);
        return SWIN_OK;
    }
    SWIN_TRY(recover_net(r, &net));
    swin_status st = recover_walk_begin(&k, r, net, NULL);
    while (st == SWIN_OK && k.part < parts - 1) {
        const swin_site out = swin_output_at(r->config, k.part);
        st = swin_site_kind_of(out) == SWIN_SITE_MERGE_OUT
                 ? recover_walk_part(&k, NULL, true)
                 : block_heads(&k, swin_site_stage(out), swin_site_block(out), &count);
    }
    snprintf(changed, size, "%d scales of heads of q, k and v: not for per-tensor engines", count);
    recover_walk_end(&k);
    return st;
}

const swin_recover_method swin_recover_heads = {
    .name = "heads",
    .help = "each head of q, k and v has a scale of its own (int8-mode 3, our engines and onnx-qdq alone)",
    .levels = SWIN_RECOVER_BEST,
    .mode = SWIN_INT8_MODE_3,
    .when = SWIN_RECOVER_AFTER,
    .follows = true,
    .run = head_scales,
};
