/* Linear layers and attention that show observers what passes through them: the bits of the plain operators, and what
 * `observe` sees of each whole tensor, on every instruction set, for any shape and thread count. */
#include "tests/support/testing.h"

#include <math.h>

#include "tests/support/ops.h"

static swin_observed *read_and_free(const backend *b, swin_dev *dev, swin_observer *o)
{
    swin_observed *seen = malloc(sizeof *seen);
    CHECK(seen != NULL, "no memory");
    CHECK_OK(b->ops->observer_read(dev, o, seen));
    b->ops->observer_free(dev, o);
    return seen;
}

/* `o` has seen exactly the values of x's columns [col, col + cols), `times` over. */
static void check_saw(const backend *b, swin_dev *dev, swin_observer *o, const mat *x, int64_t col,
                      int64_t cols, int times, const char *what)
{
    swin_observer *direct;
    const swin_tensor all = mat_view(x), part = swin_columns(&all, col, cols);
    CHECK_OK(b->ops->observer_create(dev, &direct));
    for (int i = 0; i < times; i++) CHECK_OK(b->ops->observe(dev, direct, &part));
    swin_observed *want = read_and_free(b, dev, direct), *got = read_and_free(b, dev, o);
    CHECK(got->count == want->count && got->nonfinite == want->nonfinite, "%s %s: %llu values, not %llu",
          b->label, what, (unsigned long long)got->count, (unsigned long long)want->count);
    CHECK(got->min == want->min && got->max == want->max && got->bin_width == want->bin_width,
          "%s %s: [%a, %a] in bins of %a, not [%a, %a] in %a", b->label, what, (double)got->min,
          (double)got->max, (double)got->bin_width, (double)want->min, (double)want->max,
          (double)want->bin_width);
    for (int i = 0; i < SWIN_HIST_BINS; i++)
        CHECK(got->hist[i] == want->hist[i], "%s %s: bin %d holds %llu, not %llu", b->label, what,
              i - SWIN_HIST_HALF, (unsigned long long)got->hist[i], (unsigned long long)want->hist[i]);
    free(got), free(want);
}

/* ---- Linear layers ------------------------------------------------------------------------------------------------- */

typedef enum content { NORMAL, ODD, SAME } content; /* ODD: outliers, NaN and infinities; SAME: one value */

typedef struct shape {
    int rows, in, out, parts;
    bool bias, gelu, residual;
    swin_windows g; /* window 0: the same row order */
    content content;
} shape;

static const shape shapes[] = {
    { 392, 96, 288, 3, true, false, false, { 0 }, NORMAL },             /* qkv of stage 0 */
    { 392, 96, 384, 0, true, true, false, { 0 }, NORMAL },              /* fc1 */
    { 392, 384, 96, 1, true, false, true, { 0 }, NORMAL },              /* fc2 */
    { 392, 96, 96, 1, true, false, true, { 2, 14, 14, 7, 3 }, NORMAL }, /* proj, shifted */
    { 98, 384, 192, 0, false, false, false, { 0 }, NORMAL },            /* reduction: no bias */
    { 33, 20, 60, 3, true, false, false, { 0 }, ODD },                  /* parts end inside of panels */
    { 1, 1, 1, 1, true, false, false, { 0 }, NORMAL },
    { 5, 7, 33, 1, true, true, false, { 0 }, ODD },
    { 700, 40, 72, 2, false, false, false, { 0 }, ODD },
    { 36, 31, 45, 1, true, false, true, { 1, 6, 6, 3, 1 }, ODD },
    { 3000, 8, 64, 1, true, false, false, { 0 }, SAME },  /* more than 65535 of one value */
    { 3, 5000, 8, 1, false, false, true, { 0 }, NORMAL }, /* one panel takes the whole input */
};

typedef struct layer {
    const shape *s;
    mat x, stream; /* stream: what is added to */
    float *w, *bias;
} layer;

static layer layer_make(const shape *s, unsigned seed)
{
    swin_rng rng = { seed };
    layer l = { .s = s,
                .x = mat_make(s->rows, s->in, s->in + 3),
                .stream = mat_make(s->rows, s->out, s->out) };
    mat_fill(&l.x, &rng, false, 1);
    mat_fill(&l.stream, &rng, false, 2);
    l.w = numbers_make(&rng, (size_t)s->in * (size_t)s->out, false, 1 / sqrt(s->in));
    l.bias = s->bias ? numbers_make(&rng, (size_t)s->out, false, 1) : NULL;
    for (int64_t r = 0; s->content == ODD && r < s->rows; r += 3) {
        static const float odd[] = { 1e3f, NAN, 1e-30f, -INFINITY, -4096, 1e30f, 0 };
        mat_row(&l.x, r)[r % s->in] = odd[(size_t)(r / 3) % SWIN_COUNT(odd)];
        mat_row(&l.stream, r)[r % s->out] = odd[(size_t)(r / 3 + 1) % SWIN_COUNT(odd)];
    }
    for (int64_t r = 0; s->content == SAME && r < s->rows; r++)
        for (int64_t c = 0; c < s->in; c++) mat_row(&l.x, r)[c] = 1;
    return l;
}

