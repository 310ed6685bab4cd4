/* The normalised rows of Swin V2's cosine attention, on the ref backend. */
#include <math.h>
#include <stdlib.h>

#include "runtime/ops/ops_ref.h"

enum { ROWS = 64 };

typedef struct normalise_job {
    swin_tensor *out;
    const swin_tensor *x;
    int heads;
    const float *scale;
} normalise_job;

/* The real numbers of one head of row r. */
static void load(const swin_tensor *x, int64_t r, int64_t at, int64_t n, double *v)
{
    for (int64_t i = 0; i < n; i++)
        v[i] = x->dtype == SWIN_S8 ? swin_codes(x, r)[at + i] * (double)x->scale : swin_row(x, r)[at + i];
}

static void store(const swin_tensor *out, int64_t r, int64_t at, float v)
{
    const swin_tensor column = swin_columns(out, at, 1);
    if (out->dtype == SWIN_S8)
        swin_quantize_row_ref(swin_codes(&column, r), &v, 1, &column);
    else
        swin_row(out, r)[at] = v;
}

static swin_status normalise_rows(void *user, int64_t from, int64_t to, int worker)
{
    const normalise_job *j = user;
    const int64_t size = j->x->cols / j->heads;
    (void)worker;
    double *v = swin_host_memory((size_t)size, sizeof *v);
    if (!v) return swin_fail(SWIN_ERR_MEM, "normalise_heads: no memory");
    for (int64_t r = from; r < to; r++)
        for (int h = 0; h < j->heads; h++) {
            double sum = 0;
            load(j->x, r, h * size, size, v);
            for (int64_t i = 0; i < size; i++) sum += v[i] * v[i];
            const double factor = (j->scale ? j->scale[h] : 1.0) / fmax(sqrt(sum), 1e-12);
            for (int64_t i = 0; i < size; i++) store(j->out, r, h * size + i, (float)(v[i] * factor));
        }
    free(v);
    return SWIN_OK;
}

swin_status swin_normalise_heads_ref(swin_dev *dev, swin_tensor *out, const swin_tensor *x, int heads,
                                     const float *head_scale)
{
    SWIN_TRY(swin_check_normalise_heads(out, x, heads));
    normalise_job j = { .out = out, .x = x, .heads = heads, .scale = head_scale };
    return swin_host_each(dev, x->rows, ROWS, normalise_rows, &j);
}
