/* The stream of batches: the same images, bytes and hash for any number of workers, depth, batch size and
 * kind of set. */
#include "tests/support/testing.h"

#include <sys/stat.h>

#include <zip.h>

#include "data/loader.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"

enum { IMAGES = 41, SIDE = 24, SEED = 20 };

static char *root;
static const swin_preprocess small = { SIDE, true };

static bool is_broken(int i)
{
    return i % 9 == 4;
}

/* A PPM of random size and pixels; a broken one lacks its last bytes. */
static size_t make_image(unsigned char *out, int i)
{
    swin_rng r = { (uint64_t)SEED + (uint64_t)i };
    const int w = 20 + (int)swin_rng_below(&r, 60), h = 20 + (int)swin_rng_below(&r, 60);
    size_t n = (size_t)sprintf((char *)out, "P6\n%d %d\n255\n", w, h);
    for (int j = 0; j < w * h * 3; j++) out[n++] = (unsigned char)swin_rng_next(&r);
    return is_broken(i) ? n - 5 : n;
}

/* The same images as root/f/val/<class>/<name> and, in the same order, root/z/val.zip with its map. */
static int make_sets(void **state)
{
    (void)state;
    static unsigned char bytes[IMAGES][80 * 80 * 3 + 64];
    char path[4096], map[IMAGES * 32] = "";
    int code;
    root = swin_scratch_make("loader");
    const char *const folders[] = { "f", "z", "f/val", "f/val/a", "f/val/b" };
    for (size_t i = 0; i < SWIN_COUNT(folders); i++) {
        snprintf(path, sizeof path, "%s/%s", root, folders[i]);
        mkdir(path, 0755);
    }
    snprintf(path, sizeof path, "%s/z/val.zip", root);
    zip_t *z = zip_open(path, ZIP_CREATE, &code);
    assert_non_null(z);
    for (int i = 0; i < IMAGES; i++) {
        char name[32];
        const size_t n = make_image(bytes[i], i);
        snprintf(name, sizeof name, "%s/%03d.ppm", i < IMAGES / 2 ? "a" : "b", i);
        snprintf(path, sizeof path, "%s/f/val/%s", root, name);
        CHECK_OK(swin_write_file(path, bytes[i], n));
        assert_true(zip_file_add(z, name, zip_source_buffer(z, bytes[i], n, 0), 0) >= 0);
        sprintf(map + strlen(map), "%s\t%d\n", name, i >= IMAGES / 2);
    }
    assert_int_equal(zip_close(z), 0);
    snprintf(path, sizeof path, "%s/z/val_map.txt", root);
    CHECK_OK(swin_write_file(path, map, strlen(map)));
    swin_log_set(SWIN_LOG_QUIET);
    return 0;
}

static int remove_sets(void **state)
{
    (void)state;
    swin_scratch_remove(root);
    return 0;
}

static swin_dataset *open_set(const char *kind)
{
    swin_dataset *ds;
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", root, kind);
    CHECK_OK(swin_dataset_open(&ds, path, "val"));
    return ds;
}

/* All that a stream delivers. */
typedef struct stream {
    size_t n, broken;
    size_t index[IMAGES];
    int label[IMAGES];
    uint8_t rgb[IMAGES][SIDE * SIDE * 3];
    float pixels[IMAGES][3 * SIDE * SIDE];
    char sha[SWIN_SHA256_HEX];
} stream;

static void read_stream(stream *s, swin_dataset *ds, const swin_loader_opts *o)
{
    swin_loader *l;
    swin_batch b;
    swin_loader_report r;
    memset(s, 0, sizeof *s);
    CHECK_OK(swin_loader_open(&l, ds, o));
    for (;;) {
        CHECK_OK(swin_loader_next(l, &b));
        if (b.n == 0) break;
        CHECK(b.n <= o->batch && s->n + (size_t)b.n <= IMAGES, "batch of %d after %zu", b.n, s->n);
        memcpy(s->index + s->n, b.index, (size_t)b.n * sizeof *b.index);
        memcpy(s->label + s->n, b.labels, (size_t)b.n * sizeof *b.labels);
        assert_true((b.u8 != NULL) == o->u8 && (b.pixels != NULL) == !o->u8);
        if (o->u8)
            memcpy(s->rgb[s->n], b.u8, (size_t)b.n * sizeof s->rgb[0]);
        else
            memcpy(s->pixels[s->n], b.pixels, (size_t)b.n * sizeof s->pixels[0]);
        s->n += (size_t)b.n;
    }
    CHECK_OK(swin_loader_report_get(l, &r));
    s->broken = r.broken;
    assert_int_equal(r.images, s->n);
    for (size_t i = 0; i < r.broken; i++) {
        CHECK(is_broken((int)r.broken_index[i]), "image %zu is not broken", r.broken_index[i]);
        assert_non_null(strstr(r.broken_reason[i], "truncated"));
    }
    memcpy(s->sha, r.image_list_sha256, sizeof s->sha);
    swin_loader_close(l);
}

