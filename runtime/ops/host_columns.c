/* Columns of float32 matrices, for ref and cpu: factors, moments, rows taken out. */
#include <math.h>
#include <string.h>

#include "runtime/ops/host.h"

enum { ROWS = 64, WIDE = 256 }; /* rows of a task; columns of one: their sums stay in the first cache */

swin_status swin_check_moments(const swin_tensor *x, int runs)
{
    if (x->dtype != SWIN_F32)
        return swin_fail(SWIN_ERR_UNSUPPORTED, "moments: of %s", swin_dtype_name(x->dtype));
    if (runs < 1 || x->rows < 1 || x->cols < 1 || x->rows % runs != 0 || x->ld < x->cols)
        return swin_fail(SWIN_ERR_VALUE, "moments: %d runs of %lld x %lld (ld %lld)", runs,
                         (long long)x->rows, (long long)x->cols, (long long)x->ld);
    return SWIN_OK;
}

swin_status swin_check_rows(const swin_tensor *x, const int64_t *row, int n)
{
    if (x->dtype != SWIN_F32)
        return swin_fail(SWIN_ERR_UNSUPPORTED, "take_rows: of %s", swin_dtype_name(x->dtype));
    for (int i = 0; i < n; i++)
        if (row[i] < 0 || row[i] >= x->rows)
            return swin_fail(SWIN_ERR_VALUE, "take_rows: row %lld of %lld", (long long)row[i],
                             (long long)x->rows);
    return SWIN_OK;
}

/* ---- factors ----------------------------------------------------------------------------------------------------- */

typedef struct scaling {
    const swin_tensor *x;
    const float *factor;
} scaling;

static swin_status scale_rows(void *user, int64_t from, int64_t to, int worker)
{
    (void)worker;
    const scaling *s = user;
    const float *restrict factor = s->factor;
    for (int64_t r = from; r < to; r++) {
        float *restrict x = swin_row(s->x, r);
        for (int64_t k = 0; k < s->x->cols; k++) x[k] *= factor[k];
    }
    return SWIN_OK;
}

swin_status swin_host_scale_columns(swin_dev *dev, swin_tensor *x, const float *factor)
{
    SWIN_TRY(swin_check_matrix("scale_columns", x, x->rows, x->cols));
    return swin_host_each(dev, x->rows, ROWS, scale_rows, &(scaling){ x, factor });
}

/* ---- moments ----------------------------------------------------------------------------------------------------- */

typedef struct counting {
    const swin_moments *m;
    const swin_tensor *x;
    int64_t rows, strips; /* of a run */
} counting;

static void add_sums(double *restrict sum, double *restrict square, const float *restrict x, int n)
{
    for (int k = 0; k < n; k++) {
        const double v = (double)x[k];
        sum[k] += v;
        square[k] += v * v;
    }
}

static void widen_range(float *restrict lo, float *restrict hi, const float *restrict x, int n)
{
    for (int k = 0; k < n; k++) {
        lo[k] = x[k] < lo[k] ? x[k] : lo[k];
        hi[k] = x[k] > hi[k] ? x[k] : hi[k];
    }
}

/* One strip of the columns of one run. */
static void count_strip(const counting *c, int64_t run, int64_t at, int n)
{
    const bool sums = c->m->sum || c->m->square, ends = c->m->lo || c->m->hi;
    double sum[WIDE] = { 0 }, square[WIDE] = { 0 };
    float lo[WIDE], hi[WIDE];
    for (int k = 0; k < n; k++) lo[k] = INFINITY, hi[k] = -INFINITY;
    for (int64_t r = run * c->rows; r < (run + 1) * c->rows; r++) {
        const float *x = swin_row(c->x, r) + at;
        if (sums) add_sums(sum, square, x, n);
        if (ends) widen_range(lo, hi, x, n);
    }
    const size_t to = (size_t)(run * c->x->cols + at), count = (size_t)n;
    if (c->m->sum) memcpy(c->m->sum + to, sum, count * sizeof *sum);
    if (c->m->square) memcpy(c->m->square + to, square, count * sizeof *square);
    if (c->m->lo) memcpy(c->m->lo + to, lo, count * sizeof *lo);
    if (c->m->hi) memcpy(c->m->hi + to, hi, count * sizeof *hi);
}

static swin_status count_strips(void *user, int64_t from, int64_t to, int worker)
{
    (void)worker;
    const counting *c = user;
    for (int64_t i = from; i < to; i++) {
        const int64_t at = i % c->strips * WIDE, left = c->x->cols - at;
        count_strip(c, i / c->strips, at, (int)(left < WIDE ? left : WIDE));
    }
    return SWIN_OK;
}

swin_status swin_host_moments(swin_dev *dev, const swin_moments *m, const swin_tensor *x, int runs)
{
    SWIN_TRY(swin_check_moments(x, runs));
    counting c = { .m = m, .x = x, .rows = x->rows / runs, .strips = (x->cols + WIDE - 1) / WIDE };
    return swin_host_each(dev, runs * c.strips, 1, count_strips, &c);
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

swin_status swin_host_take_rows(swin_dev *dev, float *host, const swin_tensor *x, const int64_t *row, int n)
{
    (void)dev;
    SWIN_TRY(swin_check_rows(x, row, n));
    for (int i = 0; i < n; i++)
        memcpy(host + (size_t)i * (size_t)x->cols, swin_row(x, row[i]), (size_t)x->cols * sizeof *host);
    return SWIN_OK;
}
