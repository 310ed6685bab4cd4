/* runtime/ops/ops_cpu_body_gemm.h - matrix products for one instruction set: Linear layers and window attention.
 * Compiled once for each table (ops_cpu_kernels.h).
 *
 * Every product is made of tiles of ROWS x COLS sums that stay in registers while k ascends. A sum therefore depends on its
 * own row and column only, and a tile cut off at the matrix's edge gives the bits of a full one.
 */
#include "runtime/ops/ops_cpu_body_watch.h"
#include "runtime/ops/ops_cpu_kernels.h"
#include "runtime/ops/ops_cpu_vec.h"

/* Sums, two vectors of weights and one input fill the registers: 32 with AVX-512, 16 elsewhere. */
#if VL == 16
enum { ROWS = 14 };
#else
enum { ROWS = 6 };
#endif
enum { COLS = 2 * VL, TASK_ROWS = 98 / ROWS * ROWS };

/* Counters to be incremented beside a product: queue[k * pace ...) in step k, where 2 loads and 14 or 6 broadcasts leave the
 * store ports and half of the issue slots to them. */
typedef struct beside {
    uint16_t *counts;
    const volatile uint16_t *queue; /* volatile: one by one, as written */
    int steps;                      /* at most the product's depth */
} beside;

/* tile[r][c] = sum over k of a[r][k] b[k][c], r < rows. Rows in threes from one pointer: x86 addresses base, base + lda and
 * base + 2 lda without extra registers. */
ALWAYS_INLINE void tile_of(const int rows, float *tile, const float *a, int64_t lda, const float *b,
                           int depth, const int pace, const beside *work)
{
    vf sum[ROWS][2];
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = (vf){ 0 };
    const float *a0 = a, *a3 = a + 3 * lda, *a6 = a + 6 * lda, *a9 = a + 9 * lda, *a12 = a + 12 * lda;
#define TILE_STEP(each)                                                                                      \
    const vf b0 = vf_load(b), b1 = vf_load(b + VL);                                                          \
    _Pragma("GCC unroll 14") for (int r = 0; r < rows; r++)                                                  \
    {                                                                                                        \
        const float *base = r < 3 ? a0 : r < 6 ? a3 : r < 9 ? a6 : r < 12 ? a9 : a12;                        \
        const vf x = vf_set(base[r % 3 * lda + k]);                                                          \
        sum[r][0] = vf_fma(x, b0, sum[r][0]);                                                                \
        sum[r][1] = vf_fma(x, b1, sum[r][1]);                                                                \
        each;                                                                                                \
    }
    int k = 0;
    if (pace > 0) {
        uint16_t *counts = work->counts;
        const volatile uint16_t *queue = work->queue;
        for (const int steps = work->steps; k < steps; k++, b += COLS, queue += pace) {
            TILE_STEP(if (r < pace) counts[queue[r]]++)
        }
    }
    for (; k < depth; k++, b += COLS) { TILE_STEP() }
#undef TILE_STEP
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++) {
        vf_store(tile + r * COLS, sum[r][0]);
        vf_store(tile + r * COLS + VL, sum[r][1]);
    }
}

#define TILE_CASE(n)                                                                                         \
    case n:                                                                                                  \
        tile_of(n, tile, a, lda, b, depth, 0, NULL);                                                         \
        break

static void tile_product(int rows, float *tile, const float *a, int64_t lda, const float *b, int depth)
{
    switch (rows) {
        TILE_CASE(1);
        TILE_CASE(2);
        TILE_CASE(3);
        TILE_CASE(4);
        TILE_CASE(5);
        TILE_CASE(6);
#if VL == 16
        TILE_CASE(7);
        TILE_CASE(8);
        TILE_CASE(9);
        TILE_CASE(10);
        TILE_CASE(11);
        TILE_CASE(12);
        TILE_CASE(13);
        TILE_CASE(14);
#endif
    }
}

/* How many increments go beside a step: STEP, 2 STEP, .. 6 STEP. */
enum { STEP = ROWS / 6 };

#define PACE_CASE(n)                                                                                         \
    case n:                                                                                                  \
        tile_of(ROWS, tile, a, lda, b, depth, n *STEP, work);                                                \
        break

static void tile_beside(int pace, float *tile, const float *a, int64_t lda, const float *b, int depth,
                        const beside *work)
{
    switch (pace) {
        PACE_CASE(1);
        PACE_CASE(2);
        PACE_CASE(3);
        PACE_CASE(4);
        PACE_CASE(5);
        PACE_CASE(6);
    }
}

