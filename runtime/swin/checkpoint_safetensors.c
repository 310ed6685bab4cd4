/* .safetensors: a 64-bit header size, a JSON header, then the tensors' bytes side by side. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/log.h"
#include "runtime/swin/checkpoint_impl.h"

#define MAX_HEADER ((uint64_t)32 << 20) /* bytes: room for some 200,000 tensors */

static const struct {
    const char *name;
    size_t size;
    bool known;
    swin_dtype dtype;
} dtypes[] = {
    { "F32", 4, true, SWIN_F32 }, { "F16", 2, true, SWIN_F16 },     { "BF16", 2, true, SWIN_BF16 },
    { "F64", 8, true, SWIN_F64 }, { "I64", 8, true, SWIN_S64 },     { "I32", 4, true, SWIN_S32 },
    { "I8", 1, true, SWIN_S8 },   { "U8", 1, true, SWIN_U8 },       { "BOOL", 1, true, SWIN_U8 },
    { "I16", 2, false, SWIN_U8 }, { "U16", 2, false, SWIN_U8 },     { "U32", 4, false, SWIN_U8 },
    { "U64", 8, false, SWIN_U8 }, { "F8_E4M3", 1, false, SWIN_U8 }, { "F8_E5M2", 1, false, SWIN_U8 },
};

typedef struct span {
    uint64_t from, to;
} span;

static int find_dtype(const json_t *v)
{
    for (size_t i = 0; json_is_string(v) && i < SWIN_COUNT(dtypes); i++)
        if (strcmp(json_string_value(v), dtypes[i].name) == 0) return (int)i;
    return -1;
}

/* Dimensions with the strides of a dense tensor; false when they are no dimensions or their product overflows. */
static bool read_shape(swin_ckpt_tensor *t, const json_t *v, uint64_t *count)
{
    if (!json_is_array(v) || json_array_size(v) > SWIN_COUNT(t->shape)) return false;
    t->ndim = (int)json_array_size(v);
    *count = 1;
    for (int i = t->ndim - 1; i >= 0; i--) {
        const json_t *d = json_array_get(v, (size_t)i);
        if (!json_is_integer(d) || json_integer_value(d) < 0) return false;
        t->shape[i] = json_integer_value(d);
        t->stride[i] = (int64_t)*count;
        if (__builtin_mul_overflow(*count, (uint64_t)t->shape[i], count) || *count > INT64_MAX) return false;
    }
    return true;
}

static bool read_span(span *s, const json_t *v)
{
    const json_t *from = json_array_get(v, 0), *to = json_array_get(v, 1); /* NULL where v is no such array */
    if (json_array_size(v) != 2 || !json_is_integer(from) || !json_is_integer(to)) return false;
    if (json_integer_value(from) < 0 || json_integer_value(to) < json_integer_value(from)) return false;
    *s = (span){ (uint64_t)json_integer_value(from), (uint64_t)json_integer_value(to) };
    return true;
}

static swin_status read_tensor(swin_ckpt *ck, const char *key, const json_t *v, swin_ckpt_bytes all, span *s)
{
    swin_ckpt_tensor t = { 0 };
    uint64_t count, bytes;
    const json_t *name = json_object_get(v, "dtype");
    const int type = find_dtype(name);
    if (type < 0)
        return swin_fail(SWIN_ERR_FORMAT, "%s: tensor %.200s: unknown dtype%s%.40s", ck->path, key,
                         json_is_string(name) ? " " : "",
                         json_is_string(name) ? json_string_value(name) : "");
    if (!read_shape(&t, json_object_get(v, "shape"), &count) ||
        __builtin_mul_overflow(count, dtypes[type].size, &bytes))
        return swin_fail(SWIN_ERR_FORMAT, "%s: tensor %.200s: its shape cannot be used", ck->path, key);
    if (!read_span(s, json_object_get(v, "data_offsets")) || s->to > all.size || s->to - s->from != bytes)
        return swin_fail(SWIN_ERR_FORMAT,
                         "%s: tensor %.200s: its data_offsets do not fit its shape or the file", ck->path,
                         key);
    if (!dtypes[type].known) {
        swin_warn("%s: tensor %.200s is %s, left out", ck->path, key, dtypes[type].name);
        return SWIN_OK;
    }
    t.dtype = dtypes[type].dtype;
    return swin_ckpt_add(ck, key, strlen(key), t, 0, (swin_ckpt_bytes){ all.data + s->from, (size_t)bytes });
}

static int by_start(const void *a, const void *b)
{
    const span *x = a, *y = b;
    if (x->from != y->from) return x->from < y->from ? -1 : 1;
    return (x->to > y->to) - (x->to < y->to);
}

/* The format allows neither overlaps nor holes; a file that ends early or goes on is not whole. */
static swin_status check_cover(const swin_ckpt *ck, span *spans, size_t n, size_t size)
{
    uint64_t at = 0;
    qsort(spans, n, sizeof *spans, by_start);
    for (size_t i = 0; i < n; at = spans[i].to, i++)
        if (spans[i].from != at)
            return swin_fail(SWIN_ERR_FORMAT, "%s: tensors overlap or leave a hole at byte %llu of the data",
                             ck->path, (unsigned long long)spans[i].from);
    if (at == size) return SWIN_OK;
    return swin_fail(SWIN_ERR_FORMAT, "%s: %zu bytes of data, but its tensors take %llu", ck->path, size,
                     (unsigned long long)at);
}

static swin_status read_header(swin_ckpt *ck, json_t *header, swin_ckpt_bytes all)
{
    const char *key;
    json_t *v;
    size_t n = 0;
    span *spans = calloc(json_object_size(header) + 1, sizeof *spans);
    if (!spans) return swin_fail(SWIN_ERR_MEM, "%s: no memory", ck->path);
    swin_status st = SWIN_OK;
    json_object_foreach(header, key, v)
    {
        if (strcmp(key, "__metadata__") == 0) continue;
        SWIN_TRY_GOTO(st, read_tensor(ck, key, v, all, &spans[n]), done);
        n++;
    }
    st = n ? check_cover(ck, spans, n, all.size)
           : swin_fail(SWIN_ERR_FORMAT, "%s: holds no tensor", ck->path);
done:
    free(spans);
    return st;
}

swin_status swin_ckpt_read_safetensors(swin_ckpt *ck)
{
    const swin_map *m = &ck->map;
    uint64_t size = 0;
    ck->container = "safetensors";
    if (m->size < 8) return swin_fail(SWIN_ERR_FORMAT, "%s: too short for a .safetensors file", ck->path);
    for (int i = 0; i < 8; i++) size |= (uint64_t)m->data[i] << (8 * i);
    if (size > MAX_HEADER || size > m->size - 8)
        return swin_fail(SWIN_ERR_FORMAT,
                         "%s: a .safetensors header of %llu bytes: truncated, or no such file", ck->path,
                         (unsigned long long)size);
    json_error_t error;
    json_t *header = json_loadb((const char *)m->data + 8, size, JSON_REJECT_DUPLICATES, &error);
    if (!header) return swin_fail(SWIN_ERR_FORMAT, "%s: its header is no JSON: %s", ck->path, error.text);
    const swin_ckpt_bytes all = { m->data + 8 + size, m->size - 8 - (size_t)size };
    const swin_status st = json_is_object(header)
                               ? read_header(ck, header, all)
                               : swin_fail(SWIN_ERR_FORMAT, "%s: its header is no JSON object", ck->path);
    json_decref(header);
    return st;
}
