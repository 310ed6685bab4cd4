/* Exporters: equal bytes for equal input, and scale tables read back by independent readers. */
#include "tests/support/testing.h"

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zip.h>

#include "quant/corrections.h"
#include "quant/ft_codes.h"
#include "quant/ft_list.h"
#include "runtime/base/file.h"
#include "runtime/base/h5.h"
#include "runtime/base/half.h"
#include "runtime/swin/checkpoint.h"
#include "tests/support/export_model.h"

/* ---- equal bytes -------------------------------------------------------------------------------------------- */

static void same_file(const export_model *m, const char *a, const char *b)
{
    size_t na, nb;
    unsigned char *x = export_model_read(m, a, &na), *y = export_model_read(m, b, &nb);
    CHECK(na == nb && na > 0 && memcmp(x, y, na) == 0, "%s and %s differ", a, b);
    free(x);
    free(y);
}

static void test_deterministic(void **state)
{
    (void)state;
    export_model m;
    export_model_make(&m, SWIN_INT8_MODE_1);
    for (const swin_export_format *const *f = swin_export_formats(); *f; f++) {
        if ((*f)->flags & SWIN_EXPORT_DIR) continue;
        CHECK_OK(export_model_run(&m, (*f)->name, "a.npz"));
        if (strcmp((*f)->name, "ft-scales") == 0) sleep(2); /* a zip's clock ticks every two seconds */
        CHECK_OK(export_model_run(&m, (*f)->name, "b.npz"));
        same_file(&m, "a.npz", "b.npz");
    }
    CHECK_OK(export_model_run(&m, "onnxruntime", "c"));
    CHECK_OK(export_model_run(&m, "onnxruntime", "d"));
    same_file(&m, "c/calibration.json", "d/calibration.json");
    same_file(&m, "c/calibration.cache", "d/calibration.cache");
    same_file(&m, "c/calibration.flatbuffers", "d/calibration.flatbuffers");
    CHECK_FAILS(export_model_run(&m, "onnxruntime", "a.npz"), SWIN_ERR_IO, "is no folder");
    export_model_free(&m);
}

/* ---- tables, read back -------------------------------------------------------------------------------------- */

/* Every enabled activation site once, its scale's bits as written. */
static void test_tensorrt_cache(void **state)
{
    (void)state;
    export_model m;
    size_t size;
    int lines = 0, enabled = 0;
    export_model_make(&m, SWIN_INT8_MODE_2);
    CHECK_OK(export_model_run(&m, "tensorrt-cache", "t"));
    unsigned char *text = export_model_read(&m, "t", &size);
    char *rest = NULL, *line = strtok_r((char *)text, "\n", &rest);
    assert_string_equal(line, "TRT-8501-EntropyCalibration2");
    while ((line = strtok_r(NULL, "\n", &rest)) != NULL) {
        char *colon = strstr(line, ": "), *end;
        CHECK(colon != NULL, "no separator: %s", line);
        *colon = 0;
        const uint32_t bits = (uint32_t)strtoul(colon + 2, &end, 16);
        float scale;
        memcpy(&scale, &bits, sizeof scale);
        const swin_site_record *s = export_model_site(&m, line);
        CHECK(*end == 0 && s->enabled && scale == s->q.scale, "%s: %s", line, colon + 2);
        lines++;
    }
    free(text);
    for (int i = 0; i < m.calib.nsites; i++)
        enabled += m.calib.sites[i].enabled && swin_site_role_of(m.calib.sites[i].site) != SWIN_ROLE_WEIGHT;
    CHECK(lines == enabled, "%d lines for %d sites", lines, enabled);
    export_model_free(&m);
}

/* The example of reference/swin.md section 7. */
static void test_tensorrt_example(void **state)
{
    (void)state;
    export_model m;
    size_t size;
    export_model_make(&m, SWIN_INT8_MODE_1);
    const uint32_t bits = 0x3c92aa10;
    float *scale = &export_model_site(&m, "layers.0.blocks.0.attn.qkv._input")->q.scale;
    memcpy(scale, &bits, sizeof bits);
    CHECK(fabsf(*scale - 0.0179034f) < 5e-8f && fabsf(*scale * 127 - 2.27373f) < 5e-6f, "%.9g",
          (double)*scale);
    CHECK_OK(export_model_run(&m, "tensorrt-cache", "t"));
    unsigned char *text = export_model_read(&m, "t", &size);
    CHECK(strstr((char *)text, "\nlayers.0.blocks.0.attn.qkv._input: 3c92aa10\n") != NULL, "%.200s",
          (char *)text);
    free(text);
    export_model_free(&m);
}

