/* The integer network of the cuda backend: blocks against int8-sim on forced inputs, and one result for
 * every split into batches. Without a GPU each test is skipped, and the last line says how many. */
#include <math.h>

#include "quant/plan.h"
#include "quant/sim.h"
#include "runtime/base/half.h"
#include "runtime/ops/ops.h"
#include "runtime/swin/checkpoint.h"
#include "tests/support/ranges.h"
#include "tests/support/testing.h"
#include "tests/support/tiny.h"
#include "tests/support/trained.h"

static swin_dev *gpu;
static int skipped;

#define NEED_GPU()                                                                                           \
    if (!gpu) {                                                                                              \
        skipped++;                                                                                           \
        skip();                                                                                              \
    }

static const swin_dtype types[] = { SWIN_F32, SWIN_F16, SWIN_BF16 };

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

/* SWIN_SOURCE: where the repository's files lie on a machine that only has the bundle. */
static const char *source(void)
{
    const char *given = getenv("SWIN_SOURCE");
    return given && *given ? given : SWIN_SOURCE_DIR;
}

static model demo_model(int images)
{
    char config[1024], weights[1024];
    model m = { .count = images };
    snprintf(config, sizeof config, "%s/configs/swin_demo_patch4_window7_112.yaml", source());
    snprintf(weights, sizeof weights, "%s/tests/demo/swin_demo.safetensors", source());
    swin_rng r = { 201 };
    CHECK_OK(swin_config_load(&m.config, config, NULL));
    CHECK_OK(swin_weights_load(&m.weights, &m.config, weights));
    m.images = malloc((size_t)images * pixels_of(&m) * sizeof *m.images);
    CHECK(m.images != NULL, "no memory");
    swin_fill_normal(&r, m.images, (size_t)images * pixels_of(&m), 1);
    return m;
}

/* An official network of which two blocks of each stage are left, with trained-like weights, and one
 * image. */
static model variant_model(const char *name)
{
    char path[1024];
    model m = { .count = 1 };
    swin_rng r = { 203 };
    snprintf(path, sizeof path, "%s/configs/%s.yaml", source(), name);
    CHECK_OK(swin_config_load(&m.config, path, NULL));
    for (int s = 0; s < m.config.num_stages; s++) m.config.depths[s] = 2;
    CHECK_OK(swin_trained_weights(&m.weights, &m.config, 204));
    m.images = malloc(pixels_of(&m) * sizeof *m.images);
    CHECK(m.images != NULL, "no memory");
    swin_fill_normal(&r, m.images, pixels_of(&m), 1);
    return m;
}

static void model_free(model *m)
{
    swin_weights_free(&m->weights);
    free(m->images);
}

static swin_net *integer_net(const model *m, const swin_calib_file *f, swin_granularity g, swin_dtype t)
{
    swin_plan plan;
    swin_net *net;
    CHECK_OK(swin_plan_create(&plan, f, g));
    CHECK_OK(
        swin_net_create(&net, gpu, &m->config, &m->weights, &(swin_net_opts){ .dtype = t, .plan = &plan }));
    swin_plan_free(&plan);
    return net;
}

enum { MOST_OUTPUTS = 64 };

/* The outputs of one pass, in forward order; with `forced`, each is replaced by another pass's after it
 * was kept. */
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
    const size_t n = (size_t)(p->x->rows * p->x->cols), bytes = n * swin_dtype_size(p->x->dtype);
    CHECK(o->count < MOST_OUTPUTS && p->x->ld == p->x->cols, "output %d", o->count);
    float *x = malloc(n * sizeof *x);
    char *raw = malloc(bytes);
    CHECK(x && raw, "no memory");
    CHECK_OK(p->dev->ops->download(p->dev, raw, p->x->data, bytes));
    swin_widen(x, raw, p->x->dtype, n);
    /* What others are fed must be the same in every type. */
    for (size_t i = 0; !o->forced && i < n; i++) x[i] = swin_round_to(x[i], SWIN_F16);
    o->x[o->count] = x, o->size[o->count] = n, o->site[o->count] = p->site;
    const float *feed = o->forced ? o->forced->x[o->count] : x;
    o->count++;
    for (size_t i = 0; i < n; i++) {
        const uint16_t half = swin_f32_to_f16(feed[i]);
        if (p->x->dtype == SWIN_F16)
            memcpy(raw + 2 * i, &half, 2);
        else
            memcpy(raw + 4 * i, &feed[i], 4);
    }
    CHECK_OK(p->dev->ops->upload(p->dev, p->x->data, raw, bytes));
    free(raw);
    return SWIN_OK;
}

