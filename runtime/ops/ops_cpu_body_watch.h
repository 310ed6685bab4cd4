/* runtime/ops/ops_cpu_body_watch.h - observation for one instruction set (ops_cpu_watch.h). Compiled once for each table. */
#ifndef SWIN_OPS_CPU_BODY_WATCH_H
#define SWIN_OPS_CPU_BODY_WATCH_H

#include "runtime/ops/ops_cpu_kernels.h"
#include "runtime/ops/ops_cpu_vec.h"

typedef uint16_t vh __attribute__((vector_size(2 * VL)));

/* What holds for all values of a block. */
typedef struct bins {
    float width, inverse;
    vf lo, hi;
    vh offset;
#if VL == 16
    __m512i both; /* offsets of two vectors' values */
    __mmask32 outside;
#else
    vi outside;
#endif
} bins;

/* floor(v / width) + HALF. Rounding v / width + HALF downwards keeps its integer part; without such an instruction,
 * truncate and correct where that went up (v / width may underflow to 0, so v itself is compared). */
ALWAYS_INLINE vi bin_of(const bins *b, vf v)
{
#if VL == 16
    return (vi)_mm512_cvttps_epi32(_mm512_fmadd_round_ps((__m512)v, _mm512_set1_ps(b->inverse),
                                                         _mm512_set1_ps(SWIN_HIST_HALF),
                                                         _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC));
#else
    const vi t = vf_to_int(v * b->inverse);
    return (vi)((vu)t + (vu)(v < __builtin_convertvector(t, vf) * b->width) + SWIN_HIST_HALF);
#endif
}

/* The counters of v's lanes, in their order. */
ALWAYS_INLINE void put(bins *b, uint16_t *queue, vf v)
{
    const vh h = __builtin_convertvector(bin_of(b, v), vh) + b->offset;
    memcpy(queue, &h, sizeof h);
#if VL == 16
    b->outside |=
        _mm512_cmp_ps_mask((__m512)vf_abs(v), _mm512_set1_ps(b->width * SWIN_HIST_HALF), _CMP_NLT_UQ);
#else
    b->outside |= ~(vf_abs(v) < b->width * SWIN_HIST_HALF);
#endif
    b->lo = vf_min(b->lo, v);
    b->hi = vf_max(b->hi, v);
}

/* The counters of two vectors, in any order. */
ALWAYS_INLINE void put_two(bins *b, uint16_t *queue, vf v, vf w)
{
#if VL == 16
    /* Saturation takes NaN and what is too large to values that are no bins; -HALF itself shows in lo. */
    const __m512i h = _mm512_packs_epi32((__m512i)bin_of(b, v), (__m512i)bin_of(b, w));
    b->outside |= _mm512_cmpge_epu16_mask(h, _mm512_set1_epi16(SWIN_HIST_BINS));
    _mm512_storeu_si512(queue, _mm512_add_epi16(h, b->both));
    b->lo = vf_min(vf_min(v, w), b->lo);
    b->hi = vf_max(vf_max(v, w), b->hi);
#else
    put(b, queue, v);
    put(b, queue + VL, w);
#endif
}

ALWAYS_INLINE bool all_fit(const bins *b)
{
#if VL == 16
    return !(b->outside |
             _mm512_cmp_ps_mask((__m512)b->lo, _mm512_set1_ps(-SWIN_HIST_HALF * b->width), _CMP_LE_OQ));
#else
    for (int i = 0; i < VL; i++)
        if (b->outside[i]) return false;
    return true;
#endif
}

