#include "quant/linear_weight.h"

swin_status swin_linear_shape_of(swin_linear_weight *l, const swin_config *c, swin_site site)
{
    if (swin_site_index(c, site) < 0)
        return swin_fail(SWIN_ERR_VALUE, "site %#x is not in this network", site);
    const swin_stage g = swin_config_stage(c, swin_site_stage(site));
    const int C = g.channels;
    switch (swin_site_kind_of(site)) {
    case SWIN_SITE_QKV_WEIGHT:
        *l = (swin_linear_weight){ .out = 3 * C, .in = C };
        return SWIN_OK;
    case SWIN_SITE_PROJ_WEIGHT:
        *l = (swin_linear_weight){ .out = C, .in = C };
        return SWIN_OK;
    case SWIN_SITE_FC1_WEIGHT:
        *l = (swin_linear_weight){ .out = g.hidden, .in = C };
        return SWIN_OK;
    case SWIN_SITE_FC2_WEIGHT:
        *l = (swin_linear_weight){ .out = C, .in = g.hidden };
        return SWIN_OK;
    case SWIN_SITE_REDUCTION_WEIGHT:
        *l = (swin_linear_weight){ .out = 2 * C, .in = 4 * C };
        return SWIN_OK;
    default: {
        char name[SWIN_SITE_NAME_MAX];
        swin_site_name(site, name);
        return swin_fail(SWIN_ERR_VALUE, "%s is not a weight", name);
    }
    }
}

swin_status swin_linear_weight_of(swin_linear_weight *l, const swin_config *c, const swin_weights *w,
                                  swin_site site)
{
    SWIN_TRY(swin_linear_shape_of(l, c, site));
    const swin_stage_weights *stage = &w->stages[swin_site_stage(site)];
    const swin_site_kind kind = swin_site_kind_of(site);
    if (kind == SWIN_SITE_REDUCTION_WEIGHT) {
        l->data = stage->reduction_weight;
        return SWIN_OK;
    }
    const swin_block_weights *b = &stage->blocks[swin_site_block(site)];
    l->data = kind == SWIN_SITE_QKV_WEIGHT    ? b->qkv_weight
              : kind == SWIN_SITE_PROJ_WEIGHT ? b->proj_weight
              : kind == SWIN_SITE_FC1_WEIGHT  ? b->fc1_weight
                                              : b->fc2_weight;
    return SWIN_OK;
}
