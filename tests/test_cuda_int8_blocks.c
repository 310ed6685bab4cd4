/* Half blocks, blocks and merges of the cuda backend's integer network against its operators one by one, bit
 * for bit, and blocks against ref. As test_cuda_int8 otherwise. */
#include "tests/support/gpu_pair.h"

/* ---- fused halves
 * ------------------------------------------------------------------------------------------------- */

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

static void same_floats(const pair *a, const pair *b, const char *what)
{
    float *x = (float *)get(a, what), *y = (float *)get(b, what);
    int64_t off = 0;
    for (int64_t i = 0; i < a->d.rows * a->d.cols; i++) off += memcmp(&x[i], &y[i], sizeof *x) != 0;
    CHECK(off == 0, "%s: %lld of %lld values differ from the operators one by one", what, (long long)off,
          (long long)(a->d.rows * a->d.cols));
    free(x), free(y);
}

/* mode 3: no rounding of products, a zero point at fc2; else modes 1 and 2 in one. */
static void one_mlp(swin_rng *rng, int64_t rows, int c, int mode)
{
    char what[96];
    snprintf(what, sizeof what, "mlp half of %lld rows, %d channels, mode %d", (long long)rows, c, mode);
    const int zero = mode == 3 ? -100 : 0;
    const float size1 = typical(c, 0.03f), after1 = mode == 3 ? 0 : size1 * 0.03f;
    pair x = floats(rng, SWIN_F16, rows, c, c, 2), copy = make(SWIN_F16, rows, c, c);
    memcpy(copy.host, x.host, (size_t)(rows * c) * sizeof(float));
    put(&copy);
    layer fc1 = layer_make(rng, 4 * c, c, 0, true, RANDOM),
          fc2 = layer_make(rng, c, 4 * c, zero, true, RANDOM);
    float *gamma_d, *beta_d, *gamma = vector(rng, c, 1, 0.2, &gamma_d),
                             *beta = vector(rng, c, 0, 0.2, &beta_d);
    const swin_norm n = { gamma_d, beta_d, 1e-5f };
    const swin_layer_s8 a = { &fc1.g, format(0.03f, 0), after1 },
                        b = { &fc2.g, format(size1 / 60, zero), mode == 1 ? size1 : 0 };
    CHECK_OK(gpu->ops->mlp_half_s8(gpu, &x.d, &n, &a, &b));

    pair normed = make(SWIN_S8, rows, c, c), hidden = make(SWIN_S8, rows, 4 * c, 4 * c);
    swin_tensor nt = coded(&normed, &a.input), ht = coded(&hidden, &b.input);
    CHECK_OK(gpu->ops->layernorm(gpu, &nt, &copy.d, &n));
    CHECK_OK(gpu->ops->linear_s8(gpu, &ht, 1, &nt, &fc1.g, a.after_scale, SWIN_ACT_GELU));
    CHECK_OK(gpu->ops->linear_s8_residual(gpu, &copy.d, &ht, &fc2.g, b.after_scale, NULL));
    same_floats(&x, &copy, what);
    gpu->ops->free(gpu, gamma_d), gpu->ops->free(gpu, beta_d);
    free(gamma), free(beta);
    layer_free(&fc1), layer_free(&fc2);
    drop(&x), drop(&copy), drop(&normed), drop(&hidden);
}

