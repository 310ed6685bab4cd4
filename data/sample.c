#include "data/dataset.h"

#include <stdlib.h>

#include "runtime/base/rng.h"

/* floor(i * total / want) without overflow: i < want. */
static size_t spread(size_t i, size_t total, size_t want)
{
    return (size_t)((unsigned __int128)i * total / want);
}

/*
 * Knuth's selection sampling: each position is kept with the chance that makes every set of `want` equally
 * likely; it comes out ascending and needs no memory.
 */
static void draw(uint64_t seed, size_t total, size_t want, size_t *out)
{
    swin_rng r = { seed };
    size_t chosen = 0;
    for (size_t i = 0; chosen < want; i++)
        if (swin_rng_below(&r, total - i) < want - chosen) out[chosen++] = i;
}

size_t swin_sample_choose(swin_sample how, uint64_t seed, size_t total, size_t want, size_t *out)
{
    const size_t n = want < total ? want : total;
    if (n == total || how == SWIN_SAMPLE_FIRST)
        for (size_t i = 0; i < n; i++) out[i] = i;
    else if (how == SWIN_SAMPLE_RANDOM)
        draw(seed, total, n, out);
    else
        for (size_t i = 0; i < n; i++) out[i] = spread(i, total, n);
    return n;
}
