/* The cpu backend: its device, its table, and the operators that go row by row. */
#include "runtime/ops/ops_cpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

enum { ROWS = 64 }; /* rows of one task */

/* ---- device ----------------------------------------------------------------------------------------------------- */
static bool offered(const char *isa)
{
#if defined(__x86_64__)
    unsigned a, b, c, d; /* clang 14's __builtin_cpu_supports does not know f16c */
    const bool f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) != 0;
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c;
    if (strcmp(isa, "avx2") == 0) return avx2;
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (strcmp(isa, "avx512") == 0) return avx512;
    if (strcmp(isa, "vnni") == 0) return avx512 && __builtin_cpu_supports("avx512vnni");
#endif
    return strcmp(isa, "generic") == 0;
}

/* The best table that this processor and SWIN_CPU_ISA, a cap, allow. */
static swin_status choose_kernels(const swin_cpu_kernels **chosen)
{
    static const swin_cpu_kernels *const tables[] = {
        &swin_cpu_generic,
#if defined(__x86_64__)
        &swin_cpu_avx2,
        &swin_cpu_avx512,
        &swin_cpu_vnni,
#endif
    };
    const char *cap = getenv("SWIN_CPU_ISA");
    bool known = !cap || !*cap;
    *chosen = NULL;
    for (size_t i = 0; i < SWIN_COUNT(tables); i++) {
        if (offered(tables[i]->isa)) *chosen = tables[i];
        if (cap && strcmp(cap, tables[i]->isa) == 0) {
            known = true;
            break;
        }
    }
    if (known) return SWIN_OK;
    return swin_fail(SWIN_ERR_USAGE, "SWIN_CPU_ISA=%s: not one of generic, avx2, avx512, vnni", cap);
}

static void cpu_close(swin_dev *dev)
{
    if (!dev) return;
    swin_cpu_dev *d = (swin_cpu_dev *)dev;
    const int threads = d->host.pool && d->workers ? swin_pool_threads(d->host.pool) : 0;
    for (int i = 0; i < threads; i++) {
        free(d->workers[i].room);
        swin_cpu_watch_free(d->workers[i].watch);
    }
    free(d->workers);
    swin_pool_free(d->host.pool);
    free(d);
}

static swin_status cpu_open(swin_dev **dev, const swin_dev_opts *opts)
{
    *dev = NULL;
    swin_cpu_dev *d = calloc(1, sizeof *d);
    if (!d) return swin_fail(SWIN_ERR_MEM, "no memory for the cpu backend");
    d->host.base.ops = &swin_ops_cpu;
    swin_status st = choose_kernels(&d->kernels);
    if (st == SWIN_OK) st = swin_pool_create(&d->host.pool, opts ? opts->threads : 0);
    if (st == SWIN_OK) {
        d->workers = calloc((size_t)swin_pool_threads(d->host.pool), sizeof *d->workers);
        if (!d->workers) st = swin_fail(SWIN_ERR_MEM, "no memory for the cpu backend");
    }
    if (st == SWIN_OK)
        *dev = &d->host.base;
    else
        cpu_close(&d->host.base);
    return st;
}

static void cpu_engine(swin_dev *dev, char *text, size_t size)
{
    snprintf(text, size, "cpu: %s kernels, float32", swin_cpu_kernels_of(dev)->isa);
}

/* A stage's pass should stay in the cores' share of the caches, a few MB everywhere; late stages, small for
 * each image, then take the whole batch and read each weight once. */
static int cpu_chunk(swin_dev *dev, size_t bytes_per_image, int batch)
{
    const size_t budget = (size_t)4 << 20, threads = (size_t)swin_host_threads(dev);
    const size_t images = bytes_per_image > 0 ? budget * threads / bytes_per_image : (size_t)batch;
    return images < 1 ? 1 : images > (size_t)batch ? batch : (int)images;
}

float *swin_cpu_room(swin_dev *dev, int worker, size_t floats)
{
    swin_cpu_worker *w = &((swin_cpu_dev *)dev)->workers[worker];
    if (w->floats < floats) {
        free(w->room);
        w->room = swin_host_memory(floats, sizeof *w->room);
        w->floats = w->room ? floats : 0;
    }
    return w->room;
}

/* ---- operators that go row by row ----------------------------------------------------------------------------------- */
typedef struct row_job {
    swin_dev *dev;
    const swin_cpu_kernels *k;
    swin_tensor *y;
    const swin_tensor *x;
    const swin_norm *n;
    const swin_windows *g;
    const float *bias;
    swin_act act;
    int tokens, heads;
    const float *head_scale;
    float scale, zero, lo, hi;
    swin_dtype dtype;
} row_job;

