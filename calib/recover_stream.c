/* Errors in the residual stream, by what follows.
 *
 * What a merge's outputs are worth: the next stage's layers read them behind LayerNorm, which divides all channels of a token by
 * the same number, so a channel counts by gains and weights.
 * What rounding a product of fc2 or of a merge costs: a channel that stands out moves that number, and with it all others, so
 * the error is taken behind LayerNorm, on tokens. */
#include <math.h>
#include <stdlib.h>

#include "calib/recover_impl.h"
#include "calib/recover_step.h"
#include "runtime/swin/outputs.h"

enum { AHEAD = 3 }; /* blocks that are looked at, besides the stage's end */

typedef struct reader {
    const float *gamma; /* [groups C]; NULL: 1 */
    const float *w;     /* [rows][groups C] */
    int rows, groups;
} reader;

enum { LANES = 16 };

/* Sum of (gamma w)^2, and the terms into square [n]. */
static float row_energy(float *square, const float *w, const float *gamma, int n)
{
    float sum[LANES] = { 0 }, all = 0;
    for (int k = 0; k < n; k++) square[k] = gamma ? gamma[k] * w[k] * gamma[k] * w[k] : w[k] * w[k];
    int k = 0;
    for (; k + LANES <= n; k += LANES)
        for (int j = 0; j < LANES; j++) sum[j] += square[k + j];
    for (; k < n; k++) all += square[k];
    for (int j = 0; j < LANES; j++) all += sum[j];
    return all;
}

/* worth [channels] += the reader's, with a mean of 1. Every output of the reader counts alike, whatever its size: rows of
 * queries, keys and values may be scaled against each other. room: [groups channels]. */
static void add_reader(float *worth, const reader *o, int channels, float *room)
{
    const int n = o->groups * channels;
    for (int r = 0; r < o->rows; r++) {
        const float energy = row_energy(room, o->w + (size_t)r * (size_t)n, o->gamma, n);
        const float scale = energy > 0 ? (float)channels / energy / (float)o->rows : 0;
        for (int g = 0; g < o->groups; g++)
            for (int k = 0; k < channels; k++) worth[k] += room[g * channels + k] * scale;
    }
}

static void add_block(float *worth, float *room, const swin_recover *r, const swin_stage *s,
                      const swin_block_weights *b)
{
    const bool v1 = r->config->family == SWIN_V1;
    const int c = s->channels;
    add_reader(worth, &(reader){ v1 ? b->norm1_weight : NULL, b->qkv_weight, 3 * c, 1 }, c, room);
    add_reader(worth, &(reader){ v1 ? b->norm2_weight : NULL, b->fc1_weight, s->hidden, 1 }, c, room);
}

static void add_end(float *worth, float *room, const swin_recover *r, int stage, int c)
{
    const swin_stage_weights *s = &r->w.stages[stage];
    if (s->reduction_weight) {
        const float *gamma = r->config->family == SWIN_V1 ? s->merge_norm_weight : NULL;
        add_reader(worth, &(reader){ gamma, s->reduction_weight, 2 * c, 4 }, c, room);
    } else if (r->w.head_weight) {
        add_reader(worth, &(reader){ r->w.norm_weight, r->w.head_weight, r->config->num_classes, 1 }, c,
                   room);
    }
}

swin_status recover_merge_worth(float *worth, const swin_recover *r, int stage)
{
    const swin_stage s = swin_config_stage(r->config, stage + 1);
    const float *gamma = r->config->family == SWIN_V2 ? r->w.stages[stage].merge_norm_weight : NULL;
    float *room = malloc(4 * (size_t)s.channels * sizeof *room), most = 0;
    if (!room) return swin_fail(SWIN_ERR_MEM, "--recover: no memory for %d channels", s.channels);
    for (int k = 0; k < s.channels; k++) worth[k] = 0;
    for (int i = 0; i < s.depth && i < AHEAD; i++)
        add_block(worth, room, r, &s, &r->w.stages[stage + 1].blocks[i]);
    add_end(worth, room, r, stage + 1, s.channels);
    free(room);
    for (int k = 0; k < s.channels; k++) {
        if (gamma) worth[k] *= gamma[k] * gamma[k]; /* Swin V2 puts a LayerNorm behind the product */
        most = worth[k] > most ? worth[k] : most;
    }
    for (int k = 0; most == 0 && k < s.channels; k++)
        worth[k] = 1; /* nobody reads it: no reason to prefer any */
    return SWIN_OK;
}

