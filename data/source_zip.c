/* A zip archive, read in place through libzip, and the map file that lists and labels its images. */
#include "data/source.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <zip.h>

#include "runtime/base/file.h"
#include "runtime/base/log.h"

typedef struct archive {
    char *path;
    zip_t *zip;
    pthread_mutex_t lock; /* libzip's handles are not for several threads */
    zip_uint64_t *entry;  /* [images] the archive's number of each */
} archive;

/* ---- the map file -------------------------------------------------------------------------------------- */

/* Decimal digits, with blanks around them. -1: anything else. */
static long parse_label(const char *s, const char *end)
{
    long v = 0;
    while (s < end && *s == ' ') s++;
    while (end > s && (end[-1] == ' ' || end[-1] == '\t')) end--;
    if (s == end) return -1;
    for (; s < end; s++) {
        if (*s < '0' || *s > '9') return -1;
        v = v * 10 + (*s - '0');
        if (v > SWIN_MAX_LABEL) return -1;
    }
    return v;
}

static swin_status parse_line(swin_list *list, int *classes, const char *line, const char *end,
                              const char *path, size_t number)
{
    const char *tab = memchr(line, '\t', (size_t)(end - line));
    const int shown = (int)(end - line > 80 ? 80 : end - line);
    if (!tab || tab == line || memchr(line, '\0', (size_t)(end - line)))
        return swin_fail(SWIN_ERR_FORMAT, "%s, line %zu: \"%.*s\" is not path<TAB>label", path, number, shown,
                         line);
    const long label = parse_label(tab + 1, end);
    if (label < 0)
        return swin_fail(SWIN_ERR_FORMAT, "%s, line %zu: the label \"%.*s\" is not an integer from 0 to %d",
                         path, number, (int)(end - tab - 1 > 80 ? 80 : end - tab - 1), tab + 1,
                         SWIN_MAX_LABEL);
    while (line < tab && *line == '/') line++;
    SWIN_TRY(swin_list_add(list, line, (size_t)(tab - line), (int)label));
    if (!swin_is_image_name(list->text + list->offset[list->count - 1]))
        return swin_fail(SWIN_ERR_FORMAT, "%s, line %zu: \"%.*s\" has no image's extension", path, number,
                         (int)(tab - line > 80 ? 80 : tab - line), line);
    if (label >= *classes) *classes = (int)label + 1;
    return SWIN_OK;
}

swin_status swin_zip_map_parse(swin_list *list, int *classes, const char *text, size_t size, const char *path)
{
    const char *at = text, *const stop = text + size;
    *classes = 0;
    if (size >= 3 && memcmp(at, "\xef\xbb\xbf", 3) == 0) at += 3; /* an editor's byte order mark */
    for (size_t number = 1; at < stop; number++) {
        const char *newline = memchr(at, '\n', (size_t)(stop - at)), *end = newline ? newline : stop;
        const char *next = newline ? newline + 1 : stop;
        while (end > at && end[-1] == '\r') end--;
        if (end > at) SWIN_TRY(parse_line(list, classes, at, end, path, number));
        at = next;
    }
    if (list->count == 0)
        return swin_fail(SWIN_ERR_FORMAT, "%s: it lists no image; looked for path<TAB>label", path);
    return SWIN_OK;
}

/* ---- the archive --------------------------------------------------------------------------------------- */

static void archive_close(void *state)
{
    archive *a = state;
    if (a->zip) zip_discard(a->zip);
    pthread_mutex_destroy(&a->lock);
    free(a->entry);
    free(a->path);
    free(a);
}

static zip_int64_t locate(zip_t *z, const char *name)
{
    const zip_int64_t i = zip_name_locate(z, name, 0);
    return i >= 0 ? i : zip_name_locate(z, name, ZIP_FL_ENC_RAW);
}

/* How many of the archive's images no line of the map names. */
static size_t count_unlisted(zip_t *z, const unsigned char *listed)
{
    size_t n = 0;
    const zip_int64_t entries = zip_get_num_entries(z, 0);
    for (zip_int64_t i = 0; i < entries; i++) {
        const char *name = zip_get_name(z, (zip_uint64_t)i, 0);
        n += !listed[i] && name && swin_is_image_name(name);
    }
    return n;
}

