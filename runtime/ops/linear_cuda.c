/* Linear layers of the cuda backend and the half blocks made of them. */
#include <stdlib.h>
#include <string.h>

#include "runtime/base/half.h"
#include "runtime/ops/kernels/cuda_dev.h"

/* What swin_linear.packed points to. */
typedef struct cuda_linear {
    void *w;      /* device: [out][in] of the layer's type */
    void *packed; /* device: the same for swin_gemm_rows_launch; NULL where that takes no such shape */
    float *bias;  /* device, or NULL */
} cuda_linear;

/* ---- weights ------------------------------------------------------------------------------------------------- */

/* To the nearest TF32, ties away from zero, as the tensor cores' own rounding goes; NaN and infinities stay. */
static void round_to_tf32(float *to, const float *from, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, from + i, sizeof u);
        if ((u & 0x7f800000u) != 0x7f800000u) u = (u + 0x1000u) & ~0x1fffu;
        memcpy(to + i, &u, sizeof u);
    }
}

static bool in_tf32(const swin_cuda *d)
{
    return d->tf32 && d->major >= 8;
}

static swin_status upload_weights(swin_dev *dev, void *dst, const float *w, size_t n, swin_dtype dtype)
{
    const size_t bytes = n * swin_dtype_size(dtype);
    if (dtype == SWIN_F32 && !in_tf32(swin_cuda_of(dev))) return swin_upload_cuda(dev, dst, w, bytes);
    void *rounded = malloc(bytes);
    if (!rounded) return swin_fail(SWIN_ERR_MEM, "no memory for %zu weights", n);
    uint16_t *narrow = rounded;
    if (dtype == SWIN_F32) round_to_tf32(rounded, w, n);
    for (size_t i = 0; i < n && dtype != SWIN_F32; i++)
        narrow[i] = dtype == SWIN_F16 ? swin_f32_to_f16(w[i]) : swin_f32_to_bf16(w[i]);
    const swin_status st = swin_upload_cuda(dev, dst, rounded, bytes);
    free(rounded);
    return st;
}

void swin_linear_release_cuda(swin_dev *dev, swin_linear *l)
{
    if (l->dtype == SWIN_S8) {
        swin_linear_s8_release_cuda(dev, l);
        return;
    }
    cuda_linear *p = l->packed;
    if (p) {
        swin_free_cuda(dev, p->w);
        swin_free_cuda(dev, p->packed);
        swin_free_cuda(dev, p->bias);
    }
    free(p);
    *l = (swin_linear){ 0 };
}

static swin_status pack_weights(swin_dev *dev, cuda_linear *p, int out, int in, swin_dtype dtype)
{
    const size_t bytes = swin_gemm_pack_bytes(dtype, out, in);
    if (bytes == 0) return SWIN_OK;
    SWIN_TRY(swin_alloc_cuda(dev, &p->packed, bytes));
    return swin_cuda_status(swin_gemm_pack_launch(swin_cuda_of(dev)->stream, p->packed, p->w, out, in),
                            "packing a weight");
}

swin_status swin_linear_prepare_cuda(swin_dev *dev, swin_linear *l, const float *w, const float *bias,
                                     int out, int in, swin_dtype dtype)
{
    *l = (swin_linear){ 0 };
    if (out < 1 || in < 1) return swin_fail(SWIN_ERR_VALUE, "linear: a weight of %d x %d", out, in);
    if (dtype != SWIN_F32 && dtype != SWIN_F16 && dtype != SWIN_BF16)
        return swin_fail(SWIN_ERR_UNSUPPORTED, "linear: %s weights on cuda", swin_dtype_name(dtype));
    cuda_linear *p = calloc(1, sizeof *p);
    if (!p) return swin_fail(SWIN_ERR_MEM, "no memory for a linear layer");
    *l = (swin_linear){ .in = in, .out = out, .dtype = dtype, .packed = p };
    const size_t n = (size_t)out * (size_t)in;
    void *b = NULL;
    swin_status st = swin_alloc_cuda(dev, &p->w, n * swin_dtype_size(dtype));
    if (st == SWIN_OK) st = upload_weights(dev, p->w, w, n, dtype);
    if (st == SWIN_OK) st = pack_weights(dev, p, out, in, dtype);
    if (st == SWIN_OK && bias) st = swin_alloc_cuda(dev, &b, (size_t)out * sizeof *bias);
    p->bias = b;
    if (st == SWIN_OK && bias) st = swin_upload_cuda(dev, b, bias, (size_t)out * sizeof *bias);
    if (st != SWIN_OK)
        swin_linear_release_cuda(dev, l);
    else
        l->bias = p->bias;
    return st;
}

/* ---- products ------------------------------------------------------------------------------------------------ */

