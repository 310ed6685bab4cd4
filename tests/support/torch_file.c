#include "tests/support/torch_file.h"

#include <inttypes.h>
#include <zip.h>

#include "runtime/base/file.h"
#include "runtime/base/half.h"
#include "tests/support/testing.h"

void swin_out_add(swin_bytes_out *o, const void *p, size_t n)
{
    if (o->size + n > o->capacity) {
        o->capacity = 2 * (o->size + n) + 64;
        o->data = realloc(o->data, o->capacity);
        CHECK(o->data != NULL, "no memory");
    }
    if (n) memcpy(o->data + o->size, p, n);
    o->size += n;
}

void swin_out_text(swin_bytes_out *o, const char *s)
{
    swin_out_add(o, s, strlen(s));
}

void swin_out_uint(swin_bytes_out *o, unsigned long long v, int n)
{
    for (int i = 0; i < n; i++) swin_out_add(o, &(unsigned char){ (unsigned char)(v >> (8 * i)) }, 1);
}

/* ---- pickle words ---- */

static void op(swin_bytes_out *o, int code)
{
    swin_out_uint(o, (unsigned)code, 1);
}

static void put_str(swin_bytes_out *o, const swin_torch_style *s, const char *text)
{
    op(o, s->protocol >= 4 ? 0x8c : 'X');
    swin_out_uint(o, strlen(text), s->protocol >= 4 ? 1 : 4);
    swin_out_text(o, text);
    if (s->protocol >= 4)
        op(o, 0x94);
    else
        op(o, 'q'), op(o, 7); /* any slot will do: nothing here is fetched back */
}

static void put_global(swin_bytes_out *o, const swin_torch_style *s, const char *module, const char *name)
{
    if (s->protocol >= 4) {
        put_str(o, s, module);
        put_str(o, s, name);
        op(o, 0x93);
        return;
    }
    op(o, 'c');
    swin_out_text(o, module);
    op(o, '\n');
    swin_out_text(o, name);
    op(o, '\n');
}

static void put_int(swin_bytes_out *o, int64_t v)
{
    if (v >= 0 && v < 256) {
        op(o, 'K'), swin_out_uint(o, (unsigned long long)v, 1);
    } else if (v >= -0x80000000LL && v <= 0x7fffffff) {
        op(o, 'J'), swin_out_uint(o, (unsigned long long)v, 4);
    } else {
        op(o, 0x8a), op(o, 8), swin_out_uint(o, (unsigned long long)v, 8);
    }
}

static void put_dims(swin_bytes_out *o, const int64_t *v, int n)
{
    op(o, '(');
    for (int i = 0; i < n; i++) put_int(o, v[i]);
    op(o, 't');
}

static void put_ordered_dict(swin_bytes_out *o, const swin_torch_style *s)
{
    put_global(o, s, "collections", "OrderedDict");
    op(o, ')'), op(o, 'R');
}

static const char *storage_name(swin_dtype d)
{
    switch (d) {
    case SWIN_F16:
        return "HalfStorage";
    case SWIN_BF16:
        return "BFloat16Storage";
    case SWIN_F64:
        return "DoubleStorage";
    case SWIN_S64:
        return "LongStorage";
    default:
        return "FloatStorage";
    }
}

typedef struct view {
    char storage[24];
    swin_dtype dtype;
    int64_t numel, offset;
    int ndim;
    int64_t shape[4], stride[4];
} view;

/* late: the name of a type that storages cannot say; NULL: v's. */
static void put_tensor(swin_bytes_out *o, const swin_torch_style *s, const view *v, const char *late)
{
    if (s->parameters) {
        put_global(o, s, "torch._utils", "_rebuild_parameter");
        op(o, '(');
    }
    put_global(o, s, "torch._utils", late ? "_rebuild_tensor_v3" : "_rebuild_tensor_v2");
    op(o, '('), op(o, '(');
    put_str(o, s, "storage");
    put_global(o, s, late ? "torch.storage" : "torch", late ? "UntypedStorage" : storage_name(v->dtype));
    put_str(o, s, v->storage);
    put_str(o, s, "cpu");
    put_int(o, v->numel);
    op(o, 't'), op(o, 'Q');
    put_int(o, v->offset + s->offset_shift);
    put_dims(o, v->shape, v->ndim);
    put_dims(o, v->stride, v->ndim);
    op(o, 0x89);
    put_ordered_dict(o, s);
    if (late) put_global(o, s, "torch", late);
    op(o, 't'), op(o, 'R');
    if (s->parameters) {
        op(o, 0x88);
        put_ordered_dict(o, s);
        op(o, 't'), op(o, 'R');
    }
}

/* ---- numbers ---- */

