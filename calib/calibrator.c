#include "calib/calibrator.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

extern const swin_calibrator swin_calib_percentile, swin_calib_max, swin_calib_mse, swin_calib_entropy,
    swin_calib_gemm_mse;

static const swin_calibrator *const calibrators[] = {
    &swin_calib_percentile, &swin_calib_max, &swin_calib_mse, &swin_calib_entropy, &swin_calib_gemm_mse, NULL,
};

const swin_calibrator *const *swin_calibrators(void)
{
    return calibrators;
}

const swin_calibrator *swin_calibrator_find(const char *name)
{
    for (const swin_calibrator *const *c = calibrators; *c; c++)
        if (strcmp((*c)->name, name) == 0) return *c;
    return NULL;
}

/* Bin k of the negative side holds ((k - 1) width, k width] of |x|, so a magnitude that is an exact multiple of the width
 * goes one bin lower than its positive twin: all that a two-sided histogram can say. */
static swin_status fold(swin_abs_hist *h, uint64_t **owned, const swin_site_stats *s)
{
    const int half = s->hist_abs ? s->bins : s->bins / 2;
    uint64_t *counts = calloc((size_t)half + 1, sizeof *counts);
    if (!counts) return swin_fail(SWIN_ERR_MEM, "no memory for a histogram of %d bins", half);
    for (int i = 0; i < half; i++)
        counts[i] = s->hist_abs ? s->hist[i] : s->hist[half + i] + s->hist[half - 1 - i];
    int bins = half;
    while (bins > 1 && counts[bins - 1] == 0) bins--; /* what no element reached is no candidate */
    *h = (swin_abs_hist){ .counts = counts,
                          .bins = bins,
                          .width = s->bin_width,
                          .amax = fmax(fabs((double)s->min), fabs((double)s->max)) };
    for (int i = 0; i < bins; i++) h->total += counts[i];
    *owned = counts;
    return SWIN_OK;
}

swin_status swin_calibrate_site(const swin_calibrator *c, const swin_calibrator_opts *o,
                                const swin_site_stats *s, float *amax)
{
    if (s->count == 0) return swin_fail(SWIN_ERR_VALUE, "never observed");
    if (s->nonfinite > 0)
        return swin_fail(SWIN_ERR_VALUE, "%llu of %llu values seen are NaN or infinite",
                         (unsigned long long)s->nonfinite, (unsigned long long)s->count);
    if (s->min == 0 && s->max == 0) return swin_fail(SWIN_ERR_VALUE, "only zeros were seen");
    if (!s->hist || s->bins < 2 || !(s->bin_width > 0) || !isfinite(s->bin_width))
        return swin_fail(SWIN_ERR_VALUE, "no histogram");
    swin_abs_hist h;
    uint64_t *counts = NULL;
    SWIN_TRY(fold(&h, &counts, s));
    double range = 0;
    swin_status st = h.total > 0 ? c->amax(&h, o, &range)
                                 : swin_fail(SWIN_ERR_VALUE, "the histogram is empty");
    if (st == SWIN_OK) *amax = (float)range;
    if (st == SWIN_OK && !(isfinite(*amax) && *amax > 0))
        st = swin_fail(SWIN_ERR_VALUE, "calibrator %s chose %g", c->name, range);
    free(counts);
    return st;
}
