/* The integer products of the cpu backend against ref on forced inputs (DESIGN rule 3): INT32 sums bit for bit, codes at
 * most one step apart on under 0.1 %, for odd sizes, the stage shapes of T, B and L, extreme fills, zero points and
 * every instruction set. Rows and attention: test_int8_rows.c, test_int8_attention.c. */
#include "tests/support/testing.h"

#include <math.h>

#include "tests/support/ops.h"

enum { STAGE_ROWS = 17 };

/* ---- Linear -------------------------------------------------------------------------------------------------------- */
typedef enum fill { ANY, ALL_HIGH, ALL_LOW, OPPOSED } fill; /* OPPOSED: x low, weights high */

typedef struct layer {
    int64_t rows;
    int in, out, zero_point;
    fill f;
    code_mat x;
    int8_t *codes;
    float *scale, *bias;
} layer;

static layer layer_make(int64_t rows, int in, int out, int zero_point, fill f, unsigned seed)
{
    swin_rng rng = { seed };
    const size_t n = (size_t)out, count = n * (size_t)in;
    layer l = { rows,
                in,
                out,
                zero_point,
                f,
                code_mat_make(rows, in, in + 5),
                malloc(count),
                malloc(n * sizeof(float)),
                numbers_make(&rng, n, false, 0.5) };
    CHECK(l.codes && l.scale, "no memory");
    code_mat_fill(&l.x, &rng,
                  f == ANY        ? -128
                  : f == ALL_HIGH ? 127
                                  : -128,
                  f == ANY || f == ALL_HIGH ? 127 : -128);
    for (size_t i = 0; i < count; i++)
        l.codes[i] = f == ANY ? (int8_t)((int)swin_rng_below(&rng, 255) - 127) : f == ALL_LOW ? -127 : 127;
    for (size_t i = 0; i < n; i++)
        l.scale[i] = i % 29 == 28 ? 0 : (float)(0.004 * (0.5 + swin_rng_uniform(&rng)));
    l.x.t.scale = 0.04f / sqrtf((float)in), l.x.t.zero_point = zero_point, l.x.t.qmin = -128;
    return l;
}

static void layer_free(layer *l)
{
    code_mat_free(&l->x);
    free(l->codes), free(l->scale), free(l->bias);
}

static swin_linear prepared(const backend *b, const layer *l, bool with_bias)
{
    swin_linear p;
    CHECK_OK(b->ops->linear_s8_prepare(b->dev, &p, l->codes, l->scale, with_bias ? l->bias : NULL, l->out,
                                       l->in, l->zero_point));
    return p;
}

/* The matrix of INT32 sums, which the caller frees. */
static int32_t *sums_of(const backend *b, const layer *l)
{
    int32_t *sums = malloc((size_t)(l->rows * l->out) * sizeof *sums);
    CHECK(sums != NULL, "no memory");
    swin_linear p = prepared(b, l, true);
    swin_tensor y = swin_matrix(sums, SWIN_S32, l->rows, l->out);
    CHECK_OK(b->ops->linear_s8(b->dev, &y, 1, &l->x.t, &p, 0, SWIN_ACT_NONE));
    b->ops->linear_release(b->dev, &p);
    return sums;
}

static void check_sums(int64_t rows, int in, int out, int zero_point, fill f, unsigned seed)
{
    layer l = layer_make(rows, in, out, zero_point, f, seed);
    int32_t *want = sums_of(&backends_under_test[0], &l);
    for (int i = 1; i < backend_count; i++) {
        int32_t *got = sums_of(&backends_under_test[i], &l);
        for (int64_t k = 0; k < rows * out; k++)
            CHECK(got[k] == want[k],
                  "%s %lld x %d x %d, zero point %d, fill %d, seed %u: sum %lld is %d not %d",
                  backends_under_test[i].label, (long long)rows, in, out, zero_point, (int)f, seed,
                  (long long)k, got[k], want[k]);
        free(got);
    }
    free(want);
    layer_free(&l);
}

static const struct {
    int rows, in, out;
} odd_sizes[] = {
    { 1, 1, 1 },   { 1, 2, 3 },     { 2, 3, 1 },     { 53, 37, 101 },  { 13, 5, 33 },   { 99, 4, 32 },
    { 7, 31, 17 }, { 197, 66, 65 }, { 14, 129, 31 }, { 98, 96, 288 },  { 15, 255, 47 }, { 6, 7, 48 },
    { 5, 8, 24 },  { 3, 1024, 6 },  { 100, 33, 7 },  { 1, 4099, 129 },
};

