#include "tests/support/testing.h"

#include <ftw.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

double swin_rel_l2(const float *got, const float *ref, size_t n)
{
    double num = 0, den = 0;
    for (size_t i = 0; i < n; i++) {
        const double d = (double)got[i] - ref[i];
        num += d * d;
        den += (double)ref[i] * ref[i];
    }
    return sqrt(num / (den > 0 ? den : 1));
}

double swin_rel_l2_f64(const float *got, const double *ref, size_t n)
{
    double num = 0, den = 0;
    for (size_t i = 0; i < n; i++) {
        const double d = got[i] - ref[i];
        num += d * d;
        den += ref[i] * ref[i];
    }
    return sqrt(num / (den > 0 ? den : 1));
}

double swin_sqnr_db(const float *got, const float *ref, size_t n)
{
    const double db = -20 * log10(swin_rel_l2(got, ref, n));
    return isnan(db) ? -INFINITY : db; /* fmin and fmax would pass over a NaN */
}

int swin_argmax(const float *v, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (v[i] > v[best]) best = i;
    return best;
}

void swin_fill_normal(swin_rng *r, float *v, size_t n, double sd)
{
    for (size_t i = 0; i < n; i++) v[i] = (float)(sd * swin_rng_normal(r));
}

void swin_fill_integers(swin_rng *r, float *v, size_t n, int lim)
{
    for (size_t i = 0; i < n; i++) v[i] = (float)((int)swin_rng_below(r, (uint64_t)(2 * lim + 1)) - lim);
}

const char *swin_test_data(void)
{
    static char path[4096];
    const char *given = getenv("SWIN_TEST_DATA");
    snprintf(path, sizeof path, "%s", given && *given ? given : SWIN_SOURCE_DIR "/../shared/data");
    return access(path, R_OK) == 0 ? path : NULL;
}

const char *swin_test_file(const char *name)
{
    static char paths[8][4096];
    static int next;
    const char *root = swin_test_data();
    if (!root) return NULL;
    char *path = paths[next++ % 8];
    const int n = snprintf(path, sizeof paths[0], "%s/%s", root, name);
    return n > 0 && (size_t)n < sizeof paths[0] && access(path, R_OK) == 0 ? path : NULL;
}

char *swin_scratch_make(const char *name)
{
    const char *tmp = getenv("TMPDIR");
    char path[4096];
    snprintf(path, sizeof path, "%s/swin-%s-XXXXXX", tmp && *tmp ? tmp : "/tmp", name);
    char *made = mkdtemp(path);
    CHECK(made != NULL, "cannot make %s", path);
    return strdup(made);
}

static int remove_one(const char *path, const struct stat *s, int type, struct FTW *w)
{
    (void)s, (void)type, (void)w;
    return remove(path);
}

void swin_scratch_remove(char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(path);
}
