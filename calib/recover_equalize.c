/* Equalization: channels of a GEMM's input are divided by c and the weight's columns multiplied, so that no channel needs a
 * range that the others must share. Exact in float: c goes into what makes the channel.
 *
 *   LayerNorm's gain and shift       -> qkv, fc1, reduction (V1; in V2 the residual stream itself comes in)
 *   rows of V, their bias            -> proj
 *   rows of Q, their bias            -> rows of K (V1; V2 normalises both)
 *   GELU's output, inside its kernel -> fc2 (int8-mode 3, on a backend whose engine applies factors: ops->shrinks)
 *
 * c_k = (input's range)^a / (largest weight)^(1 - a); each a from 0 to 1 is tried with several clippings, estimated channel
 * by channel; the best few, and c = 1, are measured on the sampled inputs through the layer. Channels scaled against each
 * other by whoever made the checkpoint give the same candidates, so they do not matter.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calib/recover_impl.h"
#include "runtime/swin/outputs.h"

enum { STRENGTHS = RECOVER_STRENGTHS, MEASURED = 3 };

const float recover_clips[RECOVER_CLIPS] = { 1.25f, 1.0f, 0.9f, 0.8f, 0.7f, 0.6f, 0.5f, 0.4f };

/* ---- candidates --------------------------------------------------------------------------------------------------- */

/* A channel that is all but dead counts as if its input times its weight were this share of the largest such product: far
 * below what 8 bits can use. The products do not change when channels are scaled, so neither does what is dead. */
static const double dead = 1e-9;

static double factor_of(double x, double w, double least, double strength)
{
    if (!(least > 0)) return 1;
    if (!(x > 0)) return w > 0 ? pow(least, strength) / w : 1;
    if (!(w > 0)) return x / pow(least, 1 - strength);
    const double raised = fmax(1.0, least / (x * w));
    return pow(x, strength) / pow(w, 1 - strength) * pow(raised, strength - 0.5);
}

void recover_factors(float *c, const float *x, const float *w, int k, double strength)
{
    double log_sum = 0, most = 0;
    for (int i = 0; i < k; i++) most = fmax(most, (double)x[i] * (double)w[i]);
    for (int i = 0; i < k; i++) {
        const double f = factor_of((double)x[i], (double)w[i], dead * most, strength);
        c[i] = (float)fmin(fmax(f, 1e-30), 1e30);
        log_sum += log(f);
    }
    const double middle = exp(log_sum / k); /* one common factor changes nothing: keep sizes as they are */
    for (int i = 0; i < k; i++) c[i] = (float)fmin(fmax((double)c[i] / middle, 1e-15), 1e15);
}

/* `clip` is in terms of the columns' own ranges, `top`. */
swin_status recover_quantizer(swin_quant *q, const swin_recover *r, swin_site site, const float *lo,
                              const float *hi, const float *top, const float *c, int k, float clip)
{
    float min = 0, max = 0, amax = 0;
    for (int i = 0; i < k; i++) {
        min = fminf(min, c ? lo[i] / c[i] : lo[i]);
        max = fmaxf(max, c ? hi[i] / c[i] : hi[i]);
        amax = fmaxf(amax, c ? top[i] / c[i] : top[i]);
    }
    amax *= clip;
    if (!(amax > 1e-30f)) amax = 1e-30f; /* a dead input */
    return swin_quant_derive(q, r->f->mode, site, amax, min, max);
}

typedef struct candidate {
    float *c; /* owned; NULL: no change */
    swin_quant q;
    double error;
    swin_status st;
} candidate;

typedef struct search {
    recover_gemm *g;
    const recover_samples *x;
    float *top; /* owned: [k] the best range of each of the inputs' columns by itself */
    swin_site site;
    candidate all[STRENGTHS + 1];
} search;

