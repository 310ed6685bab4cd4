/* Window attention of the cpu backend against ref, and fused against composed, for any window, head size and mask. */
#include "tests/support/testing.h"

#include <math.h>

#include "tests/support/ops.h"

typedef struct geometry {
    int images, height, width, window, shift, heads, head_size;
} geometry;

static const geometry geometries[] = {
    { 1, 7, 7, 7, 0, 24, 32 },   /* stage 3 */
    { 2, 14, 14, 7, 3, 3, 32 },  /* shifted */
    { 1, 24, 12, 12, 6, 2, 32 }, /* window 12 */
    { 1, 16, 16, 8, 4, 4, 24 },  /* head size 24 */
    { 3, 4, 6, 2, 1, 2, 5 },     { 1, 1, 2, 1, 0, 1, 1 },  { 1, 9, 9, 3, 1, 5, 33 },
    { 1, 5, 5, 5, 2, 1, 64 },    { 1, 4, 4, 4, 0, 2, 31 },
};

typedef struct problem {
    swin_windows g;
    swin_attention a;
    int64_t rows, channels, n;
    mat qkv;
    float *bias, *mask;
} problem;

static problem problem_make(const geometry *s, bool masked, bool biased, unsigned seed)
{
    swin_rng rng = { seed };
    problem p = { .g = { s->images, s->height, s->width, s->window, s->shift } };
    p.rows = swin_windows_tokens(&p.g);
    p.channels = (int64_t)s->heads * s->head_size;
    p.n = (int64_t)s->window * s->window;
    p.qkv = mat_make(p.rows, 3 * p.channels, 3 * p.channels + 7);
    mat_fill(&p.qkv, &rng, false, 1.5);
    const size_t matrix = (size_t)(p.n * p.n), windows = (size_t)swin_windows_per_image(&p.g);
    p.bias = numbers_make(&rng, (size_t)s->heads * matrix, false, 1);
    p.mask = numbers_make(&rng, windows * matrix, false, 1);
    for (size_t i = 0; i < windows * matrix; i++)
        p.mask[i] = p.mask[i] > 0.5f && i % matrix / (size_t)p.n != i % (size_t)p.n ? -100.0f : 0.0f;
    p.a = (swin_attention){ s->heads,
                            s->head_size,
                            1 / sqrtf((float)s->head_size),
                            biased ? p.bias : NULL,
                            masked ? p.mask : NULL,
                            SWIN_SOFTMAX_EXACT };
    return p;
}

static void problem_free(problem *p)
{
    mat_free(&p->qkv);
    free(p->bias), free(p->mask);
}

/* scores, softmax, weighted_sum; s keeps the probabilities. */
static void compose(const backend *b, mat *out, mat *raw, mat *s, const problem *p)
{
    swin_tensor o = mat_view(out), t = mat_view(s), qkv = mat_view(&p->qkv);
    CHECK_OK(b->ops->scores(b->dev, &t, &qkv, &p->a, &p->g));
    for (int64_t r = 0; raw && r < s->rows; r++)
        memcpy(mat_row(raw, r), mat_row(s, r), (size_t)s->cols * sizeof(float));
    CHECK_OK(b->ops->softmax(b->dev, &t, &p->a, &p->g));
    CHECK_OK(b->ops->weighted_sum(b->dev, &o, &t, &qkv, &p->a, &p->g));
    CHECK(mat_intact(out) && mat_intact(s), "%s attention wrote outside of its outputs", b->label);
}

static void fuse(const backend *b, mat *out, const problem *p)
{
    swin_tensor o = mat_view(out), qkv = mat_view(&p->qkv);
    CHECK_OK(b->ops->attention(b->dev, &o, &qkv, &p->a, &p->g));
    CHECK(mat_intact(out), "%s attention wrote outside of its output", b->label);
}

