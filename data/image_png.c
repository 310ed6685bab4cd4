/* libpng, with the pixel rules of Pillow's convert("RGB"): alpha is dropped and not blended, 16-bit colour
 * keeps its high byte, 16-bit gray is cut off at 255, gamma and transparency chunks change nothing.
 * libpng sees a sound header (png_head.h) and the pixels. */
#include "data/decode.h"

#include <setjmp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <png.h>

#include "data/png_head.h"

typedef struct reader {
    const uint8_t *bytes;
    size_t size, at;
    png_head head;
    size_t head_at;
    size_t chunk;     /* where the next chunk begins */
    size_t last_data; /* where the file stood when the last row so far was unpacked */
    png_structp png;
    png_infop info;
    int64_t width, height;
    int depth, colour, passes;
    size_t row_bytes;
    swin_region keep;
    int64_t rows, unpacked; /* rows in the data, over all passes, and how many of them were complete */
    uint8_t palette[256][3];
    uint8_t *packed; /* one row as the file holds it, or all rows when interlaced */
    uint8_t *rgb;    /* one row */
} reader;

static void on_error(png_structp png, png_const_charp text)
{
    swin_fail(SWIN_ERR_FORMAT, "PNG: %s", text);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp text)
{
    (void)png;
    (void)text;
}

/* A chunk that is cut off is passed on as one of the length that is there: libpng, which asks for many bytes
 * at a time, then uses those that came. */
static void on_chunk_header(reader *r, uint8_t *header)
{
    const size_t length = png_big32(header), left = r->size - r->chunk - 8;
    r->chunk += 12 + length;
    if (length <= left) return;
    for (int i = 0; i < 4; i++) header[i] = (uint8_t)(left >> (24 - 8 * i));
}

static void on_read(png_structp png, png_bytep out, size_t n)
{
    reader *r = png_get_io_ptr(png);
    if (r->head_at < r->head.size) { /* libpng never reads beyond a chunk at once */
        if (n > r->head.size - r->head_at) png_error(png, "reads beyond the header");
        memcpy(out, r->head.bytes + r->head_at, n);
        r->head_at += n;
        return;
    }
    if (n > r->size - r->at) png_error(png, "the file is truncated");
    memcpy(out, r->bytes + r->at, n);
    if (n == 8 && r->at == r->chunk) on_chunk_header(r, out);
    r->at += n;
}

/* Called by libpng when a row is unpacked, before it looks at what follows. */
static void on_row(png_structp png, png_row_infop info, png_bytep data)
{
    reader *r = png_get_user_transform_ptr(png);
    (void)info;
    (void)data;
    r->unpacked++;
    r->last_data = r->at;
}

static int64_t rows_in_data(int64_t width, int64_t height, int passes)
{
    int64_t rows = 0;
    if (passes == 1) return height;
    for (int pass = 0; pass < passes; pass++)
        if (PNG_PASS_COLS(width, pass) > 0) rows += PNG_PASS_ROWS(height, pass);
    return rows;
}

/* After the last row Pillow leaves the rest of its chunk alone and steps over the others up to the end
 * marker: a body that is cut off is an error there, a header is none. */
static swin_status check_tail(const reader *r)
{
    size_t at = 8;
    bool behind = false;
    while (r->size - at >= 8 && memcmp(r->bytes + at + 4, "IEND", 4) != 0) {
        const size_t length = png_big32(r->bytes + at), left = r->size - at - 8;
        if (behind && !png_is_word(r->bytes + at + 4)) return SWIN_OK;
        if (behind && length > left) return swin_fail(SWIN_ERR_FORMAT, "PNG: the file is truncated");
        behind |= at + 8 + length >= r->last_data;
        if (length > left || left - length < 4) break;
        at += 12 + length;
    }
    return SWIN_OK;
}

/* An index past the palette's end is gray, as in Pillow's initial palette. */
static void load_palette(reader *r)
{
    for (int i = 0; i < 256; i++) memset(r->palette[i], i, 3);
    if (r->head.colours) memcpy(r->palette, r->head.palette, 3 * r->head.colours);
}

static unsigned sample(const uint8_t *row, size_t i, int depth) /* of 1, 2, 4 or 8 bits, as stored */
{
    const size_t bit = i * (size_t)depth;
    return row[bit / 8] >> (8 - depth - (int)(bit % 8)) & ((1u << depth) - 1);
}

static void gray_row(uint8_t *rgb, const uint8_t *row, const reader *r, size_t n)
{
    const unsigned spread = r->depth < 8 ? 255 / ((1u << r->depth) - 1) : 1;
    for (size_t i = 0; i < n; i++) {
        unsigned v;
        if (r->depth == 16)
            v = row[2 * i] ? 255 : row[2 * i + 1];
        else
            v = sample(row, i, r->depth) * spread;
        memset(rgb + 3 * i, (int)v, 3);
    }
}

