/* runtime/ops/ops.h - operators, and the backends that offer them.
 *
 * A backend is one table of functions (swin_ops) over one device state (swin_dev). `ref` defines what each operator means
 * (double arithmetic, plain loops); `cpu` and `cuda` are held against it. The walk (runtime/swin/forward.c) sees only this
 * header, and this header sees no CUDA type.
 *
 * Rules for every operator
 *   - the output comes first and is written completely; in and out do not overlap unless the text says "in place";
 *   - matrices are swin_tensor views in the device's memory; parameters (gamma, bias, tables) are float32 there too;
 *   - a row of the output depends on its own image only, bit for bit: sums run in an order that does not depend on how
 *     many rows there are;
 *   - GPU operators are queued on the device's stream and return before they ran; ops->sync waits and reports.
 *
 * Letters: B images, H W token map, C channels, N = window^2 tokens of a window, nW windows of an image, h heads,
 * D head size. "Window order" means row ((image * nW + window) * N + token), windows row-major in the (shifted) map.
 */
#ifndef SWIN_OPS_OPS_H
#define SWIN_OPS_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"
#include "runtime/base/tensor.h"
#include "runtime/ops/observed.h"

typedef struct swin_dev swin_dev;
typedef struct swin_ops swin_ops;

/* Every backend's device state begins with this. */
struct swin_dev {
    const swin_ops *ops;
};

/* The geometry of one stage's token map and its windows. */
typedef struct swin_windows {
    int images;        /* B */
    int height, width; /* H, W */
    int window;        /* side; divides H and W */
    int shift;         /* cyclic shift of this block; 0: none */
} swin_windows;

static inline int swin_windows_per_image(const swin_windows *g)
{
    return (g->height / g->window) * (g->width / g->window);
}
static inline int64_t swin_windows_tokens(const swin_windows *g)
{
    return (int64_t)g->images * g->height * g->width;
}

/* The row of the image-order map ((image * H + y) * W + x) that row r of the window order is taken from: the cyclic shift
 * moves the map by -shift, so window position (y, x) holds map position ((y + shift) mod H, (x + shift) mod W). */
static inline int64_t swin_windows_source(const swin_windows *g, int64_t r)
{
    const int w = g->window, n = w * w, across = g->width / w, per_image = across * (g->height / w);
    const int64_t win = r / n, image = win / per_image;
    const int token = (int)(r % n), at = (int)(win % per_image);
    const int y = (at / across) * w + token / w + g->shift, x = (at % across) * w + token % w + g->shift;
    return (image * g->height + (y >= g->height ? y - g->height : y)) * g->width +
           (x >= g->width ? x - g->width : x);
}

/* LayerNorm: (x - mean) / sqrt(biased variance + eps) * gamma + beta, statistics in float32 or better. */
typedef struct swin_norm {
    const float *gamma, *beta; /* [C], device */
    float eps;                 /* 1e-5 */
} swin_norm;

/* What the columns of a matrix hold, run of rows by run of rows: host arrays [runs][cols], those that are NULL are not asked
 * for. */
typedef struct swin_moments {
    double *sum, *square; /* of the values, of their squares */
    float *lo,
        *hi; /* the least and the largest; NaN counts as neither: INFINITY and -INFINITY where there is no other */
} swin_moments;

/* A Linear layer prepared for one backend. */
typedef struct swin_linear {
    int in, out;       /* K, N */
    swin_dtype dtype;  /* what it computes in: SWIN_F32, SWIN_F16, SWIN_BF16 */
    const float *bias; /* [out] float32, device; NULL: none */
    /* SWIN_S8, on a backend with after_channels: [out] float32, device, lives as long as the layer: a scale for each channel
     * where linear_s8 rounds with after_scale; NULL: after_scale for all. Set by the caller after linear_s8_prepare. */
    const float *after;
    void *packed; /* the backend's own form of the weight, owned by this struct */
} swin_linear;

typedef enum swin_act { SWIN_ACT_NONE, SWIN_ACT_GELU } swin_act; /* GELU: 0.5 x (1 + erf(x / sqrt 2)) */

