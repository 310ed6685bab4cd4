/* The integer network against int8-sim, which is float32 arithmetic: every block on forced float input, and whole networks
 * by their distance to fp32 (DESIGN rule 3). On ref, and on cpu with every instruction set. */
#include "tests/support/testing.h"

#include <math.h>

#include "calib/run.h"
#include "quant/plan.h"
#include "quant/sim.h"
#include "runtime/swin/checkpoint.h"
#include "tests/support/ops.h"
#include "tests/support/ranges.h"
#include "tests/support/tiny.h"
#include "tests/support/trained.h"

static const char *const trained = "weights/swin_tiny_patch4_window7_224_tin200_fp16.pth";

enum { MOST_OUTPUTS = 64, MODES = 3 };

typedef struct model {
    swin_config config;
    swin_weights weights;
    float *images;
    int count;
} model;

static size_t pixels_of(const model *m)
{
    return (size_t)3 * (size_t)m->config.image_size * (size_t)m->config.image_size;
}

static void noise_images(model *m, int count, unsigned seed)
{
    swin_rng r = { seed };
    m->count = count;
    m->images = malloc((size_t)count * pixels_of(m) * sizeof *m->images);
    CHECK(m->images != NULL, "no memory");
    swin_fill_normal(&r, m->images, (size_t)count * pixels_of(m), 1);
}

static void model_free(model *m)
{
    swin_weights_free(&m->weights);
    free(m->images);
}

static model demo_model(int images)
{
    model m = { 0 };
    CHECK_OK(swin_config_load(&m.config, SWIN_SOURCE_DIR "/configs/swin_demo_patch4_window7_112.yaml", NULL));
    CHECK_OK(swin_weights_load(&m.weights, &m.config, SWIN_SOURCE_DIR "/tests/demo/swin_demo.safetensors"));
    noise_images(&m, images, 201);
    return m;
}

/* Stages of depth two and one, shifted windows, head sizes 16 and 24; V2 with its cosine attention. */
static model small_model(swin_family family, int embed_dim, int images)
{
    model m = { .config = swin_tiny_config() };
    m.config.family = family;
    m.config.embed_dim = embed_dim;
    m.config.heads[0] = 2, m.config.heads[1] = 2;
    CHECK_OK(swin_trained_weights(&m.weights, &m.config, 9));
    noise_images(&m, images, 202);
    return m;
}

static swin_net *integer_net(swin_dev *dev, const model *m, const swin_calib_file *f, swin_granularity g)
{
    swin_plan plan;
    swin_net *net;
    CHECK_OK(swin_plan_create(&plan, f, g));
    CHECK_OK(swin_net_create(&net, dev, &m->config, &m->weights,
                             &(swin_net_opts){ .dtype = SWIN_F32, .plan = &plan }));
    swin_plan_free(&plan);
    return net;
}

/* ---- blocks on forced input ---------------------------------------------------------------------------------------- */

/* The outputs of one pass, in forward order; with `forced`, each is replaced by another pass's after it was kept. */
typedef struct outputs {
    float *x[MOST_OUTPUTS];
    size_t size[MOST_OUTPUTS];
    swin_site site[MOST_OUTPUTS];
    int count;
    const struct outputs *forced;
} outputs;

static bool wants_outputs(void *user, swin_site site)
{
    (void)user;
    return swin_site_role_of(site) == SWIN_ROLE_OUTPUT;
}

static swin_status keep(void *user, const swin_tap_point *p)
{
    outputs *o = user;
    const size_t n = (size_t)(p->x->rows * p->x->cols);
    CHECK(o->count < MOST_OUTPUTS && p->x->ld == p->x->cols, "output %d", o->count);
    float *x = malloc(n * sizeof *x);
    CHECK(x != NULL, "no memory");
    CHECK_OK(p->dev->ops->download(p->dev, x, p->x->data, n * sizeof *x));
    o->x[o->count] = x, o->size[o->count] = n, o->site[o->count] = p->site;
    o->count++;
    if (!o->forced) return SWIN_OK;
    return p->dev->ops->upload(p->dev, p->x->data, o->forced->x[o->count - 1], n * sizeof *x);
}

static void outputs_free(outputs *o)
{
    for (int i = 0; i < o->count; i++) free(o->x[i]);
    *o = (outputs){ 0 };
}

