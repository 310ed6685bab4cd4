#include "quant/plan.h"

#include <stdlib.h>

swin_status swin_plan_create(swin_plan *p, const swin_calib_file *f, swin_granularity granularity)
{
    *p = (swin_plan){ .softmax = f->mode == SWIN_INT8_MODE_3 ? SWIN_SOFTMAX_U8 : SWIN_SOFTMAX_EXACT };
    swin_site_plan *sites = calloc((size_t)f->nsites, sizeof *sites);
    if (!sites) return swin_fail(SWIN_ERR_MEM, "no memory for %d sites", f->nsites);
    p->sites = sites;
    for (int i = 0; i < f->nsites; i++) {
        const swin_site_record *r = &f->sites[i];
        sites[i] = (swin_site_plan){ .enabled = r->enabled,
                                     .factor = r->factor,
                                     .channel_scale = r->channel_scale,
                                     .scale = r->q.scale,
                                     .zero_point = r->q.zero_point,
                                     .qmin = r->q.qmin,
                                     .qmax = r->q.qmax };
        if (!r->enabled || swin_site_role_of(r->site) != SWIN_ROLE_WEIGHT) continue;
        const swin_weight_record *w = swin_calib_file_weight(f, r->site);
        if (!w) {
            char name[SWIN_SITE_NAME_MAX];
            swin_site_name(r->site, name);
            swin_plan_free(p);
            return swin_fail(SWIN_ERR_MISMATCH, "%s: the calibration file has no weight ranges for it", name);
        }
        if (granularity == SWIN_PER_CHANNEL)
            sites[i].channel_amax = w->amax_channel;
        else
            sites[i].amax = w->amax;
    }
    return SWIN_OK;
}

swin_status swin_plan_uniform(swin_plan *p, const swin_config *c, swin_int8_mode mode, float amax)
{
    const int count = swin_site_count(c);
    *p = (swin_plan){ .softmax = mode == SWIN_INT8_MODE_3 ? SWIN_SOFTMAX_U8 : SWIN_SOFTMAX_EXACT };
    swin_site_plan *sites = calloc((size_t)count, sizeof *sites);
    if (!sites) return swin_fail(SWIN_ERR_MEM, "no memory for %d sites", count);
    p->sites = sites;
    for (int i = 0; i < count; i++) {
        const swin_site site = swin_site_at(c, i);
        swin_quant q;
        const swin_status st = swin_quant_derive(&q, mode, site, amax, -amax, amax);
        if (st != SWIN_OK) {
            swin_plan_free(p);
            return st;
        }
        sites[i] = (swin_site_plan){ .enabled = swin_mode_enabled(mode, c->family, site),
                                     .scale = q.scale,
                                     .zero_point = q.zero_point,
                                     .qmin = q.qmin,
                                     .qmax = q.qmax,
                                     .amax = amax };
    }
    return SWIN_OK;
}

void swin_plan_free(swin_plan *p)
{
    free((void *)(uintptr_t)p->sites);
    *p = (swin_plan){ 0 };
}
