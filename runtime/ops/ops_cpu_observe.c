/* Observation on the cpu. Each worker counts into small tables of its own, at a bin width that only grows, and adds them to the observer under its
 * lock: when its share is done, when a counter could overflow, and before its width changes. Integer sums make the result
 * independent of who counted what.
 */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/ops/ops_cpu.h"

/* FULL: as many groups can be counted before a 16-bit counter could overflow. */
enum { TABLES = SWIN_CPU_TABLES, GROUP = SWIN_CPU_GROUP, FULL = 65535 / (GROUP / TABLES), PIECE = 1 << 16 };

struct swin_observer {
    pthread_mutex_t lock;
    swin_observed seen;
};

swin_status swin_observer_create_cpu(swin_dev *dev, swin_observer **o)
{
    (void)dev;
    *o = calloc(1, sizeof **o);
    if (!*o) return swin_fail(SWIN_ERR_MEM, "no memory for an observer");
    pthread_mutex_init(&(*o)->lock, NULL);
    (*o)->seen.bin_width = SWIN_HIST_MIN_WIDTH;
    return SWIN_OK;
}

void swin_observer_free_cpu(swin_dev *dev, swin_observer *o)
{
    (void)dev;
    if (!o) return;
    pthread_mutex_destroy(&o->lock);
    free(o);
}

/* What one worker has counted since it last gave its counts away. */
typedef struct tally {
    const swin_cpu_kernels *k;
    swin_observer *o;
    uint16_t *counts; /* [BINS][TABLES] */
    float width, min, max;
    uint64_t finite, nonfinite;
    int64_t groups; /* at most FULL */
} tally;

static void coarsen(swin_observed *s, float width)
{
    for (; s->bin_width < width; s->bin_width *= 2) {
        uint64_t merged[SWIN_HIST_BINS] = { 0 };
        for (int i = 0; i < SWIN_HIST_BINS; i++)
            merged[((i - SWIN_HIST_HALF) >> 1) + SWIN_HIST_HALF] += s->hist[i];
        memcpy(s->hist, merged, sizeof merged);
    }
}

/* Add the counts to s, whose bins may be wider by `shift` halvings, and zero them. */
static void give_counts(const swin_cpu_kernels *k, swin_observed *s, uint16_t *counts, int shift)
{
    if (shift == 0) {
        k->collect(s->hist, counts);
        return;
    }
    uint64_t own[SWIN_HIST_BINS] = { 0 };
    k->collect(own, counts);
    for (int i = 0; i < SWIN_HIST_BINS; i++)
        s->hist[((i - SWIN_HIST_HALF) >> shift) + SWIN_HIST_HALF] += own[i];
}

static void give(tally *t)
{
    swin_observed *s = &t->o->seen;
    pthread_mutex_lock(&t->o->lock);
    if (t->finite > 0) {
        if (s->count == s->nonfinite) { /* the first values */
            s->bin_width = t->width;
            s->min = t->min;
            s->max = t->max;
        }
        coarsen(s, t->width);
        int shift = 0;
        for (float w = t->width; w < s->bin_width && shift < 14; w *= 2)
            shift++; /* 13 leave -1 and 0 alone */
        give_counts(t->k, s, t->counts, shift);
        s->min = t->min < s->min ? t->min : s->min;
        s->max = t->max > s->max ? t->max : s->max;
    }
    s->count += t->finite + t->nonfinite;
    s->nonfinite += t->nonfinite;
    pthread_mutex_unlock(&t->o->lock);
    t->finite = t->nonfinite = 0;
    t->groups = 0;
}

static void stretch(tally *t, float min, float max)
{
    t->min = t->finite == 0 || min < t->min ? min : t->min;
    t->max = t->finite == 0 || max > t->max ? max : t->max;
}