/* Where a row of y is computed: in place, or in scratch memory that finish_row makes into codes. NULL: no memory. */
static float *row_room(const row_job *j, int worker)
{
    float *room = swin_cpu_room(j->dev, worker, (size_t)j->y->cols);
    if (!room) swin_fail(SWIN_ERR_MEM, "no memory for a row of %lld", (long long)j->y->cols);
    return room;
}

static float *row_of(const row_job *j, int64_t r, float *room)
{
    return j->y->dtype == SWIN_S8 ? room : swin_row(j->y, r);
}

static void finish_row(const row_job *j, int64_t r, const float *row)
{
    if (j->y->dtype == SWIN_S8) j->k->quantize(swin_codes(j->y, r), row, j->y->cols, j->y);
}

static swin_status norm_rows(void *user, int64_t from, int64_t to, int worker)
{
    const row_job *j = user;
    float *room = row_room(j, worker);
    if (!room) return SWIN_ERR_MEM;
    for (int64_t r = from; r < to; r++) {
        const float *x = swin_row(j->x, j->g ? swin_windows_source(j->g, r) : r);
        float *y = row_of(j, r, room);
        if (j->n)
            j->k->norm(y, x, j->x->cols, j->n);
        else if (j->y->dtype != SWIN_S8)
            memcpy(y, x, (size_t)j->x->cols * sizeof *x);
        finish_row(j, r, j->n ? y : x);
    }
    return SWIN_OK;
}

static swin_status layernorm(swin_dev *dev, swin_tensor *out, const swin_tensor *x, const swin_norm *n)
{
    SWIN_TRY(swin_check_matrix("layernorm", x, x->rows, x->cols));
    SWIN_TRY(swin_check_output("layernorm", out, x->rows, x->cols));
    row_job j = { .dev = dev, .k = swin_cpu_kernels_of(dev), .y = out, .x = x, .n = n };
    return swin_host_each(dev, x->rows, ROWS, norm_rows, &j);
}

static swin_status layernorm_windows(swin_dev *dev, swin_tensor *out, const swin_tensor *x,
                                     const swin_norm *n, const swin_windows *g)
{
    SWIN_TRY(swin_check_windows("layernorm_windows", g));
    SWIN_TRY(swin_check_matrix("layernorm_windows", x, swin_windows_tokens(g), x->cols));
    SWIN_TRY(swin_check_output("layernorm_windows", out, x->rows, x->cols));
    row_job j = { .dev = dev, .k = swin_cpu_kernels_of(dev), .y = out, .x = x, .n = n, .g = g };
    return swin_host_each(dev, x->rows, ROWS, norm_rows, &j);
}

/* The neighbours of merged row r, as (row, column): (0,0), (1,0), (0,1), (1,1). */
static swin_status merge_rows(void *user, int64_t from, int64_t to, int worker)
{
    const row_job *j = user;
    float *room = row_room(j, worker);
    if (!room) return SWIN_ERR_MEM;
    const int across = j->g->width / 2, down = j->g->height / 2;
    const int64_t cols = j->x->cols;
    for (int64_t r = from; r < to; r++) {
        const int64_t image = r / ((int64_t)across * down), at = r % ((int64_t)across * down);
        const int64_t corner = (image * j->g->height + at / across * 2) * j->g->width + at % across * 2;
        const int64_t sources[4] = { corner, corner + j->g->width, corner + 1, corner + j->g->width + 1 };
        float *y = row_of(j, r, room);
        for (int i = 0; i < 4; i++)
            memcpy(y + i * cols, swin_row(j->x, sources[i]), (size_t)cols * sizeof *y);
        if (j->n) j->k->norm(y, y, 4 * cols, j->n);
        finish_row(j, r, y);
    }
    return SWIN_OK;
}

static swin_status layernorm_merge(swin_dev *dev, swin_tensor *out, const swin_tensor *x, const swin_norm *n,
                                   const swin_windows *g)
{
    SWIN_TRY(swin_check_merge("layernorm_merge", g));
    SWIN_TRY(swin_check_matrix("layernorm_merge", x, swin_windows_tokens(g), x->cols));
    SWIN_TRY(swin_check_output("layernorm_merge", out, x->rows / 4, 4 * x->cols));
    row_job j = { .dev = dev, .k = swin_cpu_kernels_of(dev), .y = out, .x = x, .n = n, .g = g };
    return swin_host_each(dev, out->rows, ROWS, merge_rows, &j);
}

