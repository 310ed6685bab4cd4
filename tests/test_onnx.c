/* ONNX files, unpacked again: Q/DQ at the enabled sites and nowhere else, the integers of the weights, external data, and how
 * little memory writing takes. That engines compute the same from them is tests/peers/check_export.py's. */
#include "tests/support/testing.h"

#include <math.h>
#include <onnx.pb-c.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "quant/linear_weight.h"
#include "quant/onnx_graph.h"
#include "runtime/base/file.h"
#include "runtime/base/half.h"
#include "runtime/swin/checkpoint.h"
#include "tests/support/export_model.h"

static Onnx__ModelProto *load(const export_model *m, const char *name)
{
    size_t size;
    unsigned char *data = export_model_read(m, name, &size);
    Onnx__ModelProto *model = onnx__model_proto__unpack(NULL, size, data);
    CHECK(model && model->graph, "%s does not unpack", name);
    free(data);
    return model;
}

static void unload(Onnx__ModelProto *model)
{
    onnx__model_proto__free_unpacked(model, NULL);
}

static const Onnx__TensorProto *constant(const Onnx__ModelProto *model, const char *name)
{
    for (size_t i = 0; i < model->graph->n_initializer; i++)
        if (strcmp(model->graph->initializer[i]->name, name) == 0) return model->graph->initializer[i];
    return NULL;
}

static const Onnx__NodeProto *producer(const Onnx__ModelProto *model, const char *tensor)
{
    for (size_t i = 0; i < model->graph->n_node; i++)
        for (size_t o = 0; o < model->graph->node[i]->n_output; o++)
            if (strcmp(model->graph->node[i]->output[o], tensor) == 0) return model->graph->node[i];
    return NULL;
}

static int count_nodes(const Onnx__ModelProto *model, const char *op)
{
    int n = 0;
    for (size_t i = 0; i < model->graph->n_node; i++) n += strcmp(model->graph->node[i]->op_type, op) == 0;
    return n;
}

/* Names are defined once, before they are used. */
static void check_order(const Onnx__ModelProto *model)
{
    const Onnx__GraphProto *g = model->graph;
    for (size_t i = 0; i < g->n_node; i++)
        for (size_t k = 0; k < g->node[i]->n_input; k++) {
            const char *in = g->node[i]->input[k];
            bool known = constant(model, in) || strcmp(in, g->input[0]->name) == 0;
            for (size_t j = 0; j < i && !known; j++)
                for (size_t o = 0; o < g->node[j]->n_output; o++)
                    known = known || strcmp(g->node[j]->output[o], in) == 0;
            CHECK(known, "%s of %s comes from nowhere", in, g->node[i]->name);
        }
    for (size_t i = 0; i < g->n_initializer; i++) {
        const Onnx__TensorProto *t = g->initializer[i];
        CHECK(constant(model, t->name) == t, "%s is there twice", t->name);
        CHECK(!producer(model, t->name), "%s is a constant and computed", t->name);
    }
}

/* Every tensor that the tables of other engines name. */
static void check_sites(const export_model *m, const Onnx__ModelProto *model)
{
    for (int i = 0; i < m->calib.nsites; i++) {
        char name[SWIN_SITE_NAME_MAX];
        const swin_site_record *r = &m->calib.sites[i];
        if (!r->enabled || swin_site_role_of(r->site) == SWIN_ROLE_WEIGHT) continue;
        swin_site_name(r->site, name);
        CHECK(producer(model, name) != NULL, "no tensor %s", name);
    }
}

