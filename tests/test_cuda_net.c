/* Whole networks on the GPU: PyTorch's and timm's logits and block outputs, one result for any batch split,
 * observers as the cpu backend's. Without a GPU each test is skipped, and the last line says how many. */
#include "tests/support/testing.h"

#include <math.h>

#include "data/loader.h"
#include "runtime/base/h5.h"
#include "runtime/swin/checkpoint.h"
#include "runtime/swin/net.h"
#include "tests/support/trained.h"

static int skipped;
static bool gpu;

#define NEED_GPU()                                                                                           \
    if (!gpu) {                                                                                              \
        skipped++;                                                                                           \
        skip();                                                                                              \
    }

typedef struct precision {
    const char *name;
    swin_dtype dtype;
    bool tf32;
    double limit; /* relative L2 of logits against float32's */
} precision;

static const precision precisions[] = {
    { "fp32", SWIN_F32, false, 1e-4 },
    { "tf32", SWIN_F32, true, 1e-2 },
    { "fp16", SWIN_F16, false, 1e-2 },
    { "bf16", SWIN_BF16, false, 8e-2 },
};

/* Logits of n images in batches; the caller frees. */
static float *forward(const char *backend, const precision *p, const swin_config *c, const swin_weights *w,
                      const float *images, int n, int batch, bool no_graph, const swin_tap *tap)
{
    const size_t pixels = (size_t)c->in_chans * (size_t)c->image_size * (size_t)c->image_size;
    swin_dev *dev;
    swin_net *net;
    float *logits = malloc((size_t)n * (size_t)c->num_classes * sizeof *logits);
    CHECK(logits != NULL, "no memory");
    CHECK_OK(swin_dev_open(&dev, backend, &(swin_dev_opts){ .tf32 = p->tf32 }));
    CHECK_OK(swin_net_create(&net, dev, c, w, &(swin_net_opts){ .dtype = p->dtype, .no_graph = no_graph }));
    for (int at = 0; at < n; at += batch)
        CHECK_OK(swin_net_forward(net, images + (size_t)at * pixels, n - at < batch ? n - at : batch,
                                  logits + (size_t)at * (size_t)c->num_classes, tap));
    swin_net_free(net);
    swin_dev_close(dev);
    return logits;
}

/* ---- shared data
 * ------------------------------------------------------------------------------------------------- */

enum { GOLDEN = 256, SIZE = 224, PIXELS = 3 * SIZE * SIZE };

static struct {
    swin_config config;
    swin_weights weights;
    float *images, *logits;
} golden;

static void load_images(const char *folder)
{
    swin_dataset *ds;
    swin_loader *l;
    swin_batch b;
    CHECK_OK(swin_dataset_open(&ds, folder, "val"));
    CHECK_OK(swin_loader_open(
        &l, ds, &(swin_loader_opts){ .count = GOLDEN, .batch = 64, .preprocess = { SIZE, true } }));
    golden.images = malloc((size_t)GOLDEN * PIXELS * sizeof(float));
    CHECK(golden.images != NULL, "no memory");
    size_t at = 0;
    for (;;) {
        CHECK_OK(swin_loader_next(l, &b));
        if (b.n == 0) break;
        memcpy(golden.images + at * PIXELS, b.pixels, (size_t)b.n * PIXELS * sizeof(float));
        at += (size_t)b.n;
    }
    CHECK(at == GOLDEN, "%zu images", at);
    swin_loader_close(l);
    swin_dataset_close(ds);
}

static void need_golden(void)
{
    const char *file = swin_test_file("golden/swin_tiny_tin200.h5"),
               *images = swin_test_file("tiny-imagenet"),
               *checkpoint = swin_test_file("weights/swin_tiny_patch4_window7_224_tin200_fp16.pth");
    if (!file || !images || !checkpoint) {
        print_message("skipped: no golden logits, checkpoint or images in the test data (SWIN_TEST_DATA)\n");
        skip();
    }
    if (golden.images) return;
    swin_h5 *f;
    void *data;
    size_t count;
    golden.config = swin_config_default();
    CHECK_OK(swin_weights_load(&golden.weights, &golden.config, checkpoint));
    CHECK_OK(swin_h5_open(&f, file));
    CHECK_OK(swin_h5_read(f, "/fp32/logits", SWIN_F32, &data, &count));
    CHECK(count == (size_t)GOLDEN * (size_t)golden.config.num_classes, "%zu golden logits", count);
    golden.logits = data;
    swin_h5_close(f);
    load_images(images);
}

