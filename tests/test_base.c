/* The base module: option tables, atomic files, halves, the thread pool, hashes, HDF5 access. */
#include "tests/support/testing.h"

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/field.h"
#include "runtime/base/file.h"
#include "runtime/base/h5.h"
#include "runtime/base/half.h"
#include "runtime/base/output.h"
#include "runtime/base/pool.h"
#include "runtime/base/sha256.h"

typedef struct options {
    swin_common common;
    int batch;
    double share;
    const char *mode, *list;
} options;

static const swin_field fields[] = {
    SWIN_COMMON_FIELDS(options),
    { "batch_size", SWIN_FIELD_INT, offsetof(options, batch), 1, 64, "N", "images", NULL },
    { "share", SWIN_FIELD_DOUBLE, offsetof(options, share), 0, 1, "X", "a share", NULL },
    { "mode", SWIN_FIELD_CHOICE, offsetof(options, mode), 0, 0, "NAME", "a mode", "fast|slow" },
    { "list", SWIN_FIELD_LIST, offsetof(options, list), 0, 0, "A,B", "words", "one|two" },
    SWIN_LEGACY_FIELDS,
};

static const swin_program program = { "prog", "a test", fields, SWIN_COUNT(fields), NULL };

static swin_status parse(options *o, int n, const char *const *words)
{
    char *argv[16] = { (char *)(uintptr_t) "prog" };
    for (int i = 0; i < n; i++) argv[i + 1] = (char *)(uintptr_t)words[i];
    *o = (options){ .common = SWIN_COMMON_DEFAULTS, .batch = 8, .share = 0.5, .mode = "fast" };
    return swin_fields_parse(&program, o, n + 1, argv, NULL, NULL);
}

#define PARSE(o, ...)                                                                                        \
    parse(o, (int)SWIN_COUNT(((const char *const[]){ __VA_ARGS__ })), (const char *const[]){ __VA_ARGS__ })

static void test_fields(void **state)
{
    (void)state;
    options o;
    CHECK_OK(
        PARSE(&o, "--batch-size", "3", "--share=0.25", "--mode", "slow", "--strict", "--list", "two,one"));
    assert_int_equal(o.batch, 3);
    assert_true(o.share == 0.25 && o.common.strict && !o.common.quiet);
    assert_string_equal(o.mode, "slow");
    CHECK_OK(PARSE(&o, "--batch_size", "64", "--opts", "A", "1", "B", "-2", "--strict", "--opts", "C", "3"));
    assert_int_equal(o.common.opts.count, 3);
    assert_string_equal(o.common.opts.words[5], "3");
    free(o.common.opts.words);
    CHECK_OK(PARSE(&o, "--local_rank", "0", "--zip", "--quiet"));
}

static void test_field_errors(void **state)
{
    (void)state;
    options o;
    CHECK_FAILS(PARSE(&o, "--nonsense"), SWIN_ERR_USAGE, "--nonsense");
    CHECK_FAILS(PARSE(&o, "--batch-size", "65"), SWIN_ERR_USAGE, "--batch-size 65: out of range");
    CHECK_FAILS(PARSE(&o, "--batch-size", "0"), SWIN_ERR_USAGE, "1 to 64");
    CHECK_FAILS(PARSE(&o, "--batch-size", "4x"), SWIN_ERR_USAGE, "not a whole number");
    CHECK_FAILS(PARSE(&o, "--batch-size", "99999999999999999999"), SWIN_ERR_USAGE, "--batch-size");
    CHECK_FAILS(PARSE(&o, "--batch-size"), SWIN_ERR_USAGE, "needs a value");
    CHECK_FAILS(PARSE(&o, "--share", "nan"), SWIN_ERR_USAGE, "not a number");
    CHECK_FAILS(PARSE(&o, "--mode", "medium"), SWIN_ERR_USAGE, "fast|slow");
    CHECK_FAILS(PARSE(&o, "--list", "one,three"), SWIN_ERR_USAGE, "three");
    CHECK_FAILS(PARSE(&o, "--list", "one,"), SWIN_ERR_USAGE, "--list");
    CHECK_FAILS(PARSE(&o, "--opts", "A"), SWIN_ERR_USAGE, "--opts");
    CHECK_FAILS(PARSE(&o, "--strict=1"), SWIN_ERR_USAGE, "takes no value");
    CHECK_FAILS(PARSE(&o, "stray"), SWIN_ERR_USAGE, "stray");
    CHECK_FAILS(PARSE(&o, "--resume", "--strict"), SWIN_ERR_USAGE, "--resume");
}