static void test_float_graph(void **state)
{
    (void)state;
    export_model m;
    export_model_make(&m, SWIN_INT8_MODE_1);
    CHECK_OK(export_model_run(&m, "onnx-float", "t"));
    Onnx__ModelProto *model = load(&m, "t");
    check_order(model);
    CHECK(model->ir_version == 8 && model->opset_import[0]->version == 17, "versions");
    CHECK(count_nodes(model, "QuantizeLinear") == 0 && count_nodes(model, "DequantizeLinear") == 0,
          "Q/DQ in a float graph");
    CHECK(strcmp(model->graph->input[0]->type->tensor_type->shape->dim[0]->dim_param, "batch") == 0,
          "fixed batch");
    check_sites(&m, model);
    /* Linear weights are transposed, others as they are. */
    const Onnx__TensorProto *w = constant(model, "layers.0.blocks.0.mlp.fc1.weight"),
                            *c = constant(model, "head.weight");
    const float *fc1 = m.weights.stages[0].blocks[0].fc1_weight, *got = (const float *)w->raw_data.data;
    CHECK(w->dims[0] == 32 && w->dims[1] == 128, "shape of fc1");
    for (int o = 0; o < 128; o++)
        for (int k = 0; k < 32; k++) CHECK(got[k * 128 + o] == fc1[o * 32 + k], "fc1[%d][%d]", o, k);
    CHECK(c->raw_data.len == 5 * 64 * 4 &&
              memcmp(c->raw_data.data, m.weights.head_weight, c->raw_data.len) == 0,
          "head");
    const Onnx__TensorProto *mask = constant(model, "layers.0.attn_mask");
    CHECK(mask && mask->dims[0] == 4 && mask->dims[2] == 49 && !constant(model, "layers.1.attn_mask"),
          "masks");
    unload(model);
    export_model_free(&m);
}

/* V2's sites have their tensors too; its position bias is a table, the network that made it is gone. */
static void test_float_graph_v2(void **state)
{
    (void)state;
    export_model m;
    export_model_make_v2(&m, SWIN_INT8_MODE_1);
    m.weights.stages[0].blocks[0].logit_scale[0] = 9; /* over ln 100 */
    CHECK_OK(export_model_run(&m, "onnx-float", "t"));
    Onnx__ModelProto *model = load(&m, "t");
    check_order(model);
    check_sites(&m, model);
    const Onnx__TensorProto *scale = constant(model, "layers.0.blocks.0.attn.logit_scale"),
                            *bias = constant(model, "layers.0.blocks.0.attn.relative_position_bias");
    CHECK(scale && fabsf(*(const float *)scale->raw_data.data - 100) < 1e-3f,
          "the logit scale is not clamped");
    CHECK(bias && bias->dims[0] == 1 && bias->dims[1] == 49 && bias->dims[2] == 49, "position bias");
    for (size_t i = 0; i < 49 * 49; i++) {
        const float v = ((const float *)bias->raw_data.data)[i];
        CHECK(v > 0 && v < 16, "position bias %zu: %g", i, (double)v);
    }
    CHECK(count_nodes(model, "ReduceL2") == 2 * 3 && count_nodes(model, "Softmax") == 3, "attention");
    unload(model);
    export_model_free(&m);
}

static void check_weight(const export_model *m, const Onnx__ModelProto *model, const swin_weight_record *r)
{
    char module[SWIN_SITE_NAME_MAX], name[SWIN_SITE_NAME_MAX + 32];
    swin_linear_weight l;
    swin_site_module(r->site, module);
    CHECK_OK(swin_linear_weight_of(&l, &m->config, &m->weights, r->site));
    snprintf(name, sizeof name, "%s.weight/codes", module);
    const Onnx__TensorProto *codes = constant(model, name);
    snprintf(name, sizeof name, "%s.weight/scale", module);
    const Onnx__TensorProto *scale = constant(model, name);
    snprintf(name, sizeof name, "%s.weight", module);
    const Onnx__NodeProto *n = producer(model, name);
    CHECK(codes && scale && n && n->attribute[0]->i == 1 && scale->dims[0] == l.out, "%s", module);
    CHECK(codes->raw_data.len == (size_t)l.out * (size_t)l.in, "%s: %zu codes", module, codes->raw_data.len);
    for (int o = 0; o < l.out; o++) {
        const float s = ((const float *)scale->raw_data.data)[o];
        CHECK(o == 3 ? s == 1 : s == r->amax_channel[o] / 127, "%s: scale of channel %d: %g", module, o,
              (double)s);
        for (int k = 0; k < l.in; k++) {
            const int code = (int8_t)codes->raw_data.data[(size_t)k * (size_t)l.out + (size_t)o];
            const double exact = (double)l.data[(size_t)o * (size_t)l.in + (size_t)k] / (double)s;
            CHECK(o == 3 ? code == 0 : abs(code) <= 127 && fabs(code - exact) <= 0.50001,
                  "%s[%d][%d]: %d for %g", module, o, k, code, exact);
        }
    }
}

