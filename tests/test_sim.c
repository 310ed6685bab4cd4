/* int8-sim: which weights and activations it rounds, and its blocks and logits against the PyTorch reference's. */
#include "tests/support/testing.h"

#include <math.h>

#include "data/loader.h"
#include "quant/linear_weight.h"
#include "quant/sim.h"
#include "runtime/base/h5.h"
#include "runtime/base/log.h"
#include "runtime/swin/checkpoint.h"
#include "runtime/swin/outputs.h"
#include "tests/support/tiny.h"

/* Weight ranges from the weights; every site gets this range. */
static void fill_ranges(swin_calib_file *f, const swin_config *c, const swin_weights *w, float amax)
{
    CHECK_OK(swin_calib_file_init(f, c));
    for (int i = 0; i < f->nsites; i++) {
        swin_site_record *s = &f->sites[i];
        s->amax = s->max = amax;
        s->min = -amax;
        s->count = 1;
    }
    for (int i = 0; i < f->nweights; i++) {
        swin_weight_record *r = &f->weights[i];
        swin_linear_weight l;
        CHECK_OK(swin_linear_weight_of(&l, c, w, r->site));
        for (int k = 0; k < l.out * l.in; k++) {
            float *row = &r->amax_channel[k / l.in];
            *row = fmaxf(*row, fabsf(l.data[k]));
            r->amax = fmaxf(r->amax, *row);
        }
    }
}

/* ---- a tiny network -------------------------------------------------------------------------------------------- */

enum { TINY_IMAGES = 3, TINY_CLASSES = 5 };

typedef struct tiny {
    swin_dev *dev;
    swin_config config;
    swin_weights weights;
    float *images, fp32[TINY_IMAGES * TINY_CLASSES];
    swin_calib_file f;
} tiny;

static void watch_max(tiny *t);

static void tiny_open(tiny *t, const char *backend)
{
    *t = (tiny){ .config = swin_tiny_config() };
    const size_t n = (size_t)TINY_IMAGES * 3 * (size_t)t->config.image_size * (size_t)t->config.image_size;
    swin_rng r = { 31 };
    t->images = malloc(n * sizeof *t->images);
    swin_fill_normal(&r, t->images, n, 1);
    CHECK_OK(swin_dev_open(&t->dev, backend, &(swin_dev_opts){ .threads = 2 }));
    CHECK_OK(swin_tiny_weights(&t->weights, 5));
    fill_ranges(&t->f, &t->config, &t->weights, 1);
    watch_max(t);
}

static void tiny_close(tiny *t)
{
    swin_calib_file_free(&t->f);
    swin_weights_free(&t->weights);
    swin_dev_close(t->dev);
    free(t->images);
}

/* The largest magnitude at each site, looked up element by element. */
static swin_status note_range(void *user, const swin_tap_point *p)
{
    tiny *t = user;
    const int i = swin_site_index(&t->config, p->site);
    if (i < 0) return SWIN_OK;
    const size_t n = (size_t)((p->x->rows - 1) * p->x->ld + p->x->cols);
    float *x = malloc(n * sizeof *x);
    SWIN_TRY(p->dev->ops->download(p->dev, x, p->x->data, n * sizeof *x));
    swin_site_record *s = &t->f.sites[i];
    for (size_t k = 0; k < n; k++) {
        if ((int64_t)k % p->x->ld >= p->x->cols) continue;
        s->min = fminf(s->min, x[k]);
        s->max = fmaxf(s->max, x[k]);
    }
    s->amax = fmaxf(-s->min, s->max);
    free(x);
    return SWIN_OK;
}

static void watch_max(tiny *t)
{
    swin_net *net;
    CHECK_OK(swin_net_create(&net, t->dev, &t->config, &t->weights, &(swin_net_opts){ .dtype = SWIN_F32 }));
    for (int i = 0; i < t->f.nsites; i++)
        if (swin_site_role_of(t->f.sites[i].site) != SWIN_ROLE_WEIGHT)
            t->f.sites[i].min = t->f.sites[i].max = 0;
    const swin_tap tap = { .user = t, .at = note_range };
    CHECK_OK(swin_net_forward(net, t->images, TINY_IMAGES, t->fp32, &tap));
    swin_net_free(net);
}

static double tiny_sqnr(tiny *t, swin_granularity g, const swin_tap *also)
{
    swin_sim *sim;
    float logits[TINY_IMAGES * TINY_CLASSES];
    CHECK_OK(swin_sim_create(&sim, t->dev, &t->f, &t->weights, g));
    CHECK_OK(swin_sim_forward(sim, t->images, TINY_IMAGES, logits, also));
    swin_sim_free(sim);
    return swin_sqnr_db(logits, t->fp32, SWIN_COUNT(logits));
}

