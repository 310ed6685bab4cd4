#include "calib/recover.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calib/recover_impl.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"

extern const swin_recover_method swin_recover_center, swin_recover_equalize, swin_recover_ranges,
    swin_recover_heads, swin_recover_outputs, swin_recover_round, swin_recover_bias, swin_recover_relax;

static const swin_recover_method *const methods[] = {
    &swin_recover_center, &swin_recover_equalize, &swin_recover_ranges,
    &swin_recover_heads,  &swin_recover_outputs,  &swin_recover_round,
    &swin_recover_bias,   &swin_recover_relax,    NULL,
};

const swin_recover_method *const *swin_recover_methods(void)
{
    return methods;
}

/* ---- which ------------------------------------------------------------------------------------------------------- */

static unsigned of_level(unsigned level)
{
    unsigned chosen = 0;
    for (int i = 0; methods[i]; i++) chosen |= (methods[i]->levels & level) ? 1u << i : 0;
    return chosen;
}

static bool is_named(const char *what, const char *name, size_t n)
{
    return strlen(what) == n && memcmp(what, name, n) == 0;
}

static swin_status add_named(unsigned *chosen, const char *name, size_t n)
{
    if (is_named("fast", name, n) || is_named("best", name, n)) {
        *chosen |= of_level(*name == 'f' ? SWIN_RECOVER_FAST : SWIN_RECOVER_BEST);
        return SWIN_OK;
    }
    for (int i = 0; methods[i]; i++)
        if (is_named(methods[i]->name, name, n)) {
            *chosen |= 1u << i;
            return SWIN_OK;
        }
    return swin_fail(SWIN_ERR_USAGE, "--recover: %.*s is neither none (alone), fast, best nor a method",
                     (int)n, name);
}

swin_status swin_recover_choose(unsigned *chosen, const char *text)
{
    *chosen = 0;
    if (strcmp(text, "none") == 0) return SWIN_OK;
    for (const char *at = text;; at++) {
        const size_t n = strcspn(at, ",");
        SWIN_TRY(add_named(chosen, at, n));
        at += n;
        if (!*at) return SWIN_OK;
    }
}

static bool is_due(const swin_recover *r, int i, swin_recover_when when)
{
    const swin_recover_method *m = methods[i];
    return (r->o.methods >> i & 1) && !(r->done >> i & 1) && m->when == when &&
           (!m->mode || m->mode == r->f->mode);
}

bool recover_heads_follow(const swin_recover *r)
{
    for (int i = 0; methods[i]; i++)
        if (methods[i] == &swin_recover_heads)
            return (r->o.methods >> i & 1) && r->f->mode == methods[i]->mode && r->dev->ops->shrinks;
    return false;
}

