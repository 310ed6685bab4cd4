#include "calib/calibrator.h"

/* What a tensor is for decides: the range with the smallest error of the output of the GEMM that reads it. A histogram cannot
 * say that; it says where to start, and the range of a tensor that no GEMM reads. */

extern const swin_calibrator swin_calib_mse;

static swin_status amax(const swin_abs_hist *h, const swin_calibrator_opts *o, double *range)
{
    return swin_calib_mse.amax(h, o, range);
}

const swin_calibrator swin_calib_gemm_mse = {
    .name = "gemm-mse",
    .help = "smallest squared error of the output of the GEMM that reads the tensor",
    .amax = amax,
    .by_use = true,
};
