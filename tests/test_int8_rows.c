/* Rows that become codes, on the cpu backend against ref: quantize, the layernorm operators, normalise_heads; odd sizes and
 * every instruction set. Bars as in test_int8_ops.c. */
#include "tests/support/testing.h"

#include <math.h>

#include "tests/support/ops.h"

static void test_quantize(void **state)
{
    (void)state;
    static const float special[] = { 0.5f,  -0.5f,  1.5f,    2.5f,     -2.5f,     1e9f, -1e9f,
                                     -0.0f, 126.5f, -127.5f, INFINITY, -INFINITY, NAN,  1e-40f };
    static const struct {
        float scale;
        int zero, lo, hi;
    } kinds[] = {
        { 1, 0, -127, 127 }, { 0.037f, 0, -127, 127 }, { 0.031f, -110, -128, 127 }, { 1e-30f, 5, -128, 127 }
    };
    for (int cols = 1; cols < 70; cols += 4) {
        mat x = mat_make(67, cols, cols + 1);
        swin_rng rng = { 60 };
        mat_fill(&x, &rng, false, 3);
        for (int64_t i = 0; i < 67; i++) mat_row(&x, i)[i % cols] = special[i % (int)SWIN_COUNT(special)];
        swin_tensor in = mat_view(&x);
        for (size_t k = 0; k < SWIN_COUNT(kinds); k++) {
            code_mat all[8];
            for (int i = 0; i < backend_count; i++) {
                const backend *b = &backends_under_test[i];
                all[i] = code_mat_make(67, cols, cols + i);
                all[i].t.scale = kinds[k].scale, all[i].t.zero_point = kinds[k].zero;
                all[i].t.qmin = kinds[k].lo, all[i].t.qmax = kinds[k].hi;
                CHECK_OK(b->ops->quantize(b->dev, &all[i].t, &in));
                code_difference d = { 0 };
                code_mat_compare(&d, &all[i], &all[0]);
                CHECK(d.different == 0 && code_mat_intact(&all[i]),
                      "%s quantize: %lld codes of kind %zu differ", b->label, (long long)d.different, k);
            }
            for (int i = 0; i < backend_count; i++) code_mat_free(&all[i]);
        }
        mat_free(&x);
    }
}

typedef struct rows_case {
    swin_windows g;
    int channels;
    bool norm;
    mat x;
    swin_norm n;
} rows_case;

typedef swin_status (*rows_op)(const backend *b, swin_tensor *out, const rows_case *c);

static swin_status plain_rows(const backend *b, swin_tensor *out, const rows_case *c)
{
    swin_tensor x = mat_view(&c->x);
    return c->norm ? b->ops->layernorm(b->dev, out, &x, &c->n) : b->ops->quantize(b->dev, out, &x);
}
static swin_status window_rows(const backend *b, swin_tensor *out, const rows_case *c)
{
    swin_tensor x = mat_view(&c->x);
    return b->ops->layernorm_windows(b->dev, out, &x, c->norm ? &c->n : NULL, &c->g);
}
static swin_status merged_rows(const backend *b, swin_tensor *out, const rows_case *c)
{
    swin_tensor x = mat_view(&c->x);
    return b->ops->layernorm_merge(b->dev, out, &x, c->norm ? &c->n : NULL, &c->g);
}
static swin_status head_rows(const backend *b, swin_tensor *out, const rows_case *c)
{
    static const float scale[] = { 4, 0.5f, 100 };
    swin_tensor x = mat_view(&c->x);
    return b->ops->normalise_heads(b->dev, out, &x, 3, c->norm ? scale : NULL);
}

