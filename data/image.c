#include "data/image.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/decode.h"

/* What a file is by its first bytes: its extension is not asked, as Pillow does not ask it. */
typedef enum file_kind { KIND_JPEG, KIND_PNG, KIND_PNM, KIND_KNOWN, KIND_UNKNOWN } file_kind;

static const struct {
    const char *magic;
    size_t size;
    file_kind kind;
    const char *name;
} kinds[] = {
    { "\xff\xd8\xff", 3, KIND_JPEG, "JPEG" },
    { "\x89PNG\r\n\x1a\n", 8, KIND_PNG, "PNG" },
    { "P5", 2, KIND_PNM, "PGM" },
    { "P6", 2, KIND_PNM, "PPM" },
    { "P1", 2, KIND_KNOWN, "plain-text PBM" },
    { "P2", 2, KIND_KNOWN, "plain-text PGM" },
    { "P3", 2, KIND_KNOWN, "plain-text PPM" },
    { "P4", 2, KIND_KNOWN, "PBM" },
    { "BM", 2, KIND_KNOWN, "BMP" },
    { "GIF8", 4, KIND_KNOWN, "GIF" },
    { "II*\0", 4, KIND_KNOWN, "TIFF" },
    { "MM\0*", 4, KIND_KNOWN, "TIFF" },
    { "RIFF", 4, KIND_KNOWN, "WebP" },
};

swin_status swin_image_check_size(int64_t width, int64_t height)
{
    if (width < 1 || height < 1)
        return swin_fail(SWIN_ERR_FORMAT, "no pixels: %lld x %lld", (long long)width, (long long)height);
    if (width > SWIN_IMAGE_MAX_PIXELS / height)
        return swin_fail(SWIN_ERR_FORMAT, "%lld x %lld pixels: more than Pillow's limit of %lld",
                         (long long)width, (long long)height, (long long)SWIN_IMAGE_MAX_PIXELS);
    return SWIN_OK;
}

swin_status swin_decode(const uint8_t *bytes, size_t size, const swin_sink *sink, int *warnings)
{
    *warnings = 0;
    if (size == 0) return swin_fail(SWIN_ERR_FORMAT, "empty file");
    for (size_t i = 0; i < SWIN_COUNT(kinds); i++) {
        if (size < kinds[i].size || memcmp(bytes, kinds[i].magic, kinds[i].size) != 0) continue;
        switch (kinds[i].kind) {
        case KIND_JPEG:
            return swin_decode_jpeg(bytes, size, sink, warnings);
        case KIND_PNG:
            return swin_decode_png(bytes, size, sink);
        case KIND_PNM:
            return swin_decode_pnm(bytes, size, sink);
        default:
            return swin_fail(SWIN_ERR_UNSUPPORTED,
                             "a %s file: only JPEG, PNG and binary PPM and PGM are read", kinds[i].name);
        }
    }
    return swin_fail(SWIN_ERR_FORMAT, "not an image: it begins like no known format");
}

void swin_image_free(swin_image *im)
{
    free(im->data);
    *im = (swin_image){ 0 };
}

static swin_status image_begin(void *user, int64_t width, int64_t height, swin_region *keep, size_t *pad)
{
    swin_image *im = user;
    const size_t need = (size_t)(width * height) * 3;
    (void)keep;
    (void)pad;
    if (need > im->capacity) {
        uint8_t *data = malloc(need);
        if (!data)
            return swin_fail(SWIN_ERR_MEM, "no memory for %lld x %lld pixels", (long long)width,
                             (long long)height);
        free(im->data);
        im->data = data;
        im->capacity = need;
    }
    im->width = (int)width;
    im->height = (int)height;
    return SWIN_OK;
}

static void image_line(void *user, int64_t y, const uint8_t *rgb)
{
    swin_image *im = user;
    const size_t row = (size_t)im->width * 3;
    memcpy(im->data + (size_t)y * row, rgb, row);
}

swin_status swin_image_decode(swin_image *im, const uint8_t *bytes, size_t size, int *warnings)
{
    int ignored;
    const swin_sink sink = { image_begin, image_line, im };
    return swin_decode(bytes, size, &sink, warnings ? warnings : &ignored);
}

void swin_preprocess_text(const swin_preprocess *p, char *text, size_t n)
{
    if (p->crop)
        snprintf(text, n, "bicubic short side %d, centre crop %d", swin_preprocess_short_side(p->size),
                 p->size);
    else
        snprintf(text, n, "bicubic %d x %d, aspect ratio ignored", p->size, p->size);
}
