/* Layer outputs, their SQNR, and dump files, on a made-up network of a few channels. */
#include <math.h>
#include <unistd.h>

#include "runtime/base/file.h"
#include "runtime/base/h5.h"
#include "runtime/swin/accuracy.h"
#include "runtime/swin/dump.h"
#include "runtime/swin/layers.h"
#include "tests/support/testing.h"

#define IMAGES  600 /* more than two blocks of rows */
#define CLASSES 5

static swin_config small(void)
{
    swin_config c = swin_config_default();
    c.num_classes = CLASSES;
    return c;
}

static void test_list(void **state)
{
    (void)state;
    const swin_config c = swin_config_default();
    CHECK(swin_output_count(&c) == 17, "Swin-T: 1 + 12 blocks + 3 merges + norm, not %d",
          swin_output_count(&c));
    const char *const names[] = { "patch_embed", "layers.0.blocks.0", "layers.0.blocks.1",
                                  "layers.0.downsample" };
    char name[SWIN_SITE_NAME_MAX];
    for (int i = 0; i < 4; i++) {
        swin_site_name(swin_output_at(&c, i), name);
        CHECK(strcmp(name, names[i]) == 0, "output %d is %s", i, name);
    }
    swin_site_name(swin_output_at(&c, 15), name);
    CHECK(strcmp(name, "layers.3.blocks.1") == 0, "output 15 is %s", name);
    swin_site_name(swin_output_at(&c, 16), name);
    CHECK(strcmp(name, "norm") == 0, "output 16 is %s", name);
}

static void test_layer_sqnr(void **state)
{
    (void)state;
    const swin_config c = small();
    swin_layers *l;
    CHECK_OK(swin_layers_create(&l, &c, 3));
    const float ref[2][4] = { { 1, 2, 3, 4 }, { 0, -2, 0, 2 } },
                off[2][4] = { { 1, 2, 3, 5 }, { 1, -2, 0, 2 } };
    for (int image = 0; image < 2; image++) {
        CHECK_OK(swin_layers_add(l, 0, 3, ref[image], 2, 2));
        CHECK_OK(swin_layers_add(l, 1, 3, off[image], 2, 2));
        CHECK_OK(swin_layers_add(l, 2, 3, ref[image], 2, 2));
    }
    /* signal 30 + 8, noise 1 + 1 */
    CHECK(fabs(swin_layers_sqnr(l, 1, 3) - 10 * log10(19)) < 1e-12, "%g", swin_layers_sqnr(l, 1, 3));
    CHECK(isinf(swin_layers_sqnr(l, 2, 3)), "equal: %g", swin_layers_sqnr(l, 2, 3));
    CHECK(isnan(swin_layers_sqnr(l, 0, 3)) && isnan(swin_layers_sqnr(l, 1, 0)),
          "the reference, and a layer never seen");
    CHECK_FAILS(swin_layers_add(l, 1, 3, off[0], 1, 2), SWIN_ERR_MISMATCH, "reference has 4");
    swin_layers_free(l);
    swin_layers_free(NULL);
}

static float logit(int engine, int image, int k)
{
    return (float)(engine * 1000 + image) + 0.125f * (float)k;
}

static void write_dump(const char *path, const swin_config *c, int tapped)
{
    static const char *const names[] = { "fp32", "int8-sim" };
    swin_dump *d;
    CHECK_OK(swin_dump_create(&d, path, c, names, 2));
    for (int image = 0; image < IMAGES; image++) {
        char name[32];
        float rows[2][CLASSES];
        for (int e = 0; e < 2; e++) {
            for (int k = 0; k < CLASSES; k++) rows[e][k] = logit(e, image, k);
            for (int i = 0; image < tapped && i < swin_output_count(c); i++) {
                const float x[6] = { (float)image, (float)e, (float)i, 3, 4, 5 };
                CHECK_OK(swin_dump_output(d, e, i, x, 3, 2));
            }
        }
        snprintf(name, sizeof name, "n%04d/%d.JPEG", image % 7, image);
        const float *const logits[2] = { rows[0], rows[1] };
        CHECK_OK(swin_dump_image(d, name, image % CLASSES, logits));
    }
    CHECK(!swin_is_file(path), "the file has its name before it is complete");
    CHECK_OK(swin_dump_commit(d, "test engine", "abc", "def"));
    swin_dump_close(d);
}

