/* The calibration file: what is written is read back, byte for byte the same each time, and nothing broken is accepted. */
#include "tests/support/testing.h"

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "quant/calib_file.h"
#include "runtime/base/file.h"
#include "runtime/base/h5.h"

/* libhdf5 1.10 loses some memory of its own when a file is damaged; ours is still checked. The sanitizer's library looks the
 * name up at run time, so it must not be hidden. */
__attribute__((visibility("default"))) const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libhdf5";
}

static swin_config small(void)
{
    swin_config c = swin_config_default();
    snprintf(c.name, sizeof c.name, "small");
    c.image_size = 56;
    c.num_classes = 5;
    c.embed_dim = 32;
    c.num_stages = 2;
    c.depths[0] = c.depths[1] = 1;
    c.heads[0] = 1;
    c.heads[1] = 2;
    return c;
}

enum { BINS = 64 };

static void fill(swin_calib_file *f, unsigned seed)
{
    swin_rng r = { seed };
    const swin_config c = small();
    CHECK_OK(swin_calib_file_init(f, &c));
    f->tool = strdup("test");
    f->engine = strdup("none");
    f->calibrator = strdup("percentile");
    f->histogram = strdup("exact");
    f->recover = strdup("none");
    f->preprocess = strdup("bicubic");
    f->percentile = 99.99;
    f->images = 80;
    memset(f->checkpoint_sha256, 'a', 64);
    memset(f->image_list_sha256, 'b', 64);
    for (int i = 0; i < f->nsites; i++) {
        swin_site_record *s = &f->sites[i];
        s->amax = (float)(0.5 + swin_rng_uniform(&r));
        s->min = -s->amax;
        s->max = 1.25f * s->amax;
        s->bin_width = 0x1p-5;
        s->bins = BINS;
        s->hist = calloc(BINS, sizeof *s->hist);
        for (int b = 0; b < BINS; b++) s->count += s->hist[b] = swin_rng_below(&r, 1000000);
    }
    for (int i = 0; i < f->nweights; i++) {
        swin_weight_record *w = &f->weights[i];
        for (int k = 0; k < w->channels; k++) {
            w->amax_channel[k] = k == 3 ? 0
                                        : (float)swin_rng_uniform(&r); /* channel 3 is dead: that is fine */
            w->amax = fmaxf(w->amax, w->amax_channel[k]);
        }
    }
    CHECK_OK(swin_calib_file_derive(f, SWIN_INT8_MODE_3));
}

static void check_same(const swin_calib_file *a, const swin_calib_file *b)
{
    CHECK(swin_config_same_network(&a->config, &b->config), "other network");
    CHECK(a->mode == b->mode && a->images == b->images && a->percentile == b->percentile,
          "attributes differ");
    CHECK(strcmp(a->engine, b->engine) == 0 && strcmp(a->calibrator, b->calibrator) == 0, "texts differ");
    CHECK(strcmp(a->checkpoint_sha256, b->checkpoint_sha256) == 0, "%s", b->checkpoint_sha256);
    CHECK(a->nsites == b->nsites && a->nweights == b->nweights, "%d sites, %d weights", b->nsites,
          b->nweights);
    for (int i = 0; i < a->nsites; i++) {
        const swin_site_record *x = &a->sites[i], *y = &b->sites[i];
        CHECK(x->site == y->site && x->amax == y->amax && x->min == y->min && x->max == y->max, "site %d", i);
        CHECK(x->q.scale == y->q.scale && x->q.zero_point == y->q.zero_point && x->enabled == y->enabled,
              "site %d", i);
        CHECK(x->count == y->count && x->bin_width == y->bin_width && x->bins == y->bins, "site %d", i);
        CHECK(!y->hist || memcmp(x->hist, y->hist, BINS * sizeof *x->hist) == 0, "histogram %d", i);
    }
    for (int i = 0; i < a->nweights; i++) {
        const swin_weight_record *x = &a->weights[i], *y = &b->weights[i];
        CHECK(x->amax == y->amax && x->channels == y->channels, "weight %d", i);
        CHECK(memcmp(x->amax_channel, y->amax_channel, (size_t)x->channels * sizeof(float)) == 0, "weight %d",
              i);
    }
}