typedef enum swin_softmax {
    SWIN_SOFTMAX_EXACT,
    SWIN_SOFTMAX_U8 /* code = round(255 exp(s - max)), half to even; probability = code / sum of the row's codes */
} swin_softmax;

/* What window attention needs besides q, k, v. */
typedef struct swin_attention {
    int heads, head_size; /* h, D */
    float scale;          /* applied to the raw score q.k */
    const float *bias;    /* [h][N][N] float32, device: relative position bias, gathered */
    const float *mask;    /* [nW][N][N] float32, device: 0 or -100; NULL for an unshifted block */
    swin_softmax softmax;
} swin_attention;

/* A Linear of the integer network: how its input is quantized (scale, zero point, code range; no data), and the rounding of
 * its product before the bias (0: none). */
typedef struct swin_layer_s8 {
    const swin_linear *l;
    swin_tensor input;
    float after_scale;
} swin_layer_s8;

/* A block of the integer network. */
typedef struct swin_block_s8 {
    swin_norm norm1, norm2;
    swin_layer_s8 qkv, proj, fc1, fc2;
    swin_tensor parts[3]; /* how q, k, v are quantized; no data */
    swin_attention attention;
    float prob_scale;
    int shift;
    const float *head_scale; /* V2: as in attention_half_v2_s8, raw too; NULL: V1 */
    swin_tensor raw[2];
} swin_block_s8;

/* Codes of the residual stream beside it, where no LayerNorm stands before a half's first layer (Swin V2). */
typedef struct swin_stream_s8 {
    swin_tensor now; /* S8: x as that layer reads it; made by the half unless `ready` */
    bool ready;
    swin_tensor
        next; /* S8: the new x, quantized for what follows; now's memory is free by then. data NULL: not wanted */
} swin_stream_s8;

/* Patch embedding: a convolution whose kernel is its stride, then LayerNorm (gamma NULL: none). */
typedef struct swin_patch_embed {
    int patch, in_chans, channels; /* P, 3, C */
    const swin_linear *proj;       /* in = 3 P P in (channel, y, x) order, out = C */
    swin_norm norm;
} swin_patch_embed;

/* Queued work, recorded to be launched again as one. */
typedef struct swin_graph swin_graph;

typedef struct swin_dev_opts {
    int device;  /* GPU number */
    int threads; /* CPU threads; 0: one for each processor */
    bool tf32;   /* cuda: TF32 tensor cores for float32 GEMMs */
} swin_dev_opts;

/*
 * One backend. Functions that may be NULL say so; the walk then composes the operator from others.
 */
struct swin_ops {
    const char *name; /* "cpu" */
    const char *help; /* one line for --help and swin-info */

    /* ---- device ------------------------------------------------------------------------------------------- */
    /* SWIN_ERR_DEVICE says what is missing (driver, library, GPU). */
    swin_status (*open)(swin_dev **dev, const swin_dev_opts *opts);
    void (*close)(swin_dev *dev); /* NULL is fine */
    /* One line that names everything results may depend on: backend, GPU model or instruction set, library versions. */
    void (*engine)(swin_dev *dev, char *text, size_t size);
    int (*threads)(swin_dev *dev); /* host threads in use */

    /* ---- memory: device memory, 64-byte aligned ---------------------------------------------------------------- */
    swin_status (*alloc)(swin_dev *dev, void **p, size_t bytes);
    void (*free)(swin_dev *dev, void *p); /* NULL is fine */
    swin_status (*upload)(swin_dev *dev, void *dst, const void *host,
                          size_t bytes); /* host is free on return */
    swin_status (*download)(swin_dev *dev, void *host, const void *src,
                            size_t bytes); /* waits for what was queued */
    swin_status (*copy)(swin_dev *dev, void *dst, const void *src, size_t bytes); /* device to device */
    swin_status (*sync)(swin_dev *dev);

    /* Images that one pass of a stage should hold so that `bytes_per_image` of activations stay close to the core. */
    int (*chunk)(swin_dev *dev, size_t bytes_per_image, int batch);

    /* ---- weights ----------------------------------------------------------------------------------------------- */
    /* w host [out][in] float32, bias host [out] or NULL; both free on return. dtype F16, BF16: w is rounded to it. */
    swin_status (*linear_prepare)(swin_dev *dev, swin_linear *l, const float *w, const float *bias, int out,
                                  int in, swin_dtype dtype);
    void (*linear_release)(swin_dev *dev, swin_linear *l); /* a zeroed struct is fine */

