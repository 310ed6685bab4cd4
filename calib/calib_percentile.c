#include "calib/calibrator.h"

/* The left edge of the first bin up to whose end at least the wanted share of the elements lies. */
static swin_status percentile_amax(const swin_abs_hist *h, const swin_calibrator_opts *o, double *amax)
{
    const double share = o->percentile / 100.0;
    uint64_t below = 0;
    int i = 0;
    for (; i < h->bins; i++) {
        below += h->counts[i];
        if ((double)below / (double)h->total >= share) break;
    }
    /* Nearly everything in the first bin: its right edge, since a range of zero is no range. */
    *amax = i > 0 ? i * h->width : h->width;
    return SWIN_OK;
}

const swin_calibrator swin_calib_percentile = {
    .name = "percentile",
    .help = "range that keeps --percentile of all magnitudes",
    .amax = percentile_amax,
};
