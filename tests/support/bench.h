/* tests/support/bench.h - for benchmarks: the processor's own multiply-add limit, and time by operator. */
#ifndef SWIN_TESTS_BENCH_H
#define SWIN_TESTS_BENCH_H

#include "runtime/ops/ops.h"

/* Seconds: monotonic, or with bench_cpu_clock what this process has used of its processors, which a busy machine changes
 * less (exact for one thread; with more, waiting in the pool's spin counts too). */
extern bool bench_cpu_clock;
double bench_now(void);

/* Floating-point operations a second (a multiply-add is two) that one thread reaches in registers alone, with the widest
 * vectors of this processor. */
double bench_fma_peak(void);

/* The same of int8 products summed in INT32: with VNNI where there is it, else with 16-bit ones. */
double bench_s8_peak(void);

/* From begin to end, the device's operators are timed from outside; a net made meanwhile is timed for its life. One profile
 * at a time. print clears the sums. */
void bench_profile_begin(swin_dev *dev);
void bench_profile_clear(void);
void bench_profile_print(const char *what, int runs);
void bench_profile_end(void);

#endif
