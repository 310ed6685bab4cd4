/* Observers of the cuda backend, and the operators that observe on their way. */
#include <stdlib.h>

#include "runtime/ops/kernels/cuda_dev.h"

struct swin_observer {
    swin_observer_state *state; /* device */
    bool begun;                 /* it has been given values: its histogram has a width, or will have */
};

void swin_observer_free_cuda(swin_dev *dev, swin_observer *o)
{
    if (!o) return;
    swin_free_cuda(dev, o->state);
    free(o);
}

static swin_status make_scratch(swin_cuda *d)
{
    const size_t bytes = SWIN_WATCHED * sizeof *d->scratch;
    if (d->scratch) return SWIN_OK;
    SWIN_TRY(swin_alloc_cuda(&d->base, (void **)&d->scratch, bytes));
    return swin_cuda_status(cudaMemsetAsync(d->scratch, 0, bytes, d->stream), "cudaMemset");
}

swin_status swin_observer_create_cuda(swin_dev *dev, swin_observer **out)
{
    swin_cuda *d = swin_cuda_of(dev);
    *out = NULL;
    SWIN_TRY(make_scratch(d));
    swin_observer *o = calloc(1, sizeof *o);
    if (!o) return swin_fail(SWIN_ERR_MEM, "no memory for an observer");
    swin_status st = swin_alloc_cuda(dev, (void **)&o->state, sizeof *o->state);
    if (st == SWIN_OK) st = swin_cuda_status(swin_observer_reset_launch(d->stream, o->state), "an observer");
    if (st != SWIN_OK) {
        swin_observer_free_cuda(dev, o);
        return st;
    }
    *out = o;
    return SWIN_OK;
}

static swin_watch watch_of(const swin_cuda *d, const swin_observer *o, int place)
{
    return (swin_watch){ .o = o ? o->state : NULL, .scratch = d->scratch + place };
}

swin_status swin_observe_cuda(swin_dev *dev, swin_observer *o, const swin_tensor *x)
{
    swin_cuda *d = swin_cuda_of(dev);
    const swin_watch w = watch_of(d, o, 0);
    SWIN_TRY(swin_check_cuda("observe", x, x, x->rows, x->cols));
    if (!o->begun)
        SWIN_TRY(
            swin_cuda_status(swin_observe_range_launch(d->stream, &w, x, d->multiprocessors), "observe"));
    o->begun = true;
    return swin_cuda_status(swin_observe_launch(d->stream, &w, x, d->multiprocessors), "observe");
}

swin_status swin_observer_read_cuda(swin_dev *dev, const swin_observer *o, swin_observed *out)
{
    swin_observer_state *s = malloc(sizeof *s);
    if (!s) return swin_fail(SWIN_ERR_MEM, "no memory to read an observer");
    const swin_status st = swin_download_cuda(dev, s, o->state, sizeof *s);
    if (st == SWIN_OK) {
        const bool any = s->min <= s->max;
        out->count = s->count, out->nonfinite = s->nonfinite;
        out->min = any ? swin_observer_float(s->min) : 0;
        out->max = any ? swin_observer_float(s->max) : 0;
        out->bin_width = any ? s->width : SWIN_HIST_MIN_WIDTH;
        for (int i = 0; i < SWIN_HIST_BINS; i++) out->hist[i] = s->hist[i];
    }
    free(s);
    return st;
}

/* ---- operators that observe on their way --------------------------------------------------------------------- */

/* Before the kernels are worth it, each observer has a width that fits its tensor. */
swin_status swin_bias_act_observed_cuda(swin_dev *dev, swin_tensor *y, const float *bias, swin_act act,
                                        swin_observer *before, swin_observer *const after[3], int parts)
{
    swin_cuda *d = swin_cuda_of(dev);
    const swin_watch in = watch_of(d, before, 0);
    swin_watch out[3] = { { 0 } };
    bool begun = before->begun;
    SWIN_TRY(swin_check_cuda("bias_act", y, y, y->rows, y->cols));
    if (parts < 1 || parts > 3 || y->cols % parts != 0)
        return swin_fail(SWIN_ERR_VALUE, "bias_act: %lld columns in %d parts", (long long)y->cols, parts);
    for (int i = 0; i < parts; i++) out[i] = watch_of(d, after[i], i + 1), begun = begun && after[i]->begun;
    if (begun) {
        const cudaError_t e =
            swin_bias_act_observed_launch(d->stream, y, bias, act, &in, out, parts, d->multiprocessors);
        if (e != cudaErrorNotSupported) return swin_cuda_status(e, "bias_act");
    }
    SWIN_TRY(swin_observe_cuda(dev, before, y));
    SWIN_TRY(swin_bias_act_cuda(dev, y, bias, act));
    for (int i = 0; i < parts; i++) {
        const swin_tensor part = swin_columns(y, i * (y->cols / parts), y->cols / parts);
        SWIN_TRY(swin_observe_cuda(dev, after[i], &part));
    }
    return SWIN_OK;
}

swin_status swin_residual_add_observed_cuda(swin_dev *dev, swin_tensor *residual, swin_tensor *y,
                                            const float *bias, const swin_windows *g, swin_observer *product,
                                            swin_observer *local, swin_observer *sum)
{
    swin_cuda *d = swin_cuda_of(dev);
    const swin_watch seen[3] = { watch_of(d, product, 0), watch_of(d, local, 1), watch_of(d, sum, 2) };
    SWIN_TRY(swin_check_cuda("residual_add", residual, y, y->rows, y->cols));
    if (g && swin_windows_tokens(g) != y->rows)
        return swin_fail(SWIN_ERR_VALUE, "residual_add: %lld rows for %d maps of %d x %d", (long long)y->rows,
                         g->images, g->height, g->width);
    if (product->begun && local->begun && (!sum || sum->begun)) {
        const cudaError_t e =
            swin_residual_observed_launch(d->stream, residual, y, bias, g, seen, d->multiprocessors);
        if (e != cudaErrorNotSupported) return swin_cuda_status(e, "residual_add");
    }
    SWIN_TRY(swin_observe_cuda(dev, product, y));
    if (bias) SWIN_TRY(swin_bias_act_cuda(dev, y, bias, SWIN_ACT_NONE));
    SWIN_TRY(swin_observe_cuda(dev, local, y));
    SWIN_TRY(swin_residual_add_cuda(dev, residual, y, g));
    return sum ? swin_observe_cuda(dev, sum, residual) : SWIN_OK;
}
