#include "quant/factor.h"

#include <stdlib.h>

bool swin_has_factor(const swin_calib_file *f, swin_site site)
{
    const swin_site_record *r = swin_calib_file_site(f, site);
    return r && r->factor;
}

/* Through host memory: backends need no operator for what their integer kernels do by themselves. */
static swin_status divide(swin_dev *dev, swin_tensor *x, const float *factor)
{
    const size_t rows = (size_t)x->rows, cols = (size_t)x->cols, n = rows * cols;
    float *host = malloc(n ? n * sizeof *host : 1);
    if (!host) return swin_fail(SWIN_ERR_MEM, "no memory for %zu values", n);
    swin_status st = dev->ops->download(dev, host, x->data, n * sizeof *host);
    for (size_t r = 0; st == SWIN_OK && r < rows; r++)
        for (size_t k = 0; k < cols; k++) host[r * cols + k] *= 1.0f / factor[k];
    if (st == SWIN_OK) st = dev->ops->upload(dev, x->data, host, n * sizeof *host);
    free(host);
    return st;
}

swin_status swin_divide_by_factor(const swin_calib_file *f, const swin_tap_point *p)
{
    const swin_site_record *r = swin_calib_file_site(f, p->site);
    if (!r || !r->factor) return SWIN_OK;
    if (p->x->cols != r->channels || p->x->ld != p->x->cols || p->x->dtype != SWIN_F32) {
        char name[SWIN_SITE_NAME_MAX];
        swin_site_name(p->site, name);
        return swin_fail(SWIN_ERR_MISMATCH, "%s: factors for %d channels, the tensor has %lld", name,
                         r->channels, (long long)p->x->cols);
    }
    return divide(p->dev, p->x, r->factor);
}

static bool wants(void *user, swin_site site)
{
    const swin_factor_tap *t = user;
    return swin_has_factor(t->f, site) ||
           (t->also && (!t->also->wants || t->also->wants(t->also->user, site)));
}

static swin_status at(void *user, const swin_tap_point *p)
{
    const swin_factor_tap *t = user;
    SWIN_TRY(swin_divide_by_factor(t->f, p));
    return t->also && (!t->also->wants || t->also->wants(t->also->user, p->site))
               ? t->also->at(t->also->user, p)
               : SWIN_OK;
}

static swin_observer *observer(void *user, swin_site site)
{
    const swin_factor_tap *t = user;
    return t->also && t->also->observer && !swin_has_factor(t->f, site)
               ? t->also->observer(t->also->user, site)
               : NULL;
}

swin_tap swin_factor_tap_of(swin_factor_tap *t)
{
    return (swin_tap){ .user = t, .wants = wants, .at = at, .observer = observer };
}
