/* Linear layers and patch embedding of the cpu backend: weights packed once, row tiles on all threads. */
#include <stdlib.h>
#include <string.h>

#include "runtime/base/half.h"
#include "runtime/ops/ops_cpu.h"

/* A loop is cut into this many pieces for each thread, so that the last ones to finish finish together. */
enum { PIECES = 8 };
/* Tables for each observer, where there are enough. */
enum { WAYS = 2 };

/* Panels of tile_cols output channels, [in][tile_cols] each, zero-padded; the bias follows. */
swin_status swin_linear_prepare_cpu(swin_dev *dev, swin_linear *l, const float *w, const float *bias, int out,
                                    int in, swin_dtype dtype)
{
    *l = (swin_linear){ .in = in, .out = out, .dtype = dtype };
    if (in <= 0 || out <= 0) return swin_fail(SWIN_ERR_VALUE, "linear: %d x %d weight", out, in);
    const size_t cols = (size_t)swin_cpu_kernels_of(dev)->tile_cols, depth = (size_t)in, height = (size_t)out;
    const size_t panels = (height + cols - 1) / cols;
    float *packed = swin_host_memory(panels * cols * depth + height, sizeof *packed);
    if (!packed) return swin_fail(SWIN_ERR_MEM, "no memory for a %d x %d weight", out, in);
    for (size_t p = 0; p < panels; p++)
        for (size_t c = 0; c < cols; c++) {
            const size_t n = p * cols + c;
            float *to = packed + p * cols * depth + c;
            for (size_t k = 0; k < depth; k++)
                to[k * cols] = n < height ? swin_round_to(w[n * depth + k], dtype) : 0;
        }
    if (bias) l->bias = memcpy(packed + panels * cols * depth, bias, height * sizeof *bias);
    l->packed = packed;
    return SWIN_OK;
}

void swin_linear_release_cpu(swin_dev *dev, swin_linear *l)
{
    (void)dev;
    free(l->packed);
    *l = (swin_linear){ 0 };
}

typedef struct tiles {
    swin_dev *dev;
    const swin_cpu_kernels *k;
    const swin_cpu_linear *j;
    int64_t rows;
    int step, panels, groups; /* rows of a task; column panels, cut into groups */
    bool watched;
} tiles;

static swin_status run_tiles(void *user, size_t task, int worker)
{
    const tiles *t = user;
    const int64_t block = (int64_t)(task / (size_t)t->groups), group = (int64_t)(task % (size_t)t->groups);
    const int64_t from = block * t->step, to = from + t->step < t->rows ? from + t->step : t->rows;
    t->k->linear(t->j, from, to, (int)(t->panels * group / t->groups),
                 (int)(t->panels * (group + 1) / t->groups),
                 t->watched ? swin_cpu_watch_of(t->dev, worker) : NULL);
    return SWIN_OK;
}

/* Long matrices are cut into row blocks; short ones across their columns too. The cut never shows in the result. */
static swin_status run_linear(swin_dev *dev, const swin_cpu_linear *j, int64_t rows, bool watched)
{
    const swin_cpu_kernels *k = swin_cpu_kernels_of(dev);
    tiles t = {
        .dev = dev, .k = k, .j = j, .rows = rows, .step = k->task_rows, .groups = 1, .watched = watched
    };
    t.panels = (j->out + k->tile_cols - 1) / k->tile_cols;
    const int64_t blocks = (rows + t.step - 1) / t.step, wanted = (int64_t)PIECES * swin_host_threads(dev);
    if (blocks > 0 && blocks < wanted) {
        const int64_t groups = (wanted + blocks - 1) / blocks;
        t.groups = groups < t.panels ? (int)groups : t.panels;
    }
    return swin_pool_run(swin_host_pool(dev), (size_t)(blocks * t.groups), run_tiles, &t);
}

static swin_cpu_linear linear_of(const swin_linear *l, const swin_tensor *y, const swin_tensor *x)
{
    return (swin_cpu_linear){ .x = x->data,
                              .y = y->data,
                              .ldx = x->ld,
                              .ldy = y->ld,
                              .panels = l->packed,
                              .bias = l->bias,
                              .in = l->in,
                              .out = l->out };
}

swin_status swin_linear_run_cpu(swin_dev *dev, swin_tensor *y, const swin_tensor *x, const swin_linear *l,
                                bool with_bias, swin_act act)
{
    SWIN_TRY(swin_check_matrix("linear", x, x->rows, l->in));
    SWIN_TRY(swin_check_matrix("linear", y, x->rows, l->out));
    swin_cpu_linear j = linear_of(l, y, x);
    if (!with_bias) j.bias = NULL;
    j.act = act;
    return run_linear(dev, &j, x->rows, false);
}

