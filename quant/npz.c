#include "quant/npz.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zip.h>

#include "runtime/base/file.h"

#define NPY_ALIGN 64

static const char *dtype_descr(swin_dtype t)
{
    switch (t) {
    case SWIN_F32:
        return "<f4";
    case SWIN_F16:
        return "<f2";
    case SWIN_F64:
        return "<f8";
    case SWIN_S8:
        return "|i1";
    case SWIN_U8:
        return "|u1";
    case SWIN_S32:
        return "<i4";
    case SWIN_S64:
        return "<i8";
    case SWIN_BF16:
        break;
    }
    return NULL;
}

/* The .npy header (version 1.0) and the size of the data behind it. */
static swin_status npy_header(char **header, size_t *length, size_t *bytes, const swin_named_tensor *t)
{
    const char *descr = dtype_descr(t->dtype);
    if (!descr)
        return swin_fail(SWIN_ERR_UNSUPPORTED, "%s: NumPy has no %s", t->name, swin_dtype_name(t->dtype));
    char shape[8 * 21 + 1] = "";
    size_t n = swin_dtype_size(t->dtype), at = 0;
    for (int i = 0; i < t->ndim; i++) {
        n *= (size_t)t->shape[i];
        at += (size_t)snprintf(shape + at, sizeof shape - at, i ? " %" PRId64 "," : "%" PRId64 ",",
                               t->shape[i]);
    }
    if (t->ndim > 1) shape[at - 1] = 0; /* a tuple's last comma is only for tuples of one */
    char *text = swin_format("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", descr, shape);
    if (!text) return swin_fail(SWIN_ERR_MEM, "%s: no memory for its header", t->name);

    const size_t used = 10 + strlen(text) + 1, whole = (used + NPY_ALIGN - 1) / NPY_ALIGN * NPY_ALIGN;
    *header = malloc(whole);
    if (*header) {
        memset(*header, ' ', whole);
        memcpy(*header, "\x93NUMPY\x01\x00", 8);
        (*header)[8] = (char)((whole - 10) & 255);
        (*header)[9] = (char)((whole - 10) >> 8);
        memcpy(*header + 10, text, strlen(text));
        (*header)[whole - 1] = '\n';
    }
    free(text);
    *length = whole;
    *bytes = n;
    return *header ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "%s: no memory for its header", t->name);
}

swin_status swin_npy_write(const char *path, const swin_named_tensor *t)
{
    char *header = NULL;
    size_t length, bytes;
    swin_outfile out = { 0 };
    SWIN_TRY(npy_header(&header, &length, &bytes, t));
    swin_status st = swin_outfile_open(&out, path);
    if (st == SWIN_OK) {
        fwrite(header, 1, length, out.f);
        if (bytes) fwrite(t->data, 1, bytes, out.f);
        st = swin_outfile_commit(&out);
    }
    free(header);
    return st;
}

/* A member as libzip reads it: the header, then the caller's numbers; nothing is copied. */
typedef struct member {
    char *header; /* owned */
    size_t length, bytes, at;
    const char *data;
} member;

static zip_int64_t member_read(member *m, char *to, zip_uint64_t room)
{
    const size_t left = m->length + m->bytes - m->at;
    const size_t n = room < left ? (size_t)room : left;
    for (size_t done = 0; done < n;) {
        const bool in_header = m->at < m->length;
        const char *from = in_header ? m->header + m->at : m->data + (m->at - m->length);
        size_t part = n - done;
        if (in_header && part > m->length - m->at) part = m->length - m->at;
        memcpy(to + done, from, part);
        m->at += part;
        done += part;
    }
    return (zip_int64_t)n;
}

static zip_int64_t member_source(void *user, void *data, zip_uint64_t len, zip_source_cmd_t cmd)
{
    member *m = user;
    switch (cmd) {
    case ZIP_SOURCE_OPEN:
        m->at = 0;
        return 0;
    case ZIP_SOURCE_READ:
        return member_read(m, data, len);
    case ZIP_SOURCE_STAT: {
        zip_stat_t *s = data;
        zip_stat_init(s);
        s->size = s->comp_size = m->length + m->bytes;
        s->comp_method = ZIP_CM_STORE;
        s->mtime = 315619200; /* 1980-01-02: the first day that every time zone can write */
        s->valid = ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE | ZIP_STAT_COMP_METHOD | ZIP_STAT_MTIME;
        return sizeof *s;
    }
    case ZIP_SOURCE_ERROR:
        memset(data, 0, 2 * sizeof(int));
        return 2 * sizeof(int);
    case ZIP_SOURCE_SUPPORTS:
        return zip_source_make_command_bitmap(ZIP_SOURCE_OPEN, ZIP_SOURCE_READ, ZIP_SOURCE_CLOSE,
                                              ZIP_SOURCE_STAT, ZIP_SOURCE_ERROR, ZIP_SOURCE_FREE, -1);
    default:
        return 0; /* CLOSE, FREE: the array of members outlives the archive */
    }
}

static swin_status add_member(zip_t *z, member *m, const char *path, const swin_named_tensor *t)
{
    SWIN_TRY(npy_header(&m->header, &m->length, &m->bytes, t));
    m->data = t->data;
    char *name = swin_format("%s.npy", t->name);
    zip_source_t *source = zip_source_function(z, member_source, m);
    const zip_int64_t index = name && source ? zip_file_add(z, name, source, ZIP_FL_ENC_UTF_8) : -1;
    free(name);
    if (index < 0) {
        zip_source_free(source);
        return swin_fail(SWIN_ERR_IO, "%s: %s: %s", path, t->name, zip_strerror(z));
    }
    if (zip_set_file_compression(z, (zip_uint64_t)index, ZIP_CM_STORE, 0) != 0 ||
        /* 1980-01-01 as the zip itself spells it: no clock, no time zone */
        zip_file_set_dostime(z, (zip_uint64_t)index, 0, 0x21, 0) != 0)
        return swin_fail(SWIN_ERR_IO, "%s: %s: %s", path, t->name, zip_strerror(z));
    return SWIN_OK;
}

swin_status swin_npz_write(const char *path, const swin_named_tensor *tensors, size_t count)
{
    swin_status st = SWIN_OK;
    zip_t *z = NULL;
    int error = 0;
    char *tmp = swin_format("%s.tmp", path);
    member *members = calloc(count ? count : 1, sizeof *members);
    if (!tmp || !members) {
        st = swin_fail(SWIN_ERR_MEM, "%s: no memory to write it", path);
        goto done;
    }
    z = zip_open(tmp, ZIP_CREATE | ZIP_TRUNCATE, &error);
    if (!z) {
        zip_error_t e;
        zip_error_init_with_code(&e, error);
        st = swin_fail(SWIN_ERR_IO, "%s: cannot write: %s", path, zip_error_strerror(&e));
        zip_error_fini(&e);
        goto done;
    }
    for (size_t i = 0; i < count; i++) SWIN_TRY_GOTO(st, add_member(z, &members[i], path, &tensors[i]), done);
    if (zip_close(z) != 0) { /* everything is read and written here */
        st = swin_fail(SWIN_ERR_IO, "%s: cannot write: %s", path, zip_strerror(z));
        goto done;
    }
    z = NULL;
    st = swin_commit_tmp(tmp, path);
done:
    if (z) zip_discard(z);
    for (size_t i = 0; members && i < count; i++) free(members[i].header);
    free(members);
    free(tmp);
    return st;
}
