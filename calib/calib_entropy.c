#include <math.h>
#include <stdlib.h>

#include "calib/calibrator.h"

/*
 * For every i from 128 to the number of bins: P is the first i bins with the rest of the histogram added to the last of
 * them; Q is the first i bins in 128 equal groups, each group's sum spread evenly over its non-empty bins. The i with the
 * smallest divergence KL(P || Q) wins, the last one on ties, and the range is that bin's left edge i * width.
 *
 * With b the counts, T their sum, S the sum of the first i, t = T - S, and for each group g its sum s_g and its non-empty
 * bins n_g,
 *     KL = (sum_x p_x log p_x - sum_g s_g log(s_g / n_g) - t log(q of the last bin)) / T + log(S / T),
 * where sum_x p_x log p_x is a prefix sum with its last term replaced. So a candidate costs 128 steps instead of i.
 */
enum { FIRST_BIN = 128, GROUPS = 128 };

typedef struct prefix {
    uint64_t count; /* elements in the bins before an index */
    int nonempty;   /* bins with any */
    double plogp;   /* sum of b log b */
} prefix;

static double xlogx(double x)
{
    return x > 0 ? x * log(x) : 0;
}

/* The first bin is replaced by the second: exact zeros would drown the rest. */
static uint64_t count_of(const swin_abs_hist *h, int i)
{
    return h->counts[i == 0 ? 1 : i];
}

static prefix *prefix_sums(const swin_abs_hist *h)
{
    prefix *p = malloc(((size_t)h->bins + 1) * sizeof *p);
    if (!p) return NULL;
    p[0] = (prefix){ 0 };
    for (int i = 0; i < h->bins; i++) {
        const uint64_t b = count_of(h, i);
        p[i + 1] = (prefix){ p[i].count + b, p[i].nonempty + (b > 0), p[i].plogp + xlogx((double)b) };
    }
    return p;
}

/* Infinite where Q lacks a bin that P has: the last one, when it is empty and there is a tail. */
static double divergence(const prefix *p, const double *log_small, int bins, int i)
{
    const double all = (double)p[bins].count, kept = (double)p[i].count;
    const double tail = (double)(p[bins].count - p[i].count), last = (double)(p[i].count - p[i - 1].count);
    if (kept == 0 || (last == 0 && tail > 0)) return INFINITY;
    double cross = 0, log_q = 0;
    int begin = 0;
    for (int g = 0; g < GROUPS; g++) {
        const int end = (int)(((int64_t)(g + 1) * i + GROUPS - 1) / GROUPS);
        const double sum = (double)(p[end].count - p[begin].count);
        if (sum > 0) {
            log_q = log(sum) - log_small[p[end].nonempty - p[begin].nonempty];
            cross += sum * log_q;
        }
        begin = end;
    }
    if (tail > 0) cross += tail * log_q; /* last > 0: log_q is the last group's */
    return (p[i - 1].plogp + xlogx(last + tail) - cross) / all + log(kept / all);
}

static swin_status entropy_amax(const swin_abs_hist *h, const swin_calibrator_opts *o, double *amax)
{
    (void)o;
    *amax = h->amax;
    if (h->bins < FIRST_BIN) return SWIN_OK; /* no candidate: fewer bins than codes */
    const int group_bins = h->bins / GROUPS + 2;
    prefix *p = prefix_sums(h);
    double *log_small = malloc((size_t)group_bins * sizeof *log_small);
    if (!p || !log_small) {
        free(p);
        free(log_small);
        return swin_fail(SWIN_ERR_MEM, "entropy calibrator: no memory for %d bins", h->bins);
    }
    for (int n = 0; n < group_bins; n++) log_small[n] = n > 0 ? log(n) : 0;
    int best = h->bins;
    double best_divergence = INFINITY;
    for (int i = FIRST_BIN; i <= h->bins; i++) {
        if (p[i].count == 0) continue;
        const double d = divergence(p, log_small, h->bins, i);
        if (d <= best_divergence) {
            best = i;
            best_divergence = d;
        }
    }
    free(log_small);
    free(p);
    *amax = best * h->width;
    return SWIN_OK;
}

const swin_calibrator swin_calib_entropy = {
    .name = "entropy",
    .help = "range whose quantized distribution diverges least",
    .amax = entropy_amax,
};