bool swin_recover_has(const swin_recover *r, swin_recover_when when)
{
    for (int i = 0; methods[i]; i++)
        if (is_due(r, i, when)) return true;
    return false;
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

static double storable(double db)
{
    return isfinite(db) ? db : 0;
}

/* Measure, and note what a method that has run gained. */
static swin_status account(swin_recover *r, swin_recover_step *step)
{
    double db, agreement;
    const double start = swin_now();
    SWIN_TRY(recover_judge(r, &db, &agreement));
    r->judge_s += swin_now() - start;
    if (step) {
        step->before_db = storable(r->db);
        step->after_db = storable(db);
        swin_note("recover: %-9s %6.2f -> %5.2f dB (%+.2f): %s", step->method, r->db, db, db - r->db,
                  step->changed);
    } else {
        swin_note("recover: without    %5.2f dB on %d images held back, %d images to learn from", db,
                  r->judges, r->fit);
    }
    r->db = db;
    r->measured = true;
    return SWIN_OK;
}

/* A dozen images tell two networks that are equally good apart by about so much. */
static const double noise = 0.5;

/* What it did is put back if it lost. */
static swin_status account_or_undo(swin_recover *r, swin_recover_step *step, recover_saved *saved)
{
    const double before = r->db;
    SWIN_TRY(account(r, step));
    if (!(r->db < before - noise)) return SWIN_OK;
    recover_restore(r, saved);
    r->db = before;
    step->after_db = step->before_db;
    snprintf(step->changed, sizeof step->changed, "nothing: undone, the images held back lost by it");
    swin_note("recover: %-9s is undone: the images held back lost by it", step->method);
    return SWIN_OK;
}

static swin_status run_method(swin_recover *r, int i, swin_recover_step **pending)
{
    const swin_recover_method *m = methods[i];
    swin_corrections *k = &r->f->corrections;
    if (k->nsteps == SWIN_RECOVER_STEPS_MAX) return swin_fail(SWIN_ERR_VALUE, "--recover: too many methods");
    swin_recover_step *step = &k->steps[k->nsteps++];
    snprintf(step->method, sizeof step->method, "%s", m->name);
    const double start = swin_now(), walk = r->walk_s, product = r->product_s;
    const swin_status st = m->run(r, step->changed, sizeof step->changed);
    if (!m->follows) recover_changed(r);
    r->took_s[i] = swin_now() - start;
    swin_detail("recover: %s took %.2f s: walks %.2f, products %.2f", m->name, r->took_s[i], r->walk_s - walk,
                r->product_s - product);
    r->done |= 1u << i;
    *pending = step;
    return st == SWIN_OK ? st : swin_fail_context(st, "--recover, %s", m->name);
}

static swin_status run_and_judge(swin_recover *r, int i)
{
    recover_saved saved = { 0 };
    swin_recover_step *step;
    if (methods[i]->guarded) SWIN_TRY(recover_save(&saved, r));
    swin_status st = run_method(r, i, &step);
    if (st == SWIN_OK) st = methods[i]->guarded ? account_or_undo(r, step, &saved) : account(r, step);
    recover_saved_free(&saved);
    return st;
}

/* Methods of another mode that were asked for by name. */
static void note_idle(const swin_recover *r)
{
    if (r->o.methods == of_level(SWIN_RECOVER_FAST) || r->o.methods == of_level(SWIN_RECOVER_BEST)) return;
    for (int i = 0; methods[i]; i++)
        if ((r->o.methods >> i & 1) && methods[i]->mode && methods[i]->mode != r->f->mode)
            swin_note("recover: %s is for int8-mode %d: it does nothing in mode %d", methods[i]->name,
                      (int)methods[i]->mode, (int)r->f->mode);
}

static swin_status run(swin_recover *r, swin_recover_when when)
{
    swin_recover_step *last = NULL;
    if (when == SWIN_RECOVER_AFTER) note_idle(r);
    /* A method that ran BEFORE is measured once the ranges of its network are known, which is now. */
    if (r->done) SWIN_TRY(account(r, &r->f->corrections.steps[r->f->corrections.nsteps - 1]));
    if (!r->measured) SWIN_TRY(account(r, NULL));
    if (when == SWIN_RECOVER_AFTER) SWIN_TRY(swin_weights_clone(&r->exact, &r->w, r->config));
    for (int i = 0; methods[i]; i++) {
        if (!is_due(r, i, when)) continue;
        if (when == SWIN_RECOVER_BEFORE) return run_method(r, i, &last);
        SWIN_TRY(run_and_judge(r, i));
    }
    if (when == SWIN_RECOVER_BEFORE) return SWIN_OK;
    swin_weights before = *r->before; /* views: only read */
    return swin_corrections_collect(&r->f->corrections, r->config, &before, &r->w);
}

/* ---- times ------------------------------------------------------------------------------------------------------- */

static double told(const swin_recover *r)
{
    double sum = r->open_s + r->judge_s;
    for (int i = 0; methods[i]; i++) sum += r->took_s[i];
    return sum;
}

swin_status swin_recover_run(swin_recover *r, swin_recover_when when)
{
    const double start = swin_now(), before = told(r);
    const swin_status st = run(r, when);
    r->other_s += swin_now() - start - (told(r) - before);
    return st;
}

void swin_recover_timing(const swin_recover *r, char *text, size_t size, double *sum)
{
    int at = snprintf(text, size, "images %.2f", r->open_s);
    for (int i = 0; methods[i]; i++)
        if ((r->done >> i & 1) && at >= 0 && (size_t)at < size)
            at += snprintf(text + at, size - (size_t)at, ", %s %.2f", methods[i]->name, r->took_s[i]);
    if (at >= 0 && (size_t)at < size)
        snprintf(text + at, size - (size_t)at, ", judging %.2f, copies %.2f", r->judge_s, r->other_s);
    *sum = told(r) + r->other_s;
}

swin_status swin_recover_net(swin_recover *r, swin_net **net)
{
    return recover_net(r, net);
}

const swin_weights *swin_recover_weights(const swin_recover *r)
{
    return &r->w;
}

const swin_weights *swin_recover_exact(const swin_recover *r)
{
    return r->exact.block ? &r->exact : &r->w;
}

const size_t *swin_recover_indices(const swin_recover *r, size_t *count)
{
    *count = r->count;
    return r->indices;
}

swin_status swin_recover_open(swin_recover **out, swin_dev *dev, const swin_config *c, const swin_weights *w,
                              swin_calib_file *f, swin_dataset *data, const swin_recover_opts *o)
{
    *out = NULL;
    swin_recover *r = calloc(1, sizeof *r);
    if (!r) return swin_fail(SWIN_ERR_MEM, "--recover: no memory");
    const double start = swin_now();
    *r = (swin_recover){ .dev = dev, .config = c, .before = w, .f = f, .o = *o };
    swin_status st = swin_weights_clone(&r->w, w, c);
    if (st == SWIN_OK) st = swin_pool_create(&r->pool, o->threads);
    if (st == SWIN_OK) st = recover_take_images(r, data);
    if (st == SWIN_OK) st = recover_reference(r);
    r->open_s = swin_now() - start;
    if (st != SWIN_OK) {
        swin_recover_close(r);
        return st;
    }
    *out = r;
    return SWIN_OK;
}

void swin_recover_close(swin_recover *r)
{
    if (!r) return;
    swin_net_free(r->net);
    swin_sim_free(r->sim);
    swin_weights_free(&r->w);
    swin_weights_free(&r->exact);
    swin_pool_free(r->pool);
    for (size_t i = 0; i < SWIN_COUNT(r->room); i++) r->dev->ops->free(r->dev, r->room[i]);
    free(r->indices);
    free(r->pixels);
    free(r->reference);
    free(r);
}
