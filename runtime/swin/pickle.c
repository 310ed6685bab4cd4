#include "runtime/swin/pickle.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define MAX_MEMORY  ((size_t)256 << 20) /* of all values: real checkpoints need a few megabytes */
#define MAX_STACK   ((size_t)4 << 20)
#define MAX_NAME    512
#define BLOCK_BYTES ((size_t)64 << 10)

typedef struct block {
    struct block *next;
    size_t size, used;
    max_align_t data[];
} block;

typedef struct pointers { /* a growing array */
    swin_pk_value **v;
    size_t n, cap;
} pointers;

typedef struct machine {
    swin_pickle *pk;
    const unsigned char *start, *at, *end;
    pointers stack, memo;
    size_t *marks, nmarks, cap_marks; /* stack heights */
    bool stopped;
} machine;

static swin_status broken(const machine *m, const char *why)
{
    return swin_fail(SWIN_ERR_FORMAT, "pickle, byte %zu: %s", (size_t)(m->at - m->start), why);
}

/* ---- memory ---- */

static swin_status reserve(machine *m, void *out, size_t size)
{
    swin_pickle *pk = m->pk;
    block *b = pk->blocks;
    size = (size + sizeof(max_align_t) - 1) & ~(sizeof(max_align_t) - 1);
    if (size > MAX_MEMORY - pk->used) return broken(m, "holds more values than any checkpoint needs");
    if (!b || b->size - b->used < size) {
        const size_t room = size > BLOCK_BYTES ? size : BLOCK_BYTES;
        block *fresh = malloc(sizeof *fresh + room);
        if (!fresh) return swin_fail(SWIN_ERR_MEM, "no memory for the values of a pickle");
        *fresh = (block){ .next = b, .size = room };
        pk->blocks = b = fresh;
    }
    void *p = (char *)b->data + b->used;
    b->used += size;
    pk->used += size;
    memcpy(out, &p, sizeof p);
    return SWIN_OK;
}

static swin_status append(pointers *a, swin_pk_value *v, const machine *m)
{
    if (a->n == a->cap) {
        if (a->cap >= MAX_STACK) return broken(m, "its stack is deeper than any checkpoint needs");
        const size_t cap = a->cap ? 2 * a->cap : 256;
        swin_pk_value **grown = realloc(a->v, cap * sizeof *grown);
        if (!grown) return swin_fail(SWIN_ERR_MEM, "no memory for the stack of a pickle");
        a->v = grown;
        a->cap = cap;
    }
    a->v[a->n++] = v;
    return SWIN_OK;
}

static swin_status push(machine *m, swin_pk_value v)
{
    swin_pk_value *kept;
    SWIN_TRY(reserve(m, &kept, sizeof *kept));
    *kept = v;
    return append(&m->stack, kept, m);
}

static size_t floor_of(const machine *m)
{
    return m->nmarks ? m->marks[m->nmarks - 1] : 0;
}

static swin_status pop(machine *m, swin_pk_value **v)
{
    if (m->stack.n <= floor_of(m)) return broken(m, "takes a value from an empty stack");
    *v = m->stack.v[--m->stack.n];
    return SWIN_OK;
}

static swin_status top(machine *m, swin_pk_value **v)
{
    if (m->stack.n <= floor_of(m)) return broken(m, "needs a value on an empty stack");
    *v = m->stack.v[m->stack.n - 1];
    return SWIN_OK;
}

/* Forget the newest mark; *from is the stack height it kept, *count the values above it. */
static swin_status pop_mark(machine *m, size_t *from, size_t *count)
{
    if (!m->nmarks) return broken(m, "has no mark");
    *from = m->marks[--m->nmarks];
    *count = m->stack.n - *from;
    return SWIN_OK;
}

static swin_status take(machine *m, size_t n, const unsigned char **p)
{
    if ((size_t)(m->end - m->at) < n) return broken(m, "ends too early");
    *p = m->at;
    m->at += n;
    return SWIN_OK;
}

/* A little-endian unsigned number of n bytes, n <= 8. */
static swin_status take_uint(machine *m, size_t n, uint64_t *v)
{
    const unsigned char *p = NULL;
    SWIN_TRY(take(m, n, &p));
    *v = 0;
    for (size_t i = 0; i < n; i++) *v |= (uint64_t)p[i] << (8 * i);
    return SWIN_OK;
}

