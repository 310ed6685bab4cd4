/* Binary PGM (P5) and PPM (P6) of one byte a sample. */
#include "data/decode.h"

#include <math.h>
#include <stdlib.h>

typedef struct reader {
    const uint8_t *bytes;
    size_t size, at;
} reader;

static int is_space(int c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* The next number of the header; comments run from '#' to the end of the line. -1: there is none. */
static int64_t next_number(reader *r)
{
    int64_t v = 0;
    size_t digits = 0;
    while (r->at < r->size && (is_space(r->bytes[r->at]) || r->bytes[r->at] == '#')) {
        if (r->bytes[r->at] == '#')
            while (r->at < r->size && r->bytes[r->at] != '\n' && r->bytes[r->at] != '\r') r->at++;
        else
            r->at++;
    }
    for (; r->at < r->size && r->bytes[r->at] >= '0' && r->bytes[r->at] <= '9'; r->at++, digits++)
        if (digits < 10) v = v * 10 + (r->bytes[r->at] - '0');
    return digits > 0 && digits <= 10 ? v : -1;
}

/* As Pillow scales it. */
static uint8_t scale_sample(unsigned v, unsigned most)
{
    const double scaled = nearbyint((double)v / most * 255);
    return (uint8_t)(scaled < 255 ? scaled : 255);
}

swin_status swin_decode_pnm(const uint8_t *bytes, size_t size, const swin_sink *sink)
{
    reader r = { bytes, size, 2 };
    const size_t channels = bytes[1] == '6' ? 3 : 1;
    const int64_t width = next_number(&r), height = next_number(&r), most = next_number(&r);
    swin_region keep = { 0, width, 0, height };
    size_t pad = 0;

    if (width < 0 || height < 0 || most < 1 || most > 65535 || r.at >= size || !is_space(bytes[r.at]))
        return swin_fail(SWIN_ERR_FORMAT, "%s: bad header", channels == 3 ? "PPM" : "PGM");
    if (most > 255)
        return swin_fail(SWIN_ERR_UNSUPPORTED, "%s with two bytes a sample", channels == 3 ? "PPM" : "PGM");
    SWIN_TRY(swin_image_check_size(width, height));
    const uint8_t *pixels = bytes + r.at + 1;
    const size_t row = (size_t)width * channels;
    if ((size - r.at - 1) / row < (size_t)height) return swin_fail(SWIN_ERR_FORMAT, "the file is truncated");
    SWIN_TRY(sink->begin(sink->user, width, height, &keep, &pad));
    uint8_t *rgb = malloc((size_t)width * 3 + pad);
    if (!rgb) return swin_fail(SWIN_ERR_MEM, "no memory for a row of the picture");
    uint8_t scaled[256];
    for (unsigned v = 0; v < 256; v++) scaled[v] = scale_sample(v, (unsigned)most);
    for (int64_t y = keep.y0; y < keep.y1; y++) {
        const uint8_t *in = pixels + (size_t)y * row;
        for (size_t i = 0; i < (size_t)width * 3; i++) rgb[i] = scaled[channels == 3 ? in[i] : in[i / 3]];
        sink->line(sink->user, y, rgb + 3 * keep.x0);
    }
    free(rgb);
    return SWIN_OK;
}
