/* calib/calibrator.h - rules that turn a histogram into a clipping range. A new one is one file and one row. */
#ifndef SWIN_CALIB_CALIBRATOR_H
#define SWIN_CALIB_CALIBRATOR_H

#include "calib/stats.h"

/* A histogram of |x|: counts[i] elements with i <= |x| / width < i + 1. Two-sided ones are folded into it. */
typedef struct swin_abs_hist {
    const uint64_t *counts;
    int bins;
    double width;
    uint64_t total;
    double amax; /* largest |x| seen */
} swin_abs_hist;

typedef struct swin_calibrator_opts {
    double percentile; /* 99.99 */
} swin_calibrator_opts;

typedef struct swin_calibrator {
    const char *name, *help;
    /* Formulas: reference/swin.md section 4.5. */
    swin_status (*amax)(const swin_abs_hist *h, const swin_calibrator_opts *o, double *amax);
    bool
        by_use; /* that is only where to start: then the ranges are chosen on images by what reads the tensors, as recovery's
                    method `ranges` does */
} swin_calibrator;

/* NULL-terminated. */
const swin_calibrator *const *swin_calibrators(void);
const swin_calibrator *swin_calibrator_find(const char *name); /* NULL: unknown */

/* Fold a site's histogram and apply the rule. SWIN_ERR_VALUE when the site saw nothing, only zeros, or
 * any NaN or infinity. */
swin_status swin_calibrate_site(const swin_calibrator *c, const swin_calibrator_opts *o,
                                const swin_site_stats *s, float *amax);

#endif
