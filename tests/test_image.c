/* Decoding, Pillow's resize and crop, normalisation. */
#include "tests/support/testing.h"

#include <dirent.h>

#include "data/decode.h"
#include "data/image.h"
#include "data/resize.h"
#include "runtime/base/file.h"
#include "runtime/base/h5.h"

static const swin_preprocess crop224 = { 224, true }, squash384 = { 384, false };

static size_t first_difference(const uint8_t *a, const uint8_t *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (a[i] != b[i]) return i;
    return n;
}

/* ---- golden crops -------------------------------------------------------------------------------------- */

typedef struct golden {
    swin_h5 *f;
    swin_resizer *resizer;
    const char *group, *folder;
    const swin_preprocess *preprocess;
    size_t checked;
} golden;

/* Both ways to the crop, with every set of passes, give Pillow's bytes. */
static swin_status check_crop(void *user, const char *name)
{
    golden *g = user;
    uint8_t *want, *file;
    size_t n, size, side = (size_t)g->preprocess->size;
    char path[512];
    swin_image im = { 0 };
    snprintf(path, sizeof path, "%s/%s", g->group, name);
    CHECK_OK(swin_h5_read(g->f, path, SWIN_U8, (void **)&want, &n));
    assert_int_equal(n, side * side * 3);
    snprintf(path, sizeof path, "%s/%s", g->folder, name);
    CHECK_OK(swin_read_file(path, &file, &size));
    uint8_t *got = malloc(n);
    CHECK_OK(swin_image_decode(&im, file, size, NULL));
    const swin_passes *passes;
    for (int i = 0; (passes = swin_passes_get(i)); i++) {
        swin_resizer_use(g->resizer, passes);
        memset(got, 1, n);
        CHECK_OK(swin_image_preprocess(g->resizer, got, &im, g->preprocess));
        CHECK(first_difference(got, want, n) == n, "%s, %s, preprocess: byte %zu", name, passes->name,
              first_difference(got, want, n));
        memset(got, 1, n);
        CHECK_OK(swin_image_load(g->resizer, got, file, size, g->preprocess, NULL));
        CHECK(first_difference(got, want, n) == n, "%s, %s, load: byte %zu", name, passes->name,
              first_difference(got, want, n));
    }
    g->checked++;
    swin_image_free(&im);
    free(got);
    free(file);
    free(want);
    return SWIN_OK;
}

static void check_group(const char *file, const char *folder, const char *group, const swin_preprocess *p,
                        size_t expected)
{
    golden g = { .group = group, .folder = folder, .preprocess = p };
    CHECK_OK(swin_h5_open(&g.f, file));
    CHECK_OK(swin_resizer_create(&g.resizer));
    CHECK_OK(swin_h5_each(g.f, group, check_crop, &g));
    print_message("%s: %zu crops equal to Pillow's\n", group, g.checked);
    CHECK(g.checked >= expected, "%zu crops", g.checked);
    swin_resizer_free(g.resizer);
    swin_h5_close(g.f);
}

static void test_golden_crop224(void **state)
{
    (void)state;
    SWIN_TEST_FILE(file, "golden/preprocess.h5");
    check_group(file, swin_test_file("imagenet-samples"), "crop224", &crop224, 34);
}

static void test_golden_squash384(void **state)
{
    (void)state;
    SWIN_TEST_FILE(file, "golden/preprocess.h5");
    check_group(file, swin_test_file("imagenet-samples"), "squash384", &squash384, 6);
}

static void test_golden_odd(void **state)
{
    (void)state;
    SWIN_TEST_FILE(file, "golden/preprocess.h5");
    check_group(file, swin_test_file("odd-images"), "odd", &crop224, 15);
}

/* Files of the odd folder that have no golden crop are those that Pillow refuses. */
static void test_refused(void **state)
{
    (void)state;
    SWIN_TEST_FILE(golden_path, "golden/preprocess.h5");
    SWIN_TEST_FILE(folder, "odd-images");
    swin_h5 *f;
    swin_resizer *r;
    size_t refused = 0;
    uint8_t *out = malloc(224 * 224 * 3);
    CHECK_OK(swin_h5_open(&f, golden_path));
    CHECK_OK(swin_resizer_create(&r));
    DIR *d = opendir(folder);
    for (struct dirent *e; (e = readdir(d));) {
        char path[4096];
        uint8_t *bytes;
        size_t size;
        swin_image im = { 0 };
        snprintf(path, sizeof path, "odd/%s", e->d_name);
        if (e->d_name[0] == '.' || swin_h5_exists(f, path)) continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        CHECK_OK(swin_read_file(path, &bytes, &size));
        const swin_status a = swin_image_decode(&im, bytes, size, NULL);
        const swin_status b = swin_image_load(r, out, bytes, size, &crop224, NULL);
        CHECK(a == SWIN_ERR_FORMAT && b == SWIN_ERR_FORMAT, "%s: %d, %d", e->d_name, (int)a, (int)b);
        print_message("refused %s: %s\n", e->d_name, swin_error_message());
        refused++;
        swin_image_free(&im);
        free(bytes);
    }
    closedir(d);
    CHECK(refused == 4, "%zu", refused);
    swin_resizer_free(r);
    swin_h5_close(f);
    free(out);
}

