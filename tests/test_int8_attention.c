/* Window attention on codes, on the cpu backend against ref: all windows, both forms of softmax, extreme fills, every
 * instruction set. Bars as in test_int8_ops.c. */
#include "tests/support/testing.h"

#include <math.h>

#include "tests/support/ops.h"

typedef enum fill { ANY, ALL_HIGH, ALL_LOW } fill;

typedef struct geometry {
    int images, height, width, window, shift, heads, head_size;
} geometry;

static const geometry geometries[] = {
    { 1, 14, 14, 7, 3, 3, 32 },  { 1, 7, 7, 7, 0, 24, 32 },  { 1, 7, 7, 7, 0, 48, 32 },   /* T, L */
    { 1, 24, 12, 12, 6, 4, 32 }, { 2, 8, 8, 8, 0, 2, 32 },   { 1, 16, 16, 16, 0, 1, 32 }, /* B-384, V2 */
    { 1, 24, 24, 24, 0, 1, 32 }, { 1, 16, 16, 8, 4, 4, 24 }, { 3, 4, 6, 2, 1, 2, 5 },
    { 1, 1, 2, 1, 0, 1, 1 },     { 1, 9, 9, 3, 1, 5, 33 },   { 1, 5, 5, 5, 2, 1, 64 },
    { 1, 4, 4, 4, 0, 2, 31 },
};

typedef struct problem {
    swin_windows g;
    swin_attention a;
    code_mat qkv[3];
    float *bias, *mask, prob_scale;
} problem;

static problem problem_make(const geometry *s, swin_softmax softmax, bool masked, fill f, unsigned seed)
{
    swin_rng rng = { seed };
    problem p = { .g = { s->images, s->height, s->width, s->window, s->shift }, .prob_scale = 0.0061f };
    const int64_t rows = swin_windows_tokens(&p.g), channels = (int64_t)s->heads * s->head_size,
                  n = (int64_t)s->window * s->window;
    for (int i = 0; i < 3; i++) {
        p.qkv[i] = code_mat_make(rows, channels, channels + 3 * i + 1);
        code_mat_fill(&p.qkv[i], &rng, f == ALL_HIGH ? 127 : -127, f == ALL_LOW ? -127 : 127);
        p.qkv[i].t.scale = 0.012f + 0.003f * (float)i;
    }
    const size_t matrix = (size_t)(n * n), windows = (size_t)swin_windows_per_image(&p.g);
    p.bias = numbers_make(&rng, (size_t)s->heads * matrix, false, 1);
    p.mask = numbers_make(&rng, windows * matrix, false, 1);
    for (size_t i = 0; i < windows * matrix; i++)
        p.mask[i] = p.mask[i] > 0.5f && i % matrix / (size_t)n != i % (size_t)n ? -100.0f : 0.0f;
    p.a = (swin_attention){ s->heads, s->head_size,           1 / sqrtf((float)s->head_size),
                            p.bias,   masked ? p.mask : NULL, softmax };
    return p;
}

static void problem_free(problem *p)
{
    for (int i = 0; i < 3; i++) code_mat_free(&p->qkv[i]);
    free(p->bias), free(p->mask);
}

static void attend(const backend *b, swin_dev *dev, const problem *p, code_mat *codes, mat *floats, int more)
{
    const int64_t rows = p->qkv[0].t.rows, cols = p->qkv[0].t.cols;
    const swin_tensor qkv[3] = { p->qkv[0].t, p->qkv[1].t, p->qkv[2].t };
    *codes = code_mat_make(rows, cols, cols + more);
    *floats = mat_make(rows, cols, cols + more);
    codes->t.scale = 0.011f;
    swin_tensor f = mat_view(floats);
    CHECK_OK(b->ops->attention_s8(dev, &codes->t, qkv, &p->a, p->prob_scale, &p->g));
    CHECK_OK(b->ops->attention_s8(dev, &f, qkv, &p->a, p->prob_scale, &p->g));
    CHECK(code_mat_intact(codes) && mat_intact(floats), "%s attention_s8 wrote outside", b->label);
}

