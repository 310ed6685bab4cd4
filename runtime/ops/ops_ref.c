/* The ref backend: its table, and the operators that are one line of arithmetic. */
#include "runtime/ops/ops_ref.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/half.h"

enum { ROWS = 64 }; /* rows of one task */

static swin_status ref_open(swin_dev **dev, const swin_dev_opts *opts)
{
    *dev = NULL;
    swin_host_dev *d = calloc(1, sizeof *d);
    if (!d) return swin_fail(SWIN_ERR_MEM, "no memory for the ref backend");
    d->base.ops = &swin_ops_ref;
    const swin_status st = swin_pool_create(&d->pool, opts ? opts->threads : 0);
    if (st != SWIN_OK) {
        free(d);
        return st;
    }
    *dev = &d->base;
    return SWIN_OK;
}

static void ref_close(swin_dev *dev)
{
    if (!dev) return;
    swin_pool_free(swin_host_pool(dev));
    free(dev);
}

static void ref_engine(swin_dev *dev, char *text, size_t size)
{
    (void)dev;
    snprintf(text, size, "ref: float64 inside operators, float32 between them");
}

static int ref_chunk(swin_dev *dev, size_t bytes_per_image, int batch)
{
    (void)dev, (void)bytes_per_image;
    return batch;
}

typedef struct each_row {
    swin_tensor *y;
    const swin_tensor *x;
    const float *bias;
    swin_act act;
    const swin_windows *g;
    float scale;
    int zero_point, qmin, qmax;
    swin_dtype dtype;
} each_row;

static double gelu(double v)
{
    return 0.5 * v * (1.0 + erf(v * 0.70710678118654752440));
}

static swin_status bias_act_rows(void *user, int64_t from, int64_t to, int worker)
{
    const each_row *j = user;
    (void)worker;
    for (int64_t r = from; r < to; r++) {
        float *y = swin_row(j->y, r);
        for (int64_t c = 0; c < j->y->cols; c++) {
            const double v = y[c] + (j->bias ? (double)j->bias[c] : 0.0);
            y[c] = (float)(j->act == SWIN_ACT_GELU ? gelu((float)v) : v);
        }
    }
    return SWIN_OK;
}

swin_status swin_bias_act_ref(swin_dev *dev, swin_tensor *y, const float *bias, swin_act act)
{
    SWIN_TRY(swin_check_matrix("bias_act", y, y->rows, y->cols));
    return swin_host_each(dev, y->rows, ROWS, bias_act_rows, &(each_row){ .y = y, .bias = bias, .act = act });
}

static swin_status residual_rows(void *user, int64_t from, int64_t to, int worker)
{
    const each_row *j = user;
    (void)worker;
    for (int64_t r = from; r < to; r++) {
        const float *x = swin_row(j->x, r);
        float *y = swin_row(j->y, j->g ? swin_windows_source(j->g, r) : r);
        for (int64_t c = 0; c < j->y->cols; c++) y[c] = (float)((double)y[c] + x[c]);
    }
    return SWIN_OK;
}

swin_status swin_residual_add_ref(swin_dev *dev, swin_tensor *residual, const swin_tensor *y,
                                  const swin_windows *g)
{
    if (g) SWIN_TRY(swin_check_windows("residual_add", g));
    SWIN_TRY(swin_check_matrix("residual_add", residual, g ? swin_windows_tokens(g) : y->rows, y->cols));
    SWIN_TRY(swin_check_matrix("residual_add", y, residual->rows, residual->cols));
    return swin_host_each(dev, y->rows, ROWS, residual_rows, &(each_row){ .y = residual, .x = y, .g = g });
}

static swin_status fake_quant_rows(void *user, int64_t from, int64_t to, int worker)
{
    const each_row *j = user;
    (void)worker;
    const float inverse = 1.0f / j->scale, lo = (float)j->qmin, hi = (float)j->qmax,
                zero = (float)j->zero_point;
    for (int64_t r = from; r < to; r++) {
        float *x = swin_row(j->y, r);
        for (int64_t c = 0; c < j->y->cols; c++) {
            const float code = rintf(x[c] * inverse) + zero;
            x[c] = (fminf(fmaxf(code, lo), hi) - zero) * j->scale; /* fmaxf turns NaN into lo */
        }
    }
    return SWIN_OK;
}

swin_status swin_fake_quant_ref(swin_dev *dev, swin_tensor *x, float scale, int zero_point, int qmin,
                                int qmax)
{
    SWIN_TRY(swin_check_matrix("fake_quant", x, x->rows, x->cols));
    SWIN_TRY(swin_check_fake_quant(scale, zero_point, qmin, qmax));
    each_row j = { .y = x, .scale = scale, .zero_point = zero_point, .qmin = qmin, .qmax = qmax };
    return swin_host_each(dev, x->rows, ROWS, fake_quant_rows, &j);
}

