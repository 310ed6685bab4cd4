#include "calib/calibrator.h"

static swin_status max_amax(const swin_abs_hist *h, const swin_calibrator_opts *o, double *amax)
{
    (void)o;
    *amax = h->amax;
    return SWIN_OK;
}

const swin_calibrator swin_calib_max = {
    .name = "max",
    .help = "largest magnitude seen",
    .amax = max_amax,
};