static void test_nothing_enabled(void **state)
{
    (void)state;
    tiny t;
    tiny_open(&t, "cpu");
    CHECK_OK(swin_calib_file_derive(&t.f, SWIN_INT8_MODE_1));
    for (int i = 0; i < t.f.nsites; i++) t.f.sites[i].enabled = false;
    const double db = tiny_sqnr(&t, SWIN_PER_CHANNEL, NULL);
    CHECK(isinf(db) && db > 0, "%.1f dB instead of equality", db);
    tiny_close(&t);
}

static void test_modes(void **state)
{
    (void)state;
    static const char *const backends[] = { "cpu", "ref" };
    for (size_t b = 0; b < SWIN_COUNT(backends); b++) {
        tiny t;
        tiny_open(&t, backends[b]);
        double db[4][2];
        for (int mode = 1; mode <= 3; mode++)
            for (int g = 0; g < 2; g++) {
                CHECK_OK(swin_calib_file_derive(&t.f, (swin_int8_mode)mode));
                db[mode][g] = tiny_sqnr(&t, g ? SWIN_PER_TENSOR : SWIN_PER_CHANNEL, NULL);
                print_message("%s mode %d %s: %.1f dB\n", backends[b], mode, g ? "tensor" : "channel",
                              db[mode][g]);
                CHECK(db[mode][g] > 20 && db[mode][g] < 60, "%s mode %d: %.1f dB", backends[b], mode,
                      db[mode][g]);
            }
        CHECK(db[3][0] > db[1][0], "mode 3 is worse than mode 1");
        tiny_close(&t);
    }
}

/* What the tap sees after quantization lies on the site's grid; off sites do not. */
typedef struct grid {
    const swin_calib_file *f;
    int sites, off_grid, free_sites;
} grid;

static swin_status check_grid(void *user, const swin_tap_point *p)
{
    grid *g = user;
    const swin_site_record *s = swin_calib_file_site(g->f, p->site);
    if (!s || (s->enabled && s->q.qmin == 0)) return SWIN_OK;
    const size_t n = (size_t)((p->x->rows - 1) * p->x->ld + p->x->cols);
    float *x = malloc(n * sizeof *x);
    SWIN_TRY(p->dev->ops->download(p->dev, x, p->x->data, n * sizeof *x));
    size_t off = 0;
    for (size_t k = 0; k < n; k++) {
        if ((int64_t)k % p->x->ld >= p->x->cols) continue;
        const double code = (double)x[k] / (double)s->q.scale + s->q.zero_point;
        off += fabs(code - nearbyint(code)) > 1e-3 || code < s->q.qmin - 1e-3 || code > s->q.qmax + 1e-3;
    }
    free(x);
    g->sites += s->enabled;
    g->off_grid += s->enabled && off > 0;
    g->free_sites += !s->enabled && off > 0;
    return SWIN_OK;
}

static void test_grid(void **state)
{
    (void)state;
    tiny t;
    tiny_open(&t, "cpu");
    for (int mode = 1; mode <= 3; mode++) {
        CHECK_OK(swin_calib_file_derive(&t.f, (swin_int8_mode)mode));
        grid g = { .f = &t.f };
        const swin_tap tap = { .user = &g, .at = check_grid };
        tiny_sqnr(&t, SWIN_PER_CHANNEL, &tap);
        int want = 0;
        for (int i = 0; i < t.f.nsites; i++)
            want += t.f.sites[i].enabled && swin_site_role_of(t.f.sites[i].site) != SWIN_ROLE_WEIGHT &&
                    t.f.sites[i].q.qmin != 0;
        CHECK(g.sites == want && g.off_grid == 0, "mode %d: %d of %d sites seen, %d off their grid", mode,
              g.sites, want, g.off_grid);
        CHECK(g.free_sites > 0, "mode %d: sites that are off are rounded too", mode);
    }
    tiny_close(&t);
}

/* Mode 3's softmax makes its own codes, block by block: one that is off is exact. */
static void test_mixed_softmax(void **state)
{
    (void)state;
    tiny t;
    double db[3]; /* codes in both blocks, in the second alone, in none */
    tiny_open(&t, "cpu");
    CHECK_OK(swin_calib_file_derive(&t.f, SWIN_INT8_MODE_3));
    for (int i = 0; i < t.f.nsites; i++)
        t.f.sites[i].enabled = swin_site_role_of(t.f.sites[i].site) == SWIN_ROLE_SOFTMAX;
    for (int k = 0; k < 3; k++) {
        db[k] = tiny_sqnr(&t, SWIN_PER_CHANNEL, NULL);
        if (k == 0)
            t.f.sites[swin_site_index(&t.config, swin_site_make(0, 0, SWIN_SITE_MATMUL_A))].enabled = false;
        for (int i = 0; k == 1 && i < t.f.nsites; i++) t.f.sites[i].enabled = false;
    }
    print_message("softmax in codes everywhere %.2f dB, not in one block %.2f, nowhere %.2f\n", db[0], db[1],
                  db[2]);
    CHECK(db[0] > 20 && db[1] > db[0] + 0.1 && isfinite(db[1]) && isinf(db[2]), "%.2f, %.2f, %.2f dB", db[0],
          db[1], db[2]);
    tiny_close(&t);
}