static swin_status round_rows(void *user, int64_t from, int64_t to, int worker)
{
    const each_row *j = user;
    (void)worker;
    for (int64_t r = from; r < to; r++) {
        float *x = swin_row(j->y, r);
        for (int64_t c = 0; c < j->y->cols; c++) x[c] = swin_round_to(x[c], j->dtype);
    }
    return SWIN_OK;
}

swin_status swin_round_to_ref(swin_dev *dev, swin_tensor *x, swin_dtype dtype)
{
    SWIN_TRY(swin_check_matrix("round_to", x, x->rows, x->cols));
    return swin_host_each(dev, x->rows, ROWS, round_rows, &(each_row){ .y = x, .dtype = dtype });
}

/* ---- observation ------------------------------------------------------------------------------------------------ */
struct swin_observer {
    swin_observed seen;
};

swin_status swin_observer_create_ref(swin_dev *dev, swin_observer **o)
{
    (void)dev;
    *o = calloc(1, sizeof **o);
    if (!*o) return swin_fail(SWIN_ERR_MEM, "no memory for an observer");
    (*o)->seen.bin_width = SWIN_HIST_MIN_WIDTH;
    return SWIN_OK;
}

void swin_observer_free_ref(swin_dev *dev, swin_observer *o)
{
    (void)dev;
    free(o);
}

/* One value is a small observation of its own when the width must grow; else it is one count. */
static void observe_value(swin_observed *s, float v)
{
    const bool first = s->count == s->nonfinite;
    if (!isfinite(v)) {
        s->count++;
        s->nonfinite++;
        return;
    }
    const float width = swin_observed_width(fabsf(v));
    if (first && width > s->bin_width) s->bin_width = width;
    while (width > s->bin_width) {
        uint64_t merged[SWIN_HIST_BINS] = { 0 };
        for (int i = 0; i < SWIN_HIST_BINS; i++)
            merged[((i - SWIN_HIST_HALF) >> 1) + SWIN_HIST_HALF] += s->hist[i];
        memcpy(s->hist, merged, sizeof merged);
        s->bin_width *= 2;
    }
    s->hist[(int)floor(v / (double)s->bin_width) + SWIN_HIST_HALF]++;
    s->min = first || v < s->min ? v : s->min;
    s->max = first || v > s->max ? v : s->max;
    s->count++;
}

swin_status swin_observe_ref(swin_dev *dev, swin_observer *o, const swin_tensor *x)
{
    (void)dev;
    SWIN_TRY(swin_check_matrix("observe", x, x->rows, x->cols));
    for (int64_t r = 0; r < x->rows; r++)
        for (int64_t c = 0; c < x->cols; c++) observe_value(&o->seen, swin_row(x, r)[c]);
    return SWIN_OK;
}

swin_status swin_observer_read_ref(swin_dev *dev, const swin_observer *o, swin_observed *out)
{
    (void)dev;
    *out = o->seen;
    out->min += 0.0f; /* -0 and 0 are one value: which came first must not show */
    out->max += 0.0f;
    return SWIN_OK;
}

const swin_ops swin_ops_ref = {
    .name = "ref",
    .help = "float64 inside every operator, plain loops: slow, and the definition",
    .open = ref_open,
    .close = ref_close,
    .engine = ref_engine,
    .threads = swin_host_threads,
    .alloc = swin_host_alloc,
    .free = swin_host_free,
    .upload = swin_host_move,
    .download = swin_host_move,
    .copy = swin_host_move,
    .sync = swin_host_sync,
    .chunk = ref_chunk,
    .linear_prepare = swin_linear_prepare_ref,
    .linear_release = swin_linear_release_ref,
    .patch_embed = swin_patch_embed_ref,
    .layernorm = swin_layernorm_ref,
    .layernorm_windows = swin_layernorm_windows_ref,
    .layernorm_merge = swin_layernorm_merge_ref,
    .linear = swin_linear_ref,
    .linear_residual = swin_linear_residual_ref,
    .bias_act = swin_bias_act_ref,
    .residual_add = swin_residual_add_ref,
    .attention = swin_attention_ref,
    .scores = swin_scores_ref,
    .softmax = swin_softmax_ref,
    .weighted_sum = swin_weighted_sum_ref,
    .mean_tokens = swin_mean_tokens_ref,
    .fake_quant = swin_fake_quant_ref,
    .round_to = swin_round_to_ref,
    .observer_create = swin_observer_create_ref,
    .observer_free = swin_observer_free_ref,
    .observe = swin_observe_ref,
    .observer_read = swin_observer_read_ref,
    .quantize = swin_quantize_ref,
    .shrinks = true,
    .after_channels = true,
    .linear_s8_prepare = swin_linear_s8_prepare_ref,
    .linear_s8 = swin_linear_s8_ref,
    .linear_s8_residual = swin_linear_s8_residual_ref,
    .attention_s8 = swin_attention_s8_ref,
    .normalise_heads = swin_normalise_heads_ref,
    .scale_columns = swin_host_scale_columns,
    .moments = swin_host_moments,
    .take_rows = swin_host_take_rows,
};
