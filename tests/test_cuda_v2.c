/* Swin V2's half blocks of the cuda backend against its operators one by one: float ones bit for bit,
 * integer ones against a stream in float32, with the codes that they leave for the next half. Some heads'
 * queries and keys are nothing but zeros. */
#include "tests/support/gpu_pair.h"

static swin_tensor format(float scale, int zero_point)
{
    return (swin_tensor){ .dtype = SWIN_S8,
                          .scale = scale,
                          .zero_point = zero_point,
                          .qmin = zero_point ? -128 : -127,
                          .qmax = 127 };
}

static swin_tensor coded(const pair *m, const swin_tensor *f)
{
    swin_tensor t = m->d;
    t.scale = f->scale, t.zero_point = f->zero_point, t.qmin = f->qmin, t.qmax = f->qmax;
    return t;
}

static void same_bits(const pair *a, const pair *b, const char *what)
{
    char *x = get(a, what), *y = get(b, what);
    const size_t unit = a->d.dtype == SWIN_S8 ? 1 : sizeof(float);
    int64_t off = 0;
    for (int64_t i = 0; i < a->d.rows * a->d.cols; i++)
        off += memcmp(x + (size_t)i * unit, y + (size_t)i * unit, unit) != 0;
    CHECK(off == 0, "%s: %lld of %lld values differ from the operators one by one", what, (long long)off,
          (long long)(a->d.rows * a->d.cols));
    free(x), free(y);
}

static pair copy_of(const pair *x)
{
    pair copy = make(x->d.dtype, x->d.rows, x->d.cols, x->d.ld);
    memcpy(copy.host, x->host, (size_t)(x->d.rows * x->d.cols) * sizeof(float));
    put(&copy);
    return copy;
}

typedef struct norm {
    float *gamma, *beta, *gamma_d, *beta_d;
    swin_norm n;
} norm;

static norm norm_make(swin_rng *rng, int c)
{
    norm n;
    n.gamma = vector(rng, c, 0.5, 0.25, &n.gamma_d), n.beta = vector(rng, c, 0, 0.1, &n.beta_d);
    n.n = (swin_norm){ n.gamma_d, n.beta_d, 1e-5f };
    return n;
}

static void norm_free(norm *n)
{
    gpu->ops->free(gpu, n->gamma_d), gpu->ops->free(gpu, n->beta_d);
    free(n->gamma), free(n->beta);
}

/* The same values in float32. */
static pair widened(const pair *x, const char *what)
{
    pair wide = make(SWIN_F32, x->d.rows, x->d.cols, x->d.cols);
    char *now = get(x, what);
    memcpy(wide.host, now, (size_t)(x->d.rows * x->d.cols) * sizeof(float));
    put(&wide);
    free(now);
    return wide;
}

/* What a layer makes of `in`, in float32: of a product that is rounded before its bias the codes as the
 * engine has them, for steps are coarse here and a tie that falls the other way would be seen; else a
 * product of x's type. */
static pair product_of(const pair *x, const swin_tensor *in, const swin_layer_s8 *l, const layer *from,
                       const char *what)
{
    const int64_t rows = x->d.rows, c = x->d.cols;
    if (l->after_scale == 0) {
        pair made = make(x->d.dtype, rows, c, c);
        CHECK_OK(gpu->ops->linear_s8(gpu, &made.d, 1, in, l->l, 0, SWIN_ACT_NONE));
        const pair sum = widened(&made, what);
        drop(&made);
        return sum;
    }
    pair made = make(SWIN_S8, rows, c, c), sum = make(SWIN_F32, rows, c, c);
    const swin_tensor steps = format(l->after_scale, 0);
    swin_tensor y = coded(&made, &steps);
    swin_linear bare;
    CHECK_OK(gpu->ops->linear_s8_prepare(gpu, &bare, from->codes, from->scale, NULL, (int)c, l->l->in, 0));
    CHECK_OK(gpu->ops->linear_s8(gpu, &y, 1, in, &bare, 0, SWIN_ACT_NONE));
    const int8_t *codes = (const int8_t *)get(&made, what);
    for (int64_t i = 0; i < rows * c; i++)
        ((float *)sum.host)[i] = fmaf((float)codes[i], l->after_scale, from->bias[i % c]);
    put(&sum);
    free((void *)(uintptr_t)codes);
    gpu->ops->linear_release(gpu, &bare);
    drop(&made);
    return sum;
}

