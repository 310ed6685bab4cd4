/* Copy the first N images of a data set into OUT/folder and OUT/zip, which are the same list in the two
 * layouts.
 *
 * usage: tool_subset DATA SPLIT N OUT      (OUT is made by the caller)
 * Labels become ranks among the classes that occur, and the list is sorted by class, so that a folder can
 * express both.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zip.h>

#include "data/dataset.h"
#include "runtime/base/file.h"

typedef struct item {
    size_t index;
    int label, rank;
} item;

static int by_label(const void *a, const void *b)
{
    const item *x = a, *y = b;
    if (x->label != y->label) return x->label < y->label ? -1 : 1;
    return x->index < y->index ? -1 : 1;
}

static swin_status make_folder(const char *path)
{
    if (mkdir(path, 0777) == 0 || errno == EEXIST) return SWIN_OK;
    return swin_fail(SWIN_ERR_IO, "%s: %s", path, strerror(errno));
}

static swin_status add_to_zip(zip_t *z, const char *name, const swin_bytes *b)
{
    void *copy = malloc(b->size ? b->size : 1);
    if (!copy) return swin_fail(SWIN_ERR_MEM, "%s: no memory", name);
    memcpy(copy, b->data, b->size);
    zip_source_t *s = zip_source_buffer(z, copy, b->size, 1); /* frees the copy */
    const zip_int64_t at = s ? zip_file_add(z, name, s, ZIP_FL_ENC_UTF_8) : -1;
    if (at < 0) return swin_fail(SWIN_ERR_IO, "%s: %s", name, zip_strerror(z));
    zip_set_file_compression(z, (zip_uint64_t)at, ZIP_CM_STORE, 0);
    return SWIN_OK;
}

static swin_status copy_one(swin_dataset *ds, const item *it, const char *split, const char *out, zip_t *z,
                            FILE *map)
{
    char name[64], path[4096];
    swin_bytes b = { 0 };
    snprintf(path, sizeof path, "%s/folder/%s/c%05d", out, split, it->rank);
    SWIN_TRY(make_folder(path));
    snprintf(name, sizeof name, "c%05d/%06zu.JPEG", it->rank, it->index);
    snprintf(path, sizeof path, "%s/folder/%s/%s", out, split, name);
    swin_status st = swin_dataset_read(ds, it->index, &b);
    if (st == SWIN_OK) st = swin_write_file(path, b.data, b.size);
    if (st == SWIN_OK) st = add_to_zip(z, name, &b);
    if (st == SWIN_OK) fprintf(map, "%s\t%d\n", name, it->rank);
    free(b.data);
    return st;
}

static swin_status copy_all(swin_dataset *ds, item *items, size_t n, const char *split, const char *out)
{
    char path[4096];
    int fault = 0;
    snprintf(path, sizeof path, "%s/folder", out);
    SWIN_TRY(make_folder(path));
    snprintf(path, sizeof path, "%s/folder/%s", out, split);
    SWIN_TRY(make_folder(path));
    snprintf(path, sizeof path, "%s/zip", out);
    SWIN_TRY(make_folder(path));
    snprintf(path, sizeof path, "%s/zip/%s.zip", out, split);
    zip_t *z = zip_open(path, ZIP_CREATE | ZIP_TRUNCATE, &fault);
    if (!z) return swin_fail(SWIN_ERR_IO, "%s: cannot write", path);
    snprintf(path, sizeof path, "%s/zip/%s_map.txt", out, split);
    FILE *map = fopen(path, "w");
    swin_status st = map ? SWIN_OK : swin_fail(SWIN_ERR_IO, "%s: %s", path, strerror(errno));
    for (size_t i = 0; st == SWIN_OK && i < n; i++) st = copy_one(ds, &items[i], split, out, z, map);
    if (map && fclose(map) != 0 && st == SWIN_OK) st = swin_fail(SWIN_ERR_IO, "%s: cannot write", path);
    if (zip_close(z) != 0 && st == SWIN_OK) st = swin_fail(SWIN_ERR_IO, "%s: %s", path, zip_strerror(z));
    return st;
}

int main(int argc, char **argv)
{
    swin_dataset *ds = NULL;
    if (argc != 5) {
        fprintf(stderr, "usage: %s DATA SPLIT N OUT\n", argv[0]);
        return 2;
    }
    swin_status st = swin_dataset_open(&ds, argv[1], argv[2]);
    if (st != SWIN_OK) return swin_report(st);
    size_t n = (size_t)strtoull(argv[3], NULL, 10);
    if (n == 0 || n > swin_dataset_count(ds)) n = swin_dataset_count(ds);
    item *items = calloc(n, sizeof *items);
    if (!items) return swin_report(swin_fail(SWIN_ERR_MEM, "no memory"));
    for (size_t i = 0; i < n; i++) items[i] = (item){ .index = i, .label = swin_dataset_label(ds, i) };
    qsort(items, n, sizeof *items, by_label);
    for (size_t i = 1; i < n; i++) items[i].rank = items[i - 1].rank + (items[i].label != items[i - 1].label);
    st = copy_all(ds, items, n, argv[2], argv[4]);
    free(items);
    swin_dataset_close(ds);
    return swin_report(st);
}
