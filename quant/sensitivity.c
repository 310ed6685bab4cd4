#include "quant/sensitivity.h"

#include <stdlib.h>
#include <string.h>

#include "quant/relax.h"
#include "runtime/swin/outputs.h"

/* A network whose sites and weights can be switched: a copy of the file with enabled flags of its own. */
typedef struct switched {
    swin_calib_file f; /* shallow but for sites */
    swin_weights w;    /* owned: what the sim is loaded from */
    swin_sim *sim;
    float *stream, *next; /* owned, dev's memory: [n][tokens][C] that enters `part` */
} switched;

struct swin_sense {
    swin_dev *dev;
    const swin_calib_file *f;
    swin_weights exact, quantized; /* owned */
    const swin_sense_group *groups;
    int count, parts;
    unsigned what;
    switched none, all;
    float *logits, *base;  /* owned: [n][classes] */
    int n;                 /* images that these are made for */
    swin_sense_sums *sums; /* owned: [count] */
    swin_sense_totals totals;
};

/* ---- switching ---------------------------------------------------------------------------------------------------- */

static bool has_weight(const swin_sense_group *g, int sites)
{
    for (int i = 0; i < sites; i++)
        if (swin_site_role_of(g->sites[i]) == SWIN_ROLE_WEIGHT) return true;
    return false;
}

/* Whether something must be prepared anew: weights, or the kind of softmax. */
static bool needs_reload(const swin_sense_group *g, int sites)
{
    for (int i = 0; i < sites; i++)
        if (swin_site_role_of(g->sites[i]) == SWIN_ROLE_SOFTMAX) return true;
    return has_weight(g, sites);
}

/* A quantized layer's matrix is the corrected one, a float layer's the exact one. Biases are corrected against the errors of
 * everything before them as well: they come along only where that is quantized. */
static swin_status choose_layers(swin_sense *s, switched *x, const swin_sense_group *g, int sites)
{
    for (int i = 0; i < sites; i++) {
        const swin_site site = g->sites[i];
        if (swin_site_role_of(site) != SWIN_ROLE_WEIGHT) continue;
        const bool on = x->f.sites[swin_site_index(&x->f.config, site)].enabled;
        SWIN_TRY(swin_relax_layer(&x->w, on ? &s->quantized : &s->exact, &x->f.config, site, x == &s->all));
    }
    return SWIN_OK;
}

/* Only sites that the file itself has on are ever switched on. */
static swin_status turn(swin_sense *s, switched *x, const swin_sense_group *g, int sites, bool on)
{
    for (int i = 0; i < sites; i++) {
        const int at = swin_site_index(&x->f.config, g->sites[i]);
        if (at < 0) return swin_fail(SWIN_ERR_VALUE, "site %#x is not in this network", g->sites[i]);
        x->f.sites[at].enabled = on && s->f->sites[at].enabled;
    }
    if (!needs_reload(g, sites)) return SWIN_OK;
    SWIN_TRY(choose_layers(s, x, g, sites));
    return swin_sim_reload(x->sim, g->part, &x->w);
}

static swin_status switched_init(switched *x, swin_dev *dev, const swin_sense *s, const swin_weights *w,
                                 swin_granularity granularity, bool on)
{
    const size_t sites = (size_t)s->f->nsites;
    x->f = *s->f;
    x->f.sites = malloc((sites + 1) * sizeof *x->f.sites);
    if (!x->f.sites) return swin_fail(SWIN_ERR_MEM, "no memory for %zu sites", sites);
    memcpy(x->f.sites, s->f->sites, sites * sizeof *x->f.sites);
    for (size_t i = 0; !on && i < sites; i++) x->f.sites[i].enabled = false;
    SWIN_TRY(swin_weights_clone(&x->w, w, &s->f->config));
    return swin_sim_create(&x->sim, dev, &x->f, &x->w, granularity);
}

