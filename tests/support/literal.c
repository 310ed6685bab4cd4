#include "tests/support/literal.h"

#include <math.h>
#include <stdlib.h>

double swin_literal_mse_error(const swin_abs_hist *h, int j)
{
    const double a = (j + 0.5) * h->width;
    double error = 0;
    for (int i = 0; i < h->bins; i++) {
        const double c = (i + 0.5) * h->width;
        const double q = fmin(nearbyint(c * (127 / a)), 127) * a / 127;
        error += (q - c) * (q - c) * (double)h->counts[i];
    }
    return error;
}

static double count_of(const swin_abs_hist *h, int i)
{
    return (double)h->counts[i == 0 ? 1 : i];
}

double swin_literal_kl(const swin_abs_hist *h, int i)
{
    double sum[128] = { 0 }, ps = 0, qs = 0, kl = 0, tail = 0;
    int n[128] = { 0 };
    double *p = calloc((size_t)i, sizeof *p), *q = calloc((size_t)i, sizeof *q);
    for (int x = i; x < h->bins; x++) tail += count_of(h, x);
    for (int x = 0; x < i; x++) {
        const int g = (int)floor(x / (i / 128.0));
        p[x] = count_of(h, x);
        sum[g] += p[x];
        n[g] += p[x] != 0;
    }
    for (int x = 0; x < i; x++) {
        const int g = (int)floor(x / (i / 128.0));
        q[x] = p[x] != 0 ? sum[g] / n[g] : 0;
        if (x == i - 1) p[x] += tail;
        ps += p[x];
        qs += q[x];
    }
    for (int x = 0; x < i; x++)
        if (p[x] > 0) kl += q[x] > 0 ? p[x] / ps * log((p[x] / ps) / (q[x] / qs)) : INFINITY;
    free(p);
    free(q);
    return qs > 0 ? kl : NAN;
}