/* ---- the golden file ------------------------------------------------------------------------------------------- */

static const char *const checkpoint = "weights/swin_tiny_patch4_window7_224_tin200_fp16.pth";

typedef struct golden {
    swin_h5 *h;
    swin_config config;
    swin_weights weights;
    swin_dev *dev;
    swin_calib_file f;
    const char *group;
    double worst;
    int blocks;
} golden;

/* The golden ranges, in the golden file's order of sites: ours, less weights and what it does not observe. */
static void read_ranges(golden *g, const char *calibrator)
{
    char set[SWIN_SITE_NAME_MAX + 32];
    float *amax;
    size_t n, at = 0;
    snprintf(set, sizeof set, "/amax/%s", calibrator);
    CHECK_OK(swin_h5_read(g->h, set, SWIN_F32, (void **)&amax, &n));
    fill_ranges(&g->f, &g->config, &g->weights, 1);
    for (int i = 0; i < g->f.nsites; i++) {
        char name[SWIN_SITE_NAME_MAX];
        swin_site_name(g->f.sites[i].site, name);
        snprintf(set, sizeof set, "/hist/%s", name);
        if (swin_h5_exists(g->h, set)) g->f.sites[i].amax = amax[at++];
    }
    CHECK(at == n, "%zu of %zu ranges used", at, n);
    CHECK_OK(swin_calib_file_derive(&g->f, SWIN_INT8_MODE_1));
    free(amax);
}

static void golden_open(golden *g, const char *path, const char *weights, const char *calibrator)
{
    *g = (golden){ .config = swin_config_default(), .worst = INFINITY };
    CHECK_OK(swin_h5_open(&g->h, path));
    CHECK_OK(swin_weights_load(&g->weights, &g->config, weights));
    CHECK_OK(swin_dev_open(&g->dev, "cpu", &(swin_dev_opts){ 0 }));
    read_ranges(g, calibrator);
}

static void golden_close(golden *g)
{
    swin_calib_file_free(&g->f);
    swin_dev_close(g->dev);
    swin_weights_free(&g->weights);
    swin_h5_close(g->h);
}

/* Compare a module's output with what the reference made of the same input, then put the float output in its place, so that
 * the next module starts from the reference's input. */
static swin_status force(void *user, const swin_tap_point *p)
{
    golden *g = user;
    char name[SWIN_SITE_NAME_MAX], set[2 * SWIN_SITE_NAME_MAX];
    swin_site_name(p->site, name);
    const size_t count = (size_t)p->x->rows * (size_t)p->x->cols;
    float *golden_in = NULL, *want = NULL;
    size_t n;
    snprintf(set, sizeof set, "/block_forced/%s/%s", g->group, name);
    if (swin_h5_exists(g->h, set)) {
        float *got = malloc(count * sizeof *got);
        CHECK_OK(swin_h5_read(g->h, set, SWIN_F32, (void **)&want, &n));
        CHECK(n == count && p->x->ld == p->x->cols, "%s: %zu values instead of %zu", name, count, n);
        CHECK_OK(p->dev->ops->download(p->dev, got, p->x->data, count * sizeof *got));
        const double db = swin_sqnr_db(got, want, count);
        g->worst = fmin(g->worst, db);
        g->blocks++;
        CHECK(db >= 55, "%s: %s: %.1f dB", g->group, name, db);
        free(got);
        free(want);
    }
    snprintf(set, sizeof set, "/taps/%s", name);
    if (!swin_h5_exists(g->h, set)) return SWIN_OK;
    CHECK_OK(swin_h5_read(g->h, set, SWIN_F32, (void **)&golden_in, &n));
    CHECK(n == count, "%s: %zu values instead of %zu", name, count, n);
    const swin_status st = p->dev->ops->upload(p->dev, p->x->data, golden_in, count * sizeof *golden_in);
    free(golden_in);
    return st;
}

static bool outputs_only(void *user, swin_site site)
{
    (void)user;
    return swin_site_role_of(site) == SWIN_ROLE_OUTPUT;
}

