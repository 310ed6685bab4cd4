/* A network's parameters to a .safetensors file. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/base/file.h"
#include "runtime/swin/checkpoint.h"

static void print_header(FILE *f, const swin_param *list, size_t n)
{
    uint64_t at = 0;
    fprintf(f, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = 0; i < n; i++) {
        fprintf(f, ",\"%s\":{\"dtype\":\"F32\",\"shape\":[", list[i].key);
        for (int d = 0; d < list[i].ndim; d++) fprintf(f, "%s%" PRId64, d ? "," : "", list[i].shape[d]);
        fprintf(f, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", at, at + 4 * list[i].count);
        at += 4 * list[i].count;
    }
    fprintf(f, "}");
}

static swin_status write_safetensors(FILE *f, const char *path, const swin_param *list, size_t n)
{
    char *header = NULL;
    size_t size = 0;
    FILE *text = open_memstream(&header, &size);
    if (!text) return swin_fail(SWIN_ERR_MEM, "%s: no memory", path);
    print_header(text, list, n);
    if (fclose(text) != 0 || !header) {
        free(header);
        return swin_fail(SWIN_ERR_MEM, "%s: no memory", path);
    }
    const size_t pad = (8 - size % 8) % 8; /* tensors start at a multiple of 8 */
    for (int i = 0; i < 8; i++) putc((int)((uint64_t)(size + pad) >> (8 * i) & 255), f);
    fprintf(f, "%s%*s", header, (int)pad, "");
    free(header);
    for (size_t i = 0; i < n; i++) fwrite(*list[i].slot, sizeof(float), list[i].count, f);
    return SWIN_OK; /* the commit looks at f's error flag */
}

swin_status swin_weights_save(const swin_weights *w, const swin_config *c, const char *path)
{
    swin_weights view = *w;
    swin_param *list = NULL;
    size_t n = 0;
    swin_outfile out = { 0 };
    swin_status st;
    SWIN_TRY_GOTO(st, swin_weights_list(c, &view, &list, &n), done);
    SWIN_TRY_GOTO(st, swin_outfile_open(&out, path), done);
    SWIN_TRY_GOTO(st, write_safetensors(out.f, path, list, n), done);
    st = swin_outfile_commit(&out);
done:
    swin_outfile_discard(&out);
    free(list);
    return st;
}
