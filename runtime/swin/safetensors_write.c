#include "runtime/swin/safetensors_write.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/file.h"

static const char *dtype_name(swin_dtype t)
{
    switch (t) {
    case SWIN_F32:
        return "F32";
    case SWIN_F16:
        return "F16";
    case SWIN_BF16:
        return "BF16";
    case SWIN_S8:
        return "I8";
    case SWIN_U8:
        return "U8";
    case SWIN_S32:
        return "I32";
    case SWIN_F64:
        return "F64";
    case SWIN_S64:
        return "I64";
    }
    return NULL;
}

/* Bytes of one tensor. Dimensions are checked so that a sum over tensors cannot overflow either. */
static swin_status tensor_bytes(size_t *bytes, const swin_named_tensor *t)
{
    const size_t limit = (size_t)1 << 56;
    size_t n = swin_dtype_size(t->dtype);
    if (t->ndim < 0 || t->ndim > 8) return swin_fail(SWIN_ERR_VALUE, "%s: %d dimensions", t->name, t->ndim);
    for (int i = 0; i < t->ndim; i++) {
        if (t->shape[i] < 0 || (t->shape[i] > 0 && n > limit / (size_t)t->shape[i]))
            return swin_fail(SWIN_ERR_VALUE, "%s: dimension %" PRId64 " cannot be written", t->name,
                             t->shape[i]);
        n *= (size_t)t->shape[i];
    }
    *bytes = n;
    return SWIN_OK;
}

/* Our names are plain; one that JSON would have to escape is a mistake of the caller. */
static swin_status check_name(const char *name)
{
    for (const unsigned char *p = (const unsigned char *)name; *p; p++)
        if (*p < 0x20 || *p == '"' || *p == '\\')
            return swin_fail(SWIN_ERR_VALUE, "tensor name \"%s\" cannot be written", name);
    return SWIN_OK;
}

static swin_status write_header(FILE *f, const swin_named_tensor *tensors, size_t count)
{
    size_t at = 0, bytes;
    fputc('{', f);
    for (size_t i = 0; i < count; i++) {
        const swin_named_tensor *t = &tensors[i];
        SWIN_TRY(check_name(t->name));
        SWIN_TRY(tensor_bytes(&bytes, t));
        fprintf(f, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "", t->name, dtype_name(t->dtype));
        for (int d = 0; d < t->ndim; d++) fprintf(f, "%s%" PRId64, d ? "," : "", t->shape[d]);
        fprintf(f, "],\"data_offsets\":[%zu,%zu]}", at, at + bytes);
        at += bytes;
    }
    fputc('}', f);
    return SWIN_OK;
}

static void write_length(FILE *f, size_t n)
{
    for (int i = 0; i < 8; i++) fputc((int)(n >> 8 * i & 255), f);
}

swin_status swin_safetensors_write(const char *path, const swin_named_tensor *tensors, size_t count)
{
    char *header = NULL;
    size_t length = 0;
    swin_outfile out = { 0 };
    FILE *memory = open_memstream(&header, &length);
    if (!memory) return swin_fail(SWIN_ERR_MEM, "%s: no memory for its header", path);

    swin_status st = write_header(memory, tensors, count);
    /* Spaces up to a multiple of 8, so that every number of the data is aligned in a map of the file. */
    if (st == SWIN_OK && fflush(memory) == 0)
        for (size_t pad = (8 - length % 8) % 8; pad > 0; pad--) fputc(' ', memory);
    if (fclose(memory) != 0 && st == SWIN_OK)
        st = swin_fail(SWIN_ERR_MEM, "%s: no memory for its header", path);
    if (st != SWIN_OK) goto done;

    SWIN_TRY_GOTO(st, swin_outfile_open(&out, path), done);
    write_length(out.f, length);
    fwrite(header, 1, length, out.f);
    for (size_t i = 0; i < count; i++) {
        size_t bytes = 0;
        SWIN_TRY_GOTO(st, tensor_bytes(&bytes, &tensors[i]), done);
        if (bytes) fwrite(tensors[i].data, 1, bytes, out.f);
    }
    st = swin_outfile_commit(&out); /* finds any failed write */
done:
    swin_outfile_discard(&out);
    free(header);
    return st;
}
