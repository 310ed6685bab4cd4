/* The integer operators of the cuda backend, one by one; half blocks and blocks: int8_blocks_cuda.c. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/ops/kernels/cuda_dev.h"
#include "runtime/ops/kernels/int8_dev.h"

/* What swin_linear.packed points to when dtype is SWIN_S8. */
typedef struct cuda_linear_s8 {
    void *codes, *dealt; /* device: [out][in]; the same as swin_gemm_s8.dealt */
    float *scale, *bias; /* device: [out]; bias NULL: none */
    int32_t *zero_share; /* device: [out]; NULL where the input has no zero point */
} cuda_linear_s8;

/* ---- weights
 * ------------------------------------------------------------------------------------------------- */

void swin_linear_s8_release_cuda(swin_dev *dev, swin_linear *l)
{
    cuda_linear_s8 *p = l->packed;
    if (p) {
        swin_free_cuda(dev, p->codes);
        swin_free_cuda(dev, p->dealt);
        swin_free_cuda(dev, p->scale);
        swin_free_cuda(dev, p->bias);
        swin_free_cuda(dev, p->zero_share);
    }
    free(p);
    *l = (swin_linear){ 0 };
}

static swin_status put(swin_dev *dev, void **to, const void *host, size_t bytes)
{
    SWIN_TRY(swin_alloc_cuda(dev, to, bytes));
    return swin_upload_cuda(dev, *to, host, bytes);
}

/* The rows in the order of the tensor cores, zeros to whole 32. */
static swin_status put_dealt(swin_dev *dev, cuda_linear_s8 *p, const int8_t *codes, int out, int in)
{
    const size_t row = (size_t)in;
    const int rows = (out + 31) / 32 * 32;
    int8_t *dealt = calloc((size_t)rows, row);
    if (!dealt) return swin_fail(SWIN_ERR_MEM, "no memory for a %d x %d weight", out, in);
    for (int r = 0; r < rows; r++)
        if (swin_s8_dealt(r) < out)
            memcpy(dealt + (size_t)r * row, codes + (size_t)swin_s8_dealt(r) * row, row);
    const swin_status st = put(dev, &p->dealt, dealt, (size_t)rows * row);
    free(dealt);
    return st;
}

/* What a zero point adds to every sum: the row's sum of codes times it. */
static swin_status put_zero_share(swin_dev *dev, cuda_linear_s8 *p, const int8_t *codes, int out, int in,
                                  int zero_point)
{
    if (zero_point == 0) return SWIN_OK;
    int32_t *share = calloc((size_t)out, sizeof *share);
    if (!share) return swin_fail(SWIN_ERR_MEM, "no memory for a %d x %d weight", out, in);
    for (int n = 0; n < out; n++)
        for (int k = 0; k < in; k++) share[n] += zero_point * codes[(size_t)n * (size_t)in + (size_t)k];
    void *device = NULL;
    const swin_status st = put(dev, &device, share, (size_t)out * sizeof *share);
    p->zero_share = device;
    free(share);
    return st;
}

swin_status swin_linear_s8_prepare_cuda(swin_dev *dev, swin_linear *l, const int8_t *codes,
                                        const float *scale, const float *bias, int out, int in,
                                        int x_zero_point)
{
    *l = (swin_linear){ 0 };
    if (out < 1 || in < 1) return swin_fail(SWIN_ERR_VALUE, "linear_s8: a weight of %d x %d", out, in);
    cuda_linear_s8 *p = calloc(1, sizeof *p);
    if (!p) return swin_fail(SWIN_ERR_MEM, "no memory for a linear layer");
    *l = (swin_linear){ .in = in, .out = out, .dtype = SWIN_S8, .packed = p };
    const size_t floats = (size_t)out * sizeof(float);
    void *s = NULL, *b = NULL;
    swin_status st = put(dev, &p->codes, codes, (size_t)out * (size_t)in);
    if (st == SWIN_OK && swin_wgmma_available()) st = put_dealt(dev, p, codes, out, in);
    if (st == SWIN_OK) st = put(dev, &s, scale, floats);
    p->scale = s;
    if (st == SWIN_OK && bias) st = put(dev, &b, bias, floats);
    p->bias = b;
    if (st == SWIN_OK) st = put_zero_share(dev, p, codes, out, in, x_zero_point);
    if (st != SWIN_OK)
        swin_linear_s8_release_cuda(dev, l);
    else
        l->bias = p->bias;
    return st;
}

