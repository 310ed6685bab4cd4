/* Ranges by what they are for: the clipping with the smallest error of the GEMM that reads the tensor, on sampled inputs. A
 * GEMM's own output (modes 1 and 2) is judged by the error that it hands on. See recover_view.c for what an error counts. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "calib/calibrator.h"
#include "calib/recover_impl.h"
#include "runtime/base/log.h"
#include "runtime/swin/outputs.h"

/* What cutting a range costs hangs on few large values: 2,048 rows find half a decibel that 512 do not. */
enum { STEPS = 28, ROWS = 4 * RECOVER_ROWS };
static const double ratio = 0.92; /* the last candidate is a tenth of the range */

static swin_site_record *record_of(const recover_view *v, swin_site_kind kind)
{
    const int i = swin_site_index(v->r->config, swin_site_make(v->stage, v->block, kind));
    return i < 0 ? NULL : &v->r->f->sites[i];
}

static swin_status candidate(swin_quant *q, float *amax, const recover_view *v, const swin_site_record *s,
                             int i)
{
    *amax = (float)(fmax(-(double)s->min, (double)s->max) * pow(ratio, i));
    return swin_quant_derive(q, v->r->f->mode, s->site, *amax, s->min, s->max);
}

static swin_status settle(const recover_view *v, swin_site_record *s, float amax, int *count)
{
    char name[SWIN_SITE_NAME_MAX];
    swin_site_name(s->site, name);
    swin_detail("  %-44s %10.4g -> %-10.4g of %g", name, (double)s->amax, (double)amax,
                fmax(-(double)s->min, (double)s->max));
    *count += amax != s->amax;
    s->amax = amax;
    return swin_quant_derive(&s->q, v->r->f->mode, s->site, amax, s->min, s->max);
}

/* ---- candidates by estimate, on all threads ------------------------------------------------------------------------ */

typedef struct trial {
    const recover_view *v;
    const swin_site_record *s;
    const recover_gemm *g; /* what reads the tensor; NULL: channels count by themselves */
    const float *y;        /* [rows][ld], columns [0, n) */
    int rows, n, ld;
    const double *importance;     /* [n] */
    const recover_stream *stream; /* in place of all these: judged behind the next LayerNorm */
    double error[STEPS];
} trial;

static swin_status try_range(void *user, size_t i, int worker)
{
    (void)worker;
    trial *t = user;
    float amax;
    swin_quant q;
    SWIN_TRY(candidate(&q, &amax, t->v, t->s, (int)i));
    if (t->stream) return recover_stream_error(&t->error[i], t->stream, &q);
    if (t->g) return recover_input_estimates(&t->error[i], t->g, NULL, &q, 1);
    recover_column_errors(&t->error[i], &q, 1, t->y, t->rows, t->n, t->ld, NULL, t->importance,
                          swin_site_kind_of(t->s->site) != SWIN_SITE_MATMUL_Q);
    return SWIN_OK;
}

static int least(const double error[STEPS])
{
    int best = 0;
    for (int i = 1; i < STEPS; i++) best = error[i] < error[best] ? i : best;
    return best;
}

/* A tensor that a Linear reads. */
static swin_status input_range(recover_view *v, swin_site_kind kind, const recover_samples *x, const float *w,
                               int n, const float *importance, int *count)
{
    swin_site_record *s = record_of(v, kind);
    float best_amax = s->amax;
    double best = INFINITY;
    recover_gemm g;
    if (!s->enabled) return SWIN_OK;
    SWIN_TRY(recover_gemm_init(&g, v->r, x, w, n, importance));
    trial t = { .v = v, .s = s, .g = &g };
    swin_status st = swin_pool_run(v->r->pool, STEPS, try_range, &t);
    const double low = st == SWIN_OK ? t.error[least(t.error)] : 0;
    for (int i = 0; st == SWIN_OK && i < STEPS; i++) { /* only what could be best is measured */
        float amax;
        double error;
        swin_quant q;
        if (t.error[i] > 1.3 * low) continue;
        st = candidate(&q, &amax, v, s, i);
        if (st == SWIN_OK) st = recover_input_error(&g, NULL, &q, &error);
        if (st == SWIN_OK && error < best) {
            best = error;
            best_amax = amax;
        }
    }
    recover_gemm_free(&g);
    return st == SWIN_OK ? settle(v, s, best_amax, count) : st;
}