static void one_attention_half(swin_rng *rng, int window, int heads, int d, int shift, int images, int mode)
{
    char what[128];
    const int c = heads * d, n = window * window;
    const swin_windows g = {
        .images = brief ? 1 : images,
        .height = 2 * window,
        .width = 2 * window,
        .window = window,
        .shift = shift,
    };
    const int64_t rows = swin_windows_tokens(&g);
    snprintf(what, sizeof what, "attention half, window %d, %d heads of %d, shift %d, %d images, mode %d",
             window, heads, d, shift, images, mode);
    const float size = typical(c, 0.03f);
    pair x = floats(rng, SWIN_F16, rows, c, c, 2), copy = make(SWIN_F16, rows, c, c);
    memcpy(copy.host, x.host, (size_t)(rows * c) * sizeof(float));
    put(&copy);
    layer qkv = layer_make(rng, 3 * c, c, 0, true, RANDOM), proj = layer_make(rng, c, c, 0, true, RANDOM);
    float *gamma_d, *beta_d, *gamma = vector(rng, c, 1, 0.2, &gamma_d),
                             *beta = vector(rng, c, 0, 0.2, &beta_d);
    bias_mask b = tables(rng, heads, n, swin_windows_per_image(&g));
    const swin_norm norm = { gamma_d, beta_d, 1e-5f };
    const swin_attention at = {
        heads, d, 0.02f, b.bias_d, shift ? b.mask_d : NULL, mode == 3 ? SWIN_SOFTMAX_U8 : SWIN_SOFTMAX_EXACT
    };
    const swin_layer_s8 lq = { &qkv.g, format(0.03f, 0), mode == 3 ? 0 : size * 0.03f },
                        lp = { &proj.g, format(size / 50, 0), mode == 3 ? 0 : size };
    swin_tensor parts[3] = { format(size / 40, 0), format(size / 41, 0), format(size / 42, 0) };
    float *factor[3] = { 0 }, *factor_d[3] = { 0 };
    for (int i = 0; mode == 3 && i < 3; i++) { /* scales of heads */
        factor[i] = head_factors(rng, c, d, 0.5, &factor_d[i]);
        parts[i].shrink = factor_d[i];
    }
    CHECK_OK(gpu->ops->attention_half_s8(gpu, &x.d, &norm, &lq, parts, &at, 1.0f / 127, &lp, &g));

    pair normed = make(SWIN_S8, rows, c, c), wide = make(SWIN_S8, rows, 3 * c, 3 * c),
         mixed = make(SWIN_S8, rows, c, c);
    swin_tensor nt = coded(&normed, &lq.input), mt = coded(&mixed, &lp.input), qt[3];
    for (int i = 0; i < 3; i++) {
        const swin_tensor whole = coded(&wide, &parts[i]);
        qt[i] = swin_columns(&whole, i * c, c);
        qt[i].shrink = parts[i].shrink;
    }
    CHECK_OK(gpu->ops->layernorm_windows(gpu, &nt, &copy.d, &norm, &g));
    CHECK_OK(gpu->ops->linear_s8(gpu, qt, 3, &nt, &qkv.g, lq.after_scale, SWIN_ACT_NONE));
    CHECK_OK(gpu->ops->attention_s8(gpu, &mt, qt, &at, 1.0f / 127, &g));
    CHECK_OK(gpu->ops->linear_s8_residual(gpu, &copy.d, &mt, &proj.g, lp.after_scale, &g));
    same_floats(&x, &copy, what);
    gpu->ops->free(gpu, gamma_d), gpu->ops->free(gpu, beta_d);
    free(gamma), free(beta);
    for (int i = 0; i < 3; i++) free(factor[i]), gpu->ops->free(gpu, factor_d[i]);
    tables_free(&b);
    layer_free(&qkv), layer_free(&proj);
    drop(&x), drop(&copy), drop(&normed), drop(&wide), drop(&mixed);
}