static int64_t stepped, beside;

/* Columns of a row that differ by more than a rounding of x can. */
static int64_t moved_in(const float *got, const float *want, int64_t c, double unit)
{
    int64_t moved = 0;
    for (int64_t i = 0; i < c; i++)
        moved += !(fabs((double)got[i] - (double)want[i]) <= 2.5 * unit * fabs((double)want[i]) + 0.05);
    return moved;
}

/* x and its codes beside a product that was rounded before its bias. The half rounds v's values by another formula than
 * linear_s8 (codes differ where a value is within 1.5e-5 steps of a tie), attention's codes move with v's, a product's sums
 * with these, and where such a sum is near a tie itself, its code is another: a step of LayerNorm's result, which is no
 * rounding of x, and LayerNorm moves the rest of that row. Seen in mode 2 with three heads: v at 7.499996 steps, sums 0.0025
 * and 0.0005 steps from a tie, a value of their row moved by 0.046 and its code by two; the operators one by one do just
 * that when given those codes of v. Such rows' codes are counted, as codes are; all other rows are held to one rounding and
 * to neighbouring codes. */
static void compare_stepped(const pair *x, const pair *codes, const char *what)
{
    float *got = (float *)get(x, what);
    int8_t *have = (int8_t *)get(codes, what);
    const double unit = one_rounding(x->d.dtype);
    double difference = 0, whole = 0;
    for (int64_t r = 0; r < x->d.rows; r++) {
        const float *g = got + r * x->d.cols, *w = (const float *)x->host + r * x->d.cols;
        const int64_t moved = moved_in(g, w, x->d.cols, unit);
        double apart = 0, size = 0;
        for (int64_t c = 0; c < x->d.cols; c++) {
            const double e = fabs((double)g[c] - (double)w[c]);
            const int64_t i = r * x->d.cols + c;
            const int d = have[i] - ((const int8_t *)codes->host)[i];
            CHECK(moved || (d >= -1 && d <= 1), "%s: value %lld: code %d off", what, (long long)i, d);
            CHECK(e < 4, "%s: value %lld: %g, not %g", what, (long long)i, (double)g[c], (double)w[c]);
            tally.off += !moved && d != 0, stepped += moved && d != 0;
            apart += e * e, size += (double)w[c] * (double)w[c];
        }
        if (!moved) difference += apart, whole += size;
    }
    beside += x->d.rows * x->d.cols, tally.seen += x->d.rows * x->d.cols;
    const double e = sqrt(difference / whole);
    if (e > tally.error) tally.error = e;
    CHECK(e <= unit, "%s: relative error %.1e in rows without a step", what, e);
    free(got), free(have);
}

/* x and its codes, as a half left them, against old + LN(l(in)) in float32. */
static void check_sum(pair *x, pair *codes, pair *old, const swin_tensor *in, const swin_layer_s8 *l,
                      const layer *from, const norm *n, const swin_windows *g, const swin_tensor *next,
                      const char *what)
{
    const int64_t rows = x->d.rows, c = x->d.cols;
    pair local = make(SWIN_F32, rows, c, c), want = make(SWIN_S8, rows, c, c),
         sum = product_of(x, in, l, from, what);
    swin_tensor t = coded(&want, next);
    CHECK_OK(gpu->ops->layernorm(gpu, &local.d, &sum.d, &n->n));
    CHECK_OK(gpu->ops->residual_add(gpu, &old->d, &local.d, g));
    CHECK_OK(gpu->ops->quantize(gpu, &t, &old->d));
    char *values = get(old, what), *bytes = get(&want, what);
    memcpy(x->host, values, (size_t)(rows * c) * sizeof(float));
    memcpy(codes->host, bytes, (size_t)(rows * c));
    if (l->after_scale > 0) {
        compare_stepped(x, codes, what);
    } else {
        compare_floats(x, one_rounding(x->d.dtype), what);
        compare_codes(codes, what);
    }
    free(values), free(bytes);
    drop(&local), drop(&want), drop(&sum);
}