static double check_one(const geometry *s, bool masked, bool biased, unsigned seed)
{
    problem p = problem_make(s, masked, biased, seed);
    mat want = mat_make(p.rows, p.channels, p.channels), want_s = mat_make(p.rows * s->heads, p.n, p.n),
        want_raw = mat_make(p.rows * s->heads, p.n, p.n);
    double worst = 0;
    compose(&backends_under_test[0], &want, &want_raw, &want_s, &p);
    for (int i = 0; i < backend_count; i++) {
        const backend *b = &backends_under_test[i];
        mat out = mat_make(p.rows, p.channels, p.channels + 3),
            fused = mat_make(p.rows, p.channels, p.channels),
            prob = mat_make(p.rows * s->heads, p.n, p.n + 1), raw = mat_make(p.rows * s->heads, p.n, p.n);
        compose(b, &out, &raw, &prob, &p);
        fuse(b, &fused, &p);
        CHECK(mat_same(&out, &fused), "%s: fused attention has other bits, window %d, head size %d, seed %u",
              b->label, s->window, s->head_size, seed);
        const double e[] = { mat_rel_l2(&raw, &want_raw), mat_rel_l2(&prob, &want_s),
                             mat_rel_l2(&out, &want) };
        for (int k = 0; k < 3; k++) {
            CHECK(e[k] <= 1e-6, "%s attention step %d, window %d, head size %d, seed %u: %.2e", b->label, k,
                  s->window, s->head_size, seed, e[k]);
            worst = fmax(worst, e[k]);
        }
        mat_free(&out), mat_free(&fused), mat_free(&prob), mat_free(&raw);
    }
    mat_free(&want), mat_free(&want_s), mat_free(&want_raw);
    problem_free(&p);
    return worst;
}

static void test_attention(void **state)
{
    (void)state;
    double worst = 0;
    for (size_t i = 0; i < SWIN_COUNT(geometries); i++) {
        worst = fmax(worst, check_one(&geometries[i], false, true, 40 + (unsigned)i));
        worst = fmax(worst, check_one(&geometries[i], true, true, 60 + (unsigned)i));
        worst = fmax(worst, check_one(&geometries[i], true, false, 80 + (unsigned)i));
    }
    print_message("attention: fused equals composed; worst relative L2 %.2e\n", worst);
}

/* An image's rows do not feel its neighbours in the batch, nor the number of threads. */
static void test_attention_split(void **state)
{
    (void)state;
    const geometry s = { 3, 14, 14, 7, 3, 3, 32 };
    problem p = problem_make(&s, true, true, 90);
    for (int i = 0; i < backend_count; i++) {
        const backend *b = &backends_under_test[i];
        mat whole = mat_make(p.rows, p.channels, p.channels),
            parts = mat_make(p.rows, p.channels, p.channels);
        fuse(b, &whole, &p);
        swin_windows one = p.g;
        one.images = 1;
        const swin_tensor qkv = mat_view(&p.qkv), out = mat_view(&parts);
        for (int image = 0; image < 3; image++) {
            const swin_tensor in = swin_rows(&qkv, image * 196, 196);
            swin_tensor o = swin_rows(&out, image * 196, 196);
            CHECK_OK(b->ops->attention(b->single, &o, &in, &p.a, &one));
        }
        CHECK(mat_same(&whole, &parts), "%s: images one by one differ", b->label);
        mat_free(&whole), mat_free(&parts);
    }
    problem_free(&p);
}

/* Small integers, no scaling: every score is exact. */
static void test_scores_exact(void **state)
{
    (void)state;
    for (size_t k = 0; k < SWIN_COUNT(geometries); k++) {
        problem p = problem_make(&geometries[k], false, false, 100);
        swin_rng rng = { 101 };
        mat_fill(&p.qkv, &rng, true, 1);
        mat want = mat_make(p.rows * p.a.heads, p.n, p.n), s = mat_make(p.rows * p.a.heads, p.n, p.n + 2);
        for (int i = 0; i < backend_count; i++) {
            const backend *b = &backends_under_test[i];
            swin_tensor t = mat_view(i ? &s : &want), qkv = mat_view(&p.qkv);
            CHECK_OK(b->ops->scores(b->dev, &t, &qkv, &p.a, &p.g));
            if (i) CHECK(mat_same(&s, &want), "%s: integer scores, geometry %zu", b->label, k);
        }
        mat_free(&want), mat_free(&s);
        problem_free(&p);
    }
}

