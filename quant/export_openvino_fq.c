#include <jansson.h>
#include <stdlib.h>

#include "quant/export.h"
#include "quant/export_json.h"
#include "runtime/swin/weight_codes.h"

/* FakeQuantize with 255 levels on [-amax, amax] has exactly our codes; with 256 levels the lower end takes one step more, the
 * code -128, at the same step. */
static json_t *limits(double amax, int levels)
{
    const double low = levels == 255 ? -amax : -amax * 128 / 127;
    return json_pack("{s:i, s:f, s:f, s:f, s:f}", "levels", levels, "input_low", low, "input_high", amax,
                     "output_low", low, "output_high", amax);
}

static swin_status add_site(void *user, const swin_site_record *r, const char *tensor)
{
    char name[SWIN_SITE_NAME_MAX];
    swin_site_name(r->site, name);
    json_t *o = json_pack("{s:s, s:o, s:o}", "site", name, "levels_255", limits(r->amax, 255), "levels_256",
                          limits(r->amax, 256));
    return json_object_set_new(user, tensor, o) == 0
               ? SWIN_OK
               : swin_fail(SWIN_ERR_MEM, "%s: cannot be put into JSON", tensor);
}

/* A weight [out][in] has its limits along axis 0, symmetric on 255 levels. */
static json_t *weight(const swin_weight_record *w)
{
    json_t *high = json_array();
    for (int i = 0; i < w->channels; i++) {
        float scale, inverse;
        swin_weight_scale(&scale, &inverse, w->amax_channel[i]);
        json_array_append_new(high, json_real((double)scale * 127));
    }
    return json_pack("{s:i, s:i, s:f, s:o}", "levels", 255, "axis", 0, "high", (double)w->amax,
                     "high_channel", high);
}

static swin_status add_weights(json_t *weights, const swin_calib_file *f)
{
    char name[SWIN_SITE_NAME_MAX];
    for (int i = 0; i < f->nweights; i++) {
        const swin_site_record *r = swin_calib_file_site(f, f->weights[i].site);
        if (!r || !r->enabled) continue;
        swin_site_module(r->site, name);
        if (json_object_set_new(weights, name, weight(&f->weights[i])) != 0)
            return swin_fail(SWIN_ERR_MEM, "%s: cannot be put into JSON", name);
    }
    return SWIN_OK;
}

static swin_status save(const swin_export_job *job)
{
    json_t *sites = json_object(), *weights = json_object();
    json_t *root =
        json_pack("{s:s, s:o, s:o}", "model", job->config->name, "activations", sites, "weights", weights);
    swin_status st = root ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "no memory for JSON");
    if (st == SWIN_OK) st = swin_export_each(job, add_site, sites);
    if (st == SWIN_OK) st = add_weights(weights, job->calib);
    if (st == SWIN_OK) st = swin_export_write_json(job->output, root);
    json_decref(root);
    return st;
}

const swin_export_format swin_export_openvino_fq = {
    .name = "openvino-fq",
    .help = "OpenVINO: FakeQuantize limits of each tensor of onnx-float as JSON, for 255 and for 256 levels",
    .flags = SWIN_EXPORT_CALIB | SWIN_EXPORT_SYMMETRIC | SWIN_EXPORT_NAMES,
    .write = save,
};