static uint32_t u32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Follow the field at `index` of a flatbuffers table. */
static size_t fb_field(const unsigned char *d, size_t size, size_t table, unsigned index)
{
    const size_t vtable = table - u32(d + table);
    CHECK(table % 4 == 0 && vtable + 6 + 2 * index <= size, "vtable outside the file");
    const unsigned length = (unsigned)(d[vtable] | d[vtable + 1] << 8);
    CHECK(4 + 2 * index < length, "no field %u", index);
    const size_t at = table + (unsigned)(d[vtable + 4 + 2 * index] | d[vtable + 5 + 2 * index] << 8);
    CHECK(at % 4 == 0 && at + 4 <= size && at + u32(d + at) < size, "field outside the file");
    return at + u32(d + at);
}

static const char *fb_string(const unsigned char *d, size_t size, size_t at)
{
    CHECK(at % 4 == 0 && at + 4 + u32(d + at) < size && d[at + 4 + u32(d + at)] == 0,
          "string outside the file");
    CHECK(strlen((const char *)d + at + 4) == u32(d + at), "string length");
    return (const char *)d + at + 4;
}

static void test_onnxruntime_flatbuffers(void **state)
{
    (void)state;
    export_model m;
    size_t size;
    export_model_make(&m, SWIN_INT8_MODE_1);
    CHECK_OK(export_model_run(&m, "onnxruntime", "dir"));
    CHECK_OK(export_model_run(&m, "onnxruntime", "dir")); /* again, into the same folder */
    unsigned char *d = export_model_read(&m, "dir/calibration.flatbuffers", &size);
    const size_t vector = fb_field(d, size, u32(d), 0);
    const uint32_t count = u32(d + vector);
    const char *last = "";
    CHECK(count > 20 && vector + 4 + 4 * count < size, "%u entries", count);
    for (uint32_t i = 0; i < count; i++) {
        const size_t at = vector + 4 + 4 * i, pair = at + u32(d + at);
        const char *key = fb_string(d, size, fb_field(d, size, pair, 0));
        const float value = strtof(fb_string(d, size, fb_field(d, size, pair, 1)), NULL);
        CHECK(strcmp(last, key) < 0, "%s after %s", key, last);
        CHECK(export_model_site(&m, key)->enabled && value == export_model_site(&m, key)->amax, "%s: %g", key,
              (double)value);
        last = key;
    }
    free(d);
    export_model_free(&m);
}

/* One member of an .npz as float32, checked to be stored and undated. */
static float *npz_member(const char *path, const char *name, size_t count)
{
    zip_stat_t s;
    zip_t *z = zip_open(path, ZIP_RDONLY, NULL);
    CHECK(z != NULL && zip_stat(z, name, 0, &s) == 0, "%s: no %s", path, name);
    CHECK(s.comp_method == ZIP_CM_STORE && s.size % 4 == 0, "%s is packed", name);
    unsigned char *bytes = malloc(s.size);
    zip_file_t *f = zip_fopen(z, name, 0);
    CHECK(f != NULL && zip_fread(f, bytes, s.size) == (zip_int64_t)s.size, "cannot read %s", name);
    zip_fclose(f);
    zip_discard(z);
    const size_t header = 10 + bytes[8] + 256u * bytes[9];
    CHECK(memcmp(bytes, "\x93NUMPY\x01\x00", 8) == 0 && header % 64 == 0 && bytes[header - 1] == '\n',
          "header of %s", name);
    CHECK(s.size == header + 4 * count, "%s: %zu bytes", name, (size_t)s.size - header);
    float *v = malloc(4 * count);
    memcpy(v, bytes + header, 4 * count);
    free(bytes);
    return v;
}

