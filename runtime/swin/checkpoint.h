/* runtime/swin/checkpoint.h - checkpoint files: .pth (zip and legacy pickle) and .safetensors, read without running them.
 *
 * The unpickler knows dicts, lists, tuples, strings, numbers, torch storages, _rebuild_tensor_v2, Parameter and
 * OrderedDict; anything else it skips as an opaque value, and no code of the file is ever run.
 */
#ifndef SWIN_SWIN_CHECKPOINT_H
#define SWIN_SWIN_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"
#include "runtime/base/tensor.h"
#include "runtime/swin/config.h"
#include "runtime/swin/weights.h"

typedef struct swin_ckpt_tensor {
    const char *key;  /* prefix "module." removed */
    swin_dtype dtype; /* as stored */
    int ndim;
    int64_t shape[8], stride[8]; /* elements; a transposed view has other strides than a dense one */
    const void *data;            /* first element, in the map or in memory owned by the file; any alignment */
    size_t count;                /* elements */
} swin_ckpt_tensor;

typedef struct swin_ckpt swin_ckpt;

/* Open and index a checkpoint; its container is found from its bytes. Errors name the file and what was found. */
swin_status swin_ckpt_open(swin_ckpt **ck, const char *path);
void swin_ckpt_close(swin_ckpt *ck); /* NULL is fine */

const char *swin_ckpt_container(const swin_ckpt *ck); /* "pth (zip)", "pth (legacy)", "safetensors" */
const char *swin_ckpt_wrapper(const swin_ckpt *ck);   /* "model", "state_dict" or "" */
size_t swin_ckpt_count(const swin_ckpt *ck);
const swin_ckpt_tensor *swin_ckpt_at(const swin_ckpt *ck, size_t i); /* in file order */
const swin_ckpt_tensor *swin_ckpt_find(const swin_ckpt *ck, const char *key);

/* Copy a tensor densely as float32 into dst (t->count floats). Integer tensors are refused by name. */
swin_status swin_ckpt_read(const swin_ckpt_tensor *t, float *dst);

/*
 * Load a network's parameters. c->num_classes follows the checkpoint's head (with a note) unless c->classes_given.
 *
 * Official, timm, torchvision and transformers names are recognised (family.h). w is created here. Derivable buffers
 * (relative_position_index, attn_mask, relative_coords_table) are not read; an index or V2's coordinates that belong to
 * another network are a mismatch. V1's position bias tables of another window are resized, with a note, as the official code
 * does when it fine-tunes.
 * SWIN_ERR_MISMATCH lists every missing, unexpected and wrongly shaped tensor at once, and says what the tensors point to
 * instead; SWIN_ERR_VALUE names a tensor that holds NaN or infinity.
 */
swin_status swin_weights_load(swin_weights *w, swin_config *c, const char *path);

typedef struct swin_load_opts {
    bool no_head; /* accept a checkpoint without a classification head: one class, whose weights are zeros */
    const char *map22k; /* FILE: keep the rows of the head that it names (class_map.h); NULL: all */
} swin_load_opts;

/* The same from an open checkpoint, which is only read; o NULL: no options. */
swin_status swin_weights_load_from(swin_weights *w, swin_config *c, const swin_ckpt *ck,
                                   const swin_load_opts *o);

/* Write a network's parameters as .safetensors (float32, official keys), atomically. */
swin_status swin_weights_save(const swin_weights *w, const swin_config *c, const char *path);

#endif