static void test_sums_odd(void **state)
{
    (void)state;
    static const int zero_points[] = { 0, -128, -37, 127 };
    for (size_t i = 0; i < SWIN_COUNT(odd_sizes); i++)
        for (size_t z = 0; z < SWIN_COUNT(zero_points); z++)
            check_sums(odd_sizes[i].rows, odd_sizes[i].in, odd_sizes[i].out, zero_points[z], ANY,
                       100 + (unsigned)(4 * i + z));
}

/* By hand: every product at its limit, and the deepest sum there is. */
static void test_sums_extreme(void **state)
{
    (void)state;
    for (int f = ALL_HIGH; f <= OPPOSED; f++)
        for (int zero = -128; zero <= 127; zero += 255) {
            check_sums(15, 3072, 33, zero, (fill)f, 3);
            layer l = layer_make(2, 66311, 2, zero, (fill)f, 4);
            const int64_t x = (f == ALL_HIGH ? 127 : -128) - zero, w = f == ALL_LOW ? -127 : 127;
            for (int i = 0; i < backend_count; i++) {
                int32_t *sums = sums_of(&backends_under_test[i], &l);
                for (int k = 0; k < 4; k++)
                    CHECK(sums[k] == x * w * 66311, "%s: %d, not %lld", backends_under_test[i].label, sums[k],
                          (long long)(x * w * 66311));
                free(sums);
            }
            layer_free(&l);
        }
}

/* Every Linear of T, B and L: qkv, proj, fc1, fc2, reduction at each stage. */
static void test_sums_stages(void **state)
{
    (void)state;
    static const int widths[] = { 96, 128, 192 };
    for (size_t i = 0; i < SWIN_COUNT(widths); i++)
        for (int stage = 0; stage < 4; stage++) {
            const int c = widths[i] << stage;
            if (i == 2 && stage < 2) continue; /* T's and B's have been there */
            check_sums(STAGE_ROWS, c, 3 * c, 0, ANY, 11);
            check_sums(STAGE_ROWS, c, c, 0, ANY, 12);
            check_sums(STAGE_ROWS, c, 4 * c, 0, ANY, 13);
            check_sums(STAGE_ROWS, 4 * c, c, -121, ANY, 14);
            if (stage < 3) check_sums(STAGE_ROWS, 4 * c, 2 * c, 0, ANY, 15);
        }
}

/* Outputs of one layer on one backend: `parts` code matrices, or float32 for parts 0; and the residual form. */
typedef struct way {
    int parts;
    float after_scale;
    swin_act act;
    bool bias;
} way;

static const way ways[] = {
    { 1, 0, SWIN_ACT_NONE, true }, { 1, 0.0171f, SWIN_ACT_NONE, true },
    { 3, 0, SWIN_ACT_NONE, true }, { 3, 0.0171f, SWIN_ACT_NONE, false },
    { 1, 0, SWIN_ACT_GELU, true }, { 1, 0.0171f, SWIN_ACT_GELU, true },
    { 0, 0, SWIN_ACT_NONE, true }, { 0, 0.0171f, SWIN_ACT_NONE, false },
    { 0, 0, SWIN_ACT_GELU, true }, { 0, 0.0171f, SWIN_ACT_GELU, true },
};

static void run_codes(const backend *b, code_mat *y, const layer *l, const way *w, const swin_tensor *x)
{
    swin_tensor parts[3];
    for (int i = 0; i < w->parts; i++) {
        y[i] = code_mat_make(x->rows, l->out / w->parts, l->out / w->parts + 3 * i);
        y[i].t.scale = 0.019f + 0.004f * (float)i;
        if (w->act == SWIN_ACT_GELU) y[i].t.zero_point = -121, y[i].t.qmin = -128;
        parts[i] = y[i].t;
    }
    swin_linear p = prepared(b, l, w->bias);
    CHECK_OK(b->ops->linear_s8(b->dev, parts, w->parts, x, &p, w->after_scale, w->act));
    for (int i = 0; i < w->parts; i++)
        CHECK(code_mat_intact(&y[i]), "%s linear_s8 wrote outside of part %d", b->label, i);
    b->ops->linear_release(b->dev, &p);
}

