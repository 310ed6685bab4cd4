/* Weight rounding with the inputs in view: each output channel's codes are chosen one after the other, and what rounding one
 * of them did to the layer's output is made up for by those still to come (the method of GPTQ, Frantar et al. 2022, in the
 * form of Babai's nearest plane). Only codes and scales remain.
 *
 * With H = X^T X of the quantized inputs, centred because a bias mends the mean and shrunk towards its diagonal, and H = L
 * L^T, the output's error of weight errors e is |e L|^2, whose component j holds e_i for i >= j alone. So from the last input
 * to the first: t_j = sum over i > j of e_i L_ij / L_jj is known, q_j = round(w_j + t_j), e_j = w_j - q_j. Inputs are sorted so
 * that those of the largest variance come first.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calib/recover_impl.h"
#include "runtime/base/log.h"
#include "runtime/base/wide.h"
#include "runtime/swin/outputs.h"

enum { ROWS = 4096, LANES = 16, SHRINKS = 8, CONFIRM = 8 }; /* one image in eight confirms */

/* Of k inputs' covariance, seen on a number of rows, so much is taken for chance: only the variances are kept of it. Else k
 * near the rows leaves directions that were never seen, and all errors would be moved there. */
static double shrinkage(int k, int rows)
{
    return 0.2 * (double)k / ((double)k + (double)rows);
}

typedef struct rounder {
    swin_recover *r;
    float *w;      /* [n][k], rounded in place */
    float *before; /* owned: as they came */
    swin_weight_record *record;
    int n, k;
    int *order;       /* owned: [k] inputs by growing variance */
    double *l;        /* owned: [k][k], in that order */
    double *variance; /* owned: [k], in that order */
} rounder;

/* ---- the inputs' covariance ----------------------------------------------------------------------------------------- */

typedef struct keyed {
    float key;
    int index;
} keyed;

static int by_key(const void *a, const void *b)
{
    const keyed *x = a, *y = b;
    return x->key != y->key ? (x->key > y->key) - (x->key < y->key)
                            : (x->index > y->index) - (x->index < y->index);
}

static swin_status sort_inputs(rounder *o, const float *h)
{
    keyed *all = malloc((size_t)o->k * sizeof *all);
    if (!all) return swin_fail(SWIN_ERR_MEM, "--recover: no memory for %d inputs", o->k);
    for (int i = 0; i < o->k; i++) all[i] = (keyed){ h[(size_t)i * (size_t)o->k + (size_t)i], i };
    qsort(all, (size_t)o->k, sizeof *all, by_key);
    for (int i = 0; i < o->k; i++) o->order[i] = all[i].index;
    free(all);
    return SWIN_OK;
}

static swin_status factorise(rounder *o, const recover_samples *x)
{
    const size_t k = (size_t)o->k;
    float *h = malloc(k * k * sizeof *h);
    swin_status st = h ? recover_covariance(o->r, h, x)
                       : swin_fail(SWIN_ERR_MEM, "--recover: no memory for %d inputs", o->k);
    if (st == SWIN_OK) st = sort_inputs(o, h);
    double mean = 0;
    for (size_t i = 0; st == SWIN_OK && i < k; i++) mean += (double)h[i * k + i] / (double)k;
    const double keep = 1 - shrinkage(o->k, x->rows);
    for (size_t i = 0; st == SWIN_OK && i < k; i++) {
        for (size_t j = 0; j < i; j++)
            o->l[i * k + j] = keep * (double)h[(size_t)o->order[i] * k + (size_t)o->order[j]];
        o->variance[i] = (double)h[(size_t)o->order[i] * k + (size_t)o->order[i]];
        o->l[i * k + i] = o->variance[i] + 1e-3 * mean + 1e-20;
    }
    free(h);
    return st == SWIN_OK ? recover_cholesky(o->r, o->l, o->k) : st;
}

/* ---- codes ------------------------------------------------------------------------------------------------------------ */

