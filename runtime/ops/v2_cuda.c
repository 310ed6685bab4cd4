/* Swin V2's half blocks on cuda: no LayerNorm before a product, one after it, and cosine attention.
 *
 * As in V1's, the windows stay where they are: attention alone gathers and scatters them. */
#include "runtime/ops/kernels/cuda_dev.h"
#include "runtime/ops/kernels/int8_dev.h"

/* ---- float --------------------------------------------------------------------------------------------- */

static size_t padded(size_t bytes)
{
    return (bytes + 255) & ~(size_t)255;
}

/* Two scratch matrices of x's rows and type, the second of which two matrices of the same memory may be. */
static swin_status two_floats(swin_cuda *d, swin_tensor *a, int64_t a_cols, swin_tensor *b, int64_t b_cols,
                              const swin_tensor *x)
{
    const size_t unit = swin_dtype_size(x->dtype), rows = (size_t)x->rows;
    const size_t first = padded(rows * (size_t)a_cols * unit);
    void *p;
    SWIN_TRY(swin_cuda_work(d, &p, first + rows * (size_t)b_cols * unit));
    *a = swin_matrix(p, x->dtype, x->rows, a_cols);
    *b = swin_matrix((char *)p + first, x->dtype, x->rows, b_cols);
    return SWIN_OK;
}

/* x += LN(y), rounded as the operators one by one would. */
static swin_status norm_add(swin_cuda *d, const swin_tensor *x, const swin_tensor *y, const swin_norm *n)
{
    return swin_cuda_status(swin_norm_add_launch(d->stream, x, y, NULL, n, NULL, false),
                            "layernorm and residual add");
}

/* What norm_add takes. */
static bool takes_rows(const swin_tensor *x, const swin_norm *n)
{
    return n->gamma && x->cols % 8 == 0 && x->cols <= 1536 && x->ld == x->cols &&
           (uintptr_t)x->data % 16 == 0 && (uintptr_t)n->gamma % 16 == 0 && (uintptr_t)n->beta % 16 == 0;
}

swin_status swin_attention_half_v2_cuda(swin_dev *dev, swin_tensor *x, const swin_norm *n,
                                        const swin_linear *qkv, const float *head_scale,
                                        const swin_attention *a, const swin_linear *proj,
                                        const swin_windows *g)
{
    swin_cuda *d = swin_cuda_of(dev);
    const int64_t c = x->cols;
    swin_tensor mixed, wide;
    if (a->head_size != 32 || !takes_rows(x, n)) return SWIN_ERR_UNSUPPORTED;
    SWIN_TRY(two_floats(d, &mixed, c, &wide, 3 * c, x));
    SWIN_TRY(swin_linear_cuda(dev, &wide, x, qkv, true, SWIN_ACT_NONE));
    const swin_tensor pair = swin_columns(&wide, 0, 2 * c);
    SWIN_TRY(swin_cuda_status(
        swin_heads32_launch(d->stream, &pair, &pair, 2 * a->heads, a->heads, head_scale), "normalise_heads"));
    SWIN_TRY(swin_attention_run_cuda(
        dev, &(swin_attention_args){ .a = *a, .g = *g, .qkv = wide, .out = mixed, .image_order = true },
        SWIN_ATTENTION_ALL));
    swin_tensor y = swin_matrix(wide.data, x->dtype, x->rows, c);
    SWIN_TRY(swin_linear_cuda(dev, &y, &mixed, proj, true, SWIN_ACT_NONE));
    return norm_add(d, x, &y, n);
}

