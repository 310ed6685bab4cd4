/* data/png_head.h - what stands before a PNG's pixels, read by Pillow's rules.
 *
 * They forgive more than libpng's: a palette that is missing, odd or there twice, chunks out of order or of unknown critical
 * kinds, a longer header, a second one. So libpng gets a sound header made here.
 */
#ifndef SWIN_DATA_PNG_HEAD_H
#define SWIN_DATA_PNG_HEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

enum { PNG_HEAD_IHDR = 13, PNG_HEAD_AROUND = 12 /* bytes around a chunk's body */, PNG_HEAD_COLOURS = 256 };

typedef struct png_head {
    /* Signature, IHDR and, for a picture with a palette, one of zeros: its colours are below. */
    uint8_t bytes[8 + PNG_HEAD_AROUND + PNG_HEAD_IHDR + PNG_HEAD_AROUND + 3 * PNG_HEAD_COLOURS];
    size_t size;
    const uint8_t *palette; /* in the file: colours of 3 bytes */
    size_t colours;
    size_t pixels; /* where the first IDAT chunk begins in the file */
} png_head;

/* bytes begin with a PNG's signature. SWIN_ERR_FORMAT: Pillow refuses it too. */
swin_status png_head_read(png_head *h, const uint8_t *bytes, size_t size);

uint32_t png_big32(const uint8_t *p);
bool png_is_word(const uint8_t *name); /* four letters, digits or underscores, as a chunk's name */

#endif