static void check_activation(const Onnx__ModelProto *model, const swin_site_record *r)
{
    char name[SWIN_SITE_NAME_MAX], at[SWIN_SITE_NAME_MAX + 16];
    swin_site_name(r->site, name);
    snprintf(at, sizeof at, "%s/q", name);
    const Onnx__NodeProto *q = producer(model, at);
    CHECK((q != NULL) == r->enabled, "%s: Q/DQ %s", name, q ? "though off" : "missing");
    if (!q) return;
    snprintf(at, sizeof at, "%s/dq", name);
    const Onnx__NodeProto *dq = producer(model, at);
    const Onnx__TensorProto *scale = constant(model, q->input[1]), *zp = constant(model, q->input[2]);
    CHECK(dq && strcmp(q->input[0], name) == 0 && strcmp(dq->input[1], q->input[1]) == 0 &&
              strcmp(dq->input[2], q->input[2]) == 0,
          "%s: wiring", name);
    const int zero = r->q.qmin < 0 ? (int8_t)zp->raw_data.data[0] : zp->raw_data.data[0];
    CHECK(*(const float *)scale->raw_data.data == r->q.scale && zero == r->q.zero_point,
          "%s: scale, zero point", name);
    CHECK(zp->data_type ==
              (r->q.qmin < 0 ? ONNX__TENSOR_PROTO__DATA_TYPE__INT8 : ONNX__TENSOR_PROTO__DATA_TYPE__UINT8),
          "%s: type of codes", name);
}

static void test_qdq_graph(void **state)
{
    (void)state;
    for (int i = 0; i < 6; i++) {
        const int mode = i % 3 + 1;
        export_model m;
        (i < 3 ? export_model_make : export_model_make_v2)(&m, (swin_int8_mode)mode);
        if (mode == 2)
            export_model_site(&m, "layers.0.blocks.1.attn.matmul_q")->enabled = false; /* a relaxed file */
        CHECK_OK(export_model_run(&m, "onnx-qdq", "t"));
        Onnx__ModelProto *model = load(&m, "t");
        check_order(model);
        int activations = 0, weights = 0;
        for (int s = 0; s < m.calib.nsites; s++) {
            const swin_site_record *r = &m.calib.sites[s];
            const bool weight = swin_site_role_of(r->site) == SWIN_ROLE_WEIGHT;
            if (!weight) check_activation(model, r);
            activations += r->enabled && !weight;
            weights += r->enabled && weight;
        }
        for (int w = 0; w < m.calib.nweights; w++) check_weight(&m, model, &m.calib.weights[w]);
        CHECK(count_nodes(model, "QuantizeLinear") == activations, "mode %d: %d Q", mode, activations);
        CHECK(count_nodes(model, "DequantizeLinear") == activations + weights, "mode %d: DQ", mode);
        CHECK(count_nodes(model, "Softmax") == (mode == 3 ? 0 : 3) &&
                  count_nodes(model, "Exp") == (mode == 3 ? 3 : 0),
              "mode %d: softmax", mode);
        unload(model);
        export_model_free(&m);
    }
}

/* A block's GELU over its factors: one Mul before Q/DQ in every form of the graph, also where the site is relaxed; other blocks
 * have none. */
