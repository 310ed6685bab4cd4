#include <math.h>
#include <stdlib.h>

#include "calib/recover_impl.h"
#include "runtime/swin/outputs.h"

/* ---- samples ------------------------------------------------------------------------------------------------------ */

enum { SITES = 7, HIDDEN = 32 }; /* sites of a block that are looked at; channels of a task */

static swin_status gather(recover_view *v, recover_walk *k, int rows, uint64_t seed)
{
    const int c = v->shape.channels, hidden = v->shape.hidden;
    const struct {
        recover_samples *to;
        swin_site_kind kind;
        int cols, rows;
    } wanted[SITES] = {
        { &v->qkv, v->merge ? SWIN_SITE_REDUCTION_INPUT : SWIN_SITE_QKV_INPUT, v->merge ? 4 * c : c, rows },
        { &v->proj, SWIN_SITE_PROJ_INPUT, c, rows },
        { &v->fc1, SWIN_SITE_FC1_INPUT, c, rows },
        { &v->fc2, SWIN_SITE_FC2_INPUT, hidden, rows },
        { &v->operands[0], SWIN_SITE_MATMUL_Q, c, 0 },
        { &v->operands[1], SWIN_SITE_MATMUL_K, c, 0 },
        { &v->operands[2], SWIN_SITE_MATMUL_V, c, 0 },
    };
    recover_samples all[SITES] = { 0 };
    recover_gather g = { .r = v->r, .samples = all };
    const int count = v->merge ? 1 : SITES;
    swin_status st = SWIN_OK;
    for (; st == SWIN_OK && g.count < count; g.count++)
        st = recover_samples_init(&all[g.count], v->r,
                                  swin_site_make(v->stage, v->block, wanted[g.count].kind),
                                  wanted[g.count].cols, wanted[g.count].rows, seed);
    const swin_tap tap = recover_gather_tap(&g);
    if (st == SWIN_OK) st = recover_walk_part(k, &tap, true);
    for (int i = 0; i < count; i++) *wanted[i].to = all[i];
    return st;
}

static bool share_wants(void *user, swin_site site)
{
    (void)user;
    return swin_site_kind_of(site) == SWIN_SITE_MATMUL_A;
}

/* Sum of squares of a row of probabilities, averaged: what is left of the variance of errors that differ from token to
 * token, once they are mixed. */
static swin_status share_at(void *user, const swin_tap_point *p)
{
    recover_view *v = user;
    const size_t n = (size_t)p->x->cols;
    double sum = 0, *square = malloc(n * sizeof *square);
    if (!square) return swin_fail(SWIN_ERR_MEM, "--recover: no memory for %zu probabilities", n);
    const swin_status st = p->dev->ops->moments(p->dev, &(swin_moments){ .square = square }, p->x, 1);
    for (size_t i = 0; st == SWIN_OK && i < n; i++) sum += square[i];
    v->share += sum / (double)p->x->rows * p->images / p->batch;
    free(square);
    return st;
}

swin_status recover_view_open(recover_view *v, recover_walk *k, int rows, uint64_t seed)
{
    swin_recover *r = k->r;
    const swin_site out = swin_output_at(r->config, k->part);
    *v = (recover_view){ .r = r,
                         .part = k->part,
                         .stage = swin_site_stage(out),
                         .block = swin_site_block(out),
                         .merge = swin_site_kind_of(out) == SWIN_SITE_MERGE_OUT };
    v->shape = swin_config_stage(r->config, v->stage);
    swin_status st = SWIN_OK;
    if (!v->merge) {
        const swin_tap share = { .user = v, .wants = share_wants, .at = share_at };
        v->b = &r->w.stages[v->stage].blocks[v->block];
        st = swin_net_forward_parts(k->net, k->part, k->part + 1, k->stream, 1, NULL, &share);
    }
    if (st == SWIN_OK) st = gather(v, k, rows, seed);
    if (st != SWIN_OK) recover_view_close(v);
    return st;
}

void recover_view_close(recover_view *v)
{
    recover_samples_free(&v->qkv);
    recover_samples_free(&v->proj);
    recover_samples_free(&v->fc1);
    recover_samples_free(&v->fc2);
    for (int i = 0; i < 3; i++) recover_samples_free(&v->operands[i]);
    free(v->y);
    free(v->hidden);
    free(v->qkv_importance);
    free(v->fc1_importance);
    free(v->q_importance);
    *v = (recover_view){ 0 };
}

/* ---- what an error inside the block is worth at its output ---------------------------------------------------------- */

float *recover_qkv_bias(const recover_view *v)
{
    const int c = v->shape.channels;
    float *bias = calloc(3 * (size_t)c, sizeof *bias);
    for (int i = 0; bias && i < c; i++) {
        if (v->b->qkv_bias)
            for (int p = 0; p < 3; p++) bias[p * c + i] = v->b->qkv_bias[p * c + i];
        if (v->b->q_bias) {
            bias[i] = v->b->q_bias[i];
            bias[2 * c + i] = v->b->v_bias[i];
        }
    }
    return bias;
}

static double column_energy(const float *w, int rows, int cols, int k)
{
    double sum = 0;
    for (int n = 0; n < rows; n++) {
        const double x = w[(size_t)n * (size_t)cols + (size_t)k];
        sum += x * x;
    }
    return sum;
}

typedef struct moment {
    double mean, square; /* of one column */
} moment;

