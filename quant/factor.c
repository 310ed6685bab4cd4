#include "quant/factor.h"

#include <stdlib.h>

bool swin_has_factor(const swin_calib_file *f, swin_site site)
{
    const swin_site_record *r = swin_calib_file_site(f, site);
    return r && r->factor;
}

static swin_status check_columns(const swin_tap_point *p, int columns)
{
    char name[SWIN_SITE_NAME_MAX];
    if (p->x->cols == columns && p->x->dtype == SWIN_F32) return SWIN_OK;
    swin_site_name(p->site, name);
    return swin_fail(SWIN_ERR_MISMATCH, "%s: numbers for %d channels, the tensor has %lld", name, columns,
                     (long long)p->x->cols);
}

/* Columns times 1 / of_column. */
static swin_status divide_columns(const swin_tap_point *p, const float *of_column)
{
    const size_t n = (size_t)p->x->cols;
    float *inverse = malloc((n + 1) * sizeof *inverse);
    if (!inverse) return swin_fail(SWIN_ERR_MEM, "no memory for %zu factors", n);
    for (size_t k = 0; k < n; k++) inverse[k] = 1.0f / of_column[k];
    const swin_status st = p->dev->ops->scale_columns(p->dev, p->x, inverse);
    free(inverse);
    return st;
}

swin_status swin_divide_by_factor(const swin_calib_file *f, const swin_tap_point *p)
{
    const swin_site_record *r = swin_calib_file_site(f, p->site);
    if (!r || !r->factor) return SWIN_OK;
    SWIN_TRY(check_columns(p, r->channels));
    return divide_columns(p, r->factor);
}

swin_status swin_fake_quant_channels(const swin_site_record *r, const swin_tap_point *p)
{
    SWIN_TRY(check_columns(p, r->channels));
    SWIN_TRY(divide_columns(p, r->channel_scale));
    SWIN_TRY(p->dev->ops->fake_quant(p->dev, p->x, 1.0f, 0, -127, 127));
    return p->dev->ops->scale_columns(p->dev, p->x, r->channel_scale);
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
