/* The shape and value rules of the integer operators, the same on ref and cpu. */
#include <math.h>

#include "runtime/ops/host.h"

/* |x - zero point| <= 255, |w| <= 127: every sum of so many products fits INT32. */
enum { MOST_INPUTS = INT32_MAX / (255 * 127) };

swin_status swin_check_linear_s8_weight(int out, int in, int x_zero_point)
{
    if (in <= 0 || out <= 0 || in > MOST_INPUTS)
        return swin_fail(SWIN_ERR_VALUE, "linear_s8: %d x %d weight", out, in);
    if (x_zero_point < -128 || x_zero_point > 127)
        return swin_fail(SWIN_ERR_VALUE, "linear_s8: a zero point of %d", x_zero_point);
    return SWIN_OK;
}

static swin_status check_input(const swin_linear *l, const swin_tensor *x, float after_scale)
{
    if (l->dtype != SWIN_S8)
        return swin_fail(SWIN_ERR_VALUE, "linear_s8: a %s weight", swin_dtype_name(l->dtype));
    if (after_scale != 0 && !(isnormal(after_scale) && after_scale > 0 && isfinite(1.0f / after_scale)))
        return swin_fail(SWIN_ERR_VALUE, "linear_s8: scale %g", after_scale);
    return swin_check_codes("linear_s8", x, x->rows, l->in);
}

static swin_status check_sums(const swin_tensor *y, int64_t rows, int64_t cols)
{
    if (y->rows == rows && y->cols == cols && y->ld >= cols) return SWIN_OK;
    return swin_fail(SWIN_ERR_VALUE, "linear_s8: sums are %lld x %lld (ld %lld), expected %lld x %lld",
                     (long long)y->rows, (long long)y->cols, (long long)y->ld, (long long)rows,
                     (long long)cols);
}

swin_status swin_check_linear_s8(const swin_tensor *y, int parts, const swin_tensor *x, const swin_linear *l,
                                 float after_scale)
{
    SWIN_TRY(check_input(l, x, after_scale));
    if (parts < 1 || l->out % parts)
        return swin_fail(SWIN_ERR_VALUE, "linear_s8: %d outputs in %d parts", l->out, parts);
    for (int i = 0; i < parts; i++)
        SWIN_TRY(y[i].dtype == SWIN_S32 ? check_sums(&y[i], x->rows, l->out / parts)
                                        : swin_check_output("linear_s8", &y[i], x->rows, l->out / parts));
    return SWIN_OK;
}

swin_status swin_check_linear_s8_residual(const swin_tensor *residual, const swin_tensor *x,
                                          const swin_linear *l, float after_scale, const swin_windows *g)
{
    SWIN_TRY(check_input(l, x, after_scale));
    if (g) SWIN_TRY(swin_check_windows("linear_s8_residual", g));
    if (g && x->rows != swin_windows_tokens(g))
        return swin_fail(SWIN_ERR_VALUE, "linear_s8_residual: %lld rows for a map of %lld tokens",
                         (long long)x->rows, (long long)swin_windows_tokens(g));
    return swin_check_matrix("linear_s8_residual", residual, x->rows, l->out);
}

/* One positive number for all columns of a head. */
static swin_status check_head_scales(const swin_tensor *t, const swin_attention *a)
{
    for (int64_t c = 0; t->shrink && c < t->cols; c++) {
        const float v = t->shrink[c];
        if (!isnormal(v) || v < 0 || !isnormal(t->scale / v))
            return swin_fail(SWIN_ERR_VALUE, "attention_s8: scale %g over %g", (double)t->scale, (double)v);
        if (v != t->shrink[c - c % a->head_size])
            return swin_fail(SWIN_ERR_VALUE, "attention_s8: several scales in head %lld",
                             (long long)(c / a->head_size));
    }
    return SWIN_OK;
}

swin_status swin_check_attention_s8(const swin_tensor *out, const swin_tensor qkv[3], const swin_attention *a,
                                    float prob_scale, const swin_windows *g)
{
    SWIN_TRY(swin_check_attention("attention_s8", a, g, NULL, NULL, NULL));
    const int64_t rows = swin_windows_tokens(g), channels = (int64_t)a->heads * a->head_size;
    for (int i = 0; i < 3; i++) {
        SWIN_TRY(swin_check_codes("attention_s8", &qkv[i], rows, channels));
        if (qkv[i].zero_point != 0)
            return swin_fail(SWIN_ERR_VALUE, "attention_s8: a zero point of %d", qkv[i].zero_point);
        SWIN_TRY(check_head_scales(&qkv[i], a));
    }
    SWIN_TRY(swin_check_output("attention_s8", out, rows, channels));
    if (a->softmax == SWIN_SOFTMAX_EXACT && !(isnormal(prob_scale) && prob_scale > 0))
        return swin_fail(SWIN_ERR_VALUE, "attention_s8: probabilities of scale %g", prob_scale);
    return SWIN_OK;
}