static void test_round_trip(void **state)
{
    (void)state;
    char *folder = swin_scratch_make("calib"), *one = swin_format("%s/1.h5", folder),
         *two = swin_format("%s/2.h5", folder);
    swin_calib_file f, g;
    fill(&f, 1);
    CHECK_OK(swin_calib_file_write(&f, one));
    sleep(1); /* a stored time would show */
    CHECK_OK(swin_calib_file_write(&f, two));
    unsigned char *a, *b;
    size_t na, nb;
    CHECK_OK(swin_read_file(one, &a, &na));
    CHECK_OK(swin_read_file(two, &b, &nb));
    CHECK(na == nb && memcmp(a, b, na) == 0, "two writes differ (%zu and %zu bytes)", na, nb);
    CHECK_OK(swin_calib_file_read(&g, one, true));
    check_same(&f, &g);
    CHECK(g.sites[0].hist != NULL, "histograms not loaded");
    swin_calib_file_free(&g);
    CHECK_OK(swin_calib_file_read(&g, one, false));
    check_same(&f, &g);
    CHECK(g.sites[0].hist == NULL, "histograms loaded");

    CHECK_OK(swin_calib_file_match(&g, one, &f.config, f.checkpoint_sha256));
    char other[SWIN_SHA256_HEX] = "c";
    CHECK_FAILS(swin_calib_file_match(&g, one, &f.config, other), SWIN_ERR_MISMATCH, "another checkpoint");
    swin_config wide = small();
    wide.embed_dim = 64;
    CHECK_FAILS(swin_calib_file_match(&g, one, &wide, f.checkpoint_sha256), SWIN_ERR_MISMATCH, "small");
    swin_calib_file_free(&g);
    swin_calib_file_free(&f);
    free(a);
    free(b);
    free(one);
    free(two);
    swin_scratch_remove(folder);
}

static void test_derive_names_sites(void **state)
{
    (void)state;
    swin_calib_file f;
    fill(&f, 2);
    char name[SWIN_SITE_NAME_MAX];
    swin_site_record *s = &f.sites[7];
    swin_site_name(s->site, name);
    const uint64_t count = s->count;
    s->count = 0;
    CHECK_FAILS(swin_calib_file_derive(&f, SWIN_INT8_MODE_1), SWIN_ERR_VALUE, name);
    CHECK_FAILS(swin_calib_file_derive(&f, SWIN_INT8_MODE_1), SWIN_ERR_VALUE, "never observed");
    s->count = count;
    s->nonfinite = 3;
    CHECK_FAILS(swin_calib_file_derive(&f, SWIN_INT8_MODE_1), SWIN_ERR_VALUE, name);
    s->nonfinite = 0;
    const float amax = s->amax;
    s->amax = 0;
    CHECK_FAILS(swin_calib_file_derive(&f, SWIN_INT8_MODE_1), SWIN_ERR_VALUE, name);
    s->amax = amax;
    CHECK_OK(swin_calib_file_derive(&f, SWIN_INT8_MODE_1));
    f.weights[1].amax_channel[2] = NAN;
    swin_site_module(f.weights[1].site, name);
    CHECK_FAILS(swin_calib_file_derive(&f, SWIN_INT8_MODE_1), SWIN_ERR_VALUE, name);
    swin_calib_file_free(&f);
}

/* Files that a stranger made: written by hand, so that each holds one fault. */
typedef struct fault_case {
    const char *what;
    swin_status status;
    const char *words;
} fault_case;

enum {
    NO_SCHEMA,
    NEWER,
    BAD_MODEL,
    MISSING_SITE,
    EXTRA_SITE,
    ZERO_SCALE,
    NAN_AMAX,
    OTHER_SCALE,
    BAD_MODE,
    BIG_HIST,
    BAD_HIST,
    NO_WEIGHT,
    SHORT_WEIGHT,
    ENABLED_OFF,
    FAULTS
};

static const fault_case faults[FAULTS] = {
    [NO_SCHEMA] = { "no schema", SWIN_ERR_FORMAT, "schema" },
    [NEWER] = { "newer schema", SWIN_ERR_UNSUPPORTED, "newer" },
    [BAD_MODEL] = { "bad model text", SWIN_ERR_FORMAT, "model" },
    [MISSING_SITE] = { "missing site", SWIN_ERR_MISMATCH, "layers.0.blocks.0.mlp.fc1._input" },
    [EXTRA_SITE] = { "extra site", SWIN_ERR_MISMATCH, "layers.9.blocks.0.mlp.fc1._input" },
    [ZERO_SCALE] = { "zero scale", SWIN_ERR_VALUE, "layers.0.blocks.0.mlp.fc1._input" },
    [NAN_AMAX] = { "NaN range", SWIN_ERR_VALUE, "layers.0.blocks.0.mlp.fc1._input" },
    [OTHER_SCALE] = { "another scale", SWIN_ERR_VALUE, "layers.0.blocks.0.mlp.fc1._input" },
    [BAD_MODE] = { "mode 7", SWIN_ERR_VALUE, "int8_mode" },
    [BIG_HIST] = { "histogram of two dimensions", SWIN_ERR_FORMAT, "hist" },
    [BAD_HIST] = { "histogram that does not add up", SWIN_ERR_FORMAT, "layers.0.blocks.0.mlp.fc1._input" },
    [NO_WEIGHT] = { "no weight ranges", SWIN_ERR_MISMATCH, "layers.0.blocks.0.mlp.fc1" },
    [SHORT_WEIGHT] = { "too few channels", SWIN_ERR_FORMAT, "layers.0.blocks.0.mlp.fc1" },
    [ENABLED_OFF] = { "an off site enabled", SWIN_ERR_VALUE, "layernorm_input1" },
};