/* tile_product, and as much of w's queue as fits beside it. */
static void tile_watched(swin_cpu_watch *w, int rows, float *tile, const float *a, int64_t lda,
                         const float *b, int depth)
{
    const int pending = w ? w->to - w->from : 0;
    if (rows < ROWS || pending < STEP) {
        tile_product(rows, tile, a, lda, b, depth);
        return;
    }
    const int wanted = (pending + depth * STEP - 1) / (depth * STEP), pace = wanted < 6 ? wanted : 6;
    const int steps = pending / (pace * STEP);
    const beside work = { .counts = w->counts,
                          .queue = w->queue + w->from,
                          .steps = steps < depth ? steps : depth };
    tile_beside(pace, tile, a, lda, b, depth, &work);
    w->from += work.steps * pace * STEP;
    if (w->from == w->to) w->from = w->to = 0;
}

ALWAYS_INLINE void finish_row(float *y, const float *sum, const float *bias, int cols, swin_act act,
                              bool residual)
{
    for (int c = 0; c < cols; c += VL) {
        const int n = cols - c;
        vf v = vf_load(sum + c);
        if (bias) v = v + vf_load_n(bias + c, n);
        if (act == SWIN_ACT_GELU) v = vf_gelu(v);
        if (residual) v = vf_load_n(y + c, n) + v;
        vf_store_n(y + c, v, n);
    }
}

static void finish_tile(const swin_cpu_linear *j, float *const *y, int rows, int col, const float *tile)
{
    const int cols = j->out - col < COLS ? j->out - col : COLS;
    const float *bias = j->bias ? j->bias + col : NULL;
    for (int r = 0; r < rows; r++, tile += COLS) {
        if (j->residual)
            finish_row(y[r] + col, tile, bias, cols, SWIN_ACT_NONE, true);
        else if (j->act == SWIN_ACT_GELU)
            finish_row(y[r] + col, tile, bias, cols, SWIN_ACT_GELU, false);
        else
            finish_row(y[r] + col, tile, bias, cols, SWIN_ACT_NONE, false);
    }
}

/* ---- the same, watched -------------------------------------------------------------------------------------------- */
static void show(swin_cpu_watch *w, int slot, const float *x, int64_t ld, int rows, int64_t cols)
{
    watch(w, &w->slots[slot], x, ld, rows, cols);
}

/* Each panel's share of the input columns, so that increments are spread over all tiles. */
static void show_input(swin_cpu_watch *w, const swin_cpu_linear *j, int64_t row, int rows, int panel)
{
    const int panels = (j->out + COLS - 1) / COLS, units = (j->in + COLS - 1) / COLS;
    const int64_t from = (int64_t)units * panel / panels * COLS,
                  end = (int64_t)units * (panel + 1) / panels * COLS;
    show(w, SWIN_CPU_SEEN_INPUT, j->x + row * j->ldx + from, j->ldx, rows,
         (end < j->in ? end : j->in) - from);
}

static void show_biased(swin_cpu_watch *w, const swin_cpu_linear *j, int rows, int col, int cols,
                        const float *tile)
{
    for (int i = 0; i < j->biased_parts; i++) {
        const int part = j->out / j->biased_parts, from = i * part > col ? i * part : col,
                  end = (i + 1) * part < col + cols ? (i + 1) * part : col + cols;
        if (from < end) show(w, SWIN_CPU_SEEN_BIASED + i, tile + from - col, COLS, rows, end - from);
    }
}

static void finish_watched(const swin_cpu_linear *j, float *const *y, int rows, int col, float *tile,
                           swin_cpu_watch *w)
{
    const int cols = j->out - col < COLS ? j->out - col : COLS;
    show(w, SWIN_CPU_SEEN_PRODUCT, tile, COLS, rows, cols);
    for (int r = 0; j->bias && r < rows; r++)
        finish_row(tile + r * COLS, tile + r * COLS, j->bias + col, cols, SWIN_ACT_NONE, false);
    show_biased(w, j, rows, col, cols, tile);
    if (j->residual) {
        _Alignas(64) float before[ROWS * COLS];
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < cols; c += VL)
                vf_store(before + r * COLS + c, vf_load_n(y[r] + col + c, cols - c));
        show(w, SWIN_CPU_SEEN_RESIDUAL, before, COLS, rows, cols);
    }
    for (int r = 0; r < rows; r++, tile += COLS) {
        if (j->residual)
            finish_row(y[r] + col, tile, NULL, cols, SWIN_ACT_NONE, true);
        else if (j->act == SWIN_ACT_GELU)
            finish_row(y[r] + col, tile, NULL, cols, SWIN_ACT_GELU, false);
        else
            finish_row(y[r] + col, tile, NULL, cols, SWIN_ACT_NONE, false);
    }
}

