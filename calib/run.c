#include "calib/run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calib/widest.h"
#include "quant/factor.h"
#include "quant/linear_weight.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/pool.h"

/* What one run holds; each part is made by one function below and freed at the end. */
typedef struct run {
    const swin_calib_opts *o;
    swin_calib_file *f;
    swin_dataset *data;
    size_t *chosen, nchosen;
    size_t *held, nheld; /* back, for --int8-mode auto */
    swin_loader *loader;
    swin_net *net; /* recovery's, or our own */
    bool own_net;
    swin_stats *stats;
    unsigned methods;      /* of recovery: those asked for, and what the calibrator needs */
    swin_recover *recover; /* NULL: none */
} run;

/* A set too small for both gives at most half to auto. */
static size_t calibration_images(const run *r, size_t total)
{
    const size_t kept = r->o->auto_images < total / 2 ? r->o->auto_images : total / 2, left = total - kept;
    return r->o->images < left ? r->o->images : left;
}

static swin_status hold_back(run *r, size_t total)
{
    if (!r->o->auto_images) return SWIN_OK;
    r->held = malloc((r->o->auto_images + 1) * sizeof *r->held);
    if (!r->held) return swin_fail(SWIN_ERR_MEM, "no memory for a list of %zu images", r->o->auto_images);
    r->nheld = swin_auto_hold_back(r->held, r->o->sample, r->o->seed, total, r->chosen, r->nchosen,
                                   r->o->auto_images);
    if (r->nheld < r->o->auto_images)
        swin_warn("--auto-images %zu: the set has %zu images, %zu are held back", r->o->auto_images, total,
                  r->nheld);
    if (r->nheld == 0)
        return swin_fail(SWIN_ERR_VALUE, "--int8-mode auto: %s has no image to hold back", r->o->data_path);
    return swin_auto_check(&r->o->limit, r->nheld);
}

static swin_status choose_images(run *r)
{
    SWIN_TRY(swin_dataset_open(&r->data, r->o->data_path, r->o->split));
    const size_t total = swin_dataset_count(r->data), want = calibration_images(r, total);
    r->chosen = malloc((want + 1) * sizeof *r->chosen);
    if (!r->chosen) return swin_fail(SWIN_ERR_MEM, "no memory for a list of %zu images", want);
    r->nchosen = swin_sample_choose(r->o->sample, r->o->seed, total, want, r->chosen);
    swin_note("%s: %s, %zu images, %zu of them used", r->o->data_path, swin_dataset_kind(r->data), total,
              r->nchosen);
    if (want < r->o->images) swin_warn("%zu images were asked for, the set has %zu", r->o->images, total);
    return hold_back(r, total);
}

static swin_status open_all(run *r, swin_dev *dev, const swin_config *c, const swin_weights *w,
                            const size_t *indices, size_t count)
{
    const swin_loader_opts lo = { .indices = indices,
                                  .count = count,
                                  .batch = r->o->batch,
                                  .workers = r->o->threads,
                                  .strict = r->o->strict,
                                  .preprocess = { .size = c->image_size, .crop = c->test_crop } };
    SWIN_TRY(swin_loader_open(&r->loader, r->data, &lo));
    /* Compat's first tensor fixes the bins: it must be the whole first batch. */
    const swin_net_opts no = { .dtype = SWIN_F32,
                               .chunk = r->o->histogram == SWIN_HIST_COMPAT ? r->o->batch : 0 };
    r->own_net = !r->recover || no.chunk;
    if (r->own_net)
        SWIN_TRY(swin_net_create(&r->net, dev, c, w, &no));
    else
        SWIN_TRY(swin_recover_net(r->recover, &r->net));
    return swin_stats_create(&r->stats, dev, c, r->o->histogram);
}

static void close_all(run *r)
{
    swin_stats_free(r->stats);
    if (r->own_net) swin_net_free(r->net);
    swin_loader_close(r->loader);
    r->stats = NULL;
    r->net = NULL;
    r->loader = NULL;
}

static swin_status observe_images(run *r, size_t count)
{
    const swin_tap stats = swin_stats_tap(r->stats);
    swin_factor_tap factors = { .f = r->f, .also = &stats };
    const swin_tap tap = swin_factor_tap_of(&factors);
    swin_progress progress;
    swin_progress_begin(&progress, "calibrating", "images", count);
    for (;;) {
        swin_batch b;
        SWIN_TRY(swin_check_interrupt());
        SWIN_TRY(swin_loader_next(r->loader, &b));
        if (b.n == 0) break;
        SWIN_TRY(swin_net_forward(r->net, b.pixels, b.n, NULL, &tap));
        swin_progress_add(&progress, (size_t)b.n);
    }
    swin_progress_end(&progress);
    return SWIN_OK;
}

