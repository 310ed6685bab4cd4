/* ONNX Runtime's TensorRT provider reads calibration.flatbuffers; its Python tools write two more forms of the same table
 * beside it, and so do we. Values are amax, keys are sorted by their bytes. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "quant/export.h"
#include "runtime/base/file.h"

typedef struct entry {
    char *key;
    char value[24]; /* amax in decimal, enough digits to give the same float32 back */
} entry;

typedef struct table {
    entry *entries;
    size_t count, capacity;
} table;

static swin_status add(void *user, const swin_site_record *r, const char *tensor)
{
    table *t = user;
    if (t->count == t->capacity) {
        const size_t capacity = t->capacity ? 2 * t->capacity : 256;
        entry *grown = realloc(t->entries, capacity * sizeof *grown);
        if (!grown) return swin_fail(SWIN_ERR_MEM, "no memory for %zu tensors", capacity);
        t->entries = grown;
        t->capacity = capacity;
    }
    entry *e = &t->entries[t->count++];
    snprintf(e->value, sizeof e->value, "%.9g", (double)r->amax);
    e->key = strdup(tensor);
    return e->key ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "no memory for a tensor's name");
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const entry *)a)->key, ((const entry *)b)->key);
}

/* ---- text forms ----------------------------------------------------------------------------------------------------- */

static void json_string(FILE *out, const char *s)
{
    fputc('"', out);
    for (; *s; s++) {
        if ((unsigned char)*s < 0x20)
            fprintf(out, "\\u%04x", *s);
        else
            fprintf(out, *s == '"' || *s == '\\' ? "\\%c" : "%c", *s);
    }
    fputc('"', out);
}

/* A NumPy number as ONNX Runtime's encoder spells it. */
static void json_number(FILE *out, const char *name, const char *sign, const char *value)
{
    fprintf(out, "\"%s\": {\"data\": %s%s, \"dtype\": \"float32\", \"CLS\": \"numpy.array\"}, ", name, sign,
            value);
}

static void fill_json(FILE *out, const table *t)
{
    fputc('{', out);
    for (size_t i = 0; i < t->count; i++) {
        fputs(i ? ", " : "", out);
        json_string(out, t->entries[i].key);
        fputs(": {", out);
        json_number(out, "lowest", "-", t->entries[i].value);
        json_number(out, "highest", "", t->entries[i].value);
        fputs("\"CLS\": \"TensorData\"}", out);
    }
    fputs("}\n", out);
}

static void fill_cache(FILE *out, const table *t)
{
    for (size_t i = 0; i < t->count; i++) fprintf(out, "%s %s\n", t->entries[i].key, t->entries[i].value);
}

/* ---- flatbuffers: TrtTable { dict: [KeyValue { key: string, value: string }] } -------------------------------------- */

static void put16(FILE *out, unsigned v)
{
    fputc((int)(v & 255), out);
    fputc((int)(v >> 8 & 255), out);
}

static void put32(FILE *out, size_t v)
{
    put16(out, (unsigned)(v & 65535));
    put16(out, (unsigned)(v >> 16 & 65535));
}

/* Bytes of a string: length, characters, NUL, padding to 4. */
static size_t string_size(const char *s)
{
    return 4 + (strlen(s) + 1 + 3) / 4 * 4;
}

static void put_string(FILE *out, const char *s)
{
    put32(out, strlen(s));
    fputs(s, out);
    for (size_t n = 4 + strlen(s); n < string_size(s); n++) fputc(0, out);
}

/* Written front to back, every offset pointing forward but the tables' to their shapes: root, both shapes (vtables), the root
 * table, the vector, the pairs' tables, the strings. All of it is 4-byte aligned. */
static void fill_flatbuffers(FILE *out, const table *t)
{
    enum { TRT_VTABLE = 4, KV_VTABLE = 12, ROOT = 20, VECTOR = 28 };
    const size_t pairs = VECTOR + 4 + 4 * t->count;
    put32(out, ROOT);
    put16(out, 6), put16(out, 8), put16(out, 4), put16(out, 0);  /* TrtTable: 1 field at 4; padding */
    put16(out, 8), put16(out, 12), put16(out, 4), put16(out, 8); /* KeyValue: 2 fields, at 4 and 8 */
    put32(out, ROOT - TRT_VTABLE);
    put32(out, VECTOR - (ROOT + 4));
    put32(out, t->count);
    for (size_t i = 0; i < t->count; i++) put32(out, pairs + 12 * i - (VECTOR + 4 + 4 * i));
    size_t string = pairs + 12 * t->count;
    for (size_t i = 0; i < t->count; i++) {
        const size_t at = pairs + 12 * i, value = string + string_size(t->entries[i].key);
        put32(out, at - KV_VTABLE);
        put32(out, string - (at + 4));
        put32(out, value - (at + 8));
        string = value + string_size(t->entries[i].value);
    }
    for (size_t i = 0; i < t->count; i++) {
        put_string(out, t->entries[i].key);
        put_string(out, t->entries[i].value);
    }
}

/* ---- files ---------------------------------------------------------------------------------------------------------- */

static swin_status make_folder(const char *path)
{
    if (mkdir(path, 0777) != 0 && errno != EEXIST)
        return swin_fail(SWIN_ERR_IO, "%s: cannot make this folder: %s", path, strerror(errno));
    if (!swin_is_dir(path)) return swin_fail(SWIN_ERR_IO, "%s: is no folder, and three files go there", path);
    return SWIN_OK;
}

static const struct {
    const char *name;
    void (*fill)(FILE *out, const table *t);
} files[] = {
    { "calibration.json", fill_json },
    { "calibration.cache", fill_cache },
    { "calibration.flatbuffers", fill_flatbuffers },
};

static swin_status write_all(const char *folder, const table *t)
{
    swin_outfile out[SWIN_COUNT(files)] = { { 0 } };
    swin_status st = make_folder(folder);
    for (size_t i = 0; i < SWIN_COUNT(files) && st == SWIN_OK; i++) {
        char *path = swin_format("%s/%s", folder, files[i].name);
        st = path ? swin_outfile_open(&out[i], path)
                  : swin_fail(SWIN_ERR_MEM, "%s: no memory to write it", folder);
        if (st == SWIN_OK) files[i].fill(out[i].f, t);
        free(path);
    }
    if (st == SWIN_OK) return swin_outfile_commit_all(out, SWIN_COUNT(files));
    for (size_t i = 0; i < SWIN_COUNT(files); i++) swin_outfile_discard(&out[i]);
    return st;
}

static swin_status save(const swin_export_job *job)
{
    table t = { 0 };
    swin_status st = swin_export_each(job, add, &t);
    if (st == SWIN_OK) {
        qsort(t.entries, t.count, sizeof *t.entries, by_key);
        st = write_all(job->output, &t);
    }
    for (size_t i = 0; i < t.count; i++) free(t.entries[i].key);
    free(t.entries);
    return st;
}

const swin_export_format swin_export_onnxruntime = {
    .name = "onnxruntime",
    .help = "ONNX Runtime's TensorRT provider: a folder with calibration.flatbuffers, .cache and .json, for "
            "onnx-float",
    .flags = SWIN_EXPORT_CALIB | SWIN_EXPORT_SYMMETRIC | SWIN_EXPORT_NAMES | SWIN_EXPORT_DIR,
    .write = save,
};
