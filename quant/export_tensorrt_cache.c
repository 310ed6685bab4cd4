#include <string.h>

#include "quant/export.h"

/* "name: hex", the bits of the float32 scale (amax / 127), most significant digit first. */
static swin_status write_line(void *user, const swin_site_record *r, const char *tensor)
{
    uint32_t bits;
    memcpy(&bits, &r->q.scale, sizeof bits);
    fprintf(user, "%s: %x\n", tensor, bits);
    return SWIN_OK;
}

static swin_status fill(FILE *out, const swin_export_job *job)
{
    fprintf(out, "TRT-%d-EntropyCalibration2\n", job->trt_version);
    return swin_export_each(job, write_line, out);
}

static swin_status save(const swin_export_job *job)
{
    return swin_export_text(job->output, fill, job);
}

const swin_export_format swin_export_tensorrt_cache = {
    .name = "tensorrt-cache",
    .help = "TensorRT 10 and older: calibration cache for the onnx-float graph (--name-map: another), "
            "--trt-version's",
    .flags = SWIN_EXPORT_CALIB | SWIN_EXPORT_SYMMETRIC | SWIN_EXPORT_NAMES,
    .write = save,
};