static swin_status extend(machine *m, swin_pk_value *to, swin_pk_value **v, size_t n)
{
    if (n > MAX_STACK || to->items.n + n > UINT32_MAX / 2) return broken(m, "has too long a list");
    const uint32_t need = to->items.n + (uint32_t)n;
    if (need > to->items.cap) {
        const uint32_t cap = need < 8 ? 8 : need + need / 2;
        swin_pk_value **grown;
        SWIN_TRY(reserve(m, &grown, cap * sizeof *grown));
        if (to->items.n) memcpy(grown, to->items.v, to->items.n * sizeof *grown);
        to->items.v = grown;
        to->items.cap = cap;
    }
    if (n) memcpy(to->items.v + to->items.n, v, n * sizeof *v);
    to->items.n = need;
    return SWIN_OK;
}

/* ---- known constructors ---- */

static bool is_global(const swin_pk_value *v, const char *name)
{
    return v->kind == SWIN_PK_GLOBAL && strcmp(v->text.p, name) == 0;
}

static swin_status push_opaque(machine *m, const swin_pk_value *from)
{
    const bool named = from->kind == SWIN_PK_GLOBAL || from->kind == SWIN_PK_OPAQUE;
    swin_pk_value v = { .kind = SWIN_PK_OPAQUE, .text = { "object", 6 } };
    if (named) v.text = from->text;
    return push(m, v);
}

static swin_status dims_of(machine *m, const swin_pk_value *v, int64_t dims[SWIN_PK_DIMS], int *n)
{
    if (v->kind != SWIN_PK_TUPLE && v->kind != SWIN_PK_LIST) return broken(m, "a tensor's shape is no tuple");
    if (v->items.n > SWIN_PK_DIMS) return broken(m, "a tensor has more than 8 dimensions");
    *n = (int)v->items.n;
    for (uint32_t i = 0; i < v->items.n; i++) {
        const swin_pk_value *d = v->items.v[i];
        if (d->kind != SWIN_PK_INT || d->i < 0)
            return broken(m, "a tensor's shape or stride is not a number >= 0");
        dims[i] = d->i;
    }
    return SWIN_OK;
}

/* _rebuild_tensor(storage, offset, shape, stride), _v2 with more arguments that say nothing about the values. */
static swin_status push_tensor(machine *m, const swin_pk_value *args)
{
    swin_pk_value **a = args->items.v;
    if (args->items.n < 4) return broken(m, "a tensor is made from too few arguments");
    if (a[0]->kind != SWIN_PK_STORAGE) return push_opaque(m, a[0]);
    if (a[1]->kind != SWIN_PK_INT || a[1]->i < 0) return broken(m, "a tensor's offset is not a number >= 0");
    swin_pk_tensor *t;
    int strides;
    SWIN_TRY(reserve(m, &t, sizeof *t));
    *t = (swin_pk_tensor){ .storage = a[0]->storage, .offset = a[1]->i };
    SWIN_TRY(dims_of(m, a[2], t->shape, &t->ndim));
    SWIN_TRY(dims_of(m, a[3], t->stride, &strides));
    if (strides != t->ndim) return broken(m, "a tensor's shape and strides differ in length");
    return push(m, (swin_pk_value){ .kind = SWIN_PK_TENSOR, .tensor = t });
}

/* OrderedDict(), or OrderedDict([[key, value], ...]) as Python 2 wrote it. */
static swin_status push_dict(machine *m, const swin_pk_value *args)
{
    swin_pk_value d = { .kind = SWIN_PK_DICT };
    const swin_pk_value *pairs = args->items.n ? args->items.v[0] : NULL;
    for (uint32_t i = 0; pairs && pairs->kind == SWIN_PK_LIST && i < pairs->items.n; i++) {
        const swin_pk_value *p = pairs->items.v[i];
        if ((p->kind != SWIN_PK_LIST && p->kind != SWIN_PK_TUPLE) || p->items.n != 2)
            return broken(m, "an OrderedDict is made from something else than pairs");
        SWIN_TRY(extend(m, &d, p->items.v, 2));
    }
    return push(m, d);
}