    /* ---- operators --------------------------------------------------------------------------------------------- */
    /* images float32 [B][3][S][S] -> out [B*(S/P)^2][C]. */
    swin_status (*patch_embed)(swin_dev *dev, swin_tensor *out, const float *images, int batch, int size,
                               const swin_patch_embed *p);
    /* out = LayerNorm(x), row by row. */
    swin_status (*layernorm)(swin_dev *dev, swin_tensor *out, const swin_tensor *x, const swin_norm *n);
    /* out, in window order = LayerNorm(x) (n NULL: x itself) of the image-order map, shifted and partitioned. out may be
     * SWIN_F32 where x is of a half type. */
    swin_status (*layernorm_windows)(swin_dev *dev, swin_tensor *out, const swin_tensor *x,
                                     const swin_norm *n, const swin_windows *g);
    /* out [B*H/2*W/2][4C] = LayerNorm over 4C (n NULL: none) of the four neighbours (0,0), (1,0), (0,1), (1,1) as
     * (row, column). */
    swin_status (*layernorm_merge)(swin_dev *dev, swin_tensor *out, const swin_tensor *x, const swin_norm *n,
                                   const swin_windows *g);
    /* y [M][out] = act(x [M][in] W^T + bias). with_bias false leaves the bare product (act is then NONE). */
    swin_status (*linear)(swin_dev *dev, swin_tensor *y, const swin_tensor *x, const swin_linear *l,
                          bool with_bias, swin_act act);
    /* residual += x W^T + bias, each sum rounded as linear then residual_add would. g: x is in window order and residual in
     * image order; NULL: same order. */
    swin_status (*linear_residual)(swin_dev *dev, swin_tensor *residual, const swin_tensor *x,
                                   const swin_linear *l, const swin_windows *g);
    /* In place: y = act(y + bias); bias [cols] or NULL. */
    swin_status (*bias_act)(swin_dev *dev, swin_tensor *y, const float *bias, swin_act act);
    /* In place: residual += y; g as for linear_residual. */
    swin_status (*residual_add)(swin_dev *dev, swin_tensor *residual, const swin_tensor *y,
                                const swin_windows *g);
    /* out [rows][C] in window order, channel = head*D + d, from qkv [rows][3C], column = part*C + head*D + d: softmax(
     * scale q.k + bias + mask) v. Equal bits to scores, softmax, weighted_sum one after the other. */
    swin_status (*attention)(swin_dev *dev, swin_tensor *out, const swin_tensor *qkv, const swin_attention *a,
                             const swin_windows *g);
    /* s [B*nW*h*N][N] = raw scores q.k, matrices in (window, head) order. */
    swin_status (*scores)(swin_dev *dev, swin_tensor *s, const swin_tensor *qkv, const swin_attention *a,
                          const swin_windows *g);
    /* In place: s = softmax over a row of (scale s + bias + mask), as a->softmax says. */
    swin_status (*softmax)(swin_dev *dev, swin_tensor *s, const swin_attention *a, const swin_windows *g);
    /* out [rows][C] = s v, heads concatenated. */
    swin_status (*weighted_sum)(swin_dev *dev, swin_tensor *out, const swin_tensor *s, const swin_tensor *qkv,
                                const swin_attention *a, const swin_windows *g);
    /* out [B][C] = mean over the `tokens` rows of each image, in float32. */
    swin_status (*mean_tokens)(swin_dev *dev, swin_tensor *out, const swin_tensor *x, int tokens);

    /* Optional half blocks, in place on the residual stream x (image order). NULL, or SWIN_ERR_UNSUPPORTED for shapes they
     * do not take: the walk then uses the operators above. x += proj(attention(qkv(LN1 x))); x += fc2(GELU(fc1(LN2 x))). */
    swin_status (*attention_half)(swin_dev *dev, swin_tensor *x, const swin_norm *n, const swin_linear *qkv,
                                  const swin_linear *proj, const swin_attention *a, const swin_windows *g);
    swin_status (*mlp_half)(swin_dev *dev, swin_tensor *x, const swin_norm *n, const swin_linear *fc1,
                            const swin_linear *fc2);