static void forward_net(swin_net *net, const model *m, int n, float *logits, outputs *o)
{
    const swin_tap tap = { .user = o, .wants = wants_outputs, .at = keep };
    CHECK_OK(swin_net_forward(net, m->images, n, logits, o ? &tap : NULL));
}

/* What the first image's modules give when each is fed fp32's tensors: fp32 itself, and int8-sim. */
typedef struct reference {
    const model *m;
    const swin_calib_file *f;
    swin_granularity granularity;
    outputs fp32, sim;
} reference;

static void reference_make(reference *r, const model *m, const swin_calib_file *f, swin_granularity g)
{
    swin_dev *dev = backends_under_test[backend_count - 1].dev;
    float *logits = malloc((size_t)m->config.num_classes * sizeof *logits);
    swin_net *net;
    swin_sim *sim;
    *r = (reference){ .m = m, .f = f, .granularity = g, .sim.forced = &r->fp32 };
    CHECK_OK(swin_net_create(&net, dev, &m->config, &m->weights, &(swin_net_opts){ .dtype = SWIN_F32 }));
    forward_net(net, m, 1, logits, &r->fp32);
    swin_net_free(net);
    const swin_tap tap = { .user = &r->sim, .wants = wants_outputs, .at = keep };
    CHECK_OK(swin_sim_create(&sim, dev, f, &m->weights, g));
    CHECK_OK(swin_sim_forward(sim, m->images, 1, logits, &tap));
    swin_sim_free(sim);
    free(logits);
}

static void reference_free(reference *r)
{
    outputs_free(&r->fp32), outputs_free(&r->sim);
}

/* Every block and merge, engine against int8-sim. Returns the worst. */
static double check_blocks(const backend *b, const reference *r)
{
    float *logits = malloc((size_t)r->m->config.num_classes * sizeof *logits);
    double worst = INFINITY;
    outputs engine = { .forced = &r->fp32 };
    swin_net *net = integer_net(b->dev, r->m, r->f, r->granularity);
    forward_net(net, r->m, 1, logits, &engine);
    CHECK(engine.count == r->sim.count && engine.count == r->fp32.count, "%d outputs, %d, %d", engine.count,
          r->sim.count, r->fp32.count);
    for (int i = 0; i < engine.count; i++) {
        char name[SWIN_SITE_NAME_MAX];
        const double db = swin_sqnr_db(engine.x[i], r->sim.x[i], r->sim.size[i]);
        swin_site_name(r->sim.site[i], name);
        CHECK(db >= 50, "%s mode %d: %s: %.1f dB", b->label, (int)r->f->mode, name, db);
        worst = fmin(worst, db);
    }
    swin_net_free(net);
    outputs_free(&engine);
    free(logits);
    return worst;
}

static void check_modes(const model *m, const char *name)
{
    for (int mode = 1; mode <= MODES; mode++) {
        swin_calib_file f;
        CHECK_OK(swin_ranges_of(&f, backends_under_test[backend_count - 1].dev, &m->config, &m->weights,
                                m->images, m->count, (swin_int8_mode)mode));
        for (int g = SWIN_PER_CHANNEL; g <= SWIN_PER_TENSOR; g++) {
            reference r;
            double worst = INFINITY;
            reference_make(&r, m, &f, (swin_granularity)g);
            for (int i = 0; i < backend_count; i++)
                worst = fmin(worst, check_blocks(&backends_under_test[i], &r));
            print_message("%s mode %d, weights per %s, %d backends: worst block %.1f dB\n", name, mode,
                          g ? "tensor" : "channel", backend_count, worst);
            reference_free(&r);
        }
        swin_calib_file_free(&f);
    }
}

static void test_blocks_demo(void **state)
{
    (void)state;
    model m = demo_model(4);
    check_modes(&m, "demo");
    model_free(&m);
}

static void test_blocks_v1(void **state)
{
    (void)state;
    model m = small_model(SWIN_V1, 48, 2);
    check_modes(&m, "V1, head size 24");
    model_free(&m);
}

static void test_blocks_v2(void **state)
{
    (void)state;
    model m = small_model(SWIN_V2, 32, 2);
    check_modes(&m, "V2, head size 16");
    model_free(&m);
}