/* Queue rows x cols values; false: some of them do not fit, and none is queued. */
static bool queue_block(swin_cpu_watch *w, swin_cpu_tally *t, const float *x, int64_t ld, int64_t rows,
                        int64_t cols)
{
    bins b = { .width = t->width, .inverse = t->inverse, .lo = vf_load(t->lo), .hi = vf_load(t->hi) };
    memcpy(&b.offset, t->offset, sizeof b.offset);
#if VL == 16
    b.both = _mm512_loadu_si512(t->offset);
#endif
    uint16_t *queue = w->queue + w->to;
    for (int64_t r = 0; r < rows; r++, x += ld) {
        int64_t c = 0;
        for (; c + 2 * VL <= cols; c += 2 * VL, queue += 2 * VL)
            put_two(&b, queue, vf_load(x + c), vf_load(x + c + VL));
        for (; c < cols; c += VL) {
            const int left = cols - c < VL ? (int)(cols - c) : VL;
            vf v = vf_load_n(x + c, left);
            if (left < VL) v = vf_pick(vi_first(left), v, vf_set(x[c]));
            put(&b, queue, v);
            queue += left;
        }
    }
    if (!all_fit(&b)) return false;
    vf_store(t->lo, b.lo);
    vf_store(t->hi, b.hi);
    t->room -= rows * cols;
    t->finite += (uint64_t)(rows * cols);
    w->to += (int)(rows * cols);
    return true;
}

/* Count everything that is queued. */
static void drain(swin_cpu_watch *w)
{
    uint16_t *counts = w->counts;
    const volatile uint16_t *queue =
        w->queue; /* volatile: the compiler's idea of increments by vectors is far slower */
    int i = w->from;
    for (; i + 16 <= w->to; i += 16) {
#pragma GCC unroll 16
        for (int k = 0; k < 16; k++) counts[queue[i + k]]++;
    }
    for (; i < w->to; i++) counts[queue[i]]++;
    w->from = w->to = 0;
}

/* Entries [from, to) are still to be counted; the vector after the last may be written too. */
static void queue_room(swin_cpu_watch *w, int more)
{
    const int most = SWIN_CPU_QUEUE - 2 * SWIN_CPU_LANES - more;
    if (w->to <= most) return;
    w->to -= w->from;
    memmove(w->queue, w->queue + w->from, (size_t)w->to * sizeof *w->queue);
    w->from = 0;
    if (w->to > most) drain(w);
}

static void watch_block(swin_cpu_watch *w, swin_cpu_tally *t, const float *x, int64_t ld, int64_t rows,
                        int64_t cols)
{
    queue_room(w, (int)(rows * cols));
    if (t->room < rows * cols) swin_cpu_tally_room(w, t);
    if (queue_block(w, t, x, ld, rows, cols)) return;
    for (int64_t r = 0; r < rows; r++) swin_cpu_tally_odd(w, t, x + r * ld, cols);
}

static void watch(swin_cpu_watch *w, swin_cpu_tally *t, const float *x, int64_t ld, int64_t rows,
                  int64_t cols)
{
    for (int64_t c = 0; t->o && c < cols; c += SWIN_CPU_BLOCK) {
        const int64_t wide = cols - c < SWIN_CPU_BLOCK ? cols - c : SWIN_CPU_BLOCK,
                      step = SWIN_CPU_BLOCK / wide;
        for (int64_t r = 0; r < rows; r += step)
            watch_block(w, t, x + r * ld + c, ld, rows - r < step ? rows - r : step, wide);
    }
}

/* The greatest counter of a table. */
static int most(const uint16_t *counts)
{
    uint16_t top = 0;
    for (int i = 0; i < SWIN_HIST_BINS; i++) top = counts[i] > top ? counts[i] : top;
    return top;
}

/* Most stretches of bins are empty. */
static void collect(uint64_t *hist, uint16_t *counts)
{
    enum { STRETCH = 32 };
    for (int b = 0; b < SWIN_HIST_BINS; b += STRETCH) {
        uint64_t words[STRETCH / 4], any = 0;
        memcpy(words, counts + b, sizeof words);
        for (int i = 0; i < STRETCH / 4; i++) any |= words[i];
        if (!any) continue;
        for (int i = 0; i < STRETCH; i++) hist[b + i] += counts[b + i];
        memset(counts + b, 0, sizeof words);
    }
}

#endif