    /* Swin V2's, in the same way: x += LN(proj(attention(cosine(qkv(x))))); x += LN(fc2(GELU(fc1(x)))). */
    swin_status (*attention_half_v2)(swin_dev *dev, swin_tensor *x, const swin_norm *n,
                                     const swin_linear *qkv, const float *head_scale, const swin_attention *a,
                                     const swin_linear *proj, const swin_windows *g);
    swin_status (*mlp_half_v2)(swin_dev *dev, swin_tensor *x, const swin_norm *n, const swin_linear *fc1,
                               const swin_linear *fc2);

    /* ---- quantization and observation ---------------------------------------------------------------------------- */
    /* In place: x = (clamp(rint(x / scale) + zero_point, qmin, qmax) - zero_point) * scale, half to even, computed as
     * x * (1 / scale) in float32, as the PyTorch toolkit does. NaN becomes qmin's value. */
    swin_status (*fake_quant)(swin_dev *dev, swin_tensor *x, float scale, int zero_point, int qmin, int qmax);
    /* In place: round every value to F16 or BF16 and back. Needed where activations are float32 (ref, cpu). */
    swin_status (*round_to)(swin_dev *dev, swin_tensor *x, swin_dtype dtype);

    swin_status (*observer_create)(swin_dev *dev, swin_observer **o);
    void (*observer_free)(swin_dev *dev, swin_observer *o); /* NULL is fine */
    /* Add every element of x. */
    swin_status (*observe)(swin_dev *dev, swin_observer *o, const swin_tensor *x);
    /* What has been seen so far; waits for what was queued. */
    swin_status (*observer_read)(swin_dev *dev, const swin_observer *o, swin_observed *out);
    /* Optional, all or none: linear (with its bias), linear_residual and attention that show what passes through them to
     * observers, which may be NULL: equal bits, and equal to `observe` on the whole tensors. */
    swin_status (*linear_seen)(swin_dev *dev, swin_tensor *y, const swin_tensor *x, const swin_linear *l,
                               swin_act act, const swin_linear_seen *seen);
    swin_status (*linear_residual_seen)(swin_dev *dev, swin_tensor *residual, const swin_tensor *x,
                                        const swin_linear *l, const swin_windows *g,
                                        const swin_linear_seen *seen);
    swin_status (*attention_seen)(swin_dev *dev, swin_tensor *out, const swin_tensor *qkv,
                                  const swin_attention *a, const swin_windows *g, swin_observer *scores,
                                  swin_observer *probabilities);

    /* ---- integer network (NULL where a backend does not offer it) -------------------------------------------------- */
    /* An S8 matrix carries scale, zero_point, qmin and qmax; code = clamp(rint(x * (1 / scale)) + zero_point, qmin, qmax),
     * half to even, NaN to qmin. The three layernorm operators above also take an S8 output. With `shrinks`, S8 outputs of
     * quantize, linear_s8 and normalise_heads, and in half blocks and blocks fc2's input and the parts q, k, v, may carry
     * `shrink` vectors: x is then x * shrink[column], rounded to float32 (or 1 / scale is multiplied by it). */
    bool shrinks;
    bool after_channels; /* swin_linear.after is honoured */

