/* runtime/ops/host.h - what the two backends that run on the host, ref and cpu, have in common: memory, threads, checks.
 *
 * Both keep activations in float32 only; half precision is emulated by rounding (ops->round_to).
 */
#ifndef SWIN_OPS_HOST_H
#define SWIN_OPS_HOST_H

#include "runtime/base/pool.h"
#include "runtime/ops/ops.h"

typedef struct swin_host_dev {
    swin_dev base;
    swin_pool *pool; /* owned */
} swin_host_dev;

extern const swin_ops swin_ops_ref, swin_ops_cpu;

static inline swin_pool *swin_host_pool(swin_dev *dev)
{
    return ((swin_host_dev *)dev)->pool;
}

/* The memory and thread rows of swin_ops. */
int swin_host_threads(swin_dev *dev);
swin_status swin_host_alloc(swin_dev *dev, void **p, size_t bytes);
void swin_host_free(swin_dev *dev, void *p);
swin_status swin_host_move(swin_dev *dev, void *dst, const void *src,
                           size_t bytes); /* upload, download, copy */
swin_status swin_host_sync(swin_dev *dev);

/* 64-byte aligned memory of at least one byte, to be given to free(); NULL when there is none or the size overflows. */
void *swin_host_memory(size_t count, size_t size);

/* Run fn over [0, rows) in pieces of `step` rows, on all threads. */
typedef swin_status (*swin_host_range)(void *user, int64_t from, int64_t to, int worker);
swin_status swin_host_each(swin_dev *dev, int64_t rows, int64_t step, swin_host_range fn, void *user);

/* The pixels of patch `token` of square images [n][in_chans][size][size], in (channel, y, x) order: in_chans * patch^2 floats. */
void swin_host_patch(float *x, const float *images, int size, const swin_patch_embed *p, int64_t token);

/* First element of row r of a float32 matrix. */
static inline float *swin_row(const swin_tensor *t, int64_t r)
{
    return (float *)t->data + r * t->ld;
}

/* First code of row r of an S8 matrix. */
static inline int8_t *swin_codes(const swin_tensor *t, int64_t r)
{
    return (int8_t *)t->data + r * t->ld;
}

/* The scale of an S8 matrix's codes in one column. */
static inline float swin_code_scale(const swin_tensor *t, int64_t column)
{
    return t->shrink ? t->scale / t->shrink[column] : t->scale;
}

/* The shape rules of ops.h, the same on both backends: SWIN_ERR_UNSUPPORTED for another dtype than float32,
 * SWIN_ERR_VALUE with the operator's name and both shapes otherwise. */
swin_status swin_check_matrix(const char *op, const swin_tensor *t, int64_t rows, int64_t cols);
swin_status swin_check_codes(const char *op, const swin_tensor *t, int64_t rows,
                             int64_t cols); /* S8, usable scale */
swin_status swin_check_output(const char *op, const swin_tensor *t, int64_t rows,
                              int64_t cols); /* F32 or S8 */
swin_status swin_check_windows(const char *op, const swin_windows *g);
swin_status swin_check_merge(const char *op, const swin_windows *g);
/* NULL matrices are not looked at. */
swin_status swin_check_attention(const char *op, const swin_attention *a, const swin_windows *g,
                                 const swin_tensor *out, const swin_tensor *qkv, const swin_tensor *s);
/* x F32 or S8 without a zero point, `heads` dividing its columns; out as swin_check_output. */
swin_status swin_check_normalise_heads(const swin_tensor *out, const swin_tensor *x, int heads);
swin_status swin_check_fake_quant(float scale, int zero_point, int qmin, int qmax);

/* Operators that are the same on both (host_columns.c). */
swin_status swin_host_scale_columns(swin_dev *dev, swin_tensor *x, const float *factor);
swin_status swin_host_moments(swin_dev *dev, const swin_moments *m, const swin_tensor *x, int runs);
swin_status swin_host_take_rows(swin_dev *dev, float *host, const swin_tensor *x, const int64_t *row, int n);

/* Their checks: cuda's too. */
swin_status swin_check_moments(const swin_tensor *x, int runs);
swin_status swin_check_rows(const swin_tensor *x, const int64_t *row, int n);

/* The integer operators (host_int8.c). */
swin_status swin_check_linear_s8_weight(int out, int in, int x_zero_point);
swin_status swin_check_linear_s8(const swin_tensor *y, int parts, const swin_tensor *x, const swin_linear *l,
                                 float after_scale);
swin_status swin_check_linear_s8_residual(const swin_tensor *residual, const swin_tensor *x,
                                          const swin_linear *l, float after_scale, const swin_windows *g);
swin_status swin_check_attention_s8(const swin_tensor *out, const swin_tensor qkv[3], const swin_attention *a,
                                    float prob_scale, const swin_windows *g);

/* Tokens of one window; matrices of scores. */
static inline int swin_window_tokens(const swin_windows *g)
{
    return g->window * g->window;
}
static inline int64_t swin_score_matrices(const swin_attention *a, const swin_windows *g)
{
    return (int64_t)g->images * swin_windows_per_image(g) * a->heads;
}

#endif
