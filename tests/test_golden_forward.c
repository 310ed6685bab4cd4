/* The float32 network against PyTorch's logits and block outputs on real images (shared test data). */
#include "tests/support/testing.h"

#include "data/loader.h"
#include "runtime/base/h5.h"
#include "runtime/swin/checkpoint.h"
#include "runtime/swin/net.h"

enum { IMAGES = 256, ON_REF = 8, SIZE = 224, PIXELS = 3 * SIZE * SIZE };

/* Loaded once for all tests; empty when there is no test data. */
static struct {
    swin_config config;
    swin_weights weights;
    float *images;            /* [IMAGES][3][SIZE][SIZE] */
    float *logits, *computed; /* [IMAGES][classes]: PyTorch's, and cpu's in batches of 64 on two threads */
} golden;

static void load_images(const char *folder)
{
    swin_dataset *ds;
    swin_loader *l;
    swin_batch b;
    CHECK_OK(swin_dataset_open(&ds, folder, "val"));
    const swin_loader_opts opts = {
        .count = IMAGES, .batch = 64, .workers = 2, .strict = true, .preprocess = { SIZE, true }
    };
    CHECK_OK(swin_loader_open(&l, ds, &opts));
    golden.images = malloc((size_t)IMAGES * PIXELS * sizeof(float));
    CHECK(golden.images != NULL, "no memory");
    size_t at = 0;
    for (;;) {
        CHECK_OK(swin_loader_next(l, &b));
        if (b.n == 0) break;
        CHECK(at + (size_t)b.n <= IMAGES, "%d more images than asked for", b.n);
        memcpy(golden.images + at * PIXELS, b.pixels, (size_t)b.n * PIXELS * sizeof(float));
        at += (size_t)b.n;
    }
    CHECK(at == IMAGES, "%zu images", at);
    swin_loader_close(l);
    swin_dataset_close(ds);
}

static int load(void **state)
{
    (void)state;
    const char *file = swin_test_file("golden/swin_tiny_tin200.h5"),
               *images = swin_test_file("tiny-imagenet"),
               *checkpoint = swin_test_file("weights/swin_tiny_patch4_window7_224_tin200_fp16.pth");
    if (!file || !images || !checkpoint) return 0;
    swin_h5 *f;
    void *data;
    size_t count;
    golden.config = swin_config_default();
    CHECK_OK(swin_weights_load(&golden.weights, &golden.config, checkpoint));
    CHECK_OK(swin_h5_open(&f, file));
    CHECK_OK(swin_h5_read(f, "/fp32/logits", SWIN_F32, &data, &count));
    CHECK(count == (size_t)IMAGES * (size_t)golden.config.num_classes, "%zu golden logits", count);
    golden.logits = data;
    swin_h5_close(f);
    load_images(images);
    return 0;
}

static int unload(void **state)
{
    (void)state;
    swin_weights_free(&golden.weights);
    free(golden.images), free(golden.logits), free(golden.computed);
    return 0;
}

/* Logits of the first n images. The caller frees. */
static float *forward(const char *backend, int threads, int batch, int n, const swin_net_opts *opts,
                      const swin_tap *tap)
{
    const int classes = golden.config.num_classes;
    swin_dev *dev;
    swin_net *net;
    float *logits = malloc((size_t)n * (size_t)classes * sizeof *logits);
    CHECK(logits != NULL, "no memory");
    CHECK_OK(swin_dev_open(&dev, backend, &(swin_dev_opts){ .threads = threads }));
    CHECK_OK(swin_net_create(&net, dev, &golden.config, &golden.weights, opts));
    for (int at = 0; at < n; at += batch)
        CHECK_OK(swin_net_forward(net, golden.images + (size_t)at * PIXELS, n - at < batch ? n - at : batch,
                                  logits + (size_t)at * (size_t)classes, tap));
    swin_net_free(net);
    swin_dev_close(dev);
    return logits;
}

static const swin_net_opts plain = { .dtype = SWIN_F32 };

static void need_golden(void)
{
    if (golden.images) return;
    print_message("skipped: no golden logits, checkpoint or images in the test data (SWIN_TEST_DATA)\n");
    skip();
}

static void compare(const char *backend, const float *logits, int n)
{
    const int classes = golden.config.num_classes;
    const double e = swin_rel_l2(logits, golden.logits, (size_t)n * (size_t)classes);
    int differ = 0;
    for (int i = 0; i < n; i++)
        differ += swin_argmax(logits + i * classes, classes) !=
                  swin_argmax(golden.logits + i * classes, classes);
    print_message("%s: %d images, relative L2 %.2e, %d argmax differ\n", backend, n, e, differ);
    CHECK(e <= 1e-5, "%s logits: %.2e", backend, e);
    CHECK(differ == 0, "%s: %d of %d argmax differ", backend, differ, n);
}

static void test_logits_cpu(void **state)
{
    (void)state;
    need_golden();
    golden.computed = forward("cpu", 2, 64, IMAGES, &plain, NULL);
    compare("cpu", golden.computed, IMAGES);
}

