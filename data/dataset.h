/* data/dataset.h - a labelled list of image files: an ImageNet-style folder or a zip with its map file.
 *
 * Folder: DIR/<split>/<class>/<file>; a class's index is its rank among the folder names in plain byte
 * order; files sorted by path. Zip: DIR/<split>.zip with DIR/<split>_map.txt, whose lines are
 * "path-in-zip<TAB>label", kept in file order. The zip wins where both are there. Extensions taken:
 * reference/swin.md section 3.
 */
#ifndef SWIN_DATA_DATASET_H
#define SWIN_DATA_DATASET_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

typedef struct swin_dataset swin_dataset;

/*
 * Open DIR's split ("train", "val"). An absent, empty or mislabelled set is an error that says what was
 * looked for.
 * path may itself be the split's folder (its subfolders are the classes) or a .zip beside its _map.txt.
 */
swin_status swin_dataset_open(swin_dataset **ds, const char *path, const char *split);
void swin_dataset_close(swin_dataset *ds); /* NULL is fine */

size_t swin_dataset_count(const swin_dataset *ds);
int swin_dataset_classes(const swin_dataset *ds);                /* folders, or largest label + 1 */
const char *swin_dataset_kind(const swin_dataset *ds);           /* "folder", "zip" */
const char *swin_dataset_name(const swin_dataset *ds, size_t i); /* path inside the set */
int swin_dataset_label(const swin_dataset *ds, size_t i);

/* One file's bytes, into a buffer that grows as needed and is reused. */
typedef struct swin_bytes {
    unsigned char *data; /* owned: free() */
    size_t size, capacity;
} swin_bytes;

/* Read image i. Safe to call from several threads. Errors name the file. */
swin_status swin_dataset_read(swin_dataset *ds, size_t i, swin_bytes *out);

/* Which images to use. */
typedef enum swin_sample { SWIN_SAMPLE_SPREAD, SWIN_SAMPLE_FIRST, SWIN_SAMPLE_RANDOM } swin_sample;

/*
 * Choose `want` of `total` positions into out, ascending (RANDOM: drawn without repetition from seed, then
 * sorted).
 * SPREAD takes position floor(i * total / want). want >= total takes all. Returns how many were chosen.
 */
size_t swin_sample_choose(swin_sample how, uint64_t seed, size_t total, size_t want, size_t *out);

#endif
