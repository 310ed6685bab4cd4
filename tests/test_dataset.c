/* Folder and zip data sets: what is listed, in which order, and what is refused with which words. */
#include "tests/support/testing.h"

#include <sys/stat.h>
#include <unistd.h>

#include <zip.h>

#include "data/dataset.h"
#include "data/source.h"
#include "runtime/base/file.h"

static char *root; /* of one test */

static int make_root(void **state)
{
    (void)state;
    root = swin_scratch_make("dataset");
    return 0;
}

static int remove_root(void **state)
{
    (void)state;
    swin_scratch_remove(root);
    return 0;
}

static const char *at(const char *name)
{
    static char path[4][4096];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", root, name);
    return path[turn];
}

static void put(const char *name, const char *text)
{
    char path[4096];
    snprintf(path, sizeof path, "%s", at(name));
    for (char *p = path + strlen(root) + 1; (p = strchr(p, '/')); p++) {
        *p = '\0';
        mkdir(path, 0755);
        *p = '/';
    }
    CHECK_OK(swin_write_file(path, text, strlen(text)));
}

/* names: pairs of name and text, NULL at the end. */
static void put_zip(const char *name, bool deflate, const char *const *names)
{
    int code;
    zip_t *z = zip_open(at(name), ZIP_CREATE | ZIP_TRUNCATE, &code);
    assert_non_null(z);
    for (; *names; names += 2) {
        zip_source_t *s = zip_source_buffer(z, names[1], strlen(names[1]), 0);
        const zip_int64_t i = zip_file_add(z, names[0], s, 0);
        assert_true(i >= 0);
        zip_set_file_compression(z, (zip_uint64_t)i, deflate ? ZIP_CM_DEFLATE : ZIP_CM_STORE, 0);
    }
    assert_int_equal(zip_close(z), 0);
}

/* Image i has this name, label and bytes. */
static void expect(swin_dataset *ds, size_t i, const char *name, int label, const char *text)
{
    swin_bytes b = { 0 };
    CHECK(i < swin_dataset_count(ds), "%zu images", swin_dataset_count(ds));
    assert_string_equal(swin_dataset_name(ds, i), name);
    assert_int_equal(swin_dataset_label(ds, i), label);
    CHECK_OK(swin_dataset_read(ds, i, &b));
    CHECK(b.size == strlen(text) && memcmp(b.data, text, b.size) == 0, "%s: other bytes", name);
    free(b.data);
}

static void refuse(const char *path, const char *split, swin_status st, const char *words)
{
    swin_dataset *ds = (swin_dataset *)root;
    CHECK_FAILS(swin_dataset_open(&ds, path, split), st, words);
    assert_null(ds);
}

static void test_folder(void **state)
{
    (void)state;
    swin_dataset *ds;
    put("val/b-1/z.PNG", "bz");
    put("val/b/y.JPEG", "by");
    put("val/b/sub/q.jpg", "bq");
    put("val/b/a.tif", "ba");
    put("val/b/notes.txt", "");
    put("val/b/.hidden.jpg", "");
    put("val/.cache/x.jpg", "");
    put("val/loose.jpg", "");
    put("val/Z/k.bmp", "Zk");
    put("val/empty/readme", "");
    put("elsewhere/linked.ppm", "link");
    assert_int_equal(symlink(at("elsewhere"), at("val/c")), 0);
    assert_int_equal(symlink(at("val/b"), at("val/b/sub/back")), 0);
    CHECK_OK(swin_dataset_open(&ds, root, "val"));
    assert_string_equal(swin_dataset_kind(ds), "folder");
    assert_int_equal(swin_dataset_classes(ds), 5); /* Z b b-1 c empty: plain byte order */
    assert_int_equal(swin_dataset_count(ds), 6);
    expect(ds, 0, "Z/k.bmp", 0, "Zk");
    expect(ds, 1, "b/a.tif", 1, "ba");
    expect(ds, 2, "b/sub/q.jpg", 1, "bq");
    expect(ds, 3, "b/y.JPEG", 1, "by");
    expect(ds, 4, "b-1/z.PNG", 2, "bz");
    expect(ds, 5, "c/linked.ppm", 3, "link");
    swin_dataset_close(ds);
    CHECK_OK(swin_dataset_open(&ds, at("val"), "val")); /* the split's own folder */
    assert_int_equal(swin_dataset_count(ds), 6);
    swin_dataset_close(ds);
}