static void test_order_and_bytes(void **state)
{
    (void)state;
    static stream want, got;
    swin_dataset *sets[2] = { open_set("f"), open_set("z") };
    read_stream(&want, sets[0],
                &(swin_loader_opts){ .batch = 5, .workers = 1, .ahead = 1, .preprocess = small });
    assert_int_equal(want.n, IMAGES - 5);
    assert_int_equal(want.broken, 5);
    assert_int_equal(strlen(want.sha), 64);
    for (size_t i = 0, at = 0; i < IMAGES; i++) {
        if (is_broken((int)i)) continue;
        assert_int_equal(want.index[at], i);
        assert_int_equal(want.label[at++], i >= IMAGES / 2);
    }
    for (int set = 0; set < 2; set++)
        for (int workers = 1; workers <= 4; workers++)
            for (int ahead = 0; ahead <= 9; ahead += 3) {
                const int batch = 1 + (workers * 7 + ahead) % 11;
                read_stream(&got, sets[set],
                            &(swin_loader_opts){
                                .batch = batch, .workers = workers, .ahead = ahead, .preprocess = small });
                CHECK(memcmp(&got, &want, sizeof got) == 0, "%s, %d workers, %d ahead, batches of %d differ",
                      swin_dataset_kind(sets[set]), workers, ahead, batch);
            }
    swin_dataset_close(sets[0]);
    swin_dataset_close(sets[1]);
}

static void test_u8_and_float_agree(void **state)
{
    (void)state;
    static stream f, u;
    static float pixels[3 * SIDE * SIDE];
    swin_dataset *ds = open_set("z");
    read_stream(&f, ds, &(swin_loader_opts){ .batch = 8, .preprocess = small });
    read_stream(&u, ds, &(swin_loader_opts){ .batch = 8, .preprocess = small, .u8 = true });
    assert_string_equal(f.sha, u.sha);
    for (size_t i = 0; i < f.n; i++) {
        swin_image_normalise(pixels, u.rgb[i], SIDE);
        assert_memory_equal(pixels, f.pixels[i], sizeof pixels);
    }
    swin_dataset_close(ds);
}

static void test_chosen_images(void **state)
{
    (void)state;
    static stream s, t;
    const size_t picked[] = { 30, 2, 2, 4, 11 }; /* 4 is broken */
    swin_dataset *ds = open_set("f");
    read_stream(&s, ds,
                &(swin_loader_opts){ .indices = picked, .count = 5, .batch = 3, .preprocess = small });
    assert_int_equal(s.n, 4);
    assert_int_equal(s.broken, 1);
    assert_true(s.index[0] == 30 && s.index[1] == 2 && s.index[2] == 2 && s.index[3] == 11);
    assert_memory_equal(s.pixels[1], s.pixels[2], sizeof s.pixels[1]);
    read_stream(&t, ds,
                &(swin_loader_opts){
                    .indices = (size_t[]){ 2, 30, 2, 11 }, .count = 4, .batch = 3, .preprocess = small });
    assert_string_not_equal(s.sha, t.sha); /* the order counts */
    read_stream(&t, ds,
                &(swin_loader_opts){
                    .indices = (size_t[]){ 30, 2, 2, 11 }, .count = 4, .batch = 3, .preprocess = small });
    assert_string_equal(s.sha, t.sha); /* what was left out does not */
    read_stream(&s, ds, &(swin_loader_opts){ .count = 3, .batch = 8, .preprocess = small });
    assert_int_equal(s.n, 3);
    read_stream(&s, ds,
                &(swin_loader_opts){ .indices = picked, .count = 0, .batch = 8, .preprocess = small });
    assert_int_equal(s.n, 0);
    swin_dataset_close(ds);
}

/* The hash is what loader.h says, made from its own parts. */
static void test_hash_definition(void **state)
{
    (void)state;
    static stream s;
    const size_t picked[] = { 39, 7 };
    unsigned char digest[SWIN_SHA256_BYTES];
    char hex[SWIN_SHA256_HEX];
    swin_dataset *ds = open_set("z");
    swin_sha256 *one, *list;
    swin_bytes b = { 0 };
    read_stream(&s, ds,
                &(swin_loader_opts){ .indices = picked, .count = 2, .batch = 1, .preprocess = small });
    CHECK_OK(swin_sha256_begin(&one));
    CHECK_OK(swin_sha256_begin(&list));
    for (int i = 0; i < 2; i++) {
        const unsigned char label[8] = { (unsigned char)swin_dataset_label(ds, picked[i]) };
        CHECK_OK(swin_dataset_read(ds, picked[i], &b));
        CHECK_OK(swin_sha256_add(one, b.data, b.size));
        CHECK_OK(swin_sha256_end(one, digest));
        CHECK_OK(swin_sha256_add(list, label, 8));
        CHECK_OK(swin_sha256_add(list, digest, sizeof digest));
    }
    CHECK_OK(swin_sha256_end(list, digest));
    swin_sha256_hex(hex, digest);
    assert_string_equal(s.sha, hex);
    swin_sha256_free(one);
    swin_sha256_free(list);
    free(b.data);
    swin_dataset_close(ds);
}

