/* Bias correction: what quantization does to the mean of a layer's output goes into its bias. Layer by layer along the
 * quantized network, so that each one sees what those before it, corrected, hand on.
 *
 * A correction is shrunk by how well the images agree on it: d * max(0, 1 - (standard error of d)^2 / d^2).
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "calib/recover_impl.h"
#include "runtime/swin/outputs.h"

/* Each image's mean over its tokens, channel by channel, of what passes a site. */
typedef struct means {
    swin_site site;
    double *mean; /* owned: [fit][channels] */
    int channels;
} means;

typedef struct watch {
    means *all;
    int count;
} watch;

static means *means_at(const watch *w, swin_site site)
{
    for (int i = 0; i < w->count; i++)
        if (w->all[i].site == site) return &w->all[i];
    return NULL;
}

static bool wants(void *user, swin_site site)
{
    return means_at(user, site) != NULL;
}

static swin_status at(void *user, const swin_tap_point *p)
{
    means *m = means_at(user, p->site);
    const size_t at = (size_t)p->image * (size_t)m->channels, n = (size_t)p->images * (size_t)m->channels;
    const double rows = (double)(p->x->rows / p->images);
    if (p->x->cols != m->channels)
        return swin_fail(SWIN_ERR_MISMATCH, "--recover: %lld columns instead of %d", (long long)p->x->cols,
                         m->channels);
    SWIN_TRY(p->dev->ops->moments(p->dev, &(swin_moments){ .sum = m->mean + at }, p->x, p->images));
    for (size_t i = at; i < at + n; i++) m->mean[i] /= rows;
    return SWIN_OK;
}

static swin_status means_init(means *m, const swin_recover *r, swin_site site, int channels)
{
    *m = (means){ .site = site, .channels = channels };
    m->mean = calloc((size_t)r->fit * (size_t)channels, sizeof *m->mean);
    return m->mean ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "--recover: no memory for %d means", channels);
}

/* What to add to the quantized mean of a channel. */
static double correction(const means *f, const means *q, int images, int channel)
{
    double sum = 0, square = 0;
    for (int i = 0; i < images; i++) {
        const size_t at = (size_t)i * (size_t)f->channels + (size_t)channel;
        const double d = f->mean[at] - q->mean[at];
        sum += d;
        square += d * d;
    }
    const double d = sum / images;
    if (images < 2 || d == 0) return 0;
    const double error = fmax(0.0, square / images - d * d) / (images - 1);
    return d * fmax(0.0, 1 - error / (d * d));
}

/* ---- where a block can be corrected -------------------------------------------------------------------------------- */

typedef struct place {
    swin_site_kind seen; /* what is compared */
    int channels;
    float *bias[3]; /* its thirds; one only: bias[0] is all of it */
    bool thirds;
} place;

enum { PLACES = 4 };

static void places_of(place p[PLACES], const swin_recover *r, swin_weights *w, int stage, int block)
{
    const swin_stage s = swin_config_stage(r->config, stage);
    swin_block_weights *b = &w->stages[stage].blocks[block];
    const int c = s.channels;
    const bool v2 = r->config->family == SWIN_V2;
    p[0] = (place){ SWIN_SITE_QKV_AFTERGEMM, 3 * c, { b->qkv_bias }, false };
    if (v2) p[0] = (place){ SWIN_SITE_QKV_AFTERGEMM, 3 * c, { b->q_bias, NULL, b->v_bias }, true };
    /* The residual stream behind each half: V2's halves end in a norm. */
    p[1] = (place){ v2 ? SWIN_SITE_ADD2_RESIDUAL : SWIN_SITE_LAYERNORM_INPUT2,
                    c,
                    { v2 ? b->norm1_bias : b->proj_bias },
                    false };
    p[2] = (place){ SWIN_SITE_FC1_AFTERGEMM, s.hidden, { b->fc1_bias }, false };
    p[3] = (place){ SWIN_SITE_BLOCK_OUT, c, { v2 ? b->norm2_bias : b->fc2_bias }, false };
}

/* Add to the biases; shift [channels] gets what was added. */
static int mend(const place *p, const means *f, const means *q, int images, float *shift)
{
    int changed = 0;
    const int third = p->thirds ? p->channels / 3 : p->channels;
    for (int k = 0; k < p->channels; k++) {
        float *bias = p->bias[k / third];
        const float d = bias ? (float)correction(f, q, images, k) : 0;
        if (shift) shift[k] = d;
        if (d == 0) continue;
        bias[k % third] += d;
        changed++;
    }
    return changed;
}

/* ---- the walk -------------------------------------------------------------------------------------------------------- */

