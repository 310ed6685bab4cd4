/* Observation on the cpu: observers, what each thread has counted for them, and the plain operator (ops_cpu_watch.h). */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/ops/ops_cpu.h"

enum { FULL = 65535, PIECE = 1 << 16 };

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

/* ---- one thread's tallies ------------------------------------------------------------------------------------------ */

static void coarsen(swin_observed *s, float width)
{
    for (; s->bin_width < width; s->bin_width *= 2) {
        uint64_t merged[SWIN_HIST_BINS] = { 0 };
        for (int i = 0; i < SWIN_HIST_BINS; i++)
            merged[((i - SWIN_HIST_HALF) >> 1) + SWIN_HIST_HALF] += s->hist[i];
        memcpy(s->hist, merged, sizeof merged);
    }
}

static void take_counts(const swin_cpu_watch *w, const swin_cpu_tally *t, uint64_t *hist)
{
    for (int i = 0; i < t->ways; i++)
        w->k->collect(hist, w->counts + (size_t)(t->table + i) * SWIN_HIST_BINS);
}

/* Add the tally's tables to s, whose bins are wider, and zero them. */
static void give_merged(const swin_cpu_watch *w, const swin_cpu_tally *t, swin_observed *s)
{
    uint64_t own[SWIN_HIST_BINS] = { 0 };
    int shift = 0;
    take_counts(w, t, own);
    for (float width = t->width; width < s->bin_width && shift < 14; width *= 2)
        shift++; /* 13 leave -1 and 0 alone */
    for (int i = 0; i < SWIN_HIST_BINS; i++)
        s->hist[((i - SWIN_HIST_HALF) >> shift) + SWIN_HIST_HALF] += own[i];
}

static void give_finite(const swin_cpu_watch *w, const swin_cpu_tally *t, swin_observed *s)
{
    float least = t->lo[0], most = t->hi[0];
    for (int i = 1; i < SWIN_CPU_LANES; i++) {
        least = t->lo[i] < least ? t->lo[i] : least;
        most = t->hi[i] > most ? t->hi[i] : most;
    }
    const bool first = s->count == s->nonfinite;
    if (first) s->bin_width = t->width;
    coarsen(s, t->width);
    if (t->width == s->bin_width)
        take_counts(w, t, s->hist);
    else
        give_merged(w, t, s);
    s->min = first || least < s->min ? least : s->min;
    s->max = first || most > s->max ? most : s->max;
}

static void give(swin_cpu_watch *w, swin_cpu_tally *t)
{
    swin_observed *s = &t->o->seen;
    pthread_mutex_lock(&t->o->lock);
    if (t->finite > 0) give_finite(w, t, s);
    s->count += t->finite + t->nonfinite;
    s->nonfinite += t->nonfinite;
    pthread_mutex_unlock(&t->o->lock);
    t->finite = t->nonfinite = 0;
    t->room = FULL;
}

void swin_cpu_tally_room(swin_cpu_watch *w, swin_cpu_tally *t)
{
    int most = 0;
    w->k->drain(w);
    for (int i = 0; i < t->ways; i++) {
        const int of_table = w->k->most(w->counts + (size_t)(t->table + i) * SWIN_HIST_BINS);
        most = of_table > most ? of_table : most;
    }
    t->room = FULL - most;
    if (most > FULL / 2) give(w, t);
}

static void set_width(swin_cpu_tally *t, float width)
{
    t->width = width;
    t->inverse = 1.0f / width;
}

/* NaN and infinities are left out; the width grows to what remains. */
void swin_cpu_tally_odd(swin_cpu_watch *w, swin_cpu_tally *t, const float *x, int64_t n)
{
    float amax = 0;
    for (int64_t i = 0; i < n; i++)
        if (isfinite(x[i])) amax = fmaxf(amax, fabsf(x[i]));
    if (!(amax < t->width * SWIN_HIST_HALF)) {
        w->k->drain(w);
        give(w, t);
        set_width(t, swin_observed_width(amax));
    }
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) {
            t->nonfinite++;
            continue;
        }
        if (t->room == 0) swin_cpu_tally_room(w, t);
        const int bin = (int)floor(x[i] / (double)t->width) + SWIN_HIST_HALF;
        w->counts[(size_t)t->table * SWIN_HIST_BINS + (size_t)bin]++;
        t->lo[0] = x[i] < t->lo[0] ? x[i] : t->lo[0];
        t->hi[0] = x[i] > t->hi[0] ? x[i] : t->hi[0];
        t->finite++;
        t->room--;
    }
}

/* ---- one operator on all threads ----------------------------------------------------------------------------------- */

static swin_cpu_watch **place_of(swin_dev *dev, int worker)
{
    return &((swin_cpu_dev *)dev)->workers[worker].watch;
}

swin_cpu_watch *swin_cpu_watch_of(swin_dev *dev, int worker)
{
    return *place_of(dev, worker);
}

void swin_cpu_watch_free(swin_cpu_watch *w)
{
    if (!w) return;
    free(w->counts);
    free(w);
}

