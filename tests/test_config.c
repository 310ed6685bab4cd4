/* The official configurations, overrides, and what is refused. */
#include <glob.h>

#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/swin/config.h"
#include "tests/support/testing.h"

static swin_status parse(swin_config *c, const char *text)
{
    return swin_config_parse(c, text, strlen(text), "text");
}

static void test_defaults(void **state)
{
    (void)state;
    const swin_config c = swin_config_default();
    CHECK_OK(swin_config_check(&c));
    CHECK(c.image_size == 224 && c.window == 7 && c.embed_dim == 96 && c.num_stages == 4 &&
              c.num_classes == 1000,
          "defaults");
    CHECK(!c.classes_given && c.test_crop && c.mlp_ratio == 4 && c.qkv_bias && c.patch_norm, "defaults");
    static const int channels[] = { 96, 192, 384, 768 }, res[] = { 56, 28, 14, 7 }, shift[] = { 3, 3, 3, 0 };
    for (int i = 0; i < 4; i++) {
        const swin_stage s = swin_config_stage(&c, i);
        CHECK(s.channels == channels[i] && s.resolution == res[i] && s.shift == shift[i], "stage %d", i);
        CHECK(s.head_size == 32 && s.hidden == 4 * s.channels && s.window == 7 && s.merge == (i < 3),
              "stage %d", i);
        CHECK(swin_config_shift(&c, i, 0) == 0 && swin_config_shift(&c, i, 1) == shift[i], "shift, stage %d",
              i);
    }
}

static void test_official(void **state)
{
    (void)state;
    glob_t g;
    CHECK(glob(SWIN_SOURCE_DIR "/configs/*.yaml", 0, NULL, &g) == 0, "no configs");
    size_t official = 0;
    for (size_t i = 0; i < g.gl_pathc; i++) {
        swin_config c, again;
        CHECK_OK(swin_config_load(&c, g.gl_pathv[i], NULL));
        const char *base = strrchr(g.gl_pathv[i], '/') + 1;
        const size_t n = strlen(base) - 5;
        CHECK(strlen(c.name) == n && memcmp(base, c.name, n) == 0, "%s is named %s", base, c.name);
        CHECK(c.test_crop == (c.image_size != 384), "%s: TEST.CROP", base);
        CHECK(c.num_classes == (strstr(base, "_22k.") ? 21841
                                : c.classes_given     ? c.num_classes
                                                      : 1000),
              "%s", base);
        official += strstr(base, "demo") == NULL;
        char *text = swin_config_text(&c);
        CHECK_OK(parse(&again, text));
        CHECK(swin_config_same_network(&c, &again) && c.test_crop == again.test_crop, "%s: %s", base, text);
        CHECK(again.num_classes == c.num_classes && strcmp(c.name, again.name) == 0, "%s", base);
        free(text);
    }
    CHECK(official >= 15, "%zu official files", official);
    globfree(&g);
}

static void test_official_style(void **state)
{
    (void)state;
    swin_config c;
    CHECK_OK(parse(
        &c,
        "# a comment\nMODEL:\n  TYPE: swinv2\n  NAME: it's\n  DROP_PATH_RATE: 0.2\n  SWINV2:\n"
        "    EMBED_DIM: 128\n    DEPTHS: [ 2, 2, 18, 2 ]\n    NUM_HEADS:\n      - 4\n      - 8\n      - 16\n"
        "      - 32\n    WINDOW_SIZE: 16\n    PRETRAINED_WINDOW_SIZES: [ 12, 12, 12, 6 ]\n"
        "DATA:\n  IMG_SIZE: 256\nTRAIN:\n  BASE_LR: 1.25e-4\n  WEIGHT_DECAY: 1e-8\n  EPOCHS: 30"));
    CHECK(c.family == SWIN_V2 && c.depths[2] == 18 && c.heads[3] == 32 && c.pretrained_window[3] == 6, "V2");
    CHECK(swin_config_stage(&c, 3).window == 8 && swin_config_stage(&c, 2).shift == 0, "V2 windows");
    swin_config again;
    char *text = swin_config_text(&c);
    CHECK_OK(parse(&again, text));
    CHECK(swin_config_same_network(&c, &again) && strcmp(again.name, "it's") == 0, "%s", text);
    free(text);
    CHECK_OK(
        parse(&c, "MODEL: {SWIN: {MLP_RATIO: 2.5, QKV_BIAS: False, QK_SCALE: 0.125, PATCH_NORM: no}}\n"));
    CHECK(c.mlp_ratio == 2.5 && !c.qkv_bias && c.qk_scale == 0.125 && !c.patch_norm, "V1 switches");
    CHECK_OK(parse(&c, "MODEL: {SWIN: {QK_SCALE: null, DEPTHS: [1], NUM_HEADS: [3], WINDOW_SIZE: 64}}\n"));
    CHECK(c.qk_scale == 0 && c.num_stages == 1 && swin_config_stage(&c, 0).window == 56,
          "one stage, one window");
    CHECK(swin_config_stage(&c, 0).shift == 0, "a window that covers the map does not shift");
}

