/* calib/recover_impl.h - what the recovery methods share. Private to recover*.c.
 *
 * Letters: R sampled rows, K inputs and N outputs of a Linear, C channels, h heads, D head size.
 */
#ifndef SWIN_CALIB_RECOVER_IMPL_H
#define SWIN_CALIB_RECOVER_IMPL_H

#include "calib/recover.h"
#include "quant/linear_weight.h"
#include "quant/sim.h"
#include "runtime/base/pool.h"
#include "runtime/swin/net.h"

struct swin_recover {
    swin_dev *dev;
    const swin_config *config;
    const swin_weights *before;
    swin_weights w; /* owned: what the methods make of it */
    swin_weights
        exact; /* owned: as w was when the first method AFTER began; with f's factors the float network */
    swin_calib_file *f;
    swin_recover_opts o;
    swin_pool *pool;
    swin_net *net;         /* owned: the float network, for recover_net */
    swin_sim *sim;         /* owned: the quantized one, for recover_sim */
    bool net_old, sim_old; /* w has become another one since */
    size_t *indices;       /* owned: [count] images chosen, broken ones included */
    size_t count;
    float *pixels;   /* owned: [fit + judges][3][S][S], the judges last */
    int fit, judges; /* with very few images they are the same ones: then [fit] alone */
    const float *judge_pixels;
    float *reference; /* owned: [judges][classes], fp32 */
    unsigned done;    /* methods that have run: bits of o.methods */
    void *room[2];    /* owned, dev's memory: what products read and make; grows */
    size_t room_bytes[2];
    double walk_s, product_s; /* seconds spent so far: in walks; in products */
    double open_s, judge_s, took_s[SWIN_RECOVER_STEPS_MAX],
        other_s; /* all of them: took_s by row of the table */
    double db;   /* SQNR of the judges' logits, as measured last */
    bool measured;
};

/* Whether heads of q, k and v will be given scales of their own (recover_heads.c). */
bool recover_heads_follow(const swin_recover *r);

/* ---- recover_judge.c ---------------------------------------------------------------------------------------------- */

/* Choose, read and divide the images. */
swin_status recover_take_images(swin_recover *r, swin_dataset *data);
/* fp32's logits for the judges. */
swin_status recover_reference(swin_recover *r);

/* The float network as it was when the first method AFTER began, before that of w; and the network that f and w make, quantized.
 * Both are r's, kept until a method changes w: what does so while it still needs them says recover_changed(), or gives the
 * second one the changed parts anew. */
swin_status recover_net(swin_recover *r, swin_net **net);
swin_status recover_sim(swin_recover *r, swin_sim **sim);
void recover_changed(swin_recover *r);

/* SQNR of the judges' logits, with f's scales and w, and the percentage with fp32's top-1. */
swin_status recover_judge(swin_recover *r, double *db, double *agreement);

/* ---- recover_undo.c ------------------------------------------------------------------------------------------------ */

typedef struct recover_saved {
    swin_site_record *sites; /* owned: shallow copies */
    float *amax, *channels;  /* owned: of the weight records */
    swin_weights w;          /* owned */
} recover_saved;

swin_status recover_save(recover_saved *s, const swin_recover *r);
void recover_restore(swin_recover *r, recover_saved *s);
void recover_saved_free(recover_saved *s);

/* ---- recover_walk.c: the fit images through the network, part by part ------------------------------------------ */

typedef struct recover_walk {
    swin_recover *r;
    swin_net *net; /* one of the two; net: float, with f's factors */
    swin_sim *sim;
    float *stream; /* owned, dev's memory: [fit][tokens][C] that enters `part` */
    int part;
    bool stops;   /* the tap wants one site alone: once all images of a pass have been there, the pass ends */
    bool stopped; /* it did */
    int width;    /* images in a pass that ends early: as many as the walk shows at once; 0: not known yet */
} recover_walk;

/* Run part 0. Exactly one of net and sim is given. */
swin_status recover_walk_begin(recover_walk *k, swin_recover *r, swin_net *net, swin_sim *sim);
/* The part that the walk stands before, over all images; advance: and go on behind it. The tap sees each image once, alone
 * or with others; p->image counts from the first fit image. */