static void test_files(void **state)
{
    (void)state;
    char *dir = swin_scratch_make("files"), path[4200], tmp[4210];
    snprintf(path, sizeof path, "%s/out", dir);
    snprintf(tmp, sizeof tmp, "%s.tmp", path);
    CHECK_OK(swin_write_file(path, "first", 5));
    swin_outfile o;
    CHECK_OK(swin_outfile_open(&o, path));
    fputs("half", o.f);
    swin_outfile_discard(&o); /* the old file stays, nothing else does */
    unsigned char *data;
    size_t size;
    CHECK_OK(swin_read_file(path, &data, &size));
    assert_string_equal((char *)data, "first");
    free(data);
    assert_int_not_equal(access(tmp, F_OK), 0);
    CHECK_FAILS(swin_write_file("/nonexistent-folder/x", "a", 1), SWIN_ERR_IO, "/nonexistent-folder/x");
    CHECK_FAILS(swin_write_file(dir, "a", 1), SWIN_ERR_IO, "directory");
    CHECK_FAILS(swin_read_file(dir, &data, &size), SWIN_ERR_IO, dir);
    if (access("/dev/full", W_OK) == 0) { /* a full disk is reported, not swallowed */
        CHECK(symlink("/dev/full", tmp) == 0, "symlink");
        CHECK_FAILS(swin_write_file(path, "second", 6), SWIN_ERR_IO, path);
        CHECK_OK(swin_read_file(path, &data, &size));
        assert_string_equal((char *)data, "first");
        free(data);
    }
    swin_scratch_remove(dir);
}

static void test_outputs(void **state)
{
    (void)state;
    char *dir = swin_scratch_make("outputs"), in[4200], link[4200], fifo[4200], dotted[4300], fresh[4200];
    snprintf(in, sizeof in, "%s/in", dir);
    snprintf(link, sizeof link, "%s/link", dir);
    snprintf(fifo, sizeof fifo, "%s/fifo", dir);
    snprintf(fresh, sizeof fresh, "%s/fresh", dir);
    snprintf(dotted, sizeof dotted, "%s/./fresh", dir);
    CHECK_OK(swin_write_file(in, "first", 5));
    CHECK(symlink(in, link) == 0 && mkfifo(fifo, 0600) == 0, "link and pipe");
    const swin_file_use uses[] = { { "--unset", NULL }, { "--in", in }, { "--fresh", dotted } };
    CHECK_OK(swin_output_check("--out", fresh, uses, 2));
    CHECK_FAILS(swin_output_check("--out", fresh, uses, 3), SWIN_ERR_USAGE, "--fresh's");
    CHECK_FAILS(swin_output_check("--out", in, uses, 3), SWIN_ERR_USAGE, "--in's");
    CHECK_FAILS(swin_output_check("--out", link, uses, 3), SWIN_ERR_USAGE, "--in's");
    CHECK_FAILS(swin_output_check("--out", fifo, uses, 3), SWIN_ERR_USAGE, "no ordinary file");
    CHECK_FAILS(swin_output_check("--out", dir, uses, 3), SWIN_ERR_USAGE, "folder");
    CHECK_FAILS(swin_output_check("--out", "", uses, 3), SWIN_ERR_USAGE, "--out");
    CHECK_FAILS(swin_output_check("--out", "/nonexistent-folder/x", uses, 3), SWIN_ERR_USAGE, "not there");
    CHECK_FAILS(swin_write_file(fifo, "a", 1), SWIN_ERR_IO, "no ordinary file");
    CHECK(access(fifo, F_OK) == 0, "the pipe is still there");
    swin_scratch_remove(dir);
}

