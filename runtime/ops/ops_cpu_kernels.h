/* runtime/ops/ops_cpu_kernels.h - the cpu backend's inner loops, one table for each instruction set. Internal.
 *
 * The same source (ops_cpu_body*.h) is compiled four times: generic (128-bit vectors, any processor), AVX2 with FMA,
 * AVX-512, and AVX-512 with VNNI. Integer sums are the same in all of them; floating-point results may differ between tables in the last bits, never with the number of rows, the tile or the thread.
 * Everything here works on one thread.
 */
#ifndef SWIN_OPS_CPU_KERNELS_H
#define SWIN_OPS_CPU_KERNELS_H

#include "runtime/ops/ops.h"
#include "runtime/ops/ops_cpu_watch.h"

/* y[row] = act(x[row] W^T + bias), or y[map row] += x[row] W^T + bias. */
typedef struct swin_cpu_linear {
    const float *x;
    float *y;
    int64_t ldx, ldy;
    const float *panels; /* W as [ceil(out / tile_cols)][in][tile_cols], zero-padded */
    const float *bias;   /* [out] or NULL */
    int in, out;
    swin_act act;
    bool residual;               /* add to y... */
    const swin_windows *windows; /* ...at the image-order row of x's window-order row; NULL: the same row */
    int biased_parts;            /* of what SEEN_BIASED looks at */
} swin_cpu_linear;

/* What the slots of a watched `linear` look at: swin_linear_seen's fields. */
enum { SWIN_CPU_SEEN_INPUT, SWIN_CPU_SEEN_PRODUCT, SWIN_CPU_SEEN_RESIDUAL, SWIN_CPU_SEEN_BIASED };

/* One (window, head): q, k and v point at its first token's first channel, ld floats from token to token. */
typedef struct swin_cpu_head {
    const float *q, *k, *v;
    int64_t ld;
    int tokens, size; /* N, D */
} swin_cpu_head;

/* As ops.h's linear_s8 and linear_s8_residual. Everything [out] is padded to whole panels and a vector more. */
typedef struct swin_cpu_linear_s8 {
    const int8_t *x;
    int64_t ldx;
    const int32_t *panels, *start; /* pack_weights made them */
    const float *scale, *bias;     /* [out]; of the weights */
    int in, out;
    float x_scale, after_scale, after_inverse; /* after_scale 0: no rounding before the bias */
    const float *after;                        /* [out] in place of after_scale, not padded; NULL: none */
    swin_act act;
    swin_tensor *y; /* [parts]; the residual stream when `residual` */
    int parts;
    bool residual;
    const swin_windows *windows;
} swin_cpu_linear_s8;

/* One (window, head) of attention on codes: q, k and v point at its first token's first channel. */
typedef struct swin_cpu_head_s8 {
    const int8_t *q, *k, *v;
    int64_t ldq, ldk, ldv;
    int tokens, size;                       /* N, D */
    float score_scale, prob_scale, v_scale; /* of q.k; of probabilities (EXACT); of v */
    const float *bias, *mask;               /* [N][N] or NULL */
    swin_softmax softmax;
    const swin_tensor *out; /* F32 or S8; this head's rows begin at `row`, its columns at `col` */
    int64_t row, col;
} swin_cpu_head_s8;

struct swin_cpu_kernels {
    const char *isa;
    int tile_rows, tile_cols;
    int task_rows; /* most rows of one `linear` call; a multiple of tile_rows */

    /* `watch`, here and below: count what is queued meanwhile (NULL: nothing is), and show its slots what passes through. */
    void (*linear)(const swin_cpu_linear *j, int64_t from, int64_t to, int panel, int panel_end,
                   swin_cpu_watch *watch);

    /* s [N][ld_s] = raw scores; s = softmax over its rows' first N; out [N][ld_out] = s v. room: swin_cpu_head_room floats.
     * They show nothing. */
    void (*scores)(float *s, int64_t ld_s, const swin_cpu_head *h, float *room, swin_cpu_watch *watch);
    void (*softmax)(float *s, int64_t ld_s, int tokens, const float *bias, const float *mask, float scale,
                    swin_softmax kind, float *room);
    void (*weighted_sum)(float *out, int64_t ld_out, const float *s, int64_t ld_s, const swin_cpu_head *h,
                         float *room, swin_cpu_watch *watch);