swin_status swin_mlp_half_v2_cuda(swin_dev *dev, swin_tensor *x, const swin_norm *n, const swin_linear *fc1,
                                  const swin_linear *fc2)
{
    swin_cuda *d = swin_cuda_of(dev);
    swin_tensor y, hidden;
    if (!takes_rows(x, n)) return SWIN_ERR_UNSUPPORTED;
    SWIN_TRY(two_floats(d, &y, x->cols, &hidden, fc1->out, x));
    SWIN_TRY(swin_linear_cuda(dev, &hidden, x, fc1, true, SWIN_ACT_GELU));
    SWIN_TRY(swin_linear_cuda(dev, &y, &hidden, fc2, true, SWIN_ACT_NONE));
    return norm_add(d, x, &y, n);
}

/* ---- integers ------------------------------------------------------------------------------------------ */

/* A matrix of codes in memory at p. */
static swin_tensor placed(const swin_tensor *how, void *p, int64_t rows, int64_t cols, int64_t ld)
{
    swin_tensor t = *how;
    t.data = p, t.dtype = SWIN_S8, t.rows = rows, t.cols = cols, t.ld = ld;
    return t;
}

/* Room for codes, then for what first is codes and then a product of x's shape. */
static swin_status two_codes(swin_cuda *d, char **codes, int64_t cols, char **wide, int64_t wide_cols,
                             const swin_tensor *x)
{
    const size_t rows = (size_t)x->rows, first = padded(rows * (size_t)cols),
                 product = (size_t)x->cols * swin_dtype_size(x->dtype);
    void *p;
    SWIN_TRY(
        swin_cuda_work(d, &p, first + rows * ((size_t)wide_cols > product ? (size_t)wide_cols : product)));
    *codes = p, *wide = (char *)p + first;
    return SWIN_OK;
}

static swin_status make_codes(swin_dev *dev, const swin_stream_s8 *codes, const swin_tensor *x)
{
    swin_tensor now = codes->now;
    return codes->ready ? SWIN_OK : swin_quantize_cuda(dev, &now, x);
}

/* x += LN(l(in)) by way of `room`, and x as codes beside it. A product that is rounded before its bias
 * stays codes until LayerNorm reads it, and the sum becomes codes before it is rounded to x's type: near a
 * tie, either rounding would cost a code of the next layer's input. */
static swin_status product_norm_add(swin_cuda *d, const swin_tensor *x, const swin_tensor *in,
                                    const swin_layer_s8 *l, const swin_norm *n, const swin_tensor *next,
                                    char *room)
{
    swin_tensor y = swin_matrix(room, x->dtype, x->rows, x->cols);
    swin_s8_rounding rounding = { 0 };
    if (l->after_scale > 0) {
        SWIN_TRY(swin_layer_check_cuda("linear_s8", l->l, in, l->after_scale));
        swin_s8_rule rule;
        swin_gemm_s8 p = swin_gemm_s8_rounded(&rounding, &rule, in, l);
        y.dtype = SWIN_S8, y.scale = l->after_scale, y.qmin = -127, y.qmax = 127;
        p.y[0] = swin_s8_part_of(&y);
        SWIN_TRY(swin_gemm_s8_run(d, &p));
    } else {
        SWIN_TRY(swin_linear_s8_cuda(&d->base, &y, 1, in, l->l, 0, SWIN_ACT_NONE));
    }
    return swin_cuda_status(swin_norm_add_launch(d->stream, x, &y, rounding.bias, n, next, true),
                            "layernorm and residual add");
}