static void test_ft_scales(void **state)
{
    (void)state;
    export_model m;
    export_model_make(&m, SWIN_INT8_MODE_1);
    CHECK_OK(export_model_run(&m, "ft-scales", "t.npz"));
    float *v = npz_member(export_model_path(&m, "t.npz"), "layers.0.blocks.1.npy", SWIN_FT_LIST);
    const char *b = "layers.0.blocks.1.";
    char name[96];
    snprintf(name, sizeof name, "%sattn.matmul_v", b);
    const double value = (double)export_model_site(&m, name)->amax;
    snprintf(name, sizeof name, "%sattn.matmul_a", b);
    const double a = (double)export_model_site(&m, name)->amax;
    snprintf(name, sizeof name, "%sattn.proj._input", b);
    const double proj = (double)export_model_site(&m, name)->amax;
    CHECK(v[24] == (float)value && v[25] == (float)(value / 127) && v[27] == (float)(127 / value),
          "group of matmul_v");
    CHECK(v[82] == (float)(a * value / (127 * proj)) && v[87] == v[82] && v[86] == (float)(127 / a), "A V");
    CHECK(v[60] == export_model_site(&m, "layers.0.downsample.reduction._input")->amax && v[76] > 0 &&
              v[83] > 0,
          "the stage's merge stands in each block");
    CHECK(v[68] == 0 && v[84] == 0 && v[88] == 0 && v[95] == 0, "reserved values");
    free(v);
    v = npz_member(export_model_path(&m, "t.npz"), "layers.1.blocks.0.npy", SWIN_FT_LIST);
    CHECK(v[0] > 0 && v[60] == 0 && v[63] == 0 && v[64] == 0 && v[76] == 0 && v[83] == 0,
          "no merge after the last stage");
    free(v);
    /* 127 / amax beyond float32 is refused, not written as infinity. */
    export_model_site(&m, "layers.1.blocks.0.attn.softmax_input")->amax = 1e-37f;
    CHECK_FAILS(export_model_run(&m, "ft-scales", "u.npz"), SWIN_ERR_VALUE, "layers.1.blocks.0");
    export_model_free(&m);
}

/* The values that V2 has from other sites: its queries and keys are quantized again after they are normalised. */
static void test_ft_scales_v2(void **state)
{
    (void)state;
    export_model m;
    export_model_make_v2(&m, SWIN_INT8_MODE_1);
    CHECK_OK(export_model_run(&m, "ft-scales", "t.npz"));
    float *v = npz_member(export_model_path(&m, "t.npz"), "layers.0.blocks.1.npy", SWIN_FT_LIST);
    const double q = (double)export_model_site(&m, "layers.0.blocks.1.attn.mha_q")->amax,
                 k = (double)export_model_site(&m, "layers.0.blocks.1.attn.mha_k")->amax,
                 s = (double)export_model_site(&m, "layers.0.blocks.1.attn.softmax_input")->amax;
    CHECK(v[16] == export_model_site(&m, "layers.0.blocks.1.attn.matmul_q")->amax, "matmul_q: %g",
          (double)v[16]);
    CHECK(v[52] == (float)q && v[55] == (float)(127 / q) && v[56] == (float)k && v[57] == (float)(k / 127),
          "mha_q, mha_k");
    CHECK(v[81] == (float)(q * k / (127 * s)) && v[85] == (float)(q * k / 127 / 127), "Q K: %g, %g",
          (double)v[81], (double)v[85]);
    free(v);
    export_model_free(&m);
    /* Its engine rounds every GEMM output to int8, which mode 2 does not. */
    export_model_make_v2(&m, SWIN_INT8_MODE_2);
    CHECK_FAILS(export_model_run(&m, "ft-scales", "t"), SWIN_ERR_UNSUPPORTED, "--int8-mode 1");
    CHECK_FAILS(export_model_run(&m, "ft-weights", "t"), SWIN_ERR_UNSUPPORTED, "--int8-mode 1");
    CHECK_OK(export_model_run(&m, "tensorrt-cache", "t"));
    CHECK_OK(export_model_run(&m, "pytorch", "t.npz"));
    export_model_free(&m);
}

