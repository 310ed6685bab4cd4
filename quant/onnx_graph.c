#include "quant/onnx_graph.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quant/onnx_impl.h"
#include "runtime/base/half.h"

#define OPSET      17
#define IR_VERSION 8 /* the one that came with opset 17 */

/* ---- memory: everything that the messages point to lives in one chain ----------------------------------------------- */

struct onnx_block {
    struct onnx_block *next;
    _Alignas(max_align_t) unsigned char data[];
};

void *swin_onnx_alloc(swin_onnx *g, size_t n)
{
    struct onnx_block *b = calloc(1, sizeof *b + (n ? n : 1));
    if (!b) {
        g->out_of_memory = true;
        return NULL;
    }
    b->next = g->blocks;
    g->blocks = b;
    return b->data;
}

void swin_onnx_lost(swin_onnx *g)
{
    g->out_of_memory = true;
}

const char *swin_onnx_text(swin_onnx *g, const char *fmt, ...)
{
    char text[512];
    va_list args;
    va_start(args, fmt);
    const int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    char *copy = n >= 0 ? swin_onnx_alloc(g, (size_t)n + 1) : NULL;
    if (!copy) return "";
    if ((size_t)n < sizeof text) return memcpy(copy, text, (size_t)n + 1);
    va_start(args, fmt);
    vsnprintf(copy, (size_t)n + 1, fmt, args);
    va_end(args);
    return copy;
}

/* protobuf-c's fields are not const, though packing only reads them. */
static char *text_copy(swin_onnx *g, const char *s)
{
    return (char *)swin_onnx_text(g, "%s", s);
}

/* A growing array of pointers: old ones stay in the chain until the graph goes. */
static void push(swin_onnx *g, void ***list, size_t *n, void *item)
{
    if ((*n & (*n - 1)) == 0) { /* 0, 1, 2, 4, 8...: full */
        void **grown = swin_onnx_alloc(g, (*n ? 2 * *n : 1) * sizeof *grown);
        if (!grown) return;
        if (*n) memcpy(grown, *list, *n * sizeof *grown);
        *list = grown;
    }
    (*list)[(*n)++] = item;
}

#define PUSH(g, list, n, item) push(g, (void ***)&(list), &(n), item)

/* ---- the model ------------------------------------------------------------------------------------------------------ */

swin_status swin_onnx_create(swin_onnx **out, const char *name)
{
    swin_onnx *g = calloc(1, sizeof *g);
    *out = g;
    if (!g) return swin_fail(SWIN_ERR_MEM, "no memory for an ONNX graph");
    onnx__model_proto__init(&g->model);
    onnx__graph_proto__init(&g->graph);
    onnx__operator_set_id_proto__init(&g->opset);
    g->opset.domain = text_copy(g, "");
    g->opset.has_version = 1;
    g->opset.version = OPSET;
    g->opsets[0] = &g->opset;
    g->graph.name = text_copy(g, name);
    g->model.has_ir_version = 1;
    g->model.ir_version = IR_VERSION;
    g->model.n_opset_import = 1;
    g->model.opset_import = g->opsets;
    g->model.producer_name = text_copy(g, "swin-ptq");
    g->model.producer_version = text_copy(g, SWIN_VERSION);
    g->model.graph = &g->graph;
    return SWIN_OK;
}