static swin_status construct(machine *m, const swin_pk_value *what, const swin_pk_value *args)
{
    if (args->kind != SWIN_PK_TUPLE) return broken(m, "an object is made from something else than a tuple");
    if (is_global(what, "torch._utils._rebuild_tensor_v2") || is_global(what, "torch._utils._rebuild_tensor"))
        return push_tensor(m, args);
    if (is_global(what, "collections.OrderedDict")) return push_dict(m, args);
    const bool wraps = is_global(what, "torch._utils._rebuild_parameter") ||
                       is_global(what, "torch._utils._rebuild_parameter_with_state") ||
                       is_global(what, "torch.Size");
    if (wraps && args->items.n >= 1) return append(&m->stack, args->items.v[0], m);
    return push_opaque(m, what);
}

/* ('storage', type, key, location, numel[, (view key, offset, size)]) */
static swin_status push_storage(machine *m, const swin_pk_value *id)
{
    swin_pk_value **v = id->items.v;
    if (v[1]->kind != SWIN_PK_GLOBAL || v[2]->kind != SWIN_PK_STR || v[4]->kind != SWIN_PK_INT || v[4]->i < 0)
        return broken(m, "a storage without type, key or size");
    swin_pk_storage *s;
    SWIN_TRY(reserve(m, &s, sizeof *s));
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
            return broken(m, "a storage's view without offset and size");
        s->view_offset = view->items.v[1]->i;
        s->view_size = view->items.v[2]->i;
        if (s->view_offset < 0 || s->view_size < 0 || s->view_offset > s->numel ||
            s->view_size > s->numel - s->view_offset)
            return broken(m, "a storage's view leaves the storage");
    }
    m->pk->storages = s;
    return push(m, (swin_pk_value){ .kind = SWIN_PK_STORAGE, .storage = s });
}

/* ---- opcodes; the names are pickletools' ---- */

typedef swin_status (*opcode)(machine *m, unsigned char code);

static swin_status op_proto(machine *m, unsigned char code)
{
    (void)code;
    uint64_t v = 0;
    SWIN_TRY(take_uint(m, 1, &v));
    return v >= 2 && v <= 5 ? SWIN_OK : broken(m, "its protocol is not 2 to 5");
}

static swin_status op_frame(machine *m, unsigned char code)
{
    (void)code;
    uint64_t ignored; /* frames only help readers of pipes */
    return take_uint(m, 8, &ignored);
}

static swin_status op_stop(machine *m, unsigned char code)
{
    (void)code;
    m->stopped = true;
    return SWIN_OK;
}

static swin_status op_mark(machine *m, unsigned char code)
{
    (void)code;
    if (m->nmarks == m->cap_marks) {
        if (m->cap_marks >= MAX_STACK) return broken(m, "its stack is deeper than any checkpoint needs");
        const size_t cap = m->cap_marks ? 2 * m->cap_marks : 64;
        size_t *grown = realloc(m->marks, cap * sizeof *grown);
        if (!grown) return swin_fail(SWIN_ERR_MEM, "no memory for the marks of a pickle");
        m->marks = grown;
        m->cap_marks = cap;
    }
    m->marks[m->nmarks++] = m->stack.n;
    return SWIN_OK;
}

static swin_status op_pop(machine *m, unsigned char code)
{
    swin_pk_value *v;
    size_t from = 0, n = 0;
    if (code == '1' || (m->nmarks && m->stack.n == floor_of(m))) { /* POP_MARK; POP of a mark */
        SWIN_TRY(pop_mark(m, &from, &n));
        m->stack.n = from;
        return SWIN_OK;
    }
    return pop(m, &v);
}

static swin_status op_dup(machine *m, unsigned char code)
{
    (void)code;
    swin_pk_value *v = NULL;
    SWIN_TRY(top(m, &v));
    return append(&m->stack, v, m);
}

static swin_status op_constant(machine *m, unsigned char code)
{
    if (code == 'N') return push(m, (swin_pk_value){ .kind = SWIN_PK_NONE });
    return push(m, (swin_pk_value){ .kind = SWIN_PK_BOOL, .i = code == 0x88 });
}

