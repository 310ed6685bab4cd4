/* libjpeg-turbo with its defaults (accurate integer DCT, fancy upsampling), as Pillow uses it. */
#include "data/decode.h"

#include <setjmp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

typedef struct decoder {
    struct jpeg_decompress_struct cinfo;
    struct jpeg_error_mgr err;
    struct jpeg_source_mgr src;
    jmp_buf trap;
    bool exhausted;   /* libjpeg asked for bytes after the last one */
    bool all_rows;    /* what follows the picture is being read */
    uint8_t *block;   /* owned: where decoded is */
    uint8_t *decoded; /* one row as libjpeg gives it */
    uint8_t *rgb;     /* the same as RGB, where libjpeg cannot make that itself */
} decoder;

/* ---- callbacks of libjpeg ------------------------------------------------------------------------------ */

static void on_error(j_common_ptr c)
{
    char text[JMSG_LENGTH_MAX];
    decoder *d = (decoder *)c->client_data;
    c->err->format_message(c, text);
    swin_fail(SWIN_ERR_FORMAT, d->exhausted ? "JPEG: the file is truncated (%s)" : "JPEG: %s", text);
    longjmp(d->trap, 1);
}

static void on_message(j_common_ptr c)
{
    (void)c;
}
static void source_nothing(j_decompress_ptr c)
{
    (void)c;
}

/*
 * Pillow feeds libjpeg from a source that suspends; a file is truncated when the decoder asks for more
 * bytes than there are before the last row is out. Here an end marker is given instead (skipping rows needs
 * a source that never suspends), and the question is remembered.
 */
static boolean source_fill(j_decompress_ptr c)
{
    static const JOCTET end[2] = { 0xff, JPEG_EOI };
    ((decoder *)c->client_data)->exhausted = true;
    c->src->next_input_byte = end;
    c->src->bytes_in_buffer = sizeof end;
    return TRUE;
}

static void source_skip(j_decompress_ptr c, long n)
{
    if (n <= 0) return;
    if ((size_t)n > c->src->bytes_in_buffer) {
        source_fill(c);
        return;
    }
    c->src->next_input_byte += n;
    c->src->bytes_in_buffer -= (size_t)n;
}

/* ---- colours ------------------------------------------------------------------------------------------- */

static void gray_to_rgb(uint8_t *rgb, const uint8_t *gray, size_t n)
{
    for (size_t i = 0; i < n; i++) rgb[3 * i] = rgb[3 * i + 1] = rgb[3 * i + 2] = gray[i];
}

static unsigned times_255th(unsigned a, unsigned b) /* a * b / 255, rounded */
{
    const unsigned t = a * b + 128;
    return ((t >> 8) + t) >> 8;
}

/* Pillow takes every CMYK JPEG as inverted (Adobe's habit); black then scales the other three. */
static void inverted_cmyk_to_rgb(uint8_t *rgb, const uint8_t *cmyk, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const unsigned left = cmyk[4 * i + 3];
        for (int c = 0; c < 3; c++)
            rgb[3 * i + (size_t)c] = (uint8_t)(left - times_255th(255u - cmyk[4 * i + (size_t)c], left));
    }
}

static const uint8_t *to_rgb(const decoder *d)
{
    switch (d->cinfo.out_color_space) {
    case JCS_GRAYSCALE:
        gray_to_rgb(d->rgb, d->decoded, d->cinfo.output_width);
        return d->rgb;
    case JCS_CMYK:
        inverted_cmyk_to_rgb(d->rgb, d->decoded, d->cinfo.output_width);
        return d->rgb;
    default:
        return d->decoded;
    }
}

/* ---- decoding ------------------------------------------------------------------------------------------ */

static swin_status truncated(void)
{
    return swin_fail(SWIN_ERR_FORMAT, "JPEG: the file is truncated");
}

static swin_status read_header(decoder *d, const uint8_t *bytes, size_t size)
{
    struct jpeg_decompress_struct *c = &d->cinfo;
    jpeg_create_decompress(c);
    d->src = (struct jpeg_source_mgr){ .next_input_byte = bytes,
                                       .bytes_in_buffer = size,
                                       .init_source = source_nothing,
                                       .fill_input_buffer = source_fill,
                                       .skip_input_data = source_skip,
                                       .resync_to_restart = jpeg_resync_to_restart,
                                       .term_source = source_nothing };
    c->src = &d->src;
    jpeg_read_header(c, TRUE);
    if (d->exhausted) return truncated();
    switch (c->num_components) {
    case 1:
        c->out_color_space = JCS_GRAYSCALE;
        break;
    case 3:
        c->out_color_space = JCS_RGB;
        break;
    case 4:
        c->out_color_space = JCS_CMYK;
        break;
    default:
        return swin_fail(SWIN_ERR_FORMAT, "JPEG: %d colour components", c->num_components);
    }
    return swin_image_check_size(c->image_width, c->image_height);
}