static void test_folder_refused(void **state)
{
    (void)state;
    refuse(at("nothing"), "val", SWIN_ERR_IO, "no such folder");
    refuse(root, "val", SWIN_ERR_FORMAT, "looked for");
    put("flat/val/a.jpg", "a");
    refuse(at("flat"), "val", SWIN_ERR_FORMAT, "1 images lie in it directly");
    put("none/val/c/a.txt", "a");
    refuse(at("none"), "val", SWIN_ERR_FORMAT, "no images in its 1 class folders");
    put("other/train/c/a.jpg", "a");
    refuse(at("other"), "val", SWIN_ERR_IO, "has no split \"val\": looked for");
    put("half/val.zip", "");
    refuse(at("half"), "val", SWIN_ERR_IO, "val_map.txt, is not");
    put("map/val_map.txt", "a.jpg\t0\n");
    refuse(at("map"), "val", SWIN_ERR_IO, "neither");
    put("bad/val.zip", "this is no zip archive");
    put("bad/val_map.txt", "a.jpg\t0\n");
    refuse(at("bad"), "val", SWIN_ERR_FORMAT, "val.zip");
}

static void test_read_failures(void **state)
{
    (void)state;
    swin_dataset *ds;
    swin_bytes b = { 0 };
    put("val/c/a.jpg", "a");
    assert_int_equal(symlink("nowhere", at("val/c/dangling.jpg")), 0);
    assert_int_equal(mkfifo(at("val/c/pipe.jpg"), 0600), 0);
    CHECK_OK(swin_dataset_open(&ds, root, "val"));
    assert_int_equal(swin_dataset_count(ds), 3);
    CHECK_FAILS(swin_dataset_read(ds, 1, &b), SWIN_ERR_IO, "dangling.jpg");
    CHECK_FAILS(swin_dataset_read(ds, 2, &b), SWIN_ERR_IO, "not a regular file");
    CHECK_OK(swin_dataset_read(ds, 0, &b));
    free(b.data);
    swin_dataset_close(ds);
}

