/* From the values of a pickle to tensors: which dict holds them, what types they have, what is left out. */
#include <stdio.h>
#include <string.h>

#include "runtime/base/log.h"
#include "runtime/swin/checkpoint_impl.h"

#define MAX_WRAPS 4

static const struct {
    const char *name; /* after the last '.' of the type's name */
    size_t size;
    bool known;
    swin_dtype dtype;
} storage_types[] = {
    { "FloatStorage", 4, true, SWIN_F32 },
    { "HalfStorage", 2, true, SWIN_F16 },
    { "BFloat16Storage", 2, true, SWIN_BF16 },
    { "DoubleStorage", 8, true, SWIN_F64 },
    { "LongStorage", 8, true, SWIN_S64 },
    { "IntStorage", 4, true, SWIN_S32 },
    { "CharStorage", 1, true, SWIN_S8 },
    { "ByteStorage", 1, true, SWIN_U8 },
    { "BoolStorage", 1, true, SWIN_U8 },
    { "UntypedStorage", 1, true, SWIN_U8 },
    { "ShortStorage", 2, false, SWIN_U8 },
    { "ComplexFloatStorage", 8, false, SWIN_U8 },
    { "ComplexDoubleStorage", 16, false, SWIN_U8 },
    { "QInt8Storage", 1, false, SWIN_U8 },
    { "QUInt8Storage", 1, false, SWIN_U8 },
    { "QInt32Storage", 4, false, SWIN_U8 },
};

static int storage_type(const swin_pk_value *type)
{
    const char *dot = strrchr(type->text.p, '.');
    for (size_t i = 0; dot && i < SWIN_COUNT(storage_types); i++)
        if (strcmp(dot + 1, storage_types[i].name) == 0) return (int)i;
    return -1;
}

static bool storage_dtype(const swin_pk_value *type, swin_dtype *dtype)
{
    const int i = storage_type(type);
    if (i < 0 || !storage_types[i].known) return false;
    *dtype = storage_types[i].dtype;
    return true;
}

size_t swin_ckpt_storage_element(const swin_pk_value *type)
{
    const int i = storage_type(type);
    return i < 0 ? 0 : storage_types[i].size;
}

static bool is_text(const swin_pk_value *v)
{
    return v->kind == SWIN_PK_STR;
}

/* "model, optimizer, epoch": the first keys of a dict, for messages. */
static void describe_keys(char *out, size_t size, const swin_pk_value *d)
{
    size_t used = 0;
    out[0] = 0;
    for (uint32_t i = 0; i + 1 < d->items.n && i < 32 && used + 40 < size; i += 2) {
        if (!is_text(d->items.v[i])) continue;
        char name[33];
        swin_ckpt_name(name, sizeof name, d->items.v[i]->text.p, d->items.v[i]->text.n);
        used += (size_t)snprintf(out + used, size - used, "%s%s", used ? ", " : "", name);
    }
}

static bool has_tensor(const swin_pk_value *d)
{
    for (uint32_t i = 0; i + 1 < d->items.n; i += 2)
        if (is_text(d->items.v[i]) && d->items.v[i + 1]->kind == SWIN_PK_TENSOR) return true;
    return false;
}

/* Follow "model" and "state_dict" down to the dict that holds the tensors; weight averages beside them are left alone. */
static swin_status unwrap(swin_ckpt *ck, const swin_pk_value **d)
{
    static const char *const wrappers[] = { "model", "state_dict" };
    for (int depth = 0; depth < MAX_WRAPS && (*d)->kind == SWIN_PK_DICT; depth++) {
        const swin_pk_value *inner = NULL;
        for (size_t i = 0; i < SWIN_COUNT(wrappers) && !inner; i++) {
            inner = swin_pk_get(*d, wrappers[i]);
            if (inner && inner->kind == SWIN_PK_TENSOR) inner = NULL; /* a parameter of that name */
            if (inner) snprintf(ck->wrapper, sizeof ck->wrapper, "%s", wrappers[i]);
        }
        if (!inner) break;
        *d = inner;
    }
    if ((*d)->kind == SWIN_PK_OPAQUE || (*d)->kind == SWIN_PK_GLOBAL)
        return swin_fail(
            SWIN_ERR_FORMAT,
            "%s: holds a pickled object (%.200s) instead of a dict of tensors; save model.state_dict()",
            ck->path, (*d)->text.p);
    if ((*d)->kind == SWIN_PK_DICT && has_tensor(*d)) return SWIN_OK;
    char found[512] = "";
    if ((*d)->kind == SWIN_PK_DICT) describe_keys(found, sizeof found, *d);
    return swin_fail(SWIN_ERR_FORMAT,
                     "%s: no dict of tensors at the top, under 'model' or under 'state_dict'%s%s%s", ck->path,
                     found[0] ? " (keys: " : "", found, found[0] ? ")" : "");
}

