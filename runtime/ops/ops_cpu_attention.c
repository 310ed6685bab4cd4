/* Window attention of the cpu backend: one window and head at a time, whose matrices stay in L1. The fused operator and the
 * three separate ones run the same kernels on the same numbers. */
#include "runtime/ops/ops_cpu.h"

typedef struct attention_job {
    swin_dev *dev;
    swin_tensor *out;
    const swin_tensor *qkv;
    const swin_tensor *s; /* NULL: fused */
    const swin_attention *a;
    const swin_windows *g;
    int tokens, per_image;
    bool watched; /* slot 0: scores, 1: probabilities */
} attention_job;

static swin_cpu_head head_of(const attention_job *j, int64_t matrix)
{
    const int64_t window = matrix / j->a->heads, head = matrix % j->a->heads,
                  channels = (int64_t)j->a->heads * j->a->head_size;
    const float *q = swin_row(j->qkv, window * j->tokens) + head * j->a->head_size;
    return (swin_cpu_head){ .q = q,
                            .k = q + channels,
                            .v = q + 2 * channels,
                            .ld = j->qkv->ld,
                            .tokens = j->tokens,
                            .size = j->a->head_size };
}

static void softmax_one(const attention_job *j, int64_t matrix, float *s, int64_t ld, float *room)
{
    const int64_t window = matrix / j->a->heads % j->per_image, head = matrix % j->a->heads, n = j->tokens;
    swin_cpu_kernels_of(j->dev)->softmax(s, ld, j->tokens, j->a->bias ? j->a->bias + head * n * n : NULL,
                                         j->a->mask ? j->a->mask + window * n * n : NULL, j->a->scale,
                                         j->a->softmax, room);
}

static float *out_of(const attention_job *j, int64_t matrix)
{
    return swin_row(j->out, matrix / j->a->heads * j->tokens) + matrix % j->a->heads * j->a->head_size;
}

static float *head_room(const attention_job *j, int worker, size_t more)
{
    float *room = swin_cpu_room(
        j->dev, worker, swin_cpu_head_room(swin_cpu_kernels_of(j->dev), j->tokens, j->a->head_size) + more);
    if (!room) swin_fail(SWIN_ERR_MEM, "attention: no memory");
    return room;
}

static swin_status attention_matrices(void *user, int64_t from, int64_t to, int worker)
{
    const attention_job *j = user;
    const swin_cpu_kernels *k = swin_cpu_kernels_of(j->dev);
    const size_t ld = ((size_t)j->tokens + 15) / 16 * 16, matrix = ld * (size_t)j->tokens;
    swin_cpu_watch *w = j->watched ? swin_cpu_watch_of(j->dev, worker) : NULL;
    float *s = head_room(j, worker, matrix);
    if (!s) return SWIN_ERR_MEM;
    for (int64_t m = from; m < to; m++) {
        const swin_cpu_head h = head_of(j, m);
        k->scores(s, (int64_t)ld, &h, s + matrix, w);
        if (w) k->watch(w, &w->slots[0], s, (int64_t)ld, j->tokens, j->tokens);
        softmax_one(j, m, s, (int64_t)ld, s + matrix);
        if (w) k->watch(w, &w->slots[1], s, (int64_t)ld, j->tokens, j->tokens);
        k->weighted_sum(out_of(j, m), j->out->ld, s, (int64_t)ld, &h, s + matrix, w);
    }
    return SWIN_OK;
}

static swin_status scores_matrices(void *user, int64_t from, int64_t to, int worker)
{
    const attention_job *j = user;
    float *room = head_room(j, worker, 0);
    if (!room) return SWIN_ERR_MEM;
    for (int64_t m = from; m < to; m++) {
        const swin_cpu_head h = head_of(j, m);
        swin_cpu_kernels_of(j->dev)->scores(swin_row(j->s, m * j->tokens), j->s->ld, &h, room, NULL);
    }
    return SWIN_OK;
}

static swin_status softmax_matrices(void *user, int64_t from, int64_t to, int worker)
{
    const attention_job *j = user;
    float *room = head_room(j, worker, 0);
    if (!room) return SWIN_ERR_MEM;
    for (int64_t m = from; m < to; m++) softmax_one(j, m, swin_row(j->s, m * j->tokens), j->s->ld, room);
    return SWIN_OK;
}

static swin_status sum_matrices(void *user, int64_t from, int64_t to, int worker)
{
    const attention_job *j = user;
    float *room = head_room(j, worker, 0);
    if (!room) return SWIN_ERR_MEM;
    for (int64_t m = from; m < to; m++) {
        const swin_cpu_head h = head_of(j, m);
        swin_cpu_kernels_of(j->dev)->weighted_sum(out_of(j, m), j->out->ld, swin_row(j->s, m * j->tokens),
                                                  j->s->ld, &h, room, NULL);
    }
    return SWIN_OK;
}

/* All heads of a window in one task: they share its rows. */
static swin_status run(attention_job *j, swin_host_range fn)
{
    j->tokens = swin_window_tokens(j->g);
    j->per_image = swin_windows_per_image(j->g);
    const int64_t matrices = swin_score_matrices(j->a, j->g);
    return swin_host_each(j->dev, matrices, j->a->heads < 4 ? j->a->heads : 4, fn, j);
}

swin_status swin_attention_cpu(swin_dev *dev, swin_tensor *out, const swin_tensor *qkv,
                               const swin_attention *a, const swin_windows *g)
{
    SWIN_TRY(swin_check_attention("attention", a, g, out, qkv, NULL));
    return run(&(attention_job){ .dev = dev, .out = out, .qkv = qkv, .a = a, .g = g }, attention_matrices);
}

swin_status swin_attention_seen_cpu(swin_dev *dev, swin_tensor *out, const swin_tensor *qkv,
                                    const swin_attention *a, const swin_windows *g, swin_observer *scores,
                                    swin_observer *probabilities)
{
    SWIN_TRY(swin_check_attention("attention", a, g, out, qkv, NULL));
    swin_observer *const slots[] = { scores, probabilities };
    SWIN_TRY(swin_cpu_watch_begin(dev, slots, 2, 2));
    attention_job j = { .dev = dev, .out = out, .qkv = qkv, .a = a, .g = g, .watched = true };
    const swin_status st = run(&j, attention_matrices), end = swin_cpu_watch_end(dev);
    return st == SWIN_OK ? end : st;
}

swin_status swin_scores_cpu(swin_dev *dev, swin_tensor *s, const swin_tensor *qkv, const swin_attention *a,
                            const swin_windows *g)
{
    SWIN_TRY(swin_check_attention("scores", a, g, NULL, qkv, s));
    return run(&(attention_job){ .dev = dev, .s = s, .qkv = qkv, .a = a, .g = g }, scores_matrices);
}

swin_status swin_softmax_cpu(swin_dev *dev, swin_tensor *s, const swin_attention *a, const swin_windows *g)
{
    SWIN_TRY(swin_check_attention("softmax", a, g, NULL, NULL, s));
    return run(&(attention_job){ .dev = dev, .s = s, .a = a, .g = g }, softmax_matrices);
}

swin_status swin_weighted_sum_cpu(swin_dev *dev, swin_tensor *out, const swin_tensor *s,
                                  const swin_tensor *qkv, const swin_attention *a, const swin_windows *g)
{
    SWIN_TRY(swin_check_attention("weighted_sum", a, g, out, qkv, s));
    return run(&(attention_job){ .dev = dev, .out = out, .s = s, .qkv = qkv, .a = a, .g = g }, sum_matrices);
}
