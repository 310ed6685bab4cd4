/* Codes of q, k and v with a scale for each head, on ref and on cpu with every instruction set: attention is what it is of
 * each head alone with that scale, bit for bit, and cpu is held against ref as in test_int8_ops. */
#include "tests/support/testing.h"

#include <math.h>

#include "tests/support/ops.h"

typedef struct shape {
    int images, side, window, shift, heads, head_size;
} shape;

static const shape shapes[] = {
    { 1, 14, 7, 3, 3, 32 }, { 2, 7, 7, 0, 6, 32 }, { 1, 12, 12, 6, 4, 32 },
    { 1, 16, 8, 4, 4, 24 }, { 2, 9, 3, 1, 5, 33 }, { 1, 4, 2, 1, 2, 5 },
};

/* One number for the columns of a head, from `least` to thirty times that. */
static float *head_factors(swin_rng *rng, int heads, int d, double least)
{
    float *v = malloc((size_t)(heads * d) * sizeof *v);
    CHECK(v != NULL, "no memory");
    for (int c = 0; c < heads * d; c++)
        v[c] = c % d ? v[c - 1] : (float)(least * pow(30, swin_rng_uniform(rng)));
    return v;
}

/* ---- attention ------------------------------------------------------------------------------------------------------- */

typedef struct problem {
    swin_windows g;
    swin_attention a;
    code_mat qkv[3];
    float *bias, *mask, *factor[3];
} problem;

static problem problem_make(const shape *s, swin_softmax softmax, unsigned seed)
{
    swin_rng rng = { seed };
    problem p = { .g = { s->images, s->side, s->side, s->window, s->shift } };
    const int64_t rows = swin_windows_tokens(&p.g), channels = (int64_t)s->heads * s->head_size,
                  n = (int64_t)s->window * s->window;
    for (int i = 0; i < 3; i++) {
        p.qkv[i] = code_mat_make(rows, channels, channels + 3 * i + 1);
        code_mat_fill(&p.qkv[i], &rng, -127, 127);
        p.qkv[i].t.scale = 0.012f + 0.003f * (float)i;
        p.qkv[i].t.shrink = p.factor[i] = head_factors(&rng, s->heads, s->head_size, 1);
    }
    const size_t matrix = (size_t)(n * n), windows = (size_t)swin_windows_per_image(&p.g);
    p.bias = numbers_make(&rng, (size_t)s->heads * matrix, false, 1);
    p.mask = numbers_make(&rng, windows * matrix, false, 1);
    p.a = (swin_attention){
        s->heads, s->head_size, 1 / sqrtf((float)s->head_size), p.bias, s->shift ? p.mask : NULL, softmax
    };
    return p;
}

static void problem_free(problem *p)
{
    for (int i = 0; i < 3; i++) code_mat_free(&p->qkv[i]), free(p->factor[i]);
    free(p->bias), free(p->mask);
}

static void attend(const backend *b, swin_dev *dev, const problem *p, code_mat *codes, mat *floats)
{
    const int64_t rows = p->qkv[0].t.rows, cols = p->qkv[0].t.cols;
    const swin_tensor qkv[3] = { p->qkv[0].t, p->qkv[1].t, p->qkv[2].t };
    *codes = code_mat_make(rows, cols, cols + 2);
    *floats = mat_make(rows, cols, cols + 1);
    codes->t.scale = 0.0203f; /* coarser than v: one code of the softmax at a tie moves one step at most */
    swin_tensor f = mat_view(floats);
    CHECK_OK(b->ops->attention_s8(dev, &codes->t, qkv, &p->a, 0.0061f, &p->g));
    CHECK_OK(b->ops->attention_s8(dev, &f, qkv, &p->a, 0.0061f, &p->g));
    CHECK(code_mat_intact(codes) && mat_intact(floats), "%s attention_s8 wrote outside", b->label);
}