static swin_gemm_math math_of(const swin_cuda *d, swin_dtype dtype)
{
    if (dtype == SWIN_F16) return SWIN_GEMM_F16;
    if (dtype == SWIN_BF16) return SWIN_GEMM_BF16;
    return in_tf32(d) ? SWIN_GEMM_TF32 : SWIN_GEMM_FP32;
}

/* Tensor cores need sm_80; before it and for odd shapes there is the plain kernel. */
static swin_status run_gemm(swin_cuda *d, const swin_gemm *p)
{
    cudaError_t e = cudaErrorNotSupported;
    if (d->tuning) SWIN_TRY(swin_tune_learn(d, p));
    if (d->major >= 8 || p->math == SWIN_GEMM_FP32)
        e = swin_gemm_launch(d->stream, p, swin_tune_find(d, p), d->multiprocessors);
    if (e == cudaErrorNotSupported) e = swin_gemm_any_launch(d->stream, p);
    return swin_cuda_status(e, "linear");
}

static swin_status check_linear(const char *op, const swin_tensor *y, const swin_tensor *x,
                                const swin_linear *l)
{
    if (x->dtype != l->dtype || y->dtype != l->dtype)
        return swin_fail(SWIN_ERR_UNSUPPORTED, "%s: a %s layer between %s and %s", op,
                         swin_dtype_name(l->dtype), swin_dtype_name(x->dtype), swin_dtype_name(y->dtype));
    if (x->cols != l->in || y->cols != l->out || x->rows != y->rows || x->ld < x->cols || y->ld < y->cols)
        return swin_fail(SWIN_ERR_VALUE, "%s: %lld x %lld through %d -> %d into %lld x %lld", op,
                         (long long)x->rows, (long long)x->cols, l->in, l->out, (long long)y->rows,
                         (long long)y->cols);
    return SWIN_OK;
}

static swin_gemm gemm_of(swin_cuda *d, const swin_tensor *y, const swin_tensor *x, const swin_linear *l)
{
    const cuda_linear *p = l->packed;
    return (swin_gemm){ .math = math_of(d, l->dtype),
                        .m = x->rows,
                        .n = l->out,
                        .k = l->in,
                        .x = x->data,
                        .ldx = x->ld,
                        .w = p->w,
                        .ldw = l->in,
                        .bias = l->bias,
                        .y = y->data,
                        .ldy = y->ld };
}

swin_status swin_linear_cuda(swin_dev *dev, swin_tensor *y, const swin_tensor *x, const swin_linear *l,
                             bool with_bias, swin_act act)
{
    swin_cuda *d = swin_cuda_of(dev);
    SWIN_TRY(check_linear("linear", y, x, l));
    swin_gemm p = gemm_of(d, y, x, l);
    if (!with_bias) p.bias = NULL;
    p.act = act;
    return run_gemm(d, &p);
}

swin_status swin_linear_residual_cuda(swin_dev *dev, swin_tensor *residual, const swin_tensor *x,
                                      const swin_linear *l, const swin_windows *g)
{
    swin_cuda *d = swin_cuda_of(dev);
    SWIN_TRY(check_linear("linear_residual", residual, x, l));
    swin_gemm p = gemm_of(d, residual, x, l);
    p.residual = true;
    p.windows = g != NULL;
    if (g) p.g = *g;
    return run_gemm(d, &p);
}

/* ---- half blocks --------------------------------------------------------------------------------------------- */

static size_t padded(size_t bytes)
{
    return (bytes + 255) & ~(size_t)255;
}

/* Two scratch matrices of x's rows and type. */
static swin_status two_matrices(swin_cuda *d, swin_tensor *a, int64_t a_cols, swin_tensor *b, int64_t b_cols,
                                const swin_tensor *x)
{
    const size_t unit = swin_dtype_size(x->dtype), rows = (size_t)x->rows;
    const size_t first = padded(rows * (size_t)a_cols * unit), second = padded(rows * (size_t)b_cols * unit);
    void *p;
    SWIN_TRY(swin_cuda_work(d, &p, first + second));
    *a = swin_matrix(p, x->dtype, x->rows, a_cols);
    *b = swin_matrix((char *)p + first, x->dtype, x->rows, b_cols);
    return SWIN_OK;
}

/* y = act(l(LN(x))), or with residual y += l(LN(x)): one kernel where there is one, else through `normed`. n NULL: no
 * LayerNorm. merge: x is the map g, whose neighbours are gathered first. */
