/* LayerNorm of the ref backend, alone and with the row moves that come before it, and the mean over tokens. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/ops/ops_ref.h"

enum { ROWS = 64 };

void swin_norm_row_ref(float *x, int64_t cols, const swin_norm *n)
{
    if (!n) return;
    double mean = 0, var = 0;
    for (int64_t c = 0; c < cols; c++) mean += x[c];
    mean /= (double)cols;
    for (int64_t c = 0; c < cols; c++) var += (x[c] - mean) * (x[c] - mean);
    const double inverse = 1.0 / sqrt(var / (double)cols + n->eps);
    for (int64_t c = 0; c < cols; c++) x[c] = (float)((x[c] - mean) * inverse * n->gamma[c] + n->beta[c]);
}

typedef struct norm_job {
    swin_tensor *out;
    const swin_tensor *x;
    const swin_norm *n;
    const swin_windows *g;
    int tokens;
} norm_job;

/* Where a row of the output is computed: in place, or in scratch memory that becomes codes. */
typedef struct row_sink {
    swin_tensor *out;
    float *scratch; /* owned; NULL for a float32 output */
} row_sink;

static swin_status sink_open(row_sink *s, swin_tensor *out)
{
    *s = (row_sink){ .out = out };
    if (out->dtype != SWIN_S8) return SWIN_OK;
    s->scratch = swin_host_memory((size_t)out->cols, sizeof *s->scratch);
    return s->scratch ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "layernorm: no memory for a row");
}

static float *sink_row(const row_sink *s, int64_t r)
{
    return s->scratch ? s->scratch : swin_row(s->out, r);
}

static void sink_done(const row_sink *s, int64_t r)
{
    if (s->scratch) swin_quantize_row_ref(swin_codes(s->out, r), s->scratch, s->out->cols, s->out);
}

static swin_status norm_rows(void *user, int64_t from, int64_t to, int worker)
{
    const norm_job *j = user;
    (void)worker;
    row_sink sink;
    SWIN_TRY(sink_open(&sink, j->out));
    for (int64_t r = from; r < to; r++) {
        float *y = sink_row(&sink, r);
        memcpy(y, swin_row(j->x, j->g ? swin_windows_source(j->g, r) : r), (size_t)j->x->cols * sizeof *y);
        swin_norm_row_ref(y, j->x->cols, j->n);
        sink_done(&sink, r);
    }
    free(sink.scratch);
    return SWIN_OK;
}

swin_status swin_layernorm_ref(swin_dev *dev, swin_tensor *out, const swin_tensor *x, const swin_norm *n)
{
    SWIN_TRY(swin_check_matrix("layernorm", x, x->rows, x->cols));
    SWIN_TRY(swin_check_output("layernorm", out, x->rows, x->cols));
    return swin_host_each(dev, x->rows, ROWS, norm_rows, &(norm_job){ .out = out, .x = x, .n = n });
}

swin_status swin_layernorm_windows_ref(swin_dev *dev, swin_tensor *out, const swin_tensor *x,
                                       const swin_norm *n, const swin_windows *g)
{
    SWIN_TRY(swin_check_windows("layernorm_windows", g));
    SWIN_TRY(swin_check_matrix("layernorm_windows", x, swin_windows_tokens(g), x->cols));
    SWIN_TRY(swin_check_output("layernorm_windows", out, x->rows, x->cols));
    return swin_host_each(dev, x->rows, ROWS, norm_rows, &(norm_job){ .out = out, .x = x, .n = n, .g = g });
}

/* The neighbours of merged row r, as (row, column): (0,0), (1,0), (0,1), (1,1). */
static swin_status merge_rows(void *user, int64_t from, int64_t to, int worker)
{
    const norm_job *j = user;
    (void)worker;
    const int across = j->g->width / 2, down = j->g->height / 2;
    const int64_t cols = j->x->cols;
    row_sink sink;
    SWIN_TRY(sink_open(&sink, j->out));
    for (int64_t r = from; r < to; r++) {
        const int64_t image = r / ((int64_t)across * down), at = r % ((int64_t)across * down);
        const int64_t corner = (image * j->g->height + at / across * 2) * j->g->width + at % across * 2;
        const int64_t from_rows[4] = { corner, corner + j->g->width, corner + 1, corner + j->g->width + 1 };
        float *y = sink_row(&sink, r);
        for (int i = 0; i < 4; i++)
            memcpy(y + i * cols, swin_row(j->x, from_rows[i]), (size_t)cols * sizeof *y);
        swin_norm_row_ref(y, 4 * cols, j->n);
        sink_done(&sink, r);
    }
    free(sink.scratch);
    return SWIN_OK;
}

swin_status swin_layernorm_merge_ref(swin_dev *dev, swin_tensor *out, const swin_tensor *x,
                                     const swin_norm *n, const swin_windows *g)
{
    SWIN_TRY(swin_check_merge("layernorm_merge", g));
    SWIN_TRY(swin_check_matrix("layernorm_merge", x, swin_windows_tokens(g), x->cols));
    SWIN_TRY(swin_check_output("layernorm_merge", out, x->rows / 4, 4 * x->cols));
    return swin_host_each(dev, out->rows, ROWS, merge_rows,
                          &(norm_job){ .out = out, .x = x, .n = n, .g = g });
}

static swin_status mean_rows(void *user, int64_t from, int64_t to, int worker)
{
    const norm_job *j = user;
    (void)worker;
    for (int64_t r = from; r < to; r++)
        for (int64_t c = 0; c < j->x->cols; c++) {
            double sum = 0;
            for (int t = 0; t < j->tokens; t++) sum += swin_row(j->x, r * j->tokens + t)[c];
            swin_row(j->out, r)[c] = (float)(sum / j->tokens);
        }
    return SWIN_OK;
}

swin_status swin_mean_tokens_ref(swin_dev *dev, swin_tensor *out, const swin_tensor *x, int tokens)
{
    if (tokens <= 0) return swin_fail(SWIN_ERR_VALUE, "mean_tokens: %d tokens", tokens);
    SWIN_TRY(swin_check_matrix("mean_tokens", out, out->rows, x->cols));
    SWIN_TRY(swin_check_matrix("mean_tokens", x, out->rows * tokens, x->cols));
    return swin_host_each(dev, out->rows, 1, mean_rows, &(norm_job){ .out = out, .x = x, .tokens = tokens });
}