    /* out S8 = x quantized; same shape, no overlap. */
    swin_status (*quantize)(swin_dev *dev, swin_tensor *out, const swin_tensor *x);
    /* codes host [out][in], |code| <= 127; scale host [out], real weight = code * scale (0 for a row of zeros); bias host
     * [out] or NULL. x_zero_point: of the layer's input; its share of every sum is folded in here. */
    swin_status (*linear_s8_prepare)(swin_dev *dev, swin_linear *l, const int8_t *codes, const float *scale,
                                     const float *bias, int out, int in, int x_zero_point);
    /* acc = sum (x - zero point) w, exact in INT32; v = acc * (x->scale * scale[n]); after_scale > 0: v is rounded to
     * [-127, 127] steps of after_scale, or of l->after[n] (modes 1 and 2); v = act(v + bias). y is `parts` equal column ranges of one matrix,
     * each F32 (v), S8 (v quantized with that part's scale) or S32 (acc itself). */
    swin_status (*linear_s8)(swin_dev *dev, swin_tensor *y, int parts, const swin_tensor *x,
                             const swin_linear *l, float after_scale, swin_act act);
    /* residual += v, as linear_residual; v as above without an activation. */
    swin_status (*linear_s8_residual)(swin_dev *dev, swin_tensor *residual, const swin_tensor *x,
                                      const swin_linear *l, float after_scale, const swin_windows *g);
    /* Window attention on codes. qkv: the S8 parts q, k, v [rows][C], each with its scale; with `shrinks` also with a
     * `shrink`, one number for all columns of a head, and a head's scale is then scale / shrink. Scores are INT32 sums times
     * a->scale (q.scale k.scale), then as in `attention`. EXACT: probabilities are quantized with prob_scale to [0, 127];
     * U8: codes = rint(255 exp(s - max)), divided by their sum after A.V. The INT32 sums of A.V become out: F32, or S8 with
     * out's scale. */
    swin_status (*attention_s8)(swin_dev *dev, swin_tensor *out, const swin_tensor qkv[3],
                                const swin_attention *a, float prob_scale, const swin_windows *g);

    /* Optional half blocks on integers, in place on the residual stream x: equal bits to the operators above one after the
     * other. parts: how q, k, v are quantized (no data). NULL or SWIN_ERR_UNSUPPORTED as for attention_half. */
    swin_status (*attention_half_s8)(swin_dev *dev, swin_tensor *x, const swin_norm *n,
                                     const swin_layer_s8 *qkv, const swin_tensor parts[3],
                                     const swin_attention *a, float prob_scale, const swin_layer_s8 *proj,
                                     const swin_windows *g);
    swin_status (*mlp_half_s8)(swin_dev *dev, swin_tensor *x, const swin_norm *n, const swin_layer_s8 *fc1,
                               const swin_layer_s8 *fc2);
    /* Optional, where all layers of some blocks run on integers: `count` blocks of one family one after the other, in place
     * on x; g's shift is not read. As the halves, but what LayerNorm reads between V1's halves is not rounded to x's type,
     * or not as coarsely: a half-precision stream would move codes there. */
    swin_status (*blocks_s8)(swin_dev *dev, swin_tensor *x, const swin_block_s8 *blocks, int count,
                             const swin_windows *g);
    /* Swin V2's halves: as the operators, but a product that is rounded before its bias is not rounded to x's type after it,
     * nor LayerNorm's output before it is added, nor the sum before it becomes codes->next. raw: how queries and keys become codes before normalise_heads (dtype F32: they do
     * not); parts: after it, and v. */
    swin_status (*attention_half_v2_s8)(swin_dev *dev, swin_tensor *x, const swin_stream_s8 *codes,
                                        const swin_norm *n, const swin_layer_s8 *qkv,
                                        const swin_tensor raw[2], const swin_tensor parts[3],
                                        const float *head_scale, const swin_attention *a, float prob_scale,
                                        const swin_layer_s8 *proj, const swin_windows *g);
    swin_status (*mlp_half_v2_s8)(swin_dev *dev, swin_tensor *x, const swin_stream_s8 *codes,
                                  const swin_norm *n, const swin_layer_s8 *fc1, const swin_layer_s8 *fc2);
    /* out = W LayerNorm(x) of four neighbours, as layernorm_merge and then linear_s8 with one part. */
    swin_status (*merge_s8)(swin_dev *dev, swin_tensor *out, const swin_tensor *x, const swin_norm *n,
                            const swin_layer_s8 *reduction, const swin_windows *g);

    /* Activations and weights may really be F16 or BF16 (cuda). False: the walk emulates them with round_to. */
    bool native_half;

