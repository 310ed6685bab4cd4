#include "calib/auto.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calib/auto_impl.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"

/* ---- which images ------------------------------------------------------------------------------------------------- */

size_t swin_auto_hold_back(size_t *out, swin_sample how, uint64_t seed, size_t total, const size_t *calib,
                           size_t count, size_t want)
{
    const size_t n = swin_sample_choose(how, seed, total - count, want, out);
    size_t passed = 0; /* calibration images before the place at hand */
    for (size_t i = 0; i < n; i++) {
        while (passed < count && calib[passed] <= out[i] + passed) passed++;
        out[i] += passed;
    }
    return n;
}

swin_status swin_auto_check(const swin_auto_limit *limit, size_t images)
{
    const double step = 100.0 / (double)images, finest = 100.0 - step;
    if (limit->min_agreement <= finest * (1 + 1e-12)) return SWIN_OK;
    return swin_fail(SWIN_ERR_USAGE,
                     "--min-agreement %g is finer than one image: %zu images are held back, one of them is "
                     "%.4g %%; at most %.6g, or more of them with --auto-images",
                     limit->min_agreement, images, step, floor(finest * 1e4) / 1e4);
}

static swin_status read_images(job *j, swin_loader *l)
{
    const swin_config *c = &j->f->config;
    const size_t size = (size_t)c->in_chans * (size_t)c->image_size * (size_t)c->image_size;
    swin_loader_report seen;
    for (;;) {
        swin_batch b;
        SWIN_TRY(swin_loader_next(l, &b));
        if (b.n == 0) break;
        memcpy(j->pixels + (size_t)j->images * size, b.pixels, (size_t)b.n * size * sizeof *b.pixels);
        j->images += b.n;
    }
    SWIN_TRY(swin_loader_report_get(l, &seen));
    if (seen.broken)
        swin_warn("%zu of the images held back could not be decoded and were left out", seen.broken);
    if (j->images == 0)
        return swin_fail(SWIN_ERR_VALUE, "--int8-mode auto: none of the %zu images held back could be read",
                         j->o->count);
    memcpy(j->f->relaxation.image_list_sha256, seen.image_list_sha256, SWIN_SHA256_HEX);
    return swin_auto_check(&j->o->limit, (size_t)j->images);
}

static swin_status load_images(job *j, swin_dataset *data)
{
    const swin_config *c = &j->f->config;
    const size_t size = (size_t)c->in_chans * (size_t)c->image_size * (size_t)c->image_size;
    const swin_loader_opts lo = { .indices = j->o->indices,
                                  .count = j->o->count,
                                  .batch = AUTO_TOGETHER,
                                  .workers = j->o->threads,
                                  .strict = j->o->strict,
                                  .preprocess = { .size = c->image_size, .crop = c->test_crop } };
    swin_loader *l;
    j->pixels = malloc(j->o->count * size * sizeof *j->pixels);
    j->reference = malloc(j->o->count * (size_t)c->num_classes * sizeof *j->reference);
    if (!j->pixels || !j->reference)
        return swin_fail(SWIN_ERR_MEM, "--auto-images: no memory for %zu images", j->o->count);
    SWIN_TRY(swin_loader_open(&l, data, &lo));
    const swin_status st = read_images(j, l);
    swin_loader_close(l);
    return st;
}

/* ---- answers ------------------------------------------------------------------------------------------------------ */

static const float *pixels_at(const job *j, int image)
{
    const swin_config *c = &j->f->config;
    return j->pixels + (size_t)image * (size_t)c->in_chans * (size_t)c->image_size * (size_t)c->image_size;
}

static swin_status make_reference(job *j, const swin_weights *before)
{
    const swin_net_opts opts = { .dtype = SWIN_F32 };
    const size_t classes = (size_t)j->f->config.num_classes;
    swin_net *net;
    SWIN_TRY(swin_net_create(&net, j->dev, &j->f->config, before, &opts));
    swin_status st = SWIN_OK;
    for (int at = 0; st == SWIN_OK && at < j->images; at += AUTO_TOGETHER) {
        const int n = j->images - at < AUTO_TOGETHER ? j->images - at : AUTO_TOGETHER;
        st = swin_check_interrupt();
        if (st == SWIN_OK)
            st = swin_net_forward(net, pixels_at(j, at), n, j->reference + (size_t)at * classes, NULL);
    }
    swin_net_free(net);
    for (size_t i = 0; i < (size_t)j->images * classes; i++)
        j->signal += (double)j->reference[i] * (double)j->reference[i];
    return st;
}

