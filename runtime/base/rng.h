/* runtime/base/rng.h - a small seeded generator (SplitMix64, Steele et al. 2014): the same numbers everywhere.
 * tests/support/rng.py is its twin, for the oracles. */
#ifndef SWIN_BASE_RNG_H
#define SWIN_BASE_RNG_H

#include <math.h>
#include <stdint.h>

typedef struct swin_rng {
    uint64_t state;
} swin_rng;

static inline uint64_t swin_rng_next(swin_rng *r)
{
    uint64_t z = (r->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Uniform in [0, 1), 53 bits. */
static inline double swin_rng_uniform(swin_rng *r)
{
    return (double)(swin_rng_next(r) >> 11) * 0x1p-53;
}

/* Uniform integer in [0, n), n > 0, without bias. */
static inline uint64_t swin_rng_below(swin_rng *r, uint64_t n)
{
    const uint64_t limit = UINT64_MAX - UINT64_MAX % n;
    uint64_t v;
    do v = swin_rng_next(r);
    while (v >= limit);
    return v % n;
}

/* Standard normal (Box and Muller's cosine branch: two draws a number, so that streams are easy to mirror). */
static inline double swin_rng_normal(swin_rng *r)
{
    const double u = 1.0 - swin_rng_uniform(r), v = swin_rng_uniform(r);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586476925 * v);
}

#endif