static void outputs_free(outputs *o)
{
    for (int i = 0; i < o->count; i++) free(o->x[i]);
    *o = (outputs){ 0 };
}

/* The same block against int8-sim with its sums in double, on `ref`. In float32 these are off by 1e-6,
 * which gives one code in 40,000 that an exact sum would not: a query's or value's, which in a stage of
 * one window of 144 tokens reaches every token. So two right references can be 48 dB apart there (mode 1),
 * and neither is the better one. */
static double against_double(const model *m, const swin_calib_file *f, swin_granularity g, int part,
                             const float *in, const float *got, size_t size)
{
    swin_dev *ref;
    swin_sim *sim;
    float *out = malloc(size * sizeof *out);
    CHECK(out != NULL, "no memory");
    CHECK_OK(swin_dev_open(&ref, "ref", &(swin_dev_opts){ 0 }));
    CHECK_OK(swin_sim_create(&sim, ref, f, &m->weights, g));
    CHECK_OK(swin_sim_forward_parts(sim, part, part + 1, in, 1, out, NULL));
    const double db = swin_sqnr_db(got, out, size);
    swin_sim_free(sim);
    swin_dev_close(ref);
    free(out);
    return db;
}

/* Every block and merge of the first image: engine against int8-sim on the CPU, both fed fp32's tensors. */
static double worst_block(swin_dev *cpu, const model *m, const swin_calib_file *f, swin_granularity g,
                          swin_dtype stream)
{
    float *logits = malloc((size_t)m->config.num_classes * sizeof *logits);
    outputs fp32 = { 0 }, simulated = { .forced = &fp32 }, engine = { .forced = &fp32 };
    swin_tap tap = { .wants = wants_outputs, .at = keep };
    swin_net *net;
    swin_sim *sim;
    double worst = INFINITY;
    CHECK(logits != NULL, "no memory");
    CHECK_OK(swin_net_create(&net, cpu, &m->config, &m->weights, &(swin_net_opts){ .dtype = SWIN_F32 }));
    tap.user = &fp32;
    CHECK_OK(swin_net_forward(net, m->images, 1, logits, &tap));
    swin_net_free(net);
    CHECK_OK(swin_sim_create(&sim, cpu, f, &m->weights, g));
    tap.user = &simulated;
    CHECK_OK(swin_sim_forward(sim, m->images, 1, logits, &tap));
    swin_sim_free(sim);
    net = integer_net(m, f, g, stream);
    tap.user = &engine;
    CHECK_OK(swin_net_forward(net, m->images, 1, logits, &tap));
    swin_net_free(net);
    CHECK(engine.count == simulated.count && simulated.count == fp32.count, "%d outputs, %d, %d",
          engine.count, simulated.count, fp32.count);
    for (int i = 0; i < engine.count; i++) {
        double db = swin_sqnr_db(engine.x[i], simulated.x[i], simulated.size[i]);
        char name[SWIN_SITE_NAME_MAX];
        swin_site_name(engine.site[i], name);
        if (db < 50) {
            const double exact =
                i < 1 ? db : against_double(m, f, g, i, fp32.x[i - 1], engine.x[i], engine.size[i]);
            print_message("  mode %d, %s stream: %s: %.1f dB, from int8-sim in double %.1f dB\n",
                          (int)f->mode, swin_dtype_name(stream), name, db, exact);
            db = fmax(db, exact);
        }
        worst = fmin(worst, db);
    }
    outputs_free(&engine), outputs_free(&simulated), outputs_free(&fp32);
    free(logits);
    return worst;
}