static mat run_floats(const backend *b, const layer *l, const way *w, const swin_tensor *x)
{
    mat y = mat_make(x->rows, l->out, l->out + 2);
    swin_tensor t = mat_view(&y);
    swin_linear p = prepared(b, l, w->bias);
    CHECK_OK(b->ops->linear_s8(b->dev, &t, 1, x, &p, w->after_scale, w->act));
    CHECK(mat_intact(&y), "%s linear_s8 wrote outside", b->label);
    b->ops->linear_release(b->dev, &p);
    return y;
}

static void check_way(const layer *l, const way *w, code_difference *d)
{
    code_mat want[3], got[3];
    mat real = { 0 };
    if (w->parts)
        run_codes(&backends_under_test[0], want, l, w, &l->x.t);
    else
        real = run_floats(&backends_under_test[0], l, w, &l->x.t);
    for (int i = 1; i < backend_count; i++) {
        const backend *b = &backends_under_test[i];
        if (w->parts) {
            run_codes(b, got, l, w, &l->x.t);
        } else {
            mat y = run_floats(b, l, w, &l->x.t);
            const double e = mat_rel_l2(&y, &real);
            CHECK(e <= 2e-7, "%s linear_s8 to float32, %d x %d: %.2e", b->label, l->in, l->out, e);
            mat_free(&y);
        }
        for (int k = 0; k < w->parts; k++) {
            code_difference here = { 0 };
            code_mat_compare(&here, &got[k], &want[k]);
            /* Without GELU even the float steps are the same, while sums stay under 2^24. */
            CHECK(here.most <= (w->act == SWIN_ACT_GELU || l->in > 500), "%s linear_s8 %d x %d: off by %d",
                  b->label, l->in, l->out, here.most);
            code_mat_compare(d, &got[k], &want[k]);
            code_mat_free(&got[k]);
        }
    }
    for (int k = 0; k < w->parts; k++) code_mat_free(&want[k]);
    mat_free(&real);
}

static void test_linear_codes(void **state)
{
    (void)state;
    static const struct {
        int rows, in, out;
    } sizes[] = { { 147, 96, 288 }, { 98, 192, 768 }, { 29, 37, 99 },
                  { 3, 5, 3 },      { 49, 768, 96 },  { 50, 7, 51 } };
    code_difference plain = { 0 }, gelu = { 0 };
    for (size_t i = 0; i < SWIN_COUNT(sizes); i++) {
        layer l =
            layer_make(sizes[i].rows, sizes[i].in, sizes[i].out, i % 2 ? -117 : 0, ANY, 30 + (unsigned)i);
        for (size_t k = 0; k < SWIN_COUNT(ways); k++)
            check_way(&l, &ways[k], ways[k].act == SWIN_ACT_GELU ? &gelu : &plain);
        layer_free(&l);
    }
    code_difference_judge("linear_s8", &plain);
    code_difference_judge("linear_s8 with GELU", &gelu);
}

/* residual += v, in the same order and through shifted windows; the product rounded with one step, or one for each column. */
static void test_linear_residual(void **state)
{
    (void)state;
    const swin_windows g = { 2, 14, 14, 7, 3 };
    const int64_t rows = swin_windows_tokens(&g);
    layer l = layer_make(rows, 132, 99, -128, ANY, 50);
    float after[99], one[99];
    swin_rng steps = { 52 };
    for (int i = 0; i < l.out; i++) {
        after[i] = 0.003f * expf(4 * (float)swin_rng_uniform(&steps));
        one[i] = 0.03f;
    }
    for (int k = 0; k < 8; k++) { /* 4: steps of their own, in 6 that one's and no others */
        const swin_windows *order = k & 1 ? &g : NULL;
        mat all[8], same = mat_make(rows, l.out, l.out);
        for (int i = 0; i < backend_count; i++) {
            const backend *b = &backends_under_test[i];
            swin_rng rng = { 51 };
            all[i] = mat_make(rows, l.out, l.out + i);
            mat_fill(&all[i], &rng, false, 2);
            swin_tensor t = mat_view(&all[i]);
            swin_linear p = prepared(b, &l, true);
            if (k >= 4) p.after = k & 2 ? one : after;
            CHECK_OK(b->ops->linear_s8_residual(b->dev, &t, &l.x.t, &p, k & 6 ? 0.03f : 0, order));
            if (k >= 6) { /* as with no vector */
                swin_tensor u = mat_view(&same);
                rng = (swin_rng){ 51 };
                mat_fill(&same, &rng, false, 2);
                p.after = NULL;
                CHECK_OK(b->ops->linear_s8_residual(b->dev, &u, &l.x.t, &p, 0.03f, order));
                CHECK(mat_same(&all[i], &same), "%s: equal steps of columns are not that step", b->label);
            }
            b->ops->linear_release(b->dev, &p);
            CHECK(mat_intact(&all[i]), "%s linear_s8_residual wrote outside", b->label);
            CHECK(mat_same(&all[i], &all[0]), "%s linear_s8_residual: %.2e from ref", b->label,
                  mat_rel_l2(&all[i], &all[0]));
        }
        for (int i = 0; i < backend_count; i++) mat_free(&all[i]);
        mat_free(&same);
    }
    layer_free(&l);
}

