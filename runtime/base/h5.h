/* runtime/base/h5.h - the little of HDF5 that the toolkit needs, with HDF5 itself seen by h5.c alone.
 *
 * Files written are reproducible: no object times, fixed library version bounds, groups tracked in creation order.
 * Names are full paths inside the file ("/sites/layers.0.blocks.0.attn.qkv._input"); missing groups are made on writing.
 * Every error names the file and the object.
 */
#ifndef SWIN_BASE_H5_H
#define SWIN_BASE_H5_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"
#include "runtime/base/tensor.h"

typedef struct swin_h5 swin_h5;

/* A new file that appears at path only at swin_h5_commit (DESIGN.md rule 4). */
swin_status swin_h5_create(swin_h5 **f, const char *path);
swin_status swin_h5_open(swin_h5 **f, const char *path); /* read-only */
swin_status swin_h5_commit(swin_h5 *f);                  /* f is still to be closed */
void swin_h5_close(swin_h5 *f);                          /* an uncommitted new file vanishes; NULL is fine */

/* Attributes of the group or dataset `at` ("/" for the root); setting makes a missing group. */
swin_status swin_h5_set_i64(swin_h5 *f, const char *at, const char *name, int64_t v);
swin_status swin_h5_set_f64(swin_h5 *f, const char *at, const char *name, double v); /* stored as float64 */
swin_status swin_h5_set_f32(swin_h5 *f, const char *at, const char *name, float v);
swin_status swin_h5_set_str(swin_h5 *f, const char *at, const char *name,
                            const char *v); /* fixed length, UTF-8 */
swin_status swin_h5_get_i64(swin_h5 *f, const char *at, const char *name, int64_t *v);
swin_status swin_h5_get_f64(swin_h5 *f, const char *at, const char *name,
                            double *v); /* any float or integer type */
swin_status swin_h5_get_str(swin_h5 *f, const char *at, const char *name,
                            char **v); /* caller frees; fixed or variable */
bool swin_h5_has_attr(swin_h5 *f, const char *at, const char *name);
bool swin_h5_exists(swin_h5 *f, const char *name); /* group or dataset */

/* Write a dataset of the given dimensions (ndim <= 4) from host memory; `deflate` compresses it (level 4, shuffled). */
swin_status swin_h5_write(swin_h5 *f, const char *name, swin_dtype dtype, const void *data, int ndim,
                          const int64_t *dims, bool deflate);

/* A dataset that grows along its first dimension: create with dims[0] = 0, then append blocks of rows. */
swin_status swin_h5_append(swin_h5 *f, const char *name, swin_dtype dtype, const void *rows, int64_t nrows,
                           int ndim, const int64_t *dims);

/* The shape of a dataset: ndim in, at most 8. */
swin_status swin_h5_shape(swin_h5 *f, const char *name, int *ndim, int64_t dims[8]);
/* Read a whole dataset, converted to dtype, into new memory (caller frees); *count elements. */
swin_status swin_h5_read(swin_h5 *f, const char *name, swin_dtype dtype, void **data, size_t *count);

/* Call fn for each link of a group, in creation order where the file tracks it, else by name. A status other than
 * SWIN_OK from fn ends the walk and is returned. */
swin_status swin_h5_each(swin_h5 *f, const char *group, swin_status (*fn)(void *user, const char *name),
                         void *user);

/* "1.10.8": the library in use. */
const char *swin_h5_version(void);

#endif
