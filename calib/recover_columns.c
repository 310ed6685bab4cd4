/* Loops over the columns of samples: errors and ranges, channel by channel. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calib/recover_impl.h"
#include "calib/recover_step.h"
#include "calib/widest.h"
#include "runtime/base/wide.h"

/* Columns at once; rows of them: together they fit the first cache. Loops over the columns inside take their number as an
 * argument: were it known, compilers would write them out instead of making vectors. */
enum { STRIP = 16, ROWS = 512 };

/* ---- errors ------------------------------------------------------------------------------------------------------ */

/* n columns side by side, each times its factor. */
static SWIN_WIDE_BODY void pack_body(float *restrict to, const float *restrict x, int rows, int ld, int n,
                                     const float *restrict factor)
{
    for (int r = 0; r < rows; r++, x += ld, to += n)
        for (int k = 0; k < n; k++) to[k] = x[k] * factor[k];
}
SWIN_WIDE(pack, (float *to, const float *x, int rows, int ld, int n, const float *factor),
          (to, x, rows, ld, n, factor))

/* Errors of packed columns and their squares, added to sum and square. */
static SWIN_WIDE_BODY void add_errors_body(float *restrict sum, float *restrict square,
                                           const float *restrict x, int rows, int n, const recover_step *step)
{
    const recover_step s = *step;
    for (int r = 0; r < rows; r++, x += n)
        for (int k = 0; k < n; k++) {
            const float e = recover_step_error(&s, x[k]);
            sum[k] += e;
            square[k] += e * e;
        }
}
SWIN_WIDE(add_errors, (float *sum, float *square, const float *x, int rows, int n, const recover_step *step),
          (sum, square, x, rows, n, step))

/* A strip of columns, n of them, with each of `count` steps: its share of the errors. */
static void strip_errors(double *error, const recover_step *step, int count, const float *x, int rows, int ld,
                         int n, const float *factor, const double *weight, bool centered)
{
    float packed[ROWS * STRIP], sum[RECOVER_CLIPS][STRIP] = { { 0 } },
                                square[RECOVER_CLIPS][STRIP] = { { 0 } };
    for (int at = 0; at < rows; at += ROWS) {
        const int here = rows - at < ROWS ? rows - at : ROWS;
        pack(packed, x + (size_t)at * (size_t)ld, here, ld, n, factor);
        for (int i = 0; i < count; i++) add_errors(sum[i], square[i], packed, here, n, &step[i]);
    }
    for (int i = 0; i < count; i++)
        for (int k = 0; k < n; k++) {
            const double mean = centered ? (double)sum[i][k] / rows : 0;
            error[i] += fmax(0.0, (double)square[i][k] / rows - mean * mean) * weight[k];
        }
}

void recover_column_errors(double *error, const swin_quant *q, int count, const float *x, int rows, int k,
                           int ld, const float *c, const double *weight, bool centered)
{
    recover_step step[RECOVER_CLIPS];
    for (int i = 0; i < count; i++) {
        step[i] = recover_step_of(&q[i]);
        error[i] = 0;
    }
    for (int at = 0; at < k; at += STRIP) {
        const int n = k - at < STRIP ? k - at : STRIP;
        float factor[STRIP];
        for (int i = 0; i < n; i++) factor[i] = c ? 1.0f / c[at + i] : 1.0f;
        strip_errors(error, step, count, x + at, rows, ld, n, factor, weight + at, centered);
    }
}

swin_status recover_input_estimates(double *error, const recover_gemm *g, const float *c, const swin_quant *q,
                                    int count)
{
    double *weight = malloc((size_t)g->k * sizeof *weight);
    if (!weight) return swin_fail(SWIN_ERR_MEM, "--recover: no memory for %d inputs", g->k);
    for (int i = 0; i < g->k; i++) {
        const double m = c ? (double)c[i] : 1.0;
        weight[i] = m * m * (double)g->energy[i];
    }
    recover_column_errors(error, q, count, g->x, g->rows, g->k, g->k, c, weight, true);
    free(weight);
    return SWIN_OK;
}

static SWIN_WIDE_BODY void multiply_body(float *restrict e, const float *restrict w, const float *restrict c,
                                         int k)
{
    for (int i = 0; i < k; i++) e[i] = w[i] * c[i];
}
SWIN_WIDE(multiply, (float *e, const float *w, const float *c, int k), (e, w, c, k))

static SWIN_WIDE_BODY void step_errors_body(float *restrict e, const float *restrict inverse, int k,
                                            const recover_step *step)
{
    const recover_step s = { step->scale, step->inverse, swin_opaque(step->low), swin_opaque(step->high) };
    for (int i = 0; i < k; i++) e[i] = recover_step_error(&s, e[i]) * inverse[i];
}
SWIN_WIDE(step_errors, (float *e, const float *inverse, int k, const recover_step *step),
          (e, inverse, k, step))

void recover_row_error(float *e, const float *w, const float *c, const float *inverse, int k)
{
    const int n = k < STRIP ? k : STRIP, whole = k / n * n;
    float top[STRIP] = { 0 }, amax = 0;
    multiply(e, w, c, k);
    widest(top, e, whole, n);
    for (int i = whole; i < k; i++) top[0] = fmaxf(top[0], fabsf(e[i]));
    for (int j = 0; j < n; j++) amax = fmaxf(amax, top[j]);
    const recover_step s = { amax / 127.0f, amax > 0 ? 127.0f / amax : 0.0f, -127.0f, 127.0f };
    step_errors(e, inverse, k, &s);
}

