/* make_images - the embedded demo's data set: ten drawn classes as JPEG files, in the layout of ImageNet.
 *
 * Folders:  DIR/<split>/<class>/<class>_00000.JPEG
 * --zip:    DIR/<split>.zip and DIR/<split>_map.txt, train's paths as <class>/<file>, val's bare, as the official sets have
 * Pictures depend on seed, split, class and number alone: a larger set begins with the smaller one.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <jpeglib.h> /* wants stdio.h before it */
#include <zip.h>

#include "runtime/base/field.h"
#include "runtime/base/file.h"
#include "runtime/base/rng.h"
#include "tests/demo/shapes.h"

typedef struct options {
    const char *output;
    int train, val, seed;
    double hardness;
    bool zip;
} options;

#define FIELD(name, kind, lo, hi, arg, help)                                                                 \
    {                                                                                                        \
#name, kind, offsetof(options, name), lo, hi, arg, help, NULL                                        \
    }
static const swin_field fields[] = {
    FIELD(output, SWIN_FIELD_STR, 0, 0, "DIR", "folder to fill; made if missing"),
    FIELD(train, SWIN_FIELD_INT, 0, 99999, "N", "training images in each class"),
    FIELD(val, SWIN_FIELD_INT, 0, 99999, "N", "validation images in each class"),
    FIELD(seed, SWIN_FIELD_INT, 0, 1 << 30, "N", "another seed, other pictures"),
    FIELD(hardness, SWIN_FIELD_DOUBLE, 0, 4, "X", "noise, clutter and size of the shapes"),
    FIELD(zip, SWIN_FIELD_BOOL, 0, 0, NULL, "zip files and map files instead of folders"),
};

typedef struct jpeg_error {
    struct jpeg_error_mgr base;
    jmp_buf back;
} jpeg_error;

static void jpeg_fail(j_common_ptr info)
{
    char text[JMSG_LENGTH_MAX];
    info->err->format_message(info, text);
    swin_fail(SWIN_ERR_IO, "JPEG: %s", text);
    longjmp(((jpeg_error *)info->err)->back, 1);
}

/* *bytes is malloc'd by libjpeg: free() it, after a failure as well. */
static swin_status encode(const demo_picture *p, unsigned char **bytes, unsigned long *size)
{
    struct jpeg_compress_struct c;
    jpeg_error error;
    c.err = jpeg_std_error(&error.base);
    error.base.error_exit = jpeg_fail;
    jpeg_create_compress(&c);
    if (setjmp(error.back)) {
        jpeg_destroy_compress(&c);
        return SWIN_ERR_IO;
    }
    jpeg_mem_dest(&c, bytes, size);
    c.image_width = (JDIMENSION)p->width;
    c.image_height = (JDIMENSION)p->height;
    c.input_components = 3;
    c.in_color_space = JCS_RGB;
    jpeg_set_defaults(&c);
    if (p->gray) jpeg_set_colorspace(&c, JCS_GRAYSCALE);
    jpeg_set_quality(&c, p->quality, TRUE);
    jpeg_start_compress(&c, TRUE);
    while (c.next_scanline < c.image_height) {
        JSAMPROW row = (JSAMPROW)(p->rgb + (size_t)c.next_scanline * c.image_width * 3);
        jpeg_write_scanlines(&c, &row, 1);
    }
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
    return SWIN_OK;
}

static swin_status make_folder(const char *path)
{
    if (mkdir(path, 0777) == 0 || errno == EEXIST) return SWIN_OK;
    return swin_fail(SWIN_ERR_IO, "%s: %s", path, strerror(errno));
}

/* Plain writes: a test's pictures need no flush to the disk. */
static swin_status write_bytes(const char *path, const unsigned char *bytes, size_t size)
{
    FILE *f = fopen(path, "wb");
    if (!f) return swin_fail(SWIN_ERR_IO, "%s: %s", path, strerror(errno));
    const bool written = fwrite(bytes, 1, size, f) == size;
    if (fclose(f) != 0 || !written) return swin_fail(SWIN_ERR_IO, "%s: cannot write", path);
    return SWIN_OK;
}

/* Where pictures go: a folder, or an archive with its map. */
typedef struct sink {
    const options *o;
    const char *split;
    bool bare;  /* names inside the zip carry no folder */
    zip_t *zip; /* NULL for a folder */
    FILE *map;
} sink;

static swin_status sink_add_zip(sink *s, int label, const char *file, unsigned char *bytes, size_t size)
{
    char name[512];
    if (s->bare)
        snprintf(name, sizeof name, "%s", file);
    else
        snprintf(name, sizeof name, "%s/%s", demo_class_names[label], file);
    zip_source_t *source = zip_source_buffer(s->zip, bytes, size, 1); /* takes the buffer when added */
    if (!source) {
        free(bytes);
        return swin_fail(SWIN_ERR_MEM, "%s: out of memory", name);
    }
    const zip_int64_t at = zip_file_add(s->zip, name, source, ZIP_FL_ENC_UTF_8);
    if (at < 0) {
        zip_source_free(source);
        return swin_fail(SWIN_ERR_IO, "%s: %s", name, zip_strerror(s->zip));
    }
    /* Stored, with one fixed time, so that equal pictures make equal archives. */
    zip_set_file_compression(s->zip, (zip_uint64_t)at, ZIP_CM_STORE, 0);
    zip_file_set_dostime(s->zip, (zip_uint64_t)at, 0, 0x21, 0);
    fprintf(s->map, "%s\t%d\n", name, label);
    return SWIN_OK;
}

