/* Checkpoints of every library, without a head, with a 22k head, for another window, of another network: what is loaded, what
 * is refused and what the message says. */
#include "tests/support/testing.h"

#include <glob.h>
#include <math.h>

#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/swin/checkpoint.h"
#include "runtime/swin/class_map.h"
#include "runtime/swin/family.h"
#include "runtime/swin/guess.h"
#include "runtime/swin/resize_table.h"
#include "runtime/swin/safetensors_write.h"
#include "tests/support/forms.h"
#include "tests/support/trained.h"

enum { SEED = 77 };

static const char v1_text[] =
    "DATA: {IMG_SIZE: 56}\n"
    "MODEL: {NAME: small, SWIN: {EMBED_DIM: 24, DEPTHS: [2, 1], NUM_HEADS: [2, 4]}}\n";
/* Three stages: the last one's window shrinks to the map. */
static const char v2_text[] = "DATA: {IMG_SIZE: 64}\n"
                              "MODEL: {TYPE: swinv2, NAME: small, SWINV2: {EMBED_DIM: 24, DEPTHS: [2, 1, 1], "
                              "NUM_HEADS: [2, 4, 8], WINDOW_SIZE: 8,\n"
                              "        PRETRAINED_WINDOW_SIZES: [6, 6, 3]}}\n";

typedef struct model {
    char *dir;
    char path[512];
    swin_config c;
    swin_weights w;
    char sha[SWIN_SHA256_HEX];
} model;

static model make(const char *text, int classes)
{
    model m = { .dir = swin_scratch_make("forms") };
    snprintf(m.path, sizeof m.path, "%s/model.safetensors", m.dir);
    CHECK_OK(swin_config_parse(&m.c, text, strlen(text), "small"));
    m.c.num_classes = classes;
    CHECK_OK(swin_trained_weights(&m.w, &m.c, SEED));
    CHECK_OK(swin_weights_sha256(&m.c, &m.w, m.sha));
    return m;
}

static void drop(model *m)
{
    swin_weights_free(&m->w);
    swin_scratch_remove(m->dir);
}

static void write_form(const model *m, swin_form form, swin_form_opts o)
{
    CHECK_OK(swin_form_write(m->path, &m->c, &m->w, form, &o));
}

static swin_status load(const model *m, const char *text, swin_weights *w, swin_config *c, swin_load_opts o)
{
    swin_ckpt *ck;
    CHECK_OK(swin_config_parse(c, text, strlen(text), "small"));
    CHECK_OK(swin_ckpt_open(&ck, m->path));
    const swin_status st = swin_weights_load_from(w, c, ck, &o);
    swin_ckpt_close(ck);
    return st;
}

static void check_form(const model *m, const char *text, swin_form form, swin_form_opts o)
{
    swin_weights w;
    swin_config c;
    swin_ckpt *ck;
    char sha[SWIN_SHA256_HEX];
    write_form(m, form, o);
    CHECK_OK(swin_ckpt_open(&ck, m->path));
    const swin_keys keys = swin_keys_of(ck);
    CHECK(strcmp(swin_keys_source(&keys), swin_form_source(form)) == 0, "form %d is taken for %s", (int)form,
          swin_keys_source(&keys));
    swin_ckpt_close(ck);
    CHECK_OK(load(m, text, &w, &c, (swin_load_opts){ 0 }));
    CHECK(w.count == m->w.count && memcmp(w.block, m->w.block, w.count * sizeof(float)) == 0,
          "form %d: numbers differ", (int)form);
    CHECK_OK(swin_weights_sha256(&c, &w, sha));
    CHECK(strcmp(sha, m->sha) == 0, "form %d: another checkpoint_sha256", (int)form);
    swin_weights_free(&w);
}

static void test_forms(void **state)
{
    (void)state;
    static const char *const texts[] = { v1_text, v2_text };
    for (size_t v = 0; v < SWIN_COUNT(texts); v++) {
        model m = make(texts[v], 11);
        for (int form = 0; form < SWIN_FORM_COUNT; form++) {
            check_form(&m, texts[v], (swin_form)form, (swin_form_opts){ 0 });
            if (form < SWIN_FORM_HUGGING)
                check_form(&m, texts[v], (swin_form)form, (swin_form_opts){ .buffers = true });
            else
                check_form(&m, texts[v], (swin_form)form, (swin_form_opts){ .bare = true });
        }
        drop(&m);
    }
}