static void one_mlp_s8(swin_rng *rng, int64_t rows, int c, int mode, swin_dtype type)
{
    char what[96];
    snprintf(what, sizeof what, "V2's mlp half of %lld rows, %d channels, mode %d, %s", (long long)rows, c,
             mode, swin_dtype_name(type));
    const int zero = mode == 3 ? -100 : 0;
    const float size1 = typical(c, 0.03f), after1 = mode == 3 ? 0 : size1 * 0.03f;
    pair x = floats(rng, type, rows, c, c, 2), copy = copy_of(&x), old = widened(&x, what),
         codes = make(SWIN_S8, rows, c, c);
    layer fc1 = layer_make(rng, 4 * c, c, 0, true, RANDOM),
          fc2 = layer_make(rng, c, 4 * c, zero, true, RANDOM);
    norm n = norm_make(rng, c);
    const swin_layer_s8 a = { &fc1.g, format(0.03f, 0), after1 },
                        b = { &fc2.g, format(size1 / 60, zero), mode == 1 ? size1 : 0 };
    const swin_tensor next = format(0.05f, 0);
    const swin_stream_s8 stream = { .now = coded(&codes, &a.input), .next = coded(&codes, &next) };
    CHECK_OK(gpu->ops->mlp_half_v2_s8(gpu, &x.d, &stream, &n.n, &a, &b));

    pair hidden = make(SWIN_S8, rows, 4 * c, 4 * c), before = make(SWIN_S8, rows, c, c);
    swin_tensor now = coded(&before, &a.input), ht = coded(&hidden, &b.input);
    CHECK_OK(gpu->ops->quantize(gpu, &now, &copy.d));
    CHECK_OK(gpu->ops->linear_s8(gpu, &ht, 1, &now, &fc1.g, a.after_scale, SWIN_ACT_GELU));
    check_sum(&x, &codes, &old, &ht, &b, &fc2, &n, NULL, &next, what);
    norm_free(&n);
    layer_free(&fc1), layer_free(&fc2);
    drop(&x), drop(&copy), drop(&old), drop(&codes), drop(&hidden), drop(&before);
}

/* Weights of some heads are zeros: so are their queries and keys. */
static layer qkv_make(swin_rng *rng, int c)
{
    layer l = layer_make(rng, 3 * c, c, 0, true, RANDOM);
    gpu->ops->linear_release(gpu, &l.g);
    memset(l.codes, 0, (size_t)c * 32), memset(l.bias, 0, 32 * sizeof *l.bias);
    memset(l.codes + (size_t)c * (size_t)(c + 32), 0, (size_t)c * 32);
    memset(l.bias + c + 32, 0, 32 * sizeof *l.bias);
    CHECK_OK(gpu->ops->linear_s8_prepare(gpu, &l.g, l.codes, l.scale, l.bias, 3 * c, c, 0));
    return l;
}

typedef struct attention_case {
    int window, heads, shift, images, mode;
} attention_case;

