/* runtime/swin/checkpoint_impl.h - what the container readers share; for checkpoint*.c alone. */
#ifndef SWIN_SWIN_CHECKPOINT_IMPL_H
#define SWIN_SWIN_CHECKPOINT_IMPL_H

#include "runtime/base/file.h"
#include "runtime/swin/checkpoint.h"
#include "runtime/swin/pickle.h"

#define SWIN_CKPT_MAX_PICKLE ((size_t)64 << 20) /* bytes of pickled structure, tensors not counted */

struct swin_ckpt {
    char *path; /* owned, for messages */
    swin_map map;
    const char *container;
    char wrapper[32];
    swin_ckpt_tensor *tensors; /* owned, file order */
    size_t count, capacity;
    const swin_ckpt_tensor **sorted; /* owned, by key */
    void **owned;                    /* keys and unpacked storages */
    size_t nowned, cap_owned;
    size_t unpacked; /* bytes of them */
};

/* Bytes of a storage: where they are and how many. */
typedef struct swin_ckpt_bytes {
    const unsigned char *data;
    size_t size;
} swin_ckpt_bytes;

/* Hand a malloc'ed pointer to ck, which frees it; on failure it is freed at once. */
swin_status swin_ckpt_own(swin_ckpt *ck, void *p);

/* Add a tensor whose shape and stride are set, inside `bytes` at `offset` elements; bounds are checked here. The key is
 * copied, less a "module." prefix. */
swin_status swin_ckpt_add(swin_ckpt *ck, const char *key, size_t key_size, swin_ckpt_tensor t, int64_t offset,
                          swin_ckpt_bytes bytes);

/* A printable copy of a name from the file, cut at size. */
void swin_ckpt_name(char *out, size_t size, const char *name, size_t n);

/*
 * Add every tensor of an unpickled checkpoint: root, or the dict under "model" or "state_dict" in it. What is left
 * out is counted in a warning (tensors of types without a swin_dtype) or a note (entries that are no tensors).
 * SWIN_ERR_UNSUPPORTED when that is every tensor.
 *
 * find   gives a storage's bytes; called once for each tensor
 */
typedef swin_status (*swin_ckpt_find_storage)(void *user, const swin_pk_storage *s, swin_ckpt_bytes *bytes);
swin_status swin_ckpt_add_pickled(swin_ckpt *ck, const swin_pk_value *root, swin_ckpt_find_storage find,
                                  void *user);

/* Bytes of one element of "torch.FloatStorage" and its like, those without a swin_dtype included; 0: unknown. */
size_t swin_ckpt_storage_element(const swin_pk_value *type);

/* swin_ckpt_read that also says whether every number is finite. */
swin_status swin_ckpt_read_checked(const swin_ckpt_tensor *t, float *dst, bool *finite);

/* The container readers: index ck->map. */
swin_status swin_ckpt_read_zip(swin_ckpt *ck);
swin_status swin_ckpt_read_legacy(swin_ckpt *ck);
swin_status swin_ckpt_read_safetensors(swin_ckpt *ck);

#endif