static void check_dump(const char *path)
{
    swin_h5 *f;
    int ndim;
    int64_t dims[8], n;
    size_t count;
    float *x;
    int64_t *labels;
    char *names, *text;
    CHECK_OK(swin_h5_open(&f, path));
    CHECK_OK(swin_h5_read(f, "/int8-sim/logits", SWIN_F32, (void **)&x, &count));
    CHECK(count == (size_t)IMAGES * CLASSES, "%zu logits", count);
    for (int i = 0; i < IMAGES; i++)
        for (int k = 0; k < CLASSES; k++)
            CHECK(x[i * CLASSES + k] == logit(1, i, k), "image %d, class %d: %g", i, k, x[i * CLASSES + k]);
    free(x);
    CHECK_OK(swin_h5_shape(f, "/fp32/taps/layers.2.blocks.5", &ndim, dims));
    CHECK(ndim == 3 && dims[0] == 2 && dims[1] == 3 && dims[2] == 2, "tap of %d x %d x %d", (int)dims[0],
          (int)dims[1], (int)dims[2]);
    CHECK_OK(swin_h5_read(f, "/int8-sim/taps/norm", SWIN_F32, (void **)&x, &count));
    CHECK(count == 12 && x[6] == 1 && x[7] == 1 && x[8] == 16, "norm of image 1: %g %g %g", x[6], x[7], x[8]);
    free(x);
    CHECK_OK(swin_h5_read(f, "/labels", SWIN_S64, (void **)&labels, &count));
    CHECK(count == IMAGES && labels[599] == 599 % CLASSES, "%zu labels", count);
    free(labels);
    CHECK_OK(swin_h5_read(f, "/names", SWIN_U8, (void **)&names, &count));
    CHECK(memcmp(names, "n0000/0.JPEG\nn0001/1.JPEG\n", 26) == 0 && names[count - 1] == '\n', "names");
    free(names);
    CHECK_OK(swin_h5_get_str(f, "/", "checkpoint_sha256", &text));
    CHECK(strcmp(text, "abc") == 0, "%s", text);
    free(text);
    CHECK_OK(swin_h5_get_i64(f, "/", "dump_images", &n));
    CHECK(n == 2, "dump_images %d", (int)n);
    swin_h5_close(f);
}

static void test_dump(void **state)
{
    (void)state;
    const swin_config c = small();
    char *folder = swin_scratch_make("dump");
    char *path = swin_format("%s/a.h5", folder), *again = swin_format("%s/b.h5", folder);
    write_dump(path, &c, 2);
    check_dump(path);
    write_dump(again, &c, 2);
    unsigned char *a, *b;
    size_t na, nb;
    CHECK_OK(swin_read_file(path, &a, &na));
    CHECK_OK(swin_read_file(again, &b, &nb));
    CHECK(na == nb && memcmp(a, b, na) == 0, "two dumps of the same numbers differ (%zu, %zu bytes)", na, nb);
    free(a);
    free(b);

    static const char *const names[] = { "fp32" };
    swin_dump *d; /* given up: nothing stays behind */
    CHECK(unlink(path) == 0, "cannot remove %s", path);
    CHECK_OK(swin_dump_create(&d, path, &c, names, 1));
    swin_dump_close(d);
    char *tmp = swin_format("%s.tmp", path);
    CHECK(!swin_is_file(path) && !swin_is_file(tmp), "%s was left behind", path);
    CHECK_FAILS(swin_dump_create(&d, "/nowhere/d.h5", &c, names, 1), SWIN_ERR_IO, "/nowhere/d.h5");
    free(tmp);
    free(path);
    free(again);
    swin_scratch_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_layer_sqnr),
        cmocka_unit_test(test_dump),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