/* Whether the limit can still be met by the images that are left. */
static bool hopeless(const job *j, const swin_accuracy *a)
{
    const swin_auto_limit *l = &j->o->limit;
    const double agree = (double)a->agree + (double)j->images - (double)a->images;
    if (a->nonfinite || a->unreferenced) return true;
    if (l->min_agreement > 0 && 100 * agree / j->images < l->min_agreement) return true;
    return l->min_sqnr > 0 && swin_sqnr_of(j->signal, a->noise) < l->min_sqnr;
}

/* The network as f's enabled sites say, over the images held back: all of them, or until the limit is out of reach. */
static swin_status answers(job *j, const swin_weights *w, bool all, swin_accuracy *a)
{
    const int classes = j->f->config.num_classes;
    int labels[AUTO_TOGETHER] = { 0 }; /* top-1 is not asked for */
    swin_sim *sim = NULL;
    float *logits = malloc((size_t)AUTO_TOGETHER * (size_t)classes * sizeof *logits);
    swin_status st = logits ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "--int8-mode auto: no memory for logits");
    if (st == SWIN_OK) st = swin_sim_create(&sim, j->dev, j->f, w, SWIN_PER_CHANNEL);
    *a = (swin_accuracy){ 0 };
    for (int at = 0; st == SWIN_OK && at < j->images && (all || !hopeless(j, a)); at += AUTO_TOGETHER) {
        const int n = j->images - at < AUTO_TOGETHER ? j->images - at : AUTO_TOGETHER;
        st = swin_check_interrupt();
        if (st == SWIN_OK) st = swin_sim_forward(sim, pixels_at(j, at), n, logits, NULL);
        if (st == SWIN_OK)
            swin_accuracy_add(a, logits, j->reference + (size_t)at * (size_t)classes, labels, n, classes);
    }
    swin_sim_free(sim);
    free(logits);
    return st;
}

swin_status auto_judge(job *j, bool all, swin_accuracy *a)
{
    swin_weights w = { 0 };
    SWIN_TRY(swin_weights_clone(&w, j->w, &j->f->config));
    swin_status st = swin_relax_weights(&w, j->exact, j->f);
    if (st == SWIN_OK) st = answers(j, &w, all, a);
    swin_weights_free(&w);
    return st;
}

bool auto_meets(const job *j, const swin_accuracy *a)
{
    const swin_auto_limit *l = &j->o->limit;
    if (a->nonfinite || a->unreferenced || a->images != (uint64_t)j->images) return false;
    return (l->min_agreement == 0 || swin_accuracy_agreement(a) >= l->min_agreement) &&
           (l->min_sqnr == 0 || swin_accuracy_sqnr(a) >= l->min_sqnr);
}

/* ---- every unit ----------------------------------------------------------------------------------------------------- */

typedef struct ticker {
    swin_progress progress;
    size_t images;
} ticker;

static swin_status tick(void *user)
{
    ticker *t = user;
    swin_progress_add(&t->progress, t->images);
    return swin_check_interrupt();
}

/* Measured ones are spread over all that are held back. */
static swin_status show_images(job *j, swin_sense *s)
{
    size_t which[SWIN_AUTO_MEASURED];
    const size_t classes = (size_t)j->f->config.num_classes;
    const size_t n = swin_sample_choose(SWIN_SAMPLE_SPREAD, 0, (size_t)j->images, SWIN_AUTO_MEASURED, which),
                 size = (size_t)(pixels_at(j, 1) - pixels_at(j, 0));
    float *pixels = malloc(AUTO_TOGETHER * size * sizeof *pixels),
          *reference = malloc(AUTO_TOGETHER * classes * sizeof *reference);
    swin_status st = pixels && reference ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "no memory for %zu images", n);
    ticker t = { .images = 1 };
    swin_progress_begin(&t.progress, "sensitivity", "units",
                        (n + AUTO_TOGETHER - 1) / AUTO_TOGETHER * (size_t)j->count);
    for (size_t at = 0; st == SWIN_OK && at < n; at += AUTO_TOGETHER) {
        const size_t here = n - at < AUTO_TOGETHER ? n - at : AUTO_TOGETHER;
        for (size_t i = 0; i < here; i++) {
            memcpy(pixels + i * size, pixels_at(j, (int)which[at + i]), size * sizeof *pixels);
            memcpy(reference + i * classes, j->reference + which[at + i] * classes,
                   classes * sizeof *reference);
        }
        st = swin_sense_add(s, pixels, (int)here, reference, tick, &t);
    }
    if (st == SWIN_OK) swin_progress_end(&t.progress);
    free(pixels);
    free(reference);
    return st;
}