static void switched_free(switched *x, swin_dev *dev)
{
    swin_sim_free(x->sim);
    swin_weights_free(&x->w);
    free(x->f.sites);
    dev->ops->free(dev, x->stream);
    dev->ops->free(dev, x->next);
}

/* ---- set-up ------------------------------------------------------------------------------------------------------- */

swin_status swin_sense_create(swin_sense **out, swin_dev *dev, const swin_calib_file *f,
                              const swin_weights *exact, const swin_weights *w, swin_granularity granularity,
                              const swin_sense_group *groups, int count, unsigned what)
{
    *out = NULL;
    swin_sense *s = calloc(1, sizeof *s);
    if (!s) return swin_fail(SWIN_ERR_MEM, "no memory to measure sensitivity");
    *s = (swin_sense){ .dev = dev, .f = f, .groups = groups, .count = count, .what = what };
    s->parts = swin_output_count(&f->config);
    s->sums = calloc((size_t)count + 1, sizeof *s->sums);
    swin_status st = s->sums ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "no memory for %d groups", count);
    if (st == SWIN_OK) st = swin_weights_clone(&s->exact, exact, &f->config);
    if (st == SWIN_OK) st = swin_weights_clone(&s->quantized, w, &f->config);
    if (st == SWIN_OK) st = switched_init(&s->none, dev, s, exact, granularity, false);
    if (st == SWIN_OK) st = switched_init(&s->all, dev, s, w, granularity, true);
    if (st != SWIN_OK) {
        swin_sense_free(s);
        return st;
    }
    *out = s;
    return SWIN_OK;
}

void swin_sense_free(swin_sense *s)
{
    if (!s) return;
    switched_free(&s->none, s->dev);
    switched_free(&s->all, s->dev);
    swin_weights_free(&s->exact);
    swin_weights_free(&s->quantized);
    free(s->logits);
    free(s->base);
    free(s->sums);
    free(s);
}

static swin_status reserve(swin_sense *s, int n)
{
    if (n <= s->n) return SWIN_OK;
    const swin_ops *ops = s->dev->ops;
    const size_t stream = swin_net_stream_floats(&s->f->config, 1) * (size_t)n * sizeof(float),
                 logits = (size_t)s->f->config.num_classes * (size_t)n * sizeof(float);
    float **streams[] = { &s->none.stream, &s->none.next, &s->all.stream, &s->all.next };
    s->n = 0;
    for (size_t i = 0; i < SWIN_COUNT(streams); i++) {
        void *grown;
        ops->free(s->dev, *streams[i]);
        *streams[i] = NULL;
        SWIN_TRY(ops->alloc(s->dev, &grown, stream));
        *streams[i] = grown;
    }
    free(s->logits);
    free(s->base);
    s->logits = malloc(logits);
    s->base = malloc(logits);
    if (!s->logits || !s->base) return swin_fail(SWIN_ERR_MEM, "no memory for the logits of %d images", n);
    s->n = n;
    return SWIN_OK;
}

/* ---- the pass ----------------------------------------------------------------------------------------------------- */

static void distance(const swin_sense *s, const float *x, const float *ref, int n, double *into)
{
    const size_t classes = (size_t)s->f->config.num_classes;
    for (int i = 0; i < n; i++) {
        double noise = 0;
        for (size_t k = (size_t)i * classes; k < ((size_t)i + 1) * classes; k++) {
            const double d = (double)x[k] - (double)ref[k];
            noise += d * d;
        }
        *into += noise;
    }
}

/* The rest of x's network from a stream that enters the group's part. */
static swin_status rest(swin_sense *s, switched *x, int part, const float *stream, int n)
{
    return swin_sim_forward_parts(x->sim, part, s->parts, stream, n, s->logits, NULL);
}

