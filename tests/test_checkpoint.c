/* Checkpoints in every container, wrapper and layout; what does not fit; what is broken; what is hostile. */
#include <math.h>
#include <unistd.h>

#include "runtime/base/file.h"
#include "runtime/base/half.h"
#include "runtime/base/log.h"
#include "runtime/swin/checkpoint.h"
#include "tests/support/testing.h"
#include "tests/support/torch_file.h"

#define SEED 20260521u

static const char small[] =
    "DATA: {IMG_SIZE: 56}\n"
    "MODEL: {NAME: small, SWIN: {EMBED_DIM: 24, DEPTHS: [2, 1], NUM_HEADS: [2, 4]}}\n";

typedef struct model {
    char *dir;
    char path[512];
    swin_config c;
    swin_weights w;
    swin_param *list;
    size_t count;
    char sha[SWIN_SHA256_HEX];
} model;

/* A small network whose numbers every floating-point type can hold: eighths. */
static void model_make(model *m, int classes)
{
    *m = (model){ .dir = swin_scratch_make("checkpoint") };
    snprintf(m->path, sizeof m->path, "%s/model", m->dir);
    CHECK_OK(swin_config_parse(&m->c, small, sizeof small - 1, "small"));
    m->c.num_classes = classes;
    CHECK_OK(swin_weights_create(&m->w, &m->c));
    CHECK_OK(swin_weights_list(&m->c, &m->w, &m->list, &m->count));
    swin_rng r = { SEED };
    swin_fill_integers(&r, m->w.block, m->w.count, 120);
    for (size_t i = 0; i < m->w.count; i++) m->w.block[i] /= 8;
    CHECK_OK(swin_weights_sha256(&m->c, &m->w, m->sha));
}

static void model_free(model *m)
{
    swin_scratch_remove(m->dir);
    free(m->list);
    swin_weights_free(&m->w);
}

static swin_status load(model *m, swin_weights *w, swin_config *c)
{
    CHECK_OK(swin_config_parse(c, small, sizeof small - 1, "small"));
    return swin_weights_load(w, c, m->path);
}

/* The file at m->path gives back m's numbers and hash. */
static void check_same(model *m, const char *what)
{
    swin_config c;
    swin_weights w;
    char sha[SWIN_SHA256_HEX];
    CHECK_OK(load(m, &w, &c));
    CHECK(c.num_classes == m->c.num_classes, "%s: %d classes", what, c.num_classes);
    CHECK(w.count == m->w.count && memcmp(w.block, m->w.block, w.count * sizeof(float)) == 0,
          "%s: numbers differ", what);
    CHECK_OK(swin_weights_sha256(&c, &w, sha));
    CHECK(strcmp(sha, m->sha) == 0, "%s: hash %s instead of %s", what, sha, m->sha);
    swin_weights_free(&w);
}

static void check_container(model *m, const char *container, const char *wrapper)
{
    swin_ckpt *ck;
    CHECK_OK(swin_ckpt_open(&ck, m->path));
    CHECK(strcmp(swin_ckpt_container(ck), container) == 0, "container %s", swin_ckpt_container(ck));
    CHECK(strcmp(swin_ckpt_wrapper(ck), wrapper) == 0, "wrapper '%s'", swin_ckpt_wrapper(ck));
    swin_ckpt_close(ck);
}

static void test_containers(void **state)
{
    (void)state;
    static const swin_dtype dtypes[] = { SWIN_F32, SWIN_F16, SWIN_BF16, SWIN_F64 };
    model m;
    model_make(&m, 5);
    for (size_t i = 0; i < SWIN_COUNT(dtypes); i++) {
        const swin_torch_style s = { .protocol = 2, .dtype = dtypes[i], .wrapper = "model", .buffers = true };
        swin_torch_write_zip(m.path, m.list, m.count, &s, false);
        check_container(&m, "pth (zip)", "model");
        check_same(&m, "zip, stored");
        swin_torch_write_zip(m.path, m.list, m.count, &s, true);
        check_same(&m, "zip, deflated");
        swin_torch_write_legacy(m.path, m.list, m.count, &s);
        check_container(&m, "pth (legacy)", "model");
        check_same(&m, "legacy");
        swin_torch_write_safetensors(m.path, m.list, m.count, dtypes[i]);
        check_container(&m, "safetensors", "");
        check_same(&m, "safetensors");
    }
    CHECK_OK(swin_weights_save(&m.w, &m.c, m.path));
    check_same(&m, "our own safetensors");
    model_free(&m);
}