/* Clamped first: the ends are whole. Half to even without a call: the sum leaves no room for a fraction. */
static inline double code_of(double w, double inverse)
{
    const double whole = 6755399441055744.0; /* 1.5 * 2^52 */
    double v = w * inverse;
    v = v > -127.0 ? v : -127.0;
    v = v < 127.0 ? v : 127.0;
    return (v + whole) - whole;
}

/* The range of one output channel with the least error of plain rounding, each input weighed by its variance. */
static float channel_range(const rounder *o, const float *w, float amax)
{
    double best = INFINITY;
    float best_amax = amax;
    for (int s = 0; s < SHRINKS && amax > 0; s++) {
        const float range = amax * (1.0f - 0.04f * (float)s);
        const double step = (double)range / 127.0, inverse = 127.0 / (double)range;
        double error = 0;
        for (int j = 0; j < o->k; j++) {
            const double v = w[o->order[j]], e = code_of(v, inverse) * step - v;
            error += e * e * o->variance[j];
        }
        if (error >= best) continue;
        best = error;
        best_amax = range;
    }
    return best_amax;
}

/* t [lanes] = sum over i > j of e_i L_ij, the last input first. */
static SWIN_WIDE_BODY void carry_body(double *restrict t, const double *restrict e,
                                      const double *restrict row, int k, int j, int lanes)
{
    for (int i = k - 1; i > j; i--) {
        const double l = row[i];
        for (int n = 0; n < lanes; n++) t[n] += e[(size_t)i * (size_t)lanes + (size_t)n] * l;
    }
}
SWIN_WIDE(carry, (double *t, const double *e, const double *row, int k, int j, int lanes),
          (t, e, row, k, j, lanes))

/* LANES output channels at once. */
static swin_status round_rows(void *user, size_t task, int worker)
{
    (void)worker;
    rounder *o = user;
    const size_t k = (size_t)o->k;
    const int first = (int)task * LANES, count = o->n - first < LANES ? o->n - first : LANES;
    double *e = calloc(k * LANES, sizeof *e), inverse[LANES] = { 0 };
    float step[LANES] = { 0 };
    if (!e) return swin_fail(SWIN_ERR_MEM, "--recover: no memory for %d inputs", o->k);
    for (int i = 0; i < count; i++) {
        float *amax = &o->record->amax_channel[first + i];
        *amax = channel_range(o, o->w + (size_t)(first + i) * k, *amax);
        step[i] = *amax / 127.0f;
        inverse[i] = *amax > 0 ? 127.0 / (double)*amax : 0;
    }
    for (int j = o->k - 1; j >= 0; j--) {
        double t[LANES] = { 0 };
        const double *row = o->l + (size_t)j * k; /* L_ij lies at row[i] */
        carry(t, e, row, o->k, j, LANES);
        const double diagonal = row[j];
        for (int n = 0; n < count; n++) {
            float *w = &o->w[(size_t)(first + n) * k + (size_t)o->order[j]];
            const float q = (float)code_of((double)*w + t[n] / diagonal, inverse[n]) * step[n];
            e[(size_t)j * LANES + (size_t)n] = (double)*w - (double)q;
            *w = q;
        }
    }
    free(e);
    return SWIN_OK;
}

/* The upper half becomes the lower one's mirror. */
static void transpose_lower(double *l, int k)
{
    for (size_t i = 0; i < (size_t)k; i++)
        for (size_t j = 0; j < i; j++) l[j * (size_t)k + i] = l[i * (size_t)k + j];
}