/* Each head as a network of one head, whose tensors have its scale. */
static void check_heads_alone(const backend *b, const problem *p, const mat *all)
{
    const int d = p->a.head_size;
    const int64_t n = (int64_t)p->g.window * p->g.window;
    for (int h = 0; h < p->a.heads; h++) {
        swin_attention a = p->a;
        swin_tensor qkv[3];
        a.heads = 1, a.bias += h * n * n;
        for (int i = 0; i < 3; i++) {
            qkv[i] = swin_columns(&p->qkv[i].t, (int64_t)h * d, d);
            qkv[i].scale /= *qkv[i].shrink;
            qkv[i].shrink = NULL;
        }
        mat one = mat_make(all->rows, d, d + 3);
        swin_tensor f = mat_view(&one);
        CHECK_OK(b->ops->attention_s8(b->dev, &f, qkv, &a, 0.0061f, &p->g));
        for (int64_t r = 0; r < all->rows; r++)
            CHECK(memcmp(mat_row(&one, r), mat_row(all, r) + h * d, (size_t)d * sizeof(float)) == 0,
                  "%s: head %d, row %lld is not what it is alone", b->label, h, (long long)r);
        mat_free(&one);
    }
}

static void test_attention(void **state)
{
    (void)state;
    code_difference d = { 0 };
    double worst = 0;
    for (size_t k = 0; k < 2 * SWIN_COUNT(shapes); k++) {
        problem p =
            problem_make(&shapes[k / 2], k % 2 ? SWIN_SOFTMAX_U8 : SWIN_SOFTMAX_EXACT, 100 + (unsigned)k);
        code_mat want, got;
        mat want_f, got_f;
        attend(&backends_under_test[0], backends_under_test[0].dev, &p, &want, &want_f);
        check_heads_alone(&backends_under_test[0], &p, &want_f);
        for (int i = 1; i < backend_count; i++) {
            const backend *b = &backends_under_test[i];
            attend(b, i % 2 ? b->dev : b->single, &p, &got, &got_f);
            check_heads_alone(b, &p, &got_f);
            const double e = mat_rel_l2(&got_f, &want_f);
            worst = fmax(worst, e);
            CHECK(e < 2e-3, "%s, shape %zu: %.2e", b->label, k / 2, e);
            code_mat_compare(&d, &got, &want);
            code_mat_free(&got), mat_free(&got_f);
        }
        code_mat_free(&want), mat_free(&want_f);
        problem_free(&p);
    }
    print_message("attention: %lld of %lld codes differ, by %d at most; float32 %.2e at worst\n",
                  (long long)d.different, (long long)d.count, d.most, worst);
    CHECK(d.most <= 1 && (double)d.different < 1e-3 * (double)d.count, "%lld of %lld codes differ, by %d",
          (long long)d.different, (long long)d.count, d.most);
}

/* ---- what makes the codes ---------------------------------------------------------------------------------------------- */

/* Three parts of a product's columns, each with factors. */
static void make_parts(const backend *b, code_mat y[3], const code_mat *x, const int8_t *w,
                       const float *scale, const float *bias, float *const factor[3], float after)
{
    const int c = (int)y[0].t.cols;
    swin_linear l;
    swin_tensor t[3];
    CHECK_OK(b->ops->linear_s8_prepare(b->dev, &l, w, scale, bias, 3 * c, (int)x->t.cols, 0));
    for (int i = 0; i < 3; i++) y[i].t.scale = 0.35f, y[i].t.shrink = factor[i], t[i] = y[i].t;
    CHECK_OK(b->ops->linear_s8(b->dev, t, 3, &x->t, &l, after, SWIN_ACT_NONE));
    b->ops->linear_release(b->dev, &l);
    for (int i = 0; i < 3; i++) CHECK(code_mat_intact(&y[i]), "%s linear_s8 wrote outside", b->label);
}

