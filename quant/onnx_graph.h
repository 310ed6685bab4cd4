/* quant/onnx_graph.h - an ONNX model, built node by node and written with its weights streamed through.
 *
 * The builder keeps names, nodes and small constants; a large constant is only a recipe (swin_onnx_source) that is asked for
 * a few rows at a time while the file is written, so weights are never copied as a whole, transposed or quantized ones
 * included. Building functions cannot fail: when memory runs out they go on with empty names, and swin_onnx_write reports it.
 */
#ifndef SWIN_QUANT_ONNX_GRAPH_H
#define SWIN_QUANT_ONNX_GRAPH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"
#include "runtime/base/tensor.h"

#define SWIN_ONNX_BATCH (-1) /* a dimension known only at run time: the symbol "batch" */

typedef struct swin_onnx swin_onnx;

/* The name of a tensor of the graph; the graph's memory. */
typedef const char *swin_onnx_value;

/* A constant's numbers, row by row. ctx must live until the model is written. */
typedef struct swin_onnx_source {
    size_t rows, cols; /* elements of a row */
    /* Write rows [row, row + rows) densely to out, in the constant's own type. */
    void (*fill)(void *out, const void *ctx, size_t row, size_t rows);
    const void *ctx;
} swin_onnx_source;

swin_status swin_onnx_create(swin_onnx **g, const char *name);
void swin_onnx_free(swin_onnx *g); /* NULL is fine */

/* printf into memory that lives as long as the graph; "" when there is none. */
const char *swin_onnx_text(swin_onnx *g, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* n zeroed bytes that live as long as the graph; NULL when there are none. */
void *swin_onnx_alloc(swin_onnx *g, size_t n);

/* Memory ran out outside the graph: swin_onnx_write is to say so. */
void swin_onnx_lost(swin_onnx *g);

/* A key and value that readers of the model can look up. */
void swin_onnx_meta(swin_onnx *g, const char *key, const char *value);

/* The graph's inputs and outputs. */
swin_onnx_value swin_onnx_input(swin_onnx *g, const char *name, swin_dtype dtype, int ndim,
                                const int64_t *dims);
void swin_onnx_output(swin_onnx *g, swin_onnx_value v, swin_dtype dtype, int ndim, const int64_t *dims);

/* A node of one output, which has the name `out`; so has the node. Unused inputs at the end are NULL. */
swin_onnx_value swin_onnx_node(swin_onnx *g, const char *op, const char *out, swin_onnx_value a,
                               swin_onnx_value b, swin_onnx_value c);
/* A node of any number of inputs and outputs. */
void swin_onnx_nodes(swin_onnx *g, const char *op, size_t nout, const swin_onnx_value *out, size_t nin,
                     const swin_onnx_value *in);
/* Attributes of the node added last. */
void swin_onnx_attr_int(swin_onnx *g, const char *key, int64_t v);
void swin_onnx_attr_ints(swin_onnx *g, const char *key, size_t n, const int64_t *v);
void swin_onnx_attr_float(swin_onnx *g, const char *key, float v);

/* Constants. `data` is copied; a streamed one is asked for its numbers at each writing. */
swin_onnx_value swin_onnx_const(swin_onnx *g, const char *name, swin_dtype dtype, int ndim,
                                const int64_t *dims, const void *data);
swin_onnx_value swin_onnx_stream(swin_onnx *g, const char *name, swin_dtype dtype, int ndim,
                                 const int64_t *dims, const swin_onnx_source *source);
/* A vector of int64, one constant for equal vectors. */
swin_onnx_value swin_onnx_ints(swin_onnx *g, size_t n, const int64_t *v);
/* A float32 or float16 number, one constant for equal ones. */
swin_onnx_value swin_onnx_number(swin_onnx *g, swin_dtype dtype, float v);

/* A protobuf message stays below 2 GB. */
#define SWIN_ONNX_ONE_FILE (((size_t)1 << 31) - 1)

/*
 * Write the model atomically. One that is larger than one_file bytes (SWIN_ONNX_ONE_FILE: what protobuf can hold; 0: any) has
 * its large constants in "<path>.data" beside it; the model names it without its folder, so the two move together.
 */
swin_status swin_onnx_write(swin_onnx *g, const char *path, size_t one_file);

#endif