static void add_number(swin_bytes_out *o, float v, swin_dtype d)
{
    const double wide = v;
    if (d == SWIN_F16)
        swin_out_uint(o, swin_f32_to_f16(v), 2);
    else if (d == SWIN_BF16)
        swin_out_uint(o, swin_f32_to_bf16(v), 2);
    else if (d == SWIN_F64)
        swin_out_add(o, &wide, 8);
    else
        swin_out_add(o, &v, 4);
}

static view dense_view(const swin_param *p, const swin_torch_style *s)
{
    view v = { .dtype = s->dtype, .numel = (int64_t)p->count, .ndim = p->ndim };
    int64_t step = 1;
    for (int i = p->ndim - 1; i >= 0; step *= p->shape[i], i--) {
        v.shape[i] = p->shape[i];
        v.stride[i] = step;
    }
    if (s->transposed && p->ndim == 2) {
        v.stride[0] = 1;
        v.stride[1] = p->shape[0];
    }
    return v;
}

static void add_values(swin_bytes_out *o, const swin_param *p, const swin_torch_style *s)
{
    const float *x = *p->slot;
    const bool turned = s->transposed && p->ndim == 2;
    for (size_t i = 0; i < p->count; i++) {
        const size_t rows = (size_t)p->shape[0], cols = turned ? (size_t)p->shape[1] : 1;
        add_number(o, turned ? x[(i % rows) * cols + i / rows] : x[i], s->dtype);
    }
}

static void put_key(swin_bytes_out *o, const swin_torch_style *s, const char *key)
{
    char full[256];
    snprintf(full, sizeof full, "%s%s", s->prefix ? s->prefix : "", key);
    put_str(o, s, full);
}

/* A LongStorage scalar under a key that a reader is to pass over. */
static void put_buffer(swin_bytes_out *o, const swin_torch_style *s, const char *key, const char *storage)
{
    view v = { .dtype = SWIN_S64, .numel = 1 };
    snprintf(v.storage, sizeof v.storage, "%s", storage);
    put_key(o, s, key);
    swin_torch_style plain = *s;
    plain.offset_shift = 0;
    put_tensor(o, &plain, &v, NULL);
}

void swin_torch_pickle(swin_bytes_out *o, swin_bytes_out **storages, size_t *count, const swin_param *list,
                       size_t n, const swin_torch_style *s)
{
    swin_bytes_out *st = calloc(n + 2, sizeof *st);
    CHECK(st != NULL, "no memory");
    size_t used = 0, total = 0;
    for (size_t i = 0; i < n; i++) total += list[i].count;
    op(o, 0x80), op(o, s->protocol);
    if (s->wrapper) {
        op(o, '}'), op(o, '(');
        put_str(o, s, "optimizer");
        op(o, '}'), op(o, '('), put_int(o, 0), op(o, 'N'), put_str(o, s, "state"), op(o, ']'), op(o, 'u');
        put_str(o, s, "model_ema");
        put_ordered_dict(o, s);
        put_str(o, s, s->wrapper);
    }
    put_ordered_dict(o, s);
    op(o, '(');
    for (size_t i = 0; i < n; i++) {
        if (s->drop && strcmp(s->drop, list[i].key) == 0) continue;
        view v = dense_view(&list[i], s);
        snprintf(v.storage, sizeof v.storage, "%zu", s->one_storage ? 0 : used);
        if (s->one_storage) {
            v.offset = (int64_t)(st[0].size / swin_dtype_size(s->dtype));
            v.numel = (int64_t)total;
        }
        const bool late = s->late_type && (!s->late_key || strcmp(s->late_key, list[i].key) == 0);
        for (int again = s->twice && strcmp(s->twice, list[i].key) == 0; again >= 0; again--) {
            put_key(o, s, list[i].key);
            put_tensor(o, s, &v, late ? s->late_type : NULL);
        }
        add_values(&st[s->one_storage ? 0 : used], &list[i], s);
        used += s->one_storage ? used == 0 : 1;
    }
    if (s->buffers || s->add) {
        char name[24];
        snprintf(name, sizeof name, "%zu", used);
        if (s->buffers) put_buffer(o, s, "layers.0.blocks.1.attn_mask", name);
        if (s->add) put_buffer(o, s, s->add, name);
        swin_out_uint(&st[used++], 5, 8);
    }
    if (s->extra) {
        view v = dense_view(&list[0], s);
        snprintf(v.storage, sizeof v.storage, "0");
        put_str(o, s, s->extra), put_int(o, 299);
        put_int(o, 7), put_tensor(o, s, &v, NULL);
    }
    op(o, 'u');
    op(o, '}'), put_str(o, s, "_metadata"), op(o, 'N'), op(o, 's'),
        op(o, 'b'); /* an OrderedDict's attributes */
    if (s->wrapper) put_str(o, s, "epoch"), put_int(o, 299), op(o, 'u');
    op(o, '.');
    *storages = st;
    *count = used;
}

/* ---- files ---- */

