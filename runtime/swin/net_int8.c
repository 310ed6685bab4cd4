/* Preparing a network's layers for integers: reference/swin.md section 4, DESIGN.md section 4. */
#include <stdlib.h>

#include "runtime/swin/net_impl.h"
#include "runtime/swin/weight_codes.h"

static const swin_site_plan *planned(const swin_net *net, int stage, int block, swin_site_kind kind)
{
    return &net->opts.plan->sites[swin_site_index(&net->config, swin_site_make(stage, block, kind))];
}

static float quantize_row(int8_t *codes, const float *w, int n, float amax)
{
    float scale, inverse;
    swin_weight_scale(&scale, &inverse, amax);
    for (int i = 0; i < n; i++) codes[i] = swin_weight_code(w[i], inverse);
    return scale;
}

static swin_status prepare_integer(swin_net *net, net_layer *layer, const swin_site_plan *weight,
                                   const float *w, const float *bias, int out, int in)
{
    int8_t *codes = malloc((size_t)out * (size_t)in);
    float *scale = malloc((size_t)out * sizeof *scale);
    swin_status st = SWIN_ERR_MEM;
    if (!codes || !scale) {
        swin_fail(st, "no memory for the codes of a %d x %d weight", out, in);
        goto done;
    }
    for (int n = 0; n < out; n++) {
        const float amax = weight->channel_amax ? weight->channel_amax[n] : weight->amax;
        scale[n] = quantize_row(codes + (size_t)n * in, w + (size_t)n * in, in, amax);
    }
    st = net->ops->linear_s8_prepare(net->dev, &layer->l, codes, scale, bias, out, in,
                                     layer->input.zero_point);
done:
    free(scale);
    free(codes);
    return st;
}

/* Inverse factors of a layer's input, for the kernel that makes its codes. */
static swin_status put_shrink(swin_net *net, net_layer *layer, int in)
{
    const float *factor = layer->input.factor;
    if (!factor) return SWIN_OK;
    if (!net->ops->shrinks)
        return swin_fail(
            SWIN_ERR_UNSUPPORTED,
            "int8: the %s backend has no factors per channel of GELU's output, which recovery chose "
            "in int8-mode 3; calibrate with --recover none, or --recover ranges,bias",
            net->ops->name);
    float *inverse = malloc((size_t)in * sizeof *inverse);
    if (!inverse) return swin_fail(SWIN_ERR_MEM, "no memory for %d factors", in);
    for (int k = 0; k < in; k++) inverse[k] = 1.0f / factor[k];
    const swin_status st = net_put_vector(net, &layer->shrink, inverse, (size_t)in);
    free(inverse);
    return st;
}

/* A scale for each output channel where the product is rounded. */
static swin_status put_after(swin_net *net, net_layer *layer, const swin_site_plan *after, int out)
{
    if (!after->enabled || !after->channel_scale) return SWIN_OK;
    if (!net->ops->after_channels)
        return swin_fail(
            SWIN_ERR_UNSUPPORTED,
            "int8: the %s backend has no output scales for each channel, which recovery chose for fc2 and "
            "merging in int8-mode 1; calibrate with --recover fast",
            net->ops->name);
    return net_put_vector(net, &layer->l.after, after->channel_scale, (size_t)out);
}

/* A layer that stays float reads values that nobody divided. */
static swin_status put_unfactored(swin_net *net, net_layer *layer, const float *w, const float *bias, int out,
                                  int in)
{
    const float *factor = layer->input.factor;
    const size_t n = (size_t)out * (size_t)in;
    float *own = malloc(n * sizeof *own);
    if (!own) return swin_fail(SWIN_ERR_MEM, "no memory for a %d x %d weight", out, in);
    for (size_t i = 0; i < n; i++) own[i] = w[i] / factor[i % (size_t)in];
    const swin_status st = net->ops->linear_prepare(net->dev, &layer->l, own, bias, out, in, net->opts.dtype);
    free(own);
    return st;
}

/* What a float layer computes in. One whose output becomes codes at once, qkv before attention on
 * integers, keeps float32 in a half network too: 11 bits of its input, and of q, k and v before they are
 * rounded again, moved so many codes that blocks of the demo's network came to 48.8 dB of int8-sim; 56
 * without. */