static swin_status record_images(run *r)
{
    swin_loader_report seen;
    SWIN_TRY(swin_loader_report_get(r->loader, &seen));
    if (seen.images == 0)
        return swin_fail(SWIN_ERR_VALUE, "%s: none of the %zu images could be used", r->o->data_path,
                         r->nchosen);
    if (seen.warnings) swin_note("%zu images have recoverable JPEG faults and were used", seen.warnings);
    if (seen.broken)
        swin_warn("%zu of %zu images could not be decoded and were left out", seen.broken, r->nchosen);
    r->f->images = seen.images;
    memcpy(r->f->image_list_sha256, seen.image_list_sha256, SWIN_SHA256_HEX);
    return SWIN_OK;
}

/* ---- ranges --------------------------------------------------------------------------------------------------- */

static swin_status named(swin_status st, swin_site site)
{
    char name[SWIN_SITE_NAME_MAX];
    swin_site_name(site, name);
    return swin_fail_context(st, "%s", name);
}

static swin_status read_site(run *r, int i)
{
    swin_site_record *s = &r->f->sites[i];
    swin_site_stats seen;
    SWIN_TRY(swin_stats_read(r->stats, i, &seen));
    s->min = seen.min;
    s->max = seen.max;
    s->count = seen.count;
    s->nonfinite = seen.nonfinite;
    s->bin_width = seen.bin_width;
    s->hist_abs = seen.hist_abs;
    s->bins = seen.bins;
    free(s->hist); /* of an earlier look at some of the images */
    s->hist = seen.hist;
    return SWIN_OK;
}

/* Weights are not clipped, whatever the calibrator: their values are all there is. */
static swin_status choose_range(void *user, size_t i, int worker)
{
    (void)worker;
    run *r = user;
    swin_site_record *s = &r->f->sites[i];
    const swin_calibrator *c = swin_site_role_of(s->site) == SWIN_ROLE_WEIGHT ? swin_calibrator_find("max")
                                                                              : r->o->calibrator;
    const swin_site_stats seen = { .count = s->count,
                                   .nonfinite = s->nonfinite,
                                   .min = s->min,
                                   .max = s->max,
                                   .bin_width = s->bin_width,
                                   .hist_abs = s->hist_abs,
                                   .bins = s->bins,
                                   .hist = s->hist };
    const swin_status st = swin_calibrate_site(c, &r->o->calibrator_opts, &seen, &s->amax);
    return st == SWIN_OK ? st : named(st, s->site);
}

static swin_status choose_ranges(run *r)
{
    swin_pool *pool;
    for (int i = 0; i < r->f->nsites; i++) SWIN_TRY(read_site(r, i));
    SWIN_TRY(swin_pool_create(&pool, r->o->threads));
    const swin_status st = swin_pool_run(pool, (size_t)r->f->nsites, choose_range, r);
    swin_pool_free(pool);
    return st;
}

enum { LANES = 16 };

static float row_amax(const float *w, int n)
{
    const int whole = n / LANES * LANES;
    float top[LANES] = { 0 }, amax = 0;
    widest(top, w, whole, LANES);
    for (int i = whole; i < n; i++) amax = fmaxf(amax, fabsf(w[i]));
    for (int k = 0; k < LANES; k++) amax = fmaxf(amax, top[k]);
    return amax;
}

swin_status swin_calib_weight_ranges(swin_calib_file *f, const swin_weights *w)
{
    for (int i = 0; i < f->nweights; i++) {
        swin_weight_record *r = &f->weights[i];
        swin_linear_weight l;
        SWIN_TRY(swin_linear_weight_of(&l, &f->config, w, r->site));
        r->amax = 0;
        for (int row = 0; row < l.out; row++) {
            r->amax_channel[row] = row_amax(l.data + (size_t)row * (size_t)l.in, l.in);
            r->amax = fmaxf(r->amax, r->amax_channel[row]);
        }
    }
    return SWIN_OK;
}

/* ---- the run -------------------------------------------------------------------------------------------------- */

static swin_status describe(run *r, swin_dev *dev, const swin_config *c, const char *sha)
{
    swin_calib_file *f = r->f;
    char engine[256] = "", preprocess[128] = "";
    dev->ops->engine(dev, engine, sizeof engine);
    swin_preprocess_text(&(swin_preprocess){ .size = c->image_size, .crop = c->test_crop }, preprocess,
                         sizeof preprocess);
    f->tool = strdup("swin-calib " SWIN_VERSION);
    f->engine = strdup(engine);
    f->calibrator = strdup(r->o->calibrator->name);
    f->histogram = strdup(r->o->histogram == SWIN_HIST_COMPAT ? "compat" : "exact");
    f->recover = strdup(r->o->recover_name ? r->o->recover_name : "none");
    f->preprocess = strdup(preprocess);
    f->percentile = r->o->calibrator_opts.percentile;
    memcpy(f->checkpoint_sha256, sha, SWIN_SHA256_HEX);
    const bool ok = f->tool && f->engine && f->calibrator && f->histogram && f->recover && f->preprocess;
    return ok ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "no memory for the calibration file's attributes");
}

