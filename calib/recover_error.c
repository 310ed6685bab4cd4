/* What quantizing a layer's inputs or weights does to its output, measured with products on the device. Samples and errors are
 * made on all threads; of a product only the moments of its columns come back. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calib/recover_impl.h"
#include "calib/recover_step.h"
#include "runtime/base/log.h"
#include "runtime/base/wide.h"

/* ---- products on the device ---------------------------------------------------------------------------------------- */

static swin_status grow(swin_recover *r, int i, size_t bytes)
{
    if (bytes <= r->room_bytes[i]) return SWIN_OK;
    r->dev->ops->free(r->dev, r->room[i]);
    r->room[i] = NULL;
    r->room_bytes[i] = 0;
    SWIN_TRY(r->dev->ops->alloc(r->dev, &r->room[i], bytes));
    r->room_bytes[i] = bytes;
    return SWIN_OK;
}

/* *ty: y on the device, valid until the next product. */
static swin_status product(swin_recover *r, swin_tensor *ty, const float *x, int64_t rows,
                           const swin_linear *l)
{
    const swin_ops *ops = r->dev->ops;
    const size_t in = (size_t)rows * (size_t)l->in * sizeof *x,
                 out = (size_t)rows * (size_t)l->out * sizeof *x;
    const double start = swin_now();
    SWIN_TRY(grow(r, 0, in));
    SWIN_TRY(grow(r, 1, out));
    swin_status st = ops->upload(r->dev, r->room[0], x, in);
    swin_tensor tx = swin_matrix(r->room[0], SWIN_F32, rows, l->in);
    *ty = swin_matrix(r->room[1], SWIN_F32, rows, l->out);
    if (st == SWIN_OK) st = ops->linear(r->dev, ty, &tx, l, l->bias != NULL, SWIN_ACT_NONE);
    r->product_s += swin_now() - start;
    return st;
}

swin_status recover_linear(swin_recover *r, float *y, const float *x, int rows, const float *w,
                           const float *bias, int n, int k)
{
    swin_linear l = { 0 };
    swin_tensor ty;
    SWIN_TRY(r->dev->ops->linear_prepare(r->dev, &l, w, bias, n, k, SWIN_F32));
    swin_status st = product(r, &ty, x, rows, &l);
    const double start = swin_now();
    if (st == SWIN_OK) st = r->dev->ops->download(r->dev, y, ty.data, (size_t)rows * (size_t)n * sizeof *y);
    r->product_s += swin_now() - start;
    r->dev->ops->linear_release(r->dev, &l);
    return st;
}

/* Sum over columns of the squares, centered: about the column's mean. */
static swin_status square_of(swin_recover *r, double *square, const swin_tensor *y, bool centered)
{
    const size_t n = (size_t)y->cols;
    const double start = swin_now();
    double *sums = malloc(2 * n * sizeof *sums);
    if (!sums) return swin_fail(SWIN_ERR_MEM, "--recover: no memory for the errors of %zu channels", n);
    const swin_moments m = { .sum = sums, .square = sums + n };
    const swin_status st = r->dev->ops->moments(r->dev, &m, y, 1);
    *square = 0;
    for (size_t i = 0; st == SWIN_OK && i < n; i++)
        *square += m.square[i] - (centered ? m.sum[i] * m.sum[i] / (double)y->rows : 0);
    free(sums);
    r->product_s += swin_now() - start;
    return st;
}

/* ---- errors ------------------------------------------------------------------------------------------------------- */

enum { ROWS = 16 }; /* of a task */

typedef struct errors {
    const recover_gemm *g;
    float *d;                /* owned: [rows][k] or [n][k] */
    float *factor, *inverse; /* owned: c and 1 / c */
    recover_step step;
    int rows;
} errors;

static swin_status errors_init(errors *e, const recover_gemm *g, const float *c, int rows)
{
    *e = (errors){ .g = g,
                   .d = malloc((size_t)rows * (size_t)g->k * sizeof(float)),
                   .factor = recover_ones_or(c, g->k, false),
                   .inverse = recover_ones_or(c, g->k, true),
                   .rows = rows };
    return e->d && e->factor && e->inverse
               ? SWIN_OK
               : swin_fail(SWIN_ERR_MEM, "--recover: no memory for errors of %d x %d", rows, g->k);
}

static void errors_free(errors *e)
{
    free(e->d);
    free(e->factor);
    free(e->inverse);
}

static SWIN_WIDE_BODY void input_errors_body(float *restrict d, const float *restrict x,
                                             const float *restrict c, const float *restrict inverse, int k,
                                             const recover_step *step)
{
    const recover_step s = *step;
    for (int i = 0; i < k; i++) d[i] = recover_step_error(&s, x[i] * inverse[i]) * c[i];
}
SWIN_WIDE(input_errors,
          (float *d, const float *x, const float *c, const float *inverse, int k, const recover_step *step),
          (d, x, c, inverse, k, step))

static swin_status input_task(void *user, size_t task, int worker)
{
    (void)worker;
    const errors *e = user;
    const size_t k = (size_t)e->g->k;
    const int from = (int)task * ROWS, to = e->rows - from < ROWS ? e->rows : from + ROWS;
    for (size_t r = (size_t)from; r < (size_t)to; r++)
        input_errors(e->d + r * k, e->g->x + r * k, e->factor, e->inverse, e->g->k, &e->step);
    return SWIN_OK;
}

