/* Swin V1, V2 and head sizes other than 32 against logits of an independent implementation (timm, in float64), whose weights
 * and images C and Python make alike: tests/support/trained.h, tests/peers/check_families.py --update. */
#include "tests/support/testing.h"

#include "runtime/base/file.h"
#include "runtime/swin/net.h"
#include "tests/support/trained.h"

enum { IMAGES = 2, CLASSES = 10, SEED = 7 };

typedef struct model {
    swin_config config;
    swin_weights weights;
    float *images, *golden; /* [IMAGES][3][S][S], [IMAGES][CLASSES] */
} model;

static void read_golden(model *m, const char *name)
{
    char line[256];
    FILE *f = fopen(SWIN_SOURCE_DIR "/tests/golden/families.txt", "r");
    CHECK(f != NULL, "no golden file");
    bool found = false;
    while (!found && fgets(line, sizeof line, f))
        found = strcspn(line, "\n") == strlen(name) && !strncmp(line, name, strlen(name));
    CHECK(found, "%s is not in the golden file", name);
    for (int i = 0; i < IMAGES * CLASSES; i++)
        CHECK(fscanf(f, "%f", &m->golden[i]) == 1, "golden value %d", i);
    fclose(f);
}

static model open_model(const char *name)
{
    model m = { 0 };
    char path[1024];
    const char *words[] = { "MODEL.NUM_CLASSES", "10" };
    snprintf(path, sizeof path, "%s/configs/%s.yaml", SWIN_SOURCE_DIR, name);
    CHECK_OK(swin_config_load(&m.config, path, &(swin_pairs){ 1, words }));
    CHECK_OK(swin_trained_weights(&m.weights, &m.config, SEED));
    const size_t pixels = (size_t)3 * (size_t)m.config.image_size * (size_t)m.config.image_size;
    m.images = malloc(IMAGES * pixels * sizeof(float));
    m.golden = malloc(IMAGES * CLASSES * sizeof(float));
    CHECK(m.images && m.golden, "no memory");
    swin_rng r = { .state = 20260 + (uint64_t)m.config.image_size };
    swin_fill_normal(&r, m.images, IMAGES * pixels, 1);
    read_golden(&m, name);
    return m;
}

static void close_model(model *m)
{
    swin_weights_free(&m->weights);
    free(m->images);
    free(m->golden);
}

static void forward(const model *m, const char *backend, const swin_net_opts *o, int n, float *logits,
                    const swin_tap *tap)
{
    swin_dev *dev;
    swin_net *net;
    CHECK_OK(swin_dev_open(&dev, backend, &(swin_dev_opts){ .threads = 2 }));
    CHECK_OK(swin_net_create(&net, dev, &m->config, &m->weights, o));
    CHECK_OK(swin_net_forward(net, m->images, n, logits, tap));
    swin_net_free(net);
    swin_dev_close(dev);
}

static const char *const names[] = { "swin_tiny_patch4_window7_224", "swin_tiny_c24_patch4_window8_256",
                                     "swinv2_tiny_patch4_window8_256" };

static void test_logits(void **state)
{
    (void)state;
    for (size_t i = 0; i < SWIN_COUNT(names); i++) {
        model m = open_model(names[i]);
        float logits[IMAGES * CLASSES];
        forward(&m, "cpu", &(swin_net_opts){ .dtype = SWIN_F32 }, IMAGES, logits, NULL);
        const double e = swin_rel_l2(logits, m.golden, IMAGES * CLASSES);
        print_message("%s: cpu, relative L2 %.1e\n", names[i], e);
        CHECK(e <= 1e-5, "%s: cpu logits %.1e from float64", names[i], e);
        close_model(&m);
    }
}

/* Halves: what rounding costs, and nothing that is not finite. */
static void test_halves(void **state)
{
    (void)state;
    static const struct {
        swin_dtype dtype;
        double db;
    } halves[] = { { SWIN_F16, 34 }, { SWIN_BF16, 16 } };
    model m = open_model(names[2]);
    for (size_t i = 0; i < SWIN_COUNT(halves); i++) {
        float logits[CLASSES];
        forward(&m, "cpu", &(swin_net_opts){ .dtype = halves[i].dtype }, 1, logits, NULL);
        const double db = swin_sqnr_db(logits, m.golden, CLASSES);
        print_message("V2-T in %s: %.1f dB\n", swin_dtype_name(halves[i].dtype), db);
        CHECK(db >= halves[i].db, "V2-T in %s: %.1f dB", swin_dtype_name(halves[i].dtype), db);
    }
    close_model(&m);
}

static bool every(void *user, swin_site site)
{
    (void)user, (void)site;
    return true;
}

static swin_status seen(void *user, const swin_tap_point *p)
{
    int *counts = user;
    if (swin_site_role_of(p->site) != SWIN_ROLE_OUTPUT) counts[0]++;
    counts[1] += swin_site_kind_of(p->site) == SWIN_SITE_MHA_Q ||
                 swin_site_kind_of(p->site) == SWIN_SITE_MHA_K;
    return SWIN_OK;
}

/* A tap that only looks changes no bit, and meets every activation site once. */
static void test_watched(void **state)
{
    (void)state;
    model m = open_model(names[2]);
    float plain[CLASSES], watched[CLASSES];
    int counts[2] = { 0, 0 };
    const swin_tap tap = { .user = counts, .wants = every, .at = seen };
    const swin_net_opts o = { .dtype = SWIN_F32 };
    forward(&m, "cpu", &o, 1, plain, NULL);
    forward(&m, "cpu", &o, 1, watched, &tap);
    CHECK(memcmp(plain, watched, sizeof plain) == 0, "a tap changes the logits");
    const int weights = 4 * 12 + 3;
    CHECK(counts[0] == swin_site_count(&m.config) - weights && counts[1] == 24, "%d sites, %d of them mha",
          counts[0], counts[1]);
    close_model(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits),
        cmocka_unit_test(test_halves),
        cmocka_unit_test(test_watched),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
