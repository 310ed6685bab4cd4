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

typedef struct room {
    recover_view *v;
    int n;      /* C */
    float *raw; /* owned: [rows][3C] y without the bias; NULL in mode 3, which rounds no products */
    operand part[3];
    float *c, *inverse, *best; /* [C] */
    float *proj_top;           /* [C] as top, of proj's input */
    double *weight;            /* owned: [C] */
    float *block;              /* owned: all float vectors */
} room;

static void room_free(room *o)
{
    free(o->raw);
    free(o->weight);
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

static swin_status room_make(room *o, recover_view *v)
{
    const size_t n = (size_t)v->shape.channels;
    *o = (room){ .v = v, .n = (int)n };
    o->weight = malloc(n * sizeof *o->weight);
    o->block = malloc((16 + 3) * n * sizeof *o->block);
    if (!o->weight || !o->block) return swin_fail(SWIN_ERR_MEM, "--recover: no memory for %d channels", o->n);
    SWIN_TRY(make_raw(o));
    float *at = o->block, *bias = recover_qkv_bias(v);
    if (!bias) return swin_fail(SWIN_ERR_MEM, "--recover: no memory for %d channels", 3 * o->n);
    for (int p = 0; p < 3; p++) {
        operand *a = &o->part[p];
        float **all[] = { &a->raw_lo, &a->raw_hi, &a->top, &a->raw_top };
        for (size_t i = 0; i < SWIN_COUNT(all); i++, at += n) *all[i] = at;
        a->lo = v->operands[p].lo;
        a->hi = v->operands[p].hi;
        for (size_t i = 0; i < n; i++) {
            a->raw_lo[i] = fminf(0, a->lo[i] - bias[(size_t)p * n + i]);
            a->raw_hi[i] = fmaxf(0, a->hi[i] - bias[(size_t)p * n + i]);
            a->top[i] =
                recover_column_range(v->y + (size_t)p * n + i, v->qkv.rows, 3 * o->n, a->lo[i], a->hi[i]);
            a->raw_top[i] = fmaxf(-a->raw_lo[i], a->raw_hi[i]);
        }
    }
    free(bias);
    o->c = at;
    o->inverse = at + n;
    o->best = at + 2 * n;
    o->proj_top = at + 3 * n;
    for (size_t i = 0; i < n; i++)
        o->proj_top[i] =
            recover_column_range(v->proj.x + i, v->proj.rows, o->n, v->proj.lo[i], v->proj.hi[i]);
    return SWIN_OK;
}

/* Smallest error over the clippings of values at a site, columns divided by c. */
static swin_status best_clip(double *best, room *o, swin_site_kind kind, const float *y, const float *lo,
                             const float *hi, const float *top, const float *c)
{
    const recover_view *v = o->v;
    *best = INFINITY;
    for (int t = 0; t < RECOVER_CLIPS; t++) {
        swin_quant q;
        SWIN_TRY(recover_quantizer(&q, v->r, swin_site_make(v->stage, v->block, kind), lo, hi, top, c, o->n,
                                   recover_clips[t]));
        *best = fmin(*best, recover_column_error(y, v->qkv.rows, o->n, 3 * o->n, c, o->weight, &q));
    }
    return SWIN_OK;
}

/* An operand's own error, and in modes 1 and 2 that of the rounding before the bias. */
static swin_status operand_error(double *error, room *o, int p, const float *c, const double *importance)
{
    static const swin_site_kind kinds[] = { SWIN_SITE_MATMUL_Q, SWIN_SITE_MATMUL_K, SWIN_SITE_MATMUL_V };
    const operand *a = &o->part[p];
    double product = 0;
    for (int i = 0; i < o->n; i++) o->weight[i] = importance[i] * (double)c[i] * (double)c[i];
    SWIN_TRY(best_clip(error, o, kinds[p], o->v->y + p * o->n, a->lo, a->hi, a->top, c));
    if (o->raw)
        SWIN_TRY(best_clip(&product, o, SWIN_SITE_QKV_AFTERGEMM, o->raw + p * o->n, a->raw_lo, a->raw_hi,
                           a->raw_top, c));
    *error += product;
    return SWIN_OK;
}

/* The i-th candidate into c; the last is no change. */
static void candidate(room *o, int i, const float *x, const float *w)
{
    for (int j = 0; j < o->n; j++) o->c[j] = 1;
    if (i < RECOVER_STRENGTHS) recover_factors(o->c, x, w, o->n, (double)i / (RECOVER_STRENGTHS - 1));
    for (int j = 0; j < o->n; j++) o->inverse[j] = 1 / o->c[j];
}

static void keep(room *o, int i, double error, double *best, bool *changed)
{
    if (error >= *best) return;
    *best = error;
    *changed = i < RECOVER_STRENGTHS;
    memcpy(o->best, o->c, (size_t)o->n * sizeof *o->c);
}

static void scale_row(float *w, float *bias, int row, int cols, float factor)
{
    for (int k = 0; k < cols; k++) w[(size_t)row * (size_t)cols + (size_t)k] *= factor;
    if (bias) bias[row] *= factor;
}

/* Queries divided by c, keys multiplied. */
static swin_status balance_keys(room *o, bool *changed)
{
    recover_view *v = o->v;
    double best = INFINITY;
    for (int i = 0; i <= RECOVER_STRENGTHS; i++) {
        double q, k;
        candidate(o, i, o->part[0].top, o->part[1].top);
        SWIN_TRY(operand_error(&q, o, 0, o->c, v->q_importance));
        SWIN_TRY(operand_error(&k, o, 1, o->inverse, v->k_importance));
        keep(o, i, q + k, &best, changed);
    }
    for (int j = 0; *changed && j < o->n; j++) {
        scale_row(v->b->qkv_weight, v->b->qkv_bias, j, o->n, 1 / o->best[j]);
        scale_row(v->b->qkv_weight, v->b->qkv_bias, o->n + j, o->n, o->best[j]);
    }
    return SWIN_OK;
}

static void divide_values(recover_view *v, const float *c)
{
    const int n = v->shape.channels;
    float *bias = v->b->qkv_bias ? v->b->qkv_bias + 2 * n : v->b->v_bias;
    for (int j = 0; j < n; j++) scale_row(v->b->qkv_weight + 2 * (size_t)n * (size_t)n, bias, j, n, 1 / c[j]);
    recover_scale_columns(v->b->proj_weight, n, n, c);
}

static swin_status proj_error(double *error, const recover_gemm *g, room *o)
{
    const swin_site site = swin_site_make(o->v->stage, o->v->block, SWIN_SITE_PROJ_INPUT);
    *error = INFINITY;
    for (int t = 0; t < RECOVER_CLIPS; t++) {
        swin_quant q;
        SWIN_TRY(recover_quantizer(&q, o->v->r, site, o->v->proj.lo, o->v->proj.hi, o->proj_top, o->c, o->n,
                                   recover_clips[t]));
        *error = fmin(*error, recover_input_estimate(g, o->c, &q));
    }
    *error += recover_weight_estimate(g, o->c);
    return SWIN_OK;
}

/* Values divided by c, proj's columns multiplied: the values' own error counts besides that of proj's input. */
static swin_status balance_values(room *o, bool *changed)
{
    recover_view *v = o->v;
    recover_gemm g;
    double best = INFINITY;
    SWIN_TRY(recover_gemm_init(&g, v->r, &v->proj, v->b->proj_weight, o->n, NULL));
    swin_status st = SWIN_OK;
    for (int i = 0; st == SWIN_OK && i <= RECOVER_STRENGTHS; i++) {
        double values, proj;
        candidate(o, i, o->part[2].top, g.w_amax);
        st = operand_error(&values, o, 2, o->c, v->v_importance);
        if (st == SWIN_OK) st = proj_error(&proj, &g, o);
        if (st == SWIN_OK) keep(o, i, v->share * values + proj, &best, changed);
    }
    recover_gemm_free(&g);
    if (st == SWIN_OK && *changed) divide_values(v, o->best);
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
    bool keys = false, values = false;
    swin_status st = room_make(&o, v);
    if (st == SWIN_OK && !v->b->logit_scale) st = balance_keys(&o, &keys);
    if (st == SWIN_OK) st = balance_values(&o, &values);
    room_free(&o);
    *count += keys + values;
    return st == SWIN_OK ? level_parts(v) : st;
}