static void take_sums(job *j, const swin_sense *s)
{
    const swin_sense_totals *t = swin_sense_total(s);
    double all = 0;
    for (int i = 0; i < j->count; i++) all += swin_sense_get(s, i)->alone;
    for (int i = 0; i < j->count; i++) {
        const swin_sense_sums *sums = swin_sense_get(s, i);
        swin_relax_unit *u = &j->units[i];
        u->alone_db = swin_sqnr_of(t->signal, sums->alone);
        u->share = all > 0 ? 100 * sums->alone / all : 0;
        u->gain_db = swin_sqnr_of(t->signal, sums->without) - swin_sqnr_of(t->signal, t->noise);
        j->error[i] = sums->alone;
    }
}

static swin_status measure_units(job *j)
{
    swin_sense *s = NULL;
    swin_sense_group *groups = calloc((size_t)j->count + 1, sizeof *groups);
    swin_status st = groups ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "no memory for %d units", j->count);
    for (int i = 0; st == SWIN_OK && i < j->count; i++)
        groups[i] = (swin_sense_group){ .part = j->units[i].part,
                                        .sites = j->units[i].sites,
                                        .alone = j->units[i].own,
                                        .without = j->units[i].count };
    if (st == SWIN_OK)
        st = swin_sense_create(&s, j->dev, j->f, j->exact, j->w, SWIN_PER_CHANNEL, groups, j->count,
                               SWIN_SENSE_ALONE | SWIN_SENSE_WITHOUT);
    if (st == SWIN_OK) st = show_images(j, s);
    if (st == SWIN_OK) take_sums(j, s);
    swin_sense_free(s);
    free(groups);
    return st;
}

/* ---- the whole -------------------------------------------------------------------------------------------------------- */

static swin_status prepare(job *j, swin_dataset *data, const swin_weights *before)
{
    SWIN_TRY(load_images(j, data));
    SWIN_TRY(make_reference(j, before));
    SWIN_TRY(swin_relax_units(&j->units, &j->count, j->f));
    const size_t n = (size_t)j->count + 1;
    j->order = calloc(n, sizeof *j->order);
    j->error = calloc(n, sizeof *j->error);
    return j->order && j->error ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "no memory for %d units", j->count);
}

/* A GEMM in float takes its output along. */
static void mark_implied(job *j)
{
    for (int i = 0; i < j->count; i++) {
        bool on = false;
        for (int k = 0; k < j->units[i].count; k++)
            on = on || swin_calib_file_site(j->f, j->units[i].sites[k])->enabled;
        j->units[i].relaxed = !on;
    }
}

/* Into the file: the list, and what was reached. */
static void record(job *j, const swin_accuracy *before, const swin_accuracy *after)
{
    swin_relaxation *r = &j->f->relaxation;
    mark_implied(j);
    r->present = true;
    r->min_agreement = j->o->limit.min_agreement;
    r->min_sqnr = j->o->limit.min_sqnr;
    r->images = (uint64_t)j->images;
    r->before_agreement = swin_accuracy_agreement(before);
    r->before_db = swin_accuracy_sqnr(before);
    r->after_agreement = swin_accuracy_agreement(after);
    r->after_db = swin_accuracy_sqnr(after);
    r->units = j->units;
    r->nunits = j->count;
    j->units = NULL;
}

static swin_status run(job *j, swin_dataset *data, const swin_weights *before)
{
    swin_accuracy start, end;
    SWIN_TRY(prepare(j, data, before));
    SWIN_TRY(auto_judge(j, true, &start));
    swin_note("auto: int8-mode %d agrees on %.2f %%, %.2f dB on %d images held back", (int)j->f->mode,
              swin_accuracy_agreement(&start), swin_accuracy_sqnr(&start), j->images);
    const double at = swin_now();
    SWIN_TRY(measure_units(j));
    swin_detail("auto: %d units measured in %.1f s", j->count, swin_now() - at);
    end = start;
    if (!auto_meets(j, &start)) SWIN_TRY(auto_search(j, &end));
    SWIN_TRY(swin_relax_weights(j->w, j->exact, j->f));
    record(j, &start, &end);
    return SWIN_OK;
}

swin_status swin_auto_run(swin_calib_file *f, swin_dev *dev, swin_dataset *data, const swin_weights *before,
                          const swin_weights *exact, swin_weights *w, const swin_auto_opts *o)
{
    job j = { .f = f, .dev = dev, .exact = exact, .w = w, .o = o };
    const double start = swin_now();
    const swin_status st = run(&j, data, before);
    if (st == SWIN_OK) swin_note("auto: %.1f s", swin_now() - start);
    free(j.pixels);
    free(j.reference);
    free(j.units);
    free(j.order);
    free(j.error);
    return st;
}
