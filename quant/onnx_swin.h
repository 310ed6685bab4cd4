/* quant/onnx_swin.h - the Swin network as an ONNX graph: float32, float16, or with QuantizeLinear / DequantizeLinear.
 *
 * Input "images" [batch][3][S][S] float32, normalised; output "logits" [batch][classes] float32. The tensor at an activation
 * site has the site's name, in every form of the graph: the tables of other engines rely on it. Where the job's calibration
 * file has factors for GELU's output, that tensor is GELU's output over them, as the corrected weights expect. In a float16
 * graph LayerNorm, softmax and the mean are computed in float32.
 */
#ifndef SWIN_QUANT_ONNX_SWIN_H
#define SWIN_QUANT_ONNX_SWIN_H

#include "quant/export.h"
#include "quant/onnx_graph.h"

typedef struct onnx_swin_opts {
    swin_dtype dtype;             /* SWIN_F32 or SWIN_F16 */
    const swin_calib_file *calib; /* NULL: no quantization */
    swin_granularity granularity;
} onnx_swin_opts;

/* Build and write job->output. The job's config and weights are read until it returns. */
swin_status onnx_swin_export(const swin_export_job *job, const onnx_swin_opts *opts);

#endif
