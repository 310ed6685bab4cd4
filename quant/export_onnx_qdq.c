#include "quant/onnx_swin.h"

static swin_status save(const swin_export_job *job)
{
    const onnx_swin_opts opts = { .dtype = SWIN_F32, .calib = job->calib, .granularity = job->granularity };
    return onnx_swin_export(job, &opts);
}

const swin_export_format swin_export_onnx_qdq = {
    .name = "onnx-qdq",
    .help =
        "ONNX opset 17, Q/DQ at enabled sites, int8 weights: ONNX Runtime, OpenVINO, TensorRT (mode 1, 2)",
    .flags = SWIN_EXPORT_CALIB | SWIN_EXPORT_WEIGHTS | SWIN_EXPORT_FACTORS | SWIN_EXPORT_CHANNELS,
    .write = save,
};
