/* Window attention of the ref backend, one (window, head) at a time. */
#include <math.h>
#include <stdlib.h>

#include "runtime/ops/ops_ref.h"

typedef struct attention_job {
    swin_tensor *out;
    const swin_tensor *qkv;
    swin_tensor *s;
    const swin_attention *a;
    const swin_windows *g;
    int tokens;
} attention_job;

/* Part 0, 1, 2 (q, k, v) of token t in the matrix's window, at its head's first channel. */
static const float *part(const attention_job *j, int64_t matrix, int which, int t)
{
    const int64_t window = matrix / j->a->heads, head = matrix % j->a->heads;
    return swin_row(j->qkv, window * j->tokens + t) + (which * (int64_t)j->a->heads + head) * j->a->head_size;
}

static void scores_one(const attention_job *j, int64_t matrix, float *s, int64_t ld)
{
    for (int i = 0; i < j->tokens; i++)
        for (int k = 0; k < j->tokens; k++) {
            const float *q = part(j, matrix, 0, i), *key = part(j, matrix, 1, k);
            double sum = 0;
            for (int d = 0; d < j->a->head_size; d++) sum += (double)q[d] * key[d];
            s[i * ld + k] = (float)sum;
        }
}

static double score(const attention_job *j, int64_t matrix, int i, int k, float raw)
{
    const int64_t n = j->tokens, head = matrix % j->a->heads;
    const int64_t window = matrix / j->a->heads % swin_windows_per_image(j->g);
    const double bias = j->a->bias ? j->a->bias[(head * n + i) * n + k] : 0;
    return (double)j->a->scale * raw + bias + (j->a->mask ? j->a->mask[(window * n + i) * n + k] : 0);
}

static swin_status softmax_one(const attention_job *j, int64_t matrix, float *s, int64_t ld)
{
    double *e = swin_host_memory((size_t)j->tokens, sizeof *e);
    if (!e) return swin_fail(SWIN_ERR_MEM, "softmax: no memory");
    for (int i = 0; i < j->tokens; i++) {
        double most = -INFINITY, sum = 0;
        for (int k = 0; k < j->tokens; k++) most = fmax(most, e[k] = score(j, matrix, i, k, s[i * ld + k]));
        for (int k = 0; k < j->tokens; k++) {
            e[k] = exp(e[k] - most);
            if (j->a->softmax == SWIN_SOFTMAX_U8) e[k] = rint(255 * e[k]);
            sum += e[k];
        }
        for (int k = 0; k < j->tokens; k++) s[i * ld + k] = (float)(e[k] / sum);
    }
    free(e);
    return SWIN_OK;
}

static void sum_one(const attention_job *j, int64_t matrix, const float *s, int64_t ld)
{
    const int64_t window = matrix / j->a->heads, head = matrix % j->a->heads;
    for (int i = 0; i < j->tokens; i++) {
        float *out = swin_row(j->out, window * j->tokens + i) + head * j->a->head_size;
        for (int d = 0; d < j->a->head_size; d++) {
            double sum = 0;
            for (int k = 0; k < j->tokens; k++) sum += (double)s[i * ld + k] * part(j, matrix, 2, k)[d];
            out[d] = (float)sum;
        }
    }
}

static swin_status attention_matrices(void *user, int64_t from, int64_t to, int worker)
{
    const attention_job *j = user;
    (void)worker;
    float *s = swin_host_memory((size_t)j->tokens * (size_t)j->tokens, sizeof *s);
    swin_status st = s ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "attention: no memory");
    for (int64_t m = from; st == SWIN_OK && m < to; m++) {
        scores_one(j, m, s, j->tokens);
        st = softmax_one(j, m, s, j->tokens);
        sum_one(j, m, s, j->tokens);
    }
    free(s);
    return st;
}

static swin_status scores_matrices(void *user, int64_t from, int64_t to, int worker)
{
    const attention_job *j = user;
    (void)worker;
    for (int64_t m = from; m < to; m++) scores_one(j, m, swin_row(j->s, m * j->tokens), j->s->ld);
    return SWIN_OK;
}

static swin_status softmax_matrices(void *user, int64_t from, int64_t to, int worker)
{
    const attention_job *j = user;
    (void)worker;
    for (int64_t m = from; m < to; m++) SWIN_TRY(softmax_one(j, m, swin_row(j->s, m * j->tokens), j->s->ld));
    return SWIN_OK;
}

static swin_status sum_matrices(void *user, int64_t from, int64_t to, int worker)
{
    const attention_job *j = user;
    (void)worker;
    for (int64_t m = from; m < to; m++) sum_one(j, m, swin_row(j->s, m * j->tokens), j->s->ld);
    return SWIN_OK;
}

swin_status swin_attention_ref(swin_dev *dev, swin_tensor *out, const swin_tensor *qkv,
                               const swin_attention *a, const swin_windows *g)
{
    SWIN_TRY(swin_check_attention("attention", a, g, out, qkv, NULL));
    attention_job j = { .out = out, .qkv = qkv, .a = a, .g = g, .tokens = swin_window_tokens(g) };
    return swin_host_each(dev, swin_score_matrices(a, g), 1, attention_matrices, &j);
}

swin_status swin_scores_ref(swin_dev *dev, swin_tensor *s, const swin_tensor *qkv, const swin_attention *a,
                            const swin_windows *g)
{
    SWIN_TRY(swin_check_attention("scores", a, g, NULL, qkv, s));
    attention_job j = { .s = s, .qkv = qkv, .a = a, .g = g, .tokens = swin_window_tokens(g) };
    return swin_host_each(dev, swin_score_matrices(a, g), 1, scores_matrices, &j);
}

swin_status swin_softmax_ref(swin_dev *dev, swin_tensor *s, const swin_attention *a, const swin_windows *g)
{
    SWIN_TRY(swin_check_attention("softmax", a, g, NULL, NULL, s));
    attention_job j = { .s = s, .a = a, .g = g, .tokens = swin_window_tokens(g) };
    return swin_host_each(dev, swin_score_matrices(a, g), 1, softmax_matrices, &j);
}

swin_status swin_weighted_sum_ref(swin_dev *dev, swin_tensor *out, const swin_tensor *s,
                                  const swin_tensor *qkv, const swin_attention *a, const swin_windows *g)
{
    SWIN_TRY(swin_check_attention("weighted_sum", a, g, out, qkv, s));
    swin_tensor view = *s; /* only read */
    attention_job j = { .out = out, .s = &view, .qkv = qkv, .a = a, .g = g, .tokens = swin_window_tokens(g) };
    return swin_host_each(dev, swin_score_matrices(a, g), 1, sum_matrices, &j);
}