/* The residual stream in float32, and in float16 as the engine has it. Between the halves of a block its
 * rounding moves codes that lie near a tie; in mode 1 each of these costs a whole step of a product's
 * rounding too. The bar holds for all of them. */
static void test_blocks(void **state)
{
    (void)state;
    NEED_GPU();
    model m = demo_model(4);
    swin_dev *cpu;
    double worst = INFINITY;
    CHECK_OK(swin_dev_open(&cpu, "cpu", &(swin_dev_opts){ 0 }));
    for (int mode = 1; mode <= 3; mode++) {
        swin_calib_file f;
        CHECK_OK(swin_ranges_of(&f, cpu, &m.config, &m.weights, m.images, m.count, (swin_int8_mode)mode));
        for (int t = 0; t < 2; t++) {
            const swin_dtype stream = t ? SWIN_F16 : SWIN_F32;
            const double channel = worst_block(cpu, &m, &f, SWIN_PER_CHANNEL, stream),
                         tensor = worst_block(cpu, &m, &f, SWIN_PER_TENSOR, stream);
            print_message("  mode %d, %s stream: worst block %.1f dB, weights per tensor %.1f dB\n", mode,
                          swin_dtype_name(stream), channel, tensor);
            worst = fmin(worst, fmin(channel, tensor));
        }
        swin_calib_file_free(&f);
    }
    swin_dev_close(cpu);
    model_free(&m);
    CHECK(worst >= 50, "worst block %.1f dB", worst);
}

/* One kind of layer in the float type, as --int8-mode auto leaves them (attention with all its operands):
 * the other half of a block may still be fused. */
static void test_relaxed(void **state)
{
    (void)state;
    NEED_GPU();
    static const swin_site_kind relaxed[][4] = {
        { SWIN_SITE_QKV_INPUT, SWIN_SITE_QKV_WEIGHT, SWIN_SITE_QKV_INPUT, SWIN_SITE_QKV_INPUT },
        { SWIN_SITE_PROJ_INPUT, SWIN_SITE_PROJ_WEIGHT, SWIN_SITE_PROJ_INPUT, SWIN_SITE_PROJ_INPUT },
        { SWIN_SITE_FC1_INPUT, SWIN_SITE_FC1_WEIGHT, SWIN_SITE_FC1_INPUT, SWIN_SITE_FC1_INPUT },
        { SWIN_SITE_FC2_INPUT, SWIN_SITE_FC2_WEIGHT, SWIN_SITE_FC2_INPUT, SWIN_SITE_FC2_INPUT },
        { SWIN_SITE_MATMUL_Q, SWIN_SITE_MATMUL_K, SWIN_SITE_MATMUL_V, SWIN_SITE_MATMUL_A }
    };
    model m = demo_model(2);
    swin_dev *cpu;
    swin_calib_file f;
    double worst = INFINITY;
    CHECK_OK(swin_dev_open(&cpu, "cpu", &(swin_dev_opts){ 0 }));
    CHECK_OK(swin_ranges_of(&f, cpu, &m.config, &m.weights, m.images, m.count, SWIN_INT8_MODE_3));
    for (size_t k = 0; k < SWIN_COUNT(relaxed); k++) {
        CHECK_OK(swin_calib_file_derive(&f, SWIN_INT8_MODE_3));
        for (int i = 0; i < f.nsites; i++)
            for (int n = 0; n < 4; n++)
                if (swin_site_kind_of(f.sites[i].site) == relaxed[k][n]) f.sites[i].enabled = false;
        worst = fmin(worst, worst_block(cpu, &m, &f, SWIN_PER_CHANNEL, SWIN_F16));
    }
    print_message("  mode 3, one kind of layer in float16: worst block %.1f dB\n", worst);
    swin_calib_file_free(&f);
    swin_dev_close(cpu);
    model_free(&m);
    CHECK(worst >= 50, "worst block %.1f dB", worst);
}

