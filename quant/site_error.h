/* quant/site_error.h - where the error of a quantized network comes from, site by site, measured with int8-sim. */
#ifndef SWIN_QUANT_SITE_ERROR_H
#define SWIN_QUANT_SITE_ERROR_H

#include "quant/sim.h"
#include "runtime/swin/eval_report.h"

/*
 * One entry for each enabled site, in forward order, into new memory (caller frees).
 *
 * w       the weights with f's corrections
 * images  host [n][3][S][S]
 *
 * The reference is the same network, with w, with nothing quantized: weights that recovery has rounded lie on their codes
 * already and show no error of their own. Alone: SQNR of the logits when only this site is quantized.
 * Accumulated: SQNR of the tensor at this site when all are (NaN for weights). Share: of the sum of all sites' errors
 * alone; what they do together is not quite that sum. Runs half a network for each site and image.
 */
swin_status swin_site_errors(swin_eval_site **list, int *count, swin_dev *dev, const swin_calib_file *f,
                             const swin_weights *w, swin_granularity granularity, const float *images, int n);

#endif