/* Half a head is a fault in the file; none at all is another kind of file. */
static void test_no_head(void **state)
{
    (void)state;
    model m = make(v1_text, 11);
    swin_weights w;
    swin_config c;
    for (int form = 0; form < SWIN_FORM_COUNT; form++) {
        write_form(&m, (swin_form)form, (swin_form_opts){ .no_head = true });
        CHECK_FAILS(load(&m, v1_text, &w, &c, (swin_load_opts){ 0 }), SWIN_ERR_MISMATCH, "--no-head");
        CHECK_OK(load(&m, v1_text, &w, &c, (swin_load_opts){ .no_head = true }));
        CHECK(c.num_classes == 1 && w.head_weight[0] == 0 && w.head_bias[0] == 0, "form %d: %d classes", form,
              c.num_classes);
        const size_t body = (size_t)(w.head_weight - w.block);
        CHECK(memcmp(w.block, m.w.block, body * sizeof(float)) == 0, "form %d: numbers differ", form);
        swin_weights_free(&w);
    }
    write_form(&m, SWIN_FORM_OFFICIAL, (swin_form_opts){ .drop = "head.weight" });
    CHECK_FAILS(load(&m, v1_text, &w, &c, (swin_load_opts){ 0 }), SWIN_ERR_MISMATCH, "missing: head.weight");
    CHECK_OK(swin_form_write(m.path, &m.c, &m.w, SWIN_FORM_OFFICIAL, &(swin_form_opts){ 0 }));
    CHECK_OK(
        load(&m, v1_text, &w, &c, (swin_load_opts){ .no_head = true })); /* a head that is there is used */
    CHECK(c.num_classes == 11, "%d classes", c.num_classes);
    swin_weights_free(&w);
    drop(&m);
}

static void write_text(const model *m, const char *name, const char *text, char path[600])
{
    snprintf(path, 600, "%s/%s", m->dir, name);
    CHECK_OK(swin_write_file(path, text, strlen(text)));
}

static void test_class_map(void **state)
{
    (void)state;
    static const struct {
        const char *text, *words;
        swin_status status;
    } bad[] = {
        { "", "empty", SWIN_ERR_FORMAT },
        { "1\nx\n", "line 2: 'x' is no row", SWIN_ERR_FORMAT },
        { "1\n-2\n", "line 2", SWIN_ERR_FORMAT },
        { "1\n\n3\n", "line 2", SWIN_ERR_FORMAT },
        { "1 2\n", "line 1", SWIN_ERR_FORMAT },
        { "99999999999999999999999\n", "line 1", SWIN_ERR_MISMATCH },
        { "5\n21\n", "row 21 of a head that has 21", SWIN_ERR_MISMATCH },
        { "0\n0\n0\n0\n0\n0\n0\n0\n0\n0\n0\n0\n0\n0\n0\n0\n0\n0\n0\n0\n0\n0\n", "more lines",
          SWIN_ERR_MISMATCH },
    };
    static const int rows[] = { 20, 3, 3, 0 };
    model m = make(v1_text, 21);
    char map[600];
    swin_weights w;
    swin_config c;
    write_form(&m, SWIN_FORM_TIMM, (swin_form_opts){ 0 });
    for (size_t i = 0; i < SWIN_COUNT(bad); i++) {
        write_text(&m, "map.txt", bad[i].text, map);
        CHECK_FAILS(load(&m, v1_text, &w, &c, (swin_load_opts){ .map22k = map }), bad[i].status,
                    bad[i].words);
        CHECK(w.block == NULL, "weights are left behind");
    }
    write_text(&m, "map.txt", "20\r\n3\n 3 \n0", map);
    CHECK_OK(load(&m, v1_text, &w, &c, (swin_load_opts){ .map22k = map }));
    CHECK(c.num_classes == 4, "%d classes", c.num_classes);
    for (int i = 0; i < 4; i++)
        CHECK(w.head_bias[i] == m.w.head_bias[rows[i]] &&
                  memcmp(w.head_weight + 48 * i, m.w.head_weight + 48 * rows[i], 48 * sizeof(float)) == 0,
              "class %d is not row %d", i, rows[i]);
    swin_weights copy; /* the picked network is whole: it can be copied and hashed */
    CHECK_OK(swin_weights_clone(&copy, &w, &c));
    CHECK(memcmp(copy.head_bias, w.head_bias, 4 * sizeof(float)) == 0, "the copy's head differs");
    swin_weights_free(&copy);
    swin_weights_free(&w);
    drop(&m);
}

