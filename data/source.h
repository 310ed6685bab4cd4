/* data/source.h - inside the data module: what a kind of data set provides. A new kind is one file and one
 * row in dataset.c.
 */
#ifndef SWIN_DATA_SOURCE_H
#define SWIN_DATA_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "data/dataset.h"

/* Names and labels in order. Names lie end to end in one block: a million images cost their characters and
 * 12 bytes each. */
typedef struct swin_list {
    char *text;     /* owned: NUL-terminated names */
    size_t *offset; /* [count] owned: where name i begins in text */
    int *label;     /* [count] owned */
    size_t count, capacity, text_size, text_capacity;
} swin_list;

swin_status swin_list_add(swin_list *l, const char *name, size_t name_size, int label);
void swin_list_free(swin_list *l); /* zeroes it */

/* Does the name end in an extension of images (reference/swin.md section 3), in any case? */
bool swin_is_image_name(const char *name);

/* Labels above this are taken for a mistake. */
#define SWIN_MAX_LABEL 9999999

/* A file larger than this is not read as an image. */
#define SWIN_MAX_FILE  ((size_t)1 << 30)

/* At least n bytes of capacity, contents kept. */
swin_status swin_bytes_reserve(swin_bytes *b, size_t n);

typedef struct swin_source {
    const char *kind;
    swin_status (*read)(void *state, const swin_list *list, size_t i, swin_bytes *out); /* from any thread */
    void (*close)(void *state);
} swin_source;

extern const swin_source swin_source_dir, swin_source_zip;

/* List the classes and files under dir. *state is the source's own. */
swin_status swin_source_dir_open(void **state, swin_list *list, int *classes, const char *dir);

/* List map's lines and find each in the archive. */
swin_status swin_source_zip_open(void **state, swin_list *list, int *classes, const char *zip,
                                 const char *map);

/* Parse a map file's text; path is for messages. Errors name path and line. */
swin_status swin_zip_map_parse(swin_list *list, int *classes, const char *text, size_t size,
                               const char *path);

#endif