static void write_root(swin_h5 *h, const swin_calib_file *f, int fault)
{
    char *model = fault == BAD_MODEL ? strdup("MODEL: [unclosed") : swin_config_text(&f->config);
    if (fault != NO_SCHEMA)
        CHECK_OK(swin_h5_set_i64(h, "/", "schema", fault == NEWER ? SWIN_CALIB_SCHEMA + 1 : 1));
    CHECK_OK(swin_h5_set_str(h, "/", "model", model));
    CHECK_OK(swin_h5_set_i64(h, "/", "int8_mode", fault == BAD_MODE ? 7 : f->mode));
    CHECK_OK(swin_h5_set_i64(h, "/", "images", 80));
    CHECK_OK(swin_h5_set_f64(h, "/", "percentile", 99.99));
    static const char *const texts[] = {
        "tool", "engine", "calibrator", "histogram", "recover", "preprocess"
    };
    for (size_t i = 0; i < SWIN_COUNT(texts); i++)
        CHECK_OK(swin_h5_set_str(h, "/", texts[i], i == 1 ? f->engine : f->calibrator));
    CHECK_OK(swin_h5_set_str(h, "/", "checkpoint_sha256", f->checkpoint_sha256));
    CHECK_OK(swin_h5_set_str(h, "/", "image_list_sha256", f->image_list_sha256));
    free(model);
}

static void write_site(swin_h5 *h, const char *name, const swin_site_record *s, int fault)
{
    char at[160], set[180];
    const bool victim = strstr(name, "layers.0.blocks.0.mlp.fc1._input") != NULL;
    const bool off = strstr(name, "layers.0.blocks.0.layernorm_input1") != NULL;
    if (victim && fault == MISSING_SITE) return;
    snprintf(at, sizeof at, "/sites/%s", name);
    snprintf(set, sizeof set, "%s/hist", at);
    CHECK_OK(swin_h5_set_f32(h, at, "amax", victim && fault == NAN_AMAX ? NAN : s->amax));
    CHECK_OK(swin_h5_set_f32(h, at, "min", s->min));
    CHECK_OK(swin_h5_set_f32(h, at, "max", s->max));
    const float scale = victim && fault == ZERO_SCALE    ? 0
                        : victim && fault == OTHER_SCALE ? 2 * s->q.scale
                                                         : s->q.scale;
    CHECK_OK(swin_h5_set_f32(h, at, "scale", scale));
    CHECK_OK(swin_h5_set_i64(h, at, "zero_point", s->q.zero_point));
    CHECK_OK(swin_h5_set_i64(h, at, "qmin", s->q.qmin));
    CHECK_OK(swin_h5_set_i64(h, at, "qmax", s->q.qmax));
    CHECK_OK(swin_h5_set_i64(h, at, "enabled", s->enabled || (off && fault == ENABLED_OFF)));
    CHECK_OK(swin_h5_set_i64(h, at, "count", (int64_t)s->count + (victim && fault == BAD_HIST)));
    CHECK_OK(swin_h5_set_i64(h, at, "nonfinite", 0));
    CHECK_OK(swin_h5_set_f64(h, at, "bin_width", s->bin_width));
    const int64_t dims[2] = { BINS / 2, 2 }, flat = BINS;
    const bool square = victim && fault == BIG_HIST;
    CHECK_OK(swin_h5_write(h, set, SWIN_S64, s->hist, square ? 2 : 1, square ? dims : &flat, true));
}

static void write_weight(swin_h5 *h, const swin_weight_record *w, int fault)
{
    char name[SWIN_SITE_NAME_MAX], at[160], set[180];
    swin_site_module(w->site, name);
    const bool victim = strcmp(name, "layers.0.blocks.0.mlp.fc1") == 0;
    if (victim && fault == NO_WEIGHT) return;
    snprintf(at, sizeof at, "/weights/%s", name);
    snprintf(set, sizeof set, "%s/amax_channel", at);
    CHECK_OK(swin_h5_set_f32(h, at, "amax", w->amax));
    const int64_t n = w->channels - (victim && fault == SHORT_WEIGHT);
    CHECK_OK(swin_h5_write(h, set, SWIN_F32, w->amax_channel, 1, &n, false));
}

