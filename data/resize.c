/* The picture's rows in, the network's square out: rows are resampled as they come and kept only while an
 * output row needs them, so memory is a few rows whatever the picture's height. */
#include "data/resize.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "data/decode.h"
#include "data/image.h"

struct swin_resizer {
    const swin_passes *passes;
    const swin_preprocess *want; /* of the picture in work, as is the rest */
    uint8_t *out;
    int next; /* output row */
    swin_axis across, down;
    int64_t origin;  /* first column of the rows given */
    size_t row_size; /* bytes from one ring row to the next */
    int64_t ring_rows;
    uint8_t *ring; /* input row y, resampled across, is ring row y mod ring_rows */
    size_t ring_capacity;
    const uint8_t **rows; /* [ring_rows] for the vertical pass */
    size_t rows_capacity;
    uint8_t *copy; /* of rows at the end of a buffer that ends too early to be read past */
    size_t copy_capacity;
};

swin_status swin_resizer_create(swin_resizer **r)
{
    *r = calloc(1, sizeof **r);
    if (!*r) return swin_fail(SWIN_ERR_MEM, "no memory for the resizer");
    (*r)->passes = swin_passes_get(0);
    return SWIN_OK;
}

void swin_resizer_free(swin_resizer *r)
{
    if (!r) return;
    swin_axis_free(&r->across);
    swin_axis_free(&r->down);
    free(r->ring);
    free(r->rows);
    free(r->copy);
    free(r);
}

void swin_resizer_use(swin_resizer *r, const swin_passes *passes)
{
    r->passes = passes;
}

int swin_preprocess_short_side(int size)
{
    return (int)(256.0 / 224.0 * size);
}

/* The size after the resize: torchvision's rule, the long side cut off to an integer. */
static void resized_size(int64_t *w, int64_t *h, int64_t width, int64_t height, const swin_preprocess *p)
{
    const int64_t side = p->crop ? swin_preprocess_short_side(p->size) : p->size;
    *w = *h = side;
    if (!p->crop) return;
    if (width <= height)
        *h = (int64_t)((double)(side * height) / (double)width);
    else
        *w = (int64_t)((double)(side * width) / (double)height);
}

/* Half of what is left over, rounded half to even. */
static int64_t crop_offset(int64_t size, int crop)
{
    const int64_t left = size - crop, half = left / 2;
    return left % 2 && half % 2 ? half + 1 : half;
}

static bool resamples(const swin_axis *a)
{
    return a->in != a->resized;
}

/* The input samples that an axis reads: [*from, *to). */
static void needed(int64_t *from, int64_t *to, const swin_axis *a)
{
    *from = resamples(a) ? a->from[0] : a->first;
    *to = resamples(a) ? a->from[a->count - 1] + a->used[a->count - 1] : a->first + a->count;
}

/* Memory that only grows; contents are not kept. */
static swin_status grow(void **p, size_t *capacity, size_t need)
{
    if (need <= *capacity) return SWIN_OK;
    free(*p);
    *p = malloc(need);
    *capacity = *p ? need : 0;
    return *p ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "no memory for %zu bytes of rows", need);
}

static swin_status begin(void *user, int64_t width, int64_t height, swin_region *keep, size_t *pad)
{
    swin_resizer *r = user;
    const int size = r->want->size;
    int64_t w, h;
    resized_size(&w, &h, width, height, r->want);
    SWIN_TRY(swin_axis_set(&r->across, width, w, crop_offset(w, size), size, r->passes->split));
    SWIN_TRY(swin_axis_set(&r->down, height, h, crop_offset(h, size), size, SWIN_SPLIT_NONE));
    needed(&keep->x0, &keep->x1, &r->across);
    needed(&keep->y0, &keep->y1, &r->down);
    r->origin = keep->x0;
    r->next = 0;
    r->ring_rows = r->down.taps;
    r->row_size = ((size_t)size * 3 + SWIN_ROW_SLACK + 63) / 64 * 64;
    *pad = 12 * (size_t)r->across.taps + SWIN_ROW_SLACK;
    SWIN_TRY(grow((void **)&r->rows, &r->rows_capacity, (size_t)r->ring_rows * sizeof *r->rows));
    return grow((void **)&r->ring, &r->ring_capacity, (size_t)r->ring_rows * r->row_size);
}

static uint8_t *ring_row(swin_resizer *r, int64_t y)
{
    return r->ring + (size_t)(y % r->ring_rows) * r->row_size;
}

/* All output rows whose last input row is y. */
static void emit(swin_resizer *r, int64_t y)
{
    const swin_axis *a = &r->down;
    const size_t n = (size_t)r->want->size * 3;
    for (; r->next < a->count; r->next++) {
        const int64_t from = resamples(a) ? a->from[r->next] : a->first + r->next;
        const int used = resamples(a) ? a->used[r->next] : 1;
        uint8_t *out = r->out + (size_t)r->next * n;
        if (from + used - 1 > y) return;
        for (int j = 0; j < used; j++) r->rows[j] = ring_row(r, from + j);
        if (resamples(a))
            r->passes->vertical(out, r->rows, used, a->k + (size_t)r->next * (size_t)a->taps, n);
        else
            memcpy(out, r->rows[0], n);
    }
}

static void line(void *user, int64_t y, const uint8_t *rgb)
{
    swin_resizer *r = user;
    if (resamples(&r->across))
        r->passes->horizontal(ring_row(r, y), rgb, r->origin, &r->across);
    else
        memcpy(ring_row(r, y), rgb, (size_t)r->want->size * 3);
    emit(r, y);
}

static swin_status check_preprocess(const swin_preprocess *p)
{
    if (p->size >= 1 && p->size <= SWIN_IMAGE_MAX_SIZE) return SWIN_OK;
    return swin_fail(SWIN_ERR_VALUE, "image size %d: it must be 1 to %d", p->size, SWIN_IMAGE_MAX_SIZE);
}

swin_status swin_image_preprocess(swin_resizer *r, uint8_t *out, const swin_image *im,
                                  const swin_preprocess *p)
{
    swin_region keep;
    size_t pad;
    SWIN_TRY(check_preprocess(p));
    SWIN_TRY(swin_image_check_size(im->width, im->height));
    r->want = p;
    r->out = out;
    SWIN_TRY(begin(r, im->width, im->height, &keep, &pad));
    const size_t row = (size_t)im->width * 3, used = (size_t)(keep.x1 - keep.x0) * 3;
    const size_t end = row * (size_t)im->height;
    SWIN_TRY(grow((void **)&r->copy, &r->copy_capacity, used + pad));
    for (int64_t y = keep.y0; y < keep.y1; y++) {
        const size_t at = (size_t)y * row + (size_t)keep.x0 * 3;
        const bool last = end - at < used + pad;
        if (last) memcpy(r->copy, im->data + at, used);
        line(r, y, last ? r->copy : im->data + at);
    }
    return SWIN_OK;
}

swin_status swin_image_load(swin_resizer *r, uint8_t *out, const uint8_t *bytes, size_t size,
                            const swin_preprocess *p, int *warnings)
{
    int ignored;
    const swin_sink sink = { begin, line, r };
    SWIN_TRY(check_preprocess(p));
    r->want = p;
    r->out = out;
    return swin_decode(bytes, size, &sink, warnings ? warnings : &ignored);
}