static swin_status bias_act_rows(void *user, int64_t from, int64_t to, int worker)
{
    const row_job *j = user;
    (void)worker;
    for (int64_t r = from; r < to; r++) j->k->bias_act(swin_row(j->y, r), j->bias, j->y->cols, j->act);
    return SWIN_OK;
}

static swin_status bias_act(swin_dev *dev, swin_tensor *y, const float *bias, swin_act act)
{
    SWIN_TRY(swin_check_matrix("bias_act", y, y->rows, y->cols));
    row_job j = { .dev = dev, .k = swin_cpu_kernels_of(dev), .y = y, .bias = bias, .act = act };
    return swin_host_each(dev, y->rows, ROWS, bias_act_rows, &j);
}

static swin_status residual_rows(void *user, int64_t from, int64_t to, int worker)
{
    const row_job *j = user;
    (void)worker;
    for (int64_t r = from; r < to; r++)
        j->k->add(swin_row(j->y, j->g ? swin_windows_source(j->g, r) : r), swin_row(j->x, r), j->y->cols);
    return SWIN_OK;
}

static swin_status residual_add(swin_dev *dev, swin_tensor *residual, const swin_tensor *y,
                                const swin_windows *g)
{
    if (g) SWIN_TRY(swin_check_windows("residual_add", g));
    SWIN_TRY(swin_check_matrix("residual_add", residual, g ? swin_windows_tokens(g) : y->rows, y->cols));
    SWIN_TRY(swin_check_matrix("residual_add", y, residual->rows, residual->cols));
    row_job j = { .dev = dev, .k = swin_cpu_kernels_of(dev), .y = residual, .x = y, .g = g };
    return swin_host_each(dev, y->rows, ROWS, residual_rows, &j);
}

static swin_status mean_rows(void *user, int64_t from, int64_t to, int worker)
{
    const row_job *j = user;
    (void)worker;
    for (int64_t r = from; r < to; r++)
        j->k->mean(swin_row(j->y, r), swin_row(j->x, r * j->tokens), j->x->ld, j->tokens, j->x->cols);
    return SWIN_OK;
}

static swin_status mean_tokens(swin_dev *dev, swin_tensor *out, const swin_tensor *x, int tokens)
{
    if (tokens <= 0) return swin_fail(SWIN_ERR_VALUE, "mean_tokens: %d tokens", tokens);
    SWIN_TRY(swin_check_matrix("mean_tokens", out, out->rows, x->cols));
    SWIN_TRY(swin_check_matrix("mean_tokens", x, out->rows * tokens, x->cols));
    row_job j = { .dev = dev, .k = swin_cpu_kernels_of(dev), .y = out, .x = x, .tokens = tokens };
    return swin_host_each(dev, out->rows, 1, mean_rows, &j);
}

static swin_status normalise_rows(void *user, int64_t from, int64_t to, int worker)
{
    const row_job *j = user;
    const int64_t size = j->x->cols / j->heads;
    float *room = row_room(j, worker);
    if (!room) return SWIN_ERR_MEM;
    for (int64_t r = from; r < to; r++) {
        float *y = row_of(j, r, room);
        const float *x = y;
        if (j->x->dtype == SWIN_S8)
            j->k->dequantize(y, swin_codes(j->x, r), j->x->cols, j->x->scale);
        else
            x = swin_row(j->x, r);
        for (int h = 0; h < j->heads; h++)
            j->k->normalise(y + h * size, x + h * size, size, j->head_scale ? j->head_scale[h] : 1.0f);
        finish_row(j, r, y);
    }
    return SWIN_OK;
}

static swin_status normalise_heads(swin_dev *dev, swin_tensor *out, const swin_tensor *x, int heads,
                                   const float *head_scale)
{
    SWIN_TRY(swin_check_normalise_heads(out, x, heads));
    row_job j = {
        .dev = dev, .k = swin_cpu_kernels_of(dev), .y = out, .x = x, .heads = heads, .head_scale = head_scale
    };
    return swin_host_each(dev, x->rows, ROWS, normalise_rows, &j);
}

static swin_status quantize_rows(void *user, int64_t from, int64_t to, int worker)
{
    const row_job *j = user;
    (void)worker;
    for (int64_t r = from; r < to; r++) finish_row(j, r, swin_row(j->x, r));
    return SWIN_OK;
}