static void test_overrides(void **state)
{
    (void)state;
    const char *words[] = {
        "MODEL.NUM_CLASSES",    "200",        "DATA.IMG_SIZE", "112", "MODEL.SWIN.DEPTHS", "[2,2,2]",
        "MODEL.SWIN.NUM_HEADS", "(3, 6, 12)", "TRAIN.EPOCHS",  "5",   "TEST.CROP",         "False"
    };
    swin_pairs p = { 6, words };
    swin_config c;
    CHECK_OK(swin_config_load(&c, NULL, &p));
    CHECK(c.num_classes == 200 && c.classes_given && c.image_size == 112 && c.num_stages == 3 && !c.test_crop,
          "--opts");
    static const struct {
        const char *key, *value, *words;
    } bad[] = {
        { "MODEL.NUM_CLASES", "200", "MODEL.NUM_CLASES" },
        { "MODEL.NUM_CLASSES", "many", "'many'" },
        { "MODEL.NUM_CLASSES", "12x", "'12x'" },
        { "MODEL.SWIN.DEPTHS", "[]", "not a list" },
        { "MODEL.SWIN.DEPTHS", "", "not a list" },
        { "MODEL.SWIN.DEPTHS", "[", "'['" },
        { "MODEL.SWIN.DEPTHS", "[2,2,6,2", "'[2'" },
        { "MODEL.SWIN.DEPTHS", "2,2,6,2]", "'2]'" },
        { "MODEL.SWIN", "5", "holds keys" },
        { "NOTHING.LIKE.IT", "5", "NOTHING.LIKE.IT" },
        { "TEST.CROP", "1", "true nor false" },
        { "DATA.INTERPOLATION", "bilinear", "bicubic" },
    };
    for (size_t i = 0; i < SWIN_COUNT(bad); i++) {
        const char *w[] = { bad[i].key, bad[i].value };
        p = (swin_pairs){ 1, w };
        CHECK_FAILS(swin_config_load(&c, NULL, &p), SWIN_ERR_USAGE, bad[i].words);
    }
}

static void test_base(void **state)
{
    (void)state;
    char *dir = swin_scratch_make("config"), *sub = swin_format("%s/sub.yaml", dir),
         *top = swin_format("%s/top.yaml", dir);
    swin_config c;
    static const char sub_text[] = "MODEL: {NUM_CLASSES: 10, NAME: sub}\nDATA: {IMG_SIZE: 448}\n";
    static const char top_text[] = "BASE: ['sub.yaml']\nMODEL: {NAME: top}\n", loop[] = "BASE: [top.yaml]\n";
    CHECK_OK(swin_write_file(sub, sub_text, sizeof sub_text - 1));
    CHECK_OK(swin_write_file(top, top_text, sizeof top_text - 1));
    CHECK_OK(swin_config_load(&c, top, NULL));
    CHECK(c.num_classes == 10 && c.image_size == 448 && strcmp(c.name, "top") == 0, "BASE");
    CHECK_OK(swin_write_file(top, loop, sizeof loop - 1));
    CHECK_FAILS(swin_config_load(&c, top, NULL), SWIN_ERR_FORMAT, "deeper");
    CHECK_FAILS(parse(&c, "BASE: [x.yaml]\n"), SWIN_ERR_FORMAT, "BASE");
    free(sub);
    free(top);
    swin_scratch_remove(dir);
    CHECK_FAILS(swin_config_load(&c, "/nonexistent.yaml", NULL), SWIN_ERR_IO, "/nonexistent.yaml");
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *words;
        swin_status status;
    } bad[] = {
        { "", "no configuration", SWIN_ERR_FORMAT },
        { "just words", "no configuration", SWIN_ERR_FORMAT },
        { "MODEL: {SWIN: {EMBED_DIMM: 96}}", "text:1: unknown key MODEL.SWIN.EMBED_DIMM", SWIN_ERR_FORMAT },
        { "MODEL:\n  NAMES: x\n", "text:2: unknown key MODEL.NAMES", SWIN_ERR_FORMAT },
        { "MODEL: {SWIN: {PRETRAINED_WINDOW_SIZES: [0]}}", "unknown key", SWIN_ERR_FORMAT },
        { "MODEL: {SWINV2: {QK_SCALE: 1}}", "unknown key", SWIN_ERR_FORMAT },
        { "MODEL: {TYPE: swin_moe}", "'swin_moe'", SWIN_ERR_UNSUPPORTED },
        { "MODEL: {SWIN: {APE: true}}", "MODEL.SWIN.APE", SWIN_ERR_UNSUPPORTED },
        { "MODEL: {SWIN: {IN_CHANS: 1}}", "IN_CHANS", SWIN_ERR_UNSUPPORTED },
        { "DATA: {INTERPOLATION: bilinear}", "DATA.INTERPOLATION", SWIN_ERR_UNSUPPORTED },
        { "MODEL: {SWIN: {NUM_HEADS: [5, 6, 12, 24]}}", "NUM_HEADS: 5 does not divide", SWIN_ERR_VALUE },
        { "MODEL: {SWIN: {NUM_HEADS: [3, 6]}}", "DEPTHS has 4 stages, NUM_HEADS has 2", SWIN_ERR_VALUE },
        { "MODEL: {SWIN: {NUM_HEADS: [0, 6, 12, 24]}}", "NUM_HEADS: 0", SWIN_ERR_VALUE },
        { "MODEL: {SWIN: {DEPTHS: [2, 2, 0, 2]}}", "DEPTHS: 0", SWIN_ERR_VALUE },
        { "MODEL: {SWIN: {DEPTHS: [1,1,1,1,1,1,1,1,1]}}", "more than 8 stages", SWIN_ERR_VALUE },
        { "MODEL: {SWIN: {WINDOW_SIZE: 8}}", "WINDOW_SIZE: 8 does not divide the 28x28", SWIN_ERR_VALUE },
        { "DATA: {IMG_SIZE: 250}", "IMG_SIZE: 250 is not a multiple", SWIN_ERR_VALUE },
        { "DATA: {IMG_SIZE: 100}\nMODEL: {SWIN: {WINDOW_SIZE: 25}}", "cannot halve", SWIN_ERR_VALUE },
        { "DATA: {IMG_SIZE: -4}", "IMG_SIZE: -4", SWIN_ERR_VALUE },
        { "DATA: {IMG_SIZE: 99999999999}", "'99999999999'", SWIN_ERR_FORMAT },
        { "MODEL: {NUM_CLASSES: -1}", "NUM_CLASSES: -1", SWIN_ERR_VALUE },
        { "MODEL: {SWIN: {MLP_RATIO: nan}}", "'nan'", SWIN_ERR_FORMAT },
        { "MODEL: {SWIN: {MLP_RATIO: -4.0}}", "MLP_RATIO: -4", SWIN_ERR_VALUE },
        { "MODEL: {NAME: a/b}", "MODEL.NAME", SWIN_ERR_VALUE },
        { "DATA: {IMG_SIZE: [224, 224]}", "not to be a list", SWIN_ERR_FORMAT },
        { "MODEL: {SWIN: 5}", "MODEL.SWIN", SWIN_ERR_FORMAT },
        { "DATA: {IMG_SIZE: 224, IMG_SIZE: 256}", "DATA.IMG_SIZE is given twice", SWIN_ERR_FORMAT },
        { "DATA: {IMG_SIZE: 224\n", "not YAML", SWIN_ERR_FORMAT },
        { "DATA: {IMG_SIZE: 224}\n---\nDATA: {IMG_SIZE: 256}\n", "more than one", SWIN_ERR_FORMAT },
        { "MODEL: &a {SWIN: *a}", "text", SWIN_ERR_FORMAT },
    };
    for (size_t i = 0; i < SWIN_COUNT(bad); i++) {
        swin_config c;
        CHECK_FAILS(parse(&c, bad[i].text), bad[i].status, bad[i].words);
    }
}