/* Output errors of rounded weights on rows of inputs, without their means: sum of squares. */
static swin_status output_error(double *error, const rounder *o, const float *rounded, const float *x,
                                int rows)
{
    const size_t size = (size_t)o->n * (size_t)o->k, n = (size_t)o->n;
    float *e = malloc(size * sizeof *e), *y = malloc((size_t)rows * n * sizeof *y);
    swin_status st =
        e && y ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "--recover: no memory for errors of %d x %d", o->n, o->k);
    for (size_t i = 0; st == SWIN_OK && i < size; i++) e[i] = rounded[i] - o->before[i];
    if (st == SWIN_OK) st = recover_linear(o->r, y, x, rows, e, NULL, o->n, o->k);
    *error = 0;
    for (size_t j = 0; st == SWIN_OK && j < n; j++) {
        double sum = 0, square = 0;
        for (size_t r = 0; r < (size_t)rows; r++) {
            const double v = y[r * n + j];
            sum += v;
            square += v * v;
        }
        *error += square - sum * sum / rows;
    }
    free(e);
    free(y);
    return st;
}

/* As they come, with the ranges given. */
static void round_plainly(float *to, const rounder *o, const float *amax)
{
    for (int i = 0; i < o->n; i++)
        for (int j = 0; j < o->k; j++) {
            const size_t at = (size_t)i * (size_t)o->k + (size_t)j;
            const double step = (double)amax[i] / 127.0;
            to[at] = amax[i] > 0 ? (float)(code_of(o->before[at], 1 / step) * step) : 0;
        }
}

/* Rounding that does not beat the plain one on rows of images that it has not seen is taken back. */
static swin_status confirm(rounder *o, const float *amax, const float *x, int rows, bool *better)
{
    const size_t size = (size_t)o->n * (size_t)o->k;
    double own, plain = 0;
    float *rounded = malloc(size * sizeof *rounded);
    if (!rounded) return swin_fail(SWIN_ERR_MEM, "--recover: no memory for weights of %d x %d", o->n, o->k);
    round_plainly(rounded, o, amax);
    swin_status st = output_error(&own, o, o->w, x, rows);
    if (st == SWIN_OK) st = output_error(&plain, o, rounded, x, rows);
    free(rounded);
    *better = st == SWIN_OK && own < plain;
    if (st == SWIN_OK)
        swin_detail("  %d x %d: %.1f dB less error on other images", o->n, o->k, 10 * log10(plain / own));
    if (st != SWIN_OK || *better) return st;
    memcpy(o->w, o->before, size * sizeof *o->w);
    memcpy(o->record->amax_channel, amax, (size_t)o->n * sizeof *amax);
    return SWIN_OK;
}

/* The last of the images confirm what was found on the others. */
static swin_status round_on(rounder *o, const recover_samples *x, int *count)
{
    const int images = x->rows / x->per_image, kept = images / CONFIRM, rows = (images - kept) * x->per_image;
    const recover_samples fit = { .x = x->x, .rows = rows, .cols = x->cols };
    const size_t size = (size_t)o->n * (size_t)o->k;
    bool better = true;
    float *amax = malloc((size_t)o->n * sizeof *amax);
    o->before = malloc(size * sizeof *o->before);
    swin_status st = amax && o->before
                         ? factorise(o, &fit)
                         : swin_fail(SWIN_ERR_MEM, "--recover: no memory for weights of %d x %d", o->n, o->k);
    if (st == SWIN_OK) {
        memcpy(o->before, o->w, size * sizeof *o->w);
        memcpy(amax, o->record->amax_channel, (size_t)o->n * sizeof *amax);
        transpose_lower(o->l, o->k);
        st = swin_pool_run(o->r->pool, (size_t)(o->n + LANES - 1) / LANES, round_rows, o);
    }
    if (st == SWIN_OK && kept)
        st = confirm(o, amax, x->x + (size_t)rows * (size_t)x->cols, x->rows - rows, &better);
    *count += st == SWIN_OK && better;
    free(amax);
    return st;
}

