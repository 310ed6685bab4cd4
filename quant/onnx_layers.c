#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quant/onnx_build.h"
#include "runtime/base/half.h"
#include "runtime/swin/weight_codes.h"

/* ---- names ---------------------------------------------------------------------------------------------------------- */

static swin_site site(const onnx_build *b, swin_site_kind kind)
{
    return swin_site_make(b->stage, b->block, kind);
}

const char *onnx_site_name(onnx_build *b, swin_site_kind kind)
{
    char name[SWIN_SITE_NAME_MAX];
    swin_site_name(site(b, kind), name);
    return swin_onnx_text(b->g, "%s", name);
}

const char *onnx_site_module(onnx_build *b, swin_site_kind kind)
{
    char name[SWIN_SITE_NAME_MAX];
    swin_site_module(site(b, kind), name);
    return swin_onnx_text(b->g, "%s", name);
}

/* ---- constants ------------------------------------------------------------------------------------------------------ */

static void fill_f32(void *out, const void *ctx, size_t row, size_t rows)
{
    memcpy(out, (const float *)ctx + row, rows * sizeof(float));
}

static void fill_f16(void *out, const void *ctx, size_t row, size_t rows)
{
    const float *v = (const float *)ctx + row;
    for (size_t i = 0; i < rows; i++) ((uint16_t *)out)[i] = swin_f32_to_f16(v[i]);
}

swin_onnx_value onnx_table(onnx_build *b, const char *name, const float *v, int ndim, const int64_t *dims)
{
    const bool half = b->opts->dtype == SWIN_F16;
    swin_onnx_source s = { .rows = 1, .cols = 1, .fill = half ? fill_f16 : fill_f32, .ctx = v };
    for (int i = 0; i < ndim; i++) s.rows *= (size_t)dims[i];
    return swin_onnx_stream(b->g, name, b->opts->dtype, ndim, dims, &s);
}

swin_onnx_value onnx_vector(onnx_build *b, const char *name, const float *v, int n)
{
    return onnx_table(b, name, v, 1, (int64_t[]){ n });
}

/* A Linear's weight [out][in], given to the graph as [in][out]. */
typedef struct matrix {
    const float *w;
    int out, in;
    swin_dtype dtype;
    const float *inverse; /* S8: codes for one weight unit, [out] */
} matrix;

static void put(void *to, const matrix *m, size_t at, size_t o, float v)
{
    if (m->dtype == SWIN_F32)
        ((float *)to)[at] = v;
    else if (m->dtype == SWIN_F16)
        ((uint16_t *)to)[at] = swin_f32_to_f16(v);
    else
        ((int8_t *)to)[at] = swin_weight_code(v, m->inverse[o]);
}

/* Rows of the transposed matrix are columns of w: walk w along its rows, a few columns wide, so that each cache line is
 * fetched once. */
static void fill_transposed(void *to, const void *ctx, size_t row, size_t rows)
{
    const matrix *m = ctx;
    const size_t out = (size_t)m->out, in = (size_t)m->in;
    for (size_t o = 0; o < out; o++)
        for (size_t r = 0; r < rows; r++) put(to, m, r * out + o, o, m->w[o * in + row + r]);
}

static swin_onnx_value matrix_constant(onnx_build *b, const char *name, const onnx_linear *l,
                                       swin_dtype dtype, const float *inverse)
{
    matrix *m = swin_onnx_alloc(b->g, sizeof *m);
    if (!m) return "";
    *m = (matrix){ .w = l->w, .out = l->out, .in = l->in, .dtype = dtype, .inverse = inverse };
    const swin_onnx_source s = { (size_t)l->in, (size_t)l->out, fill_transposed, m };
    return swin_onnx_stream(b->g, name, dtype, 2, (int64_t[]){ l->in, l->out }, &s);
}

/* ---- quantization --------------------------------------------------------------------------------------------------- */

static const swin_site_record *enabled_record(const onnx_build *b, swin_site_kind kind)
{
    const swin_calib_file *f = b->opts->calib;
    const swin_site_record *r = f ? swin_calib_file_site(f, site(b, kind)) : NULL;
    return r && r->enabled ? r : NULL;
}