static void test_golden_logits(void **state)
{
    (void)state;
    NEED_GPU();
    need_golden();
    const int classes = golden.config.num_classes;
    for (size_t i = 0; i < SWIN_COUNT(precisions); i++) {
        const precision *p = &precisions[i];
        float *logits =
            forward("cuda", p, &golden.config, &golden.weights, golden.images, GOLDEN, 64, false, NULL);
        const double e = swin_rel_l2(logits, golden.logits, (size_t)GOLDEN * (size_t)classes);
        int differ = 0;
        for (int k = 0; k < GOLDEN; k++)
            differ += swin_argmax(logits + k * classes, classes) !=
                      swin_argmax(golden.logits + k * classes, classes);
        print_message("  %s: %d images, relative L2 %.2e, %d argmax differ\n", p->name, GOLDEN, e, differ);
        CHECK(e <= p->limit, "%s: %.2e", p->name, e);
        CHECK(differ == 0 || i > 0, "%s: %d argmax differ", p->name, differ);
        free(logits);
    }
}

typedef struct watcher {
    swin_h5 *file;
    int seen;
    double worst;
} watcher;

static bool is_output(void *user, swin_site site)
{
    (void)user;
    return swin_site_role_of(site) == SWIN_ROLE_OUTPUT;
}

static swin_status compare_output(void *user, const swin_tap_point *p)
{
    watcher *w = user;
    char name[SWIN_SITE_NAME_MAX], path[SWIN_SITE_NAME_MAX + 8];
    void *want;
    size_t count;
    swin_site_name(p->site, name);
    snprintf(path, sizeof path, "/taps/%s", name);
    if (!swin_h5_exists(w->file, path)) return SWIN_OK;
    CHECK_OK(swin_h5_read(w->file, path, SWIN_F32, &want, &count));
    CHECK((size_t)(p->x->rows * p->x->cols) == count, "%s: %zu golden values", name, count);
    float *got = malloc(count * sizeof *got);
    CHECK(got != NULL, "no memory");
    CHECK_OK(p->dev->ops->download(p->dev, got, p->x->data, count * sizeof *got));
    const double e = swin_rel_l2(got, want, count);
    CHECK(e <= 1e-4, "%s: %.2e", name, e);
    w->worst = e > w->worst ? e : w->worst;
    w->seen++;
    free(got), free(want);
    return SWIN_OK;
}

static void test_golden_taps(void **state)
{
    (void)state;
    NEED_GPU();
    need_golden();
    watcher w = { 0 };
    CHECK_OK(swin_h5_open(&w.file, swin_test_file("golden/swin_tiny_tin200.h5")));
    const swin_tap tap = { .user = &w, .wants = is_output, .at = compare_output };
    free(forward("cuda", &precisions[0], &golden.config, &golden.weights, golden.images, 1, 1, false, &tap));
    swin_h5_close(w.file);
    print_message("  %d block outputs, worst relative L2 %.2e\n", w.seen, w.worst);
    CHECK(w.seen == 16, "%d golden outputs were met", w.seen);
}

/* ---- families
 * ---------------------------------------------------------------------------------------------------- */

enum { CLASSES = 10, PICTURES = 2, SEED = 7 };

/* SWIN_SOURCE: where the repository's files lie on a machine that only has the bundle. */
static const char *source(void)
{
    const char *given = getenv("SWIN_SOURCE");
    return given && *given ? given : SWIN_SOURCE_DIR;
}

static void read_golden(float *logits, const char *name)
{
    char path[1024], line[256];
    snprintf(path, sizeof path, "%s/tests/golden/families.txt", source());
    FILE *f = fopen(path, "r");
    CHECK(f != NULL, "no %s", path);
    bool found = false;
    while (!found && fgets(line, sizeof line, f))
        found = strcspn(line, "\n") == strlen(name) && !strncmp(line, name, strlen(name));
    CHECK(found, "%s is not in the golden file", name);
    for (int i = 0; i < PICTURES * CLASSES; i++)
        CHECK(fscanf(f, "%f", &logits[i]) == 1, "golden value %d", i);
    fclose(f);
}