swin_status recover_walk_part(recover_walk *k, const swin_tap *tap, bool advance);
void recover_walk_end(recover_walk *k);

/* Rows of what passes a site: evenly many from every image, at places that depend on the seed and the image's number alone.
 * And the range of every channel, over all rows of all images. */
typedef struct recover_samples {
    swin_site site;
    uint64_t seed;
    float *x;       /* owned: [rows][cols] */
    float *lo, *hi; /* owned: [cols], lo <= 0 <= hi */
    int rows, cols, per_image;
} recover_samples;

/* About `rows` rows of a site with `cols` channels; 0: ranges alone. */
swin_status recover_samples_init(recover_samples *s, const swin_recover *r, swin_site site, int cols,
                                 int rows, uint64_t seed);
void recover_samples_free(recover_samples *s);

typedef struct recover_gather {
    swin_recover *r;
    recover_samples *samples;
    int count;
} recover_gather;
swin_tap recover_gather_tap(recover_gather *g);

/* ---- recover_error.c, recover_columns.c: what quantizing costs ------------------------------------------------------ */

enum { RECOVER_CLIPS = 8 };

/* A Linear layer and inputs to it, prepared to measure errors of its output. The output's error is always taken without its
 * mean over the rows, which a bias can mend, and weighted channel by channel. */
typedef struct recover_gemm {
    swin_recover *r;
    const float *x; /* [rows][k], borrowed */
    const float *w; /* [n][k], borrowed */
    int rows, k, n;
    float *row_weight; /* owned: [n] square roots of what an output channel's error counts */
    float *energy;     /* owned: [k] sum over n of (row_weight w)^2: what an input channel's error counts */
    float *mean, *variance; /* owned: [k] of the inputs */
    float *w_amax;          /* owned: [k] of the columns of row_weight w */
    swin_linear weights,
        inputs; /* prepared: row_weight w; x without its mean, from the first weight error on */
} recover_gemm;

/* x: rows of inputs; w [n][x->cols].
 * importance [n]: what the squared error of an output channel counts; NULL: 1 each. */
swin_status recover_gemm_init(recover_gemm *g, swin_recover *r, const recover_samples *x, const float *w,
                              int n, const float *importance);
void recover_gemm_free(recover_gemm *g);

/* c [k]: inputs are divided by c and the weight's columns multiplied (NULL: 1). Squared error of the output per row when the
 * inputs are quantized with q, exactly and estimated channel by channel. */
swin_status recover_input_error(recover_gemm *g, const float *c, const swin_quant *q, double *error);
swin_status recover_input_estimates(double *error, const recover_gemm *g, const float *c, const swin_quant *q,
                                    int count); /* with each of q [count], count up to RECOVER_CLIPS */
/* The same when the weights are quantized, one scale for each output channel. */
swin_status recover_weight_error(recover_gemm *g, const float *c, double *error);
swin_status recover_weight_estimate(double *error, const recover_gemm *g, const float *c);

/* Error of one row's weights k, each multiplied by c, quantized to its largest, and divided by c (times inverse) again. */
void recover_row_error(float *e, const float *w, const float *c, const float *inverse, int k);
/* [k] a copy of c or its inverse; of ones for c NULL. Caller frees. NULL: no memory. */
float *recover_ones_or(const float *c, int k, bool inverse);

/* error [count], count up to RECOVER_CLIPS: sum over columns of weight[k] * mean squared error of x [rows][ld], columns divided
 * by c (NULL: 1), with each of the quantizers. centered: without the square of the error's mean, which does not count where a
 * bias mends it or softmax does not see it. */
void recover_column_errors(double *error, const swin_quant *q, int count, const float *x, int rows, int k,
                           int ld, const float *c, const double *weight, bool centered);

/* The range that suits each column of samples by itself, at most the largest magnitude of [lo, hi]. */
swin_status recover_column_ranges(swin_recover *r, float *top, const float *x, int rows, int cols, int ld,
                                  const float *lo, const float *hi);

/* y [rows][n] = x [rows][k] w [n][k]^T + bias (NULL: none), on the device and back. */
swin_status recover_linear(swin_recover *r, float *y, const float *x, int rows, const float *w,
                           const float *bias, int n, int k);

