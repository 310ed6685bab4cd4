/* tests/support/testing.h - what the tests share: cmocka, error measures, guards, golden data, scratch folders. */
#ifndef SWIN_TESTS_TESTING_H
#define SWIN_TESTS_TESTING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/rng.h"
#include "runtime/base/status.h"

/* Fail with a printf-style message when the condition does not hold. NaN comparisons fail. */
#define CHECK(cond, ...)                                                                                     \
    do {                                                                                                     \
        if (!(cond)) {                                                                                       \
            print_error("%s:%d: %s: ", __FILE__, __LINE__, #cond);                                           \
            print_error(__VA_ARGS__);                                                                        \
            print_error("\n");                                                                               \
            fail();                                                                                          \
        }                                                                                                    \
    } while (0)

#define CHECK_OK(call)                                                                                       \
    do {                                                                                                     \
        const swin_status check_status_ = (call);                                                            \
        CHECK(check_status_ == SWIN_OK, "status %d: %s", (int)check_status_, swin_error_message());          \
    } while (0)

/* The call fails with this status and a message that contains `words`. */
#define CHECK_FAILS(call, status, words)                                                                     \
    do {                                                                                                     \
        const swin_status check_status_ = (call);                                                            \
        CHECK(check_status_ == (status), "status %d instead of %d: %s", (int)check_status_, (int)(status),   \
              swin_error_message());                                                                         \
        CHECK(strstr(swin_error_message(), words) != NULL, "message lacks \"%s\": %s", words,                \
              swin_error_message());                                                                         \
    } while (0)

/* |got - ref| / |ref|, Euclidean. */
double swin_rel_l2(const float *got, const float *ref, size_t n);
double swin_rel_l2_f64(const float *got, const double *ref, size_t n);
/* 10 log10(sum ref^2 / sum (got - ref)^2); minus infinity where that is no number. */
double swin_sqnr_db(const float *got, const float *ref, size_t n);
int swin_argmax(const float *v, int n);

/* Standard normal times sd. */
void swin_fill_normal(swin_rng *r, float *v, size_t n, double sd);
/* Integers in [-lim, lim]. */
void swin_fill_integers(swin_rng *r, float *v, size_t n, int lim);

/* SWIN_TEST_DATA (default: shared/data beside the repository); NULL when it is not there: the test must then SKIP. */
const char *swin_test_data(void);
/* "<test data>/<name>" in static storage, or skip the test with a line that says why. */
#define SWIN_TEST_FILE(path, name)                                                                           \
    const char *path = swin_test_file(name);                                                                 \
    if (!path) {                                                                                             \
        print_message("skipped: no %s in the test data (SWIN_TEST_DATA)\n", name);                           \
        skip();                                                                                              \
    }
const char *swin_test_file(const char *name); /* NULL when absent; one of 8 rotating buffers */

/* A fresh folder under the build's temporary folder, removed by swin_scratch_remove. */
char *swin_scratch_make(const char *name); /* caller frees */
void swin_scratch_remove(char *path);      /* and frees it */

#endif
