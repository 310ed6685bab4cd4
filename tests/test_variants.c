/* What differs between the variants, on small networks: windows, head sizes and image sizes on every backend against ref, and
 * Swin V2's normalised rows where a query or key is zero, in every precision. */
#include <math.h>

#include "calib/run.h"
#include "quant/plan.h"
#include "quant/sim.h"
#include "tests/support/ops.h"
#include "tests/support/trained.h"

enum { CLASSES = 6, SEED = 31 };

typedef struct model {
    swin_config config;
    swin_weights weights;
    float *images;
    int count;
} model;

/* Two stages, two blocks in the first: the second is shifted where the window does not cover the map. */
static model make(swin_family family, int image, int window, int heads, int head_size, int count)
{
    model m = { .config = swin_config_default(), .count = count };
    swin_config *c = &m.config;
    c->family = family;
    c->image_size = image;
    c->window = window;
    c->num_classes = CLASSES;
    c->num_stages = 2;
    c->embed_dim = heads * head_size;
    c->depths[0] = 2, c->depths[1] = 1, c->depths[2] = c->depths[3] = 0;
    c->heads[0] = heads, c->heads[1] = 2 * heads, c->heads[2] = c->heads[3] = 0;
    CHECK_OK(swin_config_check(c));
    CHECK_OK(swin_trained_weights(&m.weights, c, SEED));
    const size_t n = (size_t)count * 3 * (size_t)image * (size_t)image;
    m.images = malloc(n * sizeof *m.images);
    CHECK(m.images != NULL, "no memory");
    swin_rng r = { SEED + 1 };
    swin_fill_normal(&r, m.images, n, 1);
    return m;
}

static void drop(model *m)
{
    swin_weights_free(&m->weights);
    free(m->images);
}

static void forward(const backend *b, const model *m, const swin_net_opts *o, float *logits)
{
    swin_net *net;
    CHECK_OK(swin_net_create(&net, b->dev, &m->config, &m->weights, o));
    CHECK_OK(swin_net_forward(net, m->images, m->count, logits, NULL));
    swin_net_free(net);
}

static void check_finite(const char *what, const backend *b, const float *logits, int n)
{
    for (int i = 0; i < n; i++)
        CHECK(isfinite(logits[i]), "%s on %s: logit %d is %g", what, b->label, i, (double)logits[i]);
}

/* ---- windows, head sizes, image sizes ---- */

static void test_windows(void **state)
{
    (void)state;
    static const struct {
        int image, window, heads, head_size;
    } cases[] = {
        { 64, 8, 2, 24 },  /* C24's heads */
        { 96, 12, 1, 32 }, /* 144 tokens */
        { 96, 6, 3, 20 },   { 128, 16, 1, 24 },
        { 192, 24, 1, 16 }, /* 576 tokens; the second stage: one window */
        { 96, 24, 2, 8 },   { 112, 7, 1, 64 },
        { 64, 16, 2, 40 },
    };
    for (size_t i = 0; i < SWIN_COUNT(cases); i++)
        for (int family = SWIN_V1; family <= SWIN_V2; family++) {
            model m = make((swin_family)family, cases[i].image, cases[i].window, cases[i].heads,
                           cases[i].head_size, 1);
            float want[CLASSES], got[CLASSES];
            double worst = 0;
            forward(&backends_under_test[0], &m, &(swin_net_opts){ .dtype = SWIN_F32 }, want);
            for (int b = 1; b < backend_count; b++) {
                forward(&backends_under_test[b], &m, &(swin_net_opts){ .dtype = SWIN_F32 }, got);
                const double e = swin_rel_l2(got, want, CLASSES);
                CHECK(e <= 1e-5, "V%d, %d pixels, window %d, heads of %d on %s: %.1e", family + 1,
                      cases[i].image, cases[i].window, cases[i].head_size, backends_under_test[b].label, e);
                worst = fmax(worst, e);
            }
            print_message("V%d, %d pixels, window %d, heads of %d: %.1e\n", family + 1, cases[i].image,
                          cases[i].window, cases[i].head_size, worst);
            drop(&m);
        }
}

/* ---- zero vectors ---- */

/* Head 0 asks nothing and head 1 answers nothing, in every block: their rows have no direction. */
static void silence(model *m)
{
    for (int s = 0; s < m->config.num_stages; s++) {
        const swin_stage shape = swin_config_stage(&m->config, s);
        const size_t c = (size_t)shape.channels, d = (size_t)shape.head_size;
        for (int b = 0; b < shape.depth; b++) {
            swin_block_weights *w = &m->weights.stages[s].blocks[b];
            memset(w->qkv_weight, 0, d * c * sizeof(float));
            memset(w->q_bias, 0, d * sizeof(float));
            memset(w->qkv_weight + (c + d) * c, 0, d * c * sizeof(float)); /* the key has no bias */
            w->logit_scale[0] = 100;                                       /* far over the clamp */
        }
    }
}

static void check_floats(const model *m)
{
    static const swin_dtype dtypes[] = { SWIN_F32, SWIN_F16, SWIN_BF16 };
    float want[2 * CLASSES], got[2 * CLASSES];
    for (size_t t = 0; t < SWIN_COUNT(dtypes); t++)
        for (int b = 0; b < backend_count; b++) {
            forward(&backends_under_test[b], m, &(swin_net_opts){ .dtype = dtypes[t] }, got);
            check_finite(swin_dtype_name(dtypes[t]), &backends_under_test[b], got, 2 * CLASSES);
            if (t == 0 && b == 0) memcpy(want, got, sizeof want);
            const double db = swin_sqnr_db(got, want, 2 * CLASSES), least[] = { 100, 25, 10 };
            CHECK(db >= least[t], "%s on %s: %.1f dB from ref's float32", swin_dtype_name(dtypes[t]),
                  backends_under_test[b].label, db);
        }
}

