/* PNG files that end too early or break the standard before their pixels: what Pillow still loads we load, pixel for pixel; what
 * it refuses we refuse. */
#include "tests/support/testing.h"

#include <png.h>
#include <string.h>
#include <zlib.h>

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

/* ---- what stands before the pixels ------------------------------------------------------------------------------ */

static void add_chunk(file *f, const char *name, const void *body, size_t n)
{
    uint8_t *p = f->bytes + f->size, *sum = p + 8 + n;
    assert_true(f->size + n + 12 <= sizeof f->bytes);
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(n >> (24 - 8 * i));
    memcpy(p + 4, name, 4);
    memcpy(p + 8, body, n);
    const uint32_t crc = (uint32_t)crc32(crc32(0, NULL, 0), p + 4, (uInt)n + 4);
    for (int i = 0; i < 4; i++) sum[i] = (uint8_t)(crc >> (24 - 8 * i));
    f->size += n + 12;
}

/* The file up to its IHDR and from its first IDAT on, with chunks between. */
static void with_chunks(file *out, const file *f, size_t idat, void (*add)(file *))
{
    memcpy(out->bytes, f->bytes, 33);
    out->size = 33;
    add(out);
    assert_true(out->size + f->size - idat <= sizeof out->bytes);
    memcpy(out->bytes + out->size, f->bytes + idat, f->size - idat);
    out->size += f->size - idat;
}

static void add_nothing(file *f)
{
    (void)f;
}
static void add_unknown(file *f)
{
    add_chunk(f, "ABCD", "xx", 2); /* critical, by its first letter */
}
static void add_word(file *f)
{
    add_chunk(f, "a1c_", "xx", 2);
}
static void add_broken_name(file *f)
{
    add_chunk(f,
              "a\x80"
              "cd",
              "xx", 2);
}
static void add_wrong_sum(file *f)
{
    add_chunk(f, "tEXt", "a", 2);
    f->bytes[f->size - 1] ^= 1;
}
static void add_header(file *f)
{
    uint8_t again[14];
    memcpy(again, f->bytes + 16, 13);
    again[10] = 1; /* no such compression method */
    again[13] = 9; /* and one byte too many */
    add_chunk(f, "IHDR", again, 14);
}
static void add_short_header(file *f)
{
    add_chunk(f, "IHDR", f->bytes + 16, 12);
}
static void add_filter(file *f)
{
    uint8_t again[13];
    memcpy(again, f->bytes + 16, 13);
    again[11] = 1;
    add_chunk(f, "IHDR", again, 13);
}
static void add_other_kind(file *f)
{
    uint8_t again[13];
    memcpy(again, f->bytes + 16, 13);
    again[8] = again[9] = 7;
    add_chunk(f, "IHDR", again, 13);
}
static void add_useless_palette(file *f)
{
    add_chunk(f, "PLTE", "12345", 5);
}

/* Pillow 9.4's answers, found by running it. */
static void test_before_the_pixels(void **state)
{
    static const struct {
        void (*add)(file *);
        bool refused;
    } cases[] = { { add_nothing, false },        { add_unknown, false },  { add_word, false },
                  { add_broken_name, true },     { add_wrong_sum, true }, { add_header, false },
                  { add_short_header, true },    { add_filter, true },    { add_other_kind, false },
                  { add_useless_palette, false } };
    static file f, g;
    swin_image whole = { 0 }, im = { 0 };
    (void)state;
    write_png(&f, PNG_INTERLACE_NONE);
    CHECK(memcmp(f.bytes + 37, "IDAT", 4) == 0, "something stands between IHDR and the pixels");
    CHECK_OK(swin_image_decode(&whole, f.bytes, f.size, NULL));
    for (size_t i = 0; i < SWIN_COUNT(cases); i++) {
        with_chunks(&g, &f, 33, cases[i].add);
        const swin_status st = swin_image_decode(&im, g.bytes, g.size, NULL);
        CHECK(st == (cases[i].refused ? SWIN_ERR_FORMAT : SWIN_OK), "case %zu: status %d: %s", i, (int)st,
              swin_error_message());
        CHECK(cases[i].refused || memcmp(whole.data, im.data, WIDTH * HEIGHT * 3) == 0,
              "case %zu: other pixels", i);
    }
    swin_image_free(&whole);
    swin_image_free(&im);
}

/* Indices into a palette of n bytes, in one row; the colours that the palette lacks are grays. */
static void check_palette(size_t n, bool refused)
{
    static file f;
    static const uint8_t ihdr[13] = { 0, 0, 0, 64, 0, 0, 0, 1, 8, 3, 0, 0, 0 };
    uint8_t palette[800], row[65] = { 0 }, packed[200];
    uLongf size = sizeof packed;
    swin_image im = { 0 };
    for (size_t i = 0; i < sizeof palette; i++) palette[i] = (uint8_t)(i * 37 + 11);
    for (int i = 0; i < 64; i++) row[1 + i] = (uint8_t)(i * 4 + 1);
    assert_int_equal(compress(packed, &size, row, sizeof row), Z_OK);
    memcpy(f.bytes, "\x89PNG\r\n\x1a\n", 8);
    f.size = 8;
    add_chunk(&f, "IHDR", ihdr, 13);
    if (n > 3) add_chunk(&f, "PLTE", "abcdefghi", 9); /* the last one counts */
    if (n > 0) add_chunk(&f, "PLTE", palette, n);
    add_chunk(&f, "IDAT", packed, size);
    add_chunk(&f, "IEND", "", 0);
    const swin_status st = swin_image_decode(&im, f.bytes, f.size, NULL);
    CHECK(st == (refused ? SWIN_ERR_FORMAT : SWIN_OK), "%zu bytes: status %d: %s", n, (int)st,
          swin_error_message());
    for (int i = 0; !refused && i < 64 * 3; i++) {
        const size_t index = (size_t)(i / 3) * 4 + 1, at = 3 * index + (size_t)(i % 3);
        const int want = index < n / 3 ? palette[at] : (int)index;
        CHECK(im.data[i] == want, "%zu bytes, value %d: %d instead of %d", n, i, im.data[i], want);
    }
    swin_image_free(&im);
}

static void test_palettes(void **state)
{
    static const size_t sizes[] = { 0, 1, 3, 47, 48, 50, 766, 768, 769, 770 };
    (void)state;
    for (size_t i = 0; i < SWIN_COUNT(sizes); i++) check_palette(sizes[i], false);
    check_palette(771, true);
    check_palette(800, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut_at_the_end),
        cmocka_unit_test(test_cut_behind_the_pixels),
        cmocka_unit_test(test_before_the_pixels),
        cmocka_unit_test(test_palettes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
