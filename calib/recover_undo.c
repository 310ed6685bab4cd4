/* What a method that runs AFTER may change, to be put back when the images held back are worse off for it. */
#include <stdlib.h>
#include <string.h>

#include "calib/recover_impl.h"

static size_t channels_of(const swin_calib_file *f)
{
    size_t n = 0;
    for (int i = 0; i < f->nweights; i++) n += (size_t)f->weights[i].channels;
    return n;
}

swin_status recover_save(recover_saved *s, const swin_recover *r)
{
    const swin_calib_file *f = r->f;
    const size_t sites = (size_t)f->nsites, weights = (size_t)f->nweights;
    *s = (recover_saved){ 0 };
    s->sites = malloc(sites * sizeof *s->sites);
    s->amax = malloc((weights + 1) * sizeof *s->amax);
    s->channels = malloc((channels_of(f) + 1) * sizeof *s->channels);
    if (!s->sites || !s->amax || !s->channels) {
        recover_saved_free(s);
        return swin_fail(SWIN_ERR_MEM, "--recover: no memory for a copy of the ranges");
    }
    memcpy(s->sites, f->sites, sites * sizeof *s->sites);
    float *at = s->channels;
    for (size_t i = 0; i < weights; i++) {
        s->amax[i] = f->weights[i].amax;
        memcpy(at, f->weights[i].amax_channel, (size_t)f->weights[i].channels * sizeof *at);
        at += f->weights[i].channels;
    }
    const swin_status st = swin_weights_clone(&s->w, &r->w, r->config);
    if (st != SWIN_OK) recover_saved_free(s);
    return st;
}

void recover_restore(swin_recover *r, recover_saved *s)
{
    swin_calib_file *f = r->f;
    const swin_weights w = r->w;
    for (int i = 0; i < f->nsites; i++)
        if (f->sites[i].channel_scale != s->sites[i].channel_scale) free(f->sites[i].channel_scale);
    memcpy(f->sites, s->sites, (size_t)f->nsites * sizeof *f->sites);
    const float *at = s->channels;
    for (int i = 0; i < f->nweights; i++) {
        f->weights[i].amax = s->amax[i];
        memcpy(f->weights[i].amax_channel, at, (size_t)f->weights[i].channels * sizeof *at);
        at += f->weights[i].channels;
    }
    r->w = s->w;
    s->w = w;
    swin_relaxation_free(&f->relaxation); /* only the last method makes one */
    recover_changed(r);
}

void recover_saved_free(recover_saved *s)
{
    free(s->sites);
    free(s->amax);
    free(s->channels);
    swin_weights_free(&s->w);
    *s = (recover_saved){ 0 };
}