static void one_merge(swin_rng *rng, int images, int side, int c, int mode)
{
    char what[96];
    const swin_windows g = { .images = images, .height = side, .width = side, .window = side };
    const int64_t rows = swin_windows_tokens(&g);
    snprintf(what, sizeof what, "merge of %d maps of %d, %d channels, mode %d", images, side, c, mode);
    pair x = floats(rng, SWIN_F16, rows, c, c, 2), normed = make(SWIN_S8, rows / 4, 4 * c, 4 * c),
         one = make(SWIN_F16, rows / 4, 2 * c, 2 * c), two = make(SWIN_F16, rows / 4, 2 * c, 2 * c);
    layer l = layer_make(rng, 2 * c, 4 * c, 0, false, RANDOM);
    float *gamma_d, *beta_d, *gamma = vector(rng, 4 * c, 1, 0.2, &gamma_d),
                             *beta = vector(rng, 4 * c, 0, 0.2, &beta_d);
    const swin_norm n = { gamma_d, beta_d, 1e-5f };
    const swin_layer_s8 r = { &l.g, format(0.03f, 0), mode == 1 ? typical(4 * c, 0.03f) * 0.03f : 0 };
    swin_tensor nt = coded(&normed, &r.input);
    CHECK_OK(gpu->ops->merge_s8(gpu, &one.d, &x.d, &n, &r, &g));
    CHECK_OK(gpu->ops->layernorm_merge(gpu, &nt, &x.d, &n, &g));
    CHECK_OK(gpu->ops->linear_s8(gpu, &two.d, 1, &nt, &l.g, r.after_scale, SWIN_ACT_NONE));
    same_floats(&one, &two, what);
    gpu->ops->free(gpu, gamma_d), gpu->ops->free(gpu, beta_d);
    free(gamma), free(beta);
    layer_free(&l);
    drop(&x), drop(&normed), drop(&one), drop(&two);
}

static void test_halves(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 36 };
    static const int channels[] = { 48, 96, 128, 192, 256, 384, 512, 768 };
    static const int64_t rows[] = { 1, 49, 200, 5000 };
    for (int mode = 1; mode <= 3; mode++) {
        for (size_t i = 0; i < (brief ? 4 : SWIN_COUNT(channels)); i++)
            one_mlp(&rng, rows[(i + (size_t)mode) % (brief ? 3 : SWIN_COUNT(rows))], channels[i], mode);
        one_attention_half(&rng, 7, 3, 32, 0, 1, mode);
        one_attention_half(&rng, 7, 3, 32, 3, 9, mode);
        one_attention_half(&rng, 7, 4, 32, 3, 3, mode);
        one_attention_half(&rng, 7, 6, 32, 3, 2, mode);
        one_attention_half(&rng, 7, 12, 32, 3, 2, mode);
        one_attention_half(&rng, 7, 24, 32, 0, 2, mode);
        one_attention_half(&rng, 8, 4, 24, 4, 2, mode);
        one_attention_half(&rng, 12, 4, 32, 6, 2, mode);
        for (int c = 48; c <= (brief ? 96 : 768); c *= 2) one_merge(&rng, 3, 14, c, mode);
        one_merge(&rng, 2, 14, 128, mode);
    }
}

/* ---- blocks
 * ------------------------------------------------------------------------------------------------------ */

/* A block on both backends: scales as they come about, products rounded to a thirtieth of their size. */
typedef struct block {
    layer qkv, proj, fc1, fc2;
    /* gamma and beta twice, factors of GELU's output, of the heads of q, k and v */
    float *vectors[8], *vectors_d[8];
    bias_mask tables;
    swin_block_s8 r, g;
} block;

static swin_layer_s8 layer_of(const swin_linear *l, float scale, int zero, float after)
{
    return (swin_layer_s8){ l, format(scale, zero), after };
}

