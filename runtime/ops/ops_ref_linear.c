/* Linear layers of the ref backend: float64 sums over ascending input channels. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/half.h"
#include "runtime/ops/ops_ref.h"

/* A tile of 4 x 4 sums stays in registers; that only reorders independent sums. */
enum { TILE = 4, ROWS = 16 };

/* Panels of TILE output channels, [in][TILE] each, zero-padded; the bias follows. */
swin_status swin_linear_prepare_ref(swin_dev *dev, swin_linear *l, const float *w, const float *bias, int out,
                                    int in, swin_dtype dtype)
{
    (void)dev;
    *l = (swin_linear){ .in = in, .out = out, .dtype = dtype };
    if (in <= 0 || out <= 0) return swin_fail(SWIN_ERR_VALUE, "linear: %d x %d weight", out, in);
    const size_t panels = ((size_t)out + TILE - 1) / TILE, count = panels * TILE * (size_t)in;
    double *packed =
        swin_host_memory(count + (size_t)out, sizeof *packed); /* the bias needs half of its share */
    if (!packed) return swin_fail(SWIN_ERR_MEM, "no memory for a %d x %d weight", out, in);
    for (size_t i = 0; i < count; i++) {
        const size_t n = i / ((size_t)in * TILE) * TILE + i % TILE, k = i / TILE % (size_t)in;
        packed[i] = n < (size_t)out ? (double)swin_round_to(w[n * (size_t)in + k], dtype) : 0.0;
    }
    if (bias) l->bias = memcpy(packed + count, bias, (size_t)out * sizeof *bias);
    l->packed = packed;
    return SWIN_OK;
}

void swin_linear_release_ref(swin_dev *dev, swin_linear *l)
{
    (void)dev;
    if (l->packed && l->dtype == SWIN_S8)
        swin_linear_release_s8_ref(l);
    else
        free(l->packed);
    *l = (swin_linear){ 0 };
}

typedef struct linear_job {
    swin_tensor *y;
    const swin_tensor *x;
    const swin_linear *l;
    const swin_windows *g;
    const float *images; /* patch embedding: x is gathered from here */
    int size;
    const swin_patch_embed *p;
    bool with_bias, residual;
    swin_act act;
} linear_job;

static void tile_product(double sum[TILE][TILE], const float *const x[TILE], const double *w, int in)
{
    double s[TILE][TILE] = { { 0 } };
    for (int k = 0; k < in; k++)
        for (int r = 0; r < TILE; r++)
            for (int c = 0; c < TILE; c++) s[r][c] += x[r][k] * w[(size_t)k * TILE + c];
    memcpy(sum, s, sizeof s);
}

static float act_value(float v, swin_act act)
{
    return act == SWIN_ACT_GELU ? (float)(0.5 * v * (1.0 + erf(v * 0.70710678118654752440))) : v;
}

/* Every step is stored as float32, as the separate operators would. */
static void store_tile(const linear_job *j, int64_t row, int rows, int col, const double sum[TILE][TILE])
{
    const int cols = j->l->out - col < TILE ? j->l->out - col : TILE;
    for (int r = 0; r < rows; r++) {
        float *y = swin_row(j->y, j->residual && j->g ? swin_windows_source(j->g, row + r) : row + r) + col;
        for (int c = 0; c < cols; c++) {
            float v = (float)sum[r][c];
            if (j->with_bias && j->l->bias) v = (float)((double)v + j->l->bias[col + c]);
            v = act_value(v, j->act);
            y[c] = j->residual ? (float)((double)y[c] + v) : v;
        }
    }
}

static void multiply_rows(const linear_job *j, int64_t row, int rows, const float *const x[TILE])
{
    const double *w = j->l->packed;
    for (int col = 0; col < j->l->out; col += TILE, w += (size_t)j->l->in * TILE) {
        double sum[TILE][TILE];
        tile_product(sum, x, w, j->l->in);
        store_tile(j, row, rows, col, sum);
    }
}

static swin_status linear_rows(void *user, int64_t from, int64_t to, int worker)
{
    const linear_job *j = user;
    (void)worker;
    for (int64_t row = from; row < to; row += TILE) {
        const int rows = to - row < TILE ? (int)(to - row) : TILE;
        const float *x[TILE];
        for (int r = 0; r < TILE; r++) x[r] = swin_row(j->x, row + (r < rows ? r : 0));
        multiply_rows(j, row, rows, x);
    }
    return SWIN_OK;
}

swin_status swin_linear_ref(swin_dev *dev, swin_tensor *y, const swin_tensor *x, const swin_linear *l,
                            bool with_bias, swin_act act)
{
    SWIN_TRY(swin_check_matrix("linear", x, x->rows, l->in));
    SWIN_TRY(swin_check_matrix("linear", y, x->rows, l->out));
    linear_job j = { .y = y, .x = x, .l = l, .with_bias = with_bias, .act = act };
    return swin_host_each(dev, x->rows, ROWS, linear_rows, &j);
}

swin_status swin_linear_residual_ref(swin_dev *dev, swin_tensor *residual, const swin_tensor *x,
                                     const swin_linear *l, const swin_windows *g)
{
    if (g) SWIN_TRY(swin_check_windows("linear_residual", g));
    SWIN_TRY(swin_check_matrix("linear_residual", residual, g ? swin_windows_tokens(g) : x->rows, l->out));
    SWIN_TRY(swin_check_matrix("linear_residual", x, residual->rows, l->in));
    linear_job j = { .y = residual, .x = x, .l = l, .g = g, .with_bias = true, .residual = true };
    return swin_host_each(dev, x->rows, ROWS, linear_rows, &j);
}

static swin_status patch_rows(void *user, int64_t from, int64_t to, int worker)
{
    const linear_job *j = user;
    (void)worker;
    float *pixels = swin_host_memory((size_t)j->l->in, sizeof *pixels);
    if (!pixels) return swin_fail(SWIN_ERR_MEM, "patch_embed: no memory");
    for (int64_t row = from; row < to; row++) {
        const float *const x[TILE] = { pixels, pixels, pixels, pixels };
        swin_host_patch(pixels, j->images, j->size, j->p, row);
        multiply_rows(j, row, 1, x);
        swin_norm_row_ref(swin_row(j->y, row), j->y->cols, j->p->norm.gamma ? &j->p->norm : NULL);
    }
    free(pixels);
    return SWIN_OK;
}

swin_status swin_patch_embed_ref(swin_dev *dev, swin_tensor *out, const float *images, int batch, int size,
                                 const swin_patch_embed *p)
{
    if (p->patch <= 0 || size % p->patch != 0 || p->proj->in != p->in_chans * p->patch * p->patch)
        return swin_fail(SWIN_ERR_VALUE, "patch_embed: images of %d pixels, patches of %d, %d inputs", size,
                         p->patch, p->proj->in);
    const int64_t across = size / p->patch;
    SWIN_TRY(swin_check_matrix("patch_embed", out, batch * across * across, p->proj->out));
    linear_job j = { .y = out, .l = p->proj, .images = images, .size = size, .p = p, .with_bias = true };
    return swin_host_each(dev, out->rows, ROWS, patch_rows, &j);
}
