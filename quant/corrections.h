/* quant/corrections.h - what accuracy recovery changed in the float weights, as the calibration file keeps it.
 *
 * /corrections/weights/<official key> is a float32 dataset: the new values of that parameter, all of them, in its own order.
 * Anything else under /corrections is of a later version than this program: it is refused by name, never skipped.
 */
#ifndef SWIN_QUANT_CORRECTIONS_H
#define SWIN_QUANT_CORRECTIONS_H

#include <stdbool.h>

#include "runtime/base/status.h"
#include "runtime/swin/weights.h"

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
