#include "calib/abs_hist.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STAGE_FLOATS = 1 << 20, TASK_FLOATS = 1 << 15 };

typedef struct range {
    uint64_t nonfinite;
    float min, max;
    bool any;
} range;

struct swin_abs_scratch {
    swin_pool *pool;
    float *stage; /* STAGE_FLOATS downloaded values, rows apart by ld */
    size_t stage_floats;
    range *ranges; /* one for each task of a stage */
    size_t tasks;
    uint64_t *partial; /* [threads][SWIN_ABS_HIST_MOST] */
};

swin_status swin_abs_scratch_create(swin_abs_scratch **out, int threads)
{
    *out = NULL;
    swin_abs_scratch *s = calloc(1, sizeof *s);
    if (!s) return swin_fail(SWIN_ERR_MEM, "no memory for histograms");
    swin_status st = swin_pool_create(&s->pool, threads);
    if (st == SWIN_OK) {
        s->partial = calloc((size_t)swin_pool_threads(s->pool) * SWIN_ABS_HIST_MOST, sizeof *s->partial);
        if (!s->partial) st = swin_fail(SWIN_ERR_MEM, "no memory for histograms");
    }
    if (st != SWIN_OK) {
        swin_abs_scratch_free(s);
        return st;
    }
    *out = s;
    return SWIN_OK;
}

void swin_abs_scratch_free(swin_abs_scratch *s)
{
    if (!s) return;
    swin_pool_free(s->pool);
    free(s->stage);
    free(s->ranges);
    free(s->partial);
    free(s);
}

/* One stretch of rows on the host. Both passes walk it in tasks of whole rows. */
typedef struct stretch {
    swin_abs_scratch *s;
    swin_abs_counts *c;
    int64_t rows, cols, ld, rows_per_task;
    float width;
    int bins;
} stretch;

static size_t tasks_of(const stretch *t)
{
    return (size_t)((t->rows + t->rows_per_task - 1) / t->rows_per_task);
}

static int64_t task_rows(const stretch *t, size_t task, int64_t *first)
{
    *first = (int64_t)task * t->rows_per_task;
    return t->rows - *first < t->rows_per_task ? t->rows - *first : t->rows_per_task;
}

static swin_status find_range(void *user, size_t task, int worker)
{
    (void)worker;
    const stretch *t = user;
    int64_t first;
    const int64_t rows = task_rows(t, task, &first);
    range r = { .min = INFINITY, .max = -INFINITY };
    for (int64_t i = first; i < first + rows; i++) {
        const float *x = t->s->stage + i * t->ld;
        for (int64_t j = 0; j < t->cols; j++) {
            const bool finite = fabsf(x[j]) <= 3.4028235e38f; /* false for NaN */
            r.nonfinite += !finite;
            r.min = finite && x[j] < r.min ? x[j] : r.min;
            r.max = finite && x[j] > r.max ? x[j] : r.max;
        }
    }
    r.any = r.min <= r.max;
    t->s->ranges[task] = r;
    return SWIN_OK;
}

static swin_status count_bins(void *user, size_t task, int worker)
{
    const stretch *t = user;
    uint64_t *hist = t->s->partial + (size_t)worker * SWIN_ABS_HIST_MOST;
    const int last = t->bins - 1;
    int64_t first;
    const int64_t rows = task_rows(t, task, &first);
    for (int64_t i = first; i < first + rows; i++) {
        const float *x = t->s->stage + i * t->ld;
        for (int64_t j = 0; j < t->cols; j++) {
            const float q = fabsf(x[j]) / t->width;
            if (!(q <= 3.4028235e38f)) continue;
            hist[q < (float)last ? (int)q : last]++;
        }
    }
    return SWIN_OK;
}

static swin_status room(swin_abs_scratch *s, size_t floats, size_t tasks)
{
    if (floats > s->stage_floats) {
        free(s->stage);
        s->stage = malloc(floats * sizeof *s->stage);
        s->stage_floats = s->stage ? floats : 0;
    }
    if (tasks > s->tasks) {
        free(s->ranges);
        s->ranges = malloc(tasks * sizeof *s->ranges);
        s->tasks = s->ranges ? tasks : 0;
    }
    return s->stage && s->ranges ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "no memory for %zu values", floats);
}

