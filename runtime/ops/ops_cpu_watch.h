/* runtime/ops/ops_cpu_watch.h - how operators of the cpu backend show values to observers while they compute. Internal.
 *
 *     SWIN_TRY(swin_cpu_watch_begin(dev, observers, n, ways));
 *     ... on every thread: k->watch(w, &w->slots[i], values) with w = swin_cpu_watch_of(dev, worker) ...
 *     swin_cpu_watch_end(dev);
 *
 * Counting is one increment in memory for each value. It costs little beside multiplications, whose loops leave the store
 * ports idle, so `watch` only finds the counters of its values and queues them; a matrix product counts what is queued while
 * it multiplies (ops_cpu_body_gemm.h). Each thread has tables of its own, at bin widths that only grow, and adds them to
 * the observers under their locks. Integer sums make the result independent of who counted what, and when.
 */
#ifndef SWIN_OPS_CPU_WATCH_H
#define SWIN_OPS_CPU_WATCH_H

#include "runtime/ops/ops.h"

typedef struct swin_cpu_kernels swin_cpu_kernels;

/* TABLES x SWIN_HIST_BINS counters are what 16 bits can name. QUEUE: entries; a watched block is at most BLOCK values. */
enum {
    SWIN_CPU_TABLES = 8,
    SWIN_CPU_SLOTS = 6,
    SWIN_CPU_QUEUE = 8192,
    SWIN_CPU_BLOCK = 512,
    SWIN_CPU_LANES = 16
};

/* What one thread has seen for one observer since it last gave its counts away. */
typedef struct swin_cpu_tally {
    swin_observer *o;                             /* NULL: nobody looks */
    float width, inverse;                         /* a power of two and its reciprocal */
    float lo[SWIN_CPU_LANES], hi[SWIN_CPU_LANES]; /* least and greatest finite value, for each vector lane */
    uint64_t finite, nonfinite;
    int64_t room; /* values that may come before a counter could overflow; not under 0 */
    int table, ways;
    uint16_t offset
        [2 * SWIN_CPU_LANES]; /* where a lane's table begins: neighbours that fall into one bin take turns */
} swin_cpu_tally;

typedef struct swin_cpu_watch {
    const swin_cpu_kernels *k;
    uint16_t *counts; /* [TABLES][SWIN_HIST_BINS], all zero between operators */
    uint16_t *queue;  /* [QUEUE]: entries [from, to) are counters to be incremented */
    int from, to;
    swin_cpu_tally slots[SWIN_CPU_SLOTS];
} swin_cpu_watch;

/* Slot i of every thread looks for observers[i], which may be NULL, with up to `ways` tables: a power of two. One operator
 * at a time. */
swin_status swin_cpu_watch_begin(swin_dev *dev, swin_observer *const *observers, int n, int ways);
swin_cpu_watch *swin_cpu_watch_of(swin_dev *dev, int worker);
/* Count what is queued and give everything to the observers. Needed after begin, however the operator went. */
swin_status swin_cpu_watch_end(swin_dev *dev);
void swin_cpu_watch_free(swin_cpu_watch *w); /* NULL is fine */

/* For the kernels: n values of which some do not fit the bins; and room for BLOCK values or more. */
void swin_cpu_tally_odd(swin_cpu_watch *w, swin_cpu_tally *t, const float *x, int64_t n);
void swin_cpu_tally_room(swin_cpu_watch *w, swin_cpu_tally *t);

#endif
