/* quant/factor.h - per-channel factors of a site (quant/corrections.h) in a float32 walk. */
#ifndef SWIN_QUANT_FACTOR_H
#define SWIN_QUANT_FACTOR_H

#include "quant/calib_file.h"
#include "runtime/swin/tap.h"

bool swin_has_factor(const swin_calib_file *f, swin_site site);

/* Divide the columns of what passes a site by its factors, in place; nothing where it has none. */
swin_status swin_divide_by_factor(const swin_calib_file *f, const swin_tap_point *p);

/* Round what passes a site with a scale for each of its channels (swin_site_record.channel_scale), in place and by
 * fake_quant's rule (runtime/ops/ops.h). */
swin_status swin_fake_quant_channels(const swin_site_record *r, const swin_tap_point *p);

/* A tap that divides and hands on to another (NULL: to none): for a float network with corrected weights. */
typedef struct swin_factor_tap {
    const swin_calib_file *f;
    const swin_tap *also;
} swin_factor_tap;
swin_tap swin_factor_tap_of(swin_factor_tap *t); /* t must outlive it */

#endif