static void one_family(const char *name)
{
    char path[1024];
    const char *words[] = { "MODEL.NUM_CLASSES", "10" };
    swin_config c;
    swin_weights w;
    float want[PICTURES * CLASSES];
    snprintf(path, sizeof path, "%s/configs/%s.yaml", source(), name);
    CHECK_OK(swin_config_load(&c, path, &(swin_pairs){ 1, words }));
    CHECK_OK(swin_trained_weights(&w, &c, SEED));
    read_golden(want, name);
    const size_t pixels = (size_t)3 * (size_t)c.image_size * (size_t)c.image_size;
    float *images = malloc(PICTURES * pixels * sizeof *images);
    CHECK(images != NULL, "no memory");
    swin_rng r = { .state = 20260 + (uint64_t)c.image_size };
    swin_fill_normal(&r, images, PICTURES * pixels, 1);
    for (size_t i = 0; i < SWIN_COUNT(precisions); i++) {
        const precision *p = &precisions[i];
        float *logits = forward("cuda", p, &c, &w, images, PICTURES, PICTURES, false, NULL);
        const double e = swin_rel_l2(logits, want, PICTURES * CLASSES);
        /* These weights are rougher than a trained network's: float32 alone says whether the arithmetic is
         * right. */
        print_message("  %s %s: relative L2 %.2e\n", name, p->name, e);
        CHECK(e <= (i ? 0.3 : 2e-5), "%s %s: %.2e", name, p->name, e);
        free(logits);
    }
    free(images);
    swin_weights_free(&w);
}

static void test_families(void **state)
{
    (void)state;
    NEED_GPU();
    one_family("swin_tiny_patch4_window7_224");
    one_family("swin_tiny_c24_patch4_window8_256");
    one_family("swinv2_tiny_patch4_window8_256");
}

/* ---- batches
 * ------------------------------------------------------------------------------------------------------- */

typedef struct shape {
    const char *name;
    swin_family family;
    int embed_dim, heads, window, image_size, images;
} shape;

/* The widths of T, B and L and both windows, with few blocks: two in the first stages, so that one is
 * shifted. */
static const shape shapes[] = {
    { "T 224/7", SWIN_V1, 96, 3, 7, 224, 64 },   { "B 224/7", SWIN_V1, 128, 4, 7, 224, 33 },
    { "L 224/7", SWIN_V1, 192, 6, 7, 224, 33 },  { "B 384/12", SWIN_V1, 128, 4, 12, 384, 9 },
    { "V2-T 256/8", SWIN_V2, 96, 3, 8, 256, 9 },
};

static void model_of(const shape *s, swin_config *c, swin_weights *w, float **images)
{
    *c = swin_config_default();
    c->family = s->family;
    c->embed_dim = s->embed_dim, c->window = s->window, c->image_size = s->image_size, c->num_classes = 37;
    for (int i = 0; i < c->num_stages; i++) c->depths[i] = i < 2 ? 2 : 1, c->heads[i] = s->heads << i;
    CHECK_OK(swin_config_check(c));
    CHECK_OK(swin_trained_weights(w, c, 11));
    const size_t n = (size_t)s->images * 3 * (size_t)s->image_size * (size_t)s->image_size;
    *images = malloc(n * sizeof **images);
    CHECK(*images != NULL, "no memory");
    swin_rng rng = { 12 };
    for (size_t i = 0; i < n; i++) (*images)[i] = (float)(4 * swin_rng_uniform(&rng) - 2);
}

/* Batches of 1, 7, 32 and all, recorded or not: the same bits. */
static void test_batch_split(void **state)
{
    (void)state;
    NEED_GPU();
    for (size_t k = 0; k < SWIN_COUNT(shapes); k++) {
        const shape *s = &shapes[k];
        swin_config c;
        swin_weights w;
        float *images;
        model_of(s, &c, &w, &images);
        for (size_t i = 0; i < SWIN_COUNT(precisions); i++) {
            static const int splits[] = { 7, 32, 1 };
            float *whole = forward("cuda", &precisions[i], &c, &w, images, s->images, s->images, false, NULL);
            for (size_t b = 0; b < SWIN_COUNT(splits); b++) {
                if (splits[b] >= s->images) continue;
                /* A run of one size is recorded at its second batch and replayed from there. */
                const int n = splits[b] == 1 ? 3 : s->images;
                float *parts = forward("cuda", &precisions[i], &c, &w, images, n, splits[b], b == 0, NULL);
                CHECK(memcmp(parts, whole, (size_t)(n * c.num_classes) * sizeof *parts) == 0,
                      "%s %s: batches of %d give other bits than %d (%.1e)", s->name, precisions[i].name,
                      splits[b], s->images, swin_rel_l2(parts, whole, (size_t)(n * c.num_classes)));
                free(parts);
            }
            free(whole);
        }
        print_message("  %s: equal bits\n", s->name);
        free(images);
        swin_weights_free(&w);
    }
}