/* Sites that are relaxed run in float32, whichever layer they belong to. */
static void test_blocks_mixed(void **state)
{
    (void)state;
    static const swin_site_kind relaxed[][4] = {
        { SWIN_SITE_QKV_INPUT, SWIN_SITE_QKV_WEIGHT, SWIN_SITE_QKV_AFTERGEMM, SWIN_SITE_QKV_INPUT },
        { SWIN_SITE_PROJ_INPUT, SWIN_SITE_PROJ_WEIGHT, SWIN_SITE_PROJ_AFTERGEMM, SWIN_SITE_PROJ_INPUT },
        { SWIN_SITE_FC1_INPUT, SWIN_SITE_FC1_WEIGHT, SWIN_SITE_FC1_AFTERGEMM, SWIN_SITE_FC1_INPUT },
        { SWIN_SITE_FC2_INPUT, SWIN_SITE_FC2_WEIGHT, SWIN_SITE_FC2_AFTERGEMM, SWIN_SITE_FC2_INPUT },
        { SWIN_SITE_MATMUL_Q, SWIN_SITE_MATMUL_K, SWIN_SITE_MATMUL_V, SWIN_SITE_MATMUL_A },
    };
    model m = small_model(SWIN_V1, 48, 2);
    swin_calib_file f;
    double worst = INFINITY;
    CHECK_OK(swin_ranges_of(&f, backends_under_test[1].dev, &m.config, &m.weights, m.images, m.count,
                            SWIN_INT8_MODE_1));
    for (size_t k = 0; k < SWIN_COUNT(relaxed); k++) {
        CHECK_OK(swin_calib_file_derive(&f, SWIN_INT8_MODE_1));
        for (int i = 0; i < f.nsites; i++)
            for (int n = 0; n < 4; n++)
                if (swin_site_kind_of(f.sites[i].site) == relaxed[k][n]) f.sites[i].enabled = false;
        reference r;
        reference_make(&r, &m, &f, SWIN_PER_CHANNEL);
        for (int i = 0; i < backend_count; i += backend_count - 1)
            worst = fmin(worst, check_blocks(&backends_under_test[i], &r));
        reference_free(&r);
    }
    print_message("one kind of layer in float32: worst block %.1f dB\n", worst);
    swin_calib_file_free(&f);
    model_free(&m);
}

/* ---- the split of a batch ------------------------------------------------------------------------------------------ */
static void check_split(const backend *b, const model *m, const swin_calib_file *f)
{
    static const int batches[] = { 1, 7, 32 };
    const int classes = m->config.num_classes;
    float *want = malloc((size_t)(m->count * classes) * sizeof *want),
          *got = malloc((size_t)(m->count * classes) * sizeof *got);
    swin_net *net = integer_net(b->dev, m, f, SWIN_PER_CHANNEL),
             *alone = integer_net(b->single, m, f, SWIN_PER_CHANNEL);
    CHECK_OK(swin_net_forward(net, m->images, m->count, want, NULL));
    for (size_t k = 0; k < SWIN_COUNT(batches); k++) {
        const int n = batches[k];
        for (int at = 0; at < m->count; at += m->count - n) { /* the first images, and the last */
            CHECK_OK(swin_net_forward(at ? alone : net, m->images + (size_t)at * pixels_of(m), n, got, NULL));
            CHECK(memcmp(got, want + at * classes, (size_t)(n * classes) * sizeof *got) == 0,
                  "%s mode %d: other logits at image %d in batches of %d than of %d", b->label, (int)f->mode,
                  at, n, m->count);
            if (at || b == backends_under_test) break; /* ref is slow */
        }
    }
    swin_net_free(net), swin_net_free(alone);
    free(want), free(got);
}

static void test_split(void **state)
{
    (void)state;
    for (int family = SWIN_V1; family <= SWIN_V2; family++) {
        model m = small_model((swin_family)family, 32, 64);
        for (int mode = 1; mode <= MODES; mode += 2) { /* 2 is 1 with fewer roundings */
            swin_calib_file f;
            CHECK_OK(swin_ranges_of(&f, backends_under_test[1].dev, &m.config, &m.weights, m.images, 4,
                                    (swin_int8_mode)mode));
            for (int i = mode == 1 && family == SWIN_V1 ? 0 : 1; i < backend_count; i++)
                check_split(&backends_under_test[i], &m, &f);
            swin_calib_file_free(&f);
        }
        model_free(&m);
    }
}