static void test_strict(void **state)
{
    (void)state;
    swin_dataset *ds = open_set("f");
    for (int workers = 1; workers <= 4; workers += 3) {
        swin_loader *l;
        swin_batch b;
        CHECK_OK(swin_loader_open(
            &l, ds,
            &(swin_loader_opts){ .batch = 4, .workers = workers, .strict = true, .preprocess = small }));
        CHECK_OK(swin_loader_next(l, &b));
        assert_int_equal(b.n, 4);
        CHECK_FAILS(swin_loader_next(l, &b), SWIN_ERR_FORMAT, "image a/004.ppm: the file is truncated");
        CHECK_FAILS(swin_loader_next(l, &b), SWIN_ERR_FORMAT, "a/004.ppm");
        swin_loader_close(l);
    }
    swin_dataset_close(ds);
}

static void test_refused_and_abandoned(void **state)
{
    (void)state;
    swin_dataset *ds = open_set("f");
    swin_loader *l = NULL;
    swin_batch b;
    CHECK_FAILS(swin_loader_open(&l, ds, &(swin_loader_opts){ .batch = 0, .preprocess = small }),
                SWIN_ERR_VALUE, "batch");
    CHECK_FAILS(swin_loader_open(&l, ds, &(swin_loader_opts){ .batch = 1 }), SWIN_ERR_VALUE, "image size 0");
    CHECK_FAILS(
        swin_loader_open(&l, ds,
                         &(swin_loader_opts){
                             .indices = (size_t[]){ IMAGES }, .count = 1, .batch = 1, .preprocess = small }),
        SWIN_ERR_VALUE, "image 41 of a data set of 41");
    assert_null(l);
    for (int i = 0; i < 20; i++) { /* closing in mid-stream neither hangs nor leaks */
        CHECK_OK(
            swin_loader_open(&l, ds, &(swin_loader_opts){ .batch = 2, .workers = 3, .preprocess = small }));
        if (i % 2) CHECK_OK(swin_loader_next(l, &b));
        swin_loader_close(l);
    }
    swin_dataset_close(ds);
}

/* Faults that libjpeg recovers from are counted and the picture is used. */
static void test_jpeg_warnings(void **state)
{
    (void)state;
    SWIN_TEST_FILE(sample, "imagenet-samples/n01440764_tench.JPEG");
    unsigned char *bytes;
    size_t size;
    char path[4096];
    swin_dataset *ds;
    swin_loader *l;
    swin_batch b;
    swin_loader_report r;
    CHECK_OK(swin_read_file(sample, &bytes, &size));
    memcpy(bytes + size * 2 / 3, "\xff\xd3", 2); /* a restart marker where none belongs */
    snprintf(path, sizeof path, "%s/w", root);
    mkdir(path, 0755);
    snprintf(path, sizeof path, "%s/w/c", root);
    mkdir(path, 0755);
    snprintf(path, sizeof path, "%s/w/c/damaged.jpg", root);
    CHECK_OK(swin_write_file(path, bytes, size));
    snprintf(path, sizeof path, "%s/w", root);
    CHECK_OK(swin_dataset_open(&ds, path, NULL));
    CHECK_OK(
        swin_loader_open(&l, ds, &(swin_loader_opts){ .batch = 2, .strict = true, .preprocess = small }));
    CHECK_OK(swin_loader_next(l, &b));
    assert_int_equal(b.n, 1);
    CHECK_OK(swin_loader_report_get(l, &r));
    assert_int_equal(r.warnings, 1);
    assert_int_equal(r.broken, 0);
    swin_loader_close(l);
    swin_dataset_close(ds);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_and_bytes), cmocka_unit_test(test_u8_and_float_agree),
        cmocka_unit_test(test_chosen_images),   cmocka_unit_test(test_hash_definition),
        cmocka_unit_test(test_strict),          cmocka_unit_test(test_refused_and_abandoned),
        cmocka_unit_test(test_jpeg_warnings),
    };
    return cmocka_run_group_tests(tests, make_sets, remove_sets);
}