/* u8 softmax: probabilities are codes over their sum. A float32 exp may move a code by one where 255 e is near a half. */
static void test_softmax_u8(void **state)
{
    (void)state;
    for (size_t k = 0; k < 4; k++) {
        problem p = problem_make(&geometries[k], true, true, 110 + (unsigned)k);
        p.a.softmax = SWIN_SOFTMAX_U8;
        mat want = mat_make(p.rows * p.a.heads, p.n, p.n), out = mat_make(p.rows, p.channels, p.channels);
        compose(&backends_under_test[0], &out, NULL, &want, &p);
        for (int i = 1; i < backend_count; i++) {
            const backend *b = &backends_under_test[i];
            mat s = mat_make(p.rows * p.a.heads, p.n, p.n), fused = mat_make(p.rows, p.channels, p.channels);
            compose(b, &out, NULL, &s, &p);
            fuse(b, &fused, &p);
            CHECK(mat_same(&out, &fused), "%s: fused u8 attention has other bits", b->label);
            int64_t moved = 0;
            for (int64_t r = 0; r < s.rows; r++) {
                double most = 0, sum = 0;
                for (int64_t c = 0; c < p.n; c++)
                    most = fmax(most, mat_row(&s, r)[c]), sum += mat_row(&s, r)[c];
                CHECK(fabs(sum - 1) < 1e-5, "%s: a row of probabilities sums to %g", b->label, sum);
                for (int64_t c = 0; c < p.n; c++) {
                    const double code = mat_row(&s, r)[c] / most * 255; /* the largest code of a row is 255 */
                    CHECK(fabs(code - rint(code)) < 1e-3, "%s: %g is no code", b->label, code);
                    moved += fabs(mat_row(&s, r)[c] - mat_row(&want, r)[c]) > 1e-3 * most;
                }
            }
            CHECK((double)moved <= 0.001 * (double)(s.rows * s.cols), "%s: %lld codes moved", b->label,
                  (long long)moved);
            mat_free(&s), mat_free(&fused);
        }
        mat_free(&want), mat_free(&out);
        problem_free(&p);
    }
}

/* A mask of -100 leaves nothing of a masked token, however large the other scores are. */
static void test_mask_shuts(void **state)
{
    (void)state;
    for (int i = 0; i < backend_count; i++) {
        const backend *b = &backends_under_test[i];
        const swin_windows g = { 1, 1, 1, 1, 0 };
        mat s = mat_make(4, 4, 4);
        static const float mask[16] = { 0, -100, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 };
        const swin_windows two = { 1, 2, 2, 2, 0 };
        for (int k = 0; k < 16; k++) s.data[k] = k < 4 ? 1 : k < 8 ? -1e30f : k < 12 ? 1e30f : 0;
        s.data[8] = -1e30f;
        const swin_attention a = { 1, 1, 1, NULL, mask, SWIN_SOFTMAX_EXACT };
        swin_tensor t = mat_view(&s);
        CHECK_OK(b->ops->softmax(b->dev, &t, &a, &two));
        CHECK(s.data[1] < 1e-40f && fabsf(s.data[0] - 1.0f / 3) < 1e-6f, "%s: masked %g", b->label,
              s.data[1]);
        CHECK(fabsf(s.data[4] - 0.25f) < 1e-6f && s.data[8] == 0 && fabsf(s.data[9] - 1.0f / 3) < 1e-6f,
              "%s: large scores %g %g %g", b->label, s.data[4], s.data[8], s.data[9]);
        mat_free(&s);
        mat one = mat_make(1, 1, 1);
        one.data[0] = -5;
        swin_tensor u = mat_view(&one);
        const swin_attention alone = { 1, 1, 1, NULL, NULL, SWIN_SOFTMAX_EXACT };
        CHECK_OK(b->ops->softmax(b->dev, &u, &alone, &g));
        CHECK(one.data[0] == 1, "%s: a lone token %g", b->label, one.data[0]);
        mat_free(&one);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    float v[64] = { 0 };
    const swin_windows g = { 1, 2, 2, 2, 0 };
    const swin_attention a = { 1, 2, 1, NULL, NULL, SWIN_SOFTMAX_EXACT },
                         none = { 0, 2, 1, NULL, NULL, SWIN_SOFTMAX_EXACT };
    for (int i = 0; i < backend_count; i++) {
        const backend *b = &backends_under_test[i];
        swin_tensor qkv = swin_matrix(v, SWIN_F32, 4, 6), out = swin_matrix(v + 32, SWIN_F32, 4, 2),
                    bad = swin_matrix(v, SWIN_F32, 4, 5);
        CHECK_FAILS(b->ops->attention(b->dev, &out, &bad, &a, &g), SWIN_ERR_VALUE,
                    "attention: matrix is 4 x 5");
        CHECK_FAILS(b->ops->attention(b->dev, &out, &qkv, &none, &g), SWIN_ERR_VALUE, "0 heads");
        CHECK_FAILS(b->ops->softmax(b->dev, &out, &a, &g), SWIN_ERR_VALUE, "softmax");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attention),    cmocka_unit_test(test_attention_split),
        cmocka_unit_test(test_scores_exact), cmocka_unit_test(test_softmax_u8),
        cmocka_unit_test(test_mask_shuts),   cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, open_backends_under_test, close_backends_under_test);
}
