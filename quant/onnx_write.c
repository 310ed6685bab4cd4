#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quant/onnx_impl.h"
#include "runtime/base/file.h"

#define CHUNK_BYTES    ((size_t)1 << 18)
#define EXTERNAL_MIN   1024 /* smaller constants stay in the model: shapes are needed to infer others */
#define EXTERNAL_ALIGN 4096 /* a page: readers map the file */

/* ---- a constant's bytes --------------------------------------------------------------------------------------------- */

static swin_status write_constant(FILE *f, const onnx_constant *k, unsigned char **scratch,
                                  size_t *scratch_size)
{
    SWIN_TRY(swin_check_interrupt());
    if (k->data) {
        fwrite(k->data, 1, k->bytes, f);
        return SWIN_OK;
    }
    const swin_onnx_source *s = &k->source;
    const size_t row = s->cols * k->element, at_once = row < CHUNK_BYTES ? CHUNK_BYTES / row : 1;
    if (at_once * row > *scratch_size) {
        free(*scratch);
        *scratch_size = at_once * row;
        *scratch = malloc(*scratch_size);
        if (!*scratch) {
            *scratch_size = 0;
            return swin_fail(SWIN_ERR_MEM, "%s: no memory for %zu bytes of it", k->tensor.name,
                             at_once * row);
        }
    }
    for (size_t r = 0; r < s->rows; r += at_once) {
        const size_t n = s->rows - r < at_once ? s->rows - r : at_once;
        s->fill(*scratch, s->ctx, r, n);
        fwrite(*scratch, 1, n * row, f);
    }
    return SWIN_OK;
}

/* ---- the model, packed by protobuf-c into a file -------------------------------------------------------------------- */

/* protobuf-c packs depth first and hands out each field's bytes in order. A streamed constant's raw_data points at the
 * constant itself: seeing that address, in its turn, is the cue to stream the numbers instead. */
typedef struct file_buffer {
    ProtobufCBuffer base; /* first */
    FILE *f;
    swin_onnx *g;
    size_t next; /* the initializer expected next */
    unsigned char *scratch;
    size_t scratch_size;
    swin_status st;
} file_buffer;

static onnx_constant *constant_at(const swin_onnx *g, size_t i)
{
    return (onnx_constant *)g->graph.initializer[i];
}

static void append(ProtobufCBuffer *base, size_t len, const uint8_t *data)
{
    file_buffer *b = (file_buffer *)base;
    if (b->st != SWIN_OK) return;
    for (; b->next < b->g->graph.n_initializer && !constant_at(b->g, b->next)->tensor.has_raw_data; b->next++)
        continue;
    if (b->next < b->g->graph.n_initializer && data == (const uint8_t *)constant_at(b->g, b->next))
        b->st = write_constant(b->f, constant_at(b->g, b->next++), &b->scratch, &b->scratch_size);
    else
        fwrite(data, 1, len, b->f);
}

static swin_status write_model(swin_onnx *g, FILE *f)
{
    file_buffer b = { .base = { .append = append }, .f = f, .g = g };
    protobuf_c_message_pack_to_buffer(&g->model.base, &b.base);
    free(b.scratch);
    return b.st;
}

/* ---- where the constants go ----------------------------------------------------------------------------------------- */

static void keep_inside(swin_onnx *g)
{
    for (size_t i = 0; i < g->graph.n_initializer; i++) {
        onnx_constant *k = constant_at(g, i);
        k->tensor.has_raw_data = 1;
        k->tensor.raw_data = (ProtobufCBinaryData){ .len = k->bytes, .data = (uint8_t *)k };
    }
}

static void add_entry(swin_onnx *g, onnx_constant *k, const char *key, const char *value)
{
    if (k->tensor.external_data)
        k->tensor.external_data[k->tensor.n_external_data++] = onnx_entry(g, key, value);
}

/* Point a constant at its place in the data file. */
static void move_outside(swin_onnx *g, onnx_constant *k, const char *file, size_t offset)
{
    k->tensor.has_raw_data = 0;
    k->tensor.has_data_location = 1;
    k->tensor.data_location = ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL;
    k->tensor.n_external_data = 0;
    k->tensor.external_data = swin_onnx_alloc(g, 3 * sizeof *k->tensor.external_data);
    add_entry(g, k, "location", file);
    add_entry(g, k, "offset", swin_onnx_text(g, "%zu", offset));
    add_entry(g, k, "length", swin_onnx_text(g, "%zu", k->bytes));
}

static swin_status write_external(swin_onnx *g, FILE *f, const char *data_path)
{
    unsigned char *scratch = NULL;
    size_t scratch_size = 0, offset = 0;
    const char *slash = strrchr(data_path, '/');
    swin_status st = SWIN_OK;
    for (size_t i = 0; st == SWIN_OK && i < g->graph.n_initializer; i++) {
        onnx_constant *k = constant_at(g, i);
        if (k->bytes < EXTERNAL_MIN) continue;
        for (; offset % EXTERNAL_ALIGN; offset++) fputc(0, f);
        move_outside(g, k, slash ? slash + 1 : data_path, offset);
        st = write_constant(f, k, &scratch, &scratch_size);
        offset += k->bytes;
    }
    free(scratch);
    return st;
}

swin_status swin_onnx_write(swin_onnx *g, const char *path, size_t one_file)
{
    swin_outfile files[2] = { { 0 }, { 0 } }, *data = &files[0], *model = &files[1];
    char *data_path = NULL;
    swin_status st = SWIN_OK;
    if (g->out_of_memory) return swin_fail(SWIN_ERR_MEM, "%s: no memory for the graph", path);
    keep_inside(g);
    const bool external = protobuf_c_message_get_packed_size(&g->model.base) > one_file;
    if (external) {
        data_path = swin_format("%s.data", path);
        st = data_path ? swin_outfile_open(data, data_path)
                       : swin_fail(SWIN_ERR_MEM, "%s: no memory to write it", path);
        if (st == SWIN_OK) st = write_external(g, data->f, data_path);
        if (st == SWIN_OK && g->out_of_memory)
            st = swin_fail(SWIN_ERR_MEM, "%s: no memory for the graph", path);
    }
    if (st == SWIN_OK) st = swin_outfile_open(model, path);
    if (st == SWIN_OK) st = write_model(g, model->f);
    /* Together, so an old pair is never half replaced by a failed run. */
    if (st == SWIN_OK) st = swin_outfile_commit_all(external ? data : model, external ? 2 : 1);
    swin_outfile_discard(model);
    swin_outfile_discard(data);
    free(data_path);
    return st;
}
