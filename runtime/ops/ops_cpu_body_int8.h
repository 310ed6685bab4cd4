/* runtime/ops/ops_cpu_body_int8.h - integer products for one instruction set: Linear layers on codes, and the rows that
 * become codes. Compiled once for each table (ops_cpu_kernels.h).
 *
 * Sums run over "words", 32 bits of neighbouring codes along k: four bytes with VNNI, whose instruction multiplies unsigned
 * by signed bytes, so inputs are moved up by OFFSET and every sum starts at what takes that off again; two 16-bit numbers
 * elsewhere, so that no product saturates. Both are exact, and a sum that passes INT32's range on its way comes back.
 */
#include "runtime/ops/ops_cpu_kernels.h"
#include "runtime/ops/ops_cpu_vec.h"

#if defined(__AVX512VNNI__)
enum { GROUP = 4, OFFSET = 128 };
typedef uint8_t s8_unit;
#else
enum { GROUP = 2, OFFSET = 0 };
typedef int16_t s8_unit;
#endif

ALWAYS_INLINE vi vi_load(const int32_t *p)
{
    vi v;
    memcpy(&v, p, sizeof v);
    return v;
}
ALWAYS_INLINE void vi_store(int32_t *p, vi v)
{
    memcpy(p, &v, sizeof v);
}

/* sum + the products of the words' codes; a is the input's side. */
ALWAYS_INLINE vi dot_words(vi sum, int32_t a, vi b)
{
#if defined(__AVX512VNNI__)
    return (vi)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(a), (__m512i)b);
#elif VL == 16
    return (vi)_mm512_add_epi32((__m512i)sum, _mm512_madd_epi16(_mm512_set1_epi32(a), (__m512i)b));
#elif VL == 8
    return (vi)_mm256_add_epi32((__m256i)sum, _mm256_madd_epi16(_mm256_set1_epi32(a), (__m256i)b));
#else
    const int32_t low = (int16_t)a, high = a >> 16;
    return (vi)((vu)sum + (vu)(((vi)((vu)b << 16) >> 16) * low) + (vu)((b >> 16) * high));
#endif
}

/* Codes for the n <= VL first lanes, which hold values in [-128, 127]. */
ALWAYS_INLINE void store_codes(int8_t *p, vi v, int n)
{
#if VL == 16
    if (n >= VL)
        _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8((__m512i)v));
    else
        _mm512_mask_cvtepi32_storeu_epi8(p, (__mmask16)((1u << n) - 1), (__m512i)v);
#else
#if VL == 8
    const __m128i half =
        _mm_packs_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
    const __m128i codes = _mm_packs_epi16(half, half);
#else
    const int8_t codes[VL] = { (int8_t)v[0], (int8_t)v[1], (int8_t)v[2], (int8_t)v[3] };
#endif
    memcpy(p, &codes, n >= VL ? VL : (size_t)n);
#endif
}

/* VL lanes with values in [0, 255], as inputs of a product without the offset. */
ALWAYS_INLINE void store_units(s8_unit *p, vi v)
{
#if defined(__AVX512VNNI__)
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8((__m512i)v));
#elif VL == 16
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16((__m512i)v));
#elif VL == 8
    _mm_storeu_si128((__m128i *)p, _mm_packs_epi32(_mm256_castsi256_si128((__m256i)v),
                                                   _mm256_extracti128_si256((__m256i)v, 1)));
#else
    for (int i = 0; i < VL; i++) p[i] = (s8_unit)v[i];
#endif
}

/* Codes as inputs of a product, `words` of them; what lies beyond the n codes meets weights of zero. */
ALWAYS_INLINE void pack_inputs(int32_t *to, const int8_t *x, int64_t n, int64_t words)
{
    s8_unit *u = (s8_unit *)to;
    for (int64_t i = 0; i < n; i++) u[i] = (s8_unit)(OFFSET ? (uint8_t)x[i] ^ OFFSET : x[i]);
    for (int64_t i = n; i < words * GROUP; i++) u[i] = 0;
}

