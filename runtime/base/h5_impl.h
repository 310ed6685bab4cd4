/* runtime/base/h5_impl.h - what the parts of h5.h's implementation share. */
#ifndef SWIN_BASE_H5_IMPL_H
#define SWIN_BASE_H5_IMPL_H

#include "runtime/base/h5.h"

struct swin_h5 {
    int64_t id;       /* hid_t, kept out of the headers */
    char *path, *tmp; /* tmp: not NULL while a new file is uncommitted */
};

/* SWIN_ERR_FORMAT: what is wrong at an object, or with its attribute of that name unless it is NULL. */
swin_status h5_bad(const swin_h5 *f, const char *what, const char *at, const char *name);

/* The group and all above it. */
swin_status h5_make_groups(swin_h5 *f, const char *name);

#endif