static void test_factors(void **state)
{
    (void)state;
    static const char *const formats[] = { "onnx-qdq", "onnx-float", "onnx-fp16", "onnx-qdq" };
    export_model m;
    export_model_make(&m, SWIN_INT8_MODE_3);
    swin_site_record *r = export_model_site(&m, "layers.1.blocks.0.mlp.fc2._input");
    r->channels = swin_config_stage(&m.config, 1).hidden;
    r->factor = malloc((size_t)r->channels * sizeof *r->factor);
    for (int k = 0; k < r->channels; k++) r->factor[k] = 0.3f + 0.01f * (float)k;
    for (size_t i = 0; i < SWIN_COUNT(formats); i++) {
        const bool half = i == 2;
        if (i == 3) r->enabled = false;
        CHECK_OK(export_model_run(&m, formats[i], "t"));
        Onnx__ModelProto *model = load(&m, "t");
        check_order(model);
        check_sites(&m, model);
        const Onnx__NodeProto *mul = producer(model, "layers.1.blocks.0.mlp.fc2._input"),
                              *gelu = producer(model, "layers.1.blocks.0.mlp/gelu");
        const Onnx__TensorProto *c = constant(model, "layers.1.blocks.0.mlp.fc2._input/inverse_factor");
        CHECK(mul && gelu && c && strcmp(mul->op_type, "Mul") == 0 &&
                  strcmp(mul->input[0], gelu->output[0]) == 0 && strcmp(mul->input[1], c->name) == 0,
              "%s: no factors", formats[i]);
        CHECK(c->n_dims == 1 && c->dims[0] == r->channels, "%s: %lld", formats[i], (long long)c->dims[0]);
        for (int k = 0; k < r->channels; k++) {
            const float want = 1.0f / r->factor[k];
            const void *at = c->raw_data.data + (size_t)k * (half ? 2 : 4);
            CHECK(half ? *(const uint16_t *)at == swin_f32_to_f16(want) : *(const float *)at == want,
                  "%s: factor %d", formats[i], k);
        }
        CHECK(!producer(model, "layers.0.blocks.0.mlp/gelu"), "%s: factors elsewhere", formats[i]);
        CHECK((producer(model, "layers.1.blocks.0.mlp.fc2._input/q") != NULL) == (i == 0), "%s: Q",
              formats[i]);
        unload(model);
    }
    export_model_free(&m);
}

static int64_t axis_of(const Onnx__NodeProto *n)
{
    for (size_t i = 0; n && i < n->n_attribute; i++)
        if (strcmp(n->attribute[i]->name, "axis") == 0) return n->attribute[i]->i;
    return 0;
}

/* A product with a scale for each channel: Q and DQ along the last axis, and along none elsewhere. */
static void test_channel_scales(void **state)
{
    (void)state;
    static const char site[] = "layers.1.blocks.0.mlp.fc2._aftergemm";
    export_model m;
    export_model_make(&m, SWIN_INT8_MODE_1);
    swin_site_record *r = export_model_site(&m, site);
    r->channels = swin_config_stage(&m.config, 1).channels;
    r->channel_scale = malloc((size_t)r->channels * sizeof *r->channel_scale);
    for (int k = 0; k < r->channels; k++) r->channel_scale[k] = 0.01f + 0.003f * (float)k;
    CHECK_OK(export_model_run(&m, "onnx-qdq", "t"));
    Onnx__ModelProto *model = load(&m, "t");
    check_order(model);
    const Onnx__TensorProto *scale = constant(model, "layers.1.blocks.0.mlp.fc2._aftergemm/scale"),
                            *zero = constant(model, "layers.1.blocks.0.mlp.fc2._aftergemm/zero_point"),
                            *other = constant(model, "layers.0.blocks.0.mlp.fc2._aftergemm/scale");
    CHECK(scale && scale->n_dims == 1 && scale->dims[0] == r->channels, "scales");
    CHECK(zero && zero->n_dims == 1 && zero->dims[0] == r->channels, "zero points");
    CHECK(other && other->n_dims == 0, "scales elsewhere");
    for (int k = 0; k < r->channels; k++) {
        CHECK(((const float *)(const void *)scale->raw_data.data)[k] == r->channel_scale[k], "scale %d", k);
        CHECK(zero->raw_data.data[k] == 0, "zero point %d", k);
    }
    CHECK(axis_of(producer(model, "layers.1.blocks.0.mlp.fc2._aftergemm/q")) == -1 &&
              axis_of(producer(model, "layers.1.blocks.0.mlp.fc2._aftergemm/dq")) == -1,
          "axis");
    unload(model);
    export_model_free(&m);
}

static void check_factors(const Onnx__ModelProto *model, const char *name, float first, float second)
{
    const Onnx__TensorProto *t = constant(model, name);
    CHECK(t && t->n_dims == 3 && t->dims[0] == 2 && t->dims[1] == 1 && t->dims[2] == 1, "%s", name);
    const float *v = (const float *)(const void *)t->raw_data.data;
    CHECK(fabsf(v[0] / first - 1) < 1e-6f && fabsf(v[1] / second - 1) < 1e-6f, "%s: %g, %g", name,
          (double)v[0], (double)v[1]);
}

