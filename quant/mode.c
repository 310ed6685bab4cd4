#include "quant/mode.h"

#include <float.h>
#include <math.h>

#include "runtime/base/status.h"

bool swin_mode_enabled(swin_int8_mode mode, swin_family family, swin_site site)
{
    const swin_site_kind kind = swin_site_kind_of(site);
    switch (swin_site_role_of(site)) {
    case SWIN_ROLE_INPUT:
    case SWIN_ROLE_GELU:
    case SWIN_ROLE_WEIGHT:
    case SWIN_ROLE_SOFTMAX:
        return true;
    case SWIN_ROLE_MATMUL:
        return mode != SWIN_INT8_MODE_3 || family == SWIN_V1 ||
               (kind != SWIN_SITE_MATMUL_Q && kind != SWIN_SITE_MATMUL_K);
    case SWIN_ROLE_AFTERGEMM:
        return mode != SWIN_INT8_MODE_3;
    case SWIN_ROLE_AFTERGEMM_WIDE:
        return mode == SWIN_INT8_MODE_1;
    case SWIN_ROLE_OFF:
    case SWIN_ROLE_OUTPUT:
        break;
    }
    return false;
}

/* A subnormal scale has no usable inverse in float32, so it is refused as zero is. */
static swin_status scale_check(const char *name, double range, double scale)
{
    if (isnan(range) || isinf(range))
        return swin_fail(SWIN_ERR_VALUE, "%s: range %g is not finite", name, range);
    if (range == 0) return swin_fail(SWIN_ERR_VALUE, "%s: the range is zero: no scale can be made", name);
    if (range < 0) return swin_fail(SWIN_ERR_VALUE, "%s: range %g is negative", name, range);
    if (scale < FLT_MIN)
        return swin_fail(SWIN_ERR_VALUE, "%s: range %g is too small for a scale", name, range);
    return SWIN_OK;
}

static swin_status derive_gelu(swin_quant *q, const char *name, float amax, float min, float max)
{
    if (!isfinite(min) || !isfinite(max) || min > max)
        return swin_fail(SWIN_ERR_VALUE, "%s: observed range [%g, %g] cannot be used", name, (double)min,
                         (double)max);
    const double lo = fmin(fmax(min, -(double)amax), 0.0), hi = fmax(fmin(max, (double)amax), 0.0);
    const double scale = (hi - lo) / 255.0;
    SWIN_TRY(scale_check(name, hi - lo, scale));
    /* lo is in [-255 scale, 0], so the zero point is a code. */
    const double zero = nearbyint(-128.0 - lo / scale);
    *q = (swin_quant){ .scale = (float)scale, .zero_point = (int)zero, .qmin = -128, .qmax = 127 };
    return SWIN_OK;
}

swin_status swin_quant_derive(swin_quant *q, swin_int8_mode mode, swin_site site, float amax, float min,
                              float max)
{
    char name[SWIN_SITE_NAME_MAX];
    const swin_site_role role = swin_site_role_of(site);
    swin_site_name(site, name);
    SWIN_TRY(scale_check(name, amax, amax / 127.0));
    if (mode == SWIN_INT8_MODE_3 && role == SWIN_ROLE_GELU) return derive_gelu(q, name, amax, min, max);
    if (mode == SWIN_INT8_MODE_3 && role == SWIN_ROLE_SOFTMAX) {
        *q = (swin_quant){ .scale = 1.0f / 255.0f, .zero_point = 0, .qmin = 0, .qmax = 255 };
        return SWIN_OK;
    }
    *q = (swin_quant){ .scale = amax / 127.0f, .zero_point = 0, .qmin = -127, .qmax = 127 };
    return SWIN_OK;
}
