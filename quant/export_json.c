#include "quant/export_json.h"

#include <stdlib.h>
#include <string.h>

#include "quant/export.h"
#include "runtime/base/file.h"

swin_status swin_export_write_json(const char *path, const json_t *root)
{
    char *text = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    char *lines = text ? swin_format("%s\n", text) : NULL;
    const swin_status st = lines ? swin_write_file(path, lines, strlen(lines))
                                 : swin_fail(SWIN_ERR_MEM, "%s: no memory to write it", path);
    free(lines);
    free(text);
    return st;
}

static json_t *reals(const float *v, int n)
{
    json_t *array = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(array, json_real((double)v[i]));
    return array;
}

/* "factors": what the site's channels are divided by, "channel_scales": what they are rounded with, where there are any. */
static json_t *site(const swin_site_record *r)
{
    return json_pack("{s:s, s:b, s:f, s:f, s:f, s:f, s:i, s:i, s:i, s:o*, s:o*}", "kind",
                     swin_site_role_name(swin_site_role_of(r->site)), "enabled", r->enabled, "amax",
                     (double)r->amax, "min", (double)r->min, "max", (double)r->max, "scale",
                     (double)r->q.scale, "zero_point", r->q.zero_point, "qmin", r->q.qmin, "qmax", r->q.qmax,
                     "factors", r->factor ? reals(r->factor, r->channels) : NULL, "channel_scales",
                     r->channel_scale ? reals(r->channel_scale, r->channels) : NULL);
}

static json_t *weight(const swin_weight_record *w)
{
    return json_pack("{s:f, s:o}", "amax", (double)w->amax, "amax_channel",
                     reals(w->amax_channel, w->channels));
}

static bool add_records(json_t *sites, json_t *weights, const swin_calib_file *f)
{
    char name[SWIN_SITE_NAME_MAX];
    bool ok = true;
    for (int i = 0; i < f->nsites; i++) {
        swin_site_name(f->sites[i].site, name);
        ok = json_object_set_new(sites, name, site(&f->sites[i])) == 0 && ok;
    }
    for (int i = 0; i < f->nweights; i++) {
        swin_site_module(f->weights[i].site, name);
        ok = json_object_set_new(weights, name, weight(&f->weights[i])) == 0 && ok;
    }
    return ok;
}

static swin_status save(const swin_export_job *job)
{
    const swin_calib_file *f = job->calib;
    json_t *sites = json_object(), *weights = json_object();
    json_t *root = json_pack("{s:s, s:i, s:s?, s:I, s:s, s:o, s:o}", "model", f->config.name, "int8_mode",
                             (int)f->mode, "calibrator", f->calibrator, "images", (json_int_t)f->images,
                             "checkpoint_sha256", f->checkpoint_sha256, "sites", sites, "weights", weights);
    swin_status st = root && add_records(sites, weights, f) ? SWIN_OK
                                                            : swin_fail(SWIN_ERR_MEM, "no memory for JSON");
    if (st == SWIN_OK) st = swin_export_write_json(job->output, root);
    json_decref(root);
    return st;
}

const swin_export_format swin_export_json = {
    .name = "json",
    .help = "for scripts: every site with kind, enabled, amax, min, max, scale, zero point, codes; weights "
            "per channel, factors, scales of output channels",
    .flags = SWIN_EXPORT_CALIB | SWIN_EXPORT_FACTORS | SWIN_EXPORT_CHANNELS,
    .write = save,
};