static void one_attention_s8(swin_rng *rng, attention_case k)
{
    char what[128];
    const int c = k.heads * 32, n = k.window * k.window;
    const swin_windows g = { .images = k.images,
                             .height = 2 * k.window,
                             .width = 2 * k.window,
                             .window = k.window,
                             .shift = k.shift };
    const int64_t rows = swin_windows_tokens(&g);
    snprintf(what, sizeof what, "V2's attention half, window %d, %d heads, shift %d, %d images, mode %d",
             k.window, k.heads, k.shift, k.images, k.mode);
    const float size = typical(c, 0.03f);
    pair x = floats(rng, SWIN_F16, rows, c, c, 2), copy = copy_of(&x), old = widened(&x, what),
         codes = make(SWIN_S8, rows, c, c);
    layer qkv = qkv_make(rng, c), proj = layer_make(rng, c, c, 0, true, RANDOM);
    norm nm = norm_make(rng, c);
    float *scale_d, *scale = vector(rng, k.heads, 20, 5, &scale_d);
    bias_mask b = tables(rng, k.heads, n, swin_windows_per_image(&g));
    const swin_attention at = { k.heads,
                                32,
                                1,
                                b.bias_d,
                                k.shift ? b.mask_d : NULL,
                                k.mode == 3 ? SWIN_SOFTMAX_U8 : SWIN_SOFTMAX_EXACT };
    const swin_layer_s8 lq = { &qkv.g, format(0.03f, 0), k.mode == 3 ? 0 : size * 0.03f },
                        lp = { &proj.g, format(size / 50, 0), k.mode == 3 ? 0 : size };
    swin_tensor parts[3] = { format(0.1f, 0), format(0.005f, 0), format(size / 42, 0) };
    float *factor[3] = { 0 }, *factor_d[3] = { 0 };
    for (int i = 0; k.mode == 3 && i < 3; i++) { /* scales of heads */
        factor[i] = head_factors(rng, c, 32, 0.5, &factor_d[i]);
        parts[i].shrink = factor_d[i];
    }
    const swin_tensor raw[2] = { k.mode == 3 ? swin_matrix(NULL, SWIN_F32, 0, 0) : format(size / 40, 0),
                                 k.mode == 3 ? swin_matrix(NULL, SWIN_F32, 0, 0) : format(size / 41, 0) },
                      next = format(0.04f, 0);
    const swin_stream_s8 stream = { .now = coded(&codes, &lq.input), .next = coded(&codes, &next) };
    CHECK_OK(gpu->ops->attention_half_v2_s8(gpu, &x.d, &stream, &nm.n, &lq, raw, parts, scale_d, &at,
                                            1.0f / 127, &lp, &g));

    const swin_dtype raw_type = k.mode == 3 ? SWIN_F32 : SWIN_S8;
    pair before = make(raw_type, rows, 2 * c, 2 * c), wide = make(SWIN_S8, rows, 3 * c, 3 * c),
         mixed = make(SWIN_S8, rows, c, c), start = make(SWIN_S8, rows, c, c);
    swin_tensor now = coded(&start, &lq.input), mt = coded(&mixed, &lp.input), qt[3], rt[3];
    for (int i = 0; i < 3; i++) {
        const swin_tensor all = coded(&wide, &parts[i]);
        qt[i] = swin_columns(&all, i * c, c);
        qt[i].shrink = parts[i].shrink;
        rt[i] = qt[i];
    }
    for (int i = 0; i < 2; i++) {
        const swin_tensor all = k.mode == 3 ? before.d : coded(&before, &raw[i]);
        rt[i] = swin_columns(&all, i * c, c);
    }
    CHECK_OK(gpu->ops->layernorm_windows(gpu, &now, &copy.d, NULL, &g));
    CHECK_OK(gpu->ops->linear_s8(gpu, rt, 3, &now, &qkv.g, lq.after_scale, SWIN_ACT_NONE));
    CHECK_OK(gpu->ops->normalise_heads(gpu, &qt[0], &rt[0], k.heads, scale_d));
    CHECK_OK(gpu->ops->normalise_heads(gpu, &qt[1], &rt[1], k.heads, NULL));
    CHECK_OK(gpu->ops->attention_s8(gpu, &mt, qt, &at, 1.0f / 127, &g));
    check_sum(&x, &codes, &old, &mt, &lp, &proj, &nm, &g, &next, what);
    gpu->ops->free(gpu, scale_d), free(scale);
    for (int i = 0; i < 3; i++) free(factor[i]), gpu->ops->free(gpu, factor_d[i]);
    norm_free(&nm), tables_free(&b);
    layer_free(&qkv), layer_free(&proj);
    drop(&x), drop(&copy), drop(&old), drop(&codes), drop(&before), drop(&wide), drop(&mixed), drop(&start);
}

