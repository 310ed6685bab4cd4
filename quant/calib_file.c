#include "quant/calib_file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quant/linear_weight.h"
#include "runtime/base/status.h"

static swin_status init_weights(swin_calib_file *f)
{
    for (int i = 0; i < f->nsites; i++)
        f->nweights += swin_site_role_of(f->sites[i].site) == SWIN_ROLE_WEIGHT;
    f->weights = calloc((size_t)f->nweights + 1, sizeof *f->weights);
    if (!f->weights) return swin_fail(SWIN_ERR_MEM, "no memory for %d weight records", f->nweights);
    swin_weight_record *r = f->weights;
    for (int i = 0; i < f->nsites; i++) {
        const swin_site site = f->sites[i].site;
        if (swin_site_role_of(site) != SWIN_ROLE_WEIGHT) continue;
        swin_linear_weight l;
        SWIN_TRY(swin_linear_shape_of(&l, &f->config, site));
        *r = (swin_weight_record){ .site = site, .channels = l.out };
        r->amax_channel = calloc((size_t)l.out, sizeof *r->amax_channel);
        if (!r->amax_channel) return swin_fail(SWIN_ERR_MEM, "no memory for %d channels", l.out);
        r++;
    }
    return SWIN_OK;
}

swin_status swin_calib_file_init(swin_calib_file *f, const swin_config *c)
{
    *f = (swin_calib_file){ .config = *c, .mode = SWIN_INT8_MODE_1, .nsites = swin_site_count(c) };
    f->sites = calloc((size_t)f->nsites + 1, sizeof *f->sites);
    swin_status st = f->sites ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "no memory for %d sites", f->nsites);
    if (st == SWIN_OK) {
        for (int i = 0; i < f->nsites; i++) f->sites[i].site = swin_site_at(c, i);
        st = init_weights(f);
    }
    if (st != SWIN_OK) swin_calib_file_free(f);
    return st;
}

void swin_calib_file_free(swin_calib_file *f)
{
    for (int i = 0; f->sites && i < f->nsites; i++) {
        free(f->sites[i].hist);
        free(f->sites[i].factor);
        free(f->sites[i].channel_scale);
    }
    swin_corrections_free(&f->corrections);
    swin_relaxation_free(&f->relaxation);
    for (int i = 0; f->weights && i < f->nweights; i++) free(f->weights[i].amax_channel);
    free(f->sites);
    free(f->weights);
    free(f->tool);
    free(f->engine);
    free(f->calibrator);
    free(f->histogram);
    free(f->recover);
    free(f->preprocess);
    *f = (swin_calib_file){ 0 };
}

static swin_status derive_site(swin_site_record *r, swin_int8_mode mode, swin_family family)
{
    char name[SWIN_SITE_NAME_MAX];
    swin_site_name(r->site, name);
    if (r->count == 0) return swin_fail(SWIN_ERR_VALUE, "%s: never observed", name);
    if (r->nonfinite > 0)
        return swin_fail(SWIN_ERR_VALUE, "%s: %llu of %llu values seen are NaN or infinite", name,
                         (unsigned long long)r->nonfinite, (unsigned long long)r->count);
    SWIN_TRY(swin_quant_derive(&r->q, mode, r->site, r->amax, r->min, r->max));
    r->enabled = swin_mode_enabled(mode, family, r->site);
    return SWIN_OK;
}

static swin_status check_weight(const swin_weight_record *r)
{
    char name[SWIN_SITE_NAME_MAX];
    swin_site_name(r->site, name);
    if (!isfinite(r->amax) || r->amax <= 0)
        return swin_fail(SWIN_ERR_VALUE, "%s: range %g cannot be used", name, (double)r->amax);
    for (int i = 0; i < r->channels; i++)
        if (!isfinite(r->amax_channel[i]) || r->amax_channel[i] < 0)
            return swin_fail(SWIN_ERR_VALUE, "%s: range %g of output channel %d cannot be used", name,
                             (double)r->amax_channel[i], i);
    return SWIN_OK;
}

swin_status swin_calib_file_derive(swin_calib_file *f, swin_int8_mode mode)
{
    for (int i = 0; i < f->nsites; i++) SWIN_TRY(derive_site(&f->sites[i], mode, f->config.family));
    for (int i = 0; i < f->nweights; i++) SWIN_TRY(check_weight(&f->weights[i]));
    f->mode = mode;
    return SWIN_OK;
}

bool swin_calib_file_has_heads(const swin_calib_file *f, swin_site site)
{
    return f->mode == SWIN_INT8_MODE_3 && swin_site_role_of(site) == SWIN_ROLE_MATMUL &&
           swin_mode_enabled(f->mode, f->config.family, site);
}

swin_status swin_calib_file_match(const swin_calib_file *f, const char *path, const swin_config *c,
                                  const char *checkpoint_sha256)
{
    if (!swin_config_same_network(&f->config, c))
        return swin_fail(SWIN_ERR_MISMATCH, "%s: made for the model %s, whose shape is not that of %s", path,
                         f->config.name, c->name);
    if (checkpoint_sha256 && strcmp(f->checkpoint_sha256, checkpoint_sha256) != 0)
        return swin_fail(SWIN_ERR_MISMATCH,
                         "%s: made for another checkpoint (%.16s..., this one is %.16s...)", path,
                         f->checkpoint_sha256, checkpoint_sha256);
    return SWIN_OK;
}

const swin_site_record *swin_calib_file_site(const swin_calib_file *f, swin_site site)
{
    const int i = swin_site_index(&f->config, site);
    return i >= 0 && i < f->nsites ? &f->sites[i] : NULL;
}

const swin_weight_record *swin_calib_file_weight(const swin_calib_file *f, swin_site weight_site)
{
    for (int i = 0; i < f->nweights; i++)
        if (f->weights[i].site == weight_site) return &f->weights[i];
    return NULL;
}