/* ---- splits, refusals ------------------------------------------------------------------------------------------------ */

/* A row's bits depend neither on the rows around it nor on the threads. */
static void test_split(void **state)
{
    (void)state;
    layer l = layer_make(230, 100, 130, -9, ANY, 90);
    const way w = { 1, 0.02f, SWIN_ACT_GELU, true };
    for (int i = 1; i < backend_count; i++) {
        const backend *b = &backends_under_test[i];
        backend alone = *b;
        alone.dev = b->single;
        code_mat whole, other;
        run_codes(b, &whole, &l, &w, &l.x.t);
        for (int64_t from = 0, n = 1; from < 230; from += n, n = n * 3 % 127) {
            n = from + n > 230 ? 230 - from : n;
            const swin_tensor x = swin_rows(&l.x.t, from, n);
            run_codes(&alone, &other, &l, &w, &x);
            for (int64_t r = 0; r < n; r++)
                CHECK(memcmp((int8_t *)other.t.data + r * other.t.ld,
                             (int8_t *)whole.t.data + (from + r) * whole.t.ld, 130) == 0,
                      "%s: row %lld differs in a batch of %lld", b->label, (long long)(from + r),
                      (long long)n);
            code_mat_free(&other);
        }
        code_mat_free(&whole);
    }
    layer_free(&l);
}

static void refuse_layers(const backend *b)
{
    layer l = layer_make(14, 8, 6, 0, ANY, 92);
    swin_linear p = prepared(b, &l, true), none;
    code_mat y = code_mat_make(14, 6, 6);
    float sums[84];
    swin_tensor residual = swin_matrix(sums, SWIN_F32, 14, 6), x = l.x.t;
    const swin_windows g = { 1, 7, 7, 7, 0 };
    CHECK_FAILS(b->ops->linear_s8_prepare(b->dev, &none, l.codes, l.scale, NULL, 1, 66312, 0), SWIN_ERR_VALUE,
                "66312");
    CHECK_FAILS(b->ops->linear_s8_prepare(b->dev, &none, l.codes, l.scale, NULL, 6, 8, 128), SWIN_ERR_VALUE,
                "zero point");
    CHECK_FAILS(b->ops->linear_s8(b->dev, &y.t, 4, &x, &p, 0, SWIN_ACT_NONE), SWIN_ERR_VALUE, "4 parts");
    CHECK_FAILS(b->ops->linear_s8(b->dev, &y.t, 1, &x, &p, NAN, SWIN_ACT_NONE), SWIN_ERR_VALUE, "scale");
    CHECK_FAILS(b->ops->linear_s8(b->dev, &y.t, 1, &y.t, &p, 0, SWIN_ACT_NONE), SWIN_ERR_VALUE, "14 x 6");
    CHECK_FAILS(b->ops->linear_s8_residual(b->dev, &residual, &x, &p, 0, &g), SWIN_ERR_VALUE, "49 tokens");
    y.t.scale = 0;
    CHECK_FAILS(b->ops->linear_s8(b->dev, &y.t, 1, &x, &p, 0, SWIN_ACT_NONE), SWIN_ERR_VALUE, "scale 0");
    y.t.dtype = SWIN_S32, y.t.cols = 5;
    CHECK_FAILS(b->ops->linear_s8(b->dev, &y.t, 1, &x, &p, 0, SWIN_ACT_NONE), SWIN_ERR_VALUE, "14 x 5");
    b->ops->linear_release(b->dev, &p);
    code_mat_free(&y);
    layer_free(&l);
}

static void test_refusals(void **state)
{
    (void)state;
    for (int i = 0; i < backend_count; i++) refuse_layers(&backends_under_test[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sums_odd),        cmocka_unit_test(test_sums_extreme),
        cmocka_unit_test(test_sums_stages),     cmocka_unit_test(test_linear_codes),
        cmocka_unit_test(test_linear_residual), cmocka_unit_test(test_split),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, open_backends_under_test, close_backends_under_test);
}