bool onnx_softmax_is_u8(const onnx_build *b)
{
    const swin_site_record *r = enabled_record(b, SWIN_SITE_MATMUL_A);
    return r && r->q.qmin == 0;
}

const swin_site_record *onnx_own_scales(const onnx_build *b, swin_site_kind kind)
{
    const swin_site_record *r = enabled_record(b, kind);
    return r && r->channel_scale && swin_calib_file_has_heads(b->opts->calib, r->site) ? r : NULL;
}

swin_onnx_value onnx_times_heads(onnx_build *b, const char *out, swin_onnx_value x, const float *factor,
                                 int heads)
{
    const char *key = swin_onnx_text(b->g, "%s/factor", out);
    return swin_onnx_node(b->g, "Mul", out, x,
                          swin_onnx_const(b->g, key, SWIN_F32, 3, (int64_t[]){ heads, 1, 1 }, factor), NULL);
}

/* Heads [..][h][..][..] times the tensor's scale over their own, so that one scale serves them all. */
static swin_onnx_value over_own_scales(onnx_build *b, const char *name, const swin_site_record *r,
                                       swin_onnx_value x)
{
    const swin_stage s = swin_config_stage(b->config, b->stage);
    float *factor = swin_onnx_alloc(b->g, (size_t)s.heads * sizeof *factor);
    if (!factor) return "";
    for (int h = 0; h < s.heads; h++) factor[h] = r->q.scale / r->channel_scale[h * s.head_size];
    return onnx_times_heads(b, swin_onnx_text(b->g, "%s/own", name), x, factor, s.heads);
}

/* One scale, or one for each channel of the last axis, where every zero point is 0. */
swin_onnx_value onnx_quantize(onnx_build *b, swin_site_kind kind, swin_onnx_value x)
{
    const swin_site_record *r = enabled_record(b, kind);
    if (!r) return x;
    swin_onnx *g = b->g;
    const char *name = onnx_site_name(b, kind);
    const bool own = onnx_own_scales(b, kind) != NULL, channels = r->channel_scale && !own;
    const size_t count = channels ? (size_t)r->channels : 1;
    const int64_t dims[] = { (int64_t)count };
    int8_t *zero = swin_onnx_alloc(g, count);
    if (!zero) return "";
    memset(zero, r->q.zero_point, count); /* u8 zero points have the same bits */
    if (own) x = over_own_scales(b, name, r, x);
    const swin_onnx_value scale = swin_onnx_const(g, swin_onnx_text(g, "%s/scale", name), SWIN_F32, channels,
                                                  dims, channels ? r->channel_scale : &r->q.scale);
    const swin_onnx_value zp = swin_onnx_const(g, swin_onnx_text(g, "%s/zero_point", name),
                                               r->q.qmin < 0 ? SWIN_S8 : SWIN_U8, channels, dims, zero);
    const swin_onnx_value q =
        swin_onnx_node(g, "QuantizeLinear", swin_onnx_text(g, "%s/q", name), x, scale, zp);
    if (channels) swin_onnx_attr_int(g, "axis", -1);
    const swin_onnx_value y =
        swin_onnx_node(g, "DequantizeLinear", swin_onnx_text(g, "%s/dq", name), q, scale, zp);
    if (channels) swin_onnx_attr_int(g, "axis", -1);
    return y;
}