/* Two batches in flight give what one at a time gives, on either kind of backend; a third is refused. */
static void one_stream(const char *backend, const precision *p)
{
    enum { N = 11, BATCH = 3 };
    swin_config c = swin_config_default();
    swin_weights w;
    c.image_size = 56, c.num_stages = 2, c.window = 7, c.num_classes = 5;
    CHECK_OK(swin_config_check(&c));
    CHECK_OK(swin_trained_weights(&w, &c, 3));
    const size_t pixels = 3 * 56 * 56;
    float *images = malloc(N * pixels * sizeof *images), logits[N * 5];
    CHECK(images != NULL, "no memory");
    swin_rng rng = { 4 };
    swin_fill_normal(&rng, images, N * pixels, 1);
    float *want = forward(backend, p, &c, &w, images, N, N, true, NULL);
    swin_dev *dev;
    swin_net *net;
    CHECK_OK(swin_dev_open(&dev, backend, &(swin_dev_opts){ .tf32 = p->tf32 }));
    CHECK_OK(swin_net_create(&net, dev, &c, &w, &(swin_net_opts){ .dtype = p->dtype }));
    float *scratch = malloc(BATCH * pixels * sizeof *scratch);
    CHECK(scratch != NULL, "no memory");
    CHECK_FAILS(swin_net_fetch(net, logits), SWIN_ERR_VALUE, "in flight");
    int fetched = 0;
    for (int at = 0; at < N; at += BATCH) {
        const int n = N - at < BATCH ? N - at : BATCH;
        memcpy(scratch, images + (size_t)at * pixels, (size_t)n * pixels * sizeof *scratch);
        CHECK_OK(swin_net_queue(net, scratch, n));
        memset(scratch, 0xff, BATCH * pixels * sizeof *scratch); /* the caller's again */
        if (at == 0) continue;
        if (at == BATCH) CHECK_FAILS(swin_net_queue(net, images, 1), SWIN_ERR_VALUE, "in flight");
        CHECK_OK(swin_net_fetch(net, logits + fetched * 5));
        fetched += BATCH;
    }
    CHECK_OK(swin_net_fetch(net, logits + fetched * 5));
    CHECK(memcmp(logits, want, sizeof logits) == 0, "%s %s: a stream of batches gives other logits", backend,
          p->name);
    free(scratch), free(images), free(want);
    swin_net_free(net);
    swin_dev_close(dev);
    swin_weights_free(&w);
}

static void test_stream_cpu(void **state)
{
    (void)state;
    one_stream("cpu", &precisions[0]);
    one_stream("cpu", &precisions[2]);
}

static void test_stream(void **state)
{
    (void)state;
    NEED_GPU();
    for (size_t i = 0; i < SWIN_COUNT(precisions); i++) one_stream("cuda", &precisions[i]);
}

/* ---- taps and observers
 * -------------------------------------------------------------------------------------------- */

typedef struct watch {
    const swin_config *c;
    swin_dev *dev;
    swin_observer **observers;
} watch;

static bool is_site(void *user, swin_site s)
{
    return swin_site_index(((watch *)user)->c, s) >= 0 && swin_site_role_of(s) != SWIN_ROLE_WEIGHT;
}

static swin_observer *observer_of(void *user, swin_site s)
{
    watch *w = user;
    swin_observer **o = &w->observers[swin_site_index(w->c, s)];
    if (!*o) CHECK_OK(w->dev->ops->observer_create(w->dev, o));
    return *o;
}

static swin_status observe(void *user, const swin_tap_point *p)
{
    return p->dev->ops->observe(p->dev, observer_of(user, p->site), p->x);
}

