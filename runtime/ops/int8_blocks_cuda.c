/* Half blocks, blocks and merges of the integer network on the cuda backend: the operators of int8_cuda.c,
 * and kernels that do several of them. */
#include "runtime/ops/kernels/int8_dev.h"

/* A matrix of codes in memory at p. */
static swin_tensor placed(const swin_tensor *how, void *p, int64_t rows, int64_t cols, int64_t ld)
{
    swin_tensor t = *how;
    t.data = p, t.dtype = SWIN_S8, t.rows = rows, t.cols = cols, t.ld = ld;
    return t;
}

/* Room for codes of two widths. */
static swin_status two_matrices(swin_cuda *d, char **a, int64_t a_cols, char **b, int64_t b_cols,
                                int64_t rows)
{
    const size_t first = ((size_t)(rows * a_cols) + 255) & ~(size_t)255;
    void *p;
    SWIN_TRY(swin_cuda_work(d, &p, first + (size_t)(rows * b_cols)));
    *a = p, *b = (char *)p + first;
    return SWIN_OK;
}

/* LayerNorm and the product that reads it: one kernel where there is one, else two with the codes in
 * `normed`. local: x is x + that; NULL: nothing. */
static swin_status norm_linear(swin_cuda *d, swin_tensor *y, int parts, const swin_tensor *x,
                               const swin_norm *n, const swin_s8_local *local, const swin_layer_s8 *l,
                               swin_act act, void *normed)
{
    swin_tensor codes = placed(&l->input, normed, x->rows, x->cols, x->cols);
    SWIN_TRY(swin_layer_check_cuda("linear_s8", l->l, &codes, l->after_scale));
    swin_norm_gemm_s8 p = { .norm = *n,
                            .input = swin_s8_rule_of(&codes),
                            .x = x->data,
                            .ldx = x->ld,
                            .gemm = swin_gemm_s8_of(&codes, l->l, l->after_scale) };
    p.gemm.act = act;
    p.gemm.parts = parts, p.gemm.width = l->l->out / parts;
    if (local) p.gemm.local = *local;
    for (int i = 0; i < parts; i++) p.gemm.y[i] = swin_s8_part_of(&y[i]);
    const cudaError_t e = x->dtype == SWIN_F16 && n->gamma
                              ? swin_norm_gemm_s8_launch(d->stream, &p, d->multiprocessors)
                              : cudaErrorNotSupported;
    if (e != cudaErrorNotSupported) return swin_cuda_status(e, "layernorm and linear_s8");
    if (local)
        SWIN_TRY(swin_cuda_status(swin_norm_local_s8_launch(d->stream, &codes, x, n, local), "layernorm"));
    else
        SWIN_TRY(swin_norm_s8_cuda(&d->base, &codes, x, n, SWIN_ROWS_SAME, NULL));
    return swin_linear_s8_cuda(&d->base, y, parts, &codes, l->l, l->after_scale, act);
}

/* The windows stay where they are: attention alone gathers and scatters them, so everything else runs in
 * image order. */
swin_status swin_attention_half_s8_cuda(swin_dev *dev, swin_tensor *x, const swin_norm *n,
                                        const swin_layer_s8 *qkv, const swin_tensor parts[3],
                                        const swin_attention *a, float prob_scale, const swin_layer_s8 *proj,
                                        const swin_windows *g)
{
    swin_cuda *d = swin_cuda_of(dev);
    const int64_t rows = x->rows, c = x->cols;
    char *narrow, *wide;
    SWIN_TRY(swin_windows_check_cuda("attention_half_s8", g, rows));
    SWIN_TRY(two_matrices(d, &narrow, c, &wide, 3 * c, rows));
    swin_tensor codes[3];
    for (int i = 0; i < 3; i++) codes[i] = placed(&parts[i], wide + i * c, rows, c, 3 * c);
    SWIN_TRY(norm_linear(d, codes, 3, x, n, NULL, qkv, SWIN_ACT_NONE, narrow));
    const swin_tensor mixed = placed(&proj->input, narrow, rows, c, c);
    SWIN_TRY(swin_attention_s8_run(d, &(swin_attention_s8_args){ .a = *a,
                                                                 .g = *g,
                                                                 .q = codes[0],
                                                                 .k = codes[1],
                                                                 .v = codes[2],
                                                                 .out = mixed,
                                                                 .prob_scale = prob_scale,
                                                                 .image_order = true }));
    return swin_linear_s8_residual_cuda(dev, x, &mixed, proj->l, proj->after_scale, NULL);
}