static void test_integer_halves(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 61 };
    static const attention_case cases[] = { { 8, 3, 0, 1, 0 },  { 8, 3, 4, 9, 0 }, { 8, 4, 4, 3, 0 },
                                            { 8, 12, 4, 2, 0 }, { 7, 6, 3, 2, 0 }, { 16, 3, 8, 2, 0 },
                                            { 24, 4, 12, 1, 0 } };
    /* where q, k, v are made by the kernel of many rows */
    static const attention_case tall[] = { { 7, 12, 3, 11, 0 }, { 8, 16, 4, 9, 0 }, { 8, 24, 0, 9, 0 } };
    swin_rng another = { 64 };
    for (int mode = 1; mode <= 3; mode++) {
        for (size_t i = 0; i < (brief ? 2 : SWIN_COUNT(cases)); i++) {
            attention_case k = cases[i];
            k.mode = mode;
            if (brief) k.images = 1;
            one_attention_s8(&rng, k);
        }
        for (size_t i = 0; !brief && i < SWIN_COUNT(tall); i++) {
            attention_case k = tall[i];
            k.mode = mode;
            one_attention_s8(&another, k);
        }
        one_mlp_s8(&rng, 65, 96, mode, SWIN_F16);
        one_mlp_s8(&rng, 7, 128, mode, SWIN_F32);
        one_mlp_s8(&rng, 200, 384, mode, SWIN_BF16);
        one_mlp_s8(&rng, 100, brief ? 192 : 1536, mode, SWIN_F16);
    }
    judge("codes beside V2's stream");
    print_message("  x beside rounded products: %lld of %lld values moved by a step\n", (long long)stepped,
                  (long long)beside);
    CHECK(1000 * stepped < beside, "%lld of %lld values are a step off", (long long)stepped,
          (long long)beside);
}

/* A block's layers; the weights of some heads are zeros. */
typedef struct block {
    layer qkv, proj, fc1, fc2;
    norm n1, n2;
    bias_mask tables;
    float *scale, *scale_d;
    swin_block_s8 b;
} block;

static void block_make(block *k, swin_rng *rng, int heads, const swin_windows *g, int shift, int mode)
{
    const int c = 32 * heads, zero = mode == 3 ? -100 : 0;
    const float q = typical(c, 0.03f), p = typical(c, q / 50), f = typical(c, 0.03f),
                o = typical(4 * c, f / 60);
    const swin_tensor unrounded = swin_matrix(NULL, SWIN_F32, 0, 0);
    *k = (block){ .qkv = qkv_make(rng, c),
                  .proj = layer_make(rng, c, c, 0, true, RANDOM),
                  .fc1 = layer_make(rng, 4 * c, c, 0, true, RANDOM),
                  .fc2 = layer_make(rng, c, 4 * c, zero, true, RANDOM),
                  .n1 = norm_make(rng, c),
                  .n2 = norm_make(rng, c),
                  .tables = tables(rng, heads, g->window * g->window, swin_windows_per_image(g)) };
    k->scale = vector(rng, heads, 20, 5, &k->scale_d);
    k->b = (swin_block_s8){ .norm1 = k->n1.n,
                            .norm2 = k->n2.n,
                            .qkv = { &k->qkv.g, format(0.03f, 0), mode == 3 ? 0 : q * 0.03f },
                            .proj = { &k->proj.g, format(q / 50, 0), mode == 3 ? 0 : p / 30 },
                            .fc1 = { &k->fc1.g, format(0.03f, 0), mode == 3 ? 0 : f * 0.03f },
                            .fc2 = { &k->fc2.g, format(f / 60, zero), mode == 1 ? o / 30 : 0 },
                            .parts = { format(0.1f, 0), format(0.005f, 0), format(q / 42, 0) },
                            .attention = { heads, 32, 1, k->tables.bias_d, shift ? k->tables.mask_d : NULL,
                                           mode == 3 ? SWIN_SOFTMAX_U8 : SWIN_SOFTMAX_EXACT },
                            .prob_scale = 1.0f / 127,
                            .shift = shift,
                            .head_scale = k->scale_d,
                            .raw = { mode == 3 ? unrounded : format(q / 40, 0),
                                     mode == 3 ? unrounded : format(q / 41, 0) } };
}

static void block_free(block *k)
{
    layer_free(&k->qkv), layer_free(&k->proj), layer_free(&k->fc1), layer_free(&k->fc2);
    norm_free(&k->n1), norm_free(&k->n2), tables_free(&k->tables);
    gpu->ops->free(gpu, k->scale_d), free(k->scale);
}