swin_status swin_attention_half_v2_s8_cuda(swin_dev *dev, swin_tensor *x, const swin_stream_s8 *codes,
                                           const swin_norm *n, const swin_layer_s8 *qkv,
                                           const swin_tensor raw[2], const swin_tensor parts[3],
                                           const float *head_scale, const swin_attention *a, float prob_scale,
                                           const swin_layer_s8 *proj, const swin_windows *g)
{
    swin_cuda *d = swin_cuda_of(dev);
    const int64_t rows = x->rows, c = x->cols;
    char *narrow, *wide;
    if (a->head_size != 32 || d->major < 8 || !takes_rows(x, n)) return SWIN_ERR_UNSUPPORTED;
    SWIN_TRY(two_codes(d, &narrow, c, &wide, 3 * c, x));
    SWIN_TRY(make_codes(dev, codes, x));
    swin_tensor qkv_codes[3];
    for (int i = 0; i < 3; i++) qkv_codes[i] = placed(&parts[i], wide + i * c, rows, c, 3 * c);
    SWIN_TRY(swin_cosine_s8_cuda(dev, qkv_codes, &codes->now, qkv, raw, head_scale));
    const swin_tensor mixed = placed(&proj->input, narrow, rows, c, c);
    SWIN_TRY(swin_attention_s8_run(d, &(swin_attention_s8_args){ .a = *a,
                                                                 .g = *g,
                                                                 .q = qkv_codes[0],
                                                                 .k = qkv_codes[1],
                                                                 .v = qkv_codes[2],
                                                                 .out = mixed,
                                                                 .prob_scale = prob_scale,
                                                                 .image_order = true }));
    return product_norm_add(d, x, &mixed, proj, n, &codes->next, wide);
}

swin_status swin_mlp_half_v2_s8_cuda(swin_dev *dev, swin_tensor *x, const swin_stream_s8 *codes,
                                     const swin_norm *n, const swin_layer_s8 *fc1, const swin_layer_s8 *fc2)
{
    swin_cuda *d = swin_cuda_of(dev);
    char *hidden_at, *product;
    if (d->major < 8 || !takes_rows(x, n) || fc2->l->after) return SWIN_ERR_UNSUPPORTED;
    SWIN_TRY(two_codes(d, &hidden_at, fc1->l->out, &product, x->cols, x));
    SWIN_TRY(make_codes(dev, codes, x));
    swin_tensor hidden = placed(&fc2->input, hidden_at, x->rows, fc1->l->out, fc1->l->out);
    SWIN_TRY(swin_linear_s8_cuda(dev, &hidden, 1, &codes->now, fc1->l, fc1->after_scale, SWIN_ACT_GELU));
    return product_norm_add(d, x, &hidden, fc2, n, &codes->next, product);
}

/* ---- blocks -------------------------------------------------------------------------------------------- */

typedef struct v2_run {
    swin_cuda *d;
    const swin_windows *g;
    swin_tensor *x;
    char *codes, *mixed, *wide,
        *room; /* codes of x, of attention's output, of q, k, v or the hidden layer; a product */
} v2_run;

/* attention(qkv(codes of x)) to r->mixed. */
static swin_status v2_attention(v2_run *r, const swin_block_s8 *b, const swin_tensor *now,
                                const swin_tensor *mixed)
{
    const int64_t rows = r->x->rows, c = r->x->cols;
    swin_tensor qkv[3];
    for (int i = 0; i < 3; i++) qkv[i] = placed(&b->parts[i], r->wide + i * c, rows, c, 3 * c);
    SWIN_TRY(swin_cosine_s8_cuda(&r->d->base, qkv, now, &b->qkv, b->raw, b->head_scale));
    swin_attention_s8_args p = { .a = b->attention,
                                 .g = *r->g,
                                 .q = qkv[0],
                                 .k = qkv[1],
                                 .v = qkv[2],
                                 .out = *mixed,
                                 .prob_scale = b->prob_scale,
                                 .image_order = true };
    p.g.shift = b->shift;
    return swin_attention_s8_run(r->d, &p);
}

