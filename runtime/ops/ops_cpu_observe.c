/* Observation on the cpu: range, bin numbers and counts, block by block while the block is in L1.
 *
 * Each worker counts into small tables of its own, at a bin width that only grows, and adds them to the observer under its
 * lock: when its share is done, when a counter could overflow, and before its width changes. Integer sums make the result
 * independent of who counted what.
 */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/ops/ops_cpu.h"

/* Neighbouring elements often fall into one bin; TABLES counters for each bin keep their increments apart. */
enum { TABLES = SWIN_CPU_TABLES, BLOCK = 2048, FULL = 65535 };

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
    swin_observer *o;
    uint16_t *counts; /* [BINS][TABLES] */
    float width, min, max;
    uint64_t finite, nonfinite;
    int64_t depth; /* no counter is above this */
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

/* Add the counts to s, `shift` halvings coarser, and zero them. Most bins of a group are empty. */
static void give_counts(swin_observed *s, uint16_t *counts, int shift)
{
    enum { GROUP = 16 };
    for (int g = 0; g < SWIN_HIST_BINS; g += GROUP) {
        uint16_t *c = counts + (size_t)g * TABLES;
        uint64_t any = 0, words[GROUP * TABLES / 4];
        memcpy(words, c, sizeof words);
        for (size_t i = 0; i < SWIN_COUNT(words); i++) any |= words[i];
        if (!any) continue;
        for (int b = 0; b < GROUP; b++) {
            uint32_t sum = 0;
            for (int t = 0; t < TABLES; t++) sum += c[b * TABLES + t];
            s->hist[((g + b - SWIN_HIST_HALF) >> shift) + SWIN_HIST_HALF] += sum;
        }
        memset(c, 0, sizeof words);
    }
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
        for (float w = t->width; w < s->bin_width && shift < 14; w *= 2) shift++; /* 13 leave -1 and 0 alone */
        give_counts(s, t->counts, shift);
        s->min = t->min < s->min ? t->min : s->min;
        s->max = t->max > s->max ? t->max : s->max;
    }
    s->count += t->finite + t->nonfinite;
    s->nonfinite += t->nonfinite;
    pthread_mutex_unlock(&t->o->lock);
    t->finite = t->nonfinite = 0;
    t->depth = 0;
}

/* n finite values, n <= BLOCK. */
static void tally_finite(const swin_cpu_kernels *k, tally *t, const float *x, int64_t n, float min, float max)
{
    uint16_t bin[BLOCK + 64];
    const float amax = fmaxf(fabsf(min), fabsf(max)),
                width = amax < t->width * SWIN_HIST_HALF ? t->width : swin_observed_width(amax);
    if (width > t->width || t->depth + n / TABLES + TABLES > FULL) {
        if (t->finite > 0) give(t);
        t->width = width;
    }
    t->min = t->finite == 0 || min < t->min ? min : t->min;
    t->max = t->finite == 0 || max > t->max ? max : t->max;
    t->finite += (uint64_t)n;
    t->depth += n / TABLES + TABLES;
    k->bins(bin, x, n, t->width);
    int64_t i = 0;
    for (; i + TABLES <= n; i += TABLES)
        for (int j = 0; j < TABLES; j++) t->counts[bin[i + j] * TABLES + j]++;
    for (; i < n; i++) t->counts[bin[i] * TABLES]++;
}

static void tally_block(const swin_cpu_kernels *k, tally *t, const float *x, int64_t n)
{
    float min, max, kept[BLOCK];
    if (k->range(x, n, &min, &max)) {
        tally_finite(k, t, x, n, min, max);
        return;
    }
    int64_t count = 0; /* rare: leave out what is not finite */
    for (int64_t i = 0; i < n; i++)
        if (isfinite(x[i])) kept[count++] = x[i];
    t->nonfinite += (uint64_t)(n - count);
    if (count > 0 && k->range(kept, count, &min, &max)) tally_finite(k, t, kept, count, min, max);
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
    const swin_cpu_kernels *k = swin_cpu_kernels_of(j->dev);
    tally t = { .o = j->o, .counts = worker_counts(j->dev, worker), .width = j->width };
    if (!t.counts) return swin_fail(SWIN_ERR_MEM, "observe: no memory");
    const bool dense = j->x->ld == j->x->cols; /* then the rows are one long run */
    const int64_t run = dense ? (to - from) * j->x->cols : j->x->cols;
    for (int64_t r = from; r < to; r += dense ? to - from : 1)
        for (int64_t c = 0; c < run; c += BLOCK)
            tally_block(k, &t, swin_row(j->x, r) + c, run - c < BLOCK ? run - c : BLOCK);
    give(&t);
    return SWIN_OK;
}

swin_status swin_observe_cpu(swin_dev *dev, swin_observer *o, const swin_tensor *x)
{
    SWIN_TRY(swin_check_matrix("observe", x, x->rows, x->cols));
    if (x->rows == 0 || x->cols == 0) return SWIN_OK;
    observe_job j = { .dev = dev, .o = o, .x = x, .width = o->seen.bin_width };
    const int64_t threads = swin_host_threads(dev);
    return swin_host_each(dev, x->rows, (x->rows + threads - 1) / threads, observe_rows, &j);
}

swin_status swin_observer_read_cpu(swin_dev *dev, const swin_observer *o, swin_observed *out)
{
    (void)dev;
    *out = o->seen;
    out->min += 0.0f; /* -0 and 0 are one value: which came first must not show */
    out->max += 0.0f;
    return SWIN_OK;
}