typedef struct job {
    swin_recover *r;
    swin_net *net; /* r's */
    swin_sim *sim;
    recover_walk f, q; /* float and quantized, abreast */
    int changed;
} job;

/* The stream behind a part has passed already when its bias is mended: a bias on its way is a shift. */
static swin_status shift_stream(job *j, int part, const float *shift)
{
    const swin_ops *ops = j->r->dev->ops;
    int tokens, channels;
    void *there;
    swin_net_stream(j->r->config, part, &tokens, &channels);
    swin_tensor stream = swin_matrix(j->q.stream, SWIN_F32, (int64_t)j->r->fit * tokens, channels);
    SWIN_TRY(ops->alloc(j->r->dev, &there, (size_t)channels * sizeof *shift));
    swin_status st = ops->upload(j->r->dev, there, shift, (size_t)channels * sizeof *shift);
    if (st == SWIN_OK) st = ops->bias_act(j->r->dev, &stream, there, SWIN_ACT_NONE);
    ops->free(j->r->dev, there);
    return st;
}

/* Compare at one place and mend; only_seen: the pass may end there. */
static swin_status correct_place(job *j, const place *p, const means *f, int stage, int block)
{
    swin_recover *r = j->r;
    means q;
    float *shift = NULL;
    const bool last = p->seen == SWIN_SITE_BLOCK_OUT;
    swin_status st = means_init(&q, r, swin_site_make(stage, block, p->seen), p->channels);
    watch w = { &q, 1 };
    const swin_tap tap = { .user = &w, .wants = wants, .at = at };
    const int part = j->q.part;
    j->q.stops = !last;
    if (st == SWIN_OK) st = recover_walk_part(&j->q, &tap, last);
    if (st == SWIN_OK && !(shift = malloc((size_t)p->channels * sizeof *shift)))
        st = swin_fail(SWIN_ERR_MEM, "--recover: no memory for %d channels", p->channels);
    if (st == SWIN_OK) j->changed += mend(p, f, &q, r->fit, shift);
    if (st == SWIN_OK) st = swin_sim_reload_biases(j->sim, part, &r->w);
    if (st == SWIN_OK && last) st = shift_stream(j, part, shift);
    free(shift);
    free(q.mean);
    return st;
}

static swin_status correct_block(job *j, int stage, int block)
{
    place p[PLACES];
    means f[PLACES] = { 0 };
    watch w = { f, PLACES };
    const swin_tap tap = { .user = &w, .wants = wants, .at = at };
    swin_status st = SWIN_OK;
    places_of(p, j->r, &j->r->w, stage, block);
    for (int i = 0; st == SWIN_OK && i < PLACES; i++)
        st = means_init(&f[i], j->r, swin_site_make(stage, block, p[i].seen), p[i].channels);
    if (st == SWIN_OK) st = recover_walk_part(&j->f, &tap, true);
    for (int i = 0; st == SWIN_OK && i < PLACES; i++) st = correct_place(j, &p[i], &f[i], stage, block);
    for (int i = 0; i < PLACES; i++) free(f[i].mean);
    return st;
}

static swin_status correct_all(job *j)
{
    const swin_config *c = j->r->config;
    const int parts = swin_output_count(c);
    SWIN_TRY(recover_walk_begin(&j->f, j->r, j->net, NULL));
    SWIN_TRY(recover_walk_begin(&j->q, j->r, NULL, j->sim));
    while (j->q.part < parts - 1) {
        const swin_site out = swin_output_at(c, j->q.part);
        if (swin_site_kind_of(out) == SWIN_SITE_BLOCK_OUT) {
            SWIN_TRY(correct_block(j, swin_site_stage(out), swin_site_block(out)));
        } else { /* a merge has no bias; what it does to the mean is seen by the next block */
            SWIN_TRY(recover_walk_part(&j->f, NULL, true));
            SWIN_TRY(recover_walk_part(&j->q, NULL, true));
        }
    }
    return SWIN_OK;
}

static swin_status correct_biases(swin_recover *r, char *changed, size_t size)
{
    job j = { .r = r };
    swin_status st = recover_net(r, &j.net);
    if (st == SWIN_OK) st = recover_sim(r, &j.sim);
    if (st == SWIN_OK) st = correct_all(&j);
    snprintf(changed, size, "%d biases", j.changed);
    recover_walk_end(&j.f);
    recover_walk_end(&j.q);
    return st;
}

const swin_recover_method swin_recover_bias = {
    .name = "bias",
    .help = "what quantization does to the means of outputs, into the biases",
    .levels = SWIN_RECOVER_FAST | SWIN_RECOVER_BEST,
    .when = SWIN_RECOVER_AFTER,
    .guarded = true,
    .follows = true,
    .run = correct_biases,
};
