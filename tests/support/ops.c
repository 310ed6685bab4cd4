#include "tests/support/ops.h"

#include <math.h>

enum { GUARD = 80 };
static const uint32_t poison = 0x7fc0dead;

backend backends_under_test[8];
int backend_count;

static void open_one(const char *name, const char *isa)
{
    backend *b = &backends_under_test[backend_count];
    if (isa) setenv("SWIN_CPU_ISA", isa, 1);
    CHECK_OK(swin_dev_open(&b->dev, name, &(swin_dev_opts){ .threads = 5 }));
    CHECK_OK(swin_dev_open(&b->single, name, &(swin_dev_opts){ .threads = 1 }));
    unsetenv("SWIN_CPU_ISA");
    b->ops = b->dev->ops;
    char engine[256];
    b->ops->engine(b->dev, engine, sizeof engine);
    if (isa && !strstr(engine, isa)) { /* this processor stops short of it */
        print_message("skipped: no %s here (%s)\n", isa, engine);
        swin_dev_close(b->dev);
        swin_dev_close(b->single);
        return;
    }
    snprintf(b->label, sizeof b->label, "%s%s%s", name, isa ? "/" : "", isa ? isa : "");
    backend_count++;
}

int open_backends_under_test(void **state)
{
    (void)state;
    open_one("ref", NULL);
    open_one("cpu", "generic");
    open_one("cpu", "avx2");
    open_one("cpu", "avx512");
    open_one("cpu", "vnni");
    return 0;
}

int close_backends_under_test(void **state)
{
    (void)state;
    while (backend_count > 0) {
        swin_dev_close(backends_under_test[--backend_count].dev);
        swin_dev_close(backends_under_test[backend_count].single);
    }
    return 0;
}

mat mat_make(int64_t rows, int64_t cols, int64_t ld)
{
    const size_t n = (size_t)(rows * ld) + 2 * GUARD;
    uint32_t *p = malloc(n * sizeof *p);
    CHECK(p != NULL, "no memory");
    for (size_t i = 0; i < n; i++) p[i] = poison;
    return (mat){ .data = (float *)p + GUARD, .rows = rows, .cols = cols, .ld = ld, .owner = p };
}

void mat_free(mat *m)
{
    free(m->owner);
    *m = (mat){ 0 };
}

void mat_fill(mat *m, swin_rng *rng, bool integers, double sd)
{
    for (int64_t r = 0; r < m->rows; r++) {
        if (integers)
            swin_fill_integers(rng, mat_row(m, r), (size_t)m->cols, 4);
        else
            swin_fill_normal(rng, mat_row(m, r), (size_t)m->cols, sd);
    }
}

static bool poisoned(const float *p, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (memcmp(p + i, &poison, sizeof poison) != 0) return false;
    return true;
}

bool mat_intact(const mat *m)
{
    if (!poisoned(m->data - GUARD, GUARD) || !poisoned(m->data + m->rows * m->ld, GUARD)) return false;
    for (int64_t r = 0; r < m->rows; r++)
        if (!poisoned(mat_row(m, r) + m->cols, m->ld - m->cols)) return false;
    return true;
}

bool mat_same(const mat *a, const mat *b)
{
    if (a->rows != b->rows || a->cols != b->cols) return false;
    for (int64_t r = 0; r < a->rows; r++)
        if (memcmp(mat_row(a, r), mat_row(b, r), (size_t)a->cols * sizeof(float)) != 0) return false;
    return true;
}

double mat_rel_l2(const mat *got, const mat *ref)
{
    double num = 0, den = 0;
    for (int64_t r = 0; r < ref->rows; r++)
        for (int64_t c = 0; c < ref->cols; c++) {
            const double want = mat_row(ref, r)[c], d = mat_row(got, r)[c] - want;
            num += d * d;
            den += want * want;
        }
    return sqrt(num / (den > 0 ? den : 1));
}

float *numbers_make(swin_rng *rng, size_t n, bool integers, double sd)
{
    float *v = malloc(n * sizeof *v);
    CHECK(v != NULL, "no memory");
    if (integers)
        swin_fill_integers(rng, v, n, 4);
    else
        swin_fill_normal(rng, v, n, sd);
    return v;
}

/* ---- codes --------------------------------------------------------------------------------------------------------- */
enum { CODE_POISON = -86 };

code_mat code_mat_make(int64_t rows, int64_t cols, int64_t ld)
{
    const size_t n = (size_t)(rows * ld) + 2 * GUARD;
    code_mat m = { .owner = malloc(n) };
    CHECK(m.owner != NULL, "no memory");
    memset(m.owner, CODE_POISON, n);
    m.t = swin_matrix(m.owner + GUARD, SWIN_S8, rows, cols);
    m.t.ld = ld, m.t.scale = 1, m.t.qmin = -127, m.t.qmax = 127;
    return m;
}

void code_mat_free(code_mat *m)
{
    free(m->owner);
    *m = (code_mat){ 0 };
}

void code_mat_fill(code_mat *m, swin_rng *rng, int lo, int hi)
{
    for (int64_t r = 0; r < m->t.rows; r++)
        for (int64_t c = 0; c < m->t.cols; c++)
            ((int8_t *)m->t.data)[r * m->t.ld + c] =
                (int8_t)(lo + (int)swin_rng_below(rng, (uint32_t)(hi - lo + 1)));
}

static bool code_poisoned(const int8_t *p, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (p[i] != CODE_POISON) return false;
    return true;
}

bool code_mat_intact(const code_mat *m)
{
    const int8_t *data = m->t.data;
    if (!code_poisoned(m->owner, GUARD) || !code_poisoned(data + m->t.rows * m->t.ld, GUARD)) return false;
    for (int64_t r = 0; r < m->t.rows; r++)
        if (!code_poisoned(data + r * m->t.ld + m->t.cols, m->t.ld - m->t.cols)) return false;
    return true;
}

void code_mat_compare(code_difference *d, const code_mat *got, const code_mat *want)
{
    for (int64_t r = 0; r < want->t.rows; r++)
        for (int64_t c = 0; c < want->t.cols; c++) {
            const int a = ((const int8_t *)got->t.data)[r * got->t.ld + c],
                      b = ((const int8_t *)want->t.data)[r * want->t.ld + c];
            const int off = abs(a - b);
            d->count++;
            d->different += off > 0;
            d->most = off > d->most ? off : d->most;
        }
}

void code_difference_judge(const char *what, const code_difference *d)
{
    const double share = 100.0 * (double)d->different / (double)d->count;
    print_message("%s: %lld of %lld codes differ (%.4f %%), at most by %d\n", what, (long long)d->different,
                  (long long)d->count, share, d->most);
    CHECK(d->most <= 1 && share < 0.1, "%s: %.4f %% differ, at most by %d", what, share, d->most);
}