static void test_logits_each_isa(void **state)
{
    (void)state;
    need_golden();
    static const char *const isa[] = { "generic", "avx2" };
    for (size_t i = 0; i < SWIN_COUNT(isa); i++) {
        setenv("SWIN_CPU_ISA", isa[i], 1);
        float *logits = forward("cpu", 2, 8, 8, &plain, NULL);
        unsetenv("SWIN_CPU_ISA");
        compare(isa[i], logits, 8);
        free(logits);
    }
}

static void test_logits_ref(void **state)
{
    (void)state;
    need_golden();
    float *logits = forward("ref", 2, ON_REF, ON_REF, &plain, NULL);
    compare("ref", logits, ON_REF);
    free(logits);
}

/* Batches of 1, 7 and 64, one thread and four, any chunk: the same bits. */
static void test_batch_split(void **state)
{
    (void)state;
    need_golden();
    static const struct {
        int threads, batch, n, chunk;
    } runs[] = { { 1, 1, 5, 0 }, { 4, 7, 16, 0 }, { 4, 1, 3, 0 }, { 3, 16, 16, 5 }, { 1, 7, 7, 1 } };
    if (!golden.computed) golden.computed = forward("cpu", 2, 64, IMAGES, &plain, NULL);
    for (size_t i = 0; i < SWIN_COUNT(runs); i++) {
        const swin_net_opts opts = { .dtype = SWIN_F32, .chunk = runs[i].chunk };
        float *logits = forward("cpu", runs[i].threads, runs[i].batch, runs[i].n, &opts, NULL);
        CHECK(memcmp(logits, golden.computed,
                     (size_t)(runs[i].n * golden.config.num_classes) * sizeof *logits) == 0,
              "%d threads, batch %d, chunk %d: other bits than 2 threads, batch 64", runs[i].threads,
              runs[i].batch, runs[i].chunk);
        free(logits);
    }
}

/* ---- block outputs ---------------------------------------------------------------------------------------------- */
typedef struct watcher {
    swin_h5 *file; /* NULL: compare nothing */
    bool everything;
    int seen;
    double worst;
} watcher;

static bool wants(void *user, swin_site site)
{
    const watcher *w = user;
    return w->everything || swin_site_role_of(site) == SWIN_ROLE_OUTPUT;
}

static swin_status at(void *user, const swin_tap_point *p)
{
    watcher *w = user;
    char name[SWIN_SITE_NAME_MAX], path[SWIN_SITE_NAME_MAX + 8];
    void *want;
    size_t count;
    swin_site_name(p->site, name);
    snprintf(path, sizeof path, "/taps/%s", name);
    if (!w->file || swin_site_role_of(p->site) != SWIN_ROLE_OUTPUT || !swin_h5_exists(w->file, path))
        return SWIN_OK;
    CHECK_OK(swin_h5_read(w->file, path, SWIN_F32, &want, &count));
    CHECK((size_t)(p->x->rows * p->x->cols) == count && p->x->ld == p->x->cols, "%s: %zu golden values", name,
          count);
    const double e = swin_rel_l2(p->x->data, want, count);
    CHECK(e <= 1e-5, "%s: %.2e", name, e);
    w->worst = e > w->worst ? e : w->worst;
    w->seen++;
    free(want);
    return SWIN_OK;
}

static void test_block_outputs(void **state)
{
    (void)state;
    need_golden();
    static const char *const backends[] = { "cpu", "ref" };
    for (size_t i = 0; i < SWIN_COUNT(backends); i++) {
        watcher w = { 0 };
        CHECK_OK(swin_h5_open(&w.file, swin_test_file("golden/swin_tiny_tin200.h5")));
        const swin_tap tap = { .user = &w, .wants = wants, .at = at };
        free(forward(backends[i], 2, 1, 1, &plain, &tap));
        swin_h5_close(w.file);
        print_message("%s: %d block outputs, worst relative L2 %.2e\n", backends[i], w.seen, w.worst);
        CHECK(w.seen == 16, "%d golden outputs were met", w.seen);
    }
}

/* Watching every site composes what is fused otherwise: the logits keep their bits. */
static void test_watched_is_unwatched(void **state)
{
    (void)state;
    need_golden();
    static const char *const backends[] = { "cpu", "ref" };
    for (size_t i = 0; i < SWIN_COUNT(backends); i++) {
        watcher w = { .everything = true };
        const swin_tap tap = { .user = &w, .wants = wants, .at = at };
        float *a = forward(backends[i], 2, 2, 2, &plain, NULL),
              *b = forward(backends[i], 2, 2, 2, &plain, &tap);
        CHECK(memcmp(a, b, (size_t)(2 * golden.config.num_classes) * sizeof *a) == 0,
              "%s: a tap changes the logits", backends[i]);
        free(a), free(b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits_cpu),    cmocka_unit_test(test_logits_each_isa),
        cmocka_unit_test(test_logits_ref),    cmocka_unit_test(test_batch_split),
        cmocka_unit_test(test_block_outputs), cmocka_unit_test(test_watched_is_unwatched),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