static void check_attention(const geometry *s, swin_softmax softmax, bool masked, fill f, code_difference *d,
                            double *worst)
{
    problem p = problem_make(s, softmax, masked, f, 80);
    code_mat want, got;
    mat want_f, got_f;
    attend(&backends_under_test[0], backends_under_test[0].dev, &p, &want, &want_f, 0);
    for (int i = 1; i < backend_count; i++) {
        attend(&backends_under_test[i], backends_under_test[i].dev, &p, &got, &got_f, i);
        code_difference here = { 0 };
        code_mat_compare(&here, &got, &want);
        const double e = mat_rel_l2(&got_f, &want_f);
        CHECK(here.most <= 1 && e < 2e-3,
              "%s attention_s8 window %d, head size %d, softmax %d: off by %d, %.2e",
              backends_under_test[i].label, s->window, s->head_size, (int)softmax, here.most, e);
        *worst = fmax(*worst, e);
        code_mat_compare(d, &got, &want);
        code_mat_free(&got), mat_free(&got_f);
    }
    code_mat_free(&want), mat_free(&want_f);
    problem_free(&p);
}

static void test_attention(void **state)
{
    (void)state;
    for (int softmax = SWIN_SOFTMAX_EXACT; softmax <= SWIN_SOFTMAX_U8; softmax++) {
        code_difference d = { 0 };
        double worst = 0;
        for (size_t i = 0; i < SWIN_COUNT(geometries); i++)
            for (int masked = 0; masked < 2; masked++)
                check_attention(&geometries[i], (swin_softmax)softmax, masked, ANY, &d, &worst);
        for (int f = ALL_HIGH; f <= ALL_LOW; f++)
            check_attention(&geometries[0], (swin_softmax)softmax, true, (fill)f, &d, &worst);
        print_message("float32 outputs: relative L2 %.2e at worst\n", worst);
        code_difference_judge(
            softmax == SWIN_SOFTMAX_U8 ? "attention_s8, u8 softmax" : "attention_s8, exact softmax", &d);
    }
}

/* A row's bits do not depend on the threads. */
static void test_split(void **state)
{
    (void)state;
    problem p = problem_make(&geometries[0], SWIN_SOFTMAX_U8, true, ANY, 91);
    for (int i = 1; i < backend_count; i++) {
        const backend *b = &backends_under_test[i];
        code_mat codes[2];
        mat floats[2];
        attend(b, b->dev, &p, &codes[0], &floats[0], 0);
        attend(b, b->single, &p, &codes[1], &floats[1], 5);
        code_difference d = { 0 };
        code_mat_compare(&d, &codes[0], &codes[1]);
        CHECK(d.different == 0 && mat_same(&floats[0], &floats[1]), "%s: attention differs with the threads",
              b->label);
        for (int k = 0; k < 2; k++) code_mat_free(&codes[k]), mat_free(&floats[k]);
    }
    problem_free(&p);
}

static void refuse_attention(const backend *b)
{
    problem p = problem_make(&geometries[0], SWIN_SOFTMAX_EXACT, true, ANY, 93);
    swin_tensor qkv[3] = { p.qkv[0].t, p.qkv[1].t, p.qkv[2].t };
    mat y = mat_make(p.qkv[0].t.rows, p.qkv[0].t.cols, p.qkv[0].t.cols);
    swin_tensor out = mat_view(&y);
    CHECK_FAILS(b->ops->attention_s8(b->dev, &out, qkv, &p.a, 0, &p.g), SWIN_ERR_VALUE, "probabilities");
    qkv[1].zero_point = 1;
    CHECK_FAILS(b->ops->attention_s8(b->dev, &out, qkv, &p.a, 1, &p.g), SWIN_ERR_VALUE, "zero point");
    qkv[1] = out;
    CHECK_FAILS(b->ops->attention_s8(b->dev, &out, qkv, &p.a, 1, &p.g), SWIN_ERR_VALUE, "int8 codes");
    mat_free(&y);
    problem_free(&p);
}

static void test_refusals(void **state)
{
    (void)state;
    for (int i = 0; i < backend_count; i++) refuse_attention(&backends_under_test[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_split),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, open_backends_under_test, close_backends_under_test);
}
