/* quant/onnx_impl.h - what onnx_graph.c builds and onnx_write.c writes. Private to these two: the ONNX schema's C messages are
 * seen nowhere else. */
#ifndef SWIN_QUANT_ONNX_IMPL_H
#define SWIN_QUANT_ONNX_IMPL_H

#include <onnx.pb-c.h>

#include "quant/onnx_graph.h"

typedef struct onnx_constant {
    Onnx__TensorProto tensor; /* first: the graph's list of initializers points here */
    size_t bytes, element;
    const void *data; /* small ones; NULL: streamed */
    swin_onnx_source source;
} onnx_constant;

struct swin_onnx {
    Onnx__ModelProto model;
    Onnx__GraphProto graph;
    Onnx__OperatorSetIdProto opset;
    Onnx__OperatorSetIdProto *opsets[1];
    struct onnx_block *blocks;
    bool out_of_memory;
};

/* NULL when memory ran out. */
Onnx__StringStringEntryProto *onnx_entry(swin_onnx *g, const char *key, const char *value);

#endif