    void (*norm)(float *out, const float *x, int64_t cols, const swin_norm *n); /* out may be x */
    /* out = x * scale / max(|x|, 1e-12); out may be x. */
    void (*normalise)(float *out, const float *x, int64_t n, float scale);
    void (*bias_act)(float *y, const float *bias, int64_t cols, swin_act act);
    void (*add)(float *y, const float *x, int64_t n);
    void (*mean)(float *out, const float *x, int64_t ld, int tokens, int64_t cols);
    void (*fake_quant)(float *x, int64_t n, float scale, float zero, float lo, float hi);
    void (*round_to)(float *x, int64_t n, swin_dtype dtype);

    /* ---- integers (ops_cpu_body_int8.h) ---- */
    int group; /* codes in a 32-bit word of packed weights */
    /* panels [ceil(out / tile_cols)][ceil(in / group)][tile_cols], start [out padded to panels]: what sums begin with, so
     * that the input's zero point (and the kernel's own offset) is taken off. */
    void (*pack_weights)(int32_t *panels, int32_t *start, const int8_t *codes, int out, int in,
                         int x_zero_point);
    /* room: task_rows * swin_cpu_s8_pitch(ceil(in / group)) words. */
    void (*linear_s8)(const swin_cpu_linear_s8 *j, int64_t from, int64_t to, int panel, int panel_end,
                      int32_t *room);
    void (*attention_s8)(const swin_cpu_head_s8 *h, int32_t *room); /* room: swin_cpu_head_s8_room words */
    void (*quantize)(int8_t *codes, const float *x, int64_t n, const swin_tensor *t);
    void (*dequantize)(float *x, const int8_t *codes, int64_t n, float scale); /* of zero point 0 */

    /* ---- observation (ops_cpu_watch.h) ---- */
    /* Show a tally of w, whose observer may be NULL, rows x cols values. */
    void (*watch)(swin_cpu_watch *w, swin_cpu_tally *t, const float *x, int64_t ld, int64_t rows,
                  int64_t cols);
    void (*drain)(swin_cpu_watch *w);    /* count all that is queued */
    int (*most)(const uint16_t *counts); /* the greatest counter of one table */
    /* hist[b] += one table's counter b, which becomes 0. */
    void (*collect)(uint64_t *hist, uint16_t *counts);
};

extern const swin_cpu_kernels swin_cpu_generic, swin_cpu_avx2, swin_cpu_avx512, swin_cpu_vnni;

/* Floats of scratch memory that scores, softmax and weighted_sum may use. */
static inline size_t swin_cpu_head_room(const swin_cpu_kernels *k, int tokens, int size)
{
    const size_t wide = (size_t)k->tile_cols, n = (size_t)tokens, d = (size_t)size;
    const size_t keys = (n + wide - 1) / wide * wide * d, values = (d + wide - 1) / wide * wide * n;
    const size_t most = keys > values ? keys : values;
    return most > n + 16 ? most : n + 16;
}

/* Words from one row of packed inputs to the next: whole cache lines, not all in the same ones. */
static inline int64_t swin_cpu_s8_pitch(int64_t words)
{
    return (words + 15) / 16 * 16 + 16;
}

/* Words of scratch memory that attention_s8 may use. */
static inline size_t swin_cpu_head_s8_room(const swin_cpu_kernels *k, int tokens, int size)
{
    const size_t wide = (size_t)k->tile_cols, rows = (size_t)k->tile_rows, group = (size_t)k->group;
    const size_t keys = ((size_t)tokens + wide - 1) / wide * wide,
                 values = ((size_t)size + wide - 1) / wide * wide;
    const size_t key_words = ((size_t)size + group - 1) / group,
                 value_words = ((size_t)tokens + group - 1) / group;
    return keys * (key_words + 1) + values * value_words + rows * (key_words + keys + keys / group);
}

#endif
