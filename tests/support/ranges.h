/* tests/support/ranges.h - a calibration in memory, made from given images by largest magnitude: no files, no data set. */
#ifndef SWIN_TESTS_RANGES_H
#define SWIN_TESTS_RANGES_H

#include "quant/calib_file.h"
#include "runtime/swin/net.h"

/* Fill f (created here) with what the float network shows on `count` images: host float32 [count][3][S][S]. */
swin_status swin_ranges_of(swin_calib_file *f, swin_dev *dev, const swin_config *c, const swin_weights *w,
                           const float *images, int count, swin_int8_mode mode);

#endif