static swin_status sink_add(sink *s, int label, int number, const demo_picture *p)
{
    unsigned char *bytes = NULL;
    unsigned long size = 0;
    swin_status st = encode(p, &bytes, &size);
    if (st != SWIN_OK) {
        free(bytes);
        return st;
    }
    char file[64];
    snprintf(file, sizeof file, "%s_%05d.JPEG", demo_class_names[label], number);
    if (s->zip) return sink_add_zip(s, label, file, bytes, size);

    char *path = swin_format("%s/%s/%s/%s", s->o->output, s->split, demo_class_names[label], file);
    st = path ? write_bytes(path, bytes, size) : swin_fail(SWIN_ERR_MEM, "out of memory");
    free(path);
    free(bytes);
    return st;
}

static swin_status sink_open_folder(sink *s)
{
    for (int label = -1; label < DEMO_CLASSES; label++) {
        char *path = label < 0 ? swin_format("%s/%s", s->o->output, s->split)
                               : swin_format("%s/%s/%s", s->o->output, s->split, demo_class_names[label]);
        const swin_status st = path ? make_folder(path) : swin_fail(SWIN_ERR_MEM, "out of memory");
        free(path);
        SWIN_TRY(st);
    }
    return SWIN_OK;
}

static swin_status sink_open_zip(sink *s)
{
    int code = 0;
    char *zip = swin_format("%s/%s.zip", s->o->output, s->split);
    char *map = swin_format("%s/%s_map.txt", s->o->output, s->split);
    if (zip) s->zip = zip_open(zip, ZIP_CREATE | ZIP_TRUNCATE, &code);
    if (map) s->map = fopen(map, "w");
    free(zip);
    free(map);
    if (s->zip && s->map) return SWIN_OK;
    return swin_fail(SWIN_ERR_IO, "%s: cannot write %s.zip and %s_map.txt", s->o->output, s->split, s->split);
}

static swin_status sink_close(sink *s, swin_status st)
{
    if (s->map && fclose(s->map) != 0 && st == SWIN_OK)
        st = swin_fail(SWIN_ERR_IO, "%s_map.txt: write", s->split);
    if (s->zip && st == SWIN_OK && zip_close(s->zip) == 0) return SWIN_OK;
    if (s->zip && st == SWIN_OK) st = swin_fail(SWIN_ERR_IO, "%s.zip: %s", s->split, zip_strerror(s->zip));
    if (s->zip) zip_discard(s->zip);
    return st;
}

static uint64_t picture_seed(const options *o, bool val, int label, int number)
{
    swin_rng r = { (uint64_t)o->seed << 33 | (uint64_t)val << 32 | (uint64_t)label << 24 };
    r.state = swin_rng_next(&r) + (uint64_t)number;
    return swin_rng_next(&r);
}

static swin_status make_split(const options *o, const char *split, bool val, int count)
{
    static demo_picture p;
    sink s = { .o = o, .split = split, .bare = val };
    swin_status st = o->zip ? sink_open_zip(&s) : sink_open_folder(&s);
    for (int label = 0; st == SWIN_OK && label < DEMO_CLASSES; label++)
        for (int i = 0; st == SWIN_OK && i < count; i++) {
            st = demo_draw(&p, label, picture_seed(o, val, label, i), o->hardness);
            if (st == SWIN_OK) st = sink_add(&s, label, i, &p);
        }
    return sink_close(&s, st);
}

static swin_status make(const options *o)
{
    SWIN_TRY(make_folder(o->output));
    if (o->train > 0) SWIN_TRY(make_split(o, "train", false, o->train));
    if (o->val > 0) SWIN_TRY(make_split(o, "val", true, o->val));
    printf("%s: %d training and %d validation images of %d classes\n", o->output, o->train * DEMO_CLASSES,
           o->val * DEMO_CLASSES, DEMO_CLASSES);
    return SWIN_OK;
}

int main(int argc, char **argv)
{
    options o = { .train = 40, .val = 100, .seed = 1, .hardness = 0.4 };
    const swin_program program = { "make_images", "draw the embedded demo's data set", fields,
                                   SWIN_COUNT(fields), NULL };
    swin_status st = swin_fields_parse(&program, &o, argc, argv, NULL, NULL);
    if (st == SWIN_OK && !o.output) st = swin_fail(SWIN_ERR_USAGE, "--output is required");
    return swin_report(st == SWIN_OK ? make(&o) : st);
}