/* Scales of heads: one Mul before Q/DQ, whose scale is the tensor's, and one after the product. */
static void test_head_scales(void **state)
{
    (void)state;
    static const char *const sites[] = { "layers.1.blocks.0.attn.matmul_q", "layers.1.blocks.0.attn.matmul_k",
                                         "layers.1.blocks.0.attn.matmul_v" };
    export_model m;
    char name[96];
    float own[3], scale[3];
    export_model_make(&m, SWIN_INT8_MODE_3);
    const swin_stage s = swin_config_stage(&m.config, 1);
    CHECK(s.heads == 2, "%d heads", s.heads);
    for (size_t i = 0; i < SWIN_COUNT(sites); i++) {
        swin_site_record *r = export_model_site(&m, sites[i]);
        r->channels = s.channels;
        r->channel_scale = malloc((size_t)r->channels * sizeof *r->channel_scale);
        CHECK(r->channel_scale != NULL, "no memory");
        own[i] = 0.002f + 0.003f * (float)i, scale[i] = r->q.scale;
        for (int k = 0; k < r->channels; k++) r->channel_scale[k] = k < s.head_size ? own[i] : 2 * own[i];
    }
    CHECK_OK(export_model_run(&m, "onnx-qdq", "t"));
    Onnx__ModelProto *model = load(&m, "t");
    check_order(model);
    for (size_t i = 0; i < SWIN_COUNT(sites); i++) {
        snprintf(name, sizeof name, "%s/own/factor", sites[i]);
        check_factors(model, name, scale[i] / own[i], scale[i] / own[i] / 2);
        snprintf(name, sizeof name, "%s/q", sites[i]);
        const Onnx__NodeProto *q = producer(model, name);
        CHECK(q && strstr(q->input[0], "/own"), "%s reads %s", name, q ? q->input[0] : "nothing");
        snprintf(name, sizeof name, "%s/scale", sites[i]);
        CHECK(constant(model, name) && constant(model, name)->n_dims == 0, "%s", name);
    }
    const float qk = own[0] / scale[0] * (own[1] / scale[1]), v = own[2] / scale[2];
    check_factors(model, "layers.1.blocks.0.attn.softmax_input/factor", qk, 4 * qk);
    check_factors(model, "layers.1.blocks.0.attn/weighted_sum/factor", v, 2 * v);
    CHECK(!constant(model, "layers.0.blocks.0.attn.softmax_input/factor"), "factors elsewhere");
    unload(model);
    export_model_free(&m);
}

static void test_relaxed_weight(void **state)
{
    (void)state;
    export_model m;
    export_model_make(&m, SWIN_INT8_MODE_1);
    export_model_site(&m, "layers.0.blocks.0.attn.proj._weight")->enabled = false;
    m.job.granularity = SWIN_PER_TENSOR;
    CHECK_OK(export_model_run(&m, "onnx-qdq", "t"));
    Onnx__ModelProto *model = load(&m, "t");
    const Onnx__TensorProto *w = constant(model, "layers.0.blocks.0.attn.proj.weight");
    CHECK(w && w->data_type == ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT, "a relaxed weight is not float");
    const Onnx__TensorProto *scale = constant(model, "layers.0.blocks.0.attn.qkv.weight/scale");
    CHECK(scale && scale->n_dims == 0 && *(float *)scale->raw_data.data == m.calib.weights[0].amax / 127,
          "tensor scale");
    unload(model);
    export_model_free(&m);
}

static void test_fp16_graph(void **state)
{
    (void)state;
    export_model m;
    export_model_make(&m, SWIN_INT8_MODE_1);
    CHECK_OK(export_model_run(&m, "onnx-fp16", "t"));
    Onnx__ModelProto *model = load(&m, "t");
    check_order(model);
    const Onnx__TensorProto *w = constant(model, "head.weight"), *norm = constant(model, "norm.weight");
    CHECK(w->data_type == ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT16 && w->raw_data.len == 5 * 64 * 2,
          "head is not float16");
    CHECK(norm->data_type == ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT, "LayerNorm is not float32");
    for (size_t i = 0; i < 5 * 64; i++)
        CHECK(((uint16_t *)w->raw_data.data)[i] == swin_f32_to_f16(m.weights.head_weight[i]), "head[%zu]", i);
    for (int i = 0; i < 2; i++) {
        const Onnx__ValueInfoProto *v = i ? model->graph->output[0] : model->graph->input[0];
        CHECK(v->type->tensor_type->elem_type == ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT, "%s is not float32",
              v->name);
    }
    unload(model);
    export_model_free(&m);
}