static void layer_free(layer *l)
{
    mat_free(&l->x), mat_free(&l->stream);
    free(l->w), free(l->bias);
}

static mat copy_of(const mat *m)
{
    mat copy = mat_make(m->rows, m->cols, m->cols);
    for (int64_t r = 0; r < m->rows; r++)
        memcpy(mat_row(&copy, r), mat_row(m, r), (size_t)m->cols * sizeof(float));
    return copy;
}

/* product, biased and out as plain operators make them. */
static void compose(const backend *b, swin_dev *dev, const layer *l, const swin_linear *w, mat *product,
                    mat *biased, mat *out)
{
    const swin_windows *g = l->s->g.window ? &l->s->g : NULL;
    swin_tensor x = mat_view(&l->x), y = mat_view(product);
    CHECK_OK(b->ops->linear(dev, &y, &x, w, false, SWIN_ACT_NONE));
    *biased = copy_of(product);
    y = mat_view(biased);
    CHECK_OK(b->ops->bias_act(dev, &y, w->bias, SWIN_ACT_NONE));
    *out = copy_of(l->s->residual ? &l->stream : biased);
    swin_tensor o = mat_view(out);
    if (l->s->residual) CHECK_OK(b->ops->residual_add(dev, &o, &y, g));
    if (l->s->gelu) CHECK_OK(b->ops->bias_act(dev, &o, NULL, SWIN_ACT_GELU));
}

/* Twice, so that the second pass meets widths that have grown. */
static void run_seen(const backend *b, swin_dev *dev, const layer *l, const swin_linear *w, mat *out,
                     const swin_linear_seen *seen)
{
    swin_tensor x = mat_view(&l->x);
    for (int pass = 0; pass < 2; pass++) {
        mat_free(out);
        *out = copy_of(&l->stream);
        swin_tensor y = mat_view(out);
        if (l->s->residual)
            CHECK_OK(b->ops->linear_residual_seen(dev, &y, &x, w, l->s->g.window ? &l->s->g : NULL, seen));
        else
            CHECK_OK(b->ops->linear_seen(dev, &y, &x, w, l->s->gelu ? SWIN_ACT_GELU : SWIN_ACT_NONE, seen));
        CHECK(mat_intact(out), "%s wrote outside of its output", b->label);
    }
}

static void check_layer(const backend *b, swin_dev *dev, const layer *l)
{
    const shape *s = l->s;
    swin_linear w;
    mat product = mat_make(s->rows, s->out, s->out), biased, want, got = copy_of(&l->stream);
    CHECK_OK(b->ops->linear_prepare(dev, &w, l->w, l->bias, s->out, s->in, SWIN_F32));
    compose(b, dev, l, &w, &product, &biased, &want);
    swin_linear_seen seen = { .parts = s->parts };
    CHECK_OK(b->ops->observer_create(dev, &seen.input));
    CHECK_OK(b->ops->observer_create(dev, &seen.product));
    for (int i = 0; i < s->parts; i++) CHECK_OK(b->ops->observer_create(dev, &seen.biased[i]));
    if (s->residual) CHECK_OK(b->ops->observer_create(dev, &seen.residual));
    run_seen(b, dev, l, &w, &got, &seen);
    CHECK(mat_same(&got, &want), "%s: other bits, %d x %d, %d inputs", b->label, s->rows, s->out, s->in);
    check_saw(b, dev, seen.input, &l->x, 0, s->in, 2, "input");
    check_saw(b, dev, seen.product, &product, 0, s->out, 2, "product");
    for (int i = 0; i < s->parts; i++)
        check_saw(b, dev, seen.biased[i], &biased, i * (s->out / s->parts), s->out / s->parts, 2, "part");
    if (s->residual) check_saw(b, dev, seen.residual, &l->stream, 0, s->out, 2, "residual");
    mat_free(&product), mat_free(&biased), mat_free(&want), mat_free(&got);
    b->ops->linear_release(dev, &w);
}

static void test_layers(void **state)
{
    (void)state;
    for (size_t k = 0; k < SWIN_COUNT(shapes); k++) {
        layer l = layer_make(&shapes[k], 300 + (unsigned)k);
        for (int i = 0; i < backend_count; i++) {
            const backend *b = &backends_under_test[i];
            if (!b->ops->linear_seen) continue;
            check_layer(b, b->dev, &l);
            check_layer(b, b->single, &l);
        }
        layer_free(&l);
    }
}

