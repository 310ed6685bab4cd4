#include "data/png_head.h"

#include <ctype.h>
#include <string.h>
#include <zlib.h>

enum { PALETTE_COLOUR = 3 /* IHDR's colour type */ };

uint32_t png_big32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

bool png_is_word(const uint8_t *name)
{
    for (int i = 0; i < 4; i++)
        if (!isalnum(name[i]) && name[i] != '_') return false;
    return true;
}

static uint32_t sum_of(const uint8_t *p, size_t n)
{
    return (uint32_t)crc32(crc32(0, NULL, 0), p, (uInt)n);
}

static void put32(uint8_t *p, size_t v)
{
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> (24 - 8 * i));
}

static void add_chunk(png_head *h, const char *name, const uint8_t *body, size_t n)
{
    uint8_t *p = h->bytes + h->size;
    put32(p, n);
    memcpy(p + 4, name, 4);
    memcpy(p + 8, body, n);
    put32(p + 8 + n, sum_of(p + 4, n + 4));
    h->size += n + PNG_HEAD_AROUND;
}

static void make_head(png_head *h, const uint8_t header[PNG_HEAD_IHDR])
{
    static const uint8_t signature[] = { 0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n' },
                         zeros[3 * PNG_HEAD_COLOURS];
    memcpy(h->bytes, signature, sizeof signature);
    h->size = sizeof signature;
    add_chunk(h, "IHDR", header, PNG_HEAD_IHDR);
    if (header[9] == PALETTE_COLOUR)
        add_chunk(h, "PLTE", zeros, header[8] < 8 ? (size_t)3 << header[8] : sizeof zeros);
}

static bool is_kind(int depth, int colour)
{
    static const uint8_t depths[7] = { 1 | 2 | 4 | 8 | 16, 0, 8 | 16, 1 | 2 | 4 | 8, 8 | 16, 0, 8 | 16 };
    return colour < 7 && depth > 0 && (depth & (depth - 1)) == 0 && (depths[colour] & depth);
}

/* The last header counts, but for a kind of pixels that there is not; once interlaced, always so; the compression method is not
 * looked at. */
static swin_status take_header(uint8_t header[PNG_HEAD_IHDR], const uint8_t *body, size_t length)
{
    if (length < PNG_HEAD_IHDR)
        return swin_fail(SWIN_ERR_FORMAT, "PNG: its header has only %zu bytes", length);
    if (body[11]) return swin_fail(SWIN_ERR_FORMAT, "PNG: unknown filter category %d", body[11]);
    const uint8_t interlaced = header[12] || body[12];
    memcpy(header, body, is_kind(body[8], body[9]) ? PNG_HEAD_IHDR : 8);
    header[10] = 0;
    header[12] = interlaced;
    return SWIN_OK;
}

static swin_status take_palette(png_head *h, const uint8_t *body, size_t length)
{
    h->palette = body;
    h->colours = length / 3;
    if (h->colours <= PNG_HEAD_COLOURS) return SWIN_OK;
    return swin_fail(SWIN_ERR_FORMAT, "PNG: a palette of %zu colours", h->colours);
}

/* Pillow refuses a bad checksum in any chunk before the pixels and asks for none in them. */
static swin_status take_chunk(png_head *h, uint8_t header[PNG_HEAD_IHDR], const uint8_t *name, size_t length)
{
    const uint8_t *body = name + 4;
    if (sum_of(name, length + 4) != png_big32(body + length))
        return swin_fail(SWIN_ERR_FORMAT, "PNG: bad checksum of the chunk %.4s", (const char *)name);
    if (memcmp(name, "IHDR", 4) == 0) return take_header(header, body, length);
    if (memcmp(name, "PLTE", 4) == 0 && header[9] == PALETTE_COLOUR) return take_palette(h, body, length);
    return SWIN_OK;
}

swin_status png_head_read(png_head *h, const uint8_t *bytes, size_t size)
{
    uint8_t header[PNG_HEAD_IHDR] = { 0 };
    *h = (png_head){ 0 };
    for (size_t at = 8; size - at >= PNG_HEAD_AROUND;) {
        const size_t length = png_big32(bytes + at);
        const uint8_t *name = bytes + at + 4;
        if (!png_is_word(name)) return swin_fail(SWIN_ERR_FORMAT, "PNG: a chunk without a name");
        if (memcmp(name, "IDAT", 4) == 0) {
            h->pixels = at;
            make_head(h, header);
            return SWIN_OK;
        }
        if (memcmp(name, "IEND", 4) == 0) return swin_fail(SWIN_ERR_FORMAT, "PNG: it has no pixels");
        if (length > size - at - PNG_HEAD_AROUND) break;
        SWIN_TRY(take_chunk(h, header, name, length));
        at += length + PNG_HEAD_AROUND;
    }
    return swin_fail(SWIN_ERR_FORMAT, "PNG: the file is truncated");
}
