/* tests/support/torch_file.h - checkpoints as torch.save writes them, made by hand: containers, wrappers, layouts. */
#ifndef SWIN_TESTS_TORCH_FILE_H
#define SWIN_TESTS_TORCH_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "runtime/base/tensor.h"
#include "runtime/swin/weights.h"

typedef struct swin_bytes_out {
    unsigned char *data; /* owned: free() */
    size_t size, capacity;
} swin_bytes_out;

void swin_out_add(swin_bytes_out *o, const void *p, size_t n);
void swin_out_text(swin_bytes_out *o, const char *s);               /* without its final zero */
void swin_out_uint(swin_bytes_out *o, unsigned long long v, int n); /* n bytes, little-endian */

typedef struct swin_torch_style {
    int protocol;     /* 2: GLOBAL and BINPUT as torch writes; 4: SHORT_BINUNICODE, STACK_GLOBAL, MEMOIZE */
    swin_dtype dtype; /* F32, F16, BF16, F64: rounded to it */
    const char
        *wrapper; /* "model", "state_dict" or NULL; an optimizer and a weight average are put beside it */
    const char *prefix;     /* of every key, "" for none */
    bool parameters;        /* torch.nn.Parameter objects */
    bool transposed;        /* matrices kept column-major, with strides that say so */
    bool one_storage;       /* all tensors are views of storage "0" */
    bool buffers;           /* derivable buffers and one int64 scalar among the tensors */
    bool big_endian;        /* claimed, not done */
    const char *drop, *add; /* leave this key out; add a float scalar of this key */
    const char *twice;      /* write this key twice */
    const char *extra;     /* an int of this key among the tensors, and the first tensor again under an int */
    const char *late_type; /* "float8_e4m3fn": a type that came after typed storages, of... */
    const char *late_key;  /* ...this tensor; NULL: of all */
    int64_t offset_shift;  /* added to every storage offset: beyond the storage */
} swin_torch_style;

/* The structure's pickle and, for the zip form, the storages to go with it (count of them, caller frees each). */
void swin_torch_pickle(swin_bytes_out *pickle, swin_bytes_out **storages, size_t *count,
                       const swin_param *list, size_t n, const swin_torch_style *s);

/* A whole file: zip (members stored or deflated) or legacy. */
void swin_torch_write_zip(const char *path, const swin_param *list, size_t n, const swin_torch_style *s,
                          bool deflate);
void swin_torch_write_legacy(const char *path, const swin_param *list, size_t n, const swin_torch_style *s);

/* .safetensors of the given element type. */
void swin_torch_write_safetensors(const char *path, const swin_param *list, size_t n, swin_dtype dtype);

#endif
