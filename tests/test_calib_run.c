/* The calibration run: one file whatever the batch size, the threads and the layout; faults named; memory bounded. */
#include "tests/support/testing.h"

#include <math.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "calib/run.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "tests/support/calib_set.h"
#include "tests/support/tiny.h"

enum { IMAGES = 24 };

static swin_calib_opts defaults(const swin_calib_set *x)
{
    return swin_calib_set_opts(x, IMAGES, SWIN_INT8_MODE_1);
}

/* The file's bytes; caller frees. */
static unsigned char *file_bytes(swin_calib_set *x, const swin_calib_opts *o, size_t *n)
{
    swin_calib_file f;
    CHECK_OK(swin_calib_set_run(x, &f, o));
    CHECK(f.images == o->images, "%llu images", (unsigned long long)f.images);
    unsigned char *bytes = swin_calib_set_bytes(x, &f, n);
    swin_calib_file_free(&f);
    return bytes;
}

static void test_one_file(void **state)
{
    (void)state;
    static const struct {
        int batch, threads;
        bool zip;
    } ways[] = { { 1, 1, false }, { 1, 2, true },  { 8, 1, true },
                 { 8, 4, false }, { 5, 2, false }, { 24, 2, true } };
    static const char *const calibrators[] = { "percentile", "entropy", "mse" };
    swin_calib_set x;
    swin_calib_set_make(&x, "calib-run", IMAGES, true);
    for (size_t c = 0; c < SWIN_COUNT(calibrators); c++) {
        swin_calib_opts o = defaults(&x);
        size_t n, m;
        o.calibrator = swin_calibrator_find(calibrators[c]);
        o.mode = (swin_int8_mode)(c + 1);
        unsigned char *first = file_bytes(&x, &o, &n);
        for (size_t i = 0; i < SWIN_COUNT(ways); i++) {
            o.batch = ways[i].batch;
            o.threads = ways[i].threads;
            o.data_path = ways[i].zip ? x.zipped : x.folder;
            unsigned char *other = file_bytes(&x, &o, &m);
            CHECK(n == m && memcmp(first, other, n) == 0,
                  "%s: batch %d, %d threads, %s: another file (%zu, %zu bytes)", calibrators[c], o.batch,
                  o.threads, ways[i].zip ? "zip" : "folder", n, m);
            free(other);
        }
        print_message("%s: %zu ways, one file of %zu bytes\n", calibrators[c], SWIN_COUNT(ways) + 1, n);
        free(first);
    }
    /* And it does depend on what it should depend on. */
    swin_calib_opts o = defaults(&x);
    size_t n, m;
    unsigned char *all = file_bytes(&x, &o, &n);
    o.images = IMAGES / 2;
    unsigned char *half = file_bytes(&x, &o, &m);
    CHECK(n != m || memcmp(all, half, n) != 0, "half of the images give the same file");
    free(all);
    free(half);
    swin_calib_set_free(&x);
}

static void test_sample(void **state)
{
    (void)state;
    swin_calib_set x;
    swin_calib_file f[3];
    swin_calib_set_make(&x, "calib-run", IMAGES, true);
    for (int how = 0; how < 3; how++) {
        swin_calib_opts o = defaults(&x);
        o.images = 5;
        o.sample = (swin_sample)how;
        o.seed = 3;
        CHECK_OK(swin_calib_set_run(&x, &f[how], &o));
        CHECK(f[how].images == 5, "%llu images", (unsigned long long)f[how].images);
    }
    CHECK(strcmp(f[0].image_list_sha256, f[1].image_list_sha256) != 0,
          "spread and first take the same images");
    CHECK(strcmp(f[1].image_list_sha256, f[2].image_list_sha256) != 0,
          "first and random take the same images");
    for (int how = 0; how < 3; how++) swin_calib_file_free(&f[how]);
    swin_calib_set_free(&x);
}