/* On a configuration that no file gave. */
static void test_override_checked(void **state)
{
    (void)state;
    const char *words[] = { "DATA.IMG_SIZE", "448", "MODEL.NUM_CLASSES", "7" };
    swin_config c = swin_config_default(), before;
    snprintf(c.name, sizeof c.name, "guessed");
    c.heads[0] = 6, c.heads[1] = 6, c.heads[2] = 24, c.heads[3] = 48;
    c.num_classes = 21841;
    before = c;
    CHECK_OK(swin_config_override(&c, &(swin_pairs){ 0, words }));
    CHECK(swin_config_same_network(&c, &before), "no override changes something");
    CHECK_OK(swin_config_override(&c, &(swin_pairs){ 1, words }));
    CHECK(c.image_size == 448 && c.num_classes == 21841 && !c.classes_given && strcmp(c.name, "guessed") == 0,
          "%d pixels, %d classes%s, %s", c.image_size, c.num_classes, c.classes_given ? " given" : "",
          c.name);
    c.image_size = before.image_size;
    CHECK(swin_config_same_network(&c, &before), "more than the image size changed");
    CHECK_OK(swin_config_override(&c, &(swin_pairs){ 2, words }));
    CHECK(c.num_classes == 7 && c.classes_given, "%d classes", c.num_classes);
    words[1] = "450";
    CHECK_FAILS(swin_config_override(&c, &(swin_pairs){ 1, words }), SWIN_ERR_VALUE, "450");
}

static void test_same_network(void **state)
{
    (void)state;
    const swin_config a = swin_config_default();
    swin_config b = a;
    strcpy(b.name, "another");
    b.test_crop = false;
    CHECK(swin_config_same_network(&a, &b), "names and crop aside");
    b.heads[2] = 6;
    CHECK(!swin_config_same_network(&a, &b), "heads");
    b = a;
    b.num_classes = 10;
    CHECK(!swin_config_same_network(&a, &b), "classes");
}

int main(void)
{
    swin_log_set(SWIN_LOG_QUIET);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),       cmocka_unit_test(test_official),
        cmocka_unit_test(test_official_style), cmocka_unit_test(test_overrides),
        cmocka_unit_test(test_base),           cmocka_unit_test(test_refused),
        cmocka_unit_test(test_same_network),   cmocka_unit_test(test_override_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