/* ---- quantization ------------------------------------------------------------------------------------------------ */
typedef struct coder {
    vf inverse, least, most; /* bounds before the zero point is added */
    vi zero;
    const float *shrink; /* [columns] or NULL */
} coder;

ALWAYS_INLINE coder coder_of(const swin_tensor *t)
{
    return (coder){ .inverse = vf_set(1.0f / t->scale),
                    .least = vf_set((float)(t->qmin - t->zero_point)),
                    .most = vf_set((float)(t->qmax - t->zero_point)),
                    .zero = (vi){ 0 } + t->zero_point,
                    .shrink = t->shrink };
}

/* The bounds are integers, so it makes no difference that they come before rounding. NaN becomes the least code. */
ALWAYS_INLINE vi coded(const coder *q, vf v)
{
    return vf_round_int(vf_min(vf_max(v * q->inverse, q->least), q->most)) + q->zero;
}

static void quantize(int8_t *codes, const float *x, int64_t n, const swin_tensor *t)
{
    const coder q = coder_of(t);
    for (int64_t c = 0; c < n; c += VL) {
        const int left = n - c < VL ? (int)(n - c) : VL;
        vf v = vf_load_n(x + c, left);
        if (q.shrink) v = v * vf_load_n(q.shrink + c, left);
        store_codes(codes + c, coded(&q, v), left);
    }
}

static void dequantize(float *x, const int8_t *codes, int64_t n, float scale)
{
    for (int64_t i = 0; i < n; i++) x[i] = (float)codes[i] * scale;
}

/* ---- tiles of sums ------------------------------------------------------------------------------------------------- */

/* tile[r][c] = start[c] + sum over words k of a[r][k] . b[k][c], r < rows; a's rows are addressed as in tile_of. */
ALWAYS_INLINE void tile_s8_of(const int rows, int32_t *tile, const int32_t *a, int64_t lda, const int32_t *b,
                              int depth, const int32_t *start)
{
    vi sum[ROWS][2];
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++) {
        sum[r][0] = vi_load(start);
        sum[r][1] = vi_load(start + VL);
    }
    const int32_t *a0 = a, *a3 = a + 3 * lda, *a6 = a + 6 * lda, *a9 = a + 9 * lda, *a12 = a + 12 * lda;
    for (int k = 0; k < depth; k++, b += COLS) {
        const vi b0 = vi_load(b), b1 = vi_load(b + VL);
#pragma GCC unroll 14
        for (int r = 0; r < rows; r++) {
            const int32_t *base = r < 3 ? a0 : r < 6 ? a3 : r < 9 ? a6 : r < 12 ? a9 : a12;
            const int32_t x = base[r % 3 * lda + k];
            sum[r][0] = dot_words(sum[r][0], x, b0);
            sum[r][1] = dot_words(sum[r][1], x, b1);
        }
    }
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++) {
        vi_store(tile + r * COLS, sum[r][0]);
        vi_store(tile + r * COLS + VL, sum[r][1]);
    }
}

#define TILE_S8_CASE(n)                                                                                      \
    case n:                                                                                                  \
        tile_s8_of(n, tile, a, lda, b, depth, start);                                                        \
        break

static void tile_s8(int rows, int32_t *tile, const int32_t *a, int64_t lda, const int32_t *b, int depth,
                    const int32_t *start)
{
    switch (rows) {
        TILE_S8_CASE(1);
        TILE_S8_CASE(2);
        TILE_S8_CASE(3);
        TILE_S8_CASE(4);
        TILE_S8_CASE(5);
        TILE_S8_CASE(6);
#if VL == 16
        TILE_S8_CASE(7);
        TILE_S8_CASE(8);
        TILE_S8_CASE(9);
        TILE_S8_CASE(10);
        TILE_S8_CASE(11);
        TILE_S8_CASE(12);
        TILE_S8_CASE(13);
        TILE_S8_CASE(14);
#endif
    }
}

/* ---- Linear -------------------------------------------------------------------------------------------------------- */