/* A tensor whose channels' errors count by themselves. y: columns, ld apart. */
static swin_status column_range(recover_view *v, swin_site_kind kind, const float *y, int rows, int n, int ld,
                                const double *importance, int *count)
{
    swin_site_record *s = record_of(v, kind);
    float amax;
    swin_quant q;
    if (!s->enabled) return SWIN_OK;
    trial t = { .v = v, .s = s, .y = y, .rows = rows, .n = n, .ld = ld, .importance = importance };
    SWIN_TRY(swin_pool_run(v->r->pool, STEPS, try_range, &t));
    SWIN_TRY(candidate(&q, &amax, v, s, least(t.error)));
    return settle(v, s, amax, count);
}

/* No sample tells more than the histogram does. */
static swin_status histogram_range(recover_view *v, swin_site_kind kind, int *count)
{
    swin_site_record *s = record_of(v, kind);
    float amax;
    if (!s || !s->enabled || s->q.qmin == 0) return SWIN_OK; /* mode 3's softmax has no range */
    const swin_site_stats seen = { .count = s->count,
                                   .nonfinite = s->nonfinite,
                                   .min = s->min,
                                   .max = s->max,
                                   .bin_width = s->bin_width,
                                   .hist_abs = s->hist_abs,
                                   .bins = s->bins,
                                   .hist = s->hist };
    SWIN_TRY(swin_calibrate_site(swin_calibrator_find("mse"), &(swin_calibrator_opts){ 0 }, &seen, &amax));
    return settle(v, s, amax, count);
}

/* What a GEMM gives before its bias. importance NULL: 1 each. */
static swin_status product_range(recover_view *v, swin_site_kind kind, const recover_samples *x,
                                 const float *w, int n, const float *importance, int *count)
{
    if (!record_of(v, kind)->enabled) return SWIN_OK;
    float *y = malloc((size_t)x->rows * (size_t)n * sizeof *y);
    double *weight = malloc((size_t)n * sizeof *weight);
    swin_status st = y && weight ? recover_linear(v->r, y, x->x, x->rows, w, NULL, n, x->cols)
                                 : swin_fail(SWIN_ERR_MEM, "--recover: no memory for %d x %d", x->rows, n);
    for (int i = 0; st == SWIN_OK && i < n; i++) weight[i] = importance ? (double)importance[i] : 1;
    if (st == SWIN_OK) st = column_range(v, kind, y, x->rows, n, n, weight, count);
    free(y);
    free(weight);
    return st;
}

/* What fc2 or a merge gives before its bias. */
static swin_status stream_range(recover_view *v, const recover_stream *stream, int *count)
{
    swin_site_record *s = record_of(v, swin_site_kind_of(stream->product));
    float amax;
    swin_quant q;
    if (!s->enabled) return SWIN_OK;
    trial t = { .v = v, .s = s, .stream = stream };
    SWIN_TRY(swin_pool_run(v->r->pool, STEPS, try_range, &t));
    SWIN_TRY(candidate(&q, &amax, v, s, least(t.error)));
    return settle(v, s, amax, count);
}

typedef struct layer {
    swin_site_kind input;
    const recover_samples *x;
    const float *w;
    int n;
    const float *importance;
} layer;

static swin_status layer_input_range(recover_view *v, const layer *l, int *count)
{
    return input_range(v, l->input, l->x, l->w, l->n, l->importance, count);
}

static swin_status layer_ranges(recover_view *v, const layer *l, int *count)
{
    SWIN_TRY(layer_input_range(v, l, count));
    return product_range(v, l->input + 2, l->x, l->w, l->n, l->importance, count);
}

/* A key with a large value is one that queries look at: what cutting it does to their probabilities is worth more than the
 * average that importances are. On the shared checkpoint keys alone made 1.4 dB more noise cut than whole (int8-mode 3; modes 1
 * and 2 round q, k and v by one range before, and gain nothing). */
static swin_status key_range(recover_view *v, int *count)
{
    swin_site_record *s = record_of(v, SWIN_SITE_MATMUL_K);
    const int c = v->shape.channels;
    float amax;
    swin_quant q;
    if (!s->enabled) return SWIN_OK;
    if (v->r->f->mode != SWIN_INT8_MODE_3)
        return column_range(v, SWIN_SITE_MATMUL_K, v->y + c, v->qkv.rows, c, 3 * c, v->k_importance, count);
    SWIN_TRY(candidate(&q, &amax, v, s, 0));
    return settle(v, s, amax, count);
}