static void test_halves(void **state)
{
    (void)state;
    assert_int_equal(swin_f32_to_f16(1.0f), 0x3c00);
    assert_int_equal(swin_f32_to_f16(65504.0f), 0x7bff);
    assert_int_equal(swin_f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(swin_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(swin_f32_to_f16(1.0f + 0x1p-11f), 0x3c00); /* half way, to even */
    assert_int_equal(swin_f32_to_f16(1.0f + 0x1.8p-10f), 0x3c02);
    assert_int_equal(swin_f32_to_f16(0x1p-24f), 1);
    assert_int_equal(swin_f32_to_f16(0x1p-25f), 0);
    assert_int_equal(swin_f32_to_f16(0x1.000002p-25f), 1);
    assert_int_equal(swin_f32_to_f16(-0.0f), 0x8000);
    assert_int_equal(swin_f32_to_bf16(0x1.01p0f), 0x3f80); /* half way, to even */
    assert_int_equal(swin_f32_to_bf16(0x1.03p0f), 0x3f82);
    assert_true(isnan(swin_f16_to_f32(swin_f32_to_f16(NAN))) &&
                isnan(swin_bf16_to_f32(swin_f32_to_bf16(NAN))));
    for (unsigned h = 0; h < 65536; h++) { /* every value survives the way there and back */
        const float f = swin_f16_to_f32((uint16_t)h), b = swin_bf16_to_f32((uint16_t)h);
        if (!isnan(f)) CHECK(swin_f32_to_f16(f) == h, "f16 %04x", h);
        if (!isnan(b)) CHECK(swin_f32_to_bf16(b) == h, "bf16 %04x", h);
    }
}

typedef struct counted {
    _Atomic int seen[1000];
    int fail_from;
} counted;

static swin_status count_task(void *user, size_t task, int worker)
{
    (void)worker;
    counted *c = user;
    c->seen[task]++;
    return (int)task >= c->fail_from ? swin_fail(SWIN_ERR_VALUE, "task %zu", task) : SWIN_OK;
}

static void test_pool(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 4; threads++) {
        swin_pool *p;
        CHECK_OK(swin_pool_create(&p, threads));
        assert_int_equal(swin_pool_threads(p), threads);
        for (int round = 0; round < 200; round++) {
            counted c = { .fail_from = 5000 };
            CHECK_OK(swin_pool_run(p, 1000, count_task, &c));
            for (int i = 0; i < 1000; i++) CHECK(c.seen[i] == 1, "task %d ran %d times", i, c.seen[i]);
        }
        counted c = { .fail_from = 500 };
        CHECK_FAILS(swin_pool_run(p, 1000, count_task, &c), SWIN_ERR_VALUE, "task 500");
        CHECK_OK(swin_pool_run(p, 0, count_task, &c));
        swin_pool_free(p);
    }
}

static void test_sha256(void **state)
{
    (void)state;
    swin_sha256 *h;
    unsigned char digest[SWIN_SHA256_BYTES];
    char hex[SWIN_SHA256_HEX];
    CHECK_OK(swin_sha256_begin(&h));
    for (int round = 0; round < 2; round++) { /* the second after a reset */
        CHECK_OK(swin_sha256_add(h, "a", 1));
        CHECK_OK(swin_sha256_add(h, "bc", 2));
        CHECK_OK(swin_sha256_end(h, digest));
        swin_sha256_hex(hex, digest);
        assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
    swin_sha256_free(h);
}

static swin_status collect(void *user, const char *name)
{
    strcat(user, name);
    return SWIN_OK;
}

static void write_sample(const char *path)
{
    swin_h5 *f;
    const int64_t dims[] = { 3, 2 };
    const float v[] = { 1, 2, 3, 4, 5, 6 };
    CHECK_OK(swin_h5_create(&f, path));
    CHECK_OK(swin_h5_set_str(f, "/", "tool", "swin"));
    CHECK_OK(swin_h5_set_i64(f, "/z", "n", INT64_MAX));
    CHECK_OK(swin_h5_set_f32(f, "/a", "x", 0.1f));
    CHECK_OK(swin_h5_write(f, "/z/m", SWIN_F32, v, 2, dims, true));
    CHECK_OK(swin_h5_append(f, "/z/rows", SWIN_F32, v, 2, 2, dims));
    CHECK_OK(swin_h5_append(f, "/z/rows", SWIN_F32, v + 4, 1, 2, dims));
    CHECK_OK(swin_h5_commit(f));
    swin_h5_close(f);
}

static void test_h5(void **state)
{
    (void)state;
    char *dir = swin_scratch_make("h5"), path[4200], again[4200], tmp[4210];
    snprintf(path, sizeof path, "%s/a.h5", dir);
    snprintf(again, sizeof again, "%s/b.h5", dir);
    write_sample(path);
    sleep(1); /* a stored time would show */
    write_sample(again);
    unsigned char *one, *two;
    size_t n1, n2;
    CHECK_OK(swin_read_file(path, &one, &n1));
    CHECK_OK(swin_read_file(again, &two, &n2));
    CHECK(n1 == n2 && memcmp(one, two, n1) == 0, "two writings differ");
    free(one);
    free(two);

    swin_h5 *f;
    int64_t n;
    double x;
    char *text, names[64] = "";
    float *v;
    size_t count;
    CHECK_OK(swin_h5_open(&f, path));
    CHECK_OK(swin_h5_get_str(f, "/", "tool", &text));
    assert_string_equal(text, "swin");
    free(text);
    CHECK_OK(swin_h5_get_i64(f, "/z", "n", &n));
    assert_true(n == INT64_MAX);
    CHECK_OK(swin_h5_get_f64(f, "/a", "x", &x));
    assert_true((float)x == 0.1f);
    for (int i = 0; i < 2; i++) {
        CHECK_OK(swin_h5_read(f, i ? "/z/rows" : "/z/m", SWIN_F32, (void **)&v, &count));
        assert_int_equal(count, 6);
        assert_true(v[0] == 1 && v[5] == 6);
        free(v);
    }
    CHECK_OK(swin_h5_each(f, "/", collect, names));
    assert_string_equal(names, "za"); /* creation order */
    CHECK_FAILS(swin_h5_get_i64(f, "/z", "absent", &n), SWIN_ERR_FORMAT, "absent");
    CHECK_FAILS(swin_h5_get_i64(f, "/", "tool", &n), SWIN_ERR_FORMAT, "tool");
    CHECK_FAILS(swin_h5_read(f, "/q/r", SWIN_F32, (void **)&v, &count), SWIN_ERR_FORMAT, "/q/r");
    swin_h5_close(f);

    CHECK_OK(swin_h5_create(&f, path)); /* not committed: the old file stays */
    snprintf(tmp, sizeof tmp, "%s.tmp", path);
    swin_h5_close(f);
    assert_int_not_equal(access(tmp, F_OK), 0);
    CHECK_OK(swin_h5_open(&f, path));
    swin_h5_close(f);
    CHECK_OK(swin_write_file(path, "not hdf5", 8));
    CHECK_FAILS(swin_h5_open(&f, path), SWIN_ERR_FORMAT, path);
    swin_scratch_remove(dir);
}

static void test_messages(void **state)
{
    (void)state;
    static char longer[40000];
    memset(longer, 'x', sizeof longer - 1);
    assert_int_equal(swin_fail(SWIN_ERR_IO, "inner %d", 1), SWIN_ERR_IO);
    assert_int_equal(swin_fail_context(SWIN_ERR_IO, "outer"), SWIN_ERR_IO);
    assert_string_equal(swin_error_message(), "outer: inner 1");
    swin_fail(SWIN_ERR_IO, "%s", longer); /* cut, not overrun */
    swin_fail_context(SWIN_ERR_IO, "%s", longer);
    CHECK(strlen(swin_error_message()) < sizeof longer - 1, "message of %zu", strlen(swin_error_message()));
    assert_int_equal(swin_exit_code(SWIN_ERR_USAGE), 2);
    assert_int_equal(swin_exit_code(SWIN_ERR_LIMIT), 3);
    assert_int_equal(swin_exit_code(SWIN_ERR_INTERRUPTED), 130);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),  cmocka_unit_test(test_field_errors), cmocka_unit_test(test_files),
        cmocka_unit_test(test_outputs), cmocka_unit_test(test_halves),       cmocka_unit_test(test_pool),
        cmocka_unit_test(test_sha256),  cmocka_unit_test(test_h5),           cmocka_unit_test(test_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