static void test_layouts(void **state)
{
    (void)state;
    static const swin_torch_style styles[] = {
        { .protocol = 2, .prefix = "module." },
        { .protocol = 2, .wrapper = "state_dict", .parameters = true },
        { .protocol = 3, .transposed = true },
        { .protocol = 4, .wrapper = "model", .parameters = true, .buffers = true },
        { .protocol = 5, .one_storage = true, .buffers = true },
        { .protocol = 2, .one_storage = true, .transposed = true, .dtype = SWIN_F16 },
        { .protocol = 2, .add = "layers.0.blocks.0.attn.qkv._input_quantizer._amax" },
    };
    model m;
    model_make(&m, 1000);
    for (size_t i = 0; i < SWIN_COUNT(styles); i++) {
        char what[32];
        snprintf(what, sizeof what, "style %zu", i);
        swin_torch_write_zip(m.path, m.list, m.count, &styles[i], false);
        check_same(&m, what);
        swin_torch_write_legacy(m.path, m.list, m.count, &styles[i]);
        check_same(&m, what);
    }
    model_free(&m);
}

static void test_mismatches(void **state)
{
    (void)state;
    model m;
    swin_weights w;
    swin_config c;
    model_make(&m, 5);
    m.list[4].shape[0]++; /* layers.0.blocks.0.norm1.weight: one too long in the file */
    m.list[4].count++;
    const swin_torch_style s = { .protocol = 2, .drop = "norm.bias", .add = "absolute_pos_embed" };
    swin_torch_write_zip(m.path, m.list, m.count, &s, false);
    m.list[4].shape[0]--;
    CHECK_FAILS(load(&m, &w, &c), SWIN_ERR_MISMATCH, "1 missing, 1 unexpected, 1 of wrong shape");
    CHECK_FAILS(load(&m, &w, &c), SWIN_ERR_MISMATCH, "missing: norm.bias [48]");
    CHECK_FAILS(load(&m, &w, &c), SWIN_ERR_MISMATCH, "unexpected: absolute_pos_embed");
    CHECK_FAILS(load(&m, &w, &c), SWIN_ERR_MISMATCH,
                "layers.0.blocks.0.norm1.weight is [25] and should be [24]");
    CHECK(w.block == NULL, "weights are left behind");
    model_free(&m);
}

/* Tensors of types that cannot be read, and entries that are no tensors, are passed over and counted. */
static void test_left_out(void **state)
{
    (void)state;
    model m;
    swin_weights w;
    swin_config c;
    swin_ckpt *ck;
    model_make(&m, 5);
    swin_torch_write_zip(m.path, m.list, m.count, &(swin_torch_style){ .protocol = 2, .extra = "epoch" },
                         false);
    check_same(&m, "an int among the tensors");
    swin_torch_style s = { .protocol = 2, .late_type = "float8_e4m3fn", .late_key = "norm.bias" };
    swin_torch_write_zip(m.path, m.list, m.count, &s, false);
    CHECK_FAILS(load(&m, &w, &c), SWIN_ERR_MISMATCH, "missing: norm.bias [48]");
    s.late_key = NULL;
    for (s.protocol = 2; s.protocol <= 4; s.protocol += 2) {
        swin_torch_write_zip(m.path, m.list, m.count, &s, false);
        CHECK_FAILS(swin_ckpt_open(&ck, m.path), SWIN_ERR_UNSUPPORTED,
                    "tensor patch_embed.proj.weight (torch.float8_e4m3fn)");
    }
    model_free(&m);
}