void swin_onnx_free(swin_onnx *g)
{
    if (!g) return;
    for (struct onnx_block *b = g->blocks, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    free(g);
}

Onnx__StringStringEntryProto *onnx_entry(swin_onnx *g, const char *key, const char *value)
{
    Onnx__StringStringEntryProto *e = swin_onnx_alloc(g, sizeof *e);
    if (!e) return NULL;
    onnx__string_string_entry_proto__init(e);
    e->key = text_copy(g, key);
    e->value = text_copy(g, value);
    return e;
}

void swin_onnx_meta(swin_onnx *g, const char *key, const char *value)
{
    Onnx__StringStringEntryProto *e = onnx_entry(g, key, value);
    if (e) PUSH(g, g->model.metadata_props, g->model.n_metadata_props, e);
}

static int32_t element_type(swin_dtype t)
{
    switch (t) {
    case SWIN_F32:
        return ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT;
    case SWIN_F16:
        return ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT16;
    case SWIN_BF16:
        return ONNX__TENSOR_PROTO__DATA_TYPE__BFLOAT16;
    case SWIN_S8:
        return ONNX__TENSOR_PROTO__DATA_TYPE__INT8;
    case SWIN_U8:
        return ONNX__TENSOR_PROTO__DATA_TYPE__UINT8;
    case SWIN_S32:
        return ONNX__TENSOR_PROTO__DATA_TYPE__INT32;
    case SWIN_F64:
        return ONNX__TENSOR_PROTO__DATA_TYPE__DOUBLE;
    case SWIN_S64:
        return ONNX__TENSOR_PROTO__DATA_TYPE__INT64;
    }
    return ONNX__TENSOR_PROTO__DATA_TYPE__UNDEFINED;
}

static Onnx__TensorShapeProto__Dimension *dimension(swin_onnx *g, int64_t n)
{
    Onnx__TensorShapeProto__Dimension *d = swin_onnx_alloc(g, sizeof *d);
    if (!d) return NULL;
    onnx__tensor_shape_proto__dimension__init(d);
    if (n == SWIN_ONNX_BATCH) {
        d->value_case = ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM;
        d->dim_param = text_copy(g, "batch");
    } else {
        d->value_case = ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE;
        d->dim_value = n;
    }
    return d;
}

/* The three messages that say "a tensor of this type and shape", allocated together. */
typedef struct typed_value {
    Onnx__ValueInfoProto info;
    Onnx__TypeProto type;
    Onnx__TypeProto__Tensor tensor;
    Onnx__TensorShapeProto shape;
} typed_value;

static Onnx__ValueInfoProto *value_info(swin_onnx *g, const char *name, swin_dtype dtype, int ndim,
                                        const int64_t *dims)
{
    typed_value *v = swin_onnx_alloc(g, sizeof *v);
    if (!v) return NULL;
    onnx__value_info_proto__init(&v->info);
    onnx__type_proto__init(&v->type);
    onnx__type_proto__tensor__init(&v->tensor);
    onnx__tensor_shape_proto__init(&v->shape);
    for (int i = 0; i < ndim; i++) {
        Onnx__TensorShapeProto__Dimension *d = dimension(g, dims[i]);
        if (d) PUSH(g, v->shape.dim, v->shape.n_dim, d);
    }
    v->tensor.has_elem_type = 1;
    v->tensor.elem_type = element_type(dtype);
    v->tensor.shape = &v->shape;
    v->type.value_case = ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE;
    v->type.tensor_type = &v->tensor;
    v->info.name = text_copy(g, name);
    v->info.type = &v->type;
    return &v->info;
}

swin_onnx_value swin_onnx_input(swin_onnx *g, const char *name, swin_dtype dtype, int ndim,
                                const int64_t *dims)
{
    Onnx__ValueInfoProto *v = value_info(g, name, dtype, ndim, dims);
    if (!v) return "";
    PUSH(g, g->graph.input, g->graph.n_input, v);
    return v->name;
}

void swin_onnx_output(swin_onnx *g, swin_onnx_value name, swin_dtype dtype, int ndim, const int64_t *dims)
{
    Onnx__ValueInfoProto *v = value_info(g, name, dtype, ndim, dims);
    if (v) PUSH(g, g->graph.output, g->graph.n_output, v);
}

/* ---- nodes ---------------------------------------------------------------------------------------------------------- */

void swin_onnx_nodes(swin_onnx *g, const char *op, size_t nout, const swin_onnx_value *out, size_t nin,
                     const swin_onnx_value *in)
{
    Onnx__NodeProto *n = swin_onnx_alloc(g, sizeof *n);
    if (!n) return;
    onnx__node_proto__init(n);
    n->op_type = text_copy(g, op);
    n->name = text_copy(g, out[0]);
    for (size_t i = 0; i < nin; i++) PUSH(g, n->input, n->n_input, (void *)in[i]);
    for (size_t i = 0; i < nout; i++) PUSH(g, n->output, n->n_output, text_copy(g, out[i]));
    PUSH(g, g->graph.node, g->graph.n_node, n);
}

swin_onnx_value swin_onnx_node(swin_onnx *g, const char *op, const char *out, swin_onnx_value a,
                               swin_onnx_value b, swin_onnx_value c)
{
    const swin_onnx_value in[] = { a, b, c };
    const char *name = swin_onnx_text(g, "%s", out);
    swin_onnx_nodes(g, op, 1, &name, !a ? 0 : !b ? 1 : !c ? 2 : 3, in);
    return name;
}

static Onnx__AttributeProto *attribute(swin_onnx *g, const char *key,
                                       Onnx__AttributeProto__AttributeType type)
{
    Onnx__AttributeProto *a = swin_onnx_alloc(g, sizeof *a);
    if (!a || g->graph.n_node == 0) return NULL;
    onnx__attribute_proto__init(a);
    a->name = text_copy(g, key);
    a->has_type = 1;
    a->type = type;
    Onnx__NodeProto *n = g->graph.node[g->graph.n_node - 1];
    PUSH(g, n->attribute, n->n_attribute, a);
    return a;
}

void swin_onnx_attr_int(swin_onnx *g, const char *key, int64_t v)
{
    Onnx__AttributeProto *a = attribute(g, key, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT);
    if (!a) return;
    a->has_i = 1;
    a->i = v;
}

void swin_onnx_attr_float(swin_onnx *g, const char *key, float v)
{
    Onnx__AttributeProto *a = attribute(g, key, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT);
    if (!a) return;
    a->has_f = 1;
    a->f = v;
}

void swin_onnx_attr_ints(swin_onnx *g, const char *key, size_t n, const int64_t *v)
{
    Onnx__AttributeProto *a = attribute(g, key, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INTS);
    int64_t *copy = swin_onnx_alloc(g, n * sizeof *copy);
    if (!a || !copy) return;
    memcpy(copy, v, n * sizeof *copy);
    a->n_ints = n;
    a->ints = copy;
}

/* ---- constants ------------------------------------------------------------------------------------------------------ */

/* A new initializer without its numbers. */
static onnx_constant *constant(swin_onnx *g, const char *name, swin_dtype dtype, int ndim,
                               const int64_t *dims)
{
    onnx_constant *k = swin_onnx_alloc(g, sizeof *k);
    int64_t *shape = swin_onnx_alloc(g, (size_t)ndim * sizeof *shape);
    if (!k || !shape) return NULL;
    onnx__tensor_proto__init(&k->tensor);
    k->bytes = swin_dtype_size(dtype);
    k->element = k->bytes;
    for (int i = 0; i < ndim; i++) k->bytes *= (size_t)(shape[i] = dims[i]);
    k->tensor.n_dims = (size_t)ndim;
    k->tensor.dims = shape;
    k->tensor.has_data_type = 1;
    k->tensor.data_type = element_type(dtype);
    k->tensor.name = text_copy(g, name);
    PUSH(g, g->graph.initializer, g->graph.n_initializer, &k->tensor); /* the tensor is k's first member */
    return k;
}

swin_onnx_value swin_onnx_const(swin_onnx *g, const char *name, swin_dtype dtype, int ndim,
                                const int64_t *dims, const void *data)
{
    onnx_constant *k = constant(g, name, dtype, ndim, dims);
    void *copy = k ? swin_onnx_alloc(g, k->bytes) : NULL;
    if (!copy) return "";
    memcpy(copy, data, k->bytes);
    k->data = copy;
    return k->tensor.name;
}

swin_onnx_value swin_onnx_stream(swin_onnx *g, const char *name, swin_dtype dtype, int ndim,
                                 const int64_t *dims, const swin_onnx_source *source)
{
    onnx_constant *k = constant(g, name, dtype, ndim, dims);
    if (!k) return "";
    k->source = *source;
    return k->tensor.name;
}

static swin_onnx_value find_constant(const swin_onnx *g, const char *name)
{
    for (size_t i = 0; i < g->graph.n_initializer; i++)
        if (strcmp(g->graph.initializer[i]->name, name) == 0) return g->graph.initializer[i]->name;
    return NULL;
}

swin_onnx_value swin_onnx_ints(swin_onnx *g, size_t n, const int64_t *v)
{
    char name[256] = "ints";
    size_t at = 4;
    for (size_t i = 0; i < n && at < sizeof name; i++)
        at += (size_t)snprintf(name + at, sizeof name - at, "_%" PRId64, v[i]);
    const swin_onnx_value known = find_constant(g, name);
    return known ? known : swin_onnx_const(g, name, SWIN_S64, 1, (int64_t[]){ (int64_t)n }, v);
}

swin_onnx_value swin_onnx_number(swin_onnx *g, swin_dtype dtype, float v)
{
    char name[64];
    snprintf(name, sizeof name, "%s_%.9g", swin_dtype_name(dtype), (double)v);
    const swin_onnx_value known = find_constant(g, name);
    if (known) return known;
    const uint16_t half = swin_f32_to_f16(v);
    return swin_onnx_const(g, name, dtype, 0, NULL,
                           dtype == SWIN_F16 ? (const void *)&half : (const void *)&v);
}
