/* tests/support/harden.h - Swin V1 weights that are harder to quantize, made from others. */
#ifndef SWIN_TESTS_HARDEN_H
#define SWIN_TESTS_HARDEN_H

#include "runtime/base/rng.h"
#include "runtime/swin/weights.h"

/* The same float network, but for the rounding of float32: some channels grow by a factor from 10 to 40, and what reads them
 * shrinks by as much. */
typedef struct harden_kind {
    const char *name, *help;
    int every; /* one channel in so many; 0: one in all */
    bool down; /* half of them shrink instead */
    bool norms, values,
        scores; /* norms and the weights behind; rows of V and columns of proj; rows of Q and K */
} harden_kind;

extern const harden_kind harden_kinds[]; /* the last one has no name */

/* NULL: unknown. */
const harden_kind *harden_find(const char *name);

void harden_inputs(swin_weights *w, const swin_config *c, const harden_kind *kind, uint64_t seed);

/* Another network: two output channels of every third block's fc2, and of every merge's reduction, grow 30 times. */
void harden_outputs(swin_weights *w, const swin_config *c, uint64_t seed);

#endif