/* What every site saw on one backend, in batches; the caller frees. inside: operators may observe on their way. */
static swin_observed *observe_all(const char *backend, const precision *p, const swin_config *c,
                                  const swin_weights *w, const float *images, int n, int batch, bool inside,
                                  float *logits)
{
    const int sites = swin_site_count(c);
    const size_t pixels = (size_t)3 * (size_t)c->image_size * (size_t)c->image_size;
    swin_observed *seen = calloc((size_t)sites, sizeof *seen);
    watch user = { .c = c, .observers = calloc((size_t)sites, sizeof(swin_observer *)) };
    swin_net *net;
    CHECK(seen && user.observers, "no memory");
    CHECK_OK(swin_dev_open(&user.dev, backend, &(swin_dev_opts){ .tf32 = p->tf32 }));
    CHECK_OK(swin_net_create(&net, user.dev, c, w, &(swin_net_opts){ .dtype = p->dtype }));
    const swin_tap tap = {
        .user = &user, .wants = is_site, .at = observe, .observer = inside ? observer_of : NULL
    };
    for (int at = 0; at < n; at += batch)
        CHECK_OK(swin_net_forward(net, images + (size_t)at * pixels, n - at < batch ? n - at : batch,
                                  logits + at * c->num_classes, &tap));
    for (int i = 0; i < sites; i++) {
        if (!user.observers[i]) continue;
        CHECK_OK(user.dev->ops->observer_read(user.dev, user.observers[i], &seen[i]));
        user.dev->ops->observer_free(user.dev, user.observers[i]);
    }
    swin_net_free(net);
    swin_dev_close(user.dev);
    free(user.observers);
    return seen;
}

static double amax_of(const swin_observed *o)
{
    return fmax(fabs((double)o->min), fabs((double)o->max));
}

/* The observers see the same numbers for any batch split and inside other operators, bit for bit, and
 * float32's are cpu's up to rounding; being watched composes what is fused otherwise and leaves the logits where they were, up to
 * rounding. */
static void test_observed(void **state)
{
    (void)state;
    NEED_GPU();
    enum { N = 5 };
    swin_config c;
    swin_weights w;
    float *images, logits[2][N * 37];
    model_of(&shapes[0], &c, &w, &images);
    for (size_t i = 0; i < SWIN_COUNT(precisions); i++) {
        const precision *p = &precisions[i];
        swin_observed *all = observe_all("cuda", p, &c, &w, images, N, N, false, logits[0]),
                      *parts = observe_all("cuda", p, &c, &w, images, N, 2, true, logits[1]);
        for (int s = 0; s < swin_site_count(&c); s++)
            CHECK(memcmp(&all[s], &parts[s], sizeof *all) == 0, "%s: site %d sees other numbers in parts",
                  p->name, s);
        CHECK(memcmp(logits[0], logits[1], sizeof logits[0]) == 0, "%s: other logits in parts", p->name);
        float *plain = forward("cuda", p, &c, &w, images, N, N, false, NULL);
        const double e = swin_rel_l2(logits[0], plain, N * 37);
        print_message("  %s: watched and fused logits differ by %.1e\n", p->name, e);
        CHECK(e <= 3 * p->limit, "%s: watched and fused logits differ by %.1e", p->name, e);
        if (i == 0) {
            swin_observed *cpu = observe_all("cpu", p, &c, &w, images, N, N, true, logits[1]);
            double worst = 0;
            for (int s = 0; s < swin_site_count(&c); s++) {
                CHECK(cpu[s].count == all[s].count && all[s].nonfinite == 0, "site %d: counts differ", s);
                if (!cpu[s].count) continue;
                const double off = fabs(amax_of(&all[s]) / amax_of(&cpu[s]) - 1);
                CHECK(off <= 1e-5, "site %d: amax differs by %.1e", s, off);
                worst = fmax(worst, off);
            }
            print_message("  amax of cuda and cpu differ by %.1e at most\n", worst);
            free(cpu);
        }
        free(plain), free(all), free(parts);
    }
    free(images);
    swin_weights_free(&w);
}

static int open_gpu(void **state)
{
    (void)state;
    swin_dev *dev;
    gpu = swin_dev_open(&dev, "cuda", &(swin_dev_opts){ 0 }) == SWIN_OK;
    if (!gpu) print_message("no GPU: %s\n", swin_error_message());
    swin_dev_close(dev);
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    swin_weights_free(&golden.weights);
    free(golden.images), free(golden.logits);
    if (skipped) print_message("skipped: %d tests need a GPU\n", skipped);
    return 0;
}

/* An argument chooses tests by name, as cmocka's filter does: "test_golden*". */
int main(int argc, char **argv)
{
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_logits), cmocka_unit_test(test_golden_taps),
        cmocka_unit_test(test_families),      cmocka_unit_test(test_batch_split),
        cmocka_unit_test(test_observed),      cmocka_unit_test(test_stream_cpu),
        cmocka_unit_test(test_stream),
    };
    return cmocka_run_group_tests(tests, open_gpu, close_all);
}