static swin_status norm_linear(swin_dev *dev, swin_tensor *y, const swin_tensor *x, const swin_norm *n,
                               const swin_linear *l, swin_act act, const swin_windows *merge,
                               swin_tensor *normed)
{
    swin_cuda *d = swin_cuda_of(dev);
    const cuda_linear *packed = l->packed;
    SWIN_TRY(check_linear("linear", y, normed, l));
    swin_gemm_rows p = { .gemm = gemm_of(d, y, x, l), .merge = merge != NULL, .packed = packed->packed };
    p.gemm.m = y->rows;
    p.gemm.act = act;
    if (n) p.norm = *n;
    if (merge) p.g = *merge;
    const cudaError_t e = swin_gemm_rows_launch(d->stream, &p, d->multiprocessors);
    if (e != cudaErrorNotSupported) return swin_cuda_status(e, "linear");
    SWIN_TRY(swin_cuda_status(
        swin_norm_launch(d->stream, normed, x, n, merge ? SWIN_ROWS_MERGE : SWIN_ROWS_SAME, merge),
        "layernorm"));
    return swin_linear_cuda(dev, y, normed, l, true, act);
}

/* The windows stay where they are: attention alone gathers and scatters them, so everything else runs in image order. */
swin_status swin_attention_half_cuda(swin_dev *dev, swin_tensor *x, const swin_norm *n,
                                     const swin_linear *qkv, const swin_linear *proj, const swin_attention *a,
                                     const swin_windows *g)
{
    swin_cuda *d = swin_cuda_of(dev);
    swin_tensor normed, wide;
    SWIN_TRY(two_matrices(d, &normed, x->cols, &wide, qkv->out, x));
    SWIN_TRY(norm_linear(dev, &wide, x, n, qkv, SWIN_ACT_NONE, NULL, &normed));
    SWIN_TRY(swin_attention_run_cuda(
        dev, &(swin_attention_args){ .a = *a, .g = *g, .qkv = wide, .out = normed, .image_order = true },
        SWIN_ATTENTION_ALL));
    return swin_linear_residual_cuda(dev, x, &normed, proj, NULL);
}

swin_status swin_mlp_half_cuda(swin_dev *dev, swin_tensor *x, const swin_norm *n, const swin_linear *fc1,
                               const swin_linear *fc2)
{
    swin_cuda *d = swin_cuda_of(dev);
    swin_tensor normed, hidden;
    SWIN_TRY(two_matrices(d, &normed, x->cols, &hidden, fc1->out, x));
    SWIN_TRY(norm_linear(dev, &hidden, x, n, fc1, SWIN_ACT_GELU, NULL, &normed));
    return swin_linear_residual_cuda(dev, x, &hidden, fc2, NULL);
}

swin_status swin_merge_cuda(swin_dev *dev, swin_tensor *out, const swin_tensor *x, const swin_norm *n,
                            const swin_linear *reduction, const swin_windows *g)
{
    swin_tensor normed = *out, none;
    if (g->height % 2 || g->width % 2 || swin_windows_tokens(g) != x->rows || out->rows != x->rows / 4)
        return swin_fail(SWIN_ERR_VALUE, "merge: a map of %d x %d", g->height, g->width);
    SWIN_TRY(two_matrices(swin_cuda_of(dev), &normed, 4 * x->cols, &none, 0, out));
    return norm_linear(dev, out, x, n, reduction, SWIN_ACT_NONE, g, &normed);
}

swin_status swin_patch_embed_cuda(swin_dev *dev, swin_tensor *out, const float *images, int batch, int size,
                                  const swin_patch_embed *p)
{
    swin_cuda *d = swin_cuda_of(dev);
    const int side = p->patch > 0 ? size / p->patch : 0;
    const int64_t rows = (int64_t)batch * side * side;
    if (side < 1 || size % p->patch != 0 || out->rows != rows ||
        p->proj->in != p->in_chans * p->patch * p->patch)
        return swin_fail(SWIN_ERR_VALUE, "patch_embed: %d images of %d pixels in patches of %d, %lld rows",
                         batch, size, p->patch, (long long)out->rows);
    if (d->major >= 8 && p->patch == 4 && p->in_chans == 3 && p->proj->dtype == out->dtype &&
        out->cols == p->proj->out) {
        const cuda_linear *l = p->proj->packed;
        const cudaError_t e = swin_patch_embed_launch(d->stream, out, images, size, l->w, l->bias, &p->norm,
                                                      d->multiprocessors);
        if (e != cudaErrorNotSupported) return swin_cuda_status(e, "patch_embed");
    }
    swin_tensor patches = { .dtype = out->dtype, .rows = rows, .cols = p->proj->in, .ld = p->proj->in }, y;
    SWIN_TRY(two_matrices(d, &patches, p->proj->in, &y, p->proj->out, &patches));
    SWIN_TRY(swin_cuda_status(swin_patches_launch(d->stream, &patches, images, p->in_chans, size, p->patch),
                              "patch_embed"));
    if (!p->norm.gamma) return swin_linear_cuda(dev, out, &patches, p->proj, true, SWIN_ACT_NONE);
    SWIN_TRY(swin_linear_cuda(dev, &y, &patches, p->proj, true, SWIN_ACT_NONE));
    return swin_cuda_status(swin_norm_launch(d->stream, out, &y, &p->norm, SWIN_ROWS_SAME, NULL),
                            "layernorm");
}