/* ---- the trained network ------------------------------------------------------------------------------------------- */
enum { CALIBRATED = 32, EVALUATED = 32 };

/* `count` images, evenly over the list. */
static void load_images(model *m, const char *data, const char *split, size_t count)
{
    swin_dataset *ds;
    swin_loader *l;
    swin_batch b;
    size_t chosen[EVALUATED], n = 0;
    m->count = (int)count;
    m->images = malloc(count * pixels_of(m) * sizeof *m->images);
    CHECK(m->images != NULL, "no memory");
    CHECK_OK(swin_dataset_open(&ds, data, split));
    const swin_loader_opts opts = { .indices = chosen,
                                    .count = swin_sample_choose(SWIN_SAMPLE_SPREAD, 0, swin_dataset_count(ds),
                                                                count, chosen),
                                    .batch = 8,
                                    .preprocess = { .size = m->config.image_size, .crop = true } };
    CHECK_OK(swin_loader_open(&l, ds, &opts));
    for (;;) {
        CHECK_OK(swin_loader_next(l, &b));
        if (b.n == 0) break;
        memcpy(m->images + n * pixels_of(m), b.pixels, (size_t)b.n * pixels_of(m) * sizeof(float));
        n += (size_t)b.n;
    }
    CHECK(n == count, "%zu of %zu images", n, count);
    swin_loader_close(l);
    swin_dataset_close(ds);
}

/* The shared checkpoint, calibrated as swin-calib does by default; its evaluation images. */
static model trained_model(swin_calib_file *f, const char *weights, const char *data)
{
    model m = { .config = swin_config_default() };
    const char *words[] = { "MODEL.NUM_CLASSES", "200" };
    const char sha[SWIN_SHA256_HEX] = "of nothing";
    swin_calib_timing timing;
    const swin_calib_opts o = { .data_path = data,
                                .split = "train",
                                .images = CALIBRATED,
                                .batch = 8,
                                .mode = SWIN_INT8_MODE_1,
                                .calibrator = swin_calibrator_find("percentile"),
                                .calibrator_opts = { .percentile = 99.99 } };
    CHECK_OK(swin_config_load(&m.config, SWIN_SOURCE_DIR "/configs/swin_tiny_patch4_window7_224.yaml",
                              &(swin_pairs){ 1, words }));
    CHECK_OK(swin_weights_load(&m.weights, &m.config, weights));
    CHECK_OK(swin_calib_run(f, backends_under_test[backend_count - 1].dev, &m.config, &m.weights, sha, &o,
                            &timing));
    load_images(&m, data, "val", EVALUATED);
    return m;
}

/* Whole variants, with seeded weights: minutes, so on request. */
static void test_blocks_variants(void **state)
{
    (void)state;
    static const char *const names[] = { "swinv2_tiny_patch4_window8_256", "swinv2_base_patch4_window16_256",
                                         "swin_base_patch4_window12_384_finetune" };
    const backend *b = &backends_under_test[backend_count - 1];
    if (!getenv("SWIN_TEST_VARIANTS")) {
        print_message("skipped: SWIN_TEST_VARIANTS asks for whole variants\n");
        skip();
    }
    for (size_t i = 0; i < SWIN_COUNT(names); i++) {
        model m = { 0 };
        char path[512];
        snprintf(path, sizeof path, "%s/configs/%s.yaml", SWIN_SOURCE_DIR, names[i]);
        CHECK_OK(swin_config_load(&m.config, path, NULL));
        CHECK_OK(swin_trained_weights(&m.weights, &m.config, 7));
        noise_images(&m, 2, 203);
        for (int mode = 1; mode <= MODES; mode++) {
            swin_calib_file f;
            CHECK_OK(
                swin_ranges_of(&f, b->dev, &m.config, &m.weights, m.images, m.count, (swin_int8_mode)mode));
            reference r;
            reference_make(&r, &m, &f, SWIN_PER_CHANNEL);
            print_message("%s mode %d %s: worst block %.1f dB\n", names[i], mode, b->label,
                          check_blocks(b, &r));
            reference_free(&r);
            swin_calib_file_free(&f);
        }
        model_free(&m);
    }
}

