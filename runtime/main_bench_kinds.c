/* Time by kind of operator: the backend's table, with each operator waited for and timed. */
#include <stdlib.h>

#include "runtime/base/log.h"
#include "runtime/main_bench.h"

enum { PATCH, NORM, LINEAR, RESIDUAL, ATTENTION, MEAN, ATTENTION_HALF, MLP_HALF, KINDS };
static const char *const names[KINDS] = { "patch embedding", "layernorm and gathers",
                                          "linear",          "linear + residual",
                                          "attention",       "mean over tokens",
                                          "attention half",  "mlp half" };

static struct {
    const swin_ops *real;
    double seconds[KINDS];
} probe;

static double begin(swin_dev *dev)
{
    (void)dev;
    return swin_now();
}

static swin_status end(swin_dev *dev, int kind, double start, swin_status st)
{
    if (st == SWIN_OK) st = probe.real->sync(dev);
    probe.seconds[kind] += swin_now() - start;
    return st;
}

static swin_status patch_embed(swin_dev *dev, swin_tensor *out, const float *images, int batch, int size,
                               const swin_patch_embed *p)
{
    const double t = begin(dev);
    return end(dev, PATCH, t, probe.real->patch_embed(dev, out, images, batch, size, p));
}

static swin_status layernorm(swin_dev *dev, swin_tensor *out, const swin_tensor *x, const swin_norm *n)
{
    const double t = begin(dev);
    return end(dev, NORM, t, probe.real->layernorm(dev, out, x, n));
}

static swin_status layernorm_windows(swin_dev *dev, swin_tensor *out, const swin_tensor *x,
                                     const swin_norm *n, const swin_windows *g)
{
    const double t = begin(dev);
    return end(dev, NORM, t, probe.real->layernorm_windows(dev, out, x, n, g));
}

static swin_status layernorm_merge(swin_dev *dev, swin_tensor *out, const swin_tensor *x, const swin_norm *n,
                                   const swin_windows *g)
{
    const double t = begin(dev);
    return end(dev, NORM, t, probe.real->layernorm_merge(dev, out, x, n, g));
}

static swin_status linear(swin_dev *dev, swin_tensor *y, const swin_tensor *x, const swin_linear *l,
                          bool with_bias, swin_act act)
{
    const double t = begin(dev);
    return end(dev, LINEAR, t, probe.real->linear(dev, y, x, l, with_bias, act));
}

static swin_status linear_residual(swin_dev *dev, swin_tensor *residual, const swin_tensor *x,
                                   const swin_linear *l, const swin_windows *g)
{
    const double t = begin(dev);
    return end(dev, RESIDUAL, t, probe.real->linear_residual(dev, residual, x, l, g));
}

static swin_status attention(swin_dev *dev, swin_tensor *out, const swin_tensor *qkv, const swin_attention *a,
                             const swin_windows *g)
{
    const double t = begin(dev);
    return end(dev, ATTENTION, t, probe.real->attention(dev, out, qkv, a, g));
}

static swin_status mean_tokens(swin_dev *dev, swin_tensor *out, const swin_tensor *x, int tokens)
{
    const double t = begin(dev);
    return end(dev, MEAN, t, probe.real->mean_tokens(dev, out, x, tokens));
}

static swin_status attention_half(swin_dev *dev, swin_tensor *x, const swin_norm *n, const swin_linear *qkv,
                                  const swin_linear *proj, const swin_attention *a, const swin_windows *g)
{
    const double t = begin(dev);
    return end(dev, ATTENTION_HALF, t, probe.real->attention_half(dev, x, n, qkv, proj, a, g));
}

static swin_status mlp_half(swin_dev *dev, swin_tensor *x, const swin_norm *n, const swin_linear *fc1,
                            const swin_linear *fc2)
{
    const double t = begin(dev);
    return end(dev, MLP_HALF, t, probe.real->mlp_half(dev, x, n, fc1, fc2));
}

static swin_status quantize(swin_dev *dev, swin_tensor *out, const swin_tensor *x)
{
    const double t = begin(dev);
    return end(dev, NORM, t, probe.real->quantize(dev, out, x));
}