/* What could not be taken: tensors of other types, and entries that are none. */
typedef struct left_out {
    size_t tensors, others;
    char tensor[320], other[320]; /* "name (type)" of the first */
} left_out;

static const char *kind_name(const swin_pk_value *v)
{
    switch (v->kind) {
    case SWIN_PK_NONE:
        return "None";
    case SWIN_PK_BOOL:
        return "bool";
    case SWIN_PK_INT:
    case SWIN_PK_BIGINT:
        return "int";
    case SWIN_PK_FLOAT:
        return "float";
    case SWIN_PK_STR:
        return "str";
    case SWIN_PK_BYTES:
        return "bytes";
    case SWIN_PK_TUPLE:
        return "tuple";
    case SWIN_PK_LIST:
        return "list";
    case SWIN_PK_DICT:
        return "dict";
    case SWIN_PK_STORAGE:
        return "storage";
    case SWIN_PK_TENSOR: /* under a key that is no text */
        return "tensor";
    default: /* GLOBAL, OPAQUE */
        return v->text.p;
    }
}

static void note_first(char *out, size_t size, size_t before, const char *name, const char *type)
{
    if (before == 0) snprintf(out, size, "%s (%.100s)", name, type);
}

static swin_status add_tensor(swin_ckpt *ck, const swin_pk_value *key, const swin_pk_tensor *t,
                              swin_ckpt_find_storage find, void *user, left_out *left)
{
    char name[200];
    swin_ckpt_name(name, sizeof name, key->text.p, key->text.n);
    swin_ckpt_tensor out = { .ndim = t->ndim };
    if (t->dtype || !storage_dtype(t->storage->type, &out.dtype)) {
        note_first(left->tensor, sizeof left->tensor, left->tensors++, name,
                   (t->dtype ? t->dtype : t->storage->type)->text.p);
        return SWIN_OK;
    }
    memcpy(out.shape, t->shape, sizeof out.shape);
    memcpy(out.stride, t->stride, sizeof out.stride);
    swin_ckpt_bytes bytes = { 0 };
    const swin_status st = find(user, t->storage, &bytes);
    if (st != SWIN_OK) return swin_fail_context(st, "%s: tensor %s", ck->path, name);
    return swin_ckpt_add(ck, key->text.p, key->text.n, out, t->offset, bytes);
}

/* Quantized and sparse tensors are objects that nothing is made of here. */
static void pass_over(const swin_pk_value *key, const swin_pk_value *v, left_out *left)
{
    static const char rebuilt[] = "torch._utils._rebuild_";
    char name[200] = "a key that is no text";
    if (is_text(key)) swin_ckpt_name(name, sizeof name, key->text.p, key->text.n);
    if (v->kind == SWIN_PK_OPAQUE && strncmp(v->text.p, rebuilt, sizeof rebuilt - 1) == 0)
        note_first(left->tensor, sizeof left->tensor, left->tensors++, name, v->text.p);
    else
        note_first(left->other, sizeof left->other, left->others++, name, kind_name(v));
}

/* Nothing is left out in silence. */
static swin_status report(const swin_ckpt *ck, const left_out *left)
{
    if (left->tensors && !ck->count)
        return swin_fail(
            SWIN_ERR_UNSUPPORTED,
            "%s: tensor %s: none of its %zu tensors has a type that can be read (float32, float16, "
            "bfloat16, float64)",
            ck->path, left->tensor, left->tensors);
    if (left->tensors)
        swin_warn("%s: %zu tensor%s of a type that cannot be read, left out: %s%s", ck->path, left->tensors,
                  left->tensors > 1 ? "s" : "", left->tensor, left->tensors > 1 ? " the first" : "");
    if (left->others)
        swin_note("%s: %zu %s beside the tensors, left out: %s%s", ck->path, left->others,
                  left->others > 1 ? "entries" : "entry", left->other, left->others > 1 ? " the first" : "");
    return SWIN_OK;
}

swin_status swin_ckpt_add_pickled(swin_ckpt *ck, const swin_pk_value *root, swin_ckpt_find_storage find,
                                  void *user)
{
    left_out left = { 0 };
    SWIN_TRY(unwrap(ck, &root));
    for (uint32_t i = 0; i + 1 < root->items.n; i += 2) {
        const swin_pk_value *key = root->items.v[i], *v = root->items.v[i + 1];
        if (is_text(key) && v->kind == SWIN_PK_TENSOR)
            SWIN_TRY(add_tensor(ck, key, v->tensor, find, user, &left));
        else
            pass_over(key, v, &left);
    }
    return report(ck, &left);
}