/* ---- properties, on pictures made here ----------------------------------------------------------------- */

/* Each set of passes gives the plain one's bytes, and load gives preprocess's, for sizes of all kinds. */
static void test_passes_agree(void **state)
{
    (void)state;
    enum { SEED = 7, MOST = 600 };
    swin_rng rng = { SEED };
    swin_resizer *r;
    size_t compared = 0;
    uint8_t *file = malloc(MOST * MOST * 3 + 64), *want = malloc(64 * 64 * 3),
            *got = malloc(64 * 64 * 3 + 64);
    CHECK_OK(swin_resizer_create(&r));
    for (int round = 0; round < 60; round++) {
        const int w = 1 + (int)swin_rng_below(&rng, round % 3 ? 100 : MOST);
        const int h = 1 + (int)swin_rng_below(&rng, round % 4 ? 100 : MOST);
        const swin_preprocess p = { 1 + (int)swin_rng_below(&rng, 64), round % 2 };
        const size_t n = (size_t)p.size * (size_t)p.size * 3, pixels = (size_t)w * (size_t)h * 3;
        const size_t head = (size_t)sprintf((char *)file, "P6 %d %d 255\n", w, h);
        for (size_t i = 0; i < pixels; i++) /* the extremes often, to meet the clipping */
            file[head + i] =
                (uint8_t)(swin_rng_below(&rng, 3) ? 255 * swin_rng_below(&rng, 2) : swin_rng_next(&rng));
        uint8_t *exact = malloc(pixels); /* no byte more than the picture: reading on would be noticed */
        memcpy(exact, file + head, pixels);
        const swin_image im = { .data = exact, .width = w, .height = h };
        swin_resizer_use(r, &swin_passes_plain);
        CHECK_OK(swin_image_preprocess(r, want, &im, &p));
        const swin_passes *passes;
        for (int i = 0; (passes = swin_passes_get(i)); i++) {
            swin_resizer_use(r, passes);
            for (int whole = 0; whole < 2; whole++) {
                memset(got, 0xa5, n + 64);
                CHECK_OK(whole ? swin_image_preprocess(r, got, &im, &p)
                               : swin_image_load(r, got, file, head + pixels, &p, NULL));
                CHECK(memcmp(got, want, n) == 0, "seed %d, %s, %dx%d to %d: byte %zu", SEED, passes->name, w,
                      h, p.size, first_difference(got, want, n));
                for (int j = 0; j < 64; j++)
                    CHECK(got[n + (size_t)j] == 0xa5, "%s wrote past the end", passes->name);
                compared++;
            }
        }
        free(exact);
    }
    print_message("%zu crops equal to the plain passes'\n", compared);
    swin_resizer_free(r);
    free(file);
    free(want);
    free(got);
}

/* Cropping and skipping inside libjpeg changes no byte, for every sample and odd subsampling. */
static void test_load_is_decode_and_preprocess(void **state)
{
    (void)state;
    SWIN_TEST_FILE(samples, "imagenet-samples");
    const char *const folders[] = { samples, swin_test_file("odd-images") };
    const swin_preprocess sizes[] = { crop224, { 48, true }, { 301, true } };
    swin_resizer *r;
    size_t compared = 0;
    uint8_t *a = malloc(301 * 301 * 3), *b = malloc(301 * 301 * 3);
    CHECK_OK(swin_resizer_create(&r));
    for (int f = 0; f < 2 && folders[f]; f++) {
        DIR *d = opendir(folders[f]);
        for (struct dirent *e; (e = readdir(d));) {
            char path[4096];
            uint8_t *bytes;
            size_t size;
            swin_image im = { 0 };
            int w1 = 0, w2 = 0;
            if (e->d_name[0] == '.') continue;
            snprintf(path, sizeof path, "%s/%s", folders[f], e->d_name);
            CHECK_OK(swin_read_file(path, &bytes, &size));
            const swin_status st = swin_image_decode(&im, bytes, size, &w1);
            for (size_t i = 0; i < SWIN_COUNT(sizes); i++) {
                const size_t n = (size_t)sizes[i].size * (size_t)sizes[i].size * 3;
                CHECK(swin_image_load(r, b, bytes, size, &sizes[i], &w2) == st, "%s", e->d_name);
                CHECK(w1 == w2, "%s: %d and %d warnings", e->d_name, w1, w2);
                if (st != SWIN_OK) continue;
                CHECK_OK(swin_image_preprocess(r, a, &im, &sizes[i]));
                CHECK(memcmp(a, b, n) == 0, "%s, %d: byte %zu", e->d_name, sizes[i].size,
                      first_difference(a, b, n));
                compared++;
            }
            swin_image_free(&im);
            free(bytes);
        }
        closedir(d);
    }
    print_message("%zu crops compared\n", compared);
    swin_resizer_free(r);
    free(a);
    free(b);
}