static swin_status operand_ranges(recover_view *v, int *count)
{
    const int c = v->shape.channels, ld = 3 * c, rows = v->qkv.rows;
    SWIN_TRY(column_range(v, SWIN_SITE_MATMUL_Q, v->y, rows, c, ld, v->q_importance, count));
    SWIN_TRY(key_range(v, count));
    SWIN_TRY(column_range(v, SWIN_SITE_MATMUL_V, v->y + 2 * c, rows, c, ld, v->v_importance, count));
    SWIN_TRY(histogram_range(v, SWIN_SITE_MHA_Q, count));
    SWIN_TRY(histogram_range(v, SWIN_SITE_MHA_K, count));
    return histogram_range(v, SWIN_SITE_MATMUL_A, count);
}

static swin_status block_ranges(recover_view *v, int *count)
{
    const swin_block_weights *b = v->b;
    const int c = v->shape.channels, hidden = v->shape.hidden;
    SWIN_TRY(recover_view_measure(v));
    const layer layers[] = {
        { SWIN_SITE_QKV_INPUT, &v->qkv, b->qkv_weight, 3 * c, v->qkv_importance },
        { SWIN_SITE_PROJ_INPUT, &v->proj, b->proj_weight, c, NULL },
        { SWIN_SITE_FC1_INPUT, &v->fc1, b->fc1_weight, hidden, v->fc1_importance },
    };
    const layer fc2 = { SWIN_SITE_FC2_INPUT, &v->fc2, b->fc2_weight, c, NULL };
    for (size_t i = 0; i < SWIN_COUNT(layers); i++) SWIN_TRY(layer_ranges(v, &layers[i], count));
    SWIN_TRY(layer_input_range(v, &fc2, count));
    return operand_ranges(v, count);
}

static swin_status merge_ranges(recover_view *v, int *count)
{
    const int out = 2 * v->shape.channels;
    float *worth = malloc((size_t)out * sizeof *worth);
    if (!worth) return swin_fail(SWIN_ERR_MEM, "--recover: no memory for %d channels", out);
    const layer l = { SWIN_SITE_REDUCTION_INPUT, &v->qkv, v->r->w.stages[v->stage].reduction_weight, out,
                      worth };
    swin_status st = recover_merge_worth(worth, v->r, v->stage);
    if (st == SWIN_OK) st = layer_input_range(v, &l, count);
    free(worth);
    return st;
}

/* The block or merge that k stands before. */
static swin_status part_ranges(recover_walk *k, int *count)
{
    recover_view v = { 0 };
    recover_stream stream = { 0 };
    const bool rounds = k->r->f->mode == SWIN_INT8_MODE_1;
    swin_status st = rounds ? recover_stream_open(&stream, k, ROWS, 2) : SWIN_OK;
    if (st == SWIN_OK) st = recover_view_open(&v, k, ROWS, 2);
    if (st == SWIN_OK) {
        st = v.merge ? merge_ranges(&v, count) : block_ranges(&v, count);
        if (st == SWIN_OK && rounds) st = stream_range(&v, &stream, count);
        recover_view_close(&v);
    }
    recover_stream_close(&stream);
    return st;
}

static swin_status ranges(swin_recover *r, char *changed, size_t size)
{
    const int parts = swin_output_count(r->config);
    int count = 0;
    swin_net *net;
    recover_walk k = { 0 };
    SWIN_TRY(recover_net(r, &net));
    swin_status st = recover_walk_begin(&k, r, net, NULL);
    while (st == SWIN_OK && k.part < parts - 1) st = part_ranges(&k, &count);
    snprintf(changed, size, "%d ranges", count);
    recover_walk_end(&k);
    return st;
}

const swin_recover_method swin_recover_ranges = {
    .name = "ranges",
    .help = "ranges with the smallest error of the GEMM that reads the tensor",
    .levels = SWIN_RECOVER_FAST | SWIN_RECOVER_BEST,
    .when = SWIN_RECOVER_AFTER,
    .follows = true,
    .run = ranges,
};
