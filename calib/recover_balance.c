/* Equalization inside attention: channels of Q against K, of V against proj. See recover_equalize.c. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calib/recover_impl.h"

/* One of q, k, v in the samples: with bias, and as the product leaves the GEMM. */
typedef struct operand {
    const float *lo, *hi;                   /* [C] of columns, over all rows; borrowed */
    float *raw_lo, *raw_hi, *top, *raw_top; /* [C]; top: the ranges that suit each column by itself */
} operand;

enum { LEVELS = 6, CANDIDATES = RECOVER_STRENGTHS + LEVELS + 1 };

/* Steps of both operands, in terms of the least that cuts neither. */
static const double levels[LEVELS] = { 0.6, 0.75, 0.9, 1.0, 1.15, 1.35 };

typedef struct candidate {
    float *c, *inverse; /* [C] into the room's block */
    double *weight;     /* [C] */
    double error;
} candidate;

typedef struct room {
    recover_view *v;
    int at, n;  /* the channels that are balanced: all, or those of one head */
    float *raw; /* owned: [rows][3C] y without the bias; NULL in mode 3, which rounds no products */
    operand part[3];
    float *proj_top; /* [C] as top, of proj's input */
    candidate all[CANDIDATES];
    const recover_gemm *proj; /* while values are balanced */
    double *weights;          /* owned */
    float *block;             /* owned: all float vectors */
} room;

static void room_free(room *o)
{
    free(o->raw);
    free(o->weights);
    free(o->block);
}

static swin_status make_raw(room *o)
{
    const recover_view *v = o->v;
    if (v->r->f->mode == SWIN_INT8_MODE_3) return SWIN_OK;
    float *bias = recover_qkv_bias(v);
    const size_t cols = 3 * (size_t)o->n;
    o->raw = malloc((size_t)v->qkv.rows * cols * sizeof *o->raw);
    for (int r = 0; o->raw && bias && r < v->qkv.rows; r++)
        for (size_t i = 0; i < cols; i++) o->raw[(size_t)r * cols + i] = v->y[(size_t)r * cols + i] - bias[i];
    const bool ok = o->raw && bias;
    free(bias);
    return ok ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "--recover: no memory for %d samples", v->qkv.rows);
}

static swin_status room_alloc(room *o)
{
    const size_t n = (size_t)o->n;
    o->weights = malloc(CANDIDATES * n * sizeof *o->weights);
    o->block = malloc((12 + 1 + 2 * CANDIDATES) * n * sizeof *o->block);
    if (!o->weights || !o->block)
        return swin_fail(SWIN_ERR_MEM, "--recover: no memory for %d channels", o->n);
    float *at = o->block;
    for (int p = 0; p < 3; p++) {
        operand *a = &o->part[p];
        float **all[] = { &a->raw_lo, &a->raw_hi, &a->top, &a->raw_top };
        for (size_t i = 0; i < SWIN_COUNT(all); i++, at += n) *all[i] = at;
    }
    o->proj_top = at;
    for (size_t i = 0; i < CANDIDATES; i++) {
        o->all[i].c = (at += n);
        o->all[i].inverse = (at += n);
        o->all[i].weight = o->weights + i * n;
    }
    return SWIN_OK;
}

static swin_status room_make(room *o, recover_view *v)
{
    const size_t n = (size_t)v->shape.channels;
    *o = (room){ .v = v, .n = (int)n };
    SWIN_TRY(room_alloc(o));
    SWIN_TRY(make_raw(o));
    float *bias = recover_qkv_bias(v);
    swin_status st = bias ? SWIN_OK
                          : swin_fail(SWIN_ERR_MEM, "--recover: no memory for %d channels", 3 * o->n);
    for (int p = 0; st == SWIN_OK && p < 3; p++) {
        operand *a = &o->part[p];
        a->lo = v->operands[p].lo;
        a->hi = v->operands[p].hi;
        for (size_t i = 0; i < n; i++) {
            a->raw_lo[i] = fminf(0, a->lo[i] - bias[(size_t)p * n + i]);
            a->raw_hi[i] = fmaxf(0, a->hi[i] - bias[(size_t)p * n + i]);
            a->raw_top[i] = fmaxf(-a->raw_lo[i], a->raw_hi[i]);
        }
        st = recover_column_ranges(v->r, a->top, v->y + (size_t)p * n, v->qkv.rows, o->n, 3 * o->n, a->lo,
                                   a->hi);
        for (size_t i = 0; p == 1 && i < n && recover_heads_follow(v->r); i++)
            a->top[i] = fmaxf(-a->lo[i], a->hi[i]);
    }
    free(bias);
    if (st != SWIN_OK) return st;
    return recover_column_ranges(v->r, o->proj_top, v->proj.x, v->proj.rows, o->n, o->n, v->proj.lo,
                                 v->proj.hi);
}