/* 17 tensors a block; the bias of keys is zero, the scale of queries clamped and exponentiated. */
static void test_ft_weights_v2(void **state)
{
    (void)state;
    export_model m;
    export_model_make_v2(&m, SWIN_INT8_MODE_1);
    m.weights.stages[1].blocks[0].logit_scale[1] = 9; /* over ln 100 */
    CHECK_OK(export_model_run(&m, "ft-weights", "t.npz"));
    zip_t *z = zip_open(export_model_path(&m, "t.npz"), ZIP_RDONLY, NULL);
    CHECK(z && zip_get_num_entries(z, 0) == 3 * 17 + 2 * 5 + 6, "%d tensors",
          z ? (int)zip_get_num_entries(z, 0) : 0);
    CHECK(zip_name_locate(z, "layers.1.blocks.0.attn.exp_logit_scale.npy", 0) == 2 * 17 + 5 + 16, "place");
    zip_discard(z);
    const char *path = export_model_path(&m, "t.npz");
    const swin_block_weights *w = &m.weights.stages[1].blocks[0];
    float *words = npz_member(path, "layers.1.blocks.0.attn.exp_logit_scale.npy", 1); /* two float16 */
    const uint16_t *scale = (const uint16_t *)words;
    CHECK(fabsf(swin_f16_to_f32(scale[0]) / expf(fminf(w->logit_scale[0], logf(100))) - 1) < 2e-3f, "scale");
    CHECK(swin_f16_to_f32(scale[1]) == 100, "clamped: %g", (double)swin_f16_to_f32(scale[1]));
    free(words);
    words = npz_member(path, "layers.1.blocks.0.attn.qkv.bias.npy", 96);
    const uint16_t *bias = (const uint16_t *)words;
    for (int i = 0; i < 64; i++)
        CHECK(bias[i] == swin_f32_to_f16(w->q_bias[i]) && bias[64 + i] == 0 &&
                  bias[128 + i] == swin_f32_to_f16(w->v_bias[i]),
              "bias %d", i);
    free(words);
    export_model_free(&m);
}

/* Codes in tiles, found again from the tiles' definition walked the other way: which row and column stand at each place. */
static void check_tiles(const export_model *m, swin_ft_layout layout)
{
    const float *w = m->weights.stages[0].blocks[0].fc1_weight; /* [128][32]: one panel of columns */
    const float amax = m->calib.weights[2].amax;
    int8_t codes[128 * 32], last = 0;
    CHECK_OK(swin_ft_codes(codes, w, 128, 32, amax, layout));
    for (int at = 0; at < 128 * 32; at++) {
        int row, col;
        if (layout == SWIN_FT_SM80) {
            const int line = at / 32 % 32; /* of a tile of 32: 0 1 8 9 16 17 24 25 2 3 10 11 ... */
            row = at / 1024 * 32 + line / 8 * 2 + line % 8 / 2 * 8 + line % 2;
            col = at % 32;
        } else {
            const int in_tile = at % 256, block = in_tile / 32,
                      four = in_tile % 32 / 4; /* block: even rows first */
            row = at / 256 * 8 + four % 4 * 2 + block / 4;
            col = block % 4 * 8 + four / 4 * 4 + in_tile % 4;
        }
        const float v = (float)(swin_f16_to_f32(swin_f32_to_f16(w[row * 32 + col])) * 127.0 / amax);
        CHECK(codes[at] == (int)rintf(v), "layout %d, place %d: %d for %g", (int)layout, at, codes[at],
              (double)v);
        last |= codes[at];
    }
    CHECK(last != 0, "only zeros");
}

static void test_ft_layout(void **state)
{
    (void)state;
    export_model m;
    export_model_make(&m, SWIN_INT8_MODE_1);
    check_tiles(&m, SWIN_FT_SM75);
    check_tiles(&m, SWIN_FT_SM80);
    int8_t codes[24 * 32];
    CHECK_FAILS(swin_ft_codes(codes, m.weights.stages[0].blocks[0].fc1_weight, 24, 32, 1, SWIN_FT_SM80),
                SWIN_ERR_UNSUPPORTED, "24 x 32");
    CHECK_OK(swin_ft_codes(codes, m.weights.stages[0].blocks[0].fc1_weight, 24, 32, 1, SWIN_FT_SM75));
    m.job.ft_layout = SWIN_FT_SM80;
    CHECK_OK(export_model_run(&m, "ft-weights", "t.npz"));
    /* 128 x 32 codes at the head of as many float16 */
    float *words =
        npz_member(export_model_path(&m, "t.npz"), "layers.0.blocks.0.mlp.fc1.weight.npy", 128 * 32 / 2);
    int8_t want[128 * 32];
    CHECK_OK(swin_ft_codes(want, m.weights.stages[0].blocks[0].fc1_weight, 128, 32, m.calib.weights[2].amax,
                           SWIN_FT_SM80));
    CHECK(memcmp(words, want, sizeof want) == 0, "codes in the file");
    free(words);
    export_model_free(&m);
}

