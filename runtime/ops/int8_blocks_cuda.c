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

/* The product of `codes` with a layer, in parts y. */
static swin_gemm_s8 in_parts(const swin_tensor *codes, const swin_layer_s8 *l, swin_act act,
                             const swin_tensor *y, int parts)
{
    swin_gemm_s8 p = swin_gemm_s8_of(codes, l->l, l->after_scale);
    p.act = act;
    p.parts = parts, p.width = l->l->out / parts;
    for (int i = 0; i < parts; i++) p.y[i] = swin_s8_part_of(&y[i]);
    return p;
}

/* LayerNorm and the product that reads it: one kernel where there is one, else two with the codes in
 * `normed`. local: what x is short of; NULL: nothing. */
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
                            .gemm = in_parts(&codes, l, act, y, parts) };
    if (local) p.gemm.local = *local;
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

/* What a kernel that has both layers of an MLP asks for; false: there is none for these shapes. */
bool swin_mlp_s8_of(swin_mlp_s8 *p, const swin_tensor *x, const swin_norm *n, const swin_layer_s8 *fc1,
                    const swin_layer_s8 *fc2)
{
    if (fc1->l->in != x->cols || fc2->l->out != x->cols || fc1->l->out != fc2->l->in || !n->gamma)
        return false;
    swin_tensor normed = placed(&fc1->input, NULL, x->rows, x->cols, x->cols),
                hidden = placed(&fc2->input, NULL, x->rows, fc2->l->in, fc2->l->in);
    *p = (swin_mlp_s8){ .norm = *n,
                        .input = swin_s8_rule_of(&normed),
                        .hidden = swin_s8_rule_of(&hidden),
                        .fc1 = swin_gemm_s8_of(&normed, fc1->l, fc1->after_scale),
                        .fc2 = swin_gemm_s8_of(&hidden, fc2->l, fc2->after_scale) };
    p->fc2.y[0] = swin_s8_part_of(x);
    p->fc2.residual = true;
    p->fc1.y[0] = swin_s8_part_of(&hidden);
    return true;
}

swin_status swin_mlp_half_s8_cuda(swin_dev *dev, swin_tensor *x, const swin_norm *n, const swin_layer_s8 *fc1,
                                  const swin_layer_s8 *fc2)
{
    swin_cuda *d = swin_cuda_of(dev);
    char *narrow, *wide;
    swin_mlp_s8 whole;
    const cudaError_t e = swin_mlp_s8_of(&whole, x, n, fc1, fc2)
                              ? swin_mlp_s8_launch(d->stream, &whole, d->multiprocessors)
                              : cudaErrorNotSupported;
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
    /* what x is short of between the halves; LayerNorm's codes and attention's; codes of q, k, v or of the
     * hidden layer. From `normed` on also what a cluster's blocks exchange. */
    char *beside, *normed, *mixed, *wide;
} blocks_run;

/* The products of a block as kernels want them. */
typedef struct block_products {
    swin_tensor qkv[3], mixed, hidden; /* codes of q, k, v, of attention and of GELU's output */
    swin_s8_local beside;
    swin_gemm_s8 proj, fc2;
} block_products;

/* x += proj(mixed), of which LayerNorm is to see more than F16 holds: a product that is rounded before its
 * bias stays codes beside x, and x as it was; else x is the sum, and its rest lies beside it. */
static void proj_of(block_products *p, const blocks_run *r, const swin_block_s8 *b)
{
    swin_s8_rounding rounding;
    swin_s8_part codes = { .data = r->beside, .ld = r->x->cols, .unit = 1, .dtype = SWIN_S8 };
    p->proj = swin_gemm_s8_rounded(&rounding, &codes.rule, &p->mixed, &b->proj);
    p->beside = (swin_s8_local){ (int8_t *)r->beside, r->x->cols, rounding.step, rounding.bias };
    p->proj.y[0] = codes;
    if (rounding.step == 0) {
        p->proj.y[0] = swin_s8_part_of(r->x);
        p->proj.residual = true, p->proj.local = p->beside;
    }
}

static swin_status products_of(block_products *p, const blocks_run *r, const swin_block_s8 *b)
{
    const int64_t rows = r->x->rows, c = r->x->cols;
    *p = (block_products){ .mixed = placed(&b->proj.input, r->mixed, rows, c, c),
                           .hidden = placed(&b->fc2.input, r->wide, rows, b->fc1.l->out, b->fc1.l->out) };
    for (int i = 0; i < 3; i++) p->qkv[i] = placed(&b->parts[i], r->wide + i * c, rows, c, 3 * c);
    SWIN_TRY(swin_layer_check_cuda("blocks_s8", b->proj.l, &p->mixed, b->proj.after_scale));
    SWIN_TRY(swin_layer_check_cuda("blocks_s8", b->fc2.l, &p->hidden, b->fc2.after_scale));
    proj_of(p, r, b);
    p->fc2 = swin_gemm_s8_of(&p->hidden, b->fc2.l, b->fc2.after_scale);
    p->fc2.y[0] = swin_s8_part_of(r->x);
    p->fc2.residual = true;
    if (p->beside.bias) p->fc2.local = p->beside;
    return SWIN_OK;
}

static swin_attention_s8_args attention_of(const block_products *p, const blocks_run *r,
                                           const swin_block_s8 *b)
{
    swin_attention_s8_args a = { .a = b->attention,
                                 .g = *r->g,
                                 .q = p->qkv[0],
                                 .k = p->qkv[1],
                                 .v = p->qkv[2],
                                 .out = p->mixed,
                                 .prob_scale = b->prob_scale,
                                 .image_order = true };
    a.g.shift = b->shift;
    return a;
}

