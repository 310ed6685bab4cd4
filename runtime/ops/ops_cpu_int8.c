/* The integer operators of the cpu backend: weights packed once, row tiles and heads on all threads. */
#include <stdlib.h>
#include <string.h>

#include "runtime/ops/ops_cpu.h"

enum { PIECES = 8 }; /* as in ops_cpu_linear.c: tasks for each thread */

/* `packed` is one block: panels, then start, scale and bias, [out] each, padded to whole panels and a vector more. */
typedef struct weight_s8 {
    int32_t *panels, *start;
    float *scale, *bias;
    size_t width; /* padded columns */
} weight_s8;

static size_t words_of(const swin_cpu_kernels *k, int in)
{
    return ((size_t)in + (size_t)k->group - 1) / (size_t)k->group;
}

static weight_s8 weight_of(const swin_cpu_kernels *k, void *packed, int out, int in)
{
    const size_t cols = (size_t)k->tile_cols, width = ((size_t)out + cols - 1) / cols * cols;
    weight_s8 w = { .panels = packed, .width = width + 16 };
    w.start = w.panels + width * words_of(k, in);
    w.scale = (float *)(w.start + w.width);
    w.bias = w.scale + w.width;
    return w;
}

swin_status swin_linear_s8_prepare_cpu(swin_dev *dev, swin_linear *l, const int8_t *codes, const float *scale,
                                       const float *bias, int out, int in, int x_zero_point)
{
    const swin_cpu_kernels *k = swin_cpu_kernels_of(dev);
    *l = (swin_linear){ .in = in, .out = out, .dtype = SWIN_S8 };
    SWIN_TRY(swin_check_linear_s8_weight(out, in, x_zero_point));
    const size_t width = weight_of(k, NULL, out, in).width;
    l->packed = swin_host_memory(width * (words_of(k, in) + 3), sizeof(int32_t));
    if (!l->packed) return swin_fail(SWIN_ERR_MEM, "no memory for a %d x %d weight", out, in);
    const weight_s8 w = weight_of(k, l->packed, out, in);
    memset(w.start, 0, 3 * w.width * sizeof *w.start);
    k->pack_weights(w.panels, w.start, codes, out, in, x_zero_point);
    memcpy(w.scale, scale, (size_t)out * sizeof *scale);
    if (bias) l->bias = memcpy(w.bias, bias, (size_t)out * sizeof *bias);
    return SWIN_OK;
}

typedef struct tiles {
    swin_dev *dev;
    const swin_cpu_linear_s8 *j;
    int64_t rows;
    int step, panels, groups; /* rows of a task; column panels, cut into groups */
} tiles;

static swin_status run_tiles(void *user, size_t task, int worker)
{
    const tiles *t = user;
    const swin_cpu_kernels *k = swin_cpu_kernels_of(t->dev);
    const int64_t block = (int64_t)(task / (size_t)t->groups), group = (int64_t)(task % (size_t)t->groups);
    const int64_t from = block * t->step, to = from + t->step < t->rows ? from + t->step : t->rows;
    const size_t words = (size_t)swin_cpu_s8_pitch((int64_t)words_of(k, t->j->in));
    float *room = swin_cpu_room(t->dev, worker, (size_t)k->task_rows * words);
    if (!room) return swin_fail(SWIN_ERR_MEM, "linear_s8: no memory");
    k->linear_s8(t->j, from, to, (int)(t->panels * group / t->groups),
                 (int)(t->panels * (group + 1) / t->groups), (int32_t *)room);
    return SWIN_OK;
}

static swin_status run_linear(swin_dev *dev, swin_cpu_linear_s8 *j, const swin_tensor *x,
                              const swin_linear *l, float after_scale)
{
    const swin_cpu_kernels *k = swin_cpu_kernels_of(dev);
    const weight_s8 w = weight_of(k, l->packed, l->out, l->in);
    j->x = x->data, j->ldx = x->ld, j->x_scale = x->scale;
    j->panels = w.panels, j->start = w.start, j->scale = w.scale, j->bias = w.bias;
    j->in = l->in, j->out = l->out;
    j->after_scale = after_scale;
    j->after = l->after;
    j->after_inverse = after_scale > 0 ? 1.0f / after_scale : 0.0f;
    tiles t = { .dev = dev, .j = j, .rows = x->rows, .step = k->task_rows, .groups = 1 };
    t.panels = (l->out + k->tile_cols - 1) / k->tile_cols;
    const int64_t blocks = (t.rows + t.step - 1) / t.step, wanted = (int64_t)PIECES * swin_host_threads(dev);
    if (blocks > 0 && blocks < wanted) {
        const int64_t groups = (wanted + blocks - 1) / blocks;
        t.groups = groups < t.panels ? (int)groups : t.panels;
    }
    return swin_pool_run(swin_host_pool(dev), (size_t)(blocks * t.groups), run_tiles, &t);
}