/* int8 codes as a constant and one DequantizeLinear: smaller than float weights behind Q/DQ, and the same numbers. */
static swin_onnx_value quantized_weight(onnx_build *b, const char *name, const onnx_linear *l)
{
    swin_onnx *g = b->g;
    const swin_weight_record *r = swin_calib_file_weight(b->opts->calib, site(b, l->weight));
    const bool per_channel = b->opts->granularity == SWIN_PER_CHANNEL;
    float *scale = swin_onnx_alloc(g, (size_t)l->out * sizeof *scale);
    float *inverse = swin_onnx_alloc(g, (size_t)l->out * sizeof *inverse);
    int8_t *zero = swin_onnx_alloc(g, (size_t)l->out);
    if (!scale || !inverse || !zero) return "";
    for (int o = 0; o < l->out; o++)
        swin_weight_scale(&scale[o], &inverse[o], per_channel ? r->amax_channel[o] : r->amax);
    const int64_t dims[] = { l->out };
    const int ndim = per_channel ? 1 : 0;
    const swin_onnx_value codes =
        matrix_constant(b, swin_onnx_text(g, "%s/codes", name), l, SWIN_S8, inverse);
    const swin_onnx_value s =
        swin_onnx_const(g, swin_onnx_text(g, "%s/scale", name), SWIN_F32, ndim, dims, scale);
    const swin_onnx_value z =
        swin_onnx_const(g, swin_onnx_text(g, "%s/zero_point", name), SWIN_S8, ndim, dims, zero);
    const swin_onnx_value w = swin_onnx_node(g, "DequantizeLinear", name, codes, s, z);
    if (per_channel) swin_onnx_attr_int(g, "axis", 1);
    return w;
}

/* ---- layers --------------------------------------------------------------------------------------------------------- */

static swin_onnx_value cast(onnx_build *b, const char *out, swin_onnx_value x, int64_t to)
{
    const swin_onnx_value y = swin_onnx_node(b->g, "Cast", out, x, NULL, NULL);
    swin_onnx_attr_int(b->g, "to", to);
    return y;
}

swin_onnx_value onnx_to_float(onnx_build *b, const char *out, swin_onnx_value x)
{
    return b->opts->dtype == SWIN_F32 ? x : cast(b, out, x, 1); /* TensorProto.FLOAT */
}

swin_onnx_value onnx_from_float(onnx_build *b, const char *out, swin_onnx_value x)
{
    return b->opts->dtype == SWIN_F32 ? x : cast(b, out, x, 10); /* TensorProto.FLOAT16 */
}

swin_onnx_value onnx_layernorm(onnx_build *b, const char *out, swin_onnx_value x, const char *module,
                               const float *gamma, const float *beta, int channels)
{
    swin_onnx *g = b->g;
    const bool half = b->opts->dtype == SWIN_F16;
    const int64_t dims[] = { channels };
    const swin_onnx_source s = { (size_t)channels, 1, fill_f32, gamma },
                           t = { (size_t)channels, 1, fill_f32, beta };
    const swin_onnx_value w =
        swin_onnx_stream(g, swin_onnx_text(g, "%s.weight", module), SWIN_F32, 1, dims, &s);
    const swin_onnx_value v =
        swin_onnx_stream(g, swin_onnx_text(g, "%s.bias", module), SWIN_F32, 1, dims, &t);
    x = onnx_to_float(b, swin_onnx_text(g, "%s/float_input", module), x);
    const char *name = half ? swin_onnx_text(g, "%s/float_output", module) : out;
    x = swin_onnx_node(g, "LayerNormalization", name, x, w, v);
    swin_onnx_attr_int(g, "axis", -1);
    swin_onnx_attr_float(g, "epsilon", 1e-5f);
    return onnx_from_float(b, out, x);
}

swin_onnx_value onnx_linear_add(onnx_build *b, swin_onnx_value x, const onnx_linear *l)
{
    swin_onnx *g = b->g;
    const char *module = onnx_site_module(b, l->weight), *name = swin_onnx_text(g, "%s.weight", module);
    x = onnx_quantize(b, l->input, x);
    const swin_onnx_value w = enabled_record(b, l->weight)
                                  ? quantized_weight(b, name, l)
                                  : matrix_constant(b, name, l, b->opts->dtype, NULL);
    x = swin_onnx_node(g, "MatMul", onnx_site_name(b, l->aftergemm), x, w, NULL);
    x = onnx_quantize(b, l->aftergemm, x);
    if (!l->bias) return x;
    const swin_onnx_value bias = onnx_vector(b, swin_onnx_text(g, "%s.bias", module), l->bias, l->out);
    return swin_onnx_node(g, "Add", module, x, bias, NULL);
}