static void test_classes(void **state)
{
    (void)state;
    model m;
    swin_weights w;
    swin_config c;
    model_make(&m, 7);
    CHECK_OK(swin_weights_save(&m.w, &m.c, m.path));
    check_same(&m, "class count from the head");
    CHECK_OK(swin_config_parse(&c, small, sizeof small - 1, "small"));
    c.classes_given = true;
    CHECK_FAILS(swin_weights_load(&w, &c, m.path), SWIN_ERR_MISMATCH,
                "head.weight is [7, 48] and should be [1000, 48]");
    model_free(&m);
}

static void test_nonfinite(void **state)
{
    (void)state;
    static const float bad[] = { NAN, INFINITY, -INFINITY };
    model m;
    swin_weights w;
    swin_config c;
    model_make(&m, 5);
    for (size_t i = 0; i < SWIN_COUNT(bad); i++) {
        const size_t p = 2 + 7 * i, at = i == 0 ? 0 : m.list[p].count - 1; /* a vector's body, and its rest */
        const float kept = (*m.list[p].slot)[at];
        (*m.list[p].slot)[at] = bad[i];
        for (int f16 = 0; f16 < 2; f16++) {
            swin_torch_write_safetensors(m.path, m.list, m.count, f16 ? SWIN_F16 : SWIN_F32);
            CHECK_FAILS(load(&m, &w, &c), SWIN_ERR_VALUE, m.list[p].key);
        }
        (*m.list[p].slot)[at] = kept;
    }
    model_free(&m);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        swin_torch_style style;
        swin_status status;
        const char *words;
    } cases[] = {
        { { .protocol = 2, .big_endian = true }, SWIN_ERR_UNSUPPORTED, "big-endian" },
        { { .protocol = 2, .twice = "norm.weight" }, SWIN_ERR_FORMAT, "norm.weight is there twice" },
        { { .protocol = 2, .offset_shift = 1 }, SWIN_ERR_FORMAT, "reaches beyond" },
        { { .protocol = 2, .offset_shift = INT64_MAX - 1000000 }, SWIN_ERR_FORMAT, "reaches beyond" },
        { { .protocol = 2, .offset_shift = -100 }, SWIN_ERR_FORMAT, "offset" },
        { { .protocol = 9 }, SWIN_ERR_FORMAT, "protocol" },
    };
    model m;
    swin_ckpt *ck;
    model_make(&m, 5);
    for (size_t i = 0; i < SWIN_COUNT(cases); i++) {
        swin_torch_write_zip(m.path, m.list, m.count, &cases[i].style, false);
        CHECK_FAILS(swin_ckpt_open(&ck, m.path), cases[i].status, cases[i].words);
        swin_torch_write_legacy(m.path, m.list, m.count, &cases[i].style);
        CHECK_FAILS(swin_ckpt_open(&ck, m.path), cases[i].status, cases[i].words);
    }
    model_free(&m);
}

/* swin_write_file without its wait for the disk: these tests write hundreds of files. */
static void spill(const char *path, const void *data, size_t size)
{
    FILE *f = fopen(path, "wb");
    CHECK(f != NULL && fwrite(data, 1, size, f) == size, "cannot write %s", path);
    fclose(f);
}

/* A legacy file around one structure pickle, which is to be refused with these words. */
static void refuse_pickle(const char *path, const char *pickle, size_t size, const char *words)
{
    static const char head[] =
        "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";
    swin_bytes_out o = { 0 };
    swin_ckpt *ck;
    swin_out_add(&o, head, sizeof head - 1);
    swin_out_add(&o, pickle, size);
    swin_out_text(&o, "\x80\x02].");
    spill(path, o.data, o.size);
    CHECK_FAILS(swin_ckpt_open(&ck, path), SWIN_ERR_FORMAT, words);
    free(o.data);
}
#define REFUSE(m, text, words) refuse_pickle((m).path, text, sizeof(text) - 1, words)