static swin_status round_layer(swin_recover *r, const recover_samples *x, int *count)
{
    rounder o = { .r = r, .k = x->cols };
    swin_linear_weight l;
    const swin_site weight = x->site + 1; /* follows its input in the list of kinds */
    const swin_site_record *input = swin_calib_file_site(r->f, x->site),
                           *site = swin_calib_file_site(r->f, weight);
    if (!input->enabled || !site->enabled) return SWIN_OK; /* runs in float */
    for (int i = 0; i < r->f->nweights; i++)
        if (r->f->weights[i].site == weight) o.record = &r->f->weights[i];
    SWIN_TRY(swin_linear_weight_of(&l, r->config, &r->w, weight));
    o.w = l.data;
    o.n = l.out;
    o.order = malloc((size_t)o.k * sizeof *o.order);
    o.l = malloc((size_t)o.k * (size_t)o.k * sizeof *o.l);
    o.variance = malloc((size_t)o.k * sizeof *o.variance);
    swin_status st = o.order && o.l && o.variance
                         ? round_on(&o, x, count)
                         : swin_fail(SWIN_ERR_MEM, "--recover: no memory for %d inputs", o.k);
    if (st == SWIN_OK) {
        o.record->amax = 0;
        for (int i = 0; i < o.n; i++) o.record->amax = fmaxf(o.record->amax, o.record->amax_channel[i]);
    }
    free(o.before);
    free(o.order);
    free(o.l);
    free(o.variance);
    return st;
}

/* ---- the method --------------------------------------------------------------------------------------------------------- */

enum { LAYERS = 4 };

/* Inputs of a part's layers as the quantized network makes them, then their weights; the walk goes on with those. */
static swin_status round_part(recover_walk *k, int *count)
{
    swin_recover *r = k->r;
    const swin_site out = swin_output_at(r->config, k->part);
    const bool merge = swin_site_kind_of(out) == SWIN_SITE_MERGE_OUT;
    const swin_site_kind kinds[LAYERS] = { merge ? SWIN_SITE_REDUCTION_INPUT : SWIN_SITE_QKV_INPUT,
                                           SWIN_SITE_PROJ_INPUT, SWIN_SITE_FC1_INPUT, SWIN_SITE_FC2_INPUT };
    const int layers = merge ? 1 : LAYERS, part = k->part;
    recover_samples all[LAYERS] = { 0 };
    recover_gather g = { .r = r, .samples = all, .count = layers };
    swin_status st = SWIN_OK;
    for (int i = 0; st == SWIN_OK && i < layers; i++) {
        const swin_site site =
            swin_site_make(swin_site_stage(out), merge ? 0 : swin_site_block(out), kinds[i]);
        swin_linear_weight l;
        SWIN_TRY_GOTO(st, swin_linear_shape_of(&l, r->config, site + 1), done);
        st = recover_samples_init(&all[i], r, site, l.in, ROWS, 3);
    }
    const swin_tap tap = recover_gather_tap(&g);
    if (st == SWIN_OK) st = recover_walk_part(k, &tap, false);
    for (int i = 0; st == SWIN_OK && i < layers; i++) st = round_layer(r, &all[i], count);
    if (st == SWIN_OK) st = swin_sim_reload(k->sim, part, &r->w);
    if (st == SWIN_OK) st = recover_walk_part(k, NULL, true);
done:
    for (int i = 0; i < layers; i++) recover_samples_free(&all[i]);
    return st;
}

static swin_status round_weights(swin_recover *r, char *changed, size_t size)
{
    const int parts = swin_output_count(r->config);
    recover_walk k = { 0 };
    swin_sim *sim;
    int count = 0;
    SWIN_TRY(recover_sim(r, &sim));
    swin_status st = recover_walk_begin(&k, r, NULL, sim);
    while (st == SWIN_OK && k.part < parts - 1) st = round_part(&k, &count);
    snprintf(changed, size, "%d weights", count);
    recover_walk_end(&k);
    return st;
}

const swin_recover_method swin_recover_round = {
    .name = "round",
    .help = "weight codes that make up for each other's rounding, given the inputs",
    .levels = SWIN_RECOVER_BEST,
    .when = SWIN_RECOVER_AFTER,
    .follows = true,
    .run = round_weights,
};
