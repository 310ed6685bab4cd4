/* The integer operators of the ref backend: sums in INT32, everything after them in float64, stored as float32 where ops.h
 * names a rounding. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/ops/ops_ref.h"

enum { ROWS = 16 };

static void quantize_row(int8_t *codes, const float *x, int64_t n, const swin_tensor *t, const float *shrink)
{
    const float inverse = 1.0f / t->scale;
    for (int64_t i = 0; i < n; i++) {
        const float code = rintf((shrink ? x[i] * shrink[i] : x[i]) * inverse) + (float)t->zero_point;
        codes[i] = (int8_t)fminf(fmaxf(code, (float)t->qmin), (float)t->qmax); /* fmaxf turns NaN into qmin */
    }
}

void swin_quantize_row_ref(int8_t *codes, const float *x, int64_t n, const swin_tensor *t)
{
    quantize_row(codes, x, n, t, t->shrink);
}

typedef struct quantize_job {
    swin_tensor *out;
    const swin_tensor *x;
} quantize_job;

static swin_status quantize_rows(void *user, int64_t from, int64_t to, int worker)
{
    const quantize_job *j = user;
    (void)worker;
    for (int64_t r = from; r < to; r++)
        swin_quantize_row_ref(swin_codes(j->out, r), swin_row(j->x, r), j->x->cols, j->out);
    return SWIN_OK;
}

swin_status swin_quantize_ref(swin_dev *dev, swin_tensor *out, const swin_tensor *x)
{
    SWIN_TRY(swin_check_matrix("quantize", x, x->rows, x->cols));
    SWIN_TRY(swin_check_codes("quantize", out, x->rows, x->cols));
    return swin_host_each(dev, x->rows, ROWS, quantize_rows, &(quantize_job){ .out = out, .x = x });
}

/* ---- Linear -------------------------------------------------------------------------------------------------- */

/* Layout of `packed`. */
typedef struct weight_s8 {
    float *scale, *bias; /* [out]; bias NULL: none */
    int8_t *codes;       /* [out][in] */
    int x_zero_point;
} weight_s8;

void swin_linear_release_s8_ref(swin_linear *l)
{
    weight_s8 *w = l->packed;
    free(w->scale);
    free(w->bias);
    free(w->codes);
    free(w);
}

swin_status swin_linear_s8_prepare_ref(swin_dev *dev, swin_linear *l, const int8_t *codes, const float *scale,
                                       const float *bias, int out, int in, int x_zero_point)
{
    (void)dev;
    *l = (swin_linear){ .in = in, .out = out, .dtype = SWIN_S8 };
    SWIN_TRY(swin_check_linear_s8_weight(out, in, x_zero_point));
    weight_s8 *w = calloc(1, sizeof *w);
    if (!w) return swin_fail(SWIN_ERR_MEM, "no memory for a %d x %d weight", out, in);
    l->packed = w;
    w->scale = swin_host_memory((size_t)out, sizeof *w->scale);
    w->bias = bias ? swin_host_memory((size_t)out, sizeof *w->bias) : NULL;
    w->x_zero_point = x_zero_point;
    w->codes = swin_host_memory((size_t)out * (size_t)in, 1);
    if (!w->scale || !w->codes || (bias && !w->bias)) {
        swin_linear_release_ref(dev, l);
        return swin_fail(SWIN_ERR_MEM, "no memory for a %d x %d weight", out, in);
    }
    memcpy(w->scale, scale, (size_t)out * sizeof *scale);
    memcpy(w->codes, codes, (size_t)out * (size_t)in);
    if (bias) l->bias = memcpy(w->bias, bias, (size_t)out * sizeof *bias);
    return SWIN_OK;
}

typedef struct linear_job {
    swin_tensor *y; /* parts, or the residual */
    int parts;
    bool residual;
    const swin_tensor *x;
    const swin_linear *l;
    float after_scale;
    swin_act act;
    const swin_windows *g;
} linear_job;

static float finish(const linear_job *j, int n, int32_t acc)
{
    const weight_s8 *w = j->l->packed;
    float v = (float)((double)acc * (j->x->scale * w->scale[n]));
    if (j->after_scale > 0) {
        const float step = j->l->after ? j->l->after[n] : j->after_scale, code = rintf(v * (1.0f / step));
        v = fminf(fmaxf(code, -127.0f), 127.0f) * step;
    }
    if (w->bias) v = (float)((double)v + w->bias[n]);
    return j->act == SWIN_ACT_GELU ? (float)(0.5 * v * (1.0 + erf(v * 0.70710678118654752440))) : v;
}

static void store(const linear_job *j, int64_t row, int n, int32_t acc)
{
    if (j->residual) {
        float *y = swin_row(j->y, j->g ? swin_windows_source(j->g, row) : row) + n;
        *y = (float)((double)*y + finish(j, n, acc));
        return;
    }
    const int width = j->l->out / j->parts, at = n % width;
    const swin_tensor *y = &j->y[n / width];
    if (y->dtype == SWIN_S32) {
        ((int32_t *)y->data)[row * y->ld + at] = acc;
        return;
    }
    const float v = finish(j, n, acc);
    if (y->dtype == SWIN_F32)
        swin_row(y, row)[at] = v;
    else
        quantize_row(swin_codes(y, row) + at, &v, 1, y, y->shrink ? y->shrink + at : NULL);
}

static swin_status linear_rows(void *user, int64_t from, int64_t to, int worker)
{
    const linear_job *j = user;
    const weight_s8 *w = j->l->packed;
    (void)worker;
    for (int64_t r = from; r < to; r++) {
        const int8_t *x = swin_codes(j->x, r), *row = w->codes;
        for (int n = 0; n < j->l->out; n++, row += j->l->in) {
            int32_t acc = 0;
            for (int k = 0; k < j->l->in; k++) acc += (x[k] - w->x_zero_point) * row[k];
            store(j, r, n, acc);
        }
    }
    return SWIN_OK;
}