/* The whole half in one kernel, where there is one for these shapes. local: x is x + that. */
static cudaError_t fused_mlp(swin_cuda *d, const swin_tensor *x, const swin_norm *n, const swin_layer_s8 *fc1,
                             const swin_layer_s8 *fc2, const swin_s8_local *local)
{
    if (fc1->l->in != x->cols || fc2->l->out != x->cols || fc1->l->out != fc2->l->in || !n->gamma)
        return cudaErrorNotSupported;
    swin_tensor normed = placed(&fc1->input, NULL, x->rows, x->cols, x->cols),
                hidden = placed(&fc2->input, NULL, x->rows, fc2->l->in, fc2->l->in);
    swin_mlp_s8 p = { .norm = *n,
                      .input = swin_s8_rule_of(&normed),
                      .hidden = swin_s8_rule_of(&hidden),
                      .fc1 = swin_gemm_s8_of(&normed, fc1->l, fc1->after_scale),
                      .fc2 = swin_gemm_s8_of(&hidden, fc2->l, fc2->after_scale) };
    p.fc2.y[0] = swin_s8_part_of(x);
    p.fc2.residual = true;
    p.fc2.local = *local;
    p.fc1.y[0] = swin_s8_part_of(&hidden);
    return swin_mlp_s8_launch(d->stream, &p, d->multiprocessors);
}

swin_status swin_mlp_half_s8_cuda(swin_dev *dev, swin_tensor *x, const swin_norm *n, const swin_layer_s8 *fc1,
                                  const swin_layer_s8 *fc2)
{
    swin_cuda *d = swin_cuda_of(dev);
    char *narrow, *wide;
    const cudaError_t e = fused_mlp(d, x, n, fc1, fc2, &(swin_s8_local){ 0 });
    if (e != cudaErrorNotSupported) return swin_cuda_status(e, "mlp_half_s8");
    SWIN_TRY(two_matrices(d, &narrow, x->cols, &wide, fc1->l->out, x->rows));
    swin_tensor hidden = placed(&fc2->input, wide, x->rows, fc1->l->out, fc1->l->out);
    SWIN_TRY(norm_linear(d, &hidden, 1, x, n, NULL, fc1, SWIN_ACT_GELU, narrow));
    return swin_linear_s8_residual_cuda(dev, x, &hidden, fc2->l, fc2->after_scale, NULL);
}

swin_status swin_merge_s8_cuda(swin_dev *dev, swin_tensor *out, const swin_tensor *x, const swin_norm *n,
                               const swin_layer_s8 *reduction, const swin_windows *g)
{
    char *normed_at, *none;
    SWIN_TRY(two_matrices(swin_cuda_of(dev), &normed_at, 4 * x->cols, &none, 0, x->rows / 4));
    swin_tensor normed = placed(&reduction->input, normed_at, x->rows / 4, 4 * x->cols, 4 * x->cols);
    SWIN_TRY(swin_norm_s8_cuda(dev, &normed, x, n, SWIN_ROWS_MERGE, g));
    return swin_linear_s8_cuda(dev, out, 1, &normed, reduction->l, reduction->after_scale, SWIN_ACT_NONE);
}

/* ---- blocks
 * ------------------------------------------------------------------------------------------------------ */

typedef struct blocks_run {
    swin_cuda *d;
    const swin_windows *g;
    swin_tensor *x;
    char *normed, *mixed, *kept,
        *wide; /* codes: LayerNorm's, attention's, proj's; q, k, v or the hidden layer's */
} blocks_run;

/* x += proj(attention(qkv(LN1 x))), or with keep proj's product alone, rounded but without its bias, to
 * r->kept. */
static swin_status block_attention(blocks_run *r, const swin_block_s8 *b, bool keep)
{
    const int64_t rows = r->x->rows, c = r->x->cols;
    swin_tensor codes[3];
    for (int i = 0; i < 3; i++) codes[i] = placed(&b->parts[i], r->wide + i * c, rows, c, 3 * c);
    const swin_tensor mixed = placed(&b->proj.input, r->mixed, rows, c, c),
                      how = { .scale = b->proj.after_scale, .qmin = -127, .qmax = 127 },
                      kept = placed(&how, r->kept, rows, c, c);
    swin_attention_s8_args p = { .a = b->attention,
                                 .g = *r->g,
                                 .q = codes[0],
                                 .k = codes[1],
                                 .v = codes[2],
                                 .out = mixed,
                                 .prob_scale = b->prob_scale,
                                 .image_order = true };
    p.g.shift = b->shift;
    SWIN_TRY(norm_linear(r->d, codes, 3, r->x, &b->norm1, NULL, &b->qkv, SWIN_ACT_NONE, r->normed));
    SWIN_TRY(swin_attention_s8_run(r->d, &p));
    SWIN_TRY(swin_layer_check_cuda("blocks_s8", b->proj.l, &mixed, b->proj.after_scale));
    if (!keep)
        return swin_linear_s8_residual_cuda(&r->d->base, r->x, &mixed, b->proj.l, b->proj.after_scale, NULL);
    swin_gemm_s8 gemm = swin_gemm_s8_of(&mixed, b->proj.l, 0);
    gemm.bias = NULL;
    gemm.y[0] = swin_s8_part_of(&kept);
    return swin_gemm_s8_run(r->d, &gemm);
}