swin_status recover_input_error(recover_gemm *g, const float *c, const swin_quant *q, double *error)
{
    errors e;
    swin_tensor y;
    swin_status st = errors_init(&e, g, c, g->rows);
    e.step = recover_step_of(q);
    if (st == SWIN_OK) st = swin_pool_run(g->r->pool, (size_t)(g->rows + ROWS - 1) / ROWS, input_task, &e);
    if (st == SWIN_OK) st = product(g->r, &y, e.d, g->rows, &g->weights);
    if (st == SWIN_OK) st = square_of(g->r, error, &y, true);
    if (st == SWIN_OK) *error /= g->rows;
    errors_free(&e);
    return st;
}

static swin_status weight_task(void *user, size_t task, int worker)
{
    (void)worker;
    const errors *e = user;
    const size_t k = (size_t)e->g->k;
    const int from = (int)task * ROWS, to = e->rows - from < ROWS ? e->rows : from + ROWS;
    for (size_t n = (size_t)from; n < (size_t)to; n++) {
        recover_row_error(e->d + n * k, e->g->w + n * k, e->factor, e->inverse, e->g->k);
        for (size_t i = n * k; i < (n + 1) * k; i++) e->d[i] *= e->g->row_weight[n];
    }
    return SWIN_OK;
}

/* The inputs without their means, as a weight: what they make of a row of weight errors has no mean. */
static swin_status prepare_inputs(recover_gemm *g)
{
    const size_t rows = (size_t)g->rows, k = (size_t)g->k;
    if (g->inputs.packed) return SWIN_OK;
    float *x = malloc(rows * k * sizeof *x);
    if (!x) return swin_fail(SWIN_ERR_MEM, "--recover: no memory for %zu x %zu samples", rows, k);
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < k; i++) x[r * k + i] = g->x[r * k + i] - g->mean[i];
    const swin_status st =
        g->r->dev->ops->linear_prepare(g->r->dev, &g->inputs, x, NULL, g->rows, g->k, SWIN_F32);
    free(x);
    return st;
}

swin_status recover_weight_error(recover_gemm *g, const float *c, double *error)
{
    errors e;
    swin_tensor y; /* [n][rows] */
    SWIN_TRY(prepare_inputs(g));
    swin_status st = errors_init(&e, g, c, g->n);
    if (st == SWIN_OK) st = swin_pool_run(g->r->pool, (size_t)(g->n + ROWS - 1) / ROWS, weight_task, &e);
    if (st == SWIN_OK) st = product(g->r, &y, e.d, g->n, &g->inputs);
    if (st == SWIN_OK) st = square_of(g->r, error, &y, false);
    if (st == SWIN_OK) *error /= g->rows;
    errors_free(&e);
    return st;
}

/* ---- preparation -------------------------------------------------------------------------------------------------- */

enum { STRIP = 64 }; /* columns of a task */

typedef struct preparation {
    recover_gemm *g;
    float *weighted; /* [n][k] */
} preparation;

static void measure_columns(recover_gemm *g, int from, int to)
{
    double sum[STRIP] = { 0 }, square[STRIP] = { 0 };
    for (int r = 0; r < g->rows; r++)
        for (int i = from; i < to; i++) {
            const double v = (double)g->x[(size_t)r * (size_t)g->k + (size_t)i];
            sum[i - from] += v;
            square[i - from] += v * v;
        }
    for (int i = from; i < to; i++) {
        const double mean = sum[i - from] / g->rows;
        g->mean[i] = (float)mean;
        g->variance[i] = (float)fmax(0.0, square[i - from] / g->rows - mean * mean);
    }
}

static swin_status prepare_task(void *user, size_t task, int worker)
{
    (void)worker;
    const preparation *p = user;
    recover_gemm *g = p->g;
    const int from = (int)task * STRIP, to = g->k - from < STRIP ? g->k : from + STRIP;
    measure_columns(g, from, to);
    for (int n = 0; n < g->n; n++)
        for (int i = from; i < to; i++) {
            const size_t at = (size_t)n * (size_t)g->k + (size_t)i;
            const float w = g->row_weight[n] * g->w[at], size = fabsf(w);
            p->weighted[at] = w;
            g->energy[i] += w * w;
            g->w_amax[i] = size > g->w_amax[i] ? size : g->w_amax[i];
        }
    return SWIN_OK;
}

swin_status recover_gemm_init(recover_gemm *g, swin_recover *r, const recover_samples *x, const float *w,
                              int n, const float *importance)
{
    const int k = x->cols, rows = x->rows;
    *g = (recover_gemm){ .r = r, .x = x->x, .w = w, .rows = rows, .k = k, .n = n };
    preparation p = { g, malloc((size_t)n * (size_t)k * sizeof *p.weighted) };
    float **vectors[] = { &g->energy, &g->mean, &g->variance, &g->w_amax };
    swin_status st = SWIN_OK;
    bool ok = p.weighted && (g->row_weight = malloc((size_t)n * sizeof *g->row_weight));
    for (size_t i = 0; i < SWIN_COUNT(vectors); i++)
        ok = (*vectors[i] = calloc((size_t)k, sizeof **vectors[i])) && ok;
    if (!ok) st = swin_fail(SWIN_ERR_MEM, "--recover: no memory for a layer of %d x %d", n, k);
    for (int i = 0; ok && i < n; i++) g->row_weight[i] = importance ? sqrtf(importance[i]) : 1.0f;
    if (ok) st = swin_pool_run(r->pool, (size_t)(k + STRIP - 1) / STRIP, prepare_task, &p);
    if (st == SWIN_OK)
        st = r->dev->ops->linear_prepare(r->dev, &g->weights, p.weighted, NULL, n, k, SWIN_F32);
    free(p.weighted);
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
    free(g->mean);
    free(g->variance);
    free(g->w_amax);
    *g = (recover_gemm){ 0 };
}
