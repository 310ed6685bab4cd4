/* PNG files that end too early: what Pillow still loads we load, pixel for pixel; what it refuses we refuse. */
#include "tests/support/testing.h"

#include <png.h>
#include <string.h>

#include "data/image.h"

enum { WIDTH = 37, HEIGHT = 29, TAIL = 20 }; /* TAIL: zlib's sum, the chunk's sum, the end marker */

typedef struct file {
    uint8_t bytes[16384];
    size_t size;
} file;

static void on_write(png_structp png, png_bytep data, size_t n)
{
    file *f = png_get_io_ptr(png);
    assert_true(f->size + n <= sizeof f->bytes);
    memcpy(f->bytes + f->size, data, n);
    f->size += n;
}

static void write_png(file *f, int interlace)
{
    uint8_t pixels[HEIGHT][WIDTH * 3];
    png_bytep rows[HEIGHT];
    for (int y = 0; y < HEIGHT; y++) {
        rows[y] = pixels[y];
        for (int i = 0; i < WIDTH * 3; i++) pixels[y][i] = (uint8_t)(y * 91 + i * i * 7);
    }
    f->size = 0;
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    png_set_write_fn(png, f, on_write, NULL);
    png_set_IHDR(png, info, WIDTH, HEIGHT, 8, PNG_COLOR_TYPE_RGB, interlace, PNG_COMPRESSION_TYPE_BASE,
                 PNG_FILTER_TYPE_BASE);
    png_write_info(png, info);
    png_write_image(png, rows);
    png_write_end(png, info);
    png_destroy_write_struct(&png, &info);
}

static void check_cuts(int interlace)
{
    static file f;
    swin_image whole = { 0 }, cut = { 0 };
    write_png(&f, interlace);
    CHECK_OK(swin_image_decode(&whole, f.bytes, f.size, NULL));
    for (size_t n = 1; n <= TAIL; n++) {
        CHECK_OK(swin_image_decode(&cut, f.bytes, f.size - n, NULL));
        CHECK(memcmp(whole.data, cut.data, WIDTH * HEIGHT * 3) == 0, "interlace %d, cut by %zu: other pixels",
              interlace, n);
    }
    for (size_t n = TAIL + 100; n < f.size; n += 97)
        CHECK(swin_image_decode(&cut, f.bytes, f.size - n, NULL) == SWIN_ERR_FORMAT,
              "interlace %d, cut by %zu: not refused", interlace, n);
    swin_image_free(&whole);
    swin_image_free(&cut);
}

static void test_cut_at_the_end(void **state)
{
    (void)state;
    check_cuts(PNG_INTERLACE_NONE);
    check_cuts(PNG_INTERLACE_ADAM7);
}

/* A chunk behind the pixels: its cut body is refused, its cut header is not looked at. */
static void test_cut_behind_the_pixels(void **state)
{
    static const uint8_t chunk[] = { 0, 0, 0, 5, 't', 'E', 'X', 't', 'k', 0, 'v', 'v', 'v', 0, 0, 0, 0 };
    static file f;
    swin_image im = { 0 };
    (void)state;
    write_png(&f, PNG_INTERLACE_NONE);
    const size_t end = f.size - 12;
    memcpy(f.bytes + end, chunk, sizeof chunk);
    for (size_t n = 0; n <= sizeof chunk; n++) {
        const bool refused = n >= 8 && n < 13;
        const swin_status st = swin_image_decode(&im, f.bytes, end + n, NULL);
        CHECK(st == (refused ? SWIN_ERR_FORMAT : SWIN_OK), "%zu bytes of the chunk: status %d", n, (int)st);
    }
    swin_image_free(&im);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut_at_the_end),
        cmocka_unit_test(test_cut_behind_the_pixels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
