/* data/image.h - one encoded file to RGB pixels, and Pillow's resize and crop to the byte.
 *
 * decode gives what Pillow's Image.open(f).convert("RGB") gives: JPEG through libjpeg-turbo's defaults
 * (grayscale, CMYK and YCCK too), PNG through libpng whatever the file is called (palette, alpha, 16 bits),
 * binary PPM and PGM of 8 bits; orientation tags ignored. Other formats (BMP, TIFF, GIF, WebP) are
 * SWIN_ERR_UNSUPPORTED and named.
 */
#ifndef SWIN_DATA_IMAGE_H
#define SWIN_DATA_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

typedef struct swin_image {
    uint8_t *data;     /* owned: RGB, interleaved, height * width * 3 bytes */
    int width, height; /* pixels */
    size_t capacity;   /* bytes allocated: the buffer is reused from image to image */
} swin_image;

void swin_image_free(swin_image *im); /* zeroes it; a zeroed struct is fine */

/*
 * Decode. warnings (may be NULL) receives libjpeg's count of recoverable faults: the pixels are still
 * Pillow's.
 * SWIN_ERR_FORMAT: what Pillow refuses too (truncated, not an image...), with the reason.
 */
swin_status swin_image_decode(swin_image *im, const uint8_t *bytes, size_t size, int *warnings);

#define SWIN_IMAGE_MAX_SIZE 4096 /* largest side of the network's input */

/* How a picture becomes the network's square input: reference/swin.md section 3. */
typedef struct swin_preprocess {
    int size;  /* side of the output, pixels */
    bool crop; /* true: short side to int(256/224 size), centre crop; false: squash to size x size */
} swin_preprocess;

/* The short side after the resize when crop is set: int(256/224 size). */
int swin_preprocess_short_side(int size);

/* "bicubic short side 256, centre crop 224": what the calibration file records. */
void swin_preprocess_text(const swin_preprocess *p, char *text, size_t n);

typedef struct swin_resizer swin_resizer; /* scratch memory and coefficient tables, one for each thread */
swin_status swin_resizer_create(swin_resizer **r);
void swin_resizer_free(swin_resizer *r); /* NULL is fine */

/* Pillow's bicubic resize and the centre crop into out, size * size * 3 bytes RGB interleaved. Only what
 * the crop keeps is computed. */
swin_status swin_image_preprocess(swin_resizer *r, uint8_t *out, const swin_image *im,
                                  const swin_preprocess *p);

/*
 * Decode and preprocess in one go, row by row: what the loader uses. The same bytes as swin_image_decode
 * and then swin_image_preprocess, but pixels outside the crop are not computed and the whole picture is
 * never held. Of one resizer, one thread at a time. Errors as swin_image_decode's.
 */
swin_status swin_image_load(swin_resizer *r, uint8_t *out, const uint8_t *bytes, size_t size,
                            const swin_preprocess *p, int *warnings);

/* out[3][size][size] = (u8 / 255 - mean) / std, float32, ImageNet's mean and deviation; bit-equal to
 * PyTorch's ToTensor and Normalize. */
void swin_image_normalise(float *out, const uint8_t *rgb, int size);

#endif