static void test_pytorch_table(void **state)
{
    (void)state;
    export_model m;
    swin_ckpt *ck = NULL;
    export_model_make_v2(&m, SWIN_INT8_MODE_1);
    CHECK_OK(export_model_run(&m, "pytorch", "t.safetensors"));
    CHECK_OK(swin_ckpt_open(&ck, export_model_path(&m, "t.safetensors")));
    CHECK(swin_ckpt_count(ck) == (size_t)m.calib.nsites, "%zu keys", swin_ckpt_count(ck));
    static const char *const pairs[][2] = {
        { "layers.0.blocks.0.attn.qkv._aftergemm_quantizer._amax", "layers.0.blocks.0.attn.qkv._aftergemm" },
        { "layers.0.blocks.0.attn.matmul_q_input_quantizer._amax", "layers.0.blocks.0.attn.matmul_q" },
        { "layers.0.blocks.0.attn.softmax_input_quantizer._amax", "layers.0.blocks.0.attn.softmax_input" },
        { "layers.0.blocks.1.layernorm_input2_quantizer._amax", "layers.0.blocks.1.layernorm_input2" },
        { "layers.1.blocks.0.add1_residual_input_quantizer._amax", "layers.1.blocks.0.add1_residual" },
        { "layers.0.downsample.reduction._input_quantizer._amax", "layers.0.downsample.reduction._input" },
        { "layers.0.blocks.1.attn.mha_q_input_quantizer._amax", "layers.0.blocks.1.attn.mha_q" },
        { "layers.0.blocks.1.attn.mha_k_input_quantizer._amax", "layers.0.blocks.1.attn.mha_k" },
    };
    for (size_t i = 0; i < SWIN_COUNT(pairs); i++) {
        float v = 0;
        const swin_ckpt_tensor *t = swin_ckpt_find(ck, pairs[i][0]);
        CHECK(t && t->count == 1 && t->ndim == 0, "%s", pairs[i][0]);
        CHECK_OK(swin_ckpt_read(t, &v));
        CHECK(v == export_model_site(&m, pairs[i][1])->amax, "%s: %g", pairs[i][0], (double)v);
    }
    swin_ckpt_close(ck);
    export_model_free(&m);
}

/* ---- names of other graphs ---------------------------------------------------------------------------------- */

static swin_status read_map(export_model *m, swin_name_map *map, const char *text)
{
    const char *path = export_model_path(m, "map");
    CHECK_OK(swin_write_file(path, text, strlen(text)));
    return swin_name_map_read(map, &m->config, path);
}

static void test_name_map(void **state)
{
    (void)state;
    export_model m;
    swin_name_map map;
    size_t size;
    export_model_make(&m, SWIN_INT8_MODE_1);
    CHECK_FAILS(read_map(&m, &map, "# c\n\nlayers.9.blocks.0.attn.qkv._input x\n"), SWIN_ERR_FORMAT, "map:3");
    CHECK_FAILS(read_map(&m, &map, "layers.0.blocks.0.attn.qkv._input\n"), SWIN_ERR_FORMAT, "no tensor");
    CHECK_FAILS(read_map(&m, &map, "head x\n"), SWIN_ERR_FORMAT, "no site");
    CHECK_FAILS(read_map(&m, &map, "layers.0.blocks.0.attn.qkv._weight x\n"), SWIN_ERR_FORMAT, "weight");
    CHECK_FAILS(read_map(&m, &map, "layers.0.blocks.0.attn.matmul_q x\nlayers.0.blocks.0.attn.matmul_k x\n"),
                SWIN_ERR_FORMAT, "given twice");
    CHECK_OK(read_map(&m, &map, "  layers.0.blocks.0.attn.matmul_q \t (Unnamed: 3) [x*]  \r\n"));
    CHECK(map.count == 1 && strcmp(map.pairs[0].tensor, "(Unnamed: 3) [x*]") == 0, "%s", map.pairs[0].tensor);
    m.job.names = &map;
    CHECK_FAILS(export_model_run(&m, "tensorrt-cache", "t"), SWIN_ERR_MISMATCH,
                "layers.0.blocks.0.attn.qkv._input");
    CHECK_FAILS(export_model_run(&m, "csv", "t"), SWIN_ERR_USAGE, "--name-map");
    swin_name_map_free(&map);

    char text[16384] = "layers.0.blocks.0.attn.matmul_q second\n";
    for (int i = 0; i < m.calib.nsites; i++) {
        char name[SWIN_SITE_NAME_MAX];
        swin_site_name(m.calib.sites[i].site, name);
        if (swin_site_role_of(m.calib.sites[i].site) == SWIN_ROLE_WEIGHT) continue;
        const size_t at = strlen(text);
        snprintf(text + at, sizeof text - at, strstr(name, "matmul_k") ? "%s -\n" : "%s t/%d\n", name, i);
    }
    CHECK_OK(read_map(&m, &map, text));
    m.job.names = &map;
    CHECK_OK(export_model_run(&m, "tensorrt-cache", "t"));
    unsigned char *out = export_model_read(&m, "t", &size);
    CHECK(strstr((char *)out, "\nsecond: ") && strstr((char *)out, "\nt/1: ") &&
              !strstr((char *)out, "matmul"),
          "%s", (char *)out);
    free(out);
    swin_name_map_free(&map);
    export_model_free(&m);
}