/* The rest of the block in one kernel, where there is one. next: codes of the new x, without data: none. */
static cudaError_t v2_tail(v2_run *r, const swin_block_s8 *b, const swin_tensor *mixed,
                           const swin_tensor *next)
{
    swin_tail_s8 p = { .v2 = true, .last = b->norm2, .codes = next->data, .ld = next->ld };
    const swin_tensor hidden = placed(&b->fc2.input, NULL, r->x->rows, b->fc2.l->in, b->fc2.l->in);
    const swin_s8_part x = swin_s8_part_of(r->x);
    swin_s8_rule rule = { 0 };
    if (next->data) p.rule = swin_s8_rule_of(next);
    if (!swin_mlp_s8_of(&p.mlp, r->x, &b->norm1, &b->fc1, &b->fc2)) return cudaErrorNotSupported;
    p.proj = swin_gemm_s8_rounded(&p.proj_rounding, &rule, mixed, &b->proj);
    p.proj.y[0].rule = rule;
    p.mlp.fc2 = swin_gemm_s8_rounded(&p.last_rounding, &rule, &hidden, &b->fc2);
    p.mlp.fc2.y[0] = x, p.mlp.fc2.y[0].rule = rule;
    return swin_tail_s8_launch(r->d->stream, &p, r->d->multiprocessors);
}

static swin_status v2_block(v2_run *r, const swin_block_s8 *b, const swin_tensor *next)
{
    const int64_t rows = r->x->rows, c = r->x->cols;
    const swin_tensor now = placed(&b->qkv.input, r->codes, rows, c, c),
                      mixed = placed(&b->proj.input, r->mixed, rows, c, c),
                      between = placed(&b->fc1.input, r->codes, rows, c, c);
    swin_tensor hidden = placed(&b->fc2.input, r->wide, rows, b->fc1.l->out, b->fc1.l->out);
    SWIN_TRY(swin_layer_check_cuda("blocks_s8", b->proj.l, &mixed, b->proj.after_scale));
    SWIN_TRY(v2_attention(r, b, &now, &mixed));
    const cudaError_t e = v2_tail(r, b, &mixed, next);
    if (e != cudaErrorNotSupported) return swin_cuda_status(e, "blocks_s8");
    SWIN_TRY(product_norm_add(r->d, r->x, &mixed, &b->proj, &b->norm1, &between, r->room));
    SWIN_TRY(
        swin_linear_s8_cuda(&r->d->base, &hidden, 1, &between, b->fc1.l, b->fc1.after_scale, SWIN_ACT_GELU));
    return product_norm_add(r->d, r->x, &hidden, &b->fc2, &b->norm2, next, r->room);
}

swin_status swin_blocks_v2_s8_cuda(swin_dev *dev, swin_tensor *x, const swin_block_s8 *blocks, int count,
                                   const swin_windows *g)
{
    swin_cuda *d = swin_cuda_of(dev);
    v2_run r = { .d = d, .g = g, .x = x };
    const size_t rows = (size_t)x->rows, narrow = padded(rows * (size_t)x->cols);
    int64_t wide = 3 * x->cols;
    for (int i = 0; i < count; i++) {
        const swin_block_s8 *b = &blocks[i];
        swin_windows shifted = *g;
        shifted.shift = b->shift;
        SWIN_TRY(swin_windows_check_cuda("blocks_s8", &shifted, x->rows));
        if (b->attention.head_size != 32 || !takes_rows(x, &b->norm1) || !takes_rows(x, &b->norm2) ||
            b->fc2.l->after)
            return SWIN_ERR_UNSUPPORTED;
        if (b->fc1.l->out > wide) wide = b->fc1.l->out;
    }
    void *p;
    SWIN_TRY(swin_cuda_work(d, &p, 4 * narrow + rows * (size_t)wide));
    r.codes = p, r.mixed = r.codes + narrow, r.room = r.mixed + narrow, r.wide = r.room + 2 * narrow;
    swin_tensor first = placed(&blocks[0].qkv.input, r.codes, x->rows, x->cols, x->cols);
    SWIN_TRY(swin_quantize_cuda(dev, &first, x));
    for (int i = 0; i < count; i++) {
        swin_tensor next = { 0 };
        if (i + 1 < count) next = placed(&blocks[i + 1].qkv.input, r.codes, x->rows, x->cols, x->cols);
        SWIN_TRY(v2_block(&r, &blocks[i], &next));
    }
    return SWIN_OK;
}
