/* runtime/swin/pickle.h - Python pickles read as data: a stack machine that builds values and never calls anything.
 *
 * Protocols 2 to 5. Known constructors (OrderedDict, torch.Size, torch's tensor and parameter rebuilders, persistent
 * storages) become values of their own kind; every other object becomes SWIN_PK_OPAQUE, whatever its state says. Input
 * is hostile: memory, stack and memo are bounded, nothing recurses, and values may form cycles, so whoever walks them
 * bounds its depth.
 */
#ifndef SWIN_SWIN_PICKLE_H
#define SWIN_SWIN_PICKLE_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

typedef enum swin_pk_kind {
    SWIN_PK_NONE,
    SWIN_PK_BOOL,    /* i */
    SWIN_PK_INT,     /* i */
    SWIN_PK_BIGINT,  /* text: little-endian two's complement bytes that do not fit i */
    SWIN_PK_FLOAT,   /* f */
    SWIN_PK_STR,     /* text: UTF-8, not NUL-terminated */
    SWIN_PK_BYTES,   /* text */
    SWIN_PK_TUPLE,   /* items */
    SWIN_PK_LIST,    /* items */
    SWIN_PK_DICT,    /* items: key, value, key, value, ...; a repeated key is kept twice */
    SWIN_PK_GLOBAL,  /* text: "module.name", NUL-terminated */
    SWIN_PK_STORAGE, /* storage */
    SWIN_PK_TENSOR,  /* tensor */
    SWIN_PK_OPAQUE   /* text: what it was made from, "module.name", NUL-terminated */
} swin_pk_kind;

typedef struct swin_pk_value swin_pk_value;

/* A torch storage, known by its key only: where its bytes are is the container's matter. */
typedef struct swin_pk_storage {
    const swin_pk_value *type; /* GLOBAL: "torch.FloatStorage" */
    const char *key;           /* not NUL-terminated */
    size_t key_size;
    int64_t numel;                  /* elements of the whole storage */
    int64_t view_offset, view_size; /* elements; a view of a storage (legacy form), else 0 and numel */
    struct swin_pk_storage *next;   /* all storages of the reader, newest first */
} swin_pk_storage;

#define SWIN_PK_DIMS 8

typedef struct swin_pk_tensor {
    const swin_pk_storage *storage;
    const swin_pk_value *dtype; /* GLOBAL, "torch.float8_e4m3fn"; NULL: what the storage says */
    int64_t offset;             /* elements */
    int ndim;
    int64_t shape[SWIN_PK_DIMS], stride[SWIN_PK_DIMS]; /* elements, none negative */
} swin_pk_tensor;

struct swin_pk_value {
    swin_pk_kind kind;
    union {
        int64_t i;
        double f;
        struct {
            const char *p;
            size_t n;
        } text;
        struct {
            swin_pk_value **v;
            uint32_t n, cap;
        } items;
        swin_pk_storage *storage;
        swin_pk_tensor *tensor;
    };
};

typedef struct swin_pickle {
    void *blocks; /* internal: owned memory of all values */
    size_t used;  /* bytes of it */
    swin_pk_storage *storages;
} swin_pickle;

/*
 * Run one pickle from data (at most size bytes, which must outlive pk: texts point into it).
 *
 * pk     zeroed before the first call; several pickles may share it
 * root   receives the value on top at STOP
 * taken  receives the bytes used, STOP included; NULL is fine
 *
 * SWIN_ERR_FORMAT names the byte where the stream is broken, too deep or too large; SWIN_ERR_MEM.
 */
swin_status swin_pickle_read(swin_pickle *pk, const unsigned char *data, size_t size, swin_pk_value **root,
                             size_t *taken);

void swin_pickle_free(swin_pickle *pk); /* a zeroed struct is fine */

/* The last value of a string key in a dict; NULL when there is none or d is no dict. */
swin_pk_value *swin_pk_get(const swin_pk_value *d, const char *key);

#endif