/* ---- corrections -------------------------------------------------------------------------------------------- */

static void test_corrections(void **state)
{
    (void)state;
    export_model m;
    bool present = true;
    export_model_make(&m, SWIN_INT8_MODE_1);
    const float bias[] = { 1, 2, 3, 4, 5 }, wrong[] = { 1, 2 };
    const struct {
        const char *dataset;
        const float *v;
        int64_t n;
        swin_status status;
        const char *words;
    } cases[] = {
        { NULL, NULL, 0, SWIN_OK, "" },
        { "/corrections/weights/head.bias", bias, 5, SWIN_OK, "" },
        { "/corrections/weights/head.bias", wrong, 2, SWIN_ERR_MISMATCH, "head.bias" },
        { "/corrections/weights/nothing", bias, 5, SWIN_ERR_MISMATCH, "nothing" },
        { "/corrections/weights/head.bias", (const float[]){ 1, 2, NAN, 4, 5 }, 5, SWIN_ERR_VALUE,
          "head.bias" },
        { "/corrections/later", bias, 5, SWIN_ERR_UNSUPPORTED, "/corrections/later" },
    };
    for (size_t i = 0; i < SWIN_COUNT(cases); i++) {
        const char *path = export_model_path(&m, "c.h5");
        swin_h5 *h = NULL;
        CHECK_OK(swin_h5_create(&h, path));
        CHECK_OK(swin_h5_set_i64(h, "/", "schema", 1));
        if (cases[i].dataset)
            CHECK_OK(swin_h5_write(h, cases[i].dataset, SWIN_F32, cases[i].v, 1, &cases[i].n, false));
        CHECK_OK(swin_h5_commit(h));
        swin_h5_close(h);
        swin_status st = swin_corrections_present(&present, path);
        if (st == SWIN_OK) {
            CHECK(present == (cases[i].dataset != NULL), "case %zu", i);
            st = swin_corrections_apply(&m.weights, &m.config, path);
        }
        CHECK(st == cases[i].status, "case %zu: status %d: %s", i, (int)st, swin_error_message());
        if (st != SWIN_OK) CHECK(strstr(swin_error_message(), cases[i].words), "%s", swin_error_message());
        if (i == 1) CHECK(memcmp(m.weights.head_bias, bias, sizeof bias) == 0, "head.bias was not corrected");
    }
    export_model_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_deterministic),    cmocka_unit_test(test_tensorrt_cache),
        cmocka_unit_test(test_tensorrt_example), cmocka_unit_test(test_onnxruntime_flatbuffers),
        cmocka_unit_test(test_ft_scales),        cmocka_unit_test(test_ft_scales_v2),
        cmocka_unit_test(test_ft_weights_v2),    cmocka_unit_test(test_ft_layout),
        cmocka_unit_test(test_pytorch_table),    cmocka_unit_test(test_name_map),
        cmocka_unit_test(test_corrections),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