/* Three float32 roundings, for each of the 768 inputs and at every place in a vector. */
static void test_normalise(void **state)
{
    (void)state;
    enum { S = 17 };
    static const float mean[3] = { 0.485f, 0.456f, 0.406f }, deviation[3] = { 0.229f, 0.224f, 0.225f };
    static uint8_t rgb[S * S * 3];
    static float out[3 * S * S];
    for (int shift = 0; shift < 256; shift++) {
        for (int i = 0; i < S * S * 3; i++) rgb[i] = (uint8_t)(i / 3 + shift + 85 * (i % 3));
        swin_image_normalise(out, rgb, S);
        for (int i = 0; i < S * S; i++)
            for (int c = 0; c < 3; c++) {
                const volatile float x = (float)rgb[3 * i + c] / 255.0f;
                const volatile float y = x - mean[c];
                const float want = y / deviation[c], got = out[c * S * S + i];
                CHECK(memcmp(&got, &want, sizeof got) == 0, "channel %d of %d: %.9g, not %.9g", c,
                      rgb[3 * i + c], (double)got, (double)want);
            }
    }
}

static void test_sizes_and_texts(void **state)
{
    (void)state;
    char text[100];
    assert_int_equal(swin_preprocess_short_side(224), 256);
    assert_int_equal(swin_preprocess_short_side(256), 292);
    assert_int_equal(swin_preprocess_short_side(192), 219);
    swin_preprocess_text(&crop224, text, sizeof text);
    assert_string_equal(text, "bicubic short side 256, centre crop 224");
}

static void test_other_formats(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t size;
        swin_status st;
        const char *words;
    } cases[] = {
        { "", 0, SWIN_ERR_FORMAT, "empty file" },
        { "hello", 5, SWIN_ERR_FORMAT, "not an image" },
        { "\xff\xd8\xff", 3, SWIN_ERR_FORMAT, "truncated" },
        { "\x89PNG\r\n\x1a\n", 8, SWIN_ERR_FORMAT, "truncated" },
        { "BM......", 8, SWIN_ERR_UNSUPPORTED, "a BMP file" },
        { "II*\0....", 8, SWIN_ERR_UNSUPPORTED, "a TIFF file" },
        { "P6 0 5 255\n", 11, SWIN_ERR_FORMAT, "no pixels" },
        { "P6 1 1 255\nab", 13, SWIN_ERR_FORMAT, "truncated" },
        { "P6 99999 99999 255\n", 19, SWIN_ERR_FORMAT, "Pillow's limit" },
        { "P5 99999999999 1 255\n", 21, SWIN_ERR_FORMAT, "bad header" },
        { "P6 1 1 0\nabc", 12, SWIN_ERR_FORMAT, "bad header" },
    };
    swin_image im = { 0 };
    for (size_t i = 0; i < SWIN_COUNT(cases); i++)
        CHECK_FAILS(swin_image_decode(&im, (const uint8_t *)cases[i].bytes, cases[i].size, NULL), cases[i].st,
                    cases[i].words);
    CHECK_OK(swin_image_decode(&im, (const uint8_t *)"P5 2 1 5\n\x01\x05", 11, NULL));
    assert_memory_equal(im.data, "\x33\x33\x33\xff\xff\xff", 6);
    swin_image_free(&im);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_crop224), cmocka_unit_test(test_golden_squash384),
        cmocka_unit_test(test_golden_odd),     cmocka_unit_test(test_refused),
        cmocka_unit_test(test_passes_agree),   cmocka_unit_test(test_load_is_decode_and_preprocess),
        cmocka_unit_test(test_normalise),      cmocka_unit_test(test_sizes_and_texts),
        cmocka_unit_test(test_other_formats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