static swin_status create(swin_dev *dev, swin_cpu_watch **out)
{
    const size_t counters = (size_t)SWIN_CPU_TABLES * SWIN_HIST_BINS, all = counters + SWIN_CPU_QUEUE;
    swin_cpu_watch *w = calloc(1, sizeof *w);
    if (w) w->counts = swin_host_memory(all, sizeof *w->counts);
    if (!w || !w->counts) {
        swin_cpu_watch_free(w);
        return swin_fail(SWIN_ERR_MEM, "no memory for histograms");
    }
    memset(w->counts, 0, all * sizeof *w->counts);
    w->queue = w->counts + counters;
    w->k = swin_cpu_kernels_of(dev);
    *out = w;
    return SWIN_OK;
}

static void start_tally(swin_cpu_tally *t, swin_observer *o, int table, int ways)
{
    *t = (swin_cpu_tally){ .o = o, .table = table, .ways = ways, .room = FULL };
    if (!o) return;
    set_width(t, o->seen.bin_width);
    for (int i = 0; i < SWIN_CPU_LANES; i++) {
        t->lo[i] = INFINITY;
        t->hi[i] = -INFINITY;
    }
    for (int i = 0; i < 2 * SWIN_CPU_LANES; i++)
        t->offset[i] = (uint16_t)((table + i % ways) * SWIN_HIST_BINS);
}

swin_status swin_cpu_watch_begin(swin_dev *dev, swin_observer *const *observers, int n, int ways)
{
    int used = 0;
    for (int i = 0; i < n; i++) used += observers[i] != NULL;
    while (used * ways > SWIN_CPU_TABLES) ways /= 2;
    for (int i = 0; i < swin_host_threads(dev); i++) {
        swin_cpu_watch **w = place_of(dev, i);
        if (!*w) SWIN_TRY(create(dev, w));
        int table = 0;
        for (int s = 0; s < SWIN_CPU_SLOTS; s++) {
            swin_observer *o = s < n ? observers[s] : NULL;
            start_tally(&(*w)->slots[s], o, table, ways);
            if (o) table += ways;
        }
    }
    return SWIN_OK;
}

static swin_status drain_worker(void *user, size_t i, int worker)
{
    (void)worker;
    swin_cpu_kernels_of(user)->drain(swin_cpu_watch_of(user, (int)i));
    return SWIN_OK;
}

/* One slot of every thread: an observer is given to by one thread at a time. */
static swin_status give_slot(void *user, size_t slot, int worker)
{
    swin_dev *dev = user;
    (void)worker;
    for (int i = 0; i < swin_host_threads(dev); i++) {
        swin_cpu_watch *w = swin_cpu_watch_of(dev, i);
        swin_cpu_tally *t = &w->slots[slot];
        if (t->o && t->finite + t->nonfinite > 0) give(w, t);
    }
    return SWIN_OK;
}

swin_status swin_cpu_watch_end(swin_dev *dev)
{
    SWIN_TRY(swin_pool_run(swin_host_pool(dev), (size_t)swin_host_threads(dev), drain_worker, dev));
    return swin_pool_run(swin_host_pool(dev), SWIN_CPU_SLOTS, give_slot, dev);
}

/* ---- the plain operator -------------------------------------------------------------------------------------------- */

typedef struct observe_job {
    swin_dev *dev;
    const swin_tensor *x;
} observe_job;

static swin_status observe_rows(void *user, int64_t from, int64_t to, int worker)
{
    const observe_job *j = user;
    const swin_tensor *x = j->x;
    swin_cpu_watch *w = swin_cpu_watch_of(j->dev, worker);
    if (x->ld == x->cols) /* one long run */
        w->k->watch(w, &w->slots[0], swin_row(x, from), 0, 1, (to - from) * x->cols);
    else
        w->k->watch(w, &w->slots[0], swin_row(x, from), x->ld, to - from, x->cols);
    return SWIN_OK;
}

swin_status swin_observe_cpu(swin_dev *dev, swin_observer *o, const swin_tensor *x)
{
    SWIN_TRY(swin_check_matrix("observe", x, x->rows, x->cols));
    if (x->rows == 0 || x->cols == 0) return SWIN_OK;
    observe_job j = { .dev = dev, .x = x };
    SWIN_TRY(swin_cpu_watch_begin(dev, &o, 1, 4));
    /* A few pieces for each thread, so that all finish together. */
    const int64_t pieces = 4 * (int64_t)swin_host_threads(dev), least = PIECE / x->cols + 1;
    const int64_t step = (x->rows + pieces - 1) / pieces;
    const swin_status st = swin_host_each(dev, x->rows, step > least ? step : least, observe_rows, &j);
    const swin_status end = swin_cpu_watch_end(dev);
    return st == SWIN_OK ? end : st;
}

swin_status swin_observer_read_cpu(swin_dev *dev, const swin_observer *o, swin_observed *out)
{
    (void)dev;
    *out = o->seen;
    out->min += 0.0f; /* -0 and 0 are one value: which came first must not show */
    out->max += 0.0f;
    return SWIN_OK;
}
