/* Where samples come from and with what weight: the arithmetic is Pillow's, operation for operation. */
#include "data/resize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Input samples on an axis that a table is made for: bounds what a hostile header can claim. */
#define MAX_IN ((int64_t)1 << 20)

static double bicubic(double x)
{
    const double a = -0.5;
    if (x < 0.0) x = -x;
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

void swin_axis_free(swin_axis *a)
{
    free(a->from);
    free(a->used);
    free(a->k);
    free(a->high);
    free(a->low);
    free(a->digits);
    *a = (swin_axis){ 0 };
}

/* Room for count outputs of that many taps. */
static swin_status reserve(swin_axis *a, int count, int taps)
{
    const size_t need = ((size_t)count + 1) / 2 * (size_t)taps;
    if (need <= a->capacity) return SWIN_OK;
    swin_axis_free(a);
    a->from = malloc(2 * need * sizeof *a->from);
    a->used = malloc(2 * need * sizeof *a->used);
    a->k = malloc(2 * need * sizeof *a->k);
    a->high = aligned_alloc(64, 8 * need * sizeof *a->high);
    a->low = aligned_alloc(64, 8 * need * sizeof *a->low);
    a->digits = aligned_alloc(64, 48 * need * sizeof *a->digits);
    if (!a->from || !a->used || !a->k || !a->high || !a->low || !a->digits) {
        swin_axis_free(a);
        return SWIN_ERR_MEM;
    }
    a->capacity = need;
    return SWIN_OK;
}

/* Input samples [*from, return value) that output o is made of. */
static int64_t window(int64_t *from, int64_t o, double scale, int64_t in)
{
    const double support = 2.0 * (scale < 1.0 ? 1.0 : scale), center = ((double)o + 0.5) * scale;
    const int64_t lo = (int64_t)(center - support + 0.5), hi = (int64_t)(center + support + 0.5);
    *from = lo < 0 ? 0 : lo;
    return hi > in ? in : hi;
}

/* The n weights of output o, whose window begins at from. */
static void weights(double *w, int64_t from, int n, int64_t o, double scale)
{
    const double ss = 1.0 / (scale < 1.0 ? 1.0 : scale), center = ((double)o + 0.5) * scale;
    double sum = 0.0;
    for (int i = 0; i < n; i++) {
        w[i] = bicubic(((double)(i + from) - center + 0.5) * ss);
        sum += w[i];
    }
    for (int i = 0; i < n; i++)
        if (sum != 0.0) w[i] /= sum;
}

static int32_t fixed_point(double w)
{
    const double scaled = w * (1 << SWIN_WEIGHT_BITS);
    return (int32_t)(w < 0 ? scaled - 0.5 : scaled + 0.5);
}

static void split_words(swin_axis *a)
{
    const size_t groups = (size_t)a->taps / 4, n = ((size_t)a->count + 1) / 2 * groups * 32;
    memset(a->high, 0, n * sizeof *a->high);
    memset(a->low, 0, n * sizeof *a->low);
    for (size_t o = 0; o < (size_t)a->count; o++)
        for (size_t j = 0; j < (size_t)a->used[o]; j++) {
            const int32_t k = a->k[o * (size_t)a->taps + j];
            const size_t at = ((o / 2 * groups + j / 4) * 2 + o % 2) * 16 + j % 4 / 2 * 8 + j % 2;
            for (size_t c = 0; c < 3; c++) {
                a->high[at + 2 * c] = (int16_t)(k >> SWIN_LOW_BITS);
                a->low[at + 2 * c] = (int16_t)(k & ((1 << SWIN_LOW_BITS) - 1));
            }
        }
}

/* A weight is less than 1.98 in magnitude (bicubic's never pass 1.2), so that three signed digits hold it. */
static void split_digits(swin_axis *a)
{
    const size_t groups = (size_t)a->taps / 4;
    memset(a->digits, 0, ((size_t)a->count + 3) / 4 * groups * 192);
    for (size_t o = 0; o < (size_t)a->count; o++)
        for (size_t j = 0; j < (size_t)a->used[o]; j++) {
            int32_t k = a->k[o * (size_t)a->taps + j];
            int8_t *d = a->digits + (o / 4 * groups + j / 4) * 192 + o % 4 * 16 + j % 4;
            for (int i = 0; i < 3; i++, d += 64) {
                const int8_t digit = (int8_t)(k & 255);
                d[0] = d[4] = d[8] = digit;
                k = (k - digit) >> 8;
            }
        }
}

/* from, used and taps for the wanted outputs. */
static void set_windows(swin_axis *a, double scale)
{
    int widest = 1;
    for (int o = 0; o < a->count; o++) {
        a->used[o] = (int)(window(&a->from[o], a->first + (int64_t)o, scale, a->in) - a->from[o]);
        if (a->used[o] > widest) widest = a->used[o];
    }
    for (int o = a->count; o % 4; o++)
        a->from[o] = a->from[a->count - 1]; /* of the last four's absent ones */
    a->taps = (widest + 3) / 4 * 4;
}

swin_status swin_axis_set(swin_axis *a, int64_t in, int64_t resized, int64_t first, int count, swin_split how)
{
    if (a->in == in && a->resized == resized && a->first == first && a->count == count && a->split == how)
        return SWIN_OK;
    if (in > MAX_IN)
        return swin_fail(SWIN_ERR_UNSUPPORTED, "%lld pixels along one side; the most is %lld", (long long)in,
                         (long long)MAX_IN);
    const double scale = (double)in / (double)resized;
    const int most = (int)ceil(2.0 * (scale < 1.0 ? 1.0 : scale)) * 2 + 1; /* samples in a window */
    double *w = malloc((size_t)most * sizeof *w);
    a->in = 0; /* until all is set, no call finds itself served */
    if (!w || reserve(a, count, (most + 3) / 4 * 4) != SWIN_OK) {
        free(w);
        return swin_fail(SWIN_ERR_MEM, "no memory for resampling weights");
    }
    a->in = in;
    a->resized = resized;
    a->first = first;
    a->count = count;
    a->split = how;
    set_windows(a, scale);
    memset(a->k, 0, (size_t)count * (size_t)a->taps * sizeof *a->k);
    for (int o = 0; o < count; o++) {
        weights(w, a->from[o], a->used[o], first + o, scale);
        for (int j = 0; j < a->used[o]; j++)
            a->k[(size_t)o * (size_t)a->taps + (size_t)j] = fixed_point(w[j]);
    }
    if (how == SWIN_SPLIT_WORDS) split_words(a);
    if (how == SWIN_SPLIT_DIGITS) split_digits(a);
    free(w);
    return SWIN_OK;
}