/* Show images to the float network of w and choose ranges, for the file as it stands. */
static swin_status look_at(run *r, swin_dev *dev, const swin_weights *w, const size_t *indices, size_t count,
                           bool record)
{
    const double start = swin_now();
    SWIN_TRY(open_all(r, dev, &r->f->config, w, indices, count));
    const double opened = swin_now();
    SWIN_TRY(observe_images(r, count));
    const double shown = swin_now();
    if (record) SWIN_TRY(record_images(r));
    SWIN_TRY(swin_stats_weights(r->stats, w));
    const double weighed = swin_now();
    SWIN_TRY(choose_ranges(r));
    SWIN_TRY(swin_calib_weight_ranges(r->f, w));
    swin_detail("network %.2f s, images %.2f, weights %.2f, ranges %.2f", opened - start, shown - opened,
                weighed - shown, swin_now() - weighed);
    return swin_calib_file_derive(r->f, r->o->mode);
}

static swin_status look(run *r, swin_dev *dev, const swin_weights *w, const size_t *indices, size_t count,
                        bool record, swin_calib_timing *t)
{
    const double start = swin_now();
    const swin_status st = look_at(r, dev, w, indices, count, record);
    t->observe_s += swin_now() - start;
    t->looks++;
    return st;
}

/* The methods that change what will be observed, and the ranges that they are measured against: those of the images that
 * recovery works on. *seen: these were all the images, and nothing has changed since. */
static swin_status prepare_recovery(run *r, swin_dev *dev, const swin_config *c, const swin_weights *w,
                                    bool *seen, swin_calib_timing *t)
{
    const swin_recover_opts ro = { .methods = r->methods,
                                   .threads = r->o->threads,
                                   .strict = r->o->strict,
                                   .indices = r->chosen,
                                   .count = r->nchosen };
    size_t count;
    SWIN_TRY(swin_recover_open(&r->recover, dev, c, w, r->f, r->data, &ro));
    const size_t *indices = swin_recover_indices(r->recover, &count);
    *seen = count == r->nchosen && !swin_recover_has(r->recover, SWIN_RECOVER_BEFORE);
    if (*seen) return look(r, dev, w, indices, count, true, t);
    while (swin_recover_has(r->recover, SWIN_RECOVER_BEFORE)) {
        const swin_status st = look(r, dev, swin_recover_weights(r->recover), indices, count, false, t);
        close_all(r);
        SWIN_TRY(st);
        SWIN_TRY(swin_recover_run(r->recover, SWIN_RECOVER_BEFORE));
    }
    return SWIN_OK;
}

/* The weights change with what is relaxed, so the file's corrections are collected anew. */
static swin_status relax(run *r, swin_dev *dev, const swin_config *c, const swin_weights *w)
{
    swin_weights own = { 0 };
    const swin_weights *last = r->recover ? swin_recover_weights(r->recover) : w,
                       *exact = r->recover ? swin_recover_exact(r->recover) : w;
    const swin_auto_opts ao = { .limit = r->o->limit,
                                .threads = r->o->threads,
                                .strict = r->o->strict,
                                .indices = r->held,
                                .count = r->nheld };
    swin_weights before = *w; /* views: only read */
    SWIN_TRY(swin_weights_clone(&own, last, c));
    swin_status st = swin_auto_run(r->f, dev, r->data, w, exact, &own, &ao);
    if (st == SWIN_OK) st = swin_corrections_collect(&r->f->corrections, c, &before, &own);
    swin_weights_free(&own);
    return st;
}

static swin_status calibrate(run *r, swin_dev *dev, const swin_config *c, const swin_weights *w,
                             const char *sha, swin_calib_timing *t)
{
    const double start = swin_now();
    bool seen = false;
    SWIN_TRY(describe(r, dev, c, sha));
    SWIN_TRY(choose_images(r));
    t->open_s = swin_now() - start;
    if (r->methods) SWIN_TRY(prepare_recovery(r, dev, c, w, &seen, t));
    if (!seen)
        SWIN_TRY(
            look(r, dev, r->recover ? swin_recover_weights(r->recover) : w, r->chosen, r->nchosen, true, t));
    if (r->recover) SWIN_TRY(swin_recover_run(r->recover, SWIN_RECOVER_AFTER));
    if (r->recover) swin_recover_timing(r->recover, t->recover_parts, sizeof t->recover_parts, &t->recover_s);
    const double relaxing = swin_now();
    if (r->nheld) SWIN_TRY(relax(r, dev, c, w));
    t->auto_s = swin_now() - relaxing;
    return SWIN_OK;
}

swin_status swin_calib_run(swin_calib_file *f, swin_dev *dev, const swin_config *c, const swin_weights *w,
                           const char *checkpoint_sha256, const swin_calib_opts *o, swin_calib_timing *t)
{
    run r = { .o = o, .f = f };
    *t = (swin_calib_timing){ 0 };
    if (o->calibrator->by_use) SWIN_TRY(swin_recover_choose(&r.methods, "ranges"));
    r.methods |= o->recover;
    SWIN_TRY(swin_calib_file_init(f, c));
    const swin_status st = calibrate(&r, dev, c, w, checkpoint_sha256, t);
    close_all(&r);
    swin_recover_close(r.recover);
    free(r.chosen);
    free(r.held);
    swin_dataset_close(r.data);
    if (st != SWIN_OK) swin_calib_file_free(f);
    return st;
}
