/* tests/support/ops.h - for operator tests: every host backend opened once, and guarded matrices. */
#ifndef SWIN_TESTS_OPS_H
#define SWIN_TESTS_OPS_H

#include "runtime/base/half.h"
#include "runtime/ops/ops.h"
#include "tests/support/testing.h"

/* Entry 0 is ref; the others are cpu with each instruction set that this processor offers (SWIN_CPU_ISA), five threads. */
typedef struct backend {
    const swin_ops *ops;
    swin_dev *dev;    /* five threads */
    swin_dev *single; /* one thread */
    char label[64];
} backend;

extern backend backends_under_test[8];
extern int backend_count;

/* cmocka group set-up and tear-down. */
int open_backends_under_test(void **state);
int close_backends_under_test(void **state);

/* A float32 matrix in host memory whose guards, padding and content start as NaN of one bit pattern. */
typedef struct mat {
    float *data;
    int64_t rows, cols, ld;
    void *owner;
} mat;

mat mat_make(int64_t rows, int64_t cols, int64_t ld);
void mat_free(mat *m);
/* Normal numbers times sd, or integers in [-4, 4]. */
void mat_fill(mat *m, swin_rng *rng, bool integers, double sd);
bool mat_intact(const mat *m);             /* guards and padding untouched */
bool mat_same(const mat *a, const mat *b); /* bit for bit; ld may differ */
double mat_rel_l2(const mat *got, const mat *ref);
float *numbers_make(swin_rng *rng, size_t n, bool integers, double sd); /* caller frees */

static inline float *mat_row(const mat *m, int64_t r)
{
    return m->data + r * m->ld;
}
static inline swin_tensor mat_view(const mat *m)
{
    swin_tensor t = swin_matrix(m->data, SWIN_F32, m->rows, m->cols);
    t.ld = m->ld;
    return t;
}

/* An S8 matrix in host memory; guards, padding and content start as one value. */
typedef struct code_mat {
    swin_tensor t; /* scale 1, zero point 0, codes [-127, 127] until the test says otherwise */
    int8_t *owner;
} code_mat;

code_mat code_mat_make(int64_t rows, int64_t cols, int64_t ld);
void code_mat_free(code_mat *m);
/* Codes of [lo, hi], all equally likely. */
void code_mat_fill(code_mat *m, swin_rng *rng, int lo, int hi);
bool code_mat_intact(const code_mat *m); /* guards and padding untouched */

/* Codes that differ between two outputs, and by how much at most. */
typedef struct code_difference {
    int64_t count, different;
    int most;
} code_difference;
void code_mat_compare(code_difference *d, const code_mat *got, const code_mat *want); /* adds to d */
/* Fail unless codes differ by one step at the most, on under 0.1 %; says how many. */
void code_difference_judge(const char *what, const code_difference *d);

#endif