/* ---- position tables of another window ---- */

/* torch.nn.functional.interpolate(mode="bicubic"), in float64, of ((7919 i + 13 (i mod 5)) mod 101 - 50) / 16. */
static const float five_to_seven[] = {
    -3.40543003f, -0.873360058f,  -0.318422012f,  -2.70225948f, -0.0250546647f, -0.206268222f, -2.49599125f,
    -3.30156706f, -0.769497085f,  -0.214559038f,  -2.5983965f,  0.078808309f,   -0.102405248f, -2.39212828f,
    -3.14139942f, -0.609329446f,  -0.0543913994f, -2.43822886f, 0.238975948f,   0.0577623907f, -2.23196064f,
    -3.01567055f, -0.483600583f,  0.0713374636f,  -2.3125f,     0.36470481f,    0.183491254f,  -2.10623178f,
    -2.88994169f, -0.35787172f,   0.197066327f,   -2.18677114f, 0.490433673f,   0.309220117f,  -1.98050292f,
    -2.72977405f, -0.197704082f,  0.357233965f,   -2.0266035f,  0.650601312f,   0.469387755f,  -1.82033528f,
    -2.62591108f, -0.0938411079f, 0.461096939f,   -1.92274052f, 0.754464286f,   0.573250729f,  -1.7164723f,
};
static const float seven_to_five[] = {
    -2.344704f, -1.49106f, 0.0675f,   -2.62668f, -0.007164f, -2.20603f, -0.348649f, -2.6825f,   0.49811f,
    -1.353688f, 0.402f,    0.23375f,  -1.5f,     -0.74075f,  -1.152f,   0.2758f,    -1.902914f, 2.1755f,
    -1.056155f, 0.14599f,  -0.68754f, 0.56664f,  -0.8175f,   0.413172f, 1.65f,
};

static void check_resize(int from, int side, const float *want)
{
    float in[2 * 49], out[2 * 49];
    for (int i = 0; i < from * from; i++) {
        in[2 * i] = (float)((i * 7919 + 13 * (i % 5)) % 101 - 50) / 16;
        in[2 * i + 1] = -in[2 * i]; /* a second head */
    }
    CHECK_OK(swin_resize_table(out, side, in, from, 2));
    double worst = 0;
    for (int i = 0; i < side * side; i++) {
        worst = fmax(worst, fabs((double)out[2 * i] - (double)want[i]));
        CHECK(out[2 * i] == -out[2 * i + 1], "heads mix");
    }
    print_message("%d to %d: largest difference to torch %.1e\n", from, side, worst);
    CHECK(worst <= 4e-7, "%d to %d: %.1e", from, side, worst);
}

static void test_resize(void **state)
{
    (void)state;
    check_resize(5, 7, five_to_seven);
    check_resize(7, 5, seven_to_five);
    static const struct {
        int64_t n;
        int side;
    } sides[] = { { 169, 13 }, { 2209, 47 }, { 1, 1 }, { 0, 0 }, { 168, 0 }, { 196, 0 }, { -9, 0 } };
    for (size_t i = 0; i < SWIN_COUNT(sides); i++)
        CHECK(swin_table_side(sides[i].n) == sides[i].side, "%d rows", (int)sides[i].n);
}

/* The same network with windows of 14: every table is resized, the rest is as stored. */
static void test_other_window(void **state)
{
    (void)state;
    static const char wider[] =
        "DATA: {IMG_SIZE: 112}\n"
        "MODEL: {NAME: wider, SWIN: {EMBED_DIM: 24, DEPTHS: [2, 1], NUM_HEADS: [2, 4], WINDOW_SIZE: 14}}\n";
    model m = make(v1_text, 11);
    swin_weights w;
    swin_config c;
    float want[27 * 27 * 4];
    for (int form = 0; form < SWIN_FORM_COUNT; form++) {
        write_form(&m, (swin_form)form, (swin_form_opts){ .buffers = form < SWIN_FORM_HUGGING });
        CHECK_OK(load(&m, wider, &w, &c, (swin_load_opts){ 0 }));
        for (int s = 0; s < 2; s++) {
            CHECK_OK(swin_resize_table(want, 27, m.w.stages[s].blocks[0].bias_table, 13, m.c.heads[s]));
            CHECK(memcmp(want, w.stages[s].blocks[0].bias_table,
                         (size_t)(27 * 27 * m.c.heads[s]) * sizeof(float)) == 0,
                  "form %d: the table of stage %d", form, s);
        }
        CHECK(memcmp(w.norm_weight, m.w.norm_weight, 48 * sizeof(float)) == 0, "the norm changed");
        swin_weights_free(&w);
    }
    drop(&m);
}