static swin_status op_int(machine *m, unsigned char code)
{
    uint64_t v = 0;
    SWIN_TRY(take_uint(m, code == 'J' ? 4 : code == 'M' ? 2 : 1, &v));
    return push(m,
                (swin_pk_value){ .kind = SWIN_PK_INT, .i = code == 'J' ? (int32_t)(uint32_t)v : (int64_t)v });
}

static swin_status op_long(machine *m, unsigned char code)
{
    uint64_t n = 0;
    const unsigned char *p = NULL;
    SWIN_TRY(take_uint(m, code == 0x8a ? 1 : 4, &n));
    SWIN_TRY(take(m, (size_t)n, &p));
    if (n > 8)
        return push(m, (swin_pk_value){ .kind = SWIN_PK_BIGINT, .text = { (const char *)p, (size_t)n } });
    uint64_t v = n && p[n - 1] & 0x80 ? UINT64_MAX : 0; /* the sign reaches up */
    for (uint64_t i = 0; i < n; i++) v = (v & ~((uint64_t)255 << (8 * i))) | (uint64_t)p[i] << (8 * i);
    return push(m, (swin_pk_value){ .kind = SWIN_PK_INT, .i = (int64_t)v });
}

static swin_status op_float(machine *m, unsigned char code)
{
    (void)code;
    const unsigned char *p = NULL;
    SWIN_TRY(take(m, 8, &p));
    uint64_t bits = 0; /* big-endian, alone among pickle's numbers */
    for (int i = 0; i < 8; i++) bits = bits << 8 | p[i];
    swin_pk_value v = { .kind = SWIN_PK_FLOAT };
    memcpy(&v.f, &bits, sizeof v.f);
    return push(m, v);
}

static swin_status op_text(machine *m, unsigned char code)
{
    size_t width = 4; /* X T B: BINUNICODE, BINSTRING, BINBYTES */
    if (code == 0x8c || code == 'U' || code == 'C') width = 1;
    if (code == 0x8d || code == 0x8e || code == 0x96) width = 8;
    const bool bytes = code == 'B' || code == 'C' || code == 0x8e || code == 0x96;
    uint64_t n = 0;
    const unsigned char *p = NULL;
    SWIN_TRY(take_uint(m, width, &n));
    if (n > (uint64_t)(m->end - m->at)) return broken(m, "a text goes beyond the end");
    SWIN_TRY(take(m, (size_t)n, &p));
    return push(
        m, (swin_pk_value){ .kind = bytes ? SWIN_PK_BYTES : SWIN_PK_STR, .text = { (const char *)p, n } });
}

static swin_status op_tuple(machine *m, unsigned char code)
{
    size_t n = code == ')' ? 0 : (size_t)code - 0x84, from = m->stack.n - n; /* 0x85 is TUPLE1 */
    if (code == 't') {
        SWIN_TRY(pop_mark(m, &from, &n));
    } else if (m->stack.n - floor_of(m) < n) {
        return broken(m, "a tuple of more values than the stack has");
    }
    swin_pk_value v = { .kind = SWIN_PK_TUPLE };
    if (n) SWIN_TRY(extend(m, &v, m->stack.v + from, n));
    m->stack.n = from;
    return push(m, v);
}

static swin_status op_empty(machine *m, unsigned char code)
{
    if (code == 0x8f) return push(m, (swin_pk_value){ .kind = SWIN_PK_OPAQUE, .text = { "set", 3 } });
    return push(m, (swin_pk_value){ .kind = code == ']' ? SWIN_PK_LIST : SWIN_PK_DICT });
}

/* APPEND, SETITEM take one item or pair; APPENDS, SETITEMS, ADDITEMS all above the mark. Opaque objects swallow theirs. */
static swin_status op_fill(machine *m, unsigned char code)
{
    const bool dict = code == 's' || code == 'u';
    const swin_pk_kind kind = dict ? SWIN_PK_DICT : SWIN_PK_LIST;
    size_t n = code == 's' ? 2 : 1, from = m->stack.n - n;
    if (code == 'a' || code == 's') {
        if (m->stack.n - floor_of(m) < n) return broken(m, "adds an item that the stack lacks");
    } else {
        SWIN_TRY(pop_mark(m, &from, &n));
    }
    if (dict && n % 2) return broken(m, "a key without a value");
    if (from <= floor_of(m)) return broken(m, "adds items to nothing");
    swin_pk_value *to = m->stack.v[from - 1];
    if (to->kind == kind) {
        SWIN_TRY(extend(m, to, m->stack.v + from, n));
    } else if (to->kind != SWIN_PK_OPAQUE) {
        return broken(m, "adds items to a value that holds none");
    }
    m->stack.n = from;
    return SWIN_OK;
}