/*
 * libjpeg-turbo writes a row that lies on a 32-byte boundary past the caches, from where the resize would
 * wait for it:
 * decoded is 16 bytes off such a boundary.
 */
static swin_status alloc_rows(decoder *d, size_t pad)
{
    const size_t row = (size_t)d->cinfo.output_width * (size_t)d->cinfo.output_components + pad;
    d->block = aligned_alloc(64, (16 + row + 63) / 64 * 64);
    d->rgb = malloc((size_t)d->cinfo.output_width * 3 + pad);
    if (!d->block || !d->rgb) return swin_fail(SWIN_ERR_MEM, "no memory for a row of the JPEG");
    d->decoded = d->block + 16;
    return SWIN_OK;
}

/*
 * Narrow the decoder to the kept columns; *x is the first column it then gives. At a cut libjpeg
 * interpolates the chroma of the outermost pixel without its neighbour: two pixels of margin keep that out
 * of sight. A file in several scans is decoded whole, since libjpeg smooths its unfinished coefficients
 * across blocks.
 */
static void crop_columns(decoder *d, const swin_region *keep, int64_t *x)
{
    struct jpeg_decompress_struct *c = &d->cinfo;
    const int64_t margin = 2 * c->max_h_samp_factor;
    const int64_t from = keep->x0 > margin ? keep->x0 - margin : 0;
    const int64_t to = keep->x1 + margin < c->output_width ? keep->x1 + margin : c->output_width;
    *x = 0;
    if (jpeg_has_multiple_scans(c) || to - from >= c->output_width) return;
    JDIMENSION first = (JDIMENSION)from, width = (JDIMENSION)(to - from);
    jpeg_crop_scanline(c, &first, &width);
    *x = first;
}

/* Rows that nobody needs: their bits are read (a truncated file must be noticed), their pixels not
 * computed. */
static void skip_rows(decoder *d, int64_t to)
{
    struct jpeg_decompress_struct *c = &d->cinfo;
    if (to > c->output_scanline) jpeg_skip_scanlines(c, (JDIMENSION)to - c->output_scanline);
}

static swin_status read_rows(decoder *d, const swin_sink *sink)
{
    struct jpeg_decompress_struct *c = &d->cinfo;
    swin_region keep = { 0, c->image_width, 0, c->image_height };
    size_t pad = 0;
    int64_t x;

    SWIN_TRY(sink->begin(sink->user, c->image_width, c->image_height, &keep, &pad));
    jpeg_start_decompress(c);
    if (d->exhausted) return truncated();
    crop_columns(d, &keep, &x);
    SWIN_TRY(alloc_rows(d, pad));
    const int64_t margin = c->max_v_samp_factor * DCTSIZE; /* rows whose neighbours the upsampling needs */
    skip_rows(d, keep.y0 - margin);
    while (c->output_scanline < keep.y1) {
        const int64_t y = c->output_scanline;
        jpeg_read_scanlines(c, &d->decoded, 1);
        if (y >= keep.y0 && !d->exhausted) sink->line(sink->user, y, to_rgb(d) + 3 * (keep.x0 - x));
    }
    skip_rows(d, (int64_t)c->output_height - 1);
    while (c->output_scanline < c->output_height) jpeg_read_scanlines(c, &d->decoded, 1);
    if (d->exhausted) return truncated();
    /* Pillow reads on to the end marker: nonsense on the way there is an error, a missing end is none. */
    d->all_rows = true;
    jpeg_finish_decompress(c);
    return SWIN_OK;
}

static swin_status decode(decoder *d, const uint8_t *bytes, size_t size, const swin_sink *sink)
{
    if (setjmp(d->trap)) return d->all_rows && d->exhausted ? SWIN_OK : SWIN_ERR_FORMAT;
    SWIN_TRY(read_header(d, bytes, size));
    return read_rows(d, sink);
}

swin_status swin_decode_jpeg(const uint8_t *bytes, size_t size, const swin_sink *sink, int *warnings)
{
    decoder d = { .exhausted = false };
    d.cinfo.err = jpeg_std_error(&d.err);
    d.err.error_exit = on_error;
    d.err.output_message = on_message;
    d.cinfo.client_data = &d;
    const swin_status st = decode(&d, bytes, size, sink);
    *warnings = d.err.num_warnings > INT32_MAX ? INT32_MAX : (int)d.err.num_warnings;
    jpeg_destroy_decompress(&d.cinfo);
    free(d.block);
    free(d.rgb);
    return st;
}