static void check_blocks(const char *calibrator, const char *group, swin_granularity granularity,
                         bool inputs_only)
{
    SWIN_TEST_FILE(path, "golden/swin_tiny_tin200.h5");
    SWIN_TEST_FILE(weights, checkpoint);
    golden g;
    golden_open(&g, path, weights, calibrator);
    g.group = group;
    for (int i = 0; inputs_only && i < g.f.nsites; i++) {
        const swin_site_role role = swin_site_role_of(g.f.sites[i].site);
        if (role == SWIN_ROLE_AFTERGEMM || role == SWIN_ROLE_AFTERGEMM_WIDE) g.f.sites[i].enabled = false;
    }
    float *image = calloc(3 * 224 * 224, sizeof *image),
          logits[200]; /* whatever: patch_embed's output is replaced */
    swin_sim *sim;
    CHECK_OK(swin_sim_create(&sim, g.dev, &g.f, &g.weights, granularity));
    const swin_tap tap = { .user = &g, .wants = outputs_only, .at = force };
    CHECK_OK(swin_sim_forward(sim, image, 1, logits, &tap));
    print_message("%s: %d modules, worst %.1f dB\n", group, g.blocks, g.worst);
    CHECK(g.blocks == 15, "%d modules compared", g.blocks);
    swin_sim_free(sim);
    free(image);
    golden_close(&g);
}

static void test_blocks_tensor(void **state)
{
    (void)state;
    check_blocks("percentile", "percentile_mode1_tensor", SWIN_PER_TENSOR, false);
}

static void test_blocks_channel(void **state)
{
    (void)state;
    check_blocks("mse", "mse_inputs_channel", SWIN_PER_CHANNEL, true);
}

/* SQNR and agreement of logits with fp32's. */
static void distance(double *db, double *agree, const float *x, const float *ref, size_t images, int classes)
{
    int same = 0;
    for (size_t i = 0; i < images; i++)
        same += swin_argmax(x + i * (size_t)classes, classes) ==
                swin_argmax(ref + i * (size_t)classes, classes);
    *db = swin_sqnr_db(x, ref, images * (size_t)classes);
    *agree = 100.0 * same / (double)images;
}

static void run_sim(golden *g, swin_loader *l, float *logits)
{
    swin_sim *sim;
    swin_batch b;
    size_t at = 0;
    CHECK_OK(swin_sim_create(&sim, g->dev, &g->f, &g->weights, SWIN_PER_TENSOR));
    for (;;) {
        CHECK_OK(swin_loader_next(l, &b));
        if (b.n == 0) break;
        CHECK_OK(swin_sim_forward(sim, b.pixels, b.n, logits + at * 200, NULL));
        at += (size_t)b.n;
    }
    swin_sim_free(sim);
    CHECK(at == 256, "%zu images", at);
}

static void test_logits(void **state)
{
    (void)state;
    SWIN_TEST_FILE(path, "golden/swin_tiny_tin200.h5");
    SWIN_TEST_FILE(weights, checkpoint);
    SWIN_TEST_FILE(data, "tiny-imagenet");
    golden g;
    golden_open(&g, path, weights, "percentile");
    float *fp32, *theirs, *ours = malloc(256 * 200 * sizeof *ours);
    size_t n;
    CHECK_OK(swin_h5_read(g.h, "/fp32/logits", SWIN_F32, (void **)&fp32, &n));
    CHECK(n == 256 * 200, "%zu logits", n);
    CHECK_OK(swin_h5_read(g.h, "/int8_sim/percentile/mode1/logits", SWIN_F32, (void **)&theirs, &n));
    CHECK(n == 256 * 200, "%zu logits", n);
    swin_dataset *ds;
    swin_loader *l;
    CHECK_OK(swin_dataset_open(&ds, data, "val"));
    const swin_loader_opts opts = { .count = 256, .batch = 8, .preprocess = { .size = 224, .crop = true } };
    CHECK_OK(swin_loader_open(&l, ds, &opts));
    run_sim(&g, l, ours);
    double db[2], agree[2];
    distance(&db[0], &agree[0], ours, fp32, 256, 200);
    distance(&db[1], &agree[1], theirs, fp32, 256, 200);
    print_message("int8-sim: %.2f dB and %.2f %%, the reference's: %.2f dB and %.2f %%\n", db[0], agree[0],
                  db[1], agree[1]);
    CHECK(fabs(db[0] - db[1]) <= 0.3, "SQNR %.2f dB, reference %.2f", db[0], db[1]);
    CHECK(fabs(agree[0] - agree[1]) <= 1.2, "agreement %.2f %%, reference %.2f", agree[0], agree[1]);
    swin_loader_close(l);
    swin_dataset_close(ds);
    free(fp32);
    free(theirs);
    free(ours);
    golden_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_enabled),
        cmocka_unit_test(test_modes),
        cmocka_unit_test(test_grid),
        cmocka_unit_test(test_mixed_softmax),
        cmocka_unit_test(test_blocks_tensor),
        cmocka_unit_test(test_blocks_channel),
        cmocka_unit_test(test_logits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