/* The other windows and Swin V2, in the engine's own stream. */
static void test_variants(void **state)
{
    (void)state;
    NEED_GPU();
    static const char *names[] = { "swinv2_tiny_patch4_window8_256", "swinv2_base_patch4_window16_256",
                                   "swin_base_patch4_window12_384_finetune" };
    swin_dev *cpu;
    double worst = INFINITY;
    CHECK_OK(swin_dev_open(&cpu, "cpu", &(swin_dev_opts){ 0 }));
    for (size_t i = 0; i < SWIN_COUNT(names); i++) {
        model m = variant_model(names[i]);
        for (int mode = 1; mode <= 3; mode += 2) {
            swin_calib_file f;
            CHECK_OK(swin_ranges_of(&f, cpu, &m.config, &m.weights, m.images, 1, (swin_int8_mode)mode));
            const double db = worst_block(cpu, &m, &f, SWIN_PER_CHANNEL, SWIN_F16);
            print_message("  %s, mode %d: worst block %.1f dB\n", names[i], mode, db);
            worst = fmin(worst, db);
            swin_calib_file_free(&f);
        }
        model_free(&m);
    }
    swin_dev_close(cpu);
    CHECK(worst >= 50, "worst block %.1f dB", worst);
}

/* The same logits, bit for bit, in every split; recorded or not, in any of the float types. */
static void test_batches(void **state)
{
    (void)state;
    NEED_GPU();
    enum { IMAGES = 64 };
    static const int batches[] = { 64, 1, 7, 32 };
    model m = demo_model(IMAGES);
    const int classes = m.config.num_classes;
    float *want = malloc((size_t)(IMAGES * classes) * sizeof *want),
          *got = malloc((size_t)(IMAGES * classes) * sizeof *got);
    swin_dev *cpu;
    CHECK(want && got, "no memory");
    CHECK_OK(swin_dev_open(&cpu, "cpu", &(swin_dev_opts){ 0 }));
    for (int mode = 1; mode <= 3; mode++) {
        swin_calib_file f;
        CHECK_OK(swin_ranges_of(&f, cpu, &m.config, &m.weights, m.images, 4, (swin_int8_mode)mode));
        for (size_t t = 0; t < SWIN_COUNT(types); t++) {
            swin_net *net = integer_net(&m, &f, SWIN_PER_CHANNEL, types[t]);
            for (size_t k = 0; k < SWIN_COUNT(batches); k++)
                for (int at = 0; at + batches[k] <= IMAGES; at += batches[k] * (k == 1 ? 9 : 1)) {
                    CHECK_OK(swin_net_forward(net, m.images + (size_t)at * pixels_of(&m), batches[k],
                                              k ? got : want, NULL));
                    if (k)
                        CHECK(memcmp(got, want + at * classes,
                                     (size_t)(batches[k] * classes) * sizeof *got) == 0,
                              "mode %d, %s: image %d differs in a batch of %d", mode,
                              swin_dtype_name(types[t]), at, batches[k]);
                }
            swin_net_free(net);
        }
        swin_calib_file_free(&f);
    }
    swin_dev_close(cpu);
    free(want), free(got);
    model_free(&m);
}

static int open_device(void **state)
{
    (void)state;
    if (swin_dev_open(&gpu, "cuda", &(swin_dev_opts){ 0 }) != SWIN_OK)
        print_message("no GPU: %s\n", swin_error_message());
    return 0;
}

static int close_device(void **state)
{
    (void)state;
    swin_dev_close(gpu);
    if (skipped) print_message("skipped: %d tests need a GPU\n", skipped);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_blocks), cmocka_unit_test(test_relaxed),
                                        cmocka_unit_test(test_variants), cmocka_unit_test(test_batches) };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