swin_status swin_linear_s8_ref(swin_dev *dev, swin_tensor *y, int parts, const swin_tensor *x,
                               const swin_linear *l, float after_scale, swin_act act)
{
    SWIN_TRY(swin_check_linear_s8(y, parts, x, l, after_scale));
    linear_job j = { .y = y, .parts = parts, .x = x, .l = l, .after_scale = after_scale, .act = act };
    return swin_host_each(dev, x->rows, ROWS, linear_rows, &j);
}

swin_status swin_linear_s8_residual_ref(swin_dev *dev, swin_tensor *residual, const swin_tensor *x,
                                        const swin_linear *l, float after_scale, const swin_windows *g)
{
    SWIN_TRY(swin_check_linear_s8_residual(residual, x, l, after_scale, g));
    linear_job j = {
        .y = residual, .parts = 1, .residual = true, .x = x, .l = l, .after_scale = after_scale, .g = g
    };
    return swin_host_each(dev, x->rows, ROWS, linear_rows, &j);
}

/* ---- attention ----------------------------------------------------------------------------------------------- */

typedef struct attention_job {
    swin_tensor *out;
    const swin_tensor *qkv; /* [3] */
    const swin_attention *a;
    float prob_scale;
    const swin_windows *g;
    int tokens;
} attention_job;

/* The head's first code of token t of the matrix's window. */
static const int8_t *part(const attention_job *j, int64_t matrix, int which, int t)
{
    const int64_t window = matrix / j->a->heads, head = matrix % j->a->heads;
    return swin_codes(&j->qkv[which], window * j->tokens + t) + head * j->a->head_size;
}

/* The scale of that head's codes. */
static float part_scale(const attention_job *j, int64_t matrix, int which)
{
    return swin_code_scale(&j->qkv[which], matrix % j->a->heads * j->a->head_size);
}

/* Row i of the probabilities as codes; returns what an A.V sum is multiplied by, v's scale aside. */
static double prob_codes(const attention_job *j, int64_t matrix, int i, int32_t *codes, double *s)
{
    const int64_t n = j->tokens, head = matrix % j->a->heads;
    const int64_t window = matrix / j->a->heads % swin_windows_per_image(j->g);
    const float alpha = j->a->scale * (part_scale(j, matrix, 0) * part_scale(j, matrix, 1));
    const int8_t *q = part(j, matrix, 0, i);
    double most = -INFINITY, sum = 0;
    for (int64_t k = 0; k < n; k++) {
        const int8_t *key = part(j, matrix, 1, (int)k);
        int32_t acc = 0;
        for (int d = 0; d < j->a->head_size; d++) acc += (int32_t)q[d] * key[d];
        s[k] = (double)alpha * acc + (j->a->bias ? j->a->bias[(head * n + i) * n + k] : 0) +
               (j->a->mask ? j->a->mask[(window * n + i) * n + k] : 0);
        most = fmax(most, s[k]);
    }
    const bool u8 = j->a->softmax == SWIN_SOFTMAX_U8;
    for (int64_t k = 0; k < n; k++) {
        s[k] = u8 ? rint(255 * exp(s[k] - most)) : exp(s[k] - most);
        sum += s[k];
    }
    const double inverse = u8 ? 1.0 : 1.0 / (sum * j->prob_scale);
    for (int64_t k = 0; k < n; k++) codes[k] = (int32_t)fmin(rint(s[k] * inverse), u8 ? 255 : 127);
    return u8 ? 1.0 / sum : (double)j->prob_scale;
}

static void attend_row(const attention_job *j, int64_t matrix, int i, const int32_t *codes, double factor)
{
    const int64_t window = matrix / j->a->heads, head = matrix % j->a->heads, row = window * j->tokens + i;
    for (int d = 0; d < j->a->head_size; d++) {
        int32_t acc = 0;
        for (int k = 0; k < j->tokens; k++) acc += codes[k] * part(j, matrix, 2, k)[d];
        const float v = (float)(acc * factor * part_scale(j, matrix, 2));
        const int64_t at = head * j->a->head_size + d;
        if (j->out->dtype == SWIN_F32)
            swin_row(j->out, row)[at] = v;
        else
            swin_quantize_row_ref(swin_codes(j->out, row) + at, &v, 1, j->out);
    }
}

static swin_status attention_matrices(void *user, int64_t from, int64_t to, int worker)
{
    const attention_job *j = user;
    (void)worker;
    double *s = swin_host_memory((size_t)j->tokens, sizeof *s);
    int32_t *codes = swin_host_memory((size_t)j->tokens, sizeof *codes);
    swin_status st = s && codes ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "attention_s8: no memory");
    for (int64_t m = from; st == SWIN_OK && m < to; m++)
        for (int i = 0; i < j->tokens; i++) {
            const double factor = prob_codes(j, m, i, codes, s);
            attend_row(j, m, i, codes, factor);
        }
    free(codes);
    free(s);
    return st;
}

swin_status swin_attention_s8_ref(swin_dev *dev, swin_tensor *out, const swin_tensor qkv[3],
                                  const swin_attention *a, float prob_scale, const swin_windows *g)
{
    SWIN_TRY(swin_check_attention_s8(out, qkv, a, prob_scale, g));
    attention_job j = {
        .out = out, .qkv = qkv, .a = a, .prob_scale = prob_scale, .g = g, .tokens = swin_window_tokens(g)
    };
    return swin_host_each(dev, swin_score_matrices(a, g), 4, attention_matrices, &j);
}
