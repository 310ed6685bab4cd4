/* runtime/swin/class_map.h - which rows of a 22k head are the classes of a 1k data set.
 *
 * Text: line n is the row (from 0) of class n, as in the official repository's map22kto1k.txt (1,000 lines for ImageNet-1k).
 * Two classes may share a row.
 */
#ifndef SWIN_SWIN_CLASS_MAP_H
#define SWIN_SWIN_CLASS_MAP_H

#include "runtime/swin/weights.h"

typedef struct swin_class_map {
    int *rows; /* owned: [count] */
    int count;
} swin_class_map;

/* Read a map for a head of `rows` rows. SWIN_ERR_FORMAT names file and line; SWIN_ERR_MISMATCH: a row that this head has not, or
 * more lines than it has rows. */
swin_status swin_class_map_read(swin_class_map *m, const char *path, int rows);
void swin_class_map_free(swin_class_map *m); /* a zeroed struct is fine */

/* Keep those rows of w's head, in the map's order; c->num_classes becomes m->count. w's block keeps its size in memory. */
swin_status swin_class_map_apply(const swin_class_map *m, swin_weights *w, swin_config *c);

#endif
