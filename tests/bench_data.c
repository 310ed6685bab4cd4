/* Images a second of one processor: files to normalised float tensors, against libjpeg-turbo's decoding
 * alone and, with SWIN_PYTHON naming a Python that has Pillow, against Pillow's decode, resize and crop of
 * the same files.
 *
 * Processor time of the whole process is measured, so that the loader's threads all count. Rounds
 * alternate; the best of each is taken. usage: bench_data [FOLDER [ROUNDS]]
 */
#include "tests/support/testing.h"

#include <dirent.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <jpeglib.h>

#include "data/image.h"
#include "data/loader.h"
#include "data/resize.h"
#include "runtime/base/file.h"

typedef struct files {
    unsigned char *bytes[4096];
    size_t size[4096], count;
} files;

static files all;

static void die(const char *what)
{
    fprintf(stderr, "bench_data: %s: %s\n", what, swin_error_message());
    exit(1);
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void read_files(const char *folder)
{
    DIR *d = opendir(folder);
    if (!d) die(folder);
    for (struct dirent *e; (e = readdir(d)) && all.count < SWIN_COUNT(all.bytes);) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (e->d_name[0] == '.') continue;
        if (swin_read_file(path, &all.bytes[all.count], &all.size[all.count]) != SWIN_OK) die(path);
        all.count++;
    }
    closedir(d);
}

static double decode_only(void)
{
    const double start = cpu_seconds();
    JSAMPROW row = NULL;
    size_t capacity = 0;
    for (size_t i = 0; i < all.count; i++) {
        struct jpeg_decompress_struct c;
        struct jpeg_error_mgr err;
        c.err = jpeg_std_error(&err);
        jpeg_create_decompress(&c);
        jpeg_mem_src(&c, all.bytes[i], (unsigned long)all.size[i]);
        jpeg_read_header(&c, TRUE);
        jpeg_start_decompress(&c);
        const size_t need = (size_t)c.output_width * (size_t)c.output_components;
        if (need > capacity) {
            row = realloc(row, need);
            capacity = need;
        }
        while (c.output_scanline < c.output_height) jpeg_read_scanlines(&c, &row, 1);
        jpeg_finish_decompress(&c);
        jpeg_destroy_decompress(&c);
    }
    free(row);
    return (double)all.count / (cpu_seconds() - start);
}

/* From memory, without the loader: what its parts cost. */
static double load_only(const swin_passes *passes)
{
    swin_resizer *r;
    uint8_t *out = malloc(224 * 224 * 3);
    if (!out || swin_resizer_create(&r) != SWIN_OK) die("resizer");
    swin_resizer_use(r, passes);
    const double start = cpu_seconds();
    for (size_t i = 0; i < all.count; i++)
        if (swin_image_load(r, out, all.bytes[i], all.size[i], &(swin_preprocess){ 224, true }, NULL) !=
            SWIN_OK)
            die("load");
    const double rate = (double)all.count / (cpu_seconds() - start);
    swin_resizer_free(r);
    free(out);
    return rate;
}

static double pipeline(swin_dataset *ds)
{
    swin_loader *l;
    swin_batch b;
    size_t n = 0;
    const swin_loader_opts o = { .batch = 8, .workers = 1, .preprocess = { 224, true } };
    const double start = cpu_seconds();
    if (swin_loader_open(&l, ds, &o) != SWIN_OK) die("loader");
    do {
        if (swin_loader_next(l, &b) != SWIN_OK) die("batch");
        n += (size_t)b.n;
    } while (b.n);
    const double rate = (double)n / (cpu_seconds() - start);
    swin_loader_close(l);
    return rate;
}

static double pillow(const char *python, const char *folder, char *version, int n)
{
    double rate = 0;
    char *command =
        swin_format("'%s' '%s/tests/peers/pillow_pipeline.py' '%s'", python, SWIN_SOURCE_DIR, folder);
    FILE *p = command ? popen(command, "r") : NULL;
    if (!p || fscanf(p, "%lf img/s ", &rate) != 1 || !fgets(version, n, p)) rate = 0;
    if (p) pclose(p);
    free(command);
    version[strcspn(version, "\n")] = '\0';
    return rate;
}

static double best(double a, double b)
{
    return a > b ? a : b;
}

int main(int argc, char **argv)
{
    char *samples = swin_test_data() ? swin_format("%s/imagenet-samples", swin_test_data()) : NULL;
    const char *given = argc > 1 ? argv[1] : samples, *python = getenv("SWIN_PYTHON");
    const int rounds = argc > 2 ? atoi(argv[2]) : 5;
    char *scratch = swin_scratch_make("bench_data"), *folder = given ? realpath(given, NULL) : NULL;
    char *split = swin_format("%s/val", scratch), *class = swin_format("%s/class", split), version[64] = "";
    swin_dataset *ds;
    double decode = 0, whole = 0;

    if (!folder) {
        puts("skipped: no folder of JPEG files (SWIN_TEST_DATA)");
        return 0;
    }
    read_files(folder);
    if (mkdir(split, 0755) != 0 || symlink(folder, class) != 0) die(class);
    if (swin_dataset_open(&ds, scratch, "val") != SWIN_OK) die(folder);
    for (int i = 0; i < rounds; i++) {
        decode = best(decode, decode_only());
        whole = best(whole, pipeline(ds));
    }
    printf("files,%zu\nlibjpeg-turbo decode only,%.1f img/s\n", all.count, decode);
    const swin_passes *passes;
    for (int i = 0; (passes = swin_passes_get(i)); i++)
        printf("decode and resize with %s,%.1f img/s\n", passes->name, load_only(passes));
    printf("files to float tensors,%.1f img/s\nratio to libjpeg-turbo,%.3f,bar 0.85\n", whole,
           whole / decode);
    const double peer = python ? pillow(python, folder, version, sizeof version) : 0;
    if (peer > 0)
        printf("%s,%.1f img/s\nratio to Pillow,%.2f,bar 1.8\n", version, peer, whole / peer);
    else
        puts("ratio to Pillow,skipped: SWIN_PYTHON names no Python with Pillow");
    swin_dataset_close(ds);
    swin_scratch_remove(scratch);
    for (size_t i = 0; i < all.count; i++) free(all.bytes[i]);
    free(split);
    free(class);
    free(folder);
    free(samples);
    return 0;
}