static swin_status find_all(archive *a, const swin_list *list, const char *map)
{
    const zip_int64_t entries = zip_get_num_entries(a->zip, 0);
    unsigned char *listed = calloc(entries > 0 ? (size_t)entries : 1, 1);
    size_t missing = 0, first = 0;
    a->entry = malloc(list->count * sizeof *a->entry);
    if (!listed || !a->entry) {
        free(listed);
        return swin_fail(SWIN_ERR_MEM, "no memory for the index of %s", a->path);
    }
    for (size_t i = 0; i < list->count; i++) {
        const zip_int64_t at = locate(a->zip, list->text + list->offset[i]);
        if (at < 0) first = missing++ ? first : i;
        if (at < 0) continue;
        a->entry[i] = (zip_uint64_t)at;
        listed[at] = 1;
    }
    const size_t unlisted = count_unlisted(a->zip, listed);
    free(listed);
    if (missing)
        return swin_fail(SWIN_ERR_MISMATCH,
                         "%s lists %zu images that are not in %s (which holds %lld files), first \"%s\"", map,
                         missing, a->path, (long long)entries, list->text + list->offset[first]);
    if (unlisted) swin_note("%s: %zu images that %s does not list are left out", a->path, unlisted, map);
    return SWIN_OK;
}

static swin_status archive_open(archive *a, const char *path)
{
    int code = 0;
    zip_error_t error;
    a->path = swin_format("%s", path);
    if (!a->path) return swin_fail(SWIN_ERR_MEM, "no memory for a path");
    a->zip = zip_open(path, ZIP_RDONLY, &code);
    if (a->zip) return SWIN_OK;
    zip_error_init_with_code(&error, code);
    swin_fail(SWIN_ERR_FORMAT, "%s: %s", path, zip_error_strerror(&error));
    zip_error_fini(&error);
    return SWIN_ERR_FORMAT;
}

swin_status swin_source_zip_open(void **state, swin_list *list, int *classes, const char *zip,
                                 const char *map)
{
    unsigned char *text = NULL;
    size_t size;
    archive *a = calloc(1, sizeof *a);
    if (!a) return swin_fail(SWIN_ERR_MEM, "no memory");
    pthread_mutex_init(&a->lock, NULL);
    *state = a; /* closed by the data set, whatever happens */
    SWIN_TRY(archive_open(a, zip));
    SWIN_TRY(swin_read_file(map, &text, &size));
    const swin_status st = swin_zip_map_parse(list, classes, (const char *)text, size, map);
    free(text);
    if (st != SWIN_OK) return st;
    return find_all(a, list, map);
}

/* Bytes come in pieces, so that memory follows what is there and not what the archive claims. */
static swin_status read_entry(zip_file_t *f, swin_bytes *out)
{
    out->size = 0;
    for (size_t piece = (size_t)1 << 18;; piece = out->size) {
        if (out->size + piece > SWIN_MAX_FILE) return swin_fail(SWIN_ERR_IO, "too large for an image");
        SWIN_TRY(swin_bytes_reserve(out, out->size + piece));
        while (out->size < out->capacity) {
            const zip_int64_t n = zip_fread(f, out->data + out->size, out->capacity - out->size);
            if (n < 0) return swin_fail(SWIN_ERR_IO, "%s", zip_error_strerror(zip_file_get_error(f)));
            if (n == 0) return SWIN_OK; /* the checksum has been compared */
            out->size += (size_t)n;
        }
    }
}

static swin_status archive_read(void *state, const swin_list *list, size_t i, swin_bytes *out)
{
    archive *a = state;
    swin_status st;
    pthread_mutex_lock(&a->lock);
    zip_file_t *f = zip_fopen_index(a->zip, a->entry[i], 0);
    if (f)
        st = read_entry(f, out);
    else
        st = swin_fail(SWIN_ERR_IO, "%s", zip_error_strerror(zip_get_error(a->zip)));
    if (f) zip_fclose(f);
    pthread_mutex_unlock(&a->lock);
    if (st == SWIN_OK || st == SWIN_ERR_MEM) return st;
    return swin_fail_context(st, "%s: %s", a->path, list->text + list->offset[i]);
}

const swin_source swin_source_zip = { "zip", archive_read, archive_close };