static double least(const double *error, int count)
{
    double best = error[0];
    for (int t = 1; t < count; t++) best = fmin(best, error[t]);
    return best;
}

/* Smallest error over the clippings of values at a site, columns divided by c; keys are not cut (recover_range.c). An error that all queries share moves scores
 * by what differs from key to key, so queries' mean errors count; what all keys share, no softmax sees. */
static swin_status best_clip(double *best, const room *o, swin_site_kind kind, const float *y,
                             const float *lo, const float *hi, const float *top, const float *c,
                             const double *weight)
{
    const recover_view *v = o->v;
    const int at = o->at, count = kind == SWIN_SITE_MATMUL_K && recover_heads_follow(v->r)
                                      ? 2
                                      : RECOVER_CLIPS; /* the first two clips cut nothing */
    double error[RECOVER_CLIPS];
    swin_quant q[RECOVER_CLIPS];
    for (int t = 0; t < count; t++)
        SWIN_TRY(recover_quantizer(&q[t], v->r, swin_site_make(v->stage, v->block, kind), lo + at, hi + at,
                                   top + at, c, o->n, recover_clips[t]));
    recover_column_errors(error, q, count, y + at, v->qkv.rows, o->n, 3 * v->shape.channels, c, weight,
                          kind != SWIN_SITE_MATMUL_Q);
    *best = least(error, count);
    return SWIN_OK;
}

/* An operand's own error, and in modes 1 and 2 that of the rounding before the bias. */
static swin_status operand_error(double *error, const room *o, const candidate *k, int p, const float *c,
                                 const double *importance)
{
    static const swin_site_kind kinds[] = { SWIN_SITE_MATMUL_Q, SWIN_SITE_MATMUL_K, SWIN_SITE_MATMUL_V };
    const operand *a = &o->part[p];
    const int first = p * o->v->shape.channels;
    double product = 0;
    for (int i = 0; i < o->n; i++) k->weight[i] = importance[o->at + i] * (double)c[i] * (double)c[i];
    SWIN_TRY(best_clip(error, o, kinds[p], o->v->y + first, a->lo, a->hi, a->top, c, k->weight));
    if (o->raw)
        SWIN_TRY(best_clip(&product, o, SWIN_SITE_QKV_AFTERGEMM, o->raw + first, a->raw_lo, a->raw_hi,
                           a->raw_top, c, k->weight));
    *error += product;
    return SWIN_OK;
}

/* Queries divided by c, keys multiplied, both with the same step s (a common factor changes nothing). An error of a query
 * costs a, one of a key b: the sum of a c^2 + b / c^2 is least at c^4 = b / a; neither may leave 127 steps. */
static void meet(const room *o, float *c, double level)
{
    const recover_view *v = o->v;
    const float *q = o->part[0].top + o->at, *k = o->part[1].top + o->at;
    double widest = 0;
    for (int i = 0; i < o->n; i++) widest = fmax(widest, (double)q[i] * (double)k[i]);
    const double reach = level * sqrt(widest); /* 127 s */
    for (int i = 0; i < o->n; i++) {
        const double a = v->q_importance[o->at + i], b = v->k_importance[o->at + i];
        const double lo = q[i] / reach, hi = k[i] > 0 ? reach / (double)k[i] : INFINITY;
        double f = a > 0 && b > 0 ? pow(b / a, 0.25) : 1;
        f = lo > hi ? sqrt(lo * hi) : fmin(fmax(f, lo), hi);
        c[i] = f > 1e-6 && f < 1e6 ? (float)f : 1;
    }
}