/* ---- errors behind LayerNorm ---------------------------------------------------------------------------------------- */

static const double epsilon = 1e-5;

/* out [n] = (x - mean) / deviation. */
static void normalise(double *out, const double *x, int n)
{
    double mean = 0, square = 0;
    for (int k = 0; k < n; k++) mean += x[k] / n;
    for (int k = 0; k < n; k++) square += (x[k] - mean) * (x[k] - mean) / n;
    const double inverse = 1 / sqrt(square + epsilon);
    for (int k = 0; k < n; k++) out[k] = (x[k] - mean) * inverse;
}

swin_status recover_stream_error(double *error, const recover_stream *s, const swin_quant *q)
{
    const recover_step step = recover_step_of(q);
    const size_t n = (size_t)s->y.cols;
    const int rows = s->y.rows;
    double *room = calloc(6 * n, sizeof *room);
    if (!room) return swin_fail(SWIN_ERR_MEM, "--recover: no memory for %d channels", s->y.cols);
    double *x = room, *moved = x + n, *clean = moved + n, *off = clean + n, *sum = off + n, *square = sum + n;
    for (int r = 0; r < rows; r++) {
        const size_t at = (size_t)r * n;
        for (size_t k = 0; k < n; k++) {
            x[k] = (double)s->x.x[at + k];
            moved[k] = x[k] + (double)recover_step_error(&step, s->y.x[at + k]);
        }
        normalise(clean, x, (int)n);
        normalise(off, moved, (int)n);
        for (size_t k = 0; k < n; k++) {
            const double d = off[k] - clean[k];
            sum[k] += d;
            square[k] += d * d;
        }
    }
    *error = 0;
    for (size_t k = 0; k < n; k++) *error += (square[k] - sum[k] * sum[k] / rows) / rows;
    free(room);
    return SWIN_OK;
}

/* ---- samples --------------------------------------------------------------------------------------------------------- */

static swin_site product_of(const swin_recover *r, int part)
{
    const swin_site out = swin_output_at(r->config, part);
    const bool merge = swin_site_kind_of(out) == SWIN_SITE_MERGE_OUT;
    return swin_site_make(swin_site_stage(out), swin_site_block(out),
                          merge ? SWIN_SITE_REDUCTION_AFTERGEMM : SWIN_SITE_FC2_AFTERGEMM);
}

/* Swin V2 normalises the product itself, with its bias (merging has none). */
static void add_bias(recover_stream *s, const swin_recover *r)
{
    const swin_block_weights *b =
        &r->exact.stages[swin_site_stage(s->product)].blocks[swin_site_block(s->product)];
    const float *bias = swin_site_kind_of(s->product) == SWIN_SITE_FC2_AFTERGEMM ? b->fc2_bias : NULL;
    const size_t n = (size_t)s->y.cols;
    for (size_t i = 0; i < (size_t)s->y.rows * n; i++) s->x.x[i] = s->y.x[i] + (bias ? bias[i % n] : 0);
}

swin_status recover_stream_open(recover_stream *s, recover_walk *k, int rows, uint64_t seed)
{
    swin_recover *r = k->r;
    swin_linear_weight l;
    recover_samples both[2] = { 0 };
    *s = (recover_stream){ .product = product_of(r, k->part) };
    SWIN_TRY(swin_linear_shape_of(&l, r->config, s->product - 1));
    swin_status st = recover_samples_init(&both[0], r, s->product, l.out, rows, seed);
    if (st == SWIN_OK)
        st = recover_samples_init(&both[1], r, swin_output_at(r->config, k->part), l.out, rows, seed);
    recover_gather g = { .r = r, .samples = both, .count = 2 };
    const swin_tap tap = recover_gather_tap(&g);
    if (st == SWIN_OK) st = recover_walk_part(k, &tap, false);
    s->y = both[0];
    s->x = both[1];
    if (st == SWIN_OK && r->config->family == SWIN_V2) add_bias(s, r);
    if (st != SWIN_OK) recover_stream_close(s);
    return st;
}

void recover_stream_close(recover_stream *s)
{
    recover_samples_free(&s->x);
    recover_samples_free(&s->y);
    *s = (recover_stream){ 0 };
}