static void put_block(swin_block_s8 *b, const block *k, int heads, int shift, int mode, bool device)
{
    const int c = k->qkv.r.in, zero = mode == 3 ? -100 : 0;
    const float q = typical(c, 0.03f), p = typical(c, q / 60), f = typical(c, 0.03f),
                o = typical(4 * c, f / 60);
    float *const *v = device ? k->vectors_d : k->vectors;
    *b = (swin_block_s8){
        .norm1 = { v[0], v[1], 1e-5f },
        .norm2 = { v[2], v[3], 1e-5f },
        .qkv = layer_of(device ? &k->qkv.g : &k->qkv.r, 0.03f, 0, mode == 3 ? 0 : q / 30),
        .proj = layer_of(device ? &k->proj.g : &k->proj.r, q / 60, 0, mode == 3 ? 0 : p / 30),
        .fc1 = layer_of(device ? &k->fc1.g : &k->fc1.r, 0.03f, 0, mode == 3 ? 0 : f / 30),
        .fc2 = layer_of(device ? &k->fc2.g : &k->fc2.r, f / 60, zero, mode == 1 ? o / 30 : 0),
        .parts = { format(q / 30, 0), format(q / 31, 0), format(q / 32, 0) },
        .attention = { .heads = heads,
                       .head_size = c / heads,
                       .scale = 1 / (q * q * sqrtf((float)(c / heads))),
                       .bias = device ? k->tables.bias_d : k->tables.bias,
                       .mask = !shift   ? NULL
                               : device ? k->tables.mask_d
                                        : k->tables.mask,
                       .softmax = mode == 3 ? SWIN_SOFTMAX_U8 : SWIN_SOFTMAX_EXACT },
        .prob_scale = 1.0f / 127,
        .shift = shift
    };
    if (mode == 3) b->fc2.input.shrink = v[4];
    for (int i = 0; mode == 3 && i < 3; i++) b->parts[i].shrink = v[5 + i];
}

/* In place: its layers are pointed to. */
static void block_make(block *b, swin_rng *rng, int c, int heads, const swin_windows *g, int shift, int mode)
{
    *b = (block){ .qkv = layer_make(rng, 3 * c, c, 0, true, RANDOM),
                  .proj = layer_make(rng, c, c, 0, true, RANDOM),
                  .fc1 = layer_make(rng, 4 * c, c, 0, true, RANDOM),
                  .fc2 = layer_make(rng, c, 4 * c, mode == 3 ? -100 : 0, true, RANDOM),
                  .tables = tables(rng, heads, g->window * g->window, swin_windows_per_image(g)) };
    for (int i = 0; i < 5; i++)
        b->vectors[i] = vector(rng, i == 4 ? 4 * c : c, i % 2 ? 0 : 1, 0.2, &b->vectors_d[i]);
    for (int i = 5; mode == 3 && i < 8; i++)
        b->vectors[i] = head_factors(rng, c, c / heads, 0.5, &b->vectors_d[i]);
    put_block(&b->r, b, heads, shift, mode, false);
    put_block(&b->g, b, heads, shift, mode, true);
}

static void block_free(block *b)
{
    layer_free(&b->qkv), layer_free(&b->proj), layer_free(&b->fc1), layer_free(&b->fc2);
    for (int i = 0; i < 8; i++) gpu->ops->free(gpu, b->vectors_d[i]), free(b->vectors[i]);
    tables_free(&b->tables);
}

static swin_tensor host_codes(const swin_tensor *how, int64_t rows, int64_t cols)
{
    swin_tensor t = *how;
    t.data = malloc((size_t)(rows * cols));
    CHECK(t.data != NULL, "no memory");
    t.rows = rows, t.cols = t.ld = cols;
    return t;
}

/* A block by ref's operators, x in float32. */
static void block_on_ref(swin_tensor *x, const swin_block_s8 *b, swin_windows g)
{
    const int64_t rows = x->rows, c = x->cols;
    swin_tensor normed = host_codes(&b->qkv.input, rows, c), mixed = host_codes(&b->proj.input, rows, c),
                hidden = host_codes(&b->fc2.input, rows, 4 * c), parts[3];
    for (int i = 0; i < 3; i++) parts[i] = host_codes(&b->parts[i], rows, c);
    g.shift = b->shift;
    CHECK_OK(ref->ops->layernorm_windows(ref, &normed, x, &b->norm1, &g));
    CHECK_OK(ref->ops->linear_s8(ref, parts, 3, &normed, b->qkv.l, b->qkv.after_scale, SWIN_ACT_NONE));
    CHECK_OK(ref->ops->attention_s8(ref, &mixed, parts, &b->attention, b->prob_scale, &g));
    CHECK_OK(ref->ops->linear_s8_residual(ref, x, &mixed, b->proj.l, b->proj.after_scale, &g));
    CHECK_OK(ref->ops->layernorm(ref, &normed, x, &b->norm2));
    CHECK_OK(ref->ops->linear_s8(ref, &hidden, 1, &normed, b->fc1.l, b->fc1.after_scale, SWIN_ACT_GELU));
    CHECK_OK(ref->ops->linear_s8_residual(ref, x, &hidden, b->fc2.l, b->fc2.after_scale, NULL));
    for (int i = 0; i < 3; i++) free(parts[i].data);
    free(normed.data), free(mixed.data), free(hidden.data);
}