/* ---- checks
 * -------------------------------------------------------------------------------------------------- */

static swin_status check_shape(const char *op, const swin_tensor *t, int64_t rows, int64_t cols)
{
    if (t->rows == rows && t->cols == cols && t->ld >= t->cols) return SWIN_OK;
    return swin_fail(SWIN_ERR_VALUE, "%s: %lld x %lld where %lld x %lld belongs", op, (long long)t->rows,
                     (long long)t->cols, (long long)rows, (long long)cols);
}

static swin_status check_codes(const char *op, const swin_tensor *t, int64_t rows, int64_t cols)
{
    SWIN_TRY(check_shape(op, t, rows, cols));
    if (t->dtype != SWIN_S8 || !(t->scale > 0) || isinf(t->scale) || t->qmin < -128 || t->qmax > 127 ||
        t->qmin > t->qmax)
        return swin_fail(SWIN_ERR_VALUE, "%s: %s with scale %g, codes %d to %d", op,
                         swin_dtype_name(t->dtype), (double)t->scale, t->qmin, t->qmax);
    return SWIN_OK;
}

static swin_status check_floats(const char *op, const swin_tensor *t, int64_t rows, int64_t cols)
{
    SWIN_TRY(check_shape(op, t, rows, cols));
    if (t->dtype > SWIN_BF16)
        return swin_fail(SWIN_ERR_UNSUPPORTED, "%s: %s on cuda", op, swin_dtype_name(t->dtype));
    return SWIN_OK;
}

swin_status swin_windows_check_cuda(const char *op, const swin_windows *g, int64_t rows)
{
    if (g->window >= 1 && g->height % g->window == 0 && g->width % g->window == 0 && g->shift >= 0 &&
        g->shift < g->height && g->shift < g->width && swin_windows_tokens(g) == rows)
        return SWIN_OK;
    return swin_fail(SWIN_ERR_VALUE, "%s: windows of %d, shift %d, on %d maps of %d x %d; %lld rows", op,
                     g->window, g->shift, g->images, g->height, g->width, (long long)rows);
}

/* |x| <= 128, |w| <= 127: sums of 132,104 products fit INT32. */
swin_status swin_layer_check_cuda(const char *op, const swin_linear *l, const swin_tensor *x,
                                  float after_scale)
{
    if (l->dtype != SWIN_S8 || l->in > 132104)
        return swin_fail(SWIN_ERR_VALUE, "%s: a %s weight of %d inputs", op, swin_dtype_name(l->dtype),
                         l->in);
    if (!(after_scale >= 0) || isinf(after_scale))
        return swin_fail(SWIN_ERR_VALUE, "%s: scale %g", op, (double)after_scale);
    return check_codes(op, x, x->rows, l->in);
}

/* ---- rows
 * ---------------------------------------------------------------------------------------------------- */

swin_status swin_quantize_cuda(swin_dev *dev, swin_tensor *out, const swin_tensor *x)
{
    SWIN_TRY(check_floats("quantize", x, x->rows, x->cols));
    return swin_norm_s8_cuda(dev, out, x, NULL, SWIN_ROWS_SAME, NULL);
}

swin_status swin_norm_s8_cuda(swin_dev *dev, swin_tensor *out, const swin_tensor *x, const swin_norm *n,
                              swin_norm_rows rows, const swin_windows *g)
{
    const bool merge = rows == SWIN_ROWS_MERGE;
    SWIN_TRY(check_floats("layernorm", x, x->rows, x->cols));
    SWIN_TRY(check_codes("layernorm", out, merge ? x->rows / 4 : x->rows, merge ? 4 * x->cols : x->cols));
    if (rows == SWIN_ROWS_WINDOWS) SWIN_TRY(swin_windows_check_cuda("layernorm_windows", g, x->rows));
    if (merge && (g->height % 2 || g->width % 2 || swin_windows_tokens(g) != x->rows))
        return swin_fail(SWIN_ERR_VALUE, "layernorm_merge: a map of %d x %d", g->height, g->width);
    return swin_cuda_status(swin_norm_s8_launch(swin_cuda_of(dev)->stream, out, x, n, rows, g),
                            "layernorm to codes");
}

