#include "calib/stats.h"

#include <stdlib.h>
#include <string.h>

#include "calib/abs_hist.h"
#include "quant/linear_weight.h"

typedef struct watch {
    swin_site site;
    int same_as;             /* this site's tensor is that site's too; -1: observed by itself */
    swin_observer *observer; /* exact */
    swin_abs_counts counts;  /* compat */
    bool weight;
} watch;

struct swin_stats {
    swin_dev *dev;
    swin_config config;
    swin_hist_kind kind;
    int count;
    watch *sites;
    swin_abs_scratch *scratch;
};

/* In V1 the residual that an addition takes is the very tensor that the LayerNorm before it took: one observation, two
 * sites. V2 normalises the branch instead. */
static int twin_of(const swin_config *c, swin_site s)
{
    if (c->family != SWIN_V1) return -1;
    swin_site_kind kind;
    switch (swin_site_kind_of(s)) {
    case SWIN_SITE_ADD1_RESIDUAL:
        kind = SWIN_SITE_LAYERNORM_INPUT1;
        break;
    case SWIN_SITE_ADD2_RESIDUAL:
        kind = SWIN_SITE_LAYERNORM_INPUT2;
        break;
    default:
        return -1;
    }
    return swin_site_index(c, swin_site_make(swin_site_stage(s), swin_site_block(s), kind));
}

static swin_status create_watches(swin_stats *s)
{
    for (int i = 0; i < s->count; i++) {
        watch *w = &s->sites[i];
        w->site = swin_site_at(&s->config, i);
        w->weight = swin_site_role_of(w->site) == SWIN_ROLE_WEIGHT;
        w->same_as = twin_of(&s->config, w->site);
        if (w->same_as < 0 && s->kind == SWIN_HIST_EXACT)
            SWIN_TRY(s->dev->ops->observer_create(s->dev, &w->observer));
    }
    return SWIN_OK;
}

swin_status swin_stats_create(swin_stats **out, swin_dev *dev, const swin_config *c, swin_hist_kind kind)
{
    *out = NULL;
    swin_stats *s = calloc(1, sizeof *s);
    if (!s) return swin_fail(SWIN_ERR_MEM, "no memory for statistics");
    s->dev = dev;
    s->config = *c;
    s->kind = kind;
    s->count = swin_site_count(c);
    s->sites = calloc((size_t)s->count, sizeof *s->sites);
    swin_status st = s->sites ? create_watches(s)
                              : swin_fail(SWIN_ERR_MEM, "no memory for %d sites", s->count);
    if (st == SWIN_OK && kind == SWIN_HIST_COMPAT)
        st = swin_abs_scratch_create(&s->scratch, dev->ops->threads(dev));
    if (st != SWIN_OK) {
        swin_stats_free(s);
        return st;
    }
    *out = s;
    return SWIN_OK;
}

void swin_stats_free(swin_stats *s)
{
    if (!s) return;
    for (int i = 0; s->sites && i < s->count; i++) {
        s->dev->ops->observer_free(s->dev, s->sites[i].observer);
        free(s->sites[i].counts.hist);
    }
    free(s->sites);
    swin_abs_scratch_free(s->scratch);
    free(s);
}

static swin_status add(swin_stats *s, watch *w, const swin_tensor *x)
{
    if (s->kind == SWIN_HIST_EXACT) return s->dev->ops->observe(s->dev, w->observer, x);
    const swin_status st = swin_abs_counts_add(&w->counts, s->scratch, s->dev, x);
    if (st == SWIN_OK) return st;
    char name[SWIN_SITE_NAME_MAX];
    swin_site_name(w->site, name);
    return swin_fail_context(st, "%s", name);
}

static bool wants(void *user, swin_site site)
{
    const swin_stats *s = user;
    const int i = swin_site_index(&s->config, site);
    return i >= 0 && s->sites[i].same_as < 0 && !s->sites[i].weight;
}