/* Candidates for c from two ranges; the last is no change. */
static void fill(room *o, const float *x, const float *w, bool keys)
{
    for (int i = 0; i < CANDIDATES; i++) {
        candidate *k = &o->all[i];
        k->error = INFINITY;
        for (int j = 0; j < o->n; j++) k->c[j] = 1;
        if (i < RECOVER_STRENGTHS)
            recover_factors(k->c, x, w, o->n, (double)i / (RECOVER_STRENGTHS - 1));
        else if (keys && i < CANDIDATES - 1)
            meet(o, k->c, levels[i - RECOVER_STRENGTHS]);
        for (int j = 0; j < o->n; j++) k->inverse[j] = 1 / k->c[j];
    }
}

/* Try all on all threads: the best, NULL when that is no change. */
static swin_status choose(const candidate **best, room *o, swin_task task)
{
    SWIN_TRY(swin_pool_run(o->v->r->pool, CANDIDATES, task, o));
    *best = &o->all[CANDIDATES - 1];
    for (int i = 0; i < CANDIDATES; i++)
        if (o->all[i].error < (*best)->error) *best = &o->all[i];
    if (*best == &o->all[CANDIDATES - 1]) *best = NULL;
    return SWIN_OK;
}

static void scale_row(float *w, float *bias, int row, int cols, float factor)
{
    for (int k = 0; k < cols; k++) w[(size_t)row * (size_t)cols + (size_t)k] *= factor;
    if (bias) bias[row] *= factor;
}

static swin_status try_keys(void *user, size_t i, int worker)
{
    (void)worker;
    room *o = user;
    candidate *a = &o->all[i];
    double q, k;
    SWIN_TRY(operand_error(&q, o, a, 0, a->c, o->v->q_importance));
    SWIN_TRY(operand_error(&k, o, a, 1, a->inverse, o->v->k_importance));
    a->error = q + k;
    return SWIN_OK;
}

/* Channels [at, at + n). */
static swin_status balance_some_keys(room *o, int at, int n, bool *changed)
{
    const recover_view *v = o->v;
    const int c = v->shape.channels;
    const candidate *best;
    o->at = at, o->n = n;
    fill(o, o->part[0].top + at, o->part[1].top + at, true);
    SWIN_TRY(choose(&best, o, try_keys));
    for (int j = 0; best && j < n; j++) {
        scale_row(v->b->qkv_weight, v->b->qkv_bias, at + j, c, best->inverse[j]);
        scale_row(v->b->qkv_weight, v->b->qkv_bias, c + at + j, c, best->c[j]);
    }
    *changed = *changed || best;
    return SWIN_OK;
}

/* All channels against each other, or, where heads are given scales of their own afterwards, each head's. */
static swin_status balance_keys(room *o, int *count)
{
    const swin_stage *s = &o->v->shape;
    const int n = recover_heads_follow(o->v->r) ? s->head_size : s->channels;
    bool changed = false;
    for (int at = 0; at < s->channels; at += n) SWIN_TRY(balance_some_keys(o, at, n, &changed));
    o->at = 0, o->n = s->channels;
    *count += changed;
    return SWIN_OK;
}

static void divide_values(recover_view *v, const float *c)
{
    const int n = v->shape.channels;
    float *bias = v->b->qkv_bias ? v->b->qkv_bias + 2 * n : v->b->v_bias;
    for (int j = 0; j < n; j++) scale_row(v->b->qkv_weight + 2 * (size_t)n * (size_t)n, bias, j, n, 1 / c[j]);
    recover_scale_columns(v->b->proj_weight, n, n, c);
}

static swin_status proj_error(double *error, const room *o, const float *c)
{
    const swin_site site = swin_site_make(o->v->stage, o->v->block, SWIN_SITE_PROJ_INPUT);
    double weights, input[RECOVER_CLIPS];
    swin_quant q[RECOVER_CLIPS];
    for (int t = 0; t < RECOVER_CLIPS; t++)
        SWIN_TRY(recover_quantizer(&q[t], o->v->r, site, o->v->proj.lo, o->v->proj.hi, o->proj_top, c, o->n,
                                   recover_clips[t]));
    SWIN_TRY(recover_input_estimates(input, o->proj, c, q, RECOVER_CLIPS));
    SWIN_TRY(recover_weight_estimate(&weights, o->proj, c));
    *error = least(input, RECOVER_CLIPS) + weights;
    return SWIN_OK;
}