static swin_status residual_job(swin_cpu_linear *j, swin_tensor *residual, const swin_tensor *x,
                                const swin_linear *l, const swin_windows *g)
{
    if (g) SWIN_TRY(swin_check_windows("linear_residual", g));
    SWIN_TRY(swin_check_matrix("linear_residual", residual, g ? swin_windows_tokens(g) : x->rows, l->out));
    SWIN_TRY(swin_check_matrix("linear_residual", x, residual->rows, l->in));
    *j = linear_of(l, residual, x);
    j->residual = true;
    j->windows = g;
    return SWIN_OK;
}

swin_status swin_linear_residual_cpu(swin_dev *dev, swin_tensor *residual, const swin_tensor *x,
                                     const swin_linear *l, const swin_windows *g)
{
    swin_cpu_linear j;
    SWIN_TRY(residual_job(&j, residual, x, l, g));
    return run_linear(dev, &j, x->rows, false);
}

/* ---- the same, shown to observers ------------------------------------------------------------------------------- */
static swin_status run_seen(swin_dev *dev, swin_cpu_linear *j, int64_t rows, const swin_linear_seen *seen)
{
    swin_observer *slots[SWIN_CPU_SLOTS] = { [SWIN_CPU_SEEN_INPUT] = seen->input,
                                             [SWIN_CPU_SEEN_PRODUCT] = seen->product,
                                             [SWIN_CPU_SEEN_RESIDUAL] = seen->residual };
    if (seen->parts < 0 || seen->parts > 3 || (seen->parts > 0 && j->out % seen->parts != 0))
        return swin_fail(SWIN_ERR_VALUE, "linear: %d observed parts of %d columns", seen->parts, j->out);
    j->biased_parts = seen->parts;
    for (int i = 0; i < seen->parts; i++) slots[SWIN_CPU_SEEN_BIASED + i] = seen->biased[i];
    SWIN_TRY(swin_cpu_watch_begin(dev, slots, SWIN_CPU_SLOTS, WAYS));
    const swin_status st = run_linear(dev, j, rows, true), end = swin_cpu_watch_end(dev);
    return st == SWIN_OK ? end : st;
}

swin_status swin_linear_seen_cpu(swin_dev *dev, swin_tensor *y, const swin_tensor *x, const swin_linear *l,
                                 swin_act act, const swin_linear_seen *seen)
{
    SWIN_TRY(swin_check_matrix("linear", x, x->rows, l->in));
    SWIN_TRY(swin_check_matrix("linear", y, x->rows, l->out));
    swin_cpu_linear j = linear_of(l, y, x);
    j.act = act;
    return run_seen(dev, &j, x->rows, seen);
}

swin_status swin_linear_residual_seen_cpu(swin_dev *dev, swin_tensor *residual, const swin_tensor *x,
                                          const swin_linear *l, const swin_windows *g,
                                          const swin_linear_seen *seen)
{
    swin_cpu_linear j;
    SWIN_TRY(residual_job(&j, residual, x, l, g));
    return run_seen(dev, &j, x->rows, seen);
}

/* ---- patch embedding -------------------------------------------------------------------------------------------- */
typedef struct patch_job {
    swin_dev *dev;
    swin_tensor *out;
    const float *images;
    int size;
    const swin_patch_embed *p;
} patch_job;

static swin_status patch_rows(void *user, int64_t from, int64_t to, int worker)
{
    const patch_job *j = user;
    const swin_cpu_kernels *k = swin_cpu_kernels_of(j->dev);
    const swin_linear *l = j->p->proj;
    float *x = swin_cpu_room(j->dev, worker, (size_t)k->task_rows * (size_t)l->in);
    if (!x) return swin_fail(SWIN_ERR_MEM, "patch_embed: no memory");
    for (int64_t r = from; r < to; r++) swin_host_patch(x + (r - from) * l->in, j->images, j->size, j->p, r);
    const swin_tensor pixels = swin_matrix(x, SWIN_F32, to - from, l->in);
    const swin_tensor out = swin_rows(j->out, from, to - from);
    const swin_cpu_linear product = linear_of(l, &out, &pixels);
    k->linear(&product, 0, to - from, 0, (l->out + k->tile_cols - 1) / k->tile_cols, NULL);
    for (int64_t r = from; j->p->norm.gamma && r < to; r++)
        k->norm(swin_row(j->out, r), swin_row(j->out, r), l->out, &j->p->norm);
    return SWIN_OK;
}

swin_status swin_patch_embed_cpu(swin_dev *dev, swin_tensor *out, const float *images, int batch, int size,
                                 const swin_patch_embed *p)
{
    if (p->patch <= 0 || size % p->patch != 0 || p->proj->in != p->in_chans * p->patch * p->patch)
        return swin_fail(SWIN_ERR_VALUE, "patch_embed: images of %d pixels, patches of %d, %d inputs", size,
                         p->patch, p->proj->in);
    const int64_t across = size / p->patch;
    SWIN_TRY(swin_check_matrix("patch_embed", out, batch * across * across, p->proj->out));
    patch_job j = { .dev = dev, .out = out, .images = images, .size = size, .p = p };
    return swin_host_each(dev, out->rows, swin_cpu_kernels_of(dev)->task_rows, patch_rows, &j);
}