static void check_rows(const rows_case *c, rows_op op, code_difference *d)
{
    const int64_t rows = op == merged_rows ? c->x.rows / 4 : c->x.rows,
                  cols = op == merged_rows ? 4 * c->channels : c->channels;
    code_mat want = { 0 };
    for (int i = 0; i < backend_count; i++) {
        code_mat y = code_mat_make(rows, cols, cols + 3 * i);
        y.t.scale = op == head_rows && c->norm ? 0.2f : op == head_rows ? 0.008f : 0.024f;
        CHECK_OK(op(&backends_under_test[i], &y.t, c));
        CHECK(code_mat_intact(&y), "%s wrote outside of its codes", backends_under_test[i].label);
        if (i == 0) {
            want = y;
            continue;
        }
        code_mat_compare(d, &y, &want);
        code_mat_free(&y);
    }
    code_mat_free(&want);
}

static void test_rows(void **state)
{
    (void)state;
    static const struct {
        swin_windows g;
        int channels;
    } cases[] = { { { 2, 14, 14, 7, 3 }, 96 },
                  { { 1, 24, 12, 12, 0 }, 129 },
                  { { 3, 4, 6, 2, 1 }, 15 },
                  { { 1, 14, 7, 7, 0 }, 768 } };
    code_difference d = { 0 };
    for (size_t i = 0; i < SWIN_COUNT(cases); i++)
        for (int norm = 0; norm < 2; norm++) {
            swin_rng rng = { 70 + (unsigned)i };
            const int c = cases[i].channels;
            float *gamma = numbers_make(&rng, 4 * (size_t)c, false, 1),
                  *beta = numbers_make(&rng, 4 * (size_t)c, false, 1);
            rows_case k = { .g = cases[i].g, .channels = c, .norm = norm, .n = { gamma, beta, 1e-5f } };
            k.x = mat_make(swin_windows_tokens(&k.g), c, c + 2);
            mat_fill(&k.x, &rng, false, 1.5);
            check_rows(&k, plain_rows, &d);
            check_rows(&k, window_rows, &d);
            if (k.g.height % 2 == 0 && k.g.width % 2 == 0) check_rows(&k, merged_rows, &d);
            if (c % 3 == 0) check_rows(&k, head_rows, &d);
            mat_free(&k.x);
            free(gamma), free(beta);
        }
    code_difference_judge("rows to codes", &d);
}

/* Swin V2 normalises codes too (modes 1 and 2), into codes or float32. */
static void test_normalise_codes(void **state)
{
    (void)state;
    static const float scale[] = { 30, 1, 2, 5 };
    code_mat x = code_mat_make(211, 4 * 24, 4 * 24 + 7), want = { 0 };
    swin_rng rng = { 75 };
    code_mat_fill(&x, &rng, -127, 127);
    memset(x.t.data, 0, 24); /* a head of zeros */
    x.t.scale = 0.03f;
    code_difference d = { 0 };
    mat real = { 0 };
    for (int i = 0; i < backend_count; i++) {
        const backend *b = &backends_under_test[i];
        code_mat y = code_mat_make(211, 96, 96 + i);
        mat f = mat_make(211, 96, 96 + i);
        swin_tensor t = mat_view(&f);
        y.t.scale = 0.06f;
        CHECK_OK(b->ops->normalise_heads(b->dev, &y.t, &x.t, 4, scale));
        CHECK_OK(b->ops->normalise_heads(b->dev, &t, &x.t, 4, NULL));
        CHECK(code_mat_intact(&y) && mat_intact(&f), "%s normalise_heads wrote outside", b->label);
        if (i == 0) {
            want = y, real = f;
            continue;
        }
        code_mat_compare(&d, &y, &want);
        CHECK(mat_rel_l2(&f, &real) < 1e-6, "%s normalise_heads: %.2e", b->label, mat_rel_l2(&f, &real));
        code_mat_free(&y);
        mat_free(&f);
    }
    code_mat_free(&x), code_mat_free(&want), mat_free(&real);
    code_difference_judge("normalised codes", &d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quantize),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_normalise_codes),
    };
    return cmocka_run_group_tests(tests, open_backends_under_test, close_backends_under_test);
}