/* A group that does not fit, or is short: NaN and infinities are left out, the width grows to what remains. */
static void tally_values(tally *t, const float *x, int64_t n)
{
    float kept[GROUP], amax = 0;
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) continue;
        kept[count++] = x[i];
        amax = fmaxf(amax, fabsf(x[i]));
    }
    t->nonfinite += (uint64_t)(n - count);
    const bool wider = !(amax < t->width * SWIN_HIST_HALF);
    if (t->groups == FULL || (wider && t->finite > 0)) give(t);
    if (wider) t->width = swin_observed_width(amax);
    for (int64_t i = 0; i < count; i++) {
        const int bin = (int)floor(kept[i] / (double)t->width) + SWIN_HIST_HALF;
        t->counts[bin * TABLES + i % TABLES]++;
        stretch(t, kept[i], kept[i]);
        t->finite++;
    }
    t->groups++;
}

/* `rows` runs of n values, ld apart. */
static void tally_rows(tally *t, const float *x, int64_t ld, int64_t n, int64_t rows)
{
    const int64_t across = n / GROUP, all = across * rows;
    for (int64_t g = 0; g < all;) {
        if (t->groups == FULL) give(t);
        const int64_t from = g, room = FULL - t->groups;
        float min = INFINITY, max = -INFINITY;
        g = t->k->count(t->counts, x, ld, across, from, all - from < room ? all : from + room, t->width, &min,
                        &max);
        if (g > from) stretch(t, min, max);
        t->groups += g - from;
        t->finite += (uint64_t)(g - from) * GROUP;
        if (g < all && g - from < room) {
            tally_values(t, x + g / across * ld + g % across * GROUP, GROUP);
            g++;
        }
    }
    for (int64_t r = 0; n % GROUP > 0 && r < rows; r++)
        tally_values(t, x + r * ld + across * GROUP, n % GROUP);
}

typedef struct observe_job {
    swin_dev *dev;
    swin_observer *o;
    const swin_tensor *x;
    float width;
} observe_job;

static uint16_t *worker_counts(swin_dev *dev, int worker)
{
    swin_cpu_worker *w = &((swin_cpu_dev *)dev)->workers[worker];
    if (!w->counts) {
        w->counts = swin_host_memory((size_t)SWIN_HIST_BINS * TABLES, sizeof *w->counts);
        if (w->counts) memset(w->counts, 0, (size_t)SWIN_HIST_BINS * TABLES * sizeof *w->counts);
    }
    return w->counts;
}

static swin_status observe_rows(void *user, int64_t from, int64_t to, int worker)
{
    const observe_job *j = user;
    tally t = { .k = swin_cpu_kernels_of(j->dev),
                .o = j->o,
                .counts = worker_counts(j->dev, worker),
                .width = j->width };
    if (!t.counts) return swin_fail(SWIN_ERR_MEM, "observe: no memory");
    const float *x = swin_row(j->x, from);
    if (j->x->ld == j->x->cols) /* one long run */
        tally_rows(&t, x, 0, (to - from) * j->x->cols, 1);
    else
        tally_rows(&t, x, j->x->ld, j->x->cols, to - from);
    give(&t);
    return SWIN_OK;
}

swin_status swin_observe_cpu(swin_dev *dev, swin_observer *o, const swin_tensor *x)
{
    SWIN_TRY(swin_check_matrix("observe", x, x->rows, x->cols));
    if (x->rows == 0 || x->cols == 0) return SWIN_OK;
    observe_job j = { .dev = dev, .o = o, .x = x, .width = o->seen.bin_width };
    /* A few pieces for each thread, so that all finish together, but each worth its visit to the observer. */
    const int64_t pieces = 4 * (int64_t)swin_host_threads(dev), least = PIECE / x->cols + 1;
    const int64_t step = (x->rows + pieces - 1) / pieces;
    return swin_host_each(dev, x->rows, step > least ? step : least, observe_rows, &j);
}

swin_status swin_observer_read_cpu(swin_dev *dev, const swin_observer *o, swin_observed *out)
{
    (void)dev;
    *out = o->seen;
    out->min += 0.0f; /* -0 and 0 are one value: which came first must not show */
    out->max += 0.0f;
    return SWIN_OK;
}
