/* What a pickle's calls make: tensors, storages, dicts. Nothing is ever called. */
#include <string.h>

#include "runtime/swin/pickle_impl.h"

static bool is_global(const swin_pk_value *v, const char *name)
{
    return v->kind == SWIN_PK_GLOBAL && strcmp(v->text.p, name) == 0;
}

swin_status pk_push_opaque(pk_machine *m, const swin_pk_value *from)
{
    const bool named = from->kind == SWIN_PK_GLOBAL || from->kind == SWIN_PK_OPAQUE;
    swin_pk_value v = { .kind = SWIN_PK_OPAQUE, .text = { "object", 6 } };
    if (named) v.text = from->text;
    return pk_push(m, v);
}

static swin_status dims_of(pk_machine *m, const swin_pk_value *v, int64_t dims[SWIN_PK_DIMS], int *n)
{
    if (v->kind != SWIN_PK_TUPLE && v->kind != SWIN_PK_LIST)
        return pk_broken(m, "a tensor's shape is no tuple");
    if (v->items.n > SWIN_PK_DIMS) return pk_broken(m, "a tensor has more than 8 dimensions");
    *n = (int)v->items.n;
    for (uint32_t i = 0; i < v->items.n; i++) {
        const swin_pk_value *d = v->items.v[i];
        if (d->kind != SWIN_PK_INT || d->i < 0)
            return pk_broken(m, "a tensor's shape or stride is not a number >= 0");
        dims[i] = d->i;
    }
    return SWIN_OK;
}

/* _rebuild_tensor(storage, offset, shape, stride), _v2 with more arguments that say nothing about the values, _v3 with the dtype
 * as the seventh, for types that came after typed storages. */
static swin_status push_tensor(pk_machine *m, const swin_pk_value *args, bool v3)
{
    swin_pk_value **a = args->items.v;
    if (args->items.n < (v3 ? 7 : 4)) return pk_broken(m, "a tensor is made from too few arguments");
    if (a[0]->kind != SWIN_PK_STORAGE) return pk_push_opaque(m, a[0]);
    if (a[1]->kind != SWIN_PK_INT || a[1]->i < 0)
        return pk_broken(m, "a tensor's offset is not a number >= 0");
    swin_pk_tensor *t;
    int strides = 0;
    SWIN_TRY(pk_reserve(m, &t, sizeof *t));
    *t = (swin_pk_tensor){ .storage = a[0]->storage, .offset = a[1]->i, .dtype = v3 ? a[6] : NULL };
    if (v3 && a[6]->kind != SWIN_PK_GLOBAL) return pk_broken(m, "a tensor's type is no name");
    SWIN_TRY(dims_of(m, a[2], t->shape, &t->ndim));
    SWIN_TRY(dims_of(m, a[3], t->stride, &strides));
    if (strides != t->ndim) return pk_broken(m, "a tensor's shape and strides differ in length");
    return pk_push(m, (swin_pk_value){ .kind = SWIN_PK_TENSOR, .tensor = t });
}

/* OrderedDict(), or OrderedDict([[key, value], ...]) as Python 2 wrote it. */
static swin_status push_dict(pk_machine *m, const swin_pk_value *args)
{
    swin_pk_value d = { .kind = SWIN_PK_DICT };
    const swin_pk_value *pairs = args->items.n ? args->items.v[0] : NULL;
    for (uint32_t i = 0; pairs && pairs->kind == SWIN_PK_LIST && i < pairs->items.n; i++) {
        const swin_pk_value *p = pairs->items.v[i];
        if ((p->kind != SWIN_PK_LIST && p->kind != SWIN_PK_TUPLE) || p->items.n != 2)
            return pk_broken(m, "an OrderedDict is made from something else than pairs");
        SWIN_TRY(pk_extend(m, &d, p->items.v, 2));
    }
    return pk_push(m, d);
}

swin_status pk_construct(pk_machine *m, const swin_pk_value *what, const swin_pk_value *args)
{
    if (args->kind != SWIN_PK_TUPLE)
        return pk_broken(m, "an object is made from something else than a tuple");
    if (is_global(what, "torch._utils._rebuild_tensor_v2") || is_global(what, "torch._utils._rebuild_tensor"))
        return push_tensor(m, args, false);
    if (is_global(what, "torch._utils._rebuild_tensor_v3")) return push_tensor(m, args, true);
    if (is_global(what, "collections.OrderedDict")) return push_dict(m, args);
    const bool wraps = is_global(what, "torch._utils._rebuild_parameter") ||
                       is_global(what, "torch._utils._rebuild_parameter_with_state") ||
                       is_global(what, "torch.Size");
    if (wraps && args->items.n >= 1) return pk_append(&m->stack, args->items.v[0], m);
    return pk_push_opaque(m, what);
}

swin_status pk_push_storage(pk_machine *m, const swin_pk_value *id)
{
    swin_pk_value **v = id->items.v;
    if (v[1]->kind != SWIN_PK_GLOBAL || v[2]->kind != SWIN_PK_STR || v[4]->kind != SWIN_PK_INT || v[4]->i < 0)
        return pk_broken(m, "a storage without type, key or size");
    swin_pk_storage *s;
    SWIN_TRY(pk_reserve(m, &s, sizeof *s));
    *s = (swin_pk_storage){
        .type = v[1],
        .key = v[2]->text.p,
        .key_size = v[2]->text.n,
        .numel = v[4]->i,
        .view_size = v[4]->i,
        .next = m->pk->storages,
    };
    if (id->items.n > 5 && v[5]->kind == SWIN_PK_TUPLE) {
        const swin_pk_value *view = v[5];
        if (view->items.n != 3 || view->items.v[1]->kind != SWIN_PK_INT ||
            view->items.v[2]->kind != SWIN_PK_INT)
            return pk_broken(m, "a storage's view without offset and size");
        s->view_offset = view->items.v[1]->i;
        s->view_size = view->items.v[2]->i;
        if (s->view_offset < 0 || s->view_size < 0 || s->view_offset > s->numel ||
            s->view_size > s->numel - s->view_offset)
            return pk_broken(m, "a storage's view leaves the storage");
    }
    m->pk->storages = s;
    return pk_push(m, (swin_pk_value){ .kind = SWIN_PK_STORAGE, .storage = s });
}