/* ---- what a checkpoint says it is ---- */

static void check_guess(const char *text, int classes, swin_form form, swin_form_opts o, const char *refused)
{
    model m = make(text, classes);
    swin_ckpt *ck;
    swin_config c;
    write_form(&m, form, o);
    CHECK_OK(swin_ckpt_open(&ck, m.path));
    const swin_status st = swin_config_guess(&c, ck);
    swin_ckpt_close(ck);
    if (refused) {
        CHECK(st == SWIN_ERR_MISMATCH && strstr(swin_error_message(), refused), "form %d: %d, %s", (int)form,
              (int)st, swin_error_message());
        CHECK(c.window == 0 && c.heads[0] == m.c.heads[0], "what is known is not kept");
    } else {
        CHECK_OK(st);
        CHECK(swin_config_same_network(&c, &m.c), "form %d: another network: %s", (int)form, c.name);
    }
    drop(&m);
}

static void test_guess(void **state)
{
    (void)state;
    for (int form = 0; form < SWIN_FORM_COUNT; form++) {
        const bool stores = form < SWIN_FORM_HUGGING; /* here: V2's coordinates */
        check_guess(v1_text, 11, (swin_form)form, (swin_form_opts){ .buffers = stores }, NULL);
        check_guess(v2_text, 11, (swin_form)form, (swin_form_opts){ .buffers = stores },
                    stores ? NULL : "--cfg is needed");
    }
}

/* Every official file describes a network that is recognised by that file's name. */
static void test_official(void **state)
{
    (void)state;
    glob_t files;
    int count = 0;
    CHECK(glob(SWIN_SOURCE_DIR "/configs/swin*_patch4_*.yaml", 0, NULL, &files) == 0,
          "no configuration files");
    for (size_t i = 0; i < files.gl_pathc; i++) {
        const char *found[8];
        swin_config c;
        CHECK_OK(swin_config_load(&c, files.gl_pathv[i], &(swin_pairs){ 0 }));
        if (strstr(c.name, "demo")) continue;
        const int n = swin_config_official(&c, found, 8);
        bool named = false;
        for (int k = 0; k < n; k++) named = named || strcmp(found[k], c.name) == 0;
        CHECK(named, "%s is not among the %d files that describe it", c.name, n);
        CHECK(strcmp(swin_config_variant(&c), "custom") != 0, "%s: no variant", c.name);
        count++;
    }
    globfree(&files);
    CHECK(count >= 27, "%d official files", count);
}

/* ---- what does not fit ---- */

static void test_mismatches(void **state)
{
    (void)state;
    model v1 = make(v1_text, 11), v2 = make(v2_text, 11);
    swin_weights w;
    swin_config c;
    write_form(&v1, SWIN_FORM_HUGGING, (swin_form_opts){ .extra_rows = 1 });
    CHECK_FAILS(load(&v1, v1_text, &w, &c, (swin_load_opts){ 0 }), SWIN_ERR_MISMATCH,
                "(transformers names) does not fit small");
    write_form(&v1, SWIN_FORM_HUGGING, (swin_form_opts){ .drop = "layers.0.blocks.1.mlp.fc1.bias" });
    CHECK_FAILS(load(&v1, v1_text, &w, &c, (swin_load_opts){ 0 }), SWIN_ERR_MISMATCH,
                "missing: layers.0.blocks.1.mlp.fc1.bias (here: swin.encoder.layers.0.blocks.1.intermediate");
    for (int rows = 1; rows < 4; rows++) { /* three more would still be thirds */
        write_form(&v2, SWIN_FORM_TORCHVISION, (swin_form_opts){ .extra_rows = rows });
        CHECK_FAILS(load(&v2, v2_text, &w, &c, (swin_load_opts){ 0 }), SWIN_ERR_MISMATCH,
                    "q_bias (here: features.1.");
    }
    write_form(&v2, SWIN_FORM_TORCHVISION, (swin_form_opts){ .buffers = true });
    CHECK_FAILS(load(&v2, v1_text, &w, &c, (swin_load_opts){ 0 }), SWIN_ERR_MISMATCH, "leave --cfg out");
    CHECK_FAILS(load(&v2, v1_text, &w, &c, (swin_load_opts){ 0 }), SWIN_ERR_MISMATCH,
                "Its tensors are those of swinv2_custom_patch4_window8_64");
    drop(&v1);
    drop(&v2);
}

