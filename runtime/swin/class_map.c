#include "runtime/swin/class_map.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/file.h"

/* One number and nothing else but space around it; -1: something else. */
static long row_of(const char *text)
{
    char *end;
    if (text[strspn(text, " \t")] == '-') return -1;
    const long v = strtol(text, &end, 10);
    return end != text && end[strspn(end, " \t\r")] == 0 && v >= 0 ? v : -1;
}

static swin_status add_line(swin_class_map *m, const char *path, const char *text, int rows)
{
    const long row = row_of(text);
    if (row < 0)
        return swin_fail(SWIN_ERR_FORMAT, "--map22k %s line %d: '%.40s' is no row of a head", path,
                         m->count + 1, text);
    if (row >= rows)
        return swin_fail(
            SWIN_ERR_MISMATCH,
            "--map22k %s line %d: row %ld of a head that has %d: the checkpoint is not the 22k one that the "
            "map is for",
            path, m->count + 1, row, rows);
    if (m->count == rows)
        return swin_fail(SWIN_ERR_MISMATCH, "--map22k %s: more lines than the checkpoint's head has rows, %d",
                         path, rows);
    m->rows[m->count++] = (int)row;
    return SWIN_OK;
}

static swin_status parse(swin_class_map *m, const char *path, char *text, int rows)
{
    for (char *line = text, *next; *line; line = next) {
        next = line + strcspn(line, "\n");
        if (*next) *next++ = 0;
        if (!*next && line[strspn(line, " \t\r")] == 0 && m->count) break; /* white space at the end */
        SWIN_TRY(add_line(m, path, line, rows));
    }
    return m->count ? SWIN_OK : swin_fail(SWIN_ERR_FORMAT, "--map22k %s: it is empty", path);
}

swin_status swin_class_map_read(swin_class_map *m, const char *path, int rows)
{
    unsigned char *bytes = NULL;
    size_t size;
    *m = (swin_class_map){ 0 };
    SWIN_TRY(swin_read_file(path, &bytes, &size));
    char *text = strndup((const char *)bytes, size);
    m->rows = calloc((size_t)rows + 1, sizeof *m->rows);
    swin_status st = SWIN_ERR_MEM;
    if (!text || !m->rows)
        swin_fail(st, "--map22k %s: no memory", path);
    else if (strlen(text) != size)
        st = swin_fail(SWIN_ERR_FORMAT, "--map22k %s: not a text file", path);
    else
        st = parse(m, path, text, rows);
    free(text);
    free(bytes);
    if (st != SWIN_OK) swin_class_map_free(m);
    return st;
}

void swin_class_map_free(swin_class_map *m)
{
    free(m->rows);
    *m = (swin_class_map){ 0 };
}

/* The head stands at the end of the block, weight then bias: what is kept moves together. */
swin_status swin_class_map_apply(const swin_class_map *m, swin_weights *w, swin_config *c)
{
    const size_t n = (size_t)m->count, old = (size_t)c->num_classes,
                 width = (size_t)(w->head_bias - w->head_weight) / old;
    float *kept = malloc(n * (width + 1) * sizeof *kept);
    if (!kept) return swin_fail(SWIN_ERR_MEM, "no memory for a head of %zu classes", n);
    for (size_t i = 0; i < n; i++) {
        const size_t row = (size_t)m->rows[i];
        memcpy(kept + i * width, w->head_weight + row * width, width * sizeof *kept);
        kept[n * width + i] = w->head_bias[row];
    }
    memcpy(w->head_weight, kept, n * (width + 1) * sizeof *kept);
    free(kept);
    w->head_bias = w->head_weight + n * width;
    w->count -= (old - n) * (width + 1);
    c->num_classes = m->count;
    return SWIN_OK;
}
