#include <math.h>
#include <stdlib.h>

#include "quant/onnx_swin.h"

/* A weight that float16 cannot hold would be infinite in the file. */
static swin_status check_range(const swin_export_job *job)
{
    swin_param *list = NULL;
    size_t count = 0;
    SWIN_TRY(swin_weights_list(job->config, (swin_weights *)job->weights, &list, &count)); /* read only */
    swin_status st = SWIN_OK;
    for (size_t i = 0; i < count && st == SWIN_OK; i++)
        for (size_t k = 0; k < list[i].count && st == SWIN_OK; k++)
            if (!(fabsf((*list[i].slot)[k]) < 65520.0f)) /* rounds to infinity */
                st = swin_fail(SWIN_ERR_VALUE, "%s: %g does not fit float16", list[i].key,
                               (double)(*list[i].slot)[k]);
    free(list);
    return st;
}

/* Nor can a channel be divided by what float16 rounds to nothing. */
static swin_status check_factors(const swin_calib_file *f)
{
    for (int i = 0; f && i < f->nsites; i++) {
        const swin_site_record *r = &f->sites[i];
        for (int k = 0; r->factor && k < r->channels; k++) {
            const float inverse = 1.0f / r->factor[k];
            if (inverse >= 0x1p-14f && inverse < 65520.0f) continue; /* normal numbers of float16 */
            char name[SWIN_SITE_NAME_MAX];
            swin_site_name(r->site, name);
            return swin_fail(SWIN_ERR_VALUE, "%s: 1 / %g, the factor of channel %d, does not fit float16",
                             name, (double)r->factor[k], k);
        }
    }
    return SWIN_OK;
}

static swin_status save(const swin_export_job *job)
{
    SWIN_TRY(check_range(job));
    SWIN_TRY(check_factors(job->calib));
    return onnx_swin_export(job, &(onnx_swin_opts){ .dtype = SWIN_F16 });
}

const swin_export_format swin_export_onnx_fp16 = {
    .name = "onnx-fp16",
    .help =
        "ONNX opset 17, float16 weights and arithmetic, LayerNorm and softmax in float32, float32 in and out",
    .flags = SWIN_EXPORT_WEIGHTS | SWIN_EXPORT_FACTORS | SWIN_EXPORT_CHANNELS,
    .write = save,
};