    /* ---- optional: NULL where a backend does not offer them -------------------------------------------------------- */
    /* Work queued between begin and end is recorded instead of run; launch queues all of it again, with the same pointers
     * and sizes. What is recorded must have run once before (memory may grow then). A failure inside still needs end,
     * which then gives no graph. */
    swin_status (*graph_begin)(swin_dev *dev);
    swin_status (*graph_end)(swin_dev *dev, swin_graph **graph);
    swin_status (*graph_launch)(swin_dev *dev, swin_graph *graph);
    void (*graph_free)(swin_dev *dev, swin_graph *graph); /* NULL is fine */
    /* Bytes of the device's memory that are free and that there are. */
    swin_status (*memory)(swin_dev *dev, size_t *free_bytes, size_t *total_bytes);
    /* From on to off, every product tries its ways and the fastest is kept, for this device and for later runs on it
     * (a file in the user's cache folder). All of them give the same bits. */
    swin_status (*tune)(swin_dev *dev, bool on);
    /* Swin V2's cosine attention: every head's D columns of a row, divided by max(their L2 norm, 1e-12) and multiplied by
     * head_scale[head] ([heads] float32, device; NULL: 1), both in float32. x (F32, or S8 codes of zero point 0) and out
     * (F32, or S8) have the same shape; out may be x's memory where their elements have one size. NULL: no Swin V2. */
    swin_status (*normalise_heads)(swin_dev *dev, swin_tensor *out, const swin_tensor *x, int heads,
                                   const float *head_scale);
    /* Optional, like the half blocks: out = reduction(layernorm_merge(x)). */
    swin_status (*merge)(swin_dev *dev, swin_tensor *out, const swin_tensor *x, const swin_norm *n,
                         const swin_linear *reduction, const swin_windows *g);
    /* Optional, for pipelines of batches through two places of the device's memory in turn. upload_beside: as upload, but
     * the copy runs beside work that is already queued; it waits only for what was queued before the previous
     * upload_beside, and what is queued from now on waits for it. download_later: queue a download and return; slot: 0
     * or 1. download_wait: wait for that slot's and take its bytes. */
    swin_status (*upload_beside)(swin_dev *dev, void *dst, const void *host, size_t bytes);
    swin_status (*download_later)(swin_dev *dev, int slot, const void *src, size_t bytes);
    swin_status (*download_wait)(swin_dev *dev, int slot, void *host, size_t bytes);
    /* Optional: a named range for profilers opens, or with NULL the innermost closes. */
    void (*range)(swin_dev *dev, const char *name);
    /* Optional: what these observe is what `observe` would be given between the plain operators, bit for bit, without
     * further reads of memory. All observers are different ones.
     * bias_act_observed: y to `before`, then bias_act, then `parts` (1 or 3) equal column ranges of y to after[i]. */
    swin_status (*bias_act_observed)(swin_dev *dev, swin_tensor *y, const float *bias, swin_act act,
                                     swin_observer *before, swin_observer *const after[3], int parts);
    /* y to `product`, then bias_act without an activation (bias NULL: not), y to `local`, then residual_add, and the
     * residual to `sum` unless that is NULL. What y holds afterwards is unspecified. */
    swin_status (*residual_add_observed)(swin_dev *dev, swin_tensor *residual, swin_tensor *y,
                                         const float *bias, const swin_windows *g, swin_observer *product,
                                         swin_observer *local, swin_observer *sum);

    /* ---- float32 matrices by columns: statistics without their values travelling -------------------------------------- */
    /* In place: x [r][k] *= factor[k]. factor: host [cols]. */
    swin_status (*scale_columns)(swin_dev *dev, swin_tensor *x, const float *factor);
    /* x is `runs` equal runs of rows, one below the other; what m asks for of each. Waits. Sums are in double, in an order
     * that depends on a run's shape alone. */
    swin_status (*moments)(swin_dev *dev, const swin_moments *m, const swin_tensor *x, int runs);
    /* host [n][cols] = rows row[0], row[1], ... of x. Waits. */
    swin_status (*take_rows)(swin_dev *dev, float *host, const swin_tensor *x, const int64_t *row, int n);
};

/* The backends of this build, best last tried by "auto": cuda where a GPU answers, else cpu. NULL ends the list. */
const swin_ops *const *swin_backends(void);

/* Open the backend of that name; "auto" takes cuda when a GPU is usable, else cpu, and notes which. */
swin_status swin_dev_open(swin_dev **dev, const char *backend, const swin_dev_opts *opts);
void swin_dev_close(swin_dev *dev); /* NULL is fine */

#endif