/* x += fc2(GELU(fc1(LN2 x))), with keep of x + what was kept. */
static swin_status block_mlp(blocks_run *r, const swin_block_s8 *b, bool keep)
{
    const int64_t rows = r->x->rows, c = r->x->cols;
    if (!keep) return swin_mlp_half_s8_cuda(&r->d->base, r->x, &b->norm2, &b->fc1, &b->fc2);
    const swin_s8_local local = {
        .codes = (int8_t *)r->kept, .ld = c, .scale = b->proj.after_scale, .bias = b->proj.l->bias
    };
    swin_tensor hidden = placed(&b->fc2.input, r->wide, rows, b->fc1.l->out, b->fc1.l->out);
    const cudaError_t e = fused_mlp(r->d, r->x, &b->norm2, &b->fc1, &b->fc2, &local);
    if (e != cudaErrorNotSupported) return swin_cuda_status(e, "blocks_s8");
    SWIN_TRY(norm_linear(r->d, &hidden, 1, r->x, &b->norm2, &local, &b->fc1, SWIN_ACT_GELU, r->normed));
    SWIN_TRY(swin_layer_check_cuda("blocks_s8", b->fc2.l, &hidden, b->fc2.after_scale));
    swin_gemm_s8 gemm = swin_gemm_s8_of(&hidden, b->fc2.l, b->fc2.after_scale);
    gemm.y[0] = swin_s8_part_of(r->x);
    gemm.residual = true;
    gemm.local = local;
    return swin_gemm_s8_run(r->d, &gemm);
}

/* What the kernels of x + kept ask for; the walk has other ways for all else. */
static bool takes_blocks(const swin_cuda *d, const swin_tensor *x, const swin_block_s8 *blocks, int count)
{
    bool ok = d->major >= 8 && x->dtype == SWIN_F16 && x->ld == x->cols && x->cols % 32 == 0 &&
              x->cols <= 1536 && (uintptr_t)x->data % 16 == 0;
    for (int i = 0; i < count; i++) {
        const swin_block_s8 *b = &blocks[i];
        ok = ok && b->norm1.gamma && b->norm2.gamma && b->proj.l->bias && b->fc2.l->bias &&
             b->qkv.l->out == 3 * x->cols && b->proj.l->out == x->cols && b->fc2.l->out == x->cols &&
             b->fc1.l->out == b->fc2.l->in && b->fc1.l->out % 32 == 0;
    }
    return ok;
}

swin_status swin_blocks_s8_cuda(swin_dev *dev, swin_tensor *x, const swin_block_s8 *blocks, int count,
                                const swin_windows *g)
{
    swin_cuda *d = swin_cuda_of(dev);
    if (!takes_blocks(d, x, blocks, count)) return SWIN_ERR_UNSUPPORTED;
    blocks_run r = { .d = d, .g = g, .x = x };
    int64_t wide = 3 * x->cols;
    for (int i = 0; i < count; i++) {
        swin_windows shifted = *g;
        shifted.shift = blocks[i].shift;
        SWIN_TRY(swin_windows_check_cuda("blocks_s8", &shifted, x->rows));
        if (blocks[i].fc1.l->out > wide) wide = blocks[i].fc1.l->out;
    }
    const size_t narrow = ((size_t)(x->rows * x->cols) + 255) & ~(size_t)255;
    void *p;
    SWIN_TRY(swin_cuda_work(d, &p, 3 * narrow + (size_t)(x->rows * wide)));
    r.normed = p, r.mixed = r.normed + narrow, r.kept = r.mixed + narrow, r.wide = r.kept + narrow;
    for (int i = 0; i < count; i++) {
        const bool keep = blocks[i].proj.after_scale > 0;
        SWIN_TRY(block_attention(&r, &blocks[i], keep));
        SWIN_TRY(block_mlp(&r, &blocks[i], keep));
    }
    return SWIN_OK;
}
