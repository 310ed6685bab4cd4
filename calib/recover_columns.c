/* Loops over the columns of samples: errors and ranges, channel by channel. */
#include <math.h>
#include <stdlib.h>

#include "calib/recover_impl.h"
#include "calib/recover_step.h"

enum { STRIP = 64, LINE = 16 }; /* columns at once; sums at once */

/* ---- errors ------------------------------------------------------------------------------------------------------ */

/* Mean squared error of n columns into out; centered: without the square of its mean. */
static void strip_error(double *out, const float *x, int rows, int ld, int n, const float *inverse_c,
                        const recover_step *step, bool centered)
{
    float sum[STRIP] = { 0 }, square[STRIP] = { 0 };
    const recover_step s = *step;
    for (int r = 0; r < rows; r++, x += ld)
        for (int k = 0; k < n; k++) {
            const float e = recover_step_error(&s, x[k] * inverse_c[k]);
            sum[k] += e;
            square[k] += e * e;
        }
    for (int k = 0; k < n; k++) {
        const double mean = centered ? (double)sum[k] / rows : 0;
        out[k] = fmax(0.0, (double)square[k] / rows - mean * mean);
    }
}

double recover_column_error(const float *x, int rows, int k, int ld, const float *c, const double *weight,
                            const swin_quant *q, bool centered)
{
    const recover_step s = recover_step_of(q);
    double total = 0;
    for (int at = 0; at < k; at += STRIP) {
        const int n = k - at < STRIP ? k - at : STRIP;
        float inverse[STRIP];
        double variance[STRIP];
        for (int i = 0; i < n; i++) inverse[i] = c ? 1.0f / c[at + i] : 1.0f;
        strip_error(variance, x + at, rows, ld, n, inverse, &s, centered);
        for (int i = 0; i < n; i++) total += variance[i] * weight[at + i];
    }
    return total;
}

double recover_input_estimate(const recover_gemm *g, const float *c, const swin_quant *q)
{
    const recover_step s = recover_step_of(q);
    double total = 0;
    for (int at = 0; at < g->k; at += STRIP) {
        const int n = g->k - at < STRIP ? g->k - at : STRIP;
        float inverse[STRIP];
        double variance[STRIP];
        for (int i = 0; i < n; i++) inverse[i] = c ? 1.0f / c[at + i] : 1.0f;
        strip_error(variance, g->x + at, g->rows, g->k, n, inverse, &s, true);
        for (int i = 0; i < n; i++) {
            const double m = c ? c[at + i] : 1.0;
            total += variance[i] * m * m * (double)g->energy[at + i];
        }
    }
    return total;
}

void recover_row_error(float *e, const float *w, const float *c, int k)
{
    float amax = 0;
    for (int i = 0; i < k; i++) {
        const float v = c ? w[i] * c[i] : w[i], size = v < 0 ? -v : v;
        amax = size > amax ? size : amax;
    }
    const recover_step s = { amax / 127.0f, amax > 0 ? 127.0f / amax : 0.0f, -127.0f, 127.0f };
    if (c)
        for (int i = 0; i < k; i++) e[i] = recover_step_error(&s, w[i] * c[i]) / c[i];
    else
        for (int i = 0; i < k; i++) e[i] = recover_step_error(&s, w[i]);
}

double recover_weight_estimate(const recover_gemm *g, const float *c)
{
    double total = 0;
    float *e = malloc((size_t)g->k * sizeof *e);
    if (!e) return INFINITY;
    for (int n = 0; n < g->n; n++) {
        float sum[LINE] = { 0 }, all = 0;
        recover_row_error(e, g->w + (size_t)n * (size_t)g->k, c, g->k);
        int i = 0;
        for (; i + LINE <= g->k; i += LINE)
            for (int j = 0; j < LINE; j++) sum[j] += e[i + j] * e[i + j] * g->variance[i + j];
        for (; i < g->k; i++) all += e[i] * e[i] * g->variance[i];
        for (int j = 0; j < LINE; j++) all += sum[j];
        total += (double)g->row_weight[n] * (double)g->row_weight[n] * (double)all;
    }
    free(e);
    return total;
}

/* ---- all columns on all threads --------------------------------------------------------------------------------------- */

typedef struct columns {
    const float *x;
    int64_t rows, ld;
    int cols;
    const float *lo, *hi;
    float *top;
} columns;

/* The range with the least error of 8-bit codes for a column alone: a rare large value is worth less than finer steps. */
static swin_status range_task(void *user, size_t task, int worker)
{
    (void)worker;
    const columns *c = user;
    const int at = (int)task * STRIP, n = c->cols - at < STRIP ? c->cols - at : STRIP;
    float full[STRIP], best[STRIP];
    for (int k = 0; k < n; k++) {
        full[k] = c->top[at + k] = c->hi[at + k] > -c->lo[at + k] ? c->hi[at + k] : -c->lo[at + k];
        best[k] = INFINITY;
    }
    for (int t = 0; t < 2 * RECOVER_CLIPS; t++) {
        float step[STRIP], inverse[STRIP], error[STRIP] = { 0 };
        for (int k = 0; k < n; k++) {
            const float amax = full[k] * powf(0.88f, (float)t);
            step[k] = amax / 127.0f;
            inverse[k] = amax > 0 ? 127.0f / amax : 0;
        }
        const float *x = c->x + at;
        for (int64_t r = 0; r < c->rows; r++, x += c->ld)
            for (int k = 0; k < n; k++) {
                const float e =
                    recover_round_even(recover_clamp(x[k] * inverse[k], -127.0f, 127.0f)) * step[k] - x[k];
                error[k] += e * e;
            }
        for (int k = 0; k < n; k++)
            if (error[k] < best[k]) {
                best[k] = error[k];
                c->top[at + k] = step[k] * 127.0f;
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