static void linear(const swin_cpu_linear *j, int64_t from, int64_t to, int panel, int panel_end,
                   swin_cpu_watch *w)
{
    float *y[TASK_ROWS];
    _Alignas(64) float tile[ROWS * COLS];
    for (int64_t r = from; r < to; r++)
        y[r - from] = j->y + (j->windows ? swin_windows_source(j->windows, r) : r) * j->ldy;
    for (int p = panel; p < panel_end; p++) {
        const float *b = j->panels + (size_t)p * (size_t)j->in * COLS;
        for (int64_t r = from; r < to; r += ROWS) {
            const int rows = to - r < ROWS ? (int)(to - r) : ROWS;
            if (w) show_input(w, j, r, rows, p);
            tile_watched(w, rows, tile, j->x + r * j->ldx, j->ldx, b, j->in);
            if (w)
                finish_watched(j, y + (r - from), rows, p * COLS, tile, w);
            else
                finish_tile(j, y + (r - from), rows, p * COLS, tile);
        }
    }
}

/* ---- attention -------------------------------------------------------------------------------------------------- */
typedef float four __attribute__((vector_size(16)));

/* room[d][0..COLS) = the d-th channel of `keys` tokens, zero beyond them. */
static void transpose_keys(float *room, const float *k, int64_t ld, int keys, int size)
{
    memset(room, 0, (size_t)size * COLS * sizeof *room);
    int t = 0;
    for (; t + 4 <= keys; t += 4) {
        int d = 0;
        for (; d + 4 <= size; d += 4) {
            four r[4];
            for (int i = 0; i < 4; i++) memcpy(&r[i], k + (t + i) * ld + d, sizeof r[i]);
            const four a = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5),
                       b = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5);
            const four c = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7),
                       e = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
            r[0] = __builtin_shufflevector(a, b, 0, 1, 4, 5);
            r[1] = __builtin_shufflevector(a, b, 2, 3, 6, 7);
            r[2] = __builtin_shufflevector(c, e, 0, 1, 4, 5);
            r[3] = __builtin_shufflevector(c, e, 2, 3, 6, 7);
            for (int i = 0; i < 4; i++) memcpy(room + (size_t)(d + i) * COLS + t, &r[i], sizeof r[i]);
        }
        for (; d < size; d++)
            for (int i = 0; i < 4; i++) room[(size_t)d * COLS + (size_t)(t + i)] = k[(t + i) * ld + d];
    }
    for (; t < keys; t++)
        for (int d = 0; d < size; d++) room[(size_t)d * COLS + (size_t)t] = k[t * ld + d];
}

static void store_tile(float *out, int64_t ld, int rows, int cols, const float *tile)
{
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c += VL)
            vf_store_n(out + r * ld + c, vf_load(tile + r * COLS + c), cols - c);
}

static void scores(float *s, int64_t ld_s, const swin_cpu_head *h, float *room, swin_cpu_watch *w)
{
    _Alignas(64) float tile[ROWS * COLS];
    for (int col = 0; col < h->tokens; col += COLS) {
        const int keys = h->tokens - col < COLS ? h->tokens - col : COLS;
        transpose_keys(room, h->k + col * h->ld, h->ld, keys, h->size);
        for (int r = 0; r < h->tokens; r += ROWS) {
            const int rows = h->tokens - r < ROWS ? h->tokens - r : ROWS;
            tile_watched(w, rows, tile, h->q + r * h->ld, h->ld, room, h->size);
            store_tile(s + r * ld_s + col, ld_s, rows, keys, tile);
        }
    }
}

static void weighted_sum(float *out, int64_t ld_out, const float *s, int64_t ld_s, const swin_cpu_head *h,
                         float *room, swin_cpu_watch *w)
{
    _Alignas(64) float tile[ROWS * COLS];
    for (int col = 0; col < h->size; col += COLS) {
        const int cols = h->size - col < COLS ? h->size - col : COLS;
        for (int t = 0; t < h->tokens; t++)
            for (int c = 0; c < COLS; c += VL)
                vf_store(room + (size_t)t * COLS + c,
                         c < cols ? vf_load_n(h->v + t * h->ld + col + c, cols - c) : (vf){ 0 });
        for (int r = 0; r < h->tokens; r += ROWS) {
            const int rows = h->tokens - r < ROWS ? h->tokens - r : ROWS;
            tile_watched(w, rows, tile, s + r * ld_s, ld_s, room, h->tokens);
            store_tile(out + r * ld_out + col, ld_out, rows, cols, tile);
        }
    }
}