static moment moment_of(const float *y, int rows, int ld)
{
    moment m = { 0, 0 };
    for (int r = 0; r < rows; r++, y += ld) {
        m.mean += (double)*y;
        m.square += (double)*y * (double)*y;
    }
    m.mean /= rows;
    m.square /= rows;
    return m;
}

/* V2 normalises: an error of a query counts by the inverse of the query's length. */
static double inverse_length(const recover_view *v, int part, int head)
{
    const int c = v->shape.channels, d = v->shape.head_size;
    double sum = 0;
    for (int r = 0; r < v->qkv.rows; r++) {
        double length = 1e-24;
        const float *x = v->y + (size_t)r * 3 * (size_t)c + part * c + head * d;
        for (int i = 0; i < d; i++) length += (double)x[i] * (double)x[i];
        sum += 1 / length;
    }
    return sum / v->qkv.rows;
}

/*
 * One token's share in a probability is about the same wherever it comes from, so to first order an error e_v of a value and
 * an error e_s of a score do to the head's output what e_v and e_s * (value - its mean) do. Scores: s = scale q.k; what is
 * common to all keys of a query changes nothing, so an error of q counts by the variance of k, one of k by the square of q.
 */
static void head_importance(recover_view *v, int head)
{
    const int c = v->shape.channels, d = v->shape.head_size, ld = 3 * c, rows = v->qkv.rows;
    const swin_config *config = v->r->config;
    double values = 0, scale = config->qk_scale > 0 ? config->qk_scale : 1 / sqrt(d);
    for (int k = head * d; k < (head + 1) * d; k++) {
        const moment m = moment_of(v->y + 2 * c + k, rows, ld);
        v->v_importance[k] = column_energy(v->b->proj_weight, c, c, k);
        values += v->v_importance[k] * (m.square - m.mean * m.mean);
    }
    const bool v2 = v->b->logit_scale != NULL;
    if (v2) scale = exp(fmin((double)v->b->logit_scale[head], log(100.0)));
    values *= scale * scale;
    const double q = v2 ? values * inverse_length(v, 0, head) / d : 0,
                 k = v2 ? values * inverse_length(v, 1, head) / d : 0;
    for (int i = head * d; i < (head + 1) * d; i++) {
        const moment mq = moment_of(v->y + i, rows, ld), mk = moment_of(v->y + c + i, rows, ld);
        v->q_importance[i] = v2 ? q : values * (mk.square - mk.mean * mk.mean);
        v->k_importance[i] = v2 ? k : values * mq.square;
    }
}

/* The slope of GELU, Phi(u) + u phi(u), squared and averaged, times what fc2 makes of the channel. */
static swin_status hidden_importance(void *user, size_t task, int worker)
{
    (void)worker;
    recover_view *v = user;
    const int c = v->shape.channels, hidden = v->shape.hidden, rows = v->fc1.rows;
    const int from = (int)task * HIDDEN, to = hidden - from < HIDDEN ? hidden : from + HIDDEN;
    for (int k = from; k < to; k++) {
        double sum = 0;
        for (int r = 0; r < rows; r++) {
            const double u = v->hidden[(size_t)r * (size_t)hidden + (size_t)k];
            const double slope = 0.5 * (1 + erf(u * M_SQRT1_2)) + u * exp(-0.5 * u * u) * 0.3989422804014327;
            sum += slope * slope;
        }
        v->fc1_importance[k] = (float)(sum / rows * column_energy(v->b->fc2_weight, c, hidden, k));
    }
    return SWIN_OK;
}

swin_status recover_view_measure(recover_view *v)
{
    const int c = v->shape.channels, hidden = v->shape.hidden;
    const size_t n = (size_t)c;
    v->y = malloc((size_t)v->qkv.rows * 3 * n * sizeof *v->y);
    v->hidden = malloc((size_t)v->fc1.rows * (size_t)hidden * sizeof *v->hidden);
    v->qkv_importance = malloc(3 * n * sizeof *v->qkv_importance);
    v->fc1_importance = malloc((size_t)hidden * sizeof *v->fc1_importance);
    v->q_importance = malloc(3 * n * sizeof *v->q_importance);
    float *bias = recover_qkv_bias(v);
    swin_status st = SWIN_ERR_MEM;
    if (!v->y || !v->hidden || !v->qkv_importance || !v->fc1_importance || !v->q_importance || !bias) {
        swin_fail(st, "--recover: no memory for a block of %d channels", c);
        goto done;
    }
    v->k_importance = v->q_importance + n;
    v->v_importance = v->k_importance + n;
    SWIN_TRY_GOTO(st, recover_linear(v->r, v->y, v->qkv.x, v->qkv.rows, v->b->qkv_weight, bias, 3 * c, c),
                  done);
    SWIN_TRY_GOTO(
        st,
        recover_linear(v->r, v->hidden, v->fc1.x, v->fc1.rows, v->b->fc1_weight, v->b->fc1_bias, hidden, c),
        done);
    for (int h = 0; h < v->shape.heads; h++) head_importance(v, h);
    for (size_t i = 0; i < 3 * n; i++) v->qkv_importance[i] = (float)v->q_importance[i];
    st = swin_pool_run(v->r->pool, (size_t)(hidden + HIDDEN - 1) / HIDDEN, hidden_importance, v);
done:
    free(bias);
    return st;
}