static swin_status try_values(void *user, size_t i, int worker)
{
    (void)worker;
    room *o = user;
    candidate *a = &o->all[i];
    double values, proj;
    SWIN_TRY(operand_error(&values, o, a, 2, a->c, o->v->v_importance));
    SWIN_TRY(proj_error(&proj, o, a->c));
    a->error = o->v->share * values + proj;
    return SWIN_OK;
}

/* Values divided by c, proj's columns multiplied: the values' own error counts besides that of proj's input. */
static swin_status balance_values(room *o, int *count)
{
    recover_view *v = o->v;
    recover_gemm g;
    const candidate *best = NULL;
    SWIN_TRY(recover_gemm_init(&g, v->r, &v->proj, v->b->proj_weight, o->n, NULL));
    o->proj = &g;
    fill(o, o->part[2].top, g.w_amax, false);
    const swin_status st = choose(&best, o, try_values);
    recover_gemm_free(&g);
    if (best) divide_values(v, best->c);
    *count += best != NULL;
    return st;
}

/* ---- one range for q, k and v ---------------------------------------------------------------------------------------- */

/* Largest product of columns [at, at + n). */
static float product_top(const float *raw, int rows, int ld, int at, int n)
{
    float top = 0;
    for (int r = 0; r < rows; r++)
        for (int i = at; i < at + n; i++) top = fmaxf(top, fabsf(raw[(size_t)r * (size_t)ld + (size_t)i]));
    return top > 0 ? top : 1;
}

static void scale_rows(recover_view *v, int p, int first, int count, float factor)
{
    const int n = v->shape.channels;
    float *v2[3] = { v->b->q_bias, NULL, v->b->v_bias };
    float *bias = v->b->qkv_bias ? v->b->qkv_bias + p * n : v2[p];
    for (int i = first; i < first + count; i++)
        scale_row(v->b->qkv_weight + (size_t)p * (size_t)n * (size_t)n, bias, i, n, factor);
}

/* V2 divides every head of q and k by its length, so a head's rows may have any size. */
static void level_heads(recover_view *v, const float *raw, float to)
{
    const int n = v->shape.channels, d = v->shape.head_size;
    for (int p = 0; p < 2; p++)
        for (int h = 0; h < v->shape.heads; h++)
            scale_rows(v, p, h * d, d, to / product_top(raw, v->qkv.rows, 3 * n, p * n + h * d, d));
}

/* Modes 1 and 2 round q, k and v with one scale: each is given the same range, by factors common to its channels. */
static swin_status level_parts(recover_view *v)
{
    const int n = v->shape.channels;
    if (v->r->f->mode == SWIN_INT8_MODE_3) return SWIN_OK;
    float *raw = malloc((size_t)v->qkv.rows * 3 * (size_t)n * sizeof *raw),
          *c = malloc((size_t)n * sizeof *c);
    swin_status st = raw && c
                         ? recover_linear(v->r, raw, v->qkv.x, v->qkv.rows, v->b->qkv_weight, NULL, 3 * n, n)
                         : swin_fail(SWIN_ERR_MEM, "--recover: no memory for %d samples", v->qkv.rows);
    if (st == SWIN_OK) {
        float top[3];
        for (int p = 0; p < 3; p++) top[p] = product_top(raw, v->qkv.rows, 3 * n, p * n, n);
        const bool v2 = v->b->logit_scale != NULL;
        const float to = v2 ? top[2] : sqrtf(top[0]) * sqrtf(top[1]);
        if (v2) {
            level_heads(v, raw, to);
        } else {
            scale_rows(v, 0, 0, n, to / top[0]);
            scale_rows(v, 1, 0, n, to / top[1]);
            for (int i = 0; i < n; i++) c[i] = top[2] / to;
            divide_values(v, c);
        }
    }
    free(raw);
    free(c);
    return st;
}

swin_status recover_balance(recover_view *v, int *count)
{
    room o;
    swin_status st = room_make(&o, v);
    if (st == SWIN_OK && !v->b->logit_scale) st = balance_keys(&o, count);
    if (st == SWIN_OK) st = balance_values(&o, count);
    room_free(&o);
    return st == SWIN_OK ? level_parts(v) : st;
}