static swin_status quantize(swin_dev *dev, swin_tensor *out, const swin_tensor *x)
{
    SWIN_TRY(swin_check_matrix("quantize", x, x->rows, x->cols));
    SWIN_TRY(swin_check_codes("quantize", out, x->rows, x->cols));
    row_job j = { .dev = dev, .k = swin_cpu_kernels_of(dev), .y = out, .x = x };
    return swin_host_each(dev, x->rows, ROWS, quantize_rows, &j);
}

static swin_status fake_quant_rows(void *user, int64_t from, int64_t to, int worker)
{
    const row_job *j = user;
    (void)worker;
    for (int64_t r = from; r < to; r++)
        j->k->fake_quant(swin_row(j->y, r), j->y->cols, j->scale, j->zero, j->lo, j->hi);
    return SWIN_OK;
}

static swin_status fake_quant(swin_dev *dev, swin_tensor *x, float scale, int zero_point, int qmin, int qmax)
{
    SWIN_TRY(swin_check_matrix("fake_quant", x, x->rows, x->cols));
    SWIN_TRY(swin_check_fake_quant(scale, zero_point, qmin, qmax));
    row_job j = { .dev = dev,
                  .k = swin_cpu_kernels_of(dev),
                  .y = x,
                  .scale = scale,
                  .zero = (float)zero_point,
                  .lo = (float)qmin,
                  .hi = (float)qmax };
    return swin_host_each(dev, x->rows, ROWS, fake_quant_rows, &j);
}

static swin_status round_rows(void *user, int64_t from, int64_t to, int worker)
{
    const row_job *j = user;
    (void)worker;
    for (int64_t r = from; r < to; r++) j->k->round_to(swin_row(j->y, r), j->y->cols, j->dtype);
    return SWIN_OK;
}

static swin_status round_to(swin_dev *dev, swin_tensor *x, swin_dtype dtype)
{
    SWIN_TRY(swin_check_matrix("round_to", x, x->rows, x->cols));
    row_job j = { .dev = dev, .k = swin_cpu_kernels_of(dev), .y = x, .dtype = dtype };
    return swin_host_each(dev, x->rows, ROWS, round_rows, &j);
}

const swin_ops swin_ops_cpu = {
    .name = "cpu",
    .help = "float32 and int8 with packed kernels for AVX-512, AVX2 or any processor, on all threads",
    .open = cpu_open,
    .close = cpu_close,
    .engine = cpu_engine,
    .threads = swin_host_threads,
    .alloc = swin_host_alloc,
    .free = swin_host_free,
    .upload = swin_host_move,
    .download = swin_host_move,
    .copy = swin_host_move,
    .sync = swin_host_sync,
    .chunk = cpu_chunk,
    .linear_prepare = swin_linear_prepare_cpu,
    .linear_release = swin_linear_release_cpu,
    .patch_embed = swin_patch_embed_cpu,
    .layernorm = layernorm,
    .layernorm_windows = layernorm_windows,
    .layernorm_merge = layernorm_merge,
    .linear = swin_linear_run_cpu,
    .linear_residual = swin_linear_residual_cpu,
    .bias_act = bias_act,
    .residual_add = residual_add,
    .attention = swin_attention_cpu,
    .scores = swin_scores_cpu,
    .softmax = swin_softmax_cpu,
    .weighted_sum = swin_weighted_sum_cpu,
    .mean_tokens = mean_tokens,
    .fake_quant = fake_quant,
    .round_to = round_to,
    .observer_create = swin_observer_create_cpu,
    .observer_free = swin_observer_free_cpu,
    .observe = swin_observe_cpu,
    .linear_seen = swin_linear_seen_cpu,
    .linear_residual_seen = swin_linear_residual_seen_cpu,
    .attention_seen = swin_attention_seen_cpu,
    .observer_read = swin_observer_read_cpu,
    .quantize = quantize,
    .shrinks = true,
    .after_channels = true,
    .linear_s8_prepare = swin_linear_s8_prepare_cpu,
    .linear_s8 = swin_linear_s8_cpu,
    .linear_s8_residual = swin_linear_s8_residual_cpu,
    .attention_s8 = swin_attention_s8_cpu,
    .normalise_heads = normalise_heads,
    .scale_columns = swin_host_scale_columns,
    .moments = swin_host_moments,
    .take_rows = swin_host_take_rows,
};
