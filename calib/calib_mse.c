#include <stdlib.h>

#include "calib/calibrator.h"

/*
 * For every bin centre from bin 128 on: the mean squared error of quantizing all bin centres with that range, smallest wins,
 * the first on ties. Taken literally that costs bins^2; but with range a the centres whose code is k are one run of bins, and
 * prefix sums of n, n c and n c^2 give a run's error in constant time, so a candidate costs 128 steps.
 *
 * Centres are counted in bin widths: c_i = i + 1/2. Centre i has a code above k under range c_j exactly when
 * 127 (2i + 1) / (2j + 1) > k + 1/2, that is 254 (2i + 1) > (2k + 1)(2j + 1): even against odd, so there are no ties.
 */
enum { FIRST_BIN = 128, TOP_CODE = 127 };

typedef struct sums {
    double n, c, cc; /* over all bins before an index: count, count * centre, count * centre^2 */
} sums;

static sums *prefix_sums(const swin_abs_hist *h)
{
    sums *s = malloc(((size_t)h->bins + 1) * sizeof *s);
    if (!s) return NULL;
    s[0] = (sums){ 0 };
    for (int i = 0; i < h->bins; i++) {
        const double n = (double)h->counts[i], c = i + 0.5;
        s[i + 1] = (sums){ s[i].n + n, s[i].c + n * c, s[i].cc + n * c * c };
    }
    return s;
}

/* Squared error of all bins under range c_j, in squared bin widths. */
static double error_of(const sums *s, int bins, int j)
{
    const int64_t odd = 2 * (int64_t)j + 1;
    const double step = (j + 0.5) / TOP_CODE;
    double error = 0;
    int begin = 0;
    for (int k = 0; k <= TOP_CODE && begin < bins; k++) {
        /* First bin whose code is above k; the top code takes all that is left. */
        int end = bins;
        if (k < TOP_CODE) {
            const int64_t limit = ((2 * (int64_t)k + 1) * odd / 254 + 1) / 2;
            end = limit < bins ? (int)limit : bins;
        }
        const double n = s[end].n - s[begin].n, c = s[end].c - s[begin].c, cc = s[end].cc - s[begin].cc;
        const double value = k * step;
        error += cc - 2 * value * c + value * value * n;
        begin = end;
    }
    return error;
}

static swin_status mse_amax(const swin_abs_hist *h, const swin_calibrator_opts *o, double *amax)
{
    (void)o;
    if (h->bins <= FIRST_BIN) { /* no candidate: fewer bins than codes, so nothing is lost by keeping all */
        *amax = h->amax;
        return SWIN_OK;
    }
    sums *s = prefix_sums(h);
    if (!s) return swin_fail(SWIN_ERR_MEM, "mse calibrator: no memory for %d bins", h->bins);
    int best = FIRST_BIN;
    double best_error = error_of(s, h->bins, best);
    for (int j = FIRST_BIN + 1; j < h->bins; j++) {
        const double error = error_of(s, h->bins, j);
        if (error < best_error) {
            best = j;
            best_error = error;
        }
    }
    free(s);
    *amax = (best + 0.5) * h->width;
    return SWIN_OK;
}

const swin_calibrator swin_calib_mse = {
    .name = "mse",
    .help = "range with the smallest squared error of the quantized values",
    .amax = mse_amax,
};