/* Any observer may be missing; columns that parts do not divide are refused, and nothing has been counted then. */
static void test_some(void **state)
{
    (void)state;
    layer l = layer_make(&shapes[0], 320);
    for (int i = 0; i < backend_count; i++) {
        const backend *b = &backends_under_test[i];
        if (!b->ops->linear_seen) continue;
        swin_linear w;
        mat product = mat_make(l.s->rows, l.s->out, l.s->out), biased, want, got = copy_of(&l.stream);
        CHECK_OK(b->ops->linear_prepare(b->dev, &w, l.w, l.bias, l.s->out, l.s->in, SWIN_F32));
        compose(b, b->dev, &l, &w, &product, &biased, &want);
        swin_linear_seen seen = { .parts = 3 };
        CHECK_OK(b->ops->observer_create(b->dev, &seen.biased[1]));
        swin_tensor x = mat_view(&l.x), y = mat_view(&got);
        swin_linear_seen wrong = seen;
        wrong.parts = 5;
        CHECK_FAILS(b->ops->linear_seen(b->dev, &y, &x, &w, SWIN_ACT_NONE, &wrong), SWIN_ERR_VALUE, "5");
        run_seen(b, b->dev, &l, &w, &got, &seen);
        CHECK(mat_same(&got, &want), "%s: other bits", b->label);
        check_saw(b, b->dev, seen.biased[1], &biased, 96, 96, 2, "k alone");
        mat_free(&product), mat_free(&biased), mat_free(&want), mat_free(&got);
        b->ops->linear_release(b->dev, &w);
    }
    layer_free(&l);
}

/* ---- attention ----------------------------------------------------------------------------------------------------- */

static void check_attention(const backend *b, swin_dev *dev, const swin_attention *a, const swin_windows *g,
                            const mat *qkv)
{
    const int64_t n = (int64_t)g->window * g->window, channels = (int64_t)a->heads * a->head_size;
    mat raw = mat_make(qkv->rows * a->heads, n, n), want = mat_make(qkv->rows, channels, channels),
        got = mat_make(qkv->rows, channels, channels);
    swin_tensor x = mat_view(qkv), s = mat_view(&raw), o = mat_view(&want);
    CHECK_OK(b->ops->scores(dev, &s, &x, a, g));
    mat prob = copy_of(&raw);
    s = mat_view(&prob);
    CHECK_OK(b->ops->softmax(dev, &s, a, g));
    CHECK_OK(b->ops->weighted_sum(dev, &o, &s, &x, a, g));
    swin_observer *scores, *probabilities;
    CHECK_OK(b->ops->observer_create(dev, &scores));
    CHECK_OK(b->ops->observer_create(dev, &probabilities));
    o = mat_view(&got);
    CHECK_OK(b->ops->attention_seen(dev, &o, &x, a, g, scores, probabilities));
    CHECK(mat_intact(&got) && mat_same(&got, &want), "%s: attention has other bits, window %d", b->label,
          g->window);
    check_saw(b, dev, scores, &raw, 0, n, 1, "scores");
    check_saw(b, dev, probabilities, &prob, 0, n, 1, "probabilities");
    CHECK_OK(b->ops->observer_create(dev, &probabilities));
    CHECK_OK(b->ops->attention_seen(dev, &o, &x, a, g, NULL, probabilities));
    check_saw(b, dev, probabilities, &prob, 0, n, 1, "probabilities alone");
    mat_free(&raw), mat_free(&prob), mat_free(&want), mat_free(&got);
}

static void test_attention(void **state)
{
    (void)state;
    static const struct {
        swin_windows g;
        int heads, head_size;
    } cases[] = { { { 2, 14, 14, 7, 3 }, 3, 32 },
                  { { 1, 24, 12, 12, 6 }, 2, 32 },
                  { { 3, 4, 6, 2, 1 }, 2, 5 } };
    for (size_t k = 0; k < SWIN_COUNT(cases); k++) {
        const swin_windows *g = &cases[k].g;
        const swin_attention a = { .heads = cases[k].heads,
                                   .head_size = cases[k].head_size,
                                   .scale = 1 / sqrtf((float)cases[k].head_size) };
        swin_rng rng = { 340 + (unsigned)k };
        const int64_t cols = 3 * (int64_t)a.heads * a.head_size;
        mat qkv = mat_make(swin_windows_tokens(g), cols, cols + 5);
        mat_fill(&qkv, &rng, false, 1.5);
        for (int i = 0; i < backend_count; i++) {
            const backend *b = &backends_under_test[i];
            if (!b->ops->attention_seen) continue;
            check_attention(b, b->dev, &a, g, &qkv);
            check_attention(b, b->single, &a, g, &qkv);
        }
        mat_free(&qkv);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layers),
        cmocka_unit_test(test_some),
        cmocka_unit_test(test_attention),
    };
    return cmocka_run_group_tests(tests, open_backends_under_test, close_backends_under_test);
}