static void test_parts(void **state)
{
    (void)state;
    enum { HEADS = 3, D = 33, C = HEADS * D, ROWS = 61, K = 50 };
    swin_rng rng = { 120 };
    code_difference d = { 0 };
    code_mat x = code_mat_make(ROWS, K, K + 3), y[2][3];
    float *bias = numbers_make(&rng, 3 * C, false, 1), *factor[3], scale[3 * C];
    int8_t w[3 * C * K];
    code_mat_fill(&x, &rng, -127, 127);
    x.t.scale = 0.02f;
    for (int i = 0; i < 3 * C * K; i++) w[i] = (int8_t)((int)swin_rng_below(&rng, 255) - 127);
    for (int i = 0; i < 3 * C; i++) scale[i] = 0.001f + 0.001f * (float)swin_rng_uniform(&rng);
    for (int i = 0; i < 3; i++) factor[i] = head_factors(&rng, HEADS, D, 0.3);
    for (int rounded = 0; rounded < 2; rounded++)
        for (int i = 0; i < backend_count; i++) {
            code_mat *to = y[i > 0];
            for (int p = 0; p < 3; p++) to[p] = code_mat_make(ROWS, C, C + p);
            make_parts(&backends_under_test[i], to, &x, w, scale, bias, factor, rounded ? 0.03f : 0);
            for (int p = 0; i > 0 && p < 3; p++) {
                code_mat_compare(&d, &to[p], &y[0][p]);
                code_mat_free(&to[p]);
            }
            if (i == backend_count - 1)
                for (int p = 0; p < 3; p++) code_mat_free(&y[0][p]);
        }
    print_message("parts: %lld of %lld codes differ, by %d at most\n", (long long)d.different,
                  (long long)d.count, d.most);
    CHECK(d.most <= 1 && (double)d.different < 1e-3 * (double)d.count, "%lld of %lld codes differ, by %d",
          (long long)d.different, (long long)d.count, d.most);
    for (int i = 0; i < 3; i++) free(factor[i]);
    free(bias);
    code_mat_free(&x);
}

/* Normalised heads become codes by their own factors: those of the real numbers times them. */
static void test_normalised(void **state)
{
    (void)state;
    enum { HEADS = 5, D = 19, C = HEADS * D, ROWS = 40 };
    swin_rng rng = { 121 };
    code_difference d = { 0 };
    mat x = mat_make(ROWS, C, C + 4);
    float *factor = head_factors(&rng, HEADS, D, 1), scale[HEADS];
    mat_fill(&x, &rng, false, 2);
    for (int h = 0; h < HEADS; h++) scale[h] = 5 + 20 * (float)swin_rng_uniform(&rng);
    const swin_tensor in = mat_view(&x);
    for (int i = 0; i < backend_count; i++) {
        const backend *b = &backends_under_test[i];
        code_mat y = code_mat_make(ROWS, C, C + 1), want = code_mat_make(ROWS, C, C);
        mat real = mat_make(ROWS, C, C);
        swin_tensor f = mat_view(&real);
        y.t.scale = want.t.scale = 0.6f;
        y.t.shrink = factor;
        CHECK_OK(b->ops->normalise_heads(b->dev, &y.t, &in, HEADS, scale));
        CHECK_OK(b->ops->normalise_heads(b->dev, &f, &in, HEADS, scale));
        for (int64_t r = 0; r < ROWS; r++)
            for (int c = 0; c < C; c++) mat_row(&real, r)[c] *= factor[c];
        CHECK_OK(b->ops->quantize(b->dev, &want.t, &f));
        CHECK(code_mat_intact(&y), "%s normalise_heads wrote outside", b->label);
        code_mat_compare(&d, &y, &want);
        code_mat_free(&y), code_mat_free(&want), mat_free(&real);
    }
    print_message("normalised: %lld of %lld codes differ\n", (long long)d.different, (long long)d.count);
    CHECK(d.different == 0, "%lld codes differ", (long long)d.different);
    free(factor);
    mat_free(&x);
}

static void test_refusals(void **state)
{
    (void)state;
    problem p = problem_make(&shapes[0], SWIN_SOFTMAX_U8, 130);
    swin_tensor qkv[3] = { p.qkv[0].t, p.qkv[1].t, p.qkv[2].t };
    mat y = mat_make(qkv[0].rows, qkv[0].cols, qkv[0].cols);
    swin_tensor out = mat_view(&y);
    for (int i = 0; i < backend_count; i++) {
        const backend *b = &backends_under_test[i];
        const float kept = p.factor[1][40];
        static const float bad[] = { 0, -1, NAN, INFINITY };
        for (size_t k = 0; k < SWIN_COUNT(bad); k++) {
            p.factor[1][40] = bad[k];
            CHECK_FAILS(b->ops->attention_s8(b->dev, &out, qkv, &p.a, 1, &p.g), SWIN_ERR_VALUE, "scale");
        }
        p.factor[1][40] = kept * 2;
        CHECK_FAILS(b->ops->attention_s8(b->dev, &out, qkv, &p.a, 1, &p.g), SWIN_ERR_VALUE, "head 1");
        p.factor[1][40] = kept;
    }
    mat_free(&y);
    problem_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_normalised),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, open_backends_under_test, close_backends_under_test);
}