/* ---- recover_covariance.c -------------------------------------------------------------------------------------------- */

/* h [k][k]: covariance of the columns of x. */
swin_status recover_covariance(swin_recover *r, float *h, const recover_samples *x);
/* In place: the lower half of l [k][k] becomes L of L L^T; the upper half is not read. SWIN_ERR_VALUE: not positive. */
swin_status recover_cholesky(swin_recover *r, double *l, int k);

/* ---- recover_view.c: a block as methods look at it ---------------------------------------------------------------- */

typedef struct recover_view {
    swin_recover *r;
    int part, stage, block;
    bool merge;
    swin_stage shape;
    swin_block_weights *b;               /* r->w's; NULL for a merge */
    recover_samples qkv, proj, fc1, fc2; /* inputs; a merge: only qkv, the input of reduction */
    recover_samples operands[3];         /* ranges alone: q, k, v */
    float *y;                            /* owned: [qkv.rows][3C] q, k, v */
    float *hidden;                       /* owned: [fc1.rows][hidden] fc1's output before GELU */
    float *qkv_importance,
        *fc1_importance; /* owned: [3C], [hidden] what errors there count, in the output's units */
    float *
        worth; /* owned: [2C] of a squared error in proj's and in fc2's outputs; of a merge: in reduction's */
    double share; /* of an error's variance in the values that is left in what attention makes of them */
    double *q_importance, *k_importance, *v_importance; /* into one owned block: [C] each */
} recover_view;

/* Place a view on the part that k stands before, gather about `rows` inputs of its layers and advance k. What one method
 * has learnt from some rows, another should not judge on the same: they give different seeds. */
swin_status recover_view_open(recover_view *v, recover_walk *k, int rows, uint64_t seed);
/* What follows from samples and weights: y, hidden, importances. Not for a merge. */
swin_status recover_view_measure(recover_view *v);
void recover_view_close(recover_view *v);

/* The qkv bias, [3C]; V2 joins its two. Caller frees. NULL: no memory. */
float *recover_qkv_bias(const recover_view *v);

/* ---- recover_stream.c --------------------------------------------------------------------------------------------- */

/* worth [2C]: what a squared error in each channel of the merge's product counts in the next stage. */
swin_status recover_merge_worth(float *worth, const swin_recover *r, int stage);

/* What fc2 or a merge hands to the stream, on sampled tokens. */
typedef struct recover_stream {
    swin_site product; /* its _aftergemm site */
    recover_samples y,
        x; /* the product; what a LayerNorm makes of it: V1 the stream behind it, V2 the product with its bias */
    float *worth; /* owned: [channels] */
} recover_stream;

/* Of the part that k stands before, where it stays. */
swin_status recover_stream_open(recover_stream *s, recover_walk *k, int rows, uint64_t seed);
void recover_stream_close(recover_stream *s);

/* Squared error behind LayerNorm, without its mean, per token, when q rounds the product. */
swin_status recover_stream_error(double *error, const recover_stream *s, const swin_quant *q);

/* ---- recover_equalize.c, recover_balance.c ------------------------------------------------------------------------- */

enum { RECOVER_STRENGTHS = 11 };
extern const float
    recover_clips[RECOVER_CLIPS]; /* shares of a range at which it is cut, when only an estimate is wanted */

/* c_k = x_k^strength / w_k^(1 - strength), their geometric mean 1. */
void recover_factors(float *c, const float *x, const float *w, int k, double strength);
/* The site's quantizer when its values, columns in [lo, hi] divided by c (NULL: 1), are cut at `clip` of the widest of the
 * ranges `top`. */
swin_status recover_quantizer(swin_quant *q, const swin_recover *r, swin_site site, const float *lo,
                              const float *hi, const float *top, const float *c, int k, float clip);
void recover_scale_columns(float *w, int rows, int cols, const float *c);
/* Q against K, V against proj. v has been measured. *count: pairs changed. */
swin_status recover_balance(recover_view *v, int *count);

#define RECOVER_ROWS 512 /* sampled rows that errors are measured on */

#endif