static void halves_of(swin_tensor *x, const block all[2], pair *codes, swin_windows g)
{
    for (int i = 0; i < 2; i++) {
        const swin_block_s8 *b = &all[i].b;
        const swin_stream_s8 a = { .now = coded(codes, &b->qkv.input),
                                   .next = coded(codes, &b->fc1.input),
                                   .ready = i > 0 };
        swin_stream_s8 m = { .now = coded(codes, &b->fc1.input), .ready = true };
        if (i == 0) m.next = coded(codes, &all[1].b.qkv.input);
        g.shift = b->shift;
        CHECK_OK(gpu->ops->attention_half_v2_s8(gpu, x, &a, &b->norm1, &b->qkv, b->raw, b->parts,
                                                b->head_scale, &b->attention, b->prob_scale, &b->proj, &g));
        CHECK_OK(gpu->ops->mlp_half_v2_s8(gpu, x, &m, &b->norm2, &b->fc1, &b->fc2));
    }
}

/* Two blocks in one call are their halves, bit for bit: also where one kernel does all that follows
 * attention. */
static void one_blocks(swin_rng *rng, int heads, int images, int mode)
{
    char what[96];
    const int c = 32 * heads;
    const swin_windows g = { .images = images, .height = 16, .width = 16, .window = 8 };
    snprintf(what, sizeof what, "V2's blocks of %d channels, %d images, mode %d", c, images, mode);
    pair x = floats(rng, SWIN_F16, swin_windows_tokens(&g), c, c, 2), copy = copy_of(&x),
         codes = make(SWIN_S8, x.d.rows, c, c);
    block b[2];
    for (int i = 0; i < 2; i++) block_make(&b[i], rng, heads, &g, 4 * i, mode);
    const swin_block_s8 both[2] = { b[0].b, b[1].b };
    CHECK_OK(gpu->ops->blocks_s8(gpu, &x.d, both, 2, &g));
    halves_of(&copy.d, b, &codes, g);
    same_bits(&x, &copy, what);
    for (int i = 0; i < 2; i++) block_free(&b[i]);
    drop(&x), drop(&copy), drop(&codes);
}

static void test_blocks(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 63 };
    static const int shapes[][2] = { { 3, 1 }, { 3, 5 }, { 4, 3 }, { 6, 34 }, { 6, 2 }, { 12, 2 } };
    for (int mode = 1; mode <= 3; mode++)
        for (size_t i = 0; i < (brief ? 1 : SWIN_COUNT(shapes)); i++)
            one_blocks(&rng, shapes[i][0], shapes[i][1], mode);
}

typedef struct float_layer {
    float *w, *bias;
    swin_linear l;
} float_layer;

static float_layer float_make(swin_rng *rng, int out, int in, swin_dtype type)
{
    float_layer f = { malloc((size_t)out * (size_t)in * sizeof(float)),
                      malloc((size_t)out * sizeof(float)),
                      { 0 } };
    CHECK(f.w && f.bias, "no memory");
    swin_fill_normal(rng, f.w, (size_t)out * (size_t)in, 1 / sqrt((double)in));
    swin_fill_normal(rng, f.bias, (size_t)out, 0.1);
    CHECK_OK(gpu->ops->linear_prepare(gpu, &f.l, f.w, f.bias, out, in, type));
    return f;
}

static void float_free(float_layer *f)
{
    gpu->ops->linear_release(gpu, &f->l);
    free(f->w), free(f->bias);
}

