#include "quant/onnx_swin.h"

static swin_status save(const swin_export_job *job)
{
    return onnx_swin_export(job, &(onnx_swin_opts){ .dtype = SWIN_F32 });
}

const swin_export_format swin_export_onnx_float = {
    .name = "onnx-float",
    .help = "ONNX opset 17, float32, dynamic batch: the graph whose tensor names our tables use",
    .flags = SWIN_EXPORT_WEIGHTS | SWIN_EXPORT_FACTORS | SWIN_EXPORT_CHANNELS,
    .write = save,
};
