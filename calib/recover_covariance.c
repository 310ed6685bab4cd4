/* The covariance of a layer's inputs and its Cholesky factor, on all threads. */
#include <math.h>
#include <stdlib.h>

#include "calib/recover_impl.h"
#include "runtime/base/wide.h"

/* ---- covariance ---------------------------------------------------------------------------------------------------- */

enum { STRIP = 16 }; /* columns of a task */

typedef struct centering {
    const recover_samples *x;
    float *t; /* [k][rows] */
} centering;

/* Columns without their means, over sqrt(rows), as rows of t. */
static swin_status center_task(void *user, size_t task, int worker)
{
    (void)worker;
    const centering *c = user;
    const size_t rows = (size_t)c->x->rows, k = (size_t)c->x->cols, from = task * STRIP,
                 n = k - from < STRIP ? k - from : STRIP;
    const double scale = 1 / sqrt((double)rows);
    double mean[STRIP] = { 0 };
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < n; i++) mean[i] += (double)c->x->x[r * k + from + i];
    for (size_t i = 0; i < n; i++) mean[i] /= (double)rows;
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < n; i++)
            c->t[(from + i) * rows + r] = (float)(((double)c->x->x[r * k + from + i] - mean[i]) * scale);
    return SWIN_OK;
}

swin_status recover_covariance(swin_recover *r, float *h, const recover_samples *x)
{
    const size_t rows = (size_t)x->rows, k = (size_t)x->cols;
    centering c = { x, malloc(rows * k * sizeof *c.t) };
    if (!c.t) return swin_fail(SWIN_ERR_MEM, "--recover: no memory for %d x %d samples", x->rows, x->cols);
    swin_status st = swin_pool_run(r->pool, (k + STRIP - 1) / STRIP, center_task, &c);
    if (st == SWIN_OK) st = recover_linear(r, h, c.t, (int)k, c.t, NULL, (int)k, (int)rows);
    free(c.t);
    return st;
}

/* ---- Cholesky, block by block ------------------------------------------------------------------------------------- */

enum { BLOCK = 64, ROWS = 16 }; /* columns of a block; rows of a task */

/* s -= a . b. Eight sums, so that the order of additions is fixed and the loop can still be a vector's. */
static SWIN_WIDE_BODY void subtract_dot_body(double *s, const double *restrict a, const double *restrict b,
                                             int n)
{
    double sum[8] = { 0 };
    int i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; j++) sum[j] += a[i + j] * b[i + j];
    for (; i < n; i++) sum[0] += a[i] * b[i];
    *s -= ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}
SWIN_WIDE(subtract_dot, (double *s, const double *a, const double *b, int n), (s, a, b, n))

typedef struct factoring {
    double *l;
    size_t k, at, end; /* the block's columns */
} factoring;

/* The block's own rows, which know all columns before it. */
static swin_status factor_block(const factoring *f)
{
    for (size_t i = f->at; i < f->end; i++) {
        double *row = f->l + i * f->k;
        for (size_t j = f->at; j < i; j++) {
            subtract_dot(&row[j], row + f->at, f->l + j * f->k + f->at, (int)(j - f->at));
            row[j] /= f->l[j * f->k + j];
        }
        subtract_dot(&row[i], row + f->at, row + f->at, (int)(i - f->at));
        if (!(row[i] > 0)) return swin_fail(SWIN_ERR_VALUE, "the inputs' covariance is not positive");
        row[i] = sqrt(row[i]);
    }
    return SWIN_OK;
}

/* Rows below the block: their columns in it. */
static swin_status solve_rows(void *user, size_t task, int worker)
{
    (void)worker;
    const factoring *f = user;
    const size_t from = f->end + task * ROWS, to = from + ROWS < f->k ? from + ROWS : f->k;
    for (size_t i = from; i < to; i++) {
        double *row = f->l + i * f->k;
        for (size_t j = f->at; j < f->end; j++) {
            subtract_dot(&row[j], row + f->at, f->l + j * f->k + f->at, (int)(j - f->at));
            row[j] /= f->l[j * f->k + j];
        }
    }
    return SWIN_OK;
}

/* And what the block takes from all columns behind it; a column of the lower half has rows from its own number on. */
static swin_status update_rows(void *user, size_t task, int worker)
{
    (void)worker;
    const factoring *f = user;
    const size_t from = f->end + task * ROWS, to = from + ROWS < f->k ? from + ROWS : f->k;
    for (size_t j = f->end; j < to; j++) {
        const double *other = f->l + j * f->k + f->at;
        for (size_t i = j > from ? j : from; i < to; i++)
            subtract_dot(&f->l[i * f->k + j], f->l + i * f->k + f->at, other, BLOCK);
    }
    return SWIN_OK;
}

swin_status recover_cholesky(swin_recover *r, double *l, int k)
{
    for (size_t at = 0; at < (size_t)k; at += BLOCK) {
        const size_t end = at + BLOCK < (size_t)k ? at + BLOCK : (size_t)k;
        factoring f = { l, (size_t)k, at, end };
        const size_t tasks = ((size_t)k - end + ROWS - 1) / ROWS;
        SWIN_TRY(factor_block(&f));
        if (tasks == 0) break;
        SWIN_TRY(swin_pool_run(r->pool, tasks, solve_rows, &f));
        SWIN_TRY(swin_pool_run(r->pool, tasks, update_rows, &f));
    }
    return SWIN_OK;
}