/* The word of n <= GROUP codes, `stride` apart; zero beyond them. The weights' side of a product. */
ALWAYS_INLINE int32_t weight_word(const int8_t *codes, int64_t stride, int64_t n)
{
    const int bits = 32 / GROUP;
    uint32_t word = 0;
    for (int i = 0; i < (n < GROUP ? (int)n : GROUP); i++)
        word |= ((uint32_t)(int32_t)codes[i * stride] & (0xffffffffu >> (32 - bits))) << (i * bits);
    return (int32_t)word;
}

static void pack_weights(int32_t *panels, int32_t *start, const int8_t *codes, int out, int in,
                         int x_zero_point)
{
    const int64_t words = ((int64_t)in + GROUP - 1) / GROUP, width = ((int64_t)out + COLS - 1) / COLS * COLS;
    memset(panels, 0, (size_t)(words * width) * sizeof *panels);
    memset(start, 0, (size_t)width * sizeof *start);
    for (int64_t n = 0; n < out; n++) {
        const int8_t *row = codes + n * in;
        int32_t *to = panels + n / COLS * words * COLS + n % COLS, sum = 0;
        for (int64_t k = 0; k < in; k++) sum += row[k];
        for (int64_t w = 0; w < words; w++) to[w * COLS] = weight_word(row + w * GROUP, 1, in - w * GROUP);
        start[n] = -(OFFSET + x_zero_point) * sum;
    }
}

typedef struct finish_span {
    const swin_cpu_linear_s8 *j;
    const int32_t *tile; /* the span's first sum; rows COLS apart */
    int rows;
    int64_t from, n; /* first column of the matrix product, columns */
} finish_span;

/* What one vector of columns needs on every row. */
typedef struct column {
    vf scale, bias;
    vf step, inverse; /* of the rounding before the bias */
    const int32_t *sums;
    int left; /* columns of the span from here on */
} column;

ALWAYS_INLINE column column_of(const finish_span *f, int64_t c)
{
    column o = { .scale = vf_load(f->j->scale + f->from + c) * f->j->x_scale,
                 .bias = vf_load(f->j->bias + f->from + c),
                 .step = vf_set(f->j->after_scale),
                 .inverse = vf_set(f->j->after_inverse),
                 .sums = f->tile + c,
                 .left = (int)(f->n - c) };
    if (f->j->after) { /* lanes past the span are zero, and not stored */
        o.step = vf_load_n(f->j->after + f->from + c, o.left);
        o.inverse = 1.0f / vf_max(o.step, vf_set(1.18e-38f));
    }
    return o;
}

ALWAYS_INLINE vf value_of(const column *c, int r, bool after)
{
    vf v = __builtin_convertvector(vi_load(c->sums + r * COLS), vf) * c->scale;
    if (after) {
        const vf code = vf_min(vf_max(v * c->inverse, vf_set(-127.0f)), vf_set(127.0f));
        v = __builtin_convertvector(vf_round_int(code), vf) * c->step;
    }
    return v + c->bias;
}

ALWAYS_INLINE void span_f32(const finish_span *f, float *const *y, bool after, bool gelu, bool residual)
{
    for (int64_t at = 0; at < f->n; at += VL) {
        const column c = column_of(f, at);
        for (int r = 0; r < f->rows; r++) {
            vf v = value_of(&c, r, after);
            if (gelu) v = vf_gelu(v);
            if (residual) v = vf_load_n(y[r] + at, c.left) + v;
            vf_store_n(y[r] + at, v, c.left);
        }
    }
}

ALWAYS_INLINE void span_s8(const finish_span *f, int8_t *y, int64_t ld, const coder *q, bool after, bool gelu)
{
    for (int64_t at = 0; at < f->n; at += VL) {
        const column c = column_of(f, at);
        const vf shrink = q->shrink ? vf_load_n(q->shrink + at, c.left) : vf_set(1.0f);
        for (int r = 0; r < f->rows; r++) {
            vf v = value_of(&c, r, after);
            if (gelu) v = vf_gelu(v);
            if (q->shrink) v = v * shrink;
            store_codes(y + r * ld + at, coded(q, v), c.left);
        }
    }
}