static void run_in_batches(const model *m, swin_net *net, swin_sim *sim, float *logits)
{
    for (int at = 0; at < m->count; at += 8) {
        const float *images = m->images + (size_t)at * pixels_of(m);
        float *to = logits + (size_t)at * (size_t)m->config.num_classes;
        CHECK_OK(net ? swin_net_forward(net, images, 8, to, NULL)
                     : swin_sim_forward(sim, images, 8, to, NULL));
    }
}

static int same_class(const model *m, const float *a, const float *b)
{
    const int classes = m->config.num_classes;
    int same = 0;
    for (int i = 0; i < m->count; i++)
        same += swin_argmax(a + i * classes, classes) == swin_argmax(b + i * classes, classes);
    return same;
}

/* The bars of 5,000 images (tests/RESULTS.md) on few, where agreement is a matter of single images. */
static void check_network(const model *m, const swin_calib_file *f, const backend *b, const float *fp32)
{
    const size_t n = (size_t)(m->count * m->config.num_classes);
    float *ours = malloc(n * sizeof *ours), *simulated = malloc(n * sizeof *simulated);
    swin_net *integer = integer_net(b->dev, m, f, SWIN_PER_CHANNEL);
    swin_sim *sim;
    CHECK(ours && simulated, "no memory");
    CHECK_OK(swin_sim_create(&sim, b->dev, f, &m->weights, SWIN_PER_CHANNEL));
    run_in_batches(m, integer, NULL, ours);
    run_in_batches(m, NULL, sim, simulated);
    const double engine_db = swin_sqnr_db(ours, fp32, n), sim_db = swin_sqnr_db(simulated, fp32, n),
                 between_db = swin_sqnr_db(ours, simulated, n);
    const int kept[] = { same_class(m, ours, fp32), same_class(m, simulated, fp32) };
    print_message(
        "mode %d: int8 %.2f dB, int8-sim %.2f dB, between them %.2f dB; top-1 as fp32 %d, %d of %d\n",
        (int)f->mode, engine_db, sim_db, between_db, kept[0], kept[1], m->count);
    CHECK(fabs(engine_db - sim_db) <= 0.3, "int8 %.2f dB, int8-sim %.2f dB", engine_db, sim_db);
    CHECK(between_db >= sim_db + 2, "%.2f dB between the two, %.2f dB from fp32", between_db, sim_db);
    CHECK(abs(kept[0] - kept[1]) <= 1, "%d and %d", kept[0], kept[1]);
    swin_sim_free(sim);
    swin_net_free(integer);
    free(ours), free(simulated);
}

static void test_trained(void **state)
{
    (void)state;
    SWIN_TEST_FILE(weights, trained);
    SWIN_TEST_FILE(data, "tiny-imagenet");
    const backend *b = &backends_under_test[backend_count - 1];
    swin_calib_file f;
    swin_net *net;
    model m = trained_model(&f, weights, data);
    float *fp32 = malloc((size_t)(m.count * m.config.num_classes) * sizeof *fp32);
    CHECK(fp32 != NULL, "no memory");
    CHECK_OK(swin_net_create(&net, b->dev, &m.config, &m.weights, &(swin_net_opts){ .dtype = SWIN_F32 }));
    run_in_batches(&m, net, NULL, fp32);
    for (int mode = 1; mode <= MODES; mode++) {
        CHECK_OK(swin_calib_file_derive(&f, (swin_int8_mode)mode));
        reference r;
        reference_make(&r, &m, &f, SWIN_PER_CHANNEL);
        print_message("Swin-T mode %d %s: worst block %.1f dB\n", mode, b->label, check_blocks(b, &r));
        reference_free(&r);
        check_network(&m, &f, b, fp32);
    }
    swin_net_free(net);
    free(fp32);
    swin_calib_file_free(&f);
    model_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks_demo),     cmocka_unit_test(test_blocks_v1),
        cmocka_unit_test(test_blocks_v2),       cmocka_unit_test(test_blocks_mixed),
        cmocka_unit_test(test_split),           cmocka_unit_test(test_trained),
        cmocka_unit_test(test_blocks_variants),
    };
    return cmocka_run_group_tests(tests, open_backends_under_test, close_backends_under_test);
}