static void test_hostile_pickles(void **state)
{
    (void)state;
    model m;
    char proof[600], command[1400];
    model_make(&m, 5);
    snprintf(proof, sizeof proof, "%s/ran", m.dir);
    const int n = snprintf(command, sizeof command,
                           "\x80\x02"
                           "cposix\nsystem\nX%c%c%c%ctouch %s\x85R.",
                           (int)strlen(proof) + 6, 1, 1, 1, proof);
    memset(command + 18, 0, 3); /* the length's upper bytes, which printf could not write */
    refuse_pickle(m.path, command, (size_t)n, "posix.system");
    CHECK(access(proof, F_OK) != 0, "the pickle was executed");
    REFUSE(m, "\x80\x02.", "empty stack");
    REFUSE(m, "\x80\x02}", "ends without STOP");
    REFUSE(m, "\x80\x02}h\x05.", "memo");
    REFUSE(m, "\x80\x02}r\xff\xff\xff\x7f.", "memo is too large");
    REFUSE(m, "\x80\x02X\xff\xff\xff\xff.", "beyond the end");
    REFUSE(m, "\x80\x02}(X\x01\0\0\0au.", "key without a value");
    REFUSE(m, "\x80\x02\x87.", "tuple");
    REFUSE(m, "\x80\x02u.", "no mark");
    REFUSE(m,
           "\x80\x02K\x01K\x02"
           "a.",
           "holds none");
    REFUSE(m, "\x80\x02I1\n.", "opcode 0x49");
    REFUSE(m,
           "\x80\x02]q\x01h\x01"
           "a.",
           "no dict of tensors");                                             /* a list that holds itself */
    REFUSE(m, "\x80\x02}q\x01X\x05\0\0\0modelh\x01s.", "no dict of tensors"); /* {"model": itself} */
    model_free(&m);
}

/* Memory stays bounded however the stream makes its values. */
static void test_bounds(void **state)
{
    (void)state;
    model m;
    model_make(&m, 5);
    const size_t n = 30u << 20;
    char *deep = malloc(n);
    static const char codes[] = { '(', ']', ')' };
    for (size_t i = 0; i < sizeof codes; i++) {
        memset(deep, codes[i], n);
        memcpy(deep, "\x80\x02", 2);
        refuse_pickle(m.path, deep, n, codes[i] == '(' ? "deeper" : "than any checkpoint needs");
    }
    free(deep);
    model_free(&m);
}

/* A file cut short is refused; a damaged one is refused or read, but never crashes or leaks. */
static void damage(model *m, swin_rng *r)
{
    unsigned char *whole;
    size_t size;
    swin_ckpt *ck;
    CHECK_OK(swin_read_file(m->path, &whole, &size));
    for (int i = 0; i < 60; i++) {
        const size_t cut = i < 30 ? (size_t)i : (size_t)swin_rng_below(r, size);
        spill(m->path, whole, cut);
        CHECK(swin_ckpt_open(&ck, m->path) != SWIN_OK, "%zu of %zu bytes pass as whole (seed %u)", cut, size,
              SEED);
        CHECK(strstr(swin_error_message(), m->path) != NULL, "the message lacks the file: %s",
              swin_error_message());
    }
    for (int i = 0; i < 120; i++) {
        const size_t at = swin_rng_below(r, i % 2 ? size : 2000);
        const unsigned char kept = whole[at];
        whole[at] = (unsigned char)swin_rng_next(r);
        spill(m->path, whole, size);
        whole[at] = kept;
        swin_weights w;
        swin_config c;
        if (load(m, &w, &c) == SWIN_OK) swin_weights_free(&w);
    }
    free(whole);
}

static void test_damage(void **state)
{
    (void)state;
    const swin_torch_style s = { .protocol = 2, .dtype = SWIN_F16, .wrapper = "model", .buffers = true };
    swin_rng r = { SEED };
    model m;
    model_make(&m, 5);
    swin_torch_write_legacy(m.path, m.list, m.count, &s);
    damage(&m, &r);
    swin_torch_write_zip(m.path, m.list, m.count, &s, false);
    damage(&m, &r);
    swin_torch_write_zip(m.path, m.list, m.count, &s, true);
    damage(&m, &r);
    swin_torch_write_safetensors(m.path, m.list, m.count, SWIN_F16);
    damage(&m, &r);
    model_free(&m);
}