static swin_status at(void *user, const swin_tap_point *p)
{
    swin_stats *s = user;
    const int i = swin_site_index(&s->config, p->site);
    if (i < 0 || s->sites[i].same_as >= 0 || s->sites[i].weight) return SWIN_OK;
    if (s->kind == SWIN_HIST_COMPAT && p->images != p->batch)
        return swin_fail(SWIN_ERR_VALUE,
                         "--histogram compat needs whole batches: %d of %d images came at once", p->images,
                         p->batch);
    return add(s, &s->sites[i], p->x);
}

/* NULL for compat, which needs the values. */
static swin_observer *observer(void *user, swin_site site)
{
    const swin_stats *s = user;
    return wants(user, site) ? s->sites[swin_site_index(&s->config, site)].observer : NULL;
}

swin_tap swin_stats_tap(swin_stats *s)
{
    return (swin_tap){ .user = s, .wants = wants, .at = at, .observer = observer };
}

swin_status swin_stats_weights(swin_stats *s, const swin_weights *w)
{
    for (int i = 0; i < s->count; i++) {
        if (!s->sites[i].weight) continue;
        swin_linear_weight l;
        SWIN_TRY(swin_linear_weight_of(&l, &s->config, w, s->sites[i].site));
        const size_t bytes = (size_t)l.out * (size_t)l.in * sizeof(float);
        void *copy;
        SWIN_TRY(s->dev->ops->alloc(s->dev, &copy, bytes));
        swin_status st = s->dev->ops->upload(s->dev, copy, l.data, bytes);
        const swin_tensor x = swin_matrix(copy, SWIN_F32, l.out, l.in);
        if (st == SWIN_OK) st = add(s, &s->sites[i], &x);
        if (st == SWIN_OK) st = s->dev->ops->sync(s->dev);
        s->dev->ops->free(s->dev, copy);
        SWIN_TRY(st);
    }
    return SWIN_OK;
}

static swin_status read_exact(swin_stats *s, const watch *w, swin_site_stats *out)
{
    swin_observed *o = malloc(sizeof *o);
    uint64_t *hist = malloc(sizeof o->hist);
    swin_status st = o && hist ? s->dev->ops->observer_read(s->dev, w->observer, o)
                               : swin_fail(SWIN_ERR_MEM, "no memory for a histogram");
    if (st == SWIN_OK) {
        memcpy(hist, o->hist, sizeof o->hist);
        *out = (swin_site_stats){ .count = o->count,
                                  .nonfinite = o->nonfinite,
                                  .min = o->min,
                                  .max = o->max,
                                  .bin_width = o->bin_width,
                                  .bins = SWIN_HIST_BINS,
                                  .hist = hist };
        hist = NULL;
    }
    free(hist);
    free(o);
    return st;
}

static swin_status read_compat(const watch *w, swin_site_stats *out)
{
    const swin_abs_counts *c = &w->counts;
    const size_t bins = c->bins > 0 ? (size_t)c->bins : SWIN_ABS_HIST_BINS;
    uint64_t *hist = calloc(bins, sizeof *hist);
    if (!hist) return swin_fail(SWIN_ERR_MEM, "no memory for a histogram");
    if (c->bins > 0) memcpy(hist, c->hist, bins * sizeof *hist);
    *out = (swin_site_stats){ .count = c->count,
                              .nonfinite = c->nonfinite,
                              .min = c->min,
                              .max = c->max,
                              .bin_width = c->width,
                              .hist_abs = true,
                              .bins = (int)bins,
                              .hist = hist };
    return SWIN_OK;
}

swin_status swin_stats_read(swin_stats *s, int i, swin_site_stats *out)
{
    const watch *w = &s->sites[i];
    if (w->same_as >= 0) w = &s->sites[w->same_as];
    return s->kind == SWIN_HIST_EXACT ? read_exact(s, w, out) : read_compat(w, out);
}
