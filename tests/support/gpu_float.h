/* tests/support/gpu_float.h - what the tests of the cuda backend's float operators share beyond gpu_pair.h:
 * the three types with what one rounding costs in each, and relative errors, the worst of which is printed. */
#ifndef SWIN_TESTS_GPU_FLOAT_H
#define SWIN_TESTS_GPU_FLOAT_H

#include "tests/support/gpu_pair.h"

static const swin_dtype types[] = { SWIN_F32, SWIN_F16, SWIN_BF16 };
/* One rounding of the result to the type, and float32 sums in another order. */
static const double tolerance[] = { 2e-6, 4e-4, 3e-3 };
static double worst;

#define WITHIN(e, limit, ...)                                                                                \
    do {                                                                                                     \
        const double within_ = (e);                                                                          \
        if (within_ > worst) worst = within_;                                                                \
        CHECK(within_ <= (limit), __VA_ARGS__);                                                              \
    } while (0)

static inline void say_worst(const char *what)
{
    print_message("  %s: worst relative error %.1e\n", what, worst);
    worst = 0;
}

/* The dense float32 copy for ref. */
static inline float *numbers(const pair *m)
{
    return (float *)m->host;
}

/* What the GPU has now, as float32; guards and padding must still be as they were. Caller frees. */
static inline float *values_of(const pair *m, const char *what)
{
    return (float *)get(m, what);
}

/* Relative error of the GPU's matrix against ref's. */
static inline double error_of(const pair *m, const char *what)
{
    float *got = values_of(m, what);
    const double e = swin_rel_l2(got, numbers(m), (size_t)(m->d.rows * m->d.cols));
    free(got);
    return e;
}

#endif