/* LIST, DICT, FROZENSET: everything above the mark becomes one value. */
static swin_status op_collect(machine *m, unsigned char code)
{
    size_t from = 0, n = 0;
    SWIN_TRY(pop_mark(m, &from, &n));
    swin_pk_value v = { .kind = code == 'l' ? SWIN_PK_LIST : SWIN_PK_DICT };
    if (code == 'd' && n % 2) return broken(m, "a key without a value");
    if (code == 0x91)
        v = (swin_pk_value){ .kind = SWIN_PK_OPAQUE, .text = { "frozenset", 9 } };
    else if (n)
        SWIN_TRY(extend(m, &v, m->stack.v + from, n));
    m->stack.n = from;
    return push(m, v);
}

static swin_status push_global(machine *m, const char *module, size_t a, const char *name, size_t b)
{
    if (a + b > MAX_NAME) return broken(m, "a name is too long");
    char *text;
    SWIN_TRY(reserve(m, &text, a + b + 2));
    memcpy(text, module, a);
    text[a] = '.';
    memcpy(text + a + 1, name, b);
    text[a + 1 + b] = 0;
    for (size_t i = 0; i < a + 1 + b; i++)
        if (text[i] < 33 || text[i] > 126) text[i] = '?'; /* names are printed, and compared as texts */
    return push(m, (swin_pk_value){ .kind = SWIN_PK_GLOBAL, .text = { text, a + b + 1 } });
}

static swin_status take_line(machine *m, const char **p, size_t *n)
{
    const unsigned char *end = m->at < m->end ? memchr(m->at, '\n', (size_t)(m->end - m->at)) : NULL;
    if (!end) return broken(m, "a name without an end");
    *p = (const char *)m->at;
    *n = (size_t)(end - m->at);
    m->at = end + 1;
    return SWIN_OK;
}

static swin_status op_global(machine *m, unsigned char code)
{
    const char *module = NULL, *name = NULL;
    size_t a = 0, b = 0;
    if (code == 'c') {
        SWIN_TRY(take_line(m, &module, &a));
        SWIN_TRY(take_line(m, &name, &b));
        return push_global(m, module, a, name, b);
    }
    swin_pk_value *n = NULL, *mod = NULL;
    SWIN_TRY(pop(m, &n));
    SWIN_TRY(pop(m, &mod));
    if (n->kind != SWIN_PK_STR || mod->kind != SWIN_PK_STR) return broken(m, "a name that is no text");
    return push_global(m, mod->text.p, mod->text.n, n->text.p, n->text.n);
}

static swin_status op_reduce(machine *m, unsigned char code)
{
    swin_pk_value *what = NULL, *args = NULL, *keywords = NULL;
    if (code == 0x92) SWIN_TRY(pop(m, &keywords)); /* NEWOBJ_EX */
    SWIN_TRY(pop(m, &args));
    SWIN_TRY(pop(m, &what));
    return construct(m, what, args);
}

/* The state of an object (an OrderedDict's _metadata, a class's attributes) is dropped. */
static swin_status op_build(machine *m, unsigned char code)
{
    (void)code;
    swin_pk_value *state, *object;
    SWIN_TRY(pop(m, &state));
    return top(m, &object);
}

static swin_status op_persid(machine *m, unsigned char code)
{
    (void)code;
    swin_pk_value *id = NULL;
    SWIN_TRY(pop(m, &id));
    const bool tuple = id->kind == SWIN_PK_TUPLE && id->items.n >= 1 && id->items.v[0]->kind == SWIN_PK_STR;
    const swin_pk_value *word = tuple ? id->items.v[0] : NULL;
    if (tuple && id->items.n >= 5 && word->text.n == 7 && memcmp(word->text.p, "storage", 7) == 0)
        return push_storage(m, id);
    /* Legacy files keep a module's source code this way. */
    return push_opaque(m, tuple && id->items.n >= 2 ? id->items.v[1] : id);
}