static swin_status linear_s8(swin_dev *dev, swin_tensor *y, int parts, const swin_tensor *x,
                             const swin_linear *l, float after_scale, swin_act act)
{
    const double t = begin(dev);
    return end(dev, LINEAR, t, probe.real->linear_s8(dev, y, parts, x, l, after_scale, act));
}

static swin_status linear_s8_residual(swin_dev *dev, swin_tensor *residual, const swin_tensor *x,
                                      const swin_linear *l, float after_scale, const swin_windows *g)
{
    const double t = begin(dev);
    return end(dev, RESIDUAL, t, probe.real->linear_s8_residual(dev, residual, x, l, after_scale, g));
}

static swin_status attention_s8(swin_dev *dev, swin_tensor *out, const swin_tensor qkv[3],
                                const swin_attention *a, float prob_scale, const swin_windows *g)
{
    const double t = begin(dev);
    return end(dev, ATTENTION, t, probe.real->attention_s8(dev, out, qkv, a, prob_scale, g));
}

static swin_status attention_half_s8(swin_dev *dev, swin_tensor *x, const swin_norm *n,
                                     const swin_layer_s8 *qkv, const swin_tensor parts[3],
                                     const swin_attention *a, float prob_scale, const swin_layer_s8 *proj,
                                     const swin_windows *g)
{
    const double t = begin(dev);
    return end(dev, ATTENTION_HALF, t,
               probe.real->attention_half_s8(dev, x, n, qkv, parts, a, prob_scale, proj, g));
}

static swin_status mlp_half_s8(swin_dev *dev, swin_tensor *x, const swin_norm *n, const swin_layer_s8 *fc1,
                               const swin_layer_s8 *fc2)
{
    const double t = begin(dev);
    return end(dev, MLP_HALF, t, probe.real->mlp_half_s8(dev, x, n, fc1, fc2));
}

/* The real table with timed operators; without half blocks when composed. */
static swin_ops timed_table(const swin_ops *real, bool composed)
{
    swin_ops t = *real;
    t.patch_embed = patch_embed;
    t.layernorm = layernorm;
    t.layernorm_windows = layernorm_windows;
    t.layernorm_merge = layernorm_merge;
    t.linear = linear;
    t.linear_residual = linear_residual;
    t.attention = attention;
    t.mean_tokens = mean_tokens;
    t.quantize = quantize;
    t.linear_s8 = linear_s8;
    t.linear_s8_residual = linear_s8_residual;
    t.attention_s8 = attention_s8;
    t.attention_half_s8 = real->attention_half_s8 && !composed ? attention_half_s8 : NULL;
    t.mlp_half_s8 = real->mlp_half_s8 && !composed ? mlp_half_s8 : NULL;
    t.blocks_s8 = NULL;
    t.merge_s8 = NULL;
    t.attention_half = real->attention_half && !composed ? attention_half : NULL;
    t.mlp_half = real->mlp_half && !composed ? mlp_half : NULL;
    t.graph_begin = NULL;
    return t;
}

static swin_status one_table(bench *b, bench_run *r, bool composed)
{
    const swin_ops table = timed_table(r->ops, composed);
    swin_net *net = NULL;
    swin_tensor logits;
    int passes = 0;
    probe.real = r->ops;
    r->dev->ops = &table;
    swin_status st = swin_net_create(&net, r->dev, &b->model.config, r->weights, &r->net_opts);
    if (st == SWIN_OK) st = swin_net_forward_device(net, r->images, r->batch, &logits, NULL);
    for (int k = 0; k < KINDS; k++) probe.seconds[k] = 0;
    for (const double start = swin_now();
         st == SWIN_OK && (passes < 2 || swin_now() - start < b->o->seconds / 4); passes++)
        st = swin_net_forward_device(net, r->images, r->batch, &logits, NULL);
    swin_net_free(net);
    r->dev->ops = r->ops;
    for (int k = 0; k < KINDS && st == SWIN_OK; k++)
        if (probe.seconds[k] > 0) bench_print_extra(b, r, names[k], 1e3 * probe.seconds[k] / passes, "ms");
    return st;
}

swin_status bench_kinds(bench *b, bench_run *r)
{
    SWIN_TRY(one_table(b, r, false));
    return r->ops->attention_half || r->ops->mlp_half ? one_table(b, r, true) : SWIN_OK;
}