static void check_zip(bool deflate)
{
    swin_dataset *ds;
    const char *const files[] = { "n1/two words.JPEG",
                                  "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                                  "n1/x.jpg",
                                  "x",
                                  "plain.png",
                                  "p",
                                  "extra.jpg",
                                  "e",
                                  "readme",
                                  "r",
                                  NULL };
    put_zip("val.zip", deflate, files);
    put("val/c/folder.jpg", "the zip wins over the folder");
    put("val_map.txt", "\xef\xbb\xbfplain.png\t7\r\n\n/n1/two words.JPEG\t 3 \nn1/x.jpg\t0");
    CHECK_OK(swin_dataset_open(&ds, root, "val"));
    assert_string_equal(swin_dataset_kind(ds), "zip");
    assert_int_equal(swin_dataset_count(ds), 3);
    assert_int_equal(swin_dataset_classes(ds), 8);
    expect(ds, 0, "plain.png", 7, "p"); /* the map's order */
    expect(ds, 1, "n1/two words.JPEG", 3, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
    expect(ds, 2, "n1/x.jpg", 0, "x");
    swin_dataset_close(ds);
    CHECK_OK(swin_dataset_open(&ds, at("val.zip"), "val")); /* by its own name */
    assert_int_equal(swin_dataset_count(ds), 3);
    swin_dataset_close(ds);
}

static void test_zip_stored(void **state)
{
    (void)state;
    check_zip(false);
}

static void test_zip_deflated(void **state)
{
    (void)state;
    check_zip(true);
}

static void test_zip_refused(void **state)
{
    (void)state;
    static const struct {
        const char *map, *words;
        swin_status st;
    } cases[] = {
        { "", "it lists no image", SWIN_ERR_FORMAT },
        { "\r\n\n", "it lists no image", SWIN_ERR_FORMAT },
        { "a.jpg\t0\na.jpg 0\n", "line 2: \"a.jpg 0\" is not path<TAB>label", SWIN_ERR_FORMAT },
        { "\t0\n", "line 1", SWIN_ERR_FORMAT },
        { "a.jpg\tcat\n", "the label \"cat\"", SWIN_ERR_FORMAT },
        { "a.jpg\t-1\n", "the label \"-1\"", SWIN_ERR_FORMAT },
        { "a.jpg\t\n", "the label \"\"", SWIN_ERR_FORMAT },
        { "a.jpg\t1.5\n", "the label \"1.5\"", SWIN_ERR_FORMAT },
        { "a.jpg\t99999999999999999999\n", "the label", SWIN_ERR_FORMAT },
        { "a.txt\t1\n", "extension", SWIN_ERR_FORMAT },
        { "a.jpg\t1\nb.jpg\t1\nc.jpg\t1\n", "lists 2 images that are not in", SWIN_ERR_MISMATCH },
        { "b.jpg\t1\n", "first \"b.jpg\"", SWIN_ERR_MISMATCH },
    };
    const char *const files[] = { "a.jpg", "x", NULL };
    put_zip("val.zip", false, files);
    for (size_t i = 0; i < SWIN_COUNT(cases); i++) {
        put("val_map.txt", cases[i].map);
        refuse(root, "val", cases[i].st, cases[i].words);
    }
}

static void test_zip_bad_checksum(void **state)
{
    (void)state;
    swin_dataset *ds;
    swin_bytes b = { 0 };
    unsigned char *bytes;
    size_t size;
    const char *const files[] = { "a.jpg", "here are some bytes", NULL };
    put_zip("val.zip", false, files);
    CHECK_OK(swin_read_file(at("val.zip"), &bytes, &size));
    unsigned char *p = memmem(bytes, size, "some", 4);
    assert_non_null(p);
    *p ^= 1;
    CHECK_OK(swin_write_file(at("val.zip"), bytes, size));
    put("val_map.txt", "a.jpg\t0\n");
    CHECK_OK(swin_dataset_open(&ds, root, "val"));
    CHECK_FAILS(swin_dataset_read(ds, 0, &b), SWIN_ERR_IO, "a.jpg");
    swin_dataset_close(ds);
    free(b.data);
    free(bytes);
}

static void test_sample(void **state)
{
    (void)state;
    size_t got[100], again[100];
    assert_int_equal(swin_sample_choose(SWIN_SAMPLE_SPREAD, 0, 10, 4, got), 4);
    const size_t spread[] = { 0, 2, 5, 7 };
    assert_memory_equal(got, spread, sizeof spread);
    assert_int_equal(swin_sample_choose(SWIN_SAMPLE_FIRST, 0, 10, 3, got), 3);
    assert_true(got[0] == 0 && got[1] == 1 && got[2] == 2);
    for (int how = SWIN_SAMPLE_SPREAD; how <= SWIN_SAMPLE_RANDOM; how++) {
        assert_int_equal(swin_sample_choose((swin_sample)how, 5, 7, 9, got), 7);
        for (size_t i = 0; i < 7; i++) assert_int_equal(got[i], i);
        assert_int_equal(swin_sample_choose((swin_sample)how, 5, 7, 0, got), 0);
        assert_int_equal(swin_sample_choose((swin_sample)how, 5, 0, 3, got), 0);
    }
    size_t counts[20] = { 0 };
    for (uint64_t seed = 0; seed < 2000; seed++) {
        assert_int_equal(swin_sample_choose(SWIN_SAMPLE_RANDOM, seed, 20, 5, got), 5);
        swin_sample_choose(SWIN_SAMPLE_RANDOM, seed, 20, 5, again);
        assert_memory_equal(got, again, 5 * sizeof *got);
        for (size_t i = 0; i < 5; i++) {
            CHECK(got[i] < 20 && (i == 0 || got[i] > got[i - 1]), "seed %d", (int)seed);
            counts[got[i]]++;
        }
    }
    for (size_t i = 0; i < 20; i++)
        CHECK(counts[i] > 400 && counts[i] < 600, "%zu of 500 at %zu", counts[i], i);
}

static void test_tiny_imagenet(void **state)
{
    (void)state;
    SWIN_TEST_FILE(folder, "tiny-imagenet");
    swin_dataset *ds;
    swin_bytes b = { 0 };
    CHECK_OK(swin_dataset_open(&ds, folder, "val"));
    assert_string_equal(swin_dataset_kind(ds), "zip");
    assert_int_equal(swin_dataset_count(ds), 5000);
    assert_int_equal(swin_dataset_classes(ds), 200);
    for (size_t i = 0; i < 5000; i += 97) {
        CHECK_OK(swin_dataset_read(ds, i, &b));
        CHECK(b.size > 100 && b.data[0] == 0xff && b.data[1] == 0xd8, "%s", swin_dataset_name(ds, i));
    }
    free(b.data);
    swin_dataset_close(ds);
}

#define IN_ROOT(test) cmocka_unit_test_setup_teardown(test, make_root, remove_root)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_ROOT(test_folder),           IN_ROOT(test_folder_refused),  IN_ROOT(test_read_failures),
        IN_ROOT(test_zip_stored),       IN_ROOT(test_zip_deflated),    IN_ROOT(test_zip_refused),
        IN_ROOT(test_zip_bad_checksum), cmocka_unit_test(test_sample), cmocka_unit_test(test_tiny_imagenet),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
