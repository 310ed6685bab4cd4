#include "quant/onnx_swin.h"

static swin_status save(const swin_export_job *job)
{
    return onnx_swin_export(job, &(onnx_swin_opts){ .dtype = SWIN_F16 });
}

const swin_export_format swin_export_onnx_fp16 = {
    .name = "onnx-fp16",
    .help =
        "ONNX opset 17, float16 weights and arithmetic, LayerNorm and softmax in float32, float32 in and out",
    .flags = SWIN_EXPORT_WEIGHTS,
    .write = save,
};