/* at: the span's first column in t. */
static void finish_codes(const finish_span *f, int8_t *y, const swin_tensor *t, int64_t at)
{
    coder q = coder_of(t);
    if (q.shrink) q.shrink += at;
    const bool after = f->j->after_scale > 0, gelu = f->j->act == SWIN_ACT_GELU;
    if (after && gelu)
        span_s8(f, y, t->ld, &q, true, true);
    else if (after)
        span_s8(f, y, t->ld, &q, true, false);
    else if (gelu)
        span_s8(f, y, t->ld, &q, false, true);
    else
        span_s8(f, y, t->ld, &q, false, false);
}

static void finish_floats(const finish_span *f, float *const *y)
{
    const bool after = f->j->after_scale > 0, gelu = f->j->act == SWIN_ACT_GELU;
    if (f->j->residual && after)
        span_f32(f, y, true, false, true);
    else if (f->j->residual)
        span_f32(f, y, false, false, true);
    else if (gelu)
        span_f32(f, y, after, true, false);
    else
        span_f32(f, y, after, false, false);
}

static void finish_sums(const finish_span *f, int32_t *y, int64_t ld)
{
    for (int r = 0; r < f->rows; r++) memcpy(y + r * ld, f->tile + r * COLS, (size_t)f->n * sizeof *y);
}

/* The part of a tile that lies in one of y's matrices: rows from `row` on, its columns from `at` on. */
static void finish_part(const finish_span *f, const swin_tensor *y, int64_t row, int64_t at)
{
    float *rows[ROWS];
    const swin_windows *g = f->j->windows;
    if (y->dtype == SWIN_S8) {
        finish_codes(f, (int8_t *)y->data + row * y->ld + at, y, at);
    } else if (y->dtype == SWIN_S32) {
        finish_sums(f, (int32_t *)y->data + row * y->ld + at, y->ld);
    } else {
        for (int r = 0; r < f->rows; r++)
            rows[r] = (float *)y->data + (g ? swin_windows_source(g, row + r) : row + r) * y->ld + at;
        finish_floats(f, rows);
    }
}

static void finish_tile_s8(const swin_cpu_linear_s8 *j, const int32_t *tile, int64_t row, int rows,
                           int64_t col)
{
    const int64_t width = j->out / j->parts, end = col + COLS < j->out ? col + COLS : j->out;
    for (int64_t from = col, to; from < end; from = to) {
        const int64_t part = from / width;
        to = (part + 1) * width < end ? (part + 1) * width : end;
        const finish_span f = {
            .j = j, .tile = tile + (from - col), .rows = rows, .from = from, .n = to - from
        };
        finish_part(&f, &j->y[part], row, from - part * width);
    }
}

static void linear_s8(const swin_cpu_linear_s8 *j, int64_t from, int64_t to, int panel, int panel_end,
                      int32_t *room)
{
    _Alignas(64) int32_t tile[ROWS * COLS + VL]; /* a part's last vector may be read from beyond its tile */
    const int64_t words = ((int64_t)j->in + GROUP - 1) / GROUP, ld = swin_cpu_s8_pitch(words);
    memset(tile + ROWS * COLS, 0, VL * sizeof *tile);
    for (int64_t r = from; r < to; r++) pack_inputs(room + (r - from) * ld, j->x + r * j->ldx, j->in, words);
    for (int p = panel; p < panel_end; p++) {
        const int32_t *w = j->panels + (size_t)p * (size_t)words * COLS;
        for (int64_t r = from; r < to; r += ROWS) {
            const int rows = to - r < ROWS ? (int)(to - r) : ROWS;
            tile_s8(rows, tile, room + (r - from) * ld, ld, w, (int)words, j->start + (size_t)p * COLS);
            finish_tile_s8(j, tile, r, rows, (int64_t)p * COLS);
        }
    }
}
