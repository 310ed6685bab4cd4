/* quant/corrections.h - what accuracy recovery changed, as the calibration file keeps it.
 *
 *   /corrections/weights/<official key>   float32: the new values of that parameter, all of them, in its own order
 *   /corrections/factors/<site>           float32 [channels]: the site's values are divided by these before they are quantized,
 *                                         and the weight that reads them (under weights) is multiplied (int8-mode 3, fc2's input)
 *   /corrections/outputs/<site>           float32 [channels]: the scale of each output channel where fc2's and merging's products
 *                                         are rounded (int8-mode 1), in place of the site's one; no per-tensor engine can do so
 *   /corrections/heads/<site>             float32 [heads]: the scale of each head's codes of q, k or v as attention reads them
 *                                         (int8-mode 3), in place of the site's one; no per-tensor engine can do so
 *   /corrections/steps/<n>_<method>       a group for each method that ran, in order: attributes sqnr_before_db, sqnr_after_db
 *                                         (logits against fp32 on calibration images that the method did not see) and changed,
 *                                         in words
 * Anything else under /corrections is of a later version than this program: it is refused by name, never skipped.
 */
#ifndef SWIN_QUANT_CORRECTIONS_H
#define SWIN_QUANT_CORRECTIONS_H

#include <stdbool.h>

#include "runtime/base/h5.h"
#include "runtime/base/status.h"
#include "runtime/swin/weights.h"

typedef struct swin_correction {
    char key[SWIN_PARAM_KEY_MAX];
    float *values; /* owned */
    int ndim;
    int64_t shape[4];
} swin_correction;

typedef struct swin_recover_step {
    char method[32];
    char changed[128];
    double before_db, after_db; /* 0 where undefined */
} swin_recover_step;

#define SWIN_RECOVER_STEPS_MAX 16

/* The same in memory; zeroed: none. */
typedef struct swin_corrections {
    swin_correction *weights; /* owned */
    size_t nweights;
    swin_recover_step steps[SWIN_RECOVER_STEPS_MAX];
    int nsteps;
} swin_corrections;

/* Note every parameter whose values differ between the two, bit for bit, instead of what was noted before. */
swin_status swin_corrections_collect(swin_corrections *k, const swin_config *c, swin_weights *before,
                                     swin_weights *after);
void swin_corrections_free(swin_corrections *k);

swin_status swin_corrections_write(const swin_corrections *k, swin_h5 *f);
/* The steps alone. */
swin_status swin_corrections_read_steps(swin_corrections *k, swin_h5 *f, const char *path);

/* Whether the calibration file at path changes weights. */
swin_status swin_corrections_present(bool *present, const char *path);

/*
 * Put the changed parameters into w.
 *
 * SWIN_ERR_MISMATCH names a parameter that the network does not have or whose size differs; SWIN_ERR_VALUE one with a value
 * that is not finite. w may then be partly changed.
 */
swin_status swin_corrections_apply(swin_weights *w, const swin_config *c, const char *path);

#endif