static void fold_ranges(swin_abs_counts *c, const stretch *t, float *amax)
{
    for (size_t i = 0; i < tasks_of(t); i++) {
        const range *r = &t->s->ranges[i];
        c->nonfinite += r->nonfinite;
        if (!r->any) continue;
        const bool first = c->count == 0; /* count is raised only after the range is known */
        c->min = first || r->min < c->min ? r->min : c->min;
        c->max = first || r->max > c->max ? r->max : c->max;
        c->count = 1;
        *amax = fmaxf(*amax, fmaxf(fabsf(r->min), fabsf(r->max)));
    }
}

/* Grow to hold magnitudes up to amax. */
static swin_status grow(swin_abs_counts *c, float amax)
{
    if (c->width == 0) c->width = fmax((double)amax, 1e-30) / SWIN_ABS_HIST_BINS;
    const double need = fmax(ceil(amax / c->width), SWIN_ABS_HIST_BINS);
    if (need > SWIN_ABS_HIST_MOST)
        return swin_fail(
            SWIN_ERR_VALUE,
            "%g is %.0f times the first batch's range, which fixed the bins: use --histogram exact",
            (double)amax, amax / (c->width * SWIN_ABS_HIST_BINS));
    if ((int)need <= c->bins) return SWIN_OK;
    uint64_t *hist = realloc(c->hist, (size_t)need * sizeof *hist);
    if (!hist) return swin_fail(SWIN_ERR_MEM, "no memory for a histogram of %.0f bins", need);
    memset(hist + c->bins, 0, ((size_t)need - (size_t)c->bins) * sizeof *hist);
    c->hist = hist;
    c->bins = (int)need;
    return SWIN_OK;
}

static void fold_partials(swin_abs_counts *c, swin_abs_scratch *s)
{
    for (int w = 0; w < swin_pool_threads(s->pool); w++) {
        uint64_t *partial = s->partial + (size_t)w * SWIN_ABS_HIST_MOST;
        for (int i = 0; i < c->bins; i++) c->hist[i] += partial[i];
        memset(partial, 0, (size_t)c->bins * sizeof *partial);
    }
}

/* Run one pass over x, a stretch at a time: the whole tensor may be too large to copy. */
static swin_status each_stretch(stretch *t, swin_dev *dev, const swin_tensor *x, swin_task task, float *amax)
{
    const int64_t step = STAGE_FLOATS / x->ld > 0 ? STAGE_FLOATS / x->ld : 1;
    t->cols = x->cols;
    t->ld = x->ld;
    t->rows_per_task = TASK_FLOATS / x->cols > 0 ? TASK_FLOATS / x->cols : 1;
    for (int64_t at = 0; at < x->rows; at += step) {
        t->rows = x->rows - at < step ? x->rows - at : step;
        const size_t floats = (size_t)((t->rows - 1) * x->ld + x->cols);
        SWIN_TRY(room(t->s, floats, tasks_of(t)));
        const float *from = (const float *)x->data + at * x->ld;
        SWIN_TRY(dev->ops->download(dev, t->s->stage, from, floats * sizeof *from));
        SWIN_TRY(swin_pool_run(t->s->pool, tasks_of(t), task, t));
        if (amax) fold_ranges(t->c, t, amax);
    }
    return SWIN_OK;
}

swin_status swin_abs_counts_add(swin_abs_counts *c, swin_abs_scratch *s, swin_dev *dev, const swin_tensor *x)
{
    const uint64_t before = c->count, seen_nonfinite = c->nonfinite;
    const uint64_t n = (uint64_t)x->rows * (uint64_t)x->cols;
    if (n == 0) return SWIN_OK;
    stretch t = { .s = s, .c = c };
    float amax = 0;
    c->count = before > seen_nonfinite; /* while ranges are folded: whether min and max hold anything */
    swin_status st = each_stretch(&t, dev, x, find_range, &amax);
    const bool any = c->count > 0;
    c->count = before + n;
    if (st != SWIN_OK || !any) return st;
    SWIN_TRY(grow(c, amax));
    t.width = (float)c->width;
    t.bins = c->bins;
    SWIN_TRY(each_stretch(&t, dev, x, count_bins, NULL));
    fold_partials(c, s);
    return SWIN_OK;
}