/* A .safetensors file of this header, with `data` zero bytes after it, is refused with these words. */
static void refuse_header(const char *path, const char *header, size_t data, const char *words)
{
    swin_bytes_out o = { 0 };
    swin_ckpt *ck;
    swin_out_uint(&o, strlen(header), 8);
    swin_out_text(&o, header);
    for (size_t i = 0; i < data; i++) swin_out_uint(&o, 0, 1);
    spill(path, o.data, o.size);
    CHECK_FAILS(swin_ckpt_open(&ck, path), SWIN_ERR_FORMAT, words);
    free(o.data);
}

static void test_headers(void **state)
{
    (void)state;
    model m;
    model_make(&m, 5);
    refuse_header(m.path, "{}", 0, "no tensor");
    refuse_header(m.path, "{]", 0, "no JSON");
    refuse_header(m.path, "{\"a\":5}", 4, "dtype");
    refuse_header(m.path, "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, "hole");
    refuse_header(m.path, "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 5,
                  "5 bytes of data");
    refuse_header(m.path, "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 3,
                  "data_offsets");
    refuse_header(m.path, "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4,
                  "data_offsets");
    refuse_header(m.path, "{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4,
                  "cannot be used");
    refuse_header(m.path,
                  "{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}}", 0,
                  "cannot be used");
    refuse_header(m.path, "{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},\"a\":{}}", 4,
                  "no JSON");
    model_free(&m);
}

static void test_other_files(void **state)
{
    (void)state;
    static const struct {
        const char *text, *words;
        size_t size;
    } cases[] = {
        { "", "empty", 0 },
        { "hello, world: no checkpoint at all", "neither", 34 },
        { "\xff\0\0\0\0\0\0\0{}", "truncated", 10 },
        { "\x80\x02}.", "not one of torch.save", 4 },
    };
    model m;
    swin_ckpt *ck;
    model_make(&m, 5);
    for (size_t i = 0; i < SWIN_COUNT(cases); i++) {
        spill(m.path, cases[i].text, cases[i].size);
        CHECK_FAILS(swin_ckpt_open(&ck, m.path), SWIN_ERR_FORMAT, cases[i].words);
    }
    CHECK_FAILS(swin_ckpt_open(&ck, m.dir), SWIN_ERR_IO, m.dir);
    CHECK_FAILS(swin_ckpt_open(&ck, "/nonexistent/x.pth"), SWIN_ERR_IO, "/nonexistent/x.pth");
    model_free(&m);
}

/* The trained Swin-T: official keys, FP16 storages, zip container. */
static void test_trained(void **state)
{
    (void)state;
    SWIN_TEST_FILE(path, "weights/swin_tiny_patch4_window7_224_tin200_fp16.pth");
    swin_config c = swin_config_default();
    swin_weights w;
    CHECK_OK(swin_weights_load(&w, &c, path));
    CHECK(c.num_classes == 200, "%d classes", c.num_classes);
    CHECK(w.count == 28288354 - 800 * 769, "%zu parameters", w.count);
    char sha[SWIN_SHA256_HEX], again[SWIN_SHA256_HEX];
    CHECK_OK(swin_weights_sha256(&c, &w, sha));
    char *dir = swin_scratch_make("trained"), *copy = swin_format("%s/copy.safetensors", dir);
    CHECK_OK(swin_weights_save(&w, &c, copy));
    swin_weights_free(&w);
    c = swin_config_default();
    CHECK_OK(swin_weights_load(&w, &c, copy));
    CHECK_OK(swin_weights_sha256(&c, &w, again));
    CHECK(strcmp(sha, again) == 0, "%s and %s", sha, again);
    swin_weights_free(&w);
    free(copy);
    swin_scratch_remove(dir);
}

int main(void)
{
    swin_log_set(SWIN_LOG_QUIET);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_containers), cmocka_unit_test(test_layouts),
        cmocka_unit_test(test_mismatches), cmocka_unit_test(test_left_out),
        cmocka_unit_test(test_classes),    cmocka_unit_test(test_nonfinite),
        cmocka_unit_test(test_refused),    cmocka_unit_test(test_hostile_pickles),
        cmocka_unit_test(test_bounds),     cmocka_unit_test(test_damage),
        cmocka_unit_test(test_headers),    cmocka_unit_test(test_other_files),
        cmocka_unit_test(test_trained),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