static swin_status op_put(machine *m, unsigned char code)
{
    swin_pk_value *v = NULL;
    uint64_t index = m->memo.n; /* MEMOIZE */
    SWIN_TRY(top(m, &v));
    if (code != 0x94) SWIN_TRY(take_uint(m, code == 'q' ? 1 : 4, &index));
    if (index >= MAX_STACK || index > (uint64_t)(m->end - m->start))
        return broken(m, "its memo is too large");
    while (m->memo.n <= index) SWIN_TRY(append(&m->memo, NULL, m));
    m->memo.v[index] = v;
    return SWIN_OK;
}

static swin_status op_get(machine *m, unsigned char code)
{
    uint64_t index = 0;
    SWIN_TRY(take_uint(m, code == 'h' ? 1 : 4, &index));
    if (index >= m->memo.n || !m->memo.v[index]) return broken(m, "asks its memo for what it never kept");
    return append(&m->stack, m->memo.v[index], m);
}

static const opcode opcodes[256] = {
    [0x80] = op_proto,   [0x95] = op_frame, ['.'] = op_stop,     ['('] = op_mark,      ['0'] = op_pop,
    ['1'] = op_pop,      ['2'] = op_dup,    ['N'] = op_constant, [0x88] = op_constant, [0x89] = op_constant,
    ['J'] = op_int,      ['K'] = op_int,    ['M'] = op_int,      [0x8a] = op_long,     [0x8b] = op_long,
    ['G'] = op_float,    ['X'] = op_text,   [0x8c] = op_text,    [0x8d] = op_text,     ['T'] = op_text,
    ['U'] = op_text,     ['B'] = op_text,   ['C'] = op_text,     [0x8e] = op_text,     [0x96] = op_text,
    [')'] = op_tuple,    ['t'] = op_tuple,  [0x85] = op_tuple,   [0x86] = op_tuple,    [0x87] = op_tuple,
    [']'] = op_empty,    ['}'] = op_empty,  [0x8f] = op_empty,   ['l'] = op_collect,   ['d'] = op_collect,
    [0x91] = op_collect, ['a'] = op_fill,   ['e'] = op_fill,     ['s'] = op_fill,      ['u'] = op_fill,
    [0x90] = op_fill,    ['c'] = op_global, [0x93] = op_global,  ['R'] = op_reduce,    [0x81] = op_reduce,
    [0x92] = op_reduce,  ['b'] = op_build,  ['Q'] = op_persid,   ['q'] = op_put,       ['r'] = op_put,
    [0x94] = op_put,     ['h'] = op_get,    ['j'] = op_get,
};

static swin_status execute(machine *m, swin_pk_value **root)
{
    while (!m->stopped) {
        if (m->at == m->end) return broken(m, "ends without STOP");
        const unsigned char code = *m->at;
        if (!opcodes[code])
            return swin_fail(SWIN_ERR_FORMAT,
                             "pickle, byte %zu: opcode 0x%02x is not one that checkpoints use",
                             (size_t)(m->at - m->start), code);
        m->at++;
        SWIN_TRY(opcodes[code](m, code));
    }
    return pop(m, root);
}

swin_status swin_pickle_read(swin_pickle *pk, const unsigned char *data, size_t size, swin_pk_value **root,
                             size_t *taken)
{
    machine m = { .pk = pk, .start = data, .at = data, .end = data + size };
    *root = NULL;
    const swin_status st = execute(&m, root);
    if (taken) *taken = (size_t)(m.at - m.start);
    free(m.stack.v);
    free(m.memo.v);
    free(m.marks);
    return st;
}

void swin_pickle_free(swin_pickle *pk)
{
    for (block *b = pk->blocks, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    *pk = (swin_pickle){ 0 };
}

swin_pk_value *swin_pk_get(const swin_pk_value *d, const char *key)
{
    const size_t n = strlen(key);
    for (uint32_t i = d && d->kind == SWIN_PK_DICT ? d->items.n : 0; i >= 2; i -= 2) {
        const swin_pk_value *k = d->items.v[i - 2];
        if (k->kind == SWIN_PK_STR && k->text.n == n && memcmp(k->text.p, key, n) == 0)
            return d->items.v[i - 1];
    }
    return NULL;
}