static swin_dtype float_type(const swin_net *net, int stage, int block, swin_site_kind input)
{
    const bool coded = input == SWIN_SITE_QKV_INPUT && net->stages[stage].blocks[block].attention_integer;
    return coded && !net->emulate ? SWIN_F32 : net->opts.dtype;
}

/* A Linear's sites follow each other in the list of kinds: input, weight, aftergemm. */
_Static_assert(SWIN_SITE_QKV_WEIGHT == SWIN_SITE_QKV_INPUT + 1 &&
                   SWIN_SITE_QKV_AFTERGEMM == SWIN_SITE_QKV_INPUT + 2 &&
                   SWIN_SITE_PROJ_AFTERGEMM == SWIN_SITE_PROJ_INPUT + 2 &&
                   SWIN_SITE_FC1_AFTERGEMM == SWIN_SITE_FC1_INPUT + 2 &&
                   SWIN_SITE_FC2_AFTERGEMM == SWIN_SITE_FC2_INPUT + 2 &&
                   SWIN_SITE_REDUCTION_AFTERGEMM == SWIN_SITE_REDUCTION_INPUT + 2,
               "net_put_layer counts on the order of the site kinds");

swin_status net_put_layer(swin_net *net, net_layer *layer, int stage, int block, swin_site_kind input,
                          const float *w, const float *bias, int out, int in)
{
    *layer = (net_layer){ 0 };
    if (net->opts.plan) {
        const swin_site_plan *x = planned(net, stage, block, input),
                             *weight = planned(net, stage, block, input + 1),
                             *after = planned(net, stage, block, input + 2);
        layer->integer = x->enabled && weight->enabled;
        layer->input = *x;
        layer->after_scale = after->enabled ? after->scale : 0.0f;
        if (layer->integer) {
            SWIN_TRY(put_shrink(net, layer, in));
            SWIN_TRY(prepare_integer(net, layer, weight, w, bias, out, in));
            return put_after(net, layer, after, out);
        }
        if (x->factor) return put_unfactored(net, layer, w, bias, out, in);
    }
    return net->ops->linear_prepare(net->dev, &layer->l, w, bias, out, in,
                                    float_type(net, stage, block, input));
}

/* Where heads have scales of their own: the site's over those of the columns, for the kernels that make the codes and for
 * attention. */
static swin_status put_head_scales(swin_net *net, net_block *b, int i, int channels)
{
    const swin_site_plan *p = &b->operands[i];
    if (!p->channel_scale) return SWIN_OK;
    if (!net->ops->shrinks)
        return swin_fail(
            SWIN_ERR_UNSUPPORTED,
            "int8: the %s backend has no scales for single heads, which recovery chose in int8-mode 3; "
            "calibrate with --recover fast",
            net->ops->name);
    float *shrink = malloc((size_t)channels * sizeof *shrink);
    if (!shrink) return swin_fail(SWIN_ERR_MEM, "no memory for %d scales", channels);
    for (int c = 0; c < channels; c++) shrink[c] = p->scale / p->channel_scale[c];
    const swin_status st = net_put_vector(net, &b->operand_shrink[i], shrink, (size_t)channels);
    free(shrink);
    return st;
}

swin_status net_plan_attention(swin_net *net, net_block *b, int stage, int block)
{
    static const swin_site_kind parts[][3] = {
        [SWIN_V1] = { SWIN_SITE_MATMUL_Q, SWIN_SITE_MATMUL_K, SWIN_SITE_MATMUL_V },
        [SWIN_V2] = { SWIN_SITE_MHA_Q, SWIN_SITE_MHA_K, SWIN_SITE_MATMUL_V },
    };
    b->attention_integer = false;
    if (!net->opts.plan) return SWIN_OK;
    const swin_site_plan *prob = planned(net, stage, block, SWIN_SITE_MATMUL_A);
    bool all = prob->enabled;
    if (!prob->enabled) b->attention.softmax = SWIN_SOFTMAX_EXACT; /* relaxed: float all through */
    for (int i = 0; i < 3; i++) {
        b->operands[i] = *planned(net, stage, block, parts[net->config.family][i]);
        all = all && b->operands[i].enabled;
    }
    for (int i = 0; i < 2; i++) b->raw[i] = *planned(net, stage, block, parts[SWIN_V1][i]);
    b->attention_integer = all;
    b->prob_scale = prob->scale;
    for (int i = 0; i < 3 && all; i++)
        SWIN_TRY(put_head_scales(net, b, i, net->stages[stage].shape.channels));
    return SWIN_OK;
}
