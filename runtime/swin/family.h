/* runtime/swin/family.h - where a checkpoint's tensors come from, and how they are called there.
 *
 * Everything else speaks official names; one table for each source says which of its tensors an official parameter is made
 * of: one tensor, several stacked along their first dimension (separate query, key and value), or a part of one (the query's
 * share of a joint bias).
 */
#ifndef SWIN_SWIN_FAMILY_H
#define SWIN_SWIN_FAMILY_H

#include "runtime/swin/checkpoint.h"

typedef struct swin_source swin_source; /* one row of the list of sources */

/* A checkpoint read under official names. */
typedef struct swin_keys {
    const swin_ckpt *ck;
    const swin_source *source;
    const char *prefix; /* of most of its names: "swin.", ... */
} swin_keys;

/* An official parameter's tensors, in order. */
typedef struct swin_pieces {
    int count; /* 0: missing */
    const swin_ckpt_tensor *tensor[3];
    int part, parts;                        /* of the only tensor: rows [part, part + 1) / parts; 0, 1: all */
    char name[2 * SWIN_PARAM_KEY_MAX + 64]; /* as the source spells it, for messages */
} swin_pieces;

/* Recognise the source from the tensors' names; anything unknown is read under official names. */
swin_keys swin_keys_of(const swin_ckpt *ck);

/* "official", "timm", "torchvision", "transformers"; and a line about it. */
const char *swin_keys_source(const swin_keys *k);
const char *swin_keys_help(const swin_keys *k);

/* What the official key is made of here. */
swin_pieces swin_keys_find(const swin_keys *k, const char *key);

/* The only tensor of the official key; NULL when it is missing or made of several. */
const swin_ckpt_tensor *swin_keys_tensor(const swin_keys *k, const char *key);

#endif