static void check_integers(const model *m)
{
    float got[2 * CLASSES];
    for (int mode = 1; mode <= 3; mode++) {
        swin_plan plan;
        CHECK_OK(swin_plan_uniform(&plan, &m->config, (swin_int8_mode)mode, 6));
        for (int b = 0; b < backend_count; b++) {
            forward(&backends_under_test[b], m, &(swin_net_opts){ .dtype = SWIN_F32, .plan = &plan }, got);
            check_finite("int8", &backends_under_test[b], got, 2 * CLASSES);
        }
        swin_plan_free(&plan);
    }
}

static void check_simulation(const model *m)
{
    float got[2 * CLASSES];
    for (int mode = 1; mode <= 3; mode++) {
        swin_calib_file f;
        CHECK_OK(swin_calib_file_init(&f, &m->config));
        for (int i = 0; i < f.nsites; i++) {
            swin_site_record *s = &f.sites[i];
            s->amax = s->max = 6, s->min = -6, s->count = 1;
        }
        CHECK_OK(swin_calib_weight_ranges(&f, &m->weights));
        CHECK_OK(swin_calib_file_derive(&f, (swin_int8_mode)mode));
        for (int b = 0; b < backend_count; b++) {
            swin_sim *sim;
            CHECK_OK(swin_sim_create(&sim, backends_under_test[b].dev, &f, &m->weights, SWIN_PER_CHANNEL));
            CHECK_OK(swin_sim_forward(sim, m->images, m->count, got, NULL));
            check_finite("int8-sim", &backends_under_test[b], got, 2 * CLASSES);
            swin_sim_free(sim);
        }
        swin_calib_file_free(&f);
    }
}

static void test_zero_vectors(void **state)
{
    (void)state;
    model m = make(SWIN_V2, 64, 8, 2, 16, 2);
    silence(&m);
    check_floats(&m);
    check_integers(&m);
    check_simulation(&m);
    drop(&m);
}

/* Rows of zeros stay zeros; the smallest float is a direction like any other. */
static void test_zero_rows(void **state)
{
    (void)state;
    static const float scale[] = { 100, 1 };
    for (int b = 0; b < backend_count; b++) {
        mat x = mat_make(4, 32, 40), y = mat_make(4, 32, 32);
        memset(mat_row(&x, 0), 0, 32 * sizeof(float));
        for (int64_t r = 1; r < 4; r++)
            for (int i = 0; i < 32; i++) mat_row(&x, r)[i] = 0;
        mat_row(&x, 1)[3] = 1e-30f; /* below the 1e-12 that is divided by at least */
        mat_row(&x, 2)[16] = -3;
        mat_row(&x, 3)[0] = 1e18f; /* its square is not */
        const swin_tensor in = mat_view(&x);
        swin_tensor out = mat_view(&y);
        CHECK_OK(
            backends_under_test[b].ops->normalise_heads(backends_under_test[b].dev, &out, &in, 2, scale));
        for (int64_t r = 0; r < 4; r++)
            for (int i = 0; i < 32; i++) {
                const double want = r == 1 && i == 3    ? 1e-30 / 1e-12 * 100
                                    : r == 2 && i == 16 ? -1
                                    : r == 3 && i == 0  ? 100
                                                        : 0;
                const double got = mat_row(&y, r)[i];
                CHECK(fabs(got - want) <= 1e-6 * fabs(want), "%s: row %d, column %d: %g instead of %g",
                      backends_under_test[b].label, (int)r, i, got, want);
            }
        CHECK(mat_intact(&y), "%s wrote outside", backends_under_test[b].label);
        mat_free(&x);
        mat_free(&y);
    }
}

/* Over ln 100 the logit scale changes nothing. */
static void test_clamp(void **state)
{
    (void)state;
    float clamped[CLASSES], beyond[CLASSES], below[CLASSES];
    const float values[] = { 4.6051702f, 88, 4.5f };
    float *const out[] = { clamped, beyond, below };
    model m = make(SWIN_V2, 64, 8, 2, 16, 1);
    for (int v = 0; v < 3; v++) {
        for (int s = 0; s < 2; s++)
            for (int b = 0; b < m.config.depths[s]; b++)
                for (int h = 0; h < m.config.heads[s]; h++)
                    m.weights.stages[s].blocks[b].logit_scale[h] = values[v];
        forward(&backends_under_test[1], &m, &(swin_net_opts){ .dtype = SWIN_F32 }, out[v]);
    }
    CHECK(swin_rel_l2(beyond, clamped, CLASSES) <= 1e-6, "the clamp leaks: %.1e",
          swin_rel_l2(beyond, clamped, CLASSES));
    CHECK(swin_rel_l2(below, clamped, CLASSES) > 1e-4, "the logit scale does nothing");
    drop(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_zero_vectors),
        cmocka_unit_test(test_zero_rows),
        cmocka_unit_test(test_clamp),
    };
    return cmocka_run_group_tests(tests, open_backends_under_test, close_backends_under_test);
}