swin_status swin_normalise_heads_s8_cuda(swin_dev *dev, swin_tensor *out, const swin_tensor *x, int heads,
                                         const float *head_scale)
{
    if (heads < 1 || x->cols % heads != 0)
        return swin_fail(SWIN_ERR_VALUE, "normalise_heads: %lld columns in %d heads", (long long)x->cols,
                         heads);
    if (x->dtype == SWIN_S8)
        SWIN_TRY(check_codes("normalise_heads", x, x->rows, x->cols));
    else
        SWIN_TRY(check_floats("normalise_heads", x, x->rows, x->cols));
    SWIN_TRY(check_codes("normalise_heads", out, x->rows, x->cols));
    if (x->dtype == SWIN_S8 && x->zero_point != 0)
        return swin_fail(SWIN_ERR_VALUE, "normalise_heads: a zero point of %d", x->zero_point);
    return swin_cuda_status(
        swin_normalise_heads_s8_launch(swin_cuda_of(dev)->stream, out, x, heads, head_scale),
        "normalise_heads");
}

/* ---- products
 * ------------------------------------------------------------------------------------------------ */

swin_gemm_s8 swin_gemm_s8_of(const swin_tensor *x, const swin_linear *l, float after_scale)
{
    const cuda_linear_s8 *p = l->packed;
    return (swin_gemm_s8){ .m = x->rows,
                           .n = l->out,
                           .k = l->in,
                           .x = x->data,
                           .w = p->codes,
                           .dealt = p->dealt,
                           .ldx = x->ld,
                           .x_scale = x->scale,
                           .w_scale = p->scale,
                           .zero_share = p->zero_share,
                           .bias = p->bias,
                           .after = after_scale,
                           .after_inverse = after_scale > 0 ? 1.0f / after_scale : 0,
                           .afters = after_scale > 0 ? l->after : NULL,
                           .parts = 1,
                           .width = l->out };
}

swin_gemm_s8 swin_gemm_s8_rounded(swin_s8_rounding *r, swin_s8_rule *rule, const swin_tensor *x,
                                  const swin_layer_s8 *l)
{
    const swin_tensor codes = { .scale = l->after_scale, .qmin = -127, .qmax = 127 };
    swin_gemm_s8 p = swin_gemm_s8_of(x, l->l, 0);
    *r = (swin_s8_rounding){ 0 };
    if (l->after_scale == 0) return p;
    *r = (swin_s8_rounding){ l->after_scale, p.bias };
    *rule = swin_s8_rule_of(&codes);
    p.bias = NULL;
    return p;
}

swin_s8_part swin_s8_part_of(const swin_tensor *y)
{
    swin_s8_part p = {
        .data = y->data, .ld = y->ld, .unit = (int)swin_dtype_size(y->dtype), .dtype = y->dtype
    };
    if (y->dtype == SWIN_S8) p.rule = swin_s8_rule_of(y), p.shrink = y->shrink;
    return p;
}

/* Tensor cores need sm_80; before it and for odd shapes there is the plain kernel. */
swin_status swin_gemm_s8_run(swin_cuda *d, const swin_gemm_s8 *p)
{
    cudaError_t e = cudaErrorNotSupported;
    if (d->major >= 8) e = swin_wide_s8_launch(d->stream, p, d->multiprocessors);
    if (e == cudaErrorNotSupported && d->major >= 8 && p->head_scale)
        e = swin_heads_gemm_s8_launch(d->stream, p, d->multiprocessors);
    if (e == cudaErrorNotSupported && d->major >= 8)
        e = swin_gemm_s8_launch(d->stream, p, -1, d->multiprocessors);
    if (e == cudaErrorNotSupported) e = swin_gemm_s8_any_launch(d->stream, p);
    return swin_cuda_status(e, "linear_s8");
}

swin_status swin_linear_s8_cuda(swin_dev *dev, swin_tensor *y, int parts, const swin_tensor *x,
                                const swin_linear *l, float after_scale, swin_act act)
{
    SWIN_TRY(swin_layer_check_cuda("linear_s8", l, x, after_scale));
    if (parts < 1 || parts > SWIN_S8_PARTS || l->out % parts)
        return swin_fail(SWIN_ERR_VALUE, "linear_s8: %d outputs in %d parts", l->out, parts);
    swin_gemm_s8 p = swin_gemm_s8_of(x, l, after_scale);
    p.act = act;
    p.parts = parts, p.width = l->out / parts;
    for (int i = 0; i < parts; i++) {
        if (y[i].dtype == SWIN_S8)
            SWIN_TRY(check_codes("linear_s8", &y[i], x->rows, p.width));
        else if (y[i].dtype == SWIN_S32)
            SWIN_TRY(check_shape("linear_s8", &y[i], x->rows, p.width));
        else
            SWIN_TRY(check_floats("linear_s8", &y[i], x->rows, p.width));
        p.y[i] = swin_s8_part_of(&y[i]);
    }
    return swin_gemm_s8_run(swin_cuda_of(dev), &p);
}

