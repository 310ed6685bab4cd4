/* quant/name_map.h - which tensor of someone else's graph stands for which site.
 *
 * Text, one pair a line: the site's name, white space, the tensor's name (the rest of the line, spaces included). A site may
 * have several lines: each of its tensors then gets its scale. The tensor "-" leaves a site out on purpose. Empty lines and
 * lines that begin with '#' are skipped.
 */
#ifndef SWIN_QUANT_NAME_MAP_H
#define SWIN_QUANT_NAME_MAP_H

#include <stddef.h>

#include "runtime/base/status.h"
#include "runtime/swin/site.h"

typedef struct swin_name_pair {
    swin_site site;
    char *tensor; /* owned */
} swin_name_pair;

typedef struct swin_name_map {
    swin_name_pair *pairs; /* owned, sorted by site, then by tensor */
    size_t count;
    char *path; /* owned: for messages */
} swin_name_map;

/* SWIN_ERR_FORMAT names file, line and what is wrong: an unknown site, no tensor, a tensor given twice. */
swin_status swin_name_map_read(swin_name_map *m, const swin_config *c, const char *path);
void swin_name_map_free(swin_name_map *m); /* a zeroed struct is fine */

/* The pairs of one site; *count 0 when the file has none. */
const swin_name_pair *swin_name_map_find(const swin_name_map *m, swin_site site, size_t *count);

#endif