/* The best clipping of one strength, by estimate. */
static swin_status estimate(void *user, size_t i, int worker)
{
    (void)worker;
    search *s = user;
    const recover_gemm *g = s->g;
    candidate *a = &s->all[i];
    if (a->c) recover_factors(a->c, s->top, g->w_amax, g->k, (double)i / (STRENGTHS - 1));
    double weights, input[RECOVER_CLIPS];
    swin_quant q[RECOVER_CLIPS];
    SWIN_TRY(recover_weight_estimate(&weights, g, a->c));
    for (int t = 0; t < RECOVER_CLIPS; t++)
        SWIN_TRY(recover_quantizer(&q[t], g->r, s->site, s->x->lo, s->x->hi, s->top, a->c, g->k,
                                   recover_clips[t]));
    SWIN_TRY(recover_input_estimates(input, g, a->c, q, RECOVER_CLIPS));
    a->error = INFINITY;
    for (int t = 0; t < RECOVER_CLIPS; t++)
        if (weights + input[t] < a->error) {
            a->error = weights + input[t];
            a->q = q[t];
        }
    return SWIN_OK;
}

static int by_error(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    return (x->error > y->error) - (x->error < y->error);
}

/* Measure the best candidates and no change, whatever its estimate; the winner comes first. */
static swin_status measure(search *s)
{
    candidate same = s->all[STRENGTHS];
    qsort(s->all, STRENGTHS, sizeof *s->all, by_error);
    candidate swap = s->all[MEASURED];
    s->all[MEASURED] = same;
    s->all[STRENGTHS] = swap;
    for (int i = 0; i <= MEASURED; i++) {
        double input, weight;
        SWIN_TRY(recover_input_error(s->g, s->all[i].c, &s->all[i].q, &input));
        SWIN_TRY(recover_weight_error(s->g, s->all[i].c, &weight));
        s->all[i].error = input + weight;
    }
    qsort(s->all, MEASURED + 1, sizeof *s->all, by_error);
    return SWIN_OK;
}

/* The factors for the input of one layer into c [k]; *changed: they are not all 1. */
static swin_status choose(float *c, bool *changed, recover_view *v, swin_site site, const recover_samples *x,
                          const float *w, int n, const float *importance)
{
    recover_gemm g;
    SWIN_TRY(recover_gemm_init(&g, v->r, x, w, n, importance));
    search s = { .g = &g, .x = x, .site = site };
    swin_status st = SWIN_OK;
    s.top = malloc((size_t)g.k * sizeof *s.top);
    if (!s.top) st = swin_fail(SWIN_ERR_MEM, "--recover: no memory for %d channels", g.k);
    if (s.top) st = recover_column_ranges(v->r, s.top, x->x, x->rows, x->cols, x->cols, x->lo, x->hi);
    for (int i = 0; st == SWIN_OK && i < STRENGTHS; i++)
        if (!(s.all[i].c = malloc((size_t)g.k * sizeof(float))))
            st = swin_fail(SWIN_ERR_MEM, "--recover: no memory for %d factors", g.k);
    if (st == SWIN_OK) st = swin_pool_run(v->r->pool, STRENGTHS + 1, estimate, &s);
    if (st == SWIN_OK) st = measure(&s);
    *changed = st == SWIN_OK && s.all[0].c;
    if (*changed) memcpy(c, s.all[0].c, (size_t)g.k * sizeof *c);
    for (int i = 0; i <= STRENGTHS; i++) free(s.all[i].c);
    free(s.top);
    recover_gemm_free(&g);
    return st;
}

/* ---- folding ------------------------------------------------------------------------------------------------------ */

void recover_scale_columns(float *w, int rows, int cols, const float *c)
{
    for (int n = 0; n < rows; n++)
        for (int k = 0; k < cols; k++) w[(size_t)n * (size_t)cols + (size_t)k] *= c[k];
}

static void fold_norm(float *gamma, float *beta, float *w, int n, int k, const float *c)
{
    for (int i = 0; i < k; i++) {
        gamma[i] /= c[i];
        beta[i] /= c[i];
    }
    recover_scale_columns(w, n, k, c);
}

/* LayerNorm into the layer that it feeds; the samples follow. */
static swin_status fold_layer(recover_view *v, swin_site_kind kind, recover_samples *x, float *gamma,
                              float *beta, float *w, int n, const float *importance, int *count)
{
    bool changed = false;
    float *c = malloc((size_t)x->cols * sizeof *c);
    if (!c) return swin_fail(SWIN_ERR_MEM, "--recover: no memory for %d factors", x->cols);
    const swin_status st =
        choose(c, &changed, v, swin_site_make(v->stage, v->block, kind), x, w, n, importance);
    if (changed) {
        fold_norm(gamma, beta, w, n, x->cols, c);
        for (int i = 0; i < x->cols; i++) c[i] = 1 / c[i];
        recover_scale_columns(x->x, x->rows, x->cols, c);
        ++*count;
    }
    free(c);
    return st;
}