/* x over the site's factors, as our kernels do it: times 1 / factor in float32. */
static swin_onnx_value over_factors(onnx_build *b, const char *name, const swin_site_record *r,
                                    swin_onnx_value x)
{
    float *inverse = swin_onnx_alloc(b->g, (size_t)r->channels * sizeof *inverse);
    if (!inverse) return "";
    for (int k = 0; k < r->channels; k++) inverse[k] = 1.0f / r->factor[k];
    const char *key = swin_onnx_text(b->g, "%s/inverse_factor", name);
    return swin_onnx_node(b->g, "Mul", name, x, onnx_vector(b, key, inverse, r->channels), NULL);
}

/* Factors have a node of their own: one Mul by 0.5 / factor would hide the GELU from engines that look for one. */
swin_onnx_value onnx_gelu(onnx_build *b, swin_site_kind kind, const char *module, swin_onnx_value x)
{
    swin_onnx *g = b->g;
    const swin_dtype t = b->opts->dtype;
    const char *name = onnx_site_name(b, kind);
    const swin_site_record *r = b->file ? swin_calib_file_site(b->file, site(b, kind)) : NULL;
    const bool divide = r && r->factor;
    swin_onnx_value y = swin_onnx_node(g, "Div", swin_onnx_text(g, "%s/gelu_scaled", module), x,
                                       swin_onnx_number(g, t, 1.41421356f), NULL);
    y = swin_onnx_node(g, "Erf", swin_onnx_text(g, "%s/gelu_erf", module), y, NULL, NULL);
    y = swin_onnx_node(g, "Add", swin_onnx_text(g, "%s/gelu_cdf2", module), y, swin_onnx_number(g, t, 1),
                       NULL);
    y = swin_onnx_node(g, "Mul", swin_onnx_text(g, "%s/gelu_twice", module), x, y, NULL);
    y = swin_onnx_node(g, "Mul", divide ? swin_onnx_text(g, "%s/gelu", module) : name, y,
                       swin_onnx_number(g, t, 0.5f), NULL);
    return divide ? over_factors(b, name, r, y) : y;
}

/* ---- shapes --------------------------------------------------------------------------------------------------------- */

swin_onnx_value onnx_reshape(onnx_build *b, const char *out, swin_onnx_value x, size_t n,
                             const int64_t *shape)
{
    return swin_onnx_node(b->g, "Reshape", out, x, swin_onnx_ints(b->g, n, shape), NULL);
}

swin_onnx_value onnx_transpose(onnx_build *b, const char *out, swin_onnx_value x, size_t n,
                               const int64_t *perm)
{
    const swin_onnx_value y = swin_onnx_node(b->g, "Transpose", out, x, NULL, NULL);
    swin_onnx_attr_ints(b->g, "perm", n, perm);
    return y;
}

swin_onnx_value onnx_slice(onnx_build *b, const char *out, swin_onnx_value x, int64_t axis, int64_t from,
                           int64_t to, int64_t step)
{
    swin_onnx *g = b->g;
    const swin_onnx_value in[] = { x, swin_onnx_ints(g, 1, &from), swin_onnx_ints(g, 1, &to),
                                   swin_onnx_ints(g, 1, &axis), swin_onnx_ints(g, 1, &step) };
    const char *name = swin_onnx_text(g, "%s", out);
    swin_onnx_nodes(g, "Slice", 1, &name, 5, in);
    return name;
}

static swin_onnx_value roll_axis(onnx_build *b, const char *out, swin_onnx_value x, int64_t axis, int side,
                                 int by)
{
    const swin_onnx_value tail = onnx_slice(b, swin_onnx_text(b->g, "%s_tail", out), x, axis, by, side, 1);
    const swin_onnx_value head = onnx_slice(b, swin_onnx_text(b->g, "%s_head", out), x, axis, 0, by, 1);
    const swin_onnx_value y = swin_onnx_node(b->g, "Concat", out, tail, head, NULL);
    swin_onnx_attr_int(b->g, "axis", axis);
    return y;
}

swin_onnx_value onnx_roll(onnx_build *b, const char *out, swin_onnx_value x, int side, int by)
{
    x = roll_axis(b, swin_onnx_text(b->g, "%s_rows", out), x, 1, side, by);
    return roll_axis(b, swin_onnx_text(b->g, "%s_columns", out), x, 2, side, by);
}