static void add_member(zip_t *z, const char *name, const void *data, size_t size, bool deflate)
{
    zip_source_t *src = zip_source_buffer(z, data, size, 0);
    const zip_int64_t i = src ? zip_file_add(z, name, src, ZIP_FL_ENC_UTF_8) : -1;
    CHECK(i >= 0, "zip: %s", zip_strerror(z));
    CHECK(zip_set_file_compression(z, (zip_uint64_t)i, deflate ? ZIP_CM_DEFLATE : ZIP_CM_STORE, 0) == 0,
          "zip");
}

void swin_torch_write_zip(const char *path, const swin_param *list, size_t n, const swin_torch_style *s,
                          bool deflate)
{
    swin_bytes_out pickle = { 0 }, *storages;
    size_t count;
    swin_torch_pickle(&pickle, &storages, &count, list, n, s);
    int error = 0;
    zip_t *z = zip_open(path, ZIP_CREATE | ZIP_TRUNCATE, &error);
    CHECK(z != NULL, "zip error %d", error);
    add_member(z, "archive/data.pkl", pickle.data, pickle.size, deflate);
    add_member(z, "archive/byteorder", s->big_endian ? "big" : "little", s->big_endian ? 3 : 6, false);
    char(*names)[40] = calloc(count, sizeof *names);
    for (size_t i = 0; i < count; i++) {
        snprintf(names[i], sizeof names[i], "archive/data/%zu", i);
        add_member(z, names[i], storages[i].data, storages[i].size, deflate);
    }
    CHECK(zip_close(z) == 0, "zip: %s", zip_strerror(z));
    for (size_t i = 0; i < count; i++) free(storages[i].data);
    free(names);
    free(storages);
    free(pickle.data);
}

static size_t element_of(const swin_torch_style *s, size_t i, size_t count)
{
    return (s->buffers || s->add) && i + 1 == count ? 8 : swin_dtype_size(s->dtype);
}

void swin_torch_write_legacy(const char *path, const swin_param *list, size_t n, const swin_torch_style *s)
{
    static const unsigned char magic[] = { 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9,
                                           0x20, 0x6a, 0xa8, 0x50, 0x19, '.' };
    swin_bytes_out o = { 0 }, *storages;
    size_t count;
    op(&o, 0x80), op(&o, 2), swin_out_add(&o, magic, sizeof magic);
    op(&o, 0x80), op(&o, 2), op(&o, 'M'), swin_out_uint(&o, 1001, 2), op(&o, '.');
    op(&o, 0x80), op(&o, 2), op(&o, '}'), put_str(&o, s, "little_endian");
    op(&o, s->big_endian ? 0x89 : 0x88), op(&o, 's'), op(&o, '.');
    swin_torch_pickle(&o, &storages, &count, list, n, s);
    op(&o, 0x80), op(&o, 2), op(&o, ']'), op(&o, '(');
    for (size_t i = 0; i < count; i++) {
        char key[24];
        snprintf(key, sizeof key, "%zu", count - 1 - i); /* torch sorts them as texts: any order */
        put_str(&o, s, key);
    }
    op(&o, 'e'), op(&o, '.');
    for (size_t i = count; i-- > 0;) {
        swin_out_uint(&o, storages[i].size / element_of(s, i, count), 8);
        swin_out_add(&o, storages[i].data, storages[i].size);
        free(storages[i].data);
    }
    CHECK_OK(swin_write_file(path, o.data, o.size));
    free(storages);
    free(o.data);
}

void swin_torch_write_safetensors(const char *path, const swin_param *list, size_t n, swin_dtype dtype)
{
    const char *name = dtype == SWIN_F16    ? "F16"
                       : dtype == SWIN_BF16 ? "BF16"
                       : dtype == SWIN_F64  ? "F64"
                                            : "F32";
    const swin_torch_style s = { .dtype = dtype };
    swin_bytes_out header = { 0 }, data = { 0 }, file = { 0 };
    char text[400];
    for (size_t i = n; i-- > 0;) { /* the order in the file is the writer's choice */
        const size_t from = data.size;
        add_values(&data, &list[i], &s);
        snprintf(text, sizeof text, "%c\"%s\":{\"dtype\":\"%s\",\"shape\":[", i + 1 == n ? '{' : ',',
                 list[i].key, name);
        swin_out_text(&header, text);
        for (int d = 0; d < list[i].ndim; d++) {
            snprintf(text, sizeof text, "%s%" PRId64, d ? "," : "", list[i].shape[d]);
            swin_out_text(&header, text);
        }
        snprintf(text, sizeof text, "],\"data_offsets\":[%zu,%zu]}", from, data.size);
        swin_out_text(&header, text);
    }
    swin_out_text(&header, "}");
    swin_out_uint(&file, header.size, 8);
    swin_out_add(&file, header.data, header.size);
    swin_out_add(&file, data.data, data.size);
    CHECK_OK(swin_write_file(path, file.data, file.size));
    free(header.data);
    free(data.data);
    free(file.data);
}