static void test_broken_image(void **state)
{
    (void)state;
    swin_calib_set x;
    swin_calib_file f;
    swin_calib_set_make(&x, "calib-run", IMAGES, true);
    char *path = swin_format("%s/train/c1/000005.ppm", x.folder);
    CHECK_OK(swin_write_file(path, "P6\n9", 4));
    swin_calib_opts o = defaults(&x);
    CHECK_OK(swin_calib_set_run(&x, &f, &o));
    CHECK(f.images == IMAGES - 1, "%llu images", (unsigned long long)f.images);
    swin_calib_file_free(&f);
    o.strict = true;
    swin_status st = swin_calib_set_run(&x, &f, &o);
    CHECK(st != SWIN_OK && strstr(swin_error_message(), "000005.ppm"), "strict: %d %s", (int)st,
          swin_error_message());
    CHECK(f.sites == NULL, "not empty after a failure");
    free(path);
    swin_calib_set_free(&x);
}

static void test_bad_network(void **state)
{
    (void)state;
    swin_calib_set x;
    swin_calib_file f;
    swin_calib_set_make(&x, "calib-run", IMAGES, true);
    const swin_calib_opts o = defaults(&x);
    float *bias = x.weights.stages[0].blocks[1].fc1_bias, kept = bias[3];
    bias[3] = NAN;
    CHECK_FAILS(swin_calib_set_run(&x, &f, &o), SWIN_ERR_VALUE, "layers.0.blocks.1.mlp.fc2._input");
    bias[3] = kept;
    /* A dead output channel is fine, a dead layer is not. */
    const int C = 32;
    float *proj = x.weights.stages[0].blocks[0].proj_weight;
    memset(proj + 4 * C, 0, (size_t)C * sizeof *proj);
    CHECK_OK(swin_calib_set_run(&x, &f, &o));
    CHECK(f.weights[1].amax_channel[4] == 0 && f.weights[1].amax > 0, "channel 4: %g",
          (double)f.weights[1].amax_channel[4]);
    swin_calib_file_free(&f);
    memset(proj, 0, (size_t)(C * C) * sizeof *proj);
    CHECK_FAILS(swin_calib_set_run(&x, &f, &o), SWIN_ERR_VALUE, "layers.0.blocks.0.attn.proj._weight");
    swin_calib_set_free(&x);
}

/* Peak resident memory of a swin-calib over this many images, KiB. The kernel counts this process's own size at the fork
 * too, so this test runs first and makes its pictures one by one. */
static long peak_of(const swin_calib_set *x, const char *batches)
{
    char *cfg = swin_format("%s/model.yaml", x->folder),
         *ckpt = swin_format("%s/model.safetensors", x->folder);
    char *out = swin_format("%s/peak.h5", x->folder);
    const pid_t pid = fork();
    if (pid == 0) {
        if (!freopen("/dev/null", "w", stdout)) _exit(1);
        execl(SWIN_BIN_DIR "/swin-calib", "swin-calib", "--cfg", cfg, "--resume", ckpt, "--data-path",
              x->folder, "--num-calib-batch", batches, "--calib-output-path", out, "--backend", "cpu",
              "--threads", "2", "--quiet", (char *)NULL);
        _exit(127);
    }
    int status;
    struct rusage use;
    CHECK(wait4(pid, &status, 0, &use) == pid, "no child");
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "swin-calib: status %d", status);
    free(cfg);
    free(ckpt);
    free(out);
    return use.ru_maxrss;
}

static void test_memory(void **state)
{
    (void)state;
    swin_calib_set x;
    if (!swin_is_file(SWIN_BIN_DIR "/swin-calib")) skip();
    swin_calib_set_make(&x, "calib-run", 2000, false);
    CHECK_OK(swin_tiny_write_model(x.folder, 7));
    struct rusage own;
    getrusage(RUSAGE_SELF, &own);
    const long few = peak_of(&x, "10"), many = peak_of(&x, "250");
    print_message("peak memory: %ld KiB for 80 images, %ld KiB for 2000\n", few, many);
    CHECK(own.ru_maxrss < few, "this process is larger: %ld KiB", own.ru_maxrss);
    CHECK(many < few + few / 20 + 2048, "memory grows with the images: %ld and %ld KiB", few, many);
    swin_calib_set_free(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory), /* first: see peak_of */
        cmocka_unit_test(test_one_file),     cmocka_unit_test(test_sample),
        cmocka_unit_test(test_broken_image), cmocka_unit_test(test_bad_network),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