/* channels values of 8 or 16 bits each: the first three, or the first one three times. */
static void colour_row(uint8_t *rgb, const uint8_t *row, const reader *r, size_t n, size_t channels)
{
    const size_t step = r->depth == 16 ? 2 : 1;
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < 3; c++) rgb[3 * i + c] = row[(i * channels + (channels < 3 ? 0 : c)) * step];
}

static void to_rgb(uint8_t *rgb, const uint8_t *row, const reader *r)
{
    const size_t n = (size_t)r->width;
    switch (r->colour) {
    case PNG_COLOR_TYPE_GRAY:
        gray_row(rgb, row, r, n);
        break;
    case PNG_COLOR_TYPE_PALETTE:
        for (size_t i = 0; i < n; i++) memcpy(rgb + 3 * i, r->palette[sample(row, i, r->depth)], 3);
        break;
    case PNG_COLOR_TYPE_GRAY_ALPHA:
        colour_row(rgb, row, r, n, 2);
        break;
    case PNG_COLOR_TYPE_RGB:
        colour_row(rgb, row, r, n, 3);
        break;
    default:
        colour_row(rgb, row, r, n, 4);
        break;
    }
}

static swin_status read_header(reader *r)
{
    png_set_crc_action(r->png, PNG_CRC_QUIET_USE, PNG_CRC_QUIET_USE);
    png_set_user_limits(r->png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
    png_set_read_fn(r->png, r, on_read);
    png_set_read_user_transform_fn(r->png, on_row);
    png_set_user_transform_info(r->png, r, 0, 0);
    png_read_info(r->png, r->info);
    r->width = png_get_image_width(r->png, r->info);
    r->height = png_get_image_height(r->png, r->info);
    r->depth = png_get_bit_depth(r->png, r->info);
    r->colour = png_get_color_type(r->png, r->info);
    r->passes = png_set_interlace_handling(r->png);
    r->rows = rows_in_data(r->width, r->height, r->passes);
    SWIN_TRY(swin_image_check_size(r->width, r->height));
    load_palette(r);
    png_read_update_info(r->png, r->info);
    r->row_bytes = png_get_rowbytes(r->png, r->info);
    return SWIN_OK;
}

static swin_status begin(reader *r, const swin_sink *sink)
{
    size_t pad = 0;
    r->keep = (swin_region){ 0, r->width, 0, r->height };
    SWIN_TRY(sink->begin(sink->user, r->width, r->height, &r->keep, &pad));
    r->packed = calloc(r->passes > 1 ? (size_t)r->height : 1, r->row_bytes);
    r->rgb = malloc((size_t)r->width * 3 + pad);
    return r->packed && r->rgb ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "no memory for the PNG's pixels");
}

static void give(reader *r, const swin_sink *sink, int64_t y, const uint8_t *row)
{
    if (y < r->keep.y0 || y >= r->keep.y1) return;
    to_rgb(r->rgb, row, r);
    sink->line(sink->user, y, r->rgb + 3 * r->keep.x0);
}

static void read_rows(reader *r, const swin_sink *sink)
{
    if (r->passes == 1) {
        for (int64_t y = 0; y < r->height; y++) {
            png_read_row(r->png, r->packed, NULL);
            give(r, sink, y, r->packed);
        }
        return;
    }
    for (int pass = 0; pass < r->passes; pass++)
        for (int64_t y = 0; y < r->height; y++)
            png_read_row(r->png, r->packed + (size_t)y * r->row_bytes, NULL);
}

/* What read_rows had in hand when libpng gave up behind the last row, or has left to give. */
static void give_rest(reader *r, const swin_sink *sink, bool gave_up)
{
    if (r->passes > 1)
        for (int64_t y = 0; y < r->height; y++) give(r, sink, y, r->packed + (size_t)y * r->row_bytes);
    else if (gave_up)
        give(r, sink, r->height - 1, r->packed);
}

static swin_status decode(reader *r, const swin_sink *sink)
{
    volatile bool gave_up = false;
    if (setjmp(png_jmpbuf(r->png))) {
        if (r->rows == 0 || r->unpacked < r->rows) return SWIN_ERR_FORMAT;
        gave_up = true; /* Pillow asks for no more of the compressed data than the last row needs */
    } else {
        SWIN_TRY(read_header(r));
        SWIN_TRY(begin(r, sink));
        read_rows(r, sink);
    }
    SWIN_TRY(check_tail(r));
    give_rest(r, sink, gave_up);
    return SWIN_OK;
}

swin_status swin_decode_png(const uint8_t *bytes, size_t size, const swin_sink *sink)
{
    swin_status st;
    reader r = { .bytes = bytes, .size = size };
    SWIN_TRY(png_head_read(&r.head, bytes, size));
    r.at = r.chunk = r.head.pixels;
    r.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, NULL, on_error, on_warning);
    r.info = r.png ? png_create_info_struct(r.png) : NULL;
    if (r.info)
        st = decode(&r, sink);
    else
        st = swin_fail(SWIN_ERR_MEM, "no memory for libpng");
    png_destroy_read_struct(&r.png, &r.info, NULL);
    free(r.packed);
    free(r.rgb);
    return st;
}