/* ---- GELU's output -------------------------------------------------------------------------------------------------- */

static swin_status factor_hidden(recover_view *v, int *count)
{
    const int c = v->shape.channels, hidden = v->shape.hidden;
    const swin_site site = swin_site_make(v->stage, v->block, SWIN_SITE_FC2_INPUT);
    swin_site_record *record = &v->r->f->sites[swin_site_index(v->r->config, site)];
    bool changed = false;
    float *factor = malloc((size_t)hidden * sizeof *factor);
    if (!factor) return swin_fail(SWIN_ERR_MEM, "--recover: no memory for %d factors", hidden);
    swin_status st = choose(factor, &changed, v, site, &v->fc2, v->b->fc2_weight, c, NULL);
    if (!changed) {
        free(factor);
        return st;
    }
    recover_scale_columns(v->b->fc2_weight, c, hidden, factor);
    free(record->factor);
    record->factor = factor;
    record->channels = hidden;
    ++*count;
    return st;
}

/* ---- the method ----------------------------------------------------------------------------------------------------- */

typedef struct counts {
    int norms, operands, hidden;
} counts;

static swin_status equalize_block(recover_view *v, counts *n)
{
    swin_block_weights *b = v->b;
    const int c = v->shape.channels, hidden = v->shape.hidden;
    SWIN_TRY(recover_view_measure(v));
    /* Calibrating where the engine cannot apply them would only make a file that it refuses. */
    if (v->r->f->mode == SWIN_INT8_MODE_3 && v->r->dev->ops->shrinks) SWIN_TRY(factor_hidden(v, &n->hidden));
    if (v->r->config->family == SWIN_V1) {
        SWIN_TRY(fold_layer(v, SWIN_SITE_FC1_INPUT, &v->fc1, b->norm2_weight, b->norm2_bias, b->fc1_weight,
                            hidden, v->fc1_importance, &n->norms));
        SWIN_TRY(fold_layer(v, SWIN_SITE_QKV_INPUT, &v->qkv, b->norm1_weight, b->norm1_bias, b->qkv_weight,
                            3 * c, v->qkv_importance, &n->norms));
    }
    return recover_balance(v, &n->operands);
}

static swin_status equalize_merge(recover_view *v, counts *n)
{
    swin_stage_weights *s = &v->r->w.stages[v->stage];
    const int out = 2 * v->shape.channels;
    if (v->r->config->family != SWIN_V1) return SWIN_OK;
    float *worth = malloc((size_t)out * sizeof *worth);
    if (!worth) return swin_fail(SWIN_ERR_MEM, "--recover: no memory for %d channels", out);
    swin_status st = recover_merge_worth(worth, v->r, v->stage);
    if (st == SWIN_OK)
        st = fold_layer(v, SWIN_SITE_REDUCTION_INPUT, &v->qkv, s->merge_norm_weight, s->merge_norm_bias,
                        s->reduction_weight, out, worth, &n->norms);
    free(worth);
    return st;
}

/* What a block hands on does not change, so one walk with the weights as they are before serves every block. */
static swin_status equalize(swin_recover *r, char *changed, size_t size)
{
    const int parts = swin_output_count(r->config);
    counts n = { 0 };
    swin_net *net;
    recover_walk k = { 0 };
    SWIN_TRY(recover_net(r, &net));
    swin_status st = recover_walk_begin(&k, r, net, NULL);
    while (st == SWIN_OK && k.part < parts - 1) {
        recover_view v;
        SWIN_TRY_GOTO(st, recover_view_open(&v, &k, RECOVER_ROWS, 1), done);
        st = v.merge ? equalize_merge(&v, &n) : equalize_block(&v, &n);
        recover_view_close(&v);
    }
    snprintf(changed, size, "%d norms, %d pairs of attention operands, %d GELU outputs", n.norms, n.operands,
             n.hidden);
done:
    recover_walk_end(&k);
    return st;
}

const swin_recover_method swin_recover_equalize = {
    .name = "equalize",
    .help = "channel scales folded into norms, V, K and weights, exact in float",
    .levels = SWIN_RECOVER_FAST | SWIN_RECOVER_BEST,
    .when = SWIN_RECOVER_BEFORE,
    .run = equalize,
};
