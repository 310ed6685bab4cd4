/* Which tile a product uses: found once per GPU and version, kept in the user's cache folder. Every tile gives the same
 * bits, so a wrong, stale or missing file costs time and nothing else. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/ops/kernels/cuda_dev.h"

/* <cache>/swin-ptq/tiles-<GPU>-<version>.txt; caller frees. NULL: no cache folder is known. */
static char *cache_path(const swin_cuda *d, bool make)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char *folder = cache && *cache ? swin_format("%s/swin-ptq", cache)
                   : home && *home ? swin_format("%s/.cache/swin-ptq", home)
                                   : NULL;
    if (!folder) return NULL;
    for (char *slash = folder + 1; make && (slash = strchr(slash, '/')) != NULL; slash++) {
        *slash = 0;
        mkdir(folder, 0777);
        *slash = '/';
    }
    if (make) mkdir(folder, 0777);
    char *path = swin_format("%s/tiles-%s-sm%d%d-%s.txt", folder, d->name, d->major, d->minor, SWIN_VERSION);
    free(folder);
    for (char *c = path ? strrchr(path, '/') + 1 : NULL; c && *c; c++)
        if (!isalnum((unsigned char)*c) && *c != '.' && *c != '-') *c = '_';
    return path;
}

static swin_cuda_choice *find(const swin_cuda *d, int math, int64_t m, int n, int k)
{
    for (size_t i = 0; i < d->nchoices; i++) {
        swin_cuda_choice *c = &d->choices[i];
        if (c->math == math && c->n == n && c->k == k && c->m == m) return c;
    }
    return NULL;
}

static swin_status keep(swin_cuda *d, swin_cuda_choice choice)
{
    swin_cuda_choice *known = find(d, choice.math, choice.m, choice.n, choice.k);
    if (!known) {
        swin_cuda_choice *grown = realloc(d->choices, (d->nchoices + 1) * sizeof *grown);
        if (!grown) return swin_fail(SWIN_ERR_MEM, "no memory for choices of tiles");
        d->choices = grown;
        known = &grown[d->nchoices++];
    }
    *known = choice;
    return SWIN_OK;
}

int swin_tune_find(const swin_cuda *d, const swin_gemm *p)
{
    const swin_cuda_choice *c = find(d, (int)p->math, p->m, p->n, p->k);
    return c ? c->config : -1;
}

void swin_tune_load(swin_cuda *d)
{
    char *path = cache_path(d, false), line[256];
    FILE *f = path ? fopen(path, "r") : NULL;
    while (f && fgets(line, sizeof line, f)) {
        char math[8], tile[16];
        long long m;
        int n, k;
        if (sscanf(line, "%7s %lld %d %d %15s", math, &m, &n, &k, tile) != 5) continue;
        static const char *const names[] = { "fp32", "tf32", "fp16", "bf16" };
        for (int i = 0; i < 4; i++)
            for (int c = 0; strcmp(math, names[i]) == 0 && c < swin_gemm_configs((swin_gemm_math)i); c++)
                if (strcmp(tile, swin_gemm_config_name((swin_gemm_math)i, c)) == 0 &&
                    keep(d, (swin_cuda_choice){ i, n, k, m, c }) != SWIN_OK)
                    break;
    }
    if (f) fclose(f);
    free(path);
}

static swin_status save(const swin_cuda *d)
{
    static const char *const names[] = { "fp32", "tf32", "fp16", "bf16" };
    char *path = cache_path(d, true);
    if (!path) return SWIN_OK;
    swin_outfile out;
    swin_status st = swin_outfile_open(&out, path);
    if (st == SWIN_OK) {
        for (size_t i = 0; i < d->nchoices; i++) {
            const swin_cuda_choice *c = &d->choices[i];
            fprintf(out.f, "%s %lld %d %d %s\n", names[c->math], (long long)c->m, c->n, c->k,
                    swin_gemm_config_name((swin_gemm_math)c->math, c->config));
        }
        st = swin_outfile_commit(&out);
    }
    if (st == SWIN_OK) swin_note("tiles kept in %s", path);
    free(path);
    return st;
}

/* Milliseconds of one run, the best of a few. */
static cudaError_t time_config(swin_cuda *d, const swin_gemm *p, int config, cudaEvent_t a, cudaEvent_t b,
                               float *ms)
{
    enum { RUNS = 5 };
    *ms = 1e30f;
    for (int i = 0; i < RUNS; i++) {
        float t = 0;
        cudaError_t e = cudaEventRecord(a, d->stream);
        if (e == cudaSuccess) e = swin_gemm_launch(d->stream, p, config, d->multiprocessors);
        if (e == cudaSuccess) e = cudaEventRecord(b, d->stream);
        if (e == cudaSuccess) e = cudaEventSynchronize(b);
        if (e == cudaSuccess) e = cudaEventElapsedTime(&t, a, b);
        if (e != cudaSuccess) return e;
        if (i && t < *ms) *ms = t;
    }
    return cudaSuccess;
}

swin_status swin_tune_learn(swin_cuda *d, const swin_gemm *p)
{
    if (d->capturing || (d->major < 8 && p->math != SWIN_GEMM_FP32)) return SWIN_OK;
    cudaEvent_t a = NULL, b = NULL;
    cudaError_t e = cudaEventCreate(&a);
    if (e == cudaSuccess) e = cudaEventCreate(&b);
    float best = 1e30f, ms = 0;
    int chosen = -1;
    for (int c = 0; e == cudaSuccess && c < swin_gemm_configs(p->math); c++) {
        e = time_config(d, p, c, a, b, &ms);
        if (e == cudaErrorNotSupported) { /* not on this chip, or a shape for the plain kernel */
            e = cudaSuccess;
            continue;
        }
        if (e == cudaSuccess)
            swin_detail("%lldx%dx%d %s: %.4f ms", (long long)p->m, p->n, p->k,
                        swin_gemm_config_name(p->math, c), (double)ms);
        if (e == cudaSuccess && ms < best) best = ms, chosen = c;
    }
    if (a) cudaEventDestroy(a);
    if (b) cudaEventDestroy(b);
    SWIN_TRY(swin_cuda_status(e, "tuning"));
    if (chosen < 0) return SWIN_OK;
    return keep(d, (swin_cuda_choice){ (int)p->math, p->n, p->k, p->m, chosen });
}

swin_status swin_tune_cuda(swin_dev *dev, bool on)
{
    swin_cuda *d = swin_cuda_of(dev);
    d->tuning = on;
    return on ? SWIN_OK : save(d);
}
