#include "data/dataset.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "data/source.h"
#include "runtime/base/file.h"

struct swin_dataset {
    const swin_source *source;
    void *state;
    swin_list list;
    int classes;
};

/* ---- lists --------------------------------------------------------------------------------------------- */

static swin_status grow(void **p, size_t *capacity, size_t need, size_t item)
{
    if (need <= *capacity) return SWIN_OK;
    size_t n = *capacity < 64 ? 64 : *capacity;
    while (n < need) n += n / 2;
    void *bigger = n <= SIZE_MAX / item ? realloc(*p, n * item) : NULL;
    if (!bigger) return swin_fail(SWIN_ERR_MEM, "no memory for the list of images");
    *p = bigger;
    *capacity = n;
    return SWIN_OK;
}

swin_status swin_list_add(swin_list *l, const char *name, size_t name_size, int label)
{
    size_t capacity = l->capacity;
    void *offset = l->offset, *labels = l->label, *text = l->text;
    swin_status st = grow(&offset, &capacity, l->count + 1, sizeof *l->offset);
    l->offset = offset;
    if (st != SWIN_OK) return st;
    capacity = l->capacity;
    st = grow(&labels, &capacity, l->count + 1, sizeof *l->label);
    l->label = labels;
    if (st != SWIN_OK) return st;
    l->capacity = capacity;
    st = grow(&text, &l->text_capacity, l->text_size + name_size + 1, 1);
    l->text = text;
    if (st != SWIN_OK) return st;
    memcpy(l->text + l->text_size, name, name_size);
    l->text[l->text_size + name_size] = '\0';
    l->offset[l->count] = l->text_size;
    l->label[l->count++] = label;
    l->text_size += name_size + 1;
    return SWIN_OK;
}

void swin_list_free(swin_list *l)
{
    free(l->text);
    free(l->offset);
    free(l->label);
    *l = (swin_list){ 0 };
}

bool swin_is_image_name(const char *name)
{
    static const char *const extensions[] = { ".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif" };
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; dot && i < SWIN_COUNT(extensions); i++)
        if (strcasecmp(dot, extensions[i]) == 0) return true;
    return false;
}

swin_status swin_bytes_reserve(swin_bytes *b, size_t n)
{
    if (n <= b->capacity) return SWIN_OK;
    unsigned char *data = realloc(b->data, n);
    if (!data) return swin_fail(SWIN_ERR_MEM, "no memory for a file of %zu bytes", n);
    b->data = data;
    b->capacity = n;
    return SWIN_OK;
}

/* ---- where a data set lies ----------------------------------------------------------------------------- */

/* The places that a path and a split can mean. */
typedef struct places {
    char *zip, *map, *dir;
} places;

static void places_free(places *p)
{
    free(p->zip);
    free(p->map);
    free(p->dir);
}

static bool ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), m = strlen(end);
    return n >= m && strcasecmp(s + n - m, end) == 0;
}

static swin_status places_set(places *p, const char *path, const char *split)
{
    if (ends_with(path, ".zip")) {
        p->zip = swin_format("%s", path);
        p->map = swin_format("%.*s_map.txt", (int)strlen(path) - 4, path);
    } else {
        p->zip = swin_format("%s/%s.zip", path, split);
        p->map = swin_format("%s/%s_map.txt", path, split);
    }
    p->dir = swin_format("%s/%s", path, split);
    return p->zip && p->map && p->dir ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "no memory for a path");
}

/* Does path hold another split? Then its subfolders are splits, not classes. */
static bool holds_splits(const char *path)
{
    static const char *const names[] = { "train", "val", "test", "train.zip", "val.zip", "test.zip" };
    bool found = false;
    for (size_t i = 0; !found && i < SWIN_COUNT(names); i++) {
        char *p = swin_format("%s/%s", path, names[i]);
        found = p && (swin_is_dir(p) || swin_is_file(p));
        free(p);
    }
    return found;
}

static swin_status open_zip(swin_dataset *ds, const char *zip, const char *map)
{
    if (!swin_is_file(map))
        return swin_fail(SWIN_ERR_IO, "%s is there, but its list of images and labels, %s, is not", zip, map);
    ds->source = &swin_source_zip;
    return swin_source_zip_open(&ds->state, &ds->list, &ds->classes, zip, map);
}

static swin_status open_dir(swin_dataset *ds, const char *dir)
{
    ds->source = &swin_source_dir;
    return swin_source_dir_open(&ds->state, &ds->list, &ds->classes, dir);
}

static swin_status open_places(swin_dataset *ds, const places *p, const char *path, const char *split)
{
    if (ends_with(path, ".zip") && swin_is_file(path)) return open_zip(ds, p->zip, p->map);
    if (!swin_is_dir(path)) return swin_fail(SWIN_ERR_IO, "data set %s: no such folder or .zip file", path);
    if (*split && swin_is_file(p->zip) && (swin_is_file(p->map) || !swin_is_dir(p->dir)))
        return open_zip(ds, p->zip, p->map);
    if (*split && swin_is_dir(p->dir)) return open_dir(ds, p->dir);
    if (*split && swin_is_file(p->map))
        return swin_fail(SWIN_ERR_IO, "data set %s: %s is there, but neither %s nor the folder %s is", path,
                         p->map, p->zip, p->dir);
    if (*split && holds_splits(path))
        return swin_fail(SWIN_ERR_IO,
                         "data set %s has no split \"%s\": looked for %s with %s and for the folder %s", path,
                         split, p->zip, p->map, p->dir);
    const swin_status st = open_dir(ds, path);
    if (st == SWIN_OK || !*split) return st;
    return swin_fail_context(
        st, "data set %s: neither %s with %s nor the folder %s is there, and the folder itself is no split",
        path, p->zip, p->map, p->dir);
}

swin_status swin_dataset_open(swin_dataset **out, const char *path, const char *split)
{
    places p = { 0 };
    swin_dataset *ds = calloc(1, sizeof *ds);
    *out = NULL;
    swin_status st = ds ? places_set(&p, path, split ? split : "") : swin_fail(SWIN_ERR_MEM, "no memory");
    if (st == SWIN_OK) st = open_places(ds, &p, path, split ? split : "");
    places_free(&p);
    if (st != SWIN_OK) {
        swin_dataset_close(ds);
        return st;
    }
    *out = ds;
    return SWIN_OK;
}

void swin_dataset_close(swin_dataset *ds)
{
    if (!ds) return;
    if (ds->source && ds->state) ds->source->close(ds->state);
    swin_list_free(&ds->list);
    free(ds);
}

size_t swin_dataset_count(const swin_dataset *ds)
{
    return ds->list.count;
}
int swin_dataset_classes(const swin_dataset *ds)
{
    return ds->classes;
}
const char *swin_dataset_kind(const swin_dataset *ds)
{
    return ds->source->kind;
}
const char *swin_dataset_name(const swin_dataset *ds, size_t i)
{
    return ds->list.text + ds->list.offset[i];
}
int swin_dataset_label(const swin_dataset *ds, size_t i)
{
    return ds->list.label[i];
}

swin_status swin_dataset_read(swin_dataset *ds, size_t i, swin_bytes *out)
{
    return ds->source->read(ds->state, &ds->list, i, out);
}