static swin_status measure_group(swin_sense *s, int i, int n, const float *reference)
{
    const swin_sense_group *g = &s->groups[i];
    if (s->what & SWIN_SENSE_ALONE) {
        SWIN_TRY(turn(s, &s->none, g, g->alone, true));
        SWIN_TRY(rest(s, &s->none, g->part, s->none.stream, n));
        distance(s, s->logits, s->base, n, &s->sums[i].alone);
        SWIN_TRY(turn(s, &s->none, g, g->alone, false));
    }
    if (s->what & SWIN_SENSE_WITHOUT) {
        SWIN_TRY(turn(s, &s->all, g, g->without, false));
        SWIN_TRY(rest(s, &s->all, g->part, s->all.stream, n));
        distance(s, s->logits, reference, n, &s->sums[i].without);
        SWIN_TRY(turn(s, &s->all, g, g->without, true));
    }
    return SWIN_OK;
}

/* Groups [first, end) of one part, switched on one after the other behind the quantized stream. */
static swin_status measure_upto(swin_sense *s, int first, int end, int n, const float *reference)
{
    for (int i = first; i < end; i++) {
        const swin_sense_group *g = &s->groups[i];
        SWIN_TRY(turn(s, &s->none, g, g->alone, true));
        SWIN_TRY(rest(s, &s->none, g->part, s->all.stream, n));
        distance(s, s->logits, reference, n, &s->sums[i].upto);
    }
    for (int i = first; i < end; i++) SWIN_TRY(turn(s, &s->none, &s->groups[i], s->groups[i].alone, false));
    return SWIN_OK;
}

static swin_status advance(switched *x, int part, int n)
{
    SWIN_TRY(swin_sim_forward_parts(x->sim, part, part + 1, x->stream, n, x->next, NULL));
    float *other = x->stream;
    x->stream = x->next;
    x->next = other;
    return SWIN_OK;
}

static swin_status begin(swin_sense *s, const float *images, int n, const float *reference)
{
    SWIN_TRY(reserve(s, n));
    SWIN_TRY(swin_sim_forward_parts(s->none.sim, 0, 1, images, n, s->none.stream, NULL));
    SWIN_TRY(swin_sim_forward_parts(s->all.sim, 0, 1, images, n, s->all.stream, NULL));
    SWIN_TRY(swin_sim_forward_parts(s->none.sim, 1, s->parts, s->none.stream, n, s->base, NULL));
    distance(s, s->base, reference, n, &s->totals.residual);
    return SWIN_OK;
}

swin_status swin_sense_add(swin_sense *s, const float *images, int n, const float *reference,
                           swin_status (*done)(void *user), void *user)
{
    int at = 0;
    SWIN_TRY(begin(s, images, n, reference));
    for (int part = 1; part < s->parts - 1; part++) {
        const int first = at;
        for (; at < s->count && s->groups[at].part == part; at++) {
            SWIN_TRY(measure_group(s, at, n, reference));
            if (done) SWIN_TRY(done(user));
        }
        if (s->what & SWIN_SENSE_UPTO) SWIN_TRY(measure_upto(s, first, at, n, reference));
        SWIN_TRY(advance(&s->none, part, n));
        SWIN_TRY(advance(&s->all, part, n));
    }
    if (at != s->count) return swin_fail(SWIN_ERR_VALUE, "groups of sites are not in the network's order");
    SWIN_TRY(rest(s, &s->all, s->parts - 1, s->all.stream, n));
    distance(s, s->logits, reference, n, &s->totals.noise);
    const size_t logits = (size_t)n * (size_t)s->f->config.num_classes;
    for (size_t k = 0; k < logits; k++) s->totals.signal += (double)reference[k] * (double)reference[k];
    s->totals.images += (uint64_t)n;
    return SWIN_OK;
}

const swin_sense_sums *swin_sense_get(const swin_sense *s, int group)
{
    return &s->sums[group];
}

const swin_sense_totals *swin_sense_total(const swin_sense *s)
{
    return &s->totals;
}
