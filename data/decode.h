/* data/decode.h - inside the data module: a decoder for each file format, which hands rows of RGB to a
 * sink.
 *
 * A decoder never holds the whole picture unless its format forces it to (interlaced PNG), so that memory
 * follows what the sink keeps and not what a hostile header claims.
 */
#ifndef SWIN_DATA_DECODE_H
#define SWIN_DATA_DECODE_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

/* Pixels [x0, x1) x [y0, y1) of the picture. */
typedef struct swin_region {
    int64_t x0, x1, y0, y1;
} swin_region;

typedef struct swin_sink {
    /*
     * The size is known. keep is the whole picture on entry; the sink may shrink it to what it needs, and
     * asks with *pad for that many readable bytes (of any value) after each row.
     */
    swin_status (*begin)(void *user, int64_t width, int64_t height, swin_region *keep, size_t *pad);
    /* Row y, y0 <= y < y1, in order: rgb holds pixels x0 to x1, 3 bytes each; valid until return. */
    void (*line)(void *user, int64_t y, const uint8_t *rgb);
    void *user;
} swin_sink;

/* Above this Pillow's Image.open raises DecompressionBombError. */
#define SWIN_IMAGE_MAX_PIXELS ((int64_t)2 * 89478485)

/* SWIN_ERR_FORMAT when the picture has no pixels or too many. */
swin_status swin_image_check_size(int64_t width, int64_t height);

/*
 * Decode a file of the format that its first bytes show. All of it is decoded, also outside the kept
 * region: what Pillow refuses to load is refused. warnings: libjpeg's count of recoverable faults, 0 for
 * the other formats.
 */
swin_status swin_decode(const uint8_t *bytes, size_t size, const swin_sink *sink, int *warnings);

swin_status swin_decode_jpeg(const uint8_t *bytes, size_t size, const swin_sink *sink, int *warnings);
swin_status swin_decode_png(const uint8_t *bytes, size_t size, const swin_sink *sink);
swin_status swin_decode_pnm(const uint8_t *bytes, size_t size, const swin_sink *sink);

#endif