static pair copy_of(const pair *x, int64_t rows)
{
    pair y = make(SWIN_F16, rows, x->d.cols, x->d.cols);
    memcpy(y.host, x->host, (size_t)(rows * x->d.cols) * sizeof(float));
    put(&y);
    return y;
}

static void same_rows(const pair *x, const pair *y, const char *what)
{
    float *a = (float *)get(x, what), *b = (float *)get(y, what);
    int64_t off = 0, rows = x->d.rows < y->d.rows ? x->d.rows : y->d.rows;
    for (int64_t i = 0; i < rows * x->d.cols; i++) off += memcmp(&a[i], &b[i], sizeof *a) != 0;
    CHECK(off == 0, "%s: %lld of %lld values differ", what, (long long)off, (long long)(rows * x->d.cols));
    free(a), free(b);
}

/* What ref makes of a block, and how far that moves when x moves by float32's last bit: a rounding that
 * falls the other way costs a step, in a random block far more often than in a trained one. */
static double ref_of_block(float *want, swin_rng *rng, const pair *x, const swin_block_s8 *b,
                           const swin_windows *g)
{
    const size_t n = (size_t)(swin_windows_tokens(g) * x->h.cols);
    float *other = malloc(n * sizeof *other);
    CHECK(other != NULL, "no memory");
    memcpy(want, x->host, n * sizeof *want);
    for (size_t i = 0; i < n; i++) other[i] = want[i] * (float)(1 + 1e-7 * swin_rng_normal(rng));
    swin_tensor a = x->h, c = x->h;
    a.rows = c.rows = swin_windows_tokens(g), a.data = want, c.data = other;
    block_on_ref(&a, b, *g);
    block_on_ref(&c, b, *g);
    const double db = swin_sqnr_db(other, want, n);
    free(other);
    return db;
}

/* Two blocks at once are two single ones, and an image alone gets the same bits, whichever kernels its few rows
 * make the faster ones. The first block is what ref makes of it, as nearly as that can be said: returned is how many
 * dB are missing to 50, or to 6 under what ref itself shows. */
static double one_run(swin_rng *rng, int c, int heads, int images, int mode)
{
    char what[96];
    const swin_windows all = { .images = images, .height = 14, .width = 14, .window = 7 },
                       one = { 1, 14, 14, 7, 0 };
    const int64_t rows = swin_windows_tokens(&all), image = swin_windows_tokens(&one);
    block b[2];
    for (int i = 0; i < 2; i++) block_make(&b[i], rng, c, heads, &all, 3 * i, mode);
    const swin_block_s8 both[2] = { b[0].g, b[1].g };
    snprintf(what, sizeof what, "blocks of %d channels, %d images, mode %d", c, images, mode);
    pair x = floats(rng, SWIN_F16, rows, c, c, typical(c, typical(c, 0.03f) / 60)),
         singly = copy_of(&x, rows), alone = copy_of(&x, image), first = copy_of(&x, image);
    float *want = malloc((size_t)(image * c) * sizeof *want);
    CHECK(want != NULL, "no memory");
    const double floor = ref_of_block(want, rng, &x, &b[0].r, &one);
    CHECK(floor > 20, "%s: ref is %.1f dB from itself", what, floor);
    CHECK_OK(gpu->ops->blocks_s8(gpu, &first.d, both, 1, &one));
    float *got = (float *)get(&first, what);
    const double db = swin_sqnr_db(got, want, (size_t)(image * c)),
                 missing = fmax(0, fmin(50, floor - 6) - db);
    print_message("  %s: %.1f dB from ref, ref from itself %.1f\n", what, db, floor);
    free(got), free(want);
    CHECK_OK(gpu->ops->blocks_s8(gpu, &x.d, both, 2, &all));
    for (int i = 0; i < 2; i++) CHECK_OK(gpu->ops->blocks_s8(gpu, &singly.d, &both[i], 1, &all));
    same_rows(&x, &singly, what);
    CHECK_OK(gpu->ops->blocks_s8(gpu, &alone.d, both, 2, &one));
    same_rows(&x, &alone, what);
    drop(&x), drop(&singly), drop(&alone), drop(&first);
    block_free(&b[0]), block_free(&b[1]);
    return missing;
}