swin_status swin_cosine_s8_cuda(swin_dev *dev, swin_tensor y[3], const swin_tensor *x,
                                const swin_layer_s8 *qkv, const swin_tensor raw[2], const float *head_scale)
{
    SWIN_TRY(swin_layer_check_cuda("cosine_s8", qkv->l, x, qkv->after_scale));
    swin_gemm_s8 p = swin_gemm_s8_of(x, qkv->l, qkv->after_scale);
    p.parts = 3, p.width = qkv->l->out / 3;
    p.head_scale = head_scale;
    for (int i = 0; i < 3; i++) {
        SWIN_TRY(check_codes("cosine_s8", &y[i], x->rows, p.width));
        p.y[i] = swin_s8_part_of(&y[i]);
    }
    for (int i = 0; i < 2; i++)
        if (raw[i].dtype == SWIN_S8) p.raw[i] = swin_s8_rule_of(&raw[i]), p.raw_scale[i] = raw[i].scale;
    return swin_gemm_s8_run(swin_cuda_of(dev), &p);
}

swin_status swin_linear_s8_residual_cuda(swin_dev *dev, swin_tensor *residual, const swin_tensor *x,
                                         const swin_linear *l, float after_scale, const swin_windows *g)
{
    SWIN_TRY(swin_layer_check_cuda("linear_s8_residual", l, x, after_scale));
    SWIN_TRY(check_floats("linear_s8_residual", residual, x->rows, l->out));
    if (g) SWIN_TRY(swin_windows_check_cuda("linear_s8_residual", g, x->rows));
    swin_gemm_s8 p = swin_gemm_s8_of(x, l, after_scale);
    p.y[0] = swin_s8_part_of(residual);
    p.residual = true;
    p.windows = g != NULL;
    if (g) p.g = *g;
    return swin_gemm_s8_run(swin_cuda_of(dev), &p);
}

/* ---- attention
 * ----------------------------------------------------------------------------------------------- */

swin_status swin_attention_s8_run(swin_cuda *d, const swin_attention_s8_args *p)
{
    cudaError_t e = cudaErrorNotSupported;
    if (d->major >= 8) e = swin_attention_s8_mma_launch(d->stream, p, d->multiprocessors);
    if (d->major >= 8 && e == cudaErrorNotSupported)
        e = swin_attention_s8_tiles_launch(d->stream, p, d->multiprocessors);
    if (e == cudaErrorNotSupported) e = swin_attention_s8_any_launch(d->stream, p);
    return swin_cuda_status(e, "attention_s8");
}

swin_status swin_attention_s8_cuda(swin_dev *dev, swin_tensor *out, const swin_tensor qkv[3],
                                   const swin_attention *a, float prob_scale, const swin_windows *g)
{
    const int64_t rows = swin_windows_tokens(g), channels = (int64_t)a->heads * a->head_size;
    if (a->heads < 1 || a->head_size < 1)
        return swin_fail(SWIN_ERR_VALUE, "attention_s8: %d heads of %d", a->heads, a->head_size);
    SWIN_TRY(swin_windows_check_cuda("attention_s8", g, out->rows));
    for (int i = 0; i < 3; i++) {
        SWIN_TRY(check_codes("attention_s8", &qkv[i], rows, channels));
        if (qkv[i].zero_point != 0)
            return swin_fail(SWIN_ERR_VALUE, "attention_s8: a zero point of %d", qkv[i].zero_point);
    }
    if (out->dtype == SWIN_S8)
        SWIN_TRY(check_codes("attention_s8", out, rows, channels));
    else
        SWIN_TRY(check_floats("attention_s8", out, rows, channels));
    if (a->softmax == SWIN_SOFTMAX_EXACT && !(prob_scale > 0))
        return swin_fail(SWIN_ERR_VALUE, "attention_s8: probabilities of scale %g", (double)prob_scale);
    return swin_attention_s8_run(
        swin_cuda_of(dev),
        &(swin_attention_s8_args){
            .a = *a, .g = *g, .q = qkv[0], .k = qkv[1], .v = qkv[2], .out = *out, .prob_scale = prob_scale });
}
