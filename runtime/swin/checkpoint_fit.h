/* runtime/swin/checkpoint_fit.h - whether a checkpoint's tensors are those of a configured network; for checkpoint_load.c. */
#ifndef SWIN_SWIN_CHECKPOINT_FIT_H
#define SWIN_SWIN_CHECKPOINT_FIT_H

#include "runtime/swin/family.h"

typedef struct swin_fit {
    const swin_config *c;
    const swin_keys *keys;
    bool no_head; /* a missing head is no fault */
    const swin_param *params;
    size_t count;
    swin_pieces *found; /* [count], filled in here */
    int resized;        /* position bias tables of another window: to be resized */
} swin_fit;

/*
 * Find every parameter's tensors, and compare the buffers that are stored with those that the network derives.
 *
 * SWIN_ERR_MISMATCH: one message with every difference, and what the checkpoint seems to be instead.
 */
swin_status swin_fit_check(swin_fit *f);

/* The pieces have the parameter's shape as they are. */
bool swin_fit_exact(const swin_param *p, const swin_pieces *q);

#endif
