#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calib/recover_impl.h"
#include "calib/recover_step.h"
#include "runtime/base/log.h"

/* ---- products on the device ---------------------------------------------------------------------------------------- */

static swin_status product(swin_recover *r, float *y, const float *x, int64_t rows, const swin_linear *l)
{
    const swin_ops *ops = r->dev->ops;
    const size_t in = (size_t)rows * (size_t)l->in, out = (size_t)rows * (size_t)l->out;
    void *dx = NULL, *dy = NULL;
    const double start = swin_now();
    swin_status st;
    SWIN_TRY_GOTO(st, ops->alloc(r->dev, &dx, in * sizeof *x), done);
    SWIN_TRY_GOTO(st, ops->alloc(r->dev, &dy, out * sizeof *y), done);
    SWIN_TRY_GOTO(st, ops->upload(r->dev, dx, x, in * sizeof *x), done);
    swin_tensor tx = swin_matrix(dx, SWIN_F32, rows, l->in), ty = swin_matrix(dy, SWIN_F32, rows, l->out);
    SWIN_TRY_GOTO(st, ops->linear(r->dev, &ty, &tx, l, l->bias != NULL, SWIN_ACT_NONE), done);
    st = ops->download(r->dev, y, dy, out * sizeof *y);
done:
    ops->free(r->dev, dx);
    ops->free(r->dev, dy);
    r->product_s += swin_now() - start;
    return st;
}

swin_status recover_linear(swin_recover *r, float *y, const float *x, int rows, const float *w,
                           const float *bias, int n, int k)
{
    swin_linear l = { 0 };
    SWIN_TRY(r->dev->ops->linear_prepare(r->dev, &l, w, bias, n, k, SWIN_F32));
    const swin_status st = product(r, y, x, rows, &l);
    r->dev->ops->linear_release(r->dev, &l);
    return st;
}

swin_status recover_input_error(recover_gemm *g, const float *c, const swin_quant *q, double *error)
{
    const recover_step s = recover_step_of(q);
    const size_t n = (size_t)g->n, k = (size_t)g->k, rows = (size_t)g->rows;
    float *d = calloc(rows * k, sizeof *d), *y = malloc(rows * n * sizeof *y);
    double *sum = calloc(n, sizeof *sum), square = 0;
    swin_status st = SWIN_ERR_MEM;
    if (!d || !y || !sum) {
        swin_fail(st, "--recover: no memory for an error of %zu x %zu", rows, n);
        goto done;
    }
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < k; i++) {
            const float x = g->x[r * k + i];
            d[r * k + i] = c ? recover_step_error(&s, x / c[i]) * c[i] : recover_step_error(&s, x);
        }
    SWIN_TRY_GOTO(st, product(g->r, y, d, g->rows, &g->weights), done);
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < n; j++) {
            const double e = y[r * n + j];
            sum[j] += e;
            square += e * e;
        }
    for (size_t j = 0; j < n; j++) square -= sum[j] * sum[j] / (double)rows;
    *error = square / (double)rows;
done:
    free(d);
    free(y);
    free(sum);
    return st;
}

swin_status recover_weight_error(recover_gemm *g, const float *c, double *error)
{
    const size_t n = (size_t)g->n, k = (size_t)g->k, rows = (size_t)g->rows;
    float *d = calloc(n * k, sizeof *d), *y = malloc(rows * n * sizeof *y);
    swin_status st = SWIN_ERR_MEM;
    double total = 0;
    if (!d || !y) {
        swin_fail(st, "--recover: no memory for an error of %zu x %zu", rows, n);
        goto done;
    }
    for (size_t j = 0; j < n; j++) recover_row_error(d + j * k, g->w + j * k, c, g->k);
    SWIN_TRY_GOTO(st, product(g->r, y, d, g->n, &g->inputs), done); /* [n][rows] */
    for (size_t j = 0; j < n; j++) {
        double sum = 0, square = 0;
        for (size_t r = 0; r < rows; r++) {
            const double e = y[j * rows + r];
            sum += e;
            square += e * e;
        }
        const double weight = g->row_weight[j];
        total += weight * weight * (square - sum * sum / (double)rows);
    }
    *error = total / (double)rows;
done:
    free(d);
    free(y);
    return st;
}

/* ---- preparation -------------------------------------------------------------------------------------------------- */

static void measure_columns(recover_gemm *g)
{
    for (int i = 0; i < g->k; i++) {
        double sum = 0, square = 0;
        for (int r = 0; r < g->rows; r++) {
            const double v = g->x[(size_t)r * (size_t)g->k + (size_t)i];
            sum += v;
            square += v * v;
        }
        const double mean = sum / g->rows;
        g->variance[i] = (float)fmax(0.0, square / g->rows - mean * mean);
    }
}

static void measure_weights(recover_gemm *g, float *weighted)
{
    for (int n = 0; n < g->n; n++)
        for (int i = 0; i < g->k; i++) {
            const size_t at = (size_t)n * (size_t)g->k + (size_t)i;
            weighted[at] = g->row_weight[n] * g->w[at];
            g->energy[i] += weighted[at] * weighted[at];
            g->w_amax[i] = fmaxf(g->w_amax[i], fabsf(g->w[at]));
        }
}

swin_status recover_gemm_init(recover_gemm *g, swin_recover *r, const recover_samples *x, const float *w,
                              int n, const float *importance)
{
    const int k = x->cols, rows = x->rows;
    *g = (recover_gemm){ .r = r, .x = x->x, .w = w, .rows = rows, .k = k, .n = n };
    float *weighted = malloc((size_t)n * (size_t)k * sizeof *weighted);
    float **vectors[] = { &g->energy, &g->variance, &g->w_amax };
    swin_status st = SWIN_OK;
    bool ok = weighted && (g->row_weight = malloc((size_t)n * sizeof *g->row_weight));
    for (size_t i = 0; i < SWIN_COUNT(vectors); i++)
        ok = (*vectors[i] = calloc((size_t)k, sizeof **vectors[i])) && ok;
    if (!ok) st = swin_fail(SWIN_ERR_MEM, "--recover: no memory for a layer of %d x %d", n, k);
    for (int i = 0; ok && i < n; i++) g->row_weight[i] = importance ? sqrtf(importance[i]) : 1.0f;
    if (ok) {
        measure_columns(g);
        measure_weights(g, weighted);
        st = r->dev->ops->linear_prepare(r->dev, &g->weights, weighted, NULL, n, k, SWIN_F32);
    }
    if (st == SWIN_OK) st = r->dev->ops->linear_prepare(r->dev, &g->inputs, x->x, NULL, rows, k, SWIN_F32);
    free(weighted);
    if (st != SWIN_OK) recover_gemm_free(g);
    return st;
}

void recover_gemm_free(recover_gemm *g)
{
    if (g->r) {
        g->r->dev->ops->linear_release(g->r->dev, &g->weights);
        g->r->dev->ops->linear_release(g->r->dev, &g->inputs);
    }
    free(g->row_weight);
    free(g->energy);
    free(g->variance);
    free(g->w_amax);
    *g = (recover_gemm){ 0 };
}