/* All of a block in one kernel, where there is one for so few rows. */
static cudaError_t whole_block(blocks_run *r, const swin_block_s8 *b, const block_products *p)
{
    const swin_tensor first = placed(&b->qkv.input, NULL, r->x->rows, r->x->cols, r->x->cols),
                      second = placed(&b->fc1.input, NULL, r->x->rows, r->x->cols, r->x->cols);
    return swin_cluster_s8_launch(
        r->d->stream, &(swin_cluster_s8){ .norm1 = b->norm1,
                                          .norm2 = b->norm2,
                                          .input1 = swin_s8_rule_of(&first),
                                          .input2 = swin_s8_rule_of(&second),
                                          .mixed = swin_s8_rule_of(&p->mixed),
                                          .qkv = in_parts(&first, &b->qkv, SWIN_ACT_NONE, p->qkv, 3),
                                          .proj = p->proj,
                                          .fc1 = in_parts(&second, &b->fc1, SWIN_ACT_GELU, &p->hidden, 1),
                                          .fc2 = p->fc2,
                                          .beside = p->beside,
                                          .attention = attention_of(p, r, b),
                                          .exchange = r->normed });
}

/* Everything after attention in one kernel, where there is one. */
static cudaError_t block_tail(blocks_run *r, const swin_block_s8 *b, const swin_tensor *mixed)
{
    swin_tail_s8 p = { 0 };
    swin_s8_rule rule = { 0 };
    p.proj = swin_gemm_s8_rounded(&p.proj_rounding, &rule, mixed, &b->proj);
    p.proj.y[0].rule = rule;
    return swin_mlp_s8_of(&p.mlp, r->x, &b->norm2, &b->fc1, &b->fc2)
               ? swin_tail_s8_launch(r->d->stream, &p, r->d->multiprocessors)
               : cudaErrorNotSupported;
}

static swin_status run_block(blocks_run *r, const swin_block_s8 *b)
{
    block_products p;
    SWIN_TRY(products_of(&p, r, b));
    cudaError_t e = whole_block(r, b, &p);
    if (e != cudaErrorNotSupported) return swin_cuda_status(e, "blocks_s8");
    const swin_attention_s8_args attention = attention_of(&p, r, b);
    SWIN_TRY(norm_linear(r->d, p.qkv, 3, r->x, &b->norm1, NULL, &b->qkv, SWIN_ACT_NONE, r->normed));
    SWIN_TRY(swin_attention_s8_run(r->d, &attention));
    e = block_tail(r, b, &p.mixed);
    if (e != cudaErrorNotSupported) return swin_cuda_status(e, "blocks_s8");
    SWIN_TRY(swin_gemm_s8_run(r->d, &p.proj));
    SWIN_TRY(norm_linear(r->d, &p.hidden, 1, r->x, &b->norm2, &p.beside, &b->fc1, SWIN_ACT_GELU, r->normed));
    return swin_gemm_s8_run(r->d, &p.fc2);
}

/* What the kernels ask for; the walk has other ways for all else. */
static bool takes_blocks(const swin_cuda *d, const swin_tensor *x, const swin_block_s8 *blocks, int count)
{
    bool ok = d->major >= 8 && x->dtype == SWIN_F16 && x->ld == x->cols && x->cols % 32 == 0 &&
              x->cols <= 1536 && (uintptr_t)x->data % 16 == 0;
    for (int i = 0; i < count; i++) {
        const swin_block_s8 *b = &blocks[i];
        ok = ok && b->norm1.gamma && b->norm2.gamma && b->proj.l->bias && b->fc2.l->bias &&
             b->qkv.l->out == 3 * x->cols && b->proj.l->out == x->cols && b->fc2.l->out == x->cols &&
             b->fc1.l->out == b->fc2.l->in && b->fc1.l->out % 32 == 0 &&
             !b->head_scale == !blocks->head_scale;
    }
    return ok;
}

swin_status swin_blocks_s8_cuda(swin_dev *dev, swin_tensor *x, const swin_block_s8 *blocks, int count,
                                const swin_windows *g)
{
    swin_cuda *d = swin_cuda_of(dev);
    if (!takes_blocks(d, x, blocks, count)) return SWIN_ERR_UNSUPPORTED;
    if (count > 0 && blocks->head_scale) return swin_blocks_v2_s8_cuda(dev, x, blocks, count, g);
    blocks_run r = { .d = d, .g = g, .x = x };
    int64_t wide = 3 * x->cols;
    for (int i = 0; i < count; i++) {
        swin_windows shifted = *g;
        shifted.shift = blocks[i].shift;
        SWIN_TRY(swin_windows_check_cuda("blocks_s8", &shifted, x->rows));
        if (blocks[i].fc1.l->out > wide) wide = blocks[i].fc1.l->out;
    }
    const size_t narrow = ((size_t)(x->rows * x->cols) + 255) & ~(size_t)255,
                 exchange = (size_t)((int64_t)g->images * swin_windows_per_image(g) * SWIN_CLUSTER_ROWS * 4 *
                                     x->cols),
                 codes = 2 * narrow + (size_t)(x->rows * wide);
    void *p;
    SWIN_TRY(swin_cuda_work(d, &p, narrow + (codes > exchange ? codes : exchange)));
    r.beside = p, r.normed = r.beside + narrow, r.mixed = r.normed + narrow, r.wide = r.mixed + narrow;
    for (int i = 0; i < count; i++) SWIN_TRY(run_block(&r, &blocks[i]));
    return SWIN_OK;
}