/* V2's coordinates say which window offsets were measured by. */
static void test_pretrained_window(void **state)
{
    (void)state;
    static const char other[] = "DATA: {IMG_SIZE: 64}\n"
                                "MODEL: {TYPE: swinv2, NAME: small, SWINV2: {EMBED_DIM: 24, DEPTHS: [2, 1, "
                                "1], NUM_HEADS: [2, 4, 8],\n"
                                "        WINDOW_SIZE: 8}}\n";
    model m = make(v2_text, 11);
    swin_weights w;
    swin_config c;
    write_form(&m, SWIN_FORM_OFFICIAL, (swin_form_opts){ .buffers = true });
    CHECK_FAILS(load(&m, other, &w, &c, (swin_load_opts){ 0 }), SWIN_ERR_MISMATCH,
                "window 8 and pretrained window 8: it was made for 8 and 6");
    write_form(&m, SWIN_FORM_OFFICIAL, (swin_form_opts){ 0 }); /* nothing says otherwise */
    CHECK_OK(load(&m, other, &w, &c, (swin_load_opts){ 0 }));
    swin_weights_free(&w);
    drop(&m);
}

static void test_strangers(void **state)
{
    (void)state;
    model m = make(v1_text, 11);
    swin_weights w;
    swin_config c;
    const float zero[64] = { 0 };
    const swin_named_tensor resnet = {
        .name = "conv1.weight", .dtype = SWIN_F32, .ndim = 2, .shape = { 8, 8 }, .data = zero
    };
    CHECK_OK(swin_safetensors_write(m.path, &resnet, 1));
    CHECK_FAILS(load(&m, v1_text, &w, &c, (swin_load_opts){ 0 }), SWIN_ERR_MISMATCH,
                "is no Swin checkpoint under the names of Microsoft, timm, torchvision or transformers");
    CHECK_FAILS(load(&m, v1_text, &w, &c, (swin_load_opts){ .no_head = true }), SWIN_ERR_MISMATCH,
                "conv1.weight");
    /* A joint bias, an index and coordinates of odd shapes under names that are known. */
    static const struct {
        const char *name;
        swin_dtype dtype;
        int ndim;
        int64_t shape[4];
    } odd[] = {
        { "layers.0.blocks.0.attn.relative_position_index", SWIN_S64, 2, { 4, 2 } },
        { "layers.0.blocks.0.attn.relative_position_index", SWIN_F32, 2, { 4, 4 } },
        { "layers.0.blocks.0.attn.relative_position_index", SWIN_S64, 0, { 0 } },
        { "layers.0.blocks.0.attn.relative_coords_table", SWIN_F32, 4, { 1, 3, 3, 0 } },
        { "layers.0.blocks.0.attn.relative_coords_table", SWIN_F32, 1, { 0 } },
        { "features.0.0.weight", SWIN_F32, 4, { 4, 4, 2, 2 } },
    };
    for (size_t i = 0; i < SWIN_COUNT(odd); i++) {
        swin_named_tensor t[2] = {
            { .name = "patch_embed.proj.weight",
              .dtype = SWIN_F32,
              .ndim = 4,
              .shape = { 4, 4, 2, 2 },
              .data = zero },
            { .name = odd[i].name, .dtype = odd[i].dtype, .ndim = odd[i].ndim, .data = zero }
        };
        memcpy(t[1].shape, odd[i].shape, sizeof odd[i].shape);
        CHECK_OK(swin_safetensors_write(m.path, t, 2));
        CHECK(load(&m, v1_text, &w, &c, (swin_load_opts){ 0 }) == SWIN_ERR_MISMATCH,
              "case %zu is not refused", i);
        CHECK(load(&m, v2_text, &w, &c, (swin_load_opts){ .no_head = true }) == SWIN_ERR_MISMATCH,
              "case %zu is not refused", i);
    }
    drop(&m);
}

int main(void)
{
    swin_log_set(SWIN_LOG_QUIET);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_no_head),
        cmocka_unit_test(test_class_map),
        cmocka_unit_test(test_resize),
        cmocka_unit_test(test_other_window),
        cmocka_unit_test(test_guess),
        cmocka_unit_test(test_official),
        cmocka_unit_test(test_mismatches),
        cmocka_unit_test(test_pretrained_window),
        cmocka_unit_test(test_strangers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