swin_status swin_linear_s8_cpu(swin_dev *dev, swin_tensor *y, int parts, const swin_tensor *x,
                               const swin_linear *l, float after_scale, swin_act act)
{
    SWIN_TRY(swin_check_linear_s8(y, parts, x, l, after_scale));
    swin_cpu_linear_s8 j = { .y = y, .parts = parts, .act = act };
    return run_linear(dev, &j, x, l, after_scale);
}

swin_status swin_linear_s8_residual_cpu(swin_dev *dev, swin_tensor *residual, const swin_tensor *x,
                                        const swin_linear *l, float after_scale, const swin_windows *g)
{
    SWIN_TRY(swin_check_linear_s8_residual(residual, x, l, after_scale, g));
    swin_cpu_linear_s8 j = { .y = residual, .parts = 1, .residual = true, .windows = g };
    return run_linear(dev, &j, x, l, after_scale);
}

/* ---- attention ----------------------------------------------------------------------------------------------------- */
typedef struct attention_job {
    swin_dev *dev;
    const swin_tensor *out, *qkv; /* qkv [3] */
    const swin_attention *a;
    float prob_scale;
    int tokens, per_image;
} attention_job;

static swin_cpu_head_s8 head_of(const attention_job *j, int64_t matrix)
{
    const swin_attention *a = j->a;
    const swin_tensor *q = j->qkv;
    const int64_t window = matrix / a->heads, head = matrix % a->heads, n = j->tokens, first = window * n,
                  col = head * a->head_size;
    return (swin_cpu_head_s8){ .q = swin_codes(&q[0], first) + col,
                               .k = swin_codes(&q[1], first) + col,
                               .v = swin_codes(&q[2], first) + col,
                               .ldq = q[0].ld,
                               .ldk = q[1].ld,
                               .ldv = q[2].ld,
                               .tokens = j->tokens,
                               .size = a->head_size,
                               .score_scale = a->scale *
                                              (swin_code_scale(&q[0], col) * swin_code_scale(&q[1], col)),
                               .prob_scale = j->prob_scale,
                               .v_scale = swin_code_scale(&q[2], col),
                               .bias = a->bias ? a->bias + head * n * n : NULL,
                               .mask = a->mask ? a->mask + window % j->per_image * n * n : NULL,
                               .softmax = a->softmax,
                               .out = j->out,
                               .row = first,
                               .col = col };
}

static swin_status attention_heads(void *user, int64_t from, int64_t to, int worker)
{
    const attention_job *j = user;
    const swin_cpu_kernels *k = swin_cpu_kernels_of(j->dev);
    float *room = swin_cpu_room(j->dev, worker, swin_cpu_head_s8_room(k, j->tokens, j->a->head_size));
    if (!room) return swin_fail(SWIN_ERR_MEM, "attention_s8: no memory");
    for (int64_t m = from; m < to; m++) {
        const swin_cpu_head_s8 h = head_of(j, m);
        k->attention_s8(&h, (int32_t *)room);
    }
    return SWIN_OK;
}

swin_status swin_attention_s8_cpu(swin_dev *dev, swin_tensor *out, const swin_tensor qkv[3],
                                  const swin_attention *a, float prob_scale, const swin_windows *g)
{
    SWIN_TRY(swin_check_attention_s8(out, qkv, a, prob_scale, g));
    attention_job j = { .dev = dev,
                        .out = out,
                        .qkv = qkv,
                        .a = a,
                        .prob_scale = prob_scale,
                        .tokens = swin_window_tokens(g),
                        .per_image = swin_windows_per_image(g) };
    return swin_host_each(dev, swin_score_matrices(a, g), a->heads < 4 ? a->heads : 4, attention_heads, &j);
}