/* sum [n]: of squares of every n-th error, weighted; k a multiple of n. */
static SWIN_WIDE_BODY void add_weighted_body(float *restrict sum, const float *restrict e,
                                             const float *restrict weight, int k, int n)
{
    for (int i = 0; i < k; i += n)
        for (int j = 0; j < n; j++) sum[j] += e[i + j] * e[i + j] * weight[i + j];
}
SWIN_WIDE(add_weighted, (float *sum, const float *e, const float *weight, int k, int n),
          (sum, e, weight, k, n))

static double weighted_square(const float *e, const float *weight, int k)
{
    const int n = k < STRIP ? k : STRIP, whole = k / n * n;
    float sum[STRIP] = { 0 };
    double all = 0;
    add_weighted(sum, e, weight, whole, n);
    for (int i = whole; i < k; i++) sum[0] += e[i] * e[i] * weight[i];
    for (int j = 0; j < n; j++) all += (double)sum[j];
    return all;
}

float *recover_ones_or(const float *c, int k, bool inverse)
{
    float *v = malloc((size_t)k * sizeof *v);
    for (int i = 0; v && i < k; i++) v[i] = !c ? 1.0f : inverse ? 1.0f / c[i] : c[i];
    return v;
}

swin_status recover_weight_estimate(double *error, const recover_gemm *g, const float *c)
{
    const size_t k = (size_t)g->k;
    float *e = malloc(k * sizeof *e), *factor = recover_ones_or(c, g->k, false),
          *inverse = recover_ones_or(c, g->k, true);
    const bool ok = e && factor && inverse;
    *error = 0;
    for (int n = 0; ok && n < g->n; n++) {
        recover_row_error(e, g->w + (size_t)n * k, factor, inverse, g->k);
        *error += (double)g->row_weight[n] * (double)g->row_weight[n] * weighted_square(e, g->variance, g->k);
    }
    free(e);
    free(factor);
    free(inverse);
    return ok ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "--recover: no memory for %d inputs", g->k);
}

/* ---- all columns on all threads --------------------------------------------------------------------------------------- */

typedef struct columns {
    const float *x;
    int rows, ld, cols;
    const float *lo, *hi;
    float *top;
} columns;

/* Squared errors of packed columns, each with a step of its own, added to error. */
static SWIN_WIDE_BODY void add_own_errors_body(float *restrict error, const float *restrict x, int rows,
                                               int n, const float *restrict step,
                                               const float *restrict inverse)
{
    const float low = swin_opaque(-127.0f), high = swin_opaque(127.0f);
    for (int r = 0; r < rows; r++, x += n)
        for (int k = 0; k < n; k++) {
            const float q = recover_round_even(recover_clamp(x[k] * inverse[k], low, high));
            const float e = q * step[k] - x[k];
            error[k] += e * e;
        }
}
SWIN_WIDE(add_own_errors,
          (float *error, const float *x, int rows, int n, const float *step, const float *inverse),
          (error, x, rows, n, step, inverse))

enum { TRIES = 2 * RECOVER_CLIPS };

/* Each try's ranges: [0, STRIP) of step and inverse. */
static void own_steps(float step[TRIES][STRIP], float inverse[TRIES][STRIP], const float *full, int n)
{
    for (int t = 0; t < TRIES; t++) {
        const float share = powf(0.88f, (float)t);
        for (int k = 0; k < n; k++) {
            const float amax = full[k] * share;
            step[t][k] = amax / 127.0f;
            inverse[t][k] = amax > 0 ? 127.0f / amax : 0;
        }
    }
}

/* The range with the least error of 8-bit codes for a column alone: a rare large value is worth less than finer steps. */
static swin_status range_task(void *user, size_t task, int worker)
{
    (void)worker;
    const columns *c = user;
    const int at = (int)task * STRIP, n = c->cols - at < STRIP ? c->cols - at : STRIP;
    float full[STRIP], ones[STRIP], packed[ROWS * STRIP],
        error[TRIES][STRIP] = { { 0 } }, step[TRIES][STRIP] = { { 0 } }, inverse[TRIES][STRIP] = { { 0 } };
    for (int k = 0; k < n; k++) {
        full[k] = c->top[at + k] = c->hi[at + k] > -c->lo[at + k] ? c->hi[at + k] : -c->lo[at + k];
        ones[k] = 1;
    }
    own_steps(step, inverse, full, n);
    for (int r = 0; r < c->rows; r += ROWS) {
        const int here = c->rows - r < ROWS ? c->rows - r : ROWS;
        pack(packed, c->x + (size_t)r * (size_t)c->ld + at, here, c->ld, n, ones);
        for (int t = 0; t < TRIES; t++) add_own_errors(error[t], packed, here, n, step[t], inverse[t]);
    }
    for (int k = 0; k < n; k++) {
        float best = INFINITY;
        for (int t = 0; t < TRIES; t++)
            if (error[t][k] < best) {
                best = error[t][k];
                c->top[at + k] = step[t][k] * 127.0f;
            }
    }
    return SWIN_OK;
}

swin_status recover_column_ranges(swin_recover *r, float *top, const float *x, int rows, int cols, int ld,
                                  const float *lo, const float *hi)
{
    columns c = { .x = x, .rows = rows, .ld = ld, .cols = cols, .lo = lo, .hi = hi, .top = top };
    return swin_pool_run(r->pool, (size_t)(cols + STRIP - 1) / STRIP, range_task, &c);
}