/* The same numbers, in a file beside the model. */
static void test_external_data(void **state)
{
    (void)state;
    export_model m;
    size_t size, outside = 0;
    export_model_make(&m, SWIN_INT8_MODE_1);
    CHECK_OK(export_model_run(&m, "onnx-qdq", "inside.onnx"));
    m.job.external_data = true;
    CHECK_OK(export_model_run(&m, "onnx-qdq", "outside.onnx"));
    Onnx__ModelProto *in = load(&m, "inside.onnx"), *out = load(&m, "outside.onnx");
    unsigned char *data = export_model_read(&m, "outside.onnx.data", &size);
    CHECK(in->graph->n_initializer == out->graph->n_initializer, "other constants");
    for (size_t i = 0; i < in->graph->n_initializer; i++) {
        const Onnx__TensorProto *a = in->graph->initializer[i], *b = out->graph->initializer[i];
        const unsigned char *bytes = b->raw_data.data;
        size_t n = b->raw_data.len;
        if (b->n_external_data) {
            CHECK(b->n_external_data == 3 && !b->has_raw_data, "%s: both inside and outside", b->name);
            CHECK(strcmp(b->external_data[0]->value, "outside.onnx.data") == 0, "%s",
                  b->external_data[0]->value);
            const size_t offset = strtoull(b->external_data[1]->value, NULL, 10);
            n = strtoull(b->external_data[2]->value, NULL, 10);
            CHECK(offset % 4096 == 0 && offset + n <= size, "%s: %zu + %zu of %zu", b->name, offset, n, size);
            bytes = data + offset;
            outside++;
        }
        CHECK(n == a->raw_data.len && memcmp(a->raw_data.data, bytes, n) == 0, "%s differs", a->name);
    }
    CHECK(outside > 20, "%zu constants outside", outside);
    free(data);
    unload(in);
    unload(out);
    export_model_free(&m);
}

/* ---- the builder alone -------------------------------------------------------------------------------------- */

static void fill_count(void *out, const void *ctx, size_t row, size_t rows)
{
    const size_t cols = *(const size_t *)ctx;
    for (size_t i = 0; i < rows * cols; i++) ((float *)out)[i] = (float)((row * cols + i) % 8191);
}

static long peak_kb(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_maxrss;
}

/* A constant of 256 MB passes through a buffer of a quarter of one. */
static void test_streaming_memory(void **state)
{
    (void)state;
    export_model m;
    export_model_make(&m, SWIN_INT8_MODE_1);
    const size_t cols = 1000, rows = 67109;
    const int64_t dims[] = { (int64_t)rows, (int64_t)cols };
    const swin_onnx_source s = { rows, cols, fill_count, &cols };
    swin_onnx *g;
    CHECK_OK(swin_onnx_create(&g, "big"));
    swin_onnx_stream(g, "big", SWIN_F32, 2, dims, &s);
    const long before = peak_kb();
    CHECK_OK(swin_onnx_write(g, export_model_path(&m, "big.onnx"), SWIN_ONNX_ONE_FILE));
    const long grown = peak_kb() - before;
    print_message("256 MB through %ld kB more memory\n", grown);
    CHECK(grown < 8 << 10, "%ld kB", grown);
    swin_onnx_free(g);

    FILE *f = fopen(export_model_path(&m, "big.onnx"), "rb");
    float last[4];
    CHECK(f && fseek(f, 0, SEEK_END) == 0 && (size_t)ftell(f) > rows * cols * 4, "size");
    /* only a few bytes follow the constant */
    unsigned char tail[256];
    CHECK(fseek(f, -(long)sizeof tail, SEEK_END) == 0 && fread(tail, 1, sizeof tail, f) == sizeof tail,
          "tail");
    for (size_t i = 0; i < 4; i++) last[i] = (float)((rows * cols - 4 + i) % 8191);
    bool found = false;
    for (size_t i = 0; i + sizeof last <= sizeof tail; i++)
        found = found || memcmp(tail + i, last, sizeof last) == 0;
    CHECK(found, "the last numbers are not at the end");
    fclose(f);
    export_model_free(&m);
}

