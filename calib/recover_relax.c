/* Relaxing: the units (quant/relax.h) whose error is largest for the time that they cost stay in float, as long as all of them
 * together add at most a share of the time of the INT8 network, by the model of quant/relax.h. --int8-mode auto goes on from
 * there to meet a limit; this is what is nearly free. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "calib/recover_impl.h"
#include "quant/relax.h"
#include "quant/sensitivity.h"
#include "runtime/base/file.h"
#include "runtime/swin/accuracy.h"

static const double budget = 0.03; /* of the modelled time */

enum { SHOWN = 8 }; /* images held back that errors are measured on, at most */

typedef struct job {
    swin_recover *r;
    swin_relax_unit *units; /* owned */
    int count;
    double *error; /* owned: [count] of a unit alone */
    int *order;    /* owned: [count] */
} job;

static swin_status go_on(void *user)
{
    (void)user;
    return swin_check_interrupt();
}

/* What each unit's quantization alone does to the logits. */
static swin_status measure(job *j)
{
    const swin_recover *r = j->r;
    const int shown = r->judges < SHOWN ? r->judges : SHOWN;
    swin_sense *s = NULL;
    swin_sense_group *groups = calloc((size_t)j->count + 1, sizeof *groups);
    if (!groups) return swin_fail(SWIN_ERR_MEM, "--recover: no memory for %d units", j->count);
    for (int i = 0; i < j->count; i++)
        groups[i] = (swin_sense_group){ .part = j->units[i].part,
                                        .sites = j->units[i].sites,
                                        .alone = j->units[i].own };
    swin_status st = swin_sense_create(&s, r->dev, r->f, &r->exact, &r->w, SWIN_PER_CHANNEL, groups, j->count,
                                       SWIN_SENSE_ALONE);
    if (st == SWIN_OK) st = swin_sense_add(s, r->judge_pixels, shown, r->reference, go_on, NULL);
    double all = 0;
    for (int i = 0; st == SWIN_OK && i < j->count; i++) all += j->error[i] = swin_sense_get(s, i)->alone;
    for (int i = 0; st == SWIN_OK && i < j->count; i++) {
        j->units[i].alone_db = swin_sqnr_of(swin_sense_total(s)->signal, j->error[i]);
        j->units[i].share = all > 0 ? 100 * j->error[i] / all : 0;
    }
    swin_sense_free(s);
    free(groups);
    return st;
}

/* Insertion keeps equal ones in the network's order. */
static void rank(job *j)
{
    for (int i = 0; i < j->count; i++) {
        const double worth = j->error[i] / swin_relax_time(&j->units[i]);
        int at = i;
        for (; at > 0 && j->error[j->order[at - 1]] / swin_relax_time(&j->units[j->order[at - 1]]) < worth;
             at--)
            j->order[at] = j->order[at - 1];
        j->order[at] = i;
    }
}

/* The most error for the time. A unit takes as much time more in float as it takes in INT8. */
static int choose(job *j, double *spent)
{
    double all = 0;
    int relaxed = 0;
    for (int i = 0; i < j->count; i++) all += swin_relax_time(&j->units[i]);
    *spent = 0;
    for (int i = 0; i < j->count; i++) {
        swin_relax_unit *u = &j->units[j->order[i]];
        const double time = swin_relax_time(u) / all;
        if (*spent + time > budget || !(j->error[j->order[i]] > 0)) continue;
        *spent += time;
        u->relaxed = true;
        relaxed++;
    }
    return relaxed;
}

static swin_status apply(job *j)
{
    swin_recover *r = j->r;
    for (int i = 0; i < j->count; i++)
        if (j->units[i].relaxed) swin_relax_set(r->f, &j->units[i], true);
    recover_changed(r);
    return swin_relax_weights(&r->w, &r->exact, r->f);
}

/* Into the file, as --int8-mode auto does: a limit of 0 is none. */
static swin_status record(job *j, double agreement)
{
    swin_relaxation *x = &j->r->f->relaxation;
    x->present = true;
    x->images = (uint64_t)j->r->judges;
    x->before_agreement = agreement;
    x->before_db = j->r->db;
    SWIN_TRY(recover_judge(j->r, &x->after_db, &x->after_agreement));
    x->units = j->units;
    x->nunits = j->count;
    j->units = NULL;
    return SWIN_OK;
}

static swin_status relax_units(job *j, char *changed, size_t size)
{
    double spent, db, agreement;
    SWIN_TRY(recover_judge(j->r, &db, &agreement));
    SWIN_TRY(measure(j));
    rank(j);
    const int relaxed = choose(j, &spent);
    SWIN_TRY(apply(j));
    snprintf(changed, size, "%d of %d units in float, %.2f %% of the modelled time more", relaxed, j->count,
             100 * spent);
    return record(j, agreement);
}

static swin_status relax(swin_recover *r, char *changed, size_t size)
{
    job j = { .r = r };
    SWIN_TRY(swin_relax_units(&j.units, &j.count, r->f));
    j.error = calloc((size_t)j.count + 1, sizeof *j.error);
    j.order = calloc((size_t)j.count + 1, sizeof *j.order);
    const swin_status st = j.error && j.order
                               ? relax_units(&j, changed, size)
                               : swin_fail(SWIN_ERR_MEM, "--recover: no memory for %d units", j.count);
    free(j.units);
    free(j.error);
    free(j.order);
    return st;
}

const swin_recover_method swin_recover_relax = {
    .name = "relax",
    .help = "what hurts most for its time stays in float: at most 3 % of the modelled INT8 time",
    .levels = SWIN_RECOVER_BEST,
    .when = SWIN_RECOVER_AFTER,
    .guarded = true,
    .run = relax,
};