static void write_faulty(const char *path, const swin_calib_file *f, int fault)
{
    swin_h5 *h;
    CHECK_OK(swin_h5_create(&h, path));
    write_root(h, f, fault);
    for (int i = 0; i < f->nsites; i++) {
        char name[SWIN_SITE_NAME_MAX];
        swin_site_name(f->sites[i].site, name);
        write_site(h, name, &f->sites[i], fault);
    }
    if (fault == EXTRA_SITE) write_site(h, "layers.9.blocks.0.mlp.fc1._input", &f->sites[0], fault);
    for (int i = 0; i < f->nweights; i++) write_weight(h, &f->weights[i], fault);
    CHECK_OK(swin_h5_commit(h));
    swin_h5_close(h);
}

static void test_faults(void **state)
{
    (void)state;
    char *folder = swin_scratch_make("faults"), *path = swin_format("%s/f.h5", folder);
    swin_calib_file f, g;
    fill(&f, 3);
    write_faulty(path, &f, FAULTS); /* none: the hand-made file is sound */
    CHECK_OK(swin_calib_file_read(&g, path, true));
    check_same(&f, &g);
    swin_calib_file_free(&g);
    for (int i = 0; i < FAULTS; i++) {
        write_faulty(path, &f, i);
        print_message("%s\n", faults[i].what);
        CHECK_FAILS(swin_calib_file_read(&g, path, true), faults[i].status, faults[i].words);
        CHECK(strstr(swin_error_message(), path) != NULL, "the file is not named: %s", swin_error_message());
        CHECK(g.sites == NULL && g.nsites == 0, "%s: not empty after a failure", faults[i].what);
    }
    swin_calib_file_free(&f);
    free(path);
    swin_scratch_remove(folder);
}

/* Bytes flipped and tails cut at random: any outcome but a crash. */
static void test_damage(void **state)
{
    (void)state;
    char *folder = swin_scratch_make("damage"), *path = swin_format("%s/f.h5", folder);
    swin_calib_file f, g;
    fill(&f, 4);
    CHECK_OK(swin_calib_file_write(&f, path));
    unsigned char *bytes;
    size_t n;
    CHECK_OK(swin_read_file(path, &bytes, &n));
    swin_rng r = { 99 };
    int refused = 0;
    enum { TRIALS = 150 };
    for (int t = 0; t < TRIALS; t++) {
        unsigned char *copy = malloc(n);
        memcpy(copy, bytes, n);
        for (int k = 0; k < t % 4; k++)
            copy[swin_rng_below(&r, n)] ^= (unsigned char)(1 + swin_rng_below(&r, 255));
        const size_t keep = t % 3 || t == 0 ? n : (size_t)swin_rng_below(&r, n);
        CHECK_OK(swin_write_file(path, copy, keep));
        free(copy);
        if (swin_calib_file_read(&g, path, true) == SWIN_OK)
            swin_calib_file_free(&g);
        else
            refused++;
    }
    print_message("%d damaged files, %d refused, none crashed\n", TRIALS, refused);
    CHECK(refused > TRIALS / 3 && refused < TRIALS, "only %d of %d refused", refused, TRIALS);
    CHECK_FAILS(swin_calib_file_read(&g, "/nowhere/x.h5", true), SWIN_ERR_IO, "/nowhere/x.h5");
    CHECK_OK(swin_write_file(path, "not hdf5", 8));
    CHECK_FAILS(swin_calib_file_read(&g, path, true), SWIN_ERR_FORMAT, path);
    free(bytes);
    free(path);
    swin_calib_file_free(&f);
    swin_scratch_remove(folder);
}

static void test_write_is_whole(void **state)
{
    (void)state;
    char *folder = swin_scratch_make("whole"), *path = swin_format("%s/none/f.h5", folder);
    swin_calib_file f;
    fill(&f, 5);
    CHECK_FAILS(swin_calib_file_write(&f, path), SWIN_ERR_IO, path);
    CHECK_FAILS(swin_calib_file_write(&f, folder), SWIN_ERR_IO, folder);
    swin_calib_file_free(&f);
    free(path);
    swin_scratch_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),     cmocka_unit_test(test_derive_names_sites),
        cmocka_unit_test(test_faults),         cmocka_unit_test(test_damage),
        cmocka_unit_test(test_write_is_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