/* An image alone, whose few windows go through one kernel for each block, and among so many that operators are
 * launched one by one: the same bits. */
static void one_crowd(swin_rng *rng, int c, int heads, int images, int side, int mode)
{
    char what[96];
    const swin_windows all = { .images = images, .height = side, .width = side, .window = 7 },
                       one = { 1, side, side, 7, 0 };
    const int64_t rows = swin_windows_tokens(&all), image = swin_windows_tokens(&one);
    snprintf(what, sizeof what, "blocks of %d channels, maps of %d, 1 and %d images, mode %d", c, side,
             images, mode);
    block b[2];
    for (int i = 0; i < 2; i++) block_make(&b[i], rng, c, heads, &all, 3 * i, mode);
    const swin_block_s8 both[2] = { b[0].g, b[1].g };
    pair x = floats(rng, SWIN_F16, rows, c, c, typical(c, typical(c, 0.03f) / 60)),
         alone = copy_of(&x, image);
    CHECK_OK(gpu->ops->blocks_s8(gpu, &x.d, both, 2, &all));
    CHECK_OK(gpu->ops->blocks_s8(gpu, &alone.d, both, 2, &one));
    same_rows(&x, &alone, what);
    drop(&x), drop(&alone);
    block_free(&b[0]), block_free(&b[1]);
}

static void test_few(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 40 };
    static const int shapes[][4] = {
        { 96, 3, 3, 56 },  { 96, 3, 35, 14 },  { 128, 4, 2, 56 }, { 192, 6, 5, 14 }, { 192, 6, 2, 28 },
        { 256, 8, 5, 14 }, { 384, 12, 2, 14 }, { 384, 12, 8, 7 }, { 768, 24, 3, 7 }
    }; /* channels, heads, images, map */
    for (int mode = 1; mode <= 3; mode++)
        for (size_t i = 0; i < SWIN_COUNT(shapes); i++)
            if (!brief || (shapes[i][3] == 14 && shapes[i][0] >= 192))
                one_crowd(&rng, shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3], mode);
}

static void test_blocks(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 39 };
    static const int shapes[][3] = {
        { 96, 3, 3 },    { 128, 4, 2 },   { 192, 6, 45 }, { 256, 8, 2 },
        { 384, 12, 13 }, { 512, 16, 12 }, { 768, 24, 12 }
    }; /* channels, heads, images */
    double missing = 0;
    for (int mode = 1; mode <= 3; mode++)
        for (size_t i = brief ? 4 : 0; i < (brief ? 5 : SWIN_COUNT(shapes)); i++)
            missing =
                fmax(missing, one_run(&rng, shapes[i][0], shapes[i][1], brief ? 2 : shapes[i][2], mode));
    CHECK(missing == 0, "%.1f dB are missing", missing);
}

/* An argument chooses tests by name, as cmocka's filter does: "test_atten*". */
int main(int argc, char **argv)
{
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_halves),
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_few),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
