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

/* ---- golden crops ------------------------------------------------------------------------------------------- */

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_crop224),
        cmocka_unit_test(test_golden_squash384),
        cmocka_unit_test(test_golden_odd),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