/* A model is kept in one file up to the limit, byte for byte, and not one byte further. */
static void test_size_limit(void **state)
{
    (void)state;
    export_model m;
    export_model_make(&m, SWIN_INT8_MODE_1);
    const size_t cols = 100, rows = 300;
    const int64_t dims[] = { (int64_t)rows, (int64_t)cols };
    const swin_onnx_source s = { rows, cols, fill_count, &cols };
    swin_onnx *g;
    size_t whole, small, data;
    CHECK_OK(swin_onnx_create(&g, "limit"));
    swin_onnx_stream(g, "big", SWIN_F32, 2, dims, &s);
    CHECK_OK(swin_onnx_write(g, export_model_path(&m, "a"), SWIN_ONNX_ONE_FILE));
    free(export_model_read(&m, "a", &whole));
    CHECK_OK(swin_onnx_write(g, export_model_path(&m, "b"), whole));
    CHECK(access(export_model_path(&m, "b.data"), F_OK) != 0, "%zu bytes went to two files at that limit",
          whole);
    CHECK_OK(swin_onnx_write(g, export_model_path(&m, "c"), whole - 1));
    free(export_model_read(&m, "c", &small));
    unsigned char *outside = export_model_read(&m, "c.data", &data);
    CHECK(small < 400 && data == rows * cols * 4, "%zu bytes and %zu", small, data);
    for (size_t i = 0; i < rows * cols; i++)
        CHECK(((float *)outside)[i] == (float)(i % 8191), "number %zu", i);
    free(outside);
    swin_onnx_free(g);
    export_model_free(&m);
}

/* The program as a whole, checkpoint and all: weights are in memory once. */
static void test_program_memory(void **state)
{
    (void)state;
    char *folder = swin_scratch_make("onnx-memory"), cfg[4096], ckpt[4096], out[4096];
    snprintf(cfg, sizeof cfg, "%s/t.yaml", folder);
    snprintf(ckpt, sizeof ckpt, "%s/t.safetensors", folder);
    snprintf(out, sizeof out, "%s/t.onnx", folder);
    const swin_config c = swin_config_default();
    swin_weights w = { 0 };
    CHECK_OK(swin_weights_create(&w, &c));
    CHECK_OK(swin_weights_save(&w, &c, ckpt));
    const double mb = (double)w.count * 4 / 0x1p20;
    swin_weights_free(&w);
    const char *text = "MODEL:\n  TYPE: swin\n";
    CHECK_OK(swin_write_file(cfg, text, strlen(text)));
    const pid_t child = fork();
    if (child == 0) {
        execl(SWIN_BIN_DIR "/swin-export", "swin-export", "--quiet", "--cfg", cfg, "--resume", ckpt,
              "--format", "onnx-float", "--output", out, (char *)NULL);
        _exit(127);
    }
    int status = 0;
    struct rusage u;
    CHECK(child > 0 && wait4(child, &status, 0, &u) == child && status == 0, "exit %d", status);
    const double peak = (double)u.ru_maxrss / 1024;
    print_message("%.0f MB of weights: %.0f MB at the most\n", mb, peak);
    CHECK(peak < 1.6 * mb, "%.0f MB for %.0f MB of weights", peak, mb);
    swin_scratch_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_streaming_memory), /* first: peak memory only grows */
        cmocka_unit_test(test_float_graph),      cmocka_unit_test(test_float_graph_v2),
        cmocka_unit_test(test_qdq_graph),        cmocka_unit_test(test_relaxed_weight),
        cmocka_unit_test(test_channel_scales),   cmocka_unit_test(test_factors),
        cmocka_unit_test(test_head_scales),      cmocka_unit_test(test_fp16_graph),
        cmocka_unit_test(test_external_data),    cmocka_unit_test(test_size_limit),
        cmocka_unit_test(test_program_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
