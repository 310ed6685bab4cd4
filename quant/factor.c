#include "quant/factor.h"

#include <math.h>
#include <stdlib.h>

bool swin_has_factor(const swin_calib_file *f, swin_site site)
{
    const swin_site_record *r = swin_calib_file_site(f, site);
    return r && r->factor;
}

static float over_factor(float x, float factor)
{
    return x * (1.0f / factor);
}

static float rounded(float x, float scale)
{
    const float code = rintf(x * (1.0f / scale));
    return fminf(fmaxf(code, -127.0f), 127.0f) * scale;
}

/* Through host memory: backends need no operator for what their integer kernels do by themselves. */
static swin_status each_value(const swin_tap_point *p, const float *of_column, int columns,
                              float (*change)(float x, float of_column))
{
    const swin_tensor *x = p->x;
    const size_t rows = (size_t)x->rows, cols = (size_t)x->cols, n = rows * cols;
    if (x->cols != columns || x->ld != x->cols || x->dtype != SWIN_F32) {
        char name[SWIN_SITE_NAME_MAX];
        swin_site_name(p->site, name);
        return swin_fail(SWIN_ERR_MISMATCH, "%s: numbers for %d channels, the tensor has %lld", name, columns,
                         (long long)x->cols);
    }
    float *host = malloc(n ? n * sizeof *host : 1);
    if (!host) return swin_fail(SWIN_ERR_MEM, "no memory for %zu values", n);
    swin_status st = p->dev->ops->download(p->dev, host, x->data, n * sizeof *host);
    for (size_t r = 0; st == SWIN_OK && r < rows; r++)
        for (size_t k = 0; k < cols; k++) host[r * cols + k] = change(host[r * cols + k], of_column[k]);
    if (st == SWIN_OK) st = p->dev->ops->upload(p->dev, x->data, host, n * sizeof *host);
    free(host);
    return st;
}

swin_status swin_divide_by_factor(const swin_calib_file *f, const swin_tap_point *p)
{
    const swin_site_record *r = swin_calib_file_site(f, p->site);
    return r && r->factor ? each_value(p, r->factor, r->channels, over_factor) : SWIN_OK;
}

swin_status swin_fake_quant_channels(const swin_site_record *r, const swin_tap_point *p)
{
    return each_value(p, r->channel_scale, r->channels, rounded);
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