static void one_float(swin_rng *rng, attention_case k, swin_dtype type)
{
    char what[128];
    const int c = k.heads * 32;
    const swin_windows g = { .images = k.images,
                             .height = 2 * k.window,
                             .width = 2 * k.window,
                             .window = k.window,
                             .shift = k.shift };
    const int64_t rows = swin_windows_tokens(&g);
    snprintf(what, sizeof what, "V2's float halves, window %d, %d heads, shift %d, %d images, %s", k.window,
             k.heads, k.shift, k.images, swin_dtype_name(type));
    pair x = floats(rng, type, rows, c, c, 2), copy = copy_of(&x);
    float_layer qkv = float_make(rng, 3 * c, c, type), proj = float_make(rng, c, c, type),
                fc1 = float_make(rng, 4 * c, c, type), fc2 = float_make(rng, c, 4 * c, type);
    norm n1 = norm_make(rng, c), n2 = norm_make(rng, c);
    float *scale_d, *scale = vector(rng, k.heads, 20, 5, &scale_d);
    bias_mask b = tables(rng, k.heads, k.window * k.window, swin_windows_per_image(&g));
    const swin_attention at = { k.heads, 32, 1, b.bias_d, k.shift ? b.mask_d : NULL, SWIN_SOFTMAX_EXACT };
    CHECK_OK(gpu->ops->attention_half_v2(gpu, &x.d, &n1.n, &qkv.l, scale_d, &at, &proj.l, &g));
    CHECK_OK(gpu->ops->mlp_half_v2(gpu, &x.d, &n2.n, &fc1.l, &fc2.l));

    pair a = make(type, rows, c, c), wide = make(type, rows, 4 * c, 4 * c);
    swin_tensor qt = swin_matrix(wide.d.data, type, rows, 3 * c), q = swin_columns(&qt, 0, c),
                key = swin_columns(&qt, c, c), y = swin_matrix(wide.d.data, type, rows, c);
    CHECK_OK(gpu->ops->layernorm_windows(gpu, &a.d, &copy.d, NULL, &g));
    CHECK_OK(gpu->ops->linear(gpu, &qt, &a.d, &qkv.l, true, SWIN_ACT_NONE));
    CHECK_OK(gpu->ops->normalise_heads(gpu, &q, &q, k.heads, scale_d));
    CHECK_OK(gpu->ops->normalise_heads(gpu, &key, &key, k.heads, NULL));
    CHECK_OK(gpu->ops->attention(gpu, &a.d, &qt, &at, &g));
    CHECK_OK(gpu->ops->linear(gpu, &y, &a.d, &proj.l, true, SWIN_ACT_NONE));
    CHECK_OK(gpu->ops->layernorm(gpu, &a.d, &y, &n1.n));
    CHECK_OK(gpu->ops->residual_add(gpu, &copy.d, &a.d, &g));
    CHECK_OK(gpu->ops->linear(gpu, &wide.d, &copy.d, &fc1.l, true, SWIN_ACT_GELU));
    pair sum = make(type, rows, c, c);
    CHECK_OK(gpu->ops->linear(gpu, &sum.d, &wide.d, &fc2.l, true, SWIN_ACT_NONE));
    CHECK_OK(gpu->ops->layernorm(gpu, &a.d, &sum.d, &n2.n));
    CHECK_OK(gpu->ops->residual_add(gpu, &copy.d, &a.d, NULL));
    same_bits(&x, &copy, what);
    gpu->ops->free(gpu, scale_d), free(scale);
    norm_free(&n1), norm_free(&n2), tables_free(&b);
    float_free(&qkv), float_free(&proj), float_free(&fc1), float_free(&fc2);
    drop(&x), drop(&copy), drop(&a), drop(&wide), drop(&sum);
}

static void test_float_halves(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 62 };
    static const swin_dtype types[] = { SWIN_F16, SWIN_BF16, SWIN_F32 };
    for (size_t t = 0; t < SWIN_COUNT(types); t++) {
        one_float(&rng, (attention_case){ 8, 3, 4, brief ? 1 : 3, 0 }, types[t]);
        one_float(&rng, (attention_case){ 8, brief ? 4 : 12, 0, 1, 0 }, types[t]);
        if (brief) continue;
        one_float(&rng, (attention_case){ 16, 3, 8, 2, 0 }, types[t]);
        one_float(&rng, (attention_case){ 24, 2, 12, 1, 0 }, types[t]);
    }
}

/* An argument chooses tests by name, as cmocka's filter does: "test_float*". */
int main(int argc, char **argv)
{
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_integer_halves), cmocka_unit_test(test_blocks),
                                        cmocka_unit_test(test_float_halves) };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
