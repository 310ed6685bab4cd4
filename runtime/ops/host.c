#include "runtime/ops/host.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int swin_host_threads(swin_dev *dev)
{
    return swin_pool_threads(swin_host_pool(dev));
}

void *swin_host_memory(size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX - 64) return NULL;
    return aligned_alloc(64, (bytes + 64) / 64 * 64);
}

swin_status swin_host_alloc(swin_dev *dev, void **p, size_t bytes)
{
    (void)dev;
    *p = swin_host_memory(bytes, 1);
    return *p ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "no memory for %zu bytes", bytes);
}

void swin_host_free(swin_dev *dev, void *p)
{
    (void)dev;
    free(p);
}

swin_status swin_host_move(swin_dev *dev, void *dst, const void *src, size_t bytes)
{
    (void)dev;
    if (bytes > 0) memcpy(dst, src, bytes);
    return SWIN_OK;
}

swin_status swin_host_sync(swin_dev *dev)
{
    (void)dev;
    return SWIN_OK;
}

typedef struct range_job {
    swin_host_range fn;
    void *user;
    int64_t rows, step;
} range_job;

static swin_status run_range(void *user, size_t task, int worker)
{
    const range_job *j = user;
    const int64_t from = (int64_t)task * j->step, to = from + j->step < j->rows ? from + j->step : j->rows;
    return j->fn(j->user, from, to, worker);
}

swin_status swin_host_each(swin_dev *dev, int64_t rows, int64_t step, swin_host_range fn, void *user)
{
    range_job j = { .fn = fn, .user = user, .rows = rows, .step = step };
    return swin_pool_run(swin_host_pool(dev), (size_t)((rows + step - 1) / step), run_range, &j);
}

void swin_host_patch(float *x, const float *images, int size, const swin_patch_embed *p, int64_t token)
{
    const int patch = p->patch, across = size / patch;
    const int64_t image = token / ((int64_t)across * across);
    const int at = (int)(token % ((int64_t)across * across)), top = at / across * patch,
              left = at % across * patch;
    for (int c = 0; c < p->in_chans; c++)
        for (int y = 0; y < patch; y++, x += patch)
            memcpy(x, images + ((image * p->in_chans + c) * size + top + y) * size + left,
                   (size_t)patch * sizeof *x);
}

swin_status swin_check_matrix(const char *op, const swin_tensor *t, int64_t rows, int64_t cols)
{
    if (t->dtype != SWIN_F32)
        return swin_fail(SWIN_ERR_UNSUPPORTED, "%s: %s matrix on a backend that keeps float32", op,
                         swin_dtype_name(t->dtype));
    if (t->rows != rows || t->cols != cols || t->ld < t->cols)
        return swin_fail(SWIN_ERR_VALUE, "%s: matrix is %lld x %lld (ld %lld), expected %lld x %lld", op,
                         (long long)t->rows, (long long)t->cols, (long long)t->ld, (long long)rows,
                         (long long)cols);
    return SWIN_OK;
}

swin_status swin_check_codes(const char *op, const swin_tensor *t, int64_t rows, int64_t cols)
{
    if (t->dtype != SWIN_S8)
        return swin_fail(SWIN_ERR_VALUE, "%s: %s where int8 codes belong", op, swin_dtype_name(t->dtype));
    if (t->rows != rows || t->cols != cols || t->ld < t->cols)
        return swin_fail(SWIN_ERR_VALUE, "%s: codes are %lld x %lld (ld %lld), expected %lld x %lld", op,
                         (long long)t->rows, (long long)t->cols, (long long)t->ld, (long long)rows,
                         (long long)cols);
    const bool codes = t->qmin >= -128 && t->qmax <= 127 && t->qmin < t->qmax && t->zero_point >= -128 &&
                       t->zero_point <= 127;
    if (isnormal(t->scale) && t->scale > 0 && isfinite(1.0f / t->scale) && codes) return SWIN_OK;
    return swin_fail(SWIN_ERR_VALUE, "%s: scale %g, zero point %d, codes %d to %d", op, t->scale,
                     t->zero_point, t->qmin, t->qmax);
}

swin_status swin_check_output(const char *op, const swin_tensor *t, int64_t rows, int64_t cols)
{
    return t->dtype == SWIN_S8 ? swin_check_codes(op, t, rows, cols) : swin_check_matrix(op, t, rows, cols);
}

swin_status swin_check_windows(const char *op, const swin_windows *g)
{
    const bool good = g->images >= 0 && g->window > 0 && g->height > 0 && g->width > 0 &&
                      g->height % g->window == 0 && g->width % g->window == 0 && g->shift >= 0 &&
                      g->shift < g->window;
    if (good) return SWIN_OK;
    return swin_fail(SWIN_ERR_VALUE, "%s: window %d, shift %d on a map of %d x %d", op, g->window, g->shift,
                     g->height, g->width);
}

swin_status swin_check_merge(const char *op, const swin_windows *g)
{
    if (g->images >= 0 && g->height > 0 && g->width > 0 && g->height % 2 == 0 && g->width % 2 == 0)
        return SWIN_OK;
    return swin_fail(SWIN_ERR_VALUE, "%s: a map of %d x %d has no pairs", op, g->height, g->width);
}

swin_status swin_check_attention(const char *op, const swin_attention *a, const swin_windows *g,
                                 const swin_tensor *out, const swin_tensor *qkv, const swin_tensor *s)
{
    SWIN_TRY(swin_check_windows(op, g));
    if (a->heads <= 0 || a->head_size <= 0)
        return swin_fail(SWIN_ERR_VALUE, "%s: %d heads of size %d", op, a->heads, a->head_size);
    const int64_t rows = swin_windows_tokens(g), channels = (int64_t)a->heads * a->head_size;
    if (out) SWIN_TRY(swin_check_matrix(op, out, rows, channels));
    if (qkv) SWIN_TRY(swin_check_matrix(op, qkv, rows, 3 * channels));
    if (s) SWIN_TRY(swin_check_matrix(op, s, rows * a->heads, swin_window_tokens(g)));
    return SWIN_OK;
}

swin_status swin_check_normalise_heads(const swin_tensor *out, const swin_tensor *x, int heads)
{
    SWIN_TRY(swin_check_output("normalise_heads", x, x->rows, x->cols));
    SWIN_TRY(swin_check_output("normalise_heads", out, x->rows, x->cols));
    if (heads <= 0 || x->cols % heads != 0)
        return swin_fail(SWIN_ERR_VALUE, "normalise_heads: %d heads of %lld columns", heads,
                         (long long)x->cols);
    if (x->dtype == SWIN_S8 && x->zero_point != 0)
        return swin_fail(SWIN_ERR_VALUE, "normalise_heads: a zero point of %d", x->zero_point);
    return SWIN_OK;
}

swin_status swin_check_fake_quant(float scale, int zero_point, int qmin, int qmax)
{
    if (isnormal(scale) && scale > 0 && isfinite(1.0f / scale) && qmin <= qmax && qmin >= -65536 &&
        qmax <= 65536 && zero_point >= -65536 && zero_point <= 65536)
        return SWIN_OK;
    return swin_fail(SWIN_ERR_VALUE, "fake_quant: scale %g, zero point %d, codes %d to %d", scale, zero_point,
                     qmin, qmax);
}
