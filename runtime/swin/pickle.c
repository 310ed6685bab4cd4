/* The opcodes of a pickle; the names are pickletools'. */
#include "runtime/swin/pickle.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/swin/pickle_impl.h"

#define MAX_NAME 512

typedef swin_status (*opcode)(pk_machine *m, unsigned char code);

static swin_status op_proto(pk_machine *m, unsigned char code)
{
    (void)code;
    uint64_t v = 0;
    SWIN_TRY(pk_take_uint(m, 1, &v));
    return v >= 2 && v <= 5 ? SWIN_OK : pk_broken(m, "its protocol is not 2 to 5");
}

static swin_status op_frame(pk_machine *m, unsigned char code)
{
    (void)code;
    uint64_t ignored; /* frames only help readers of pipes */
    return pk_take_uint(m, 8, &ignored);
}

static swin_status op_stop(pk_machine *m, unsigned char code)
{
    (void)code;
    m->stopped = true;
    return SWIN_OK;
}

static swin_status op_mark(pk_machine *m, unsigned char code)
{
    (void)code;
    if (m->nmarks == m->cap_marks) {
        if (m->cap_marks >= PK_MAX_STACK)
            return pk_broken(m, "its stack is deeper than any checkpoint needs");
        const size_t cap = m->cap_marks ? 2 * m->cap_marks : 64;
        size_t *grown = realloc(m->marks, cap * sizeof *grown);
        if (!grown) return swin_fail(SWIN_ERR_MEM, "no memory for the marks of a pickle");
        m->marks = grown;
        m->cap_marks = cap;
    }
    m->marks[m->nmarks++] = m->stack.n;
    return SWIN_OK;
}

static swin_status op_pop(pk_machine *m, unsigned char code)
{
    swin_pk_value *v;
    size_t from = 0, n = 0;
    if (code == '1' || (m->nmarks && m->stack.n == pk_floor(m))) { /* POP_MARK; POP of a mark */
        SWIN_TRY(pk_pop_mark(m, &from, &n));
        m->stack.n = from;
        return SWIN_OK;
    }
    return pk_pop(m, &v);
}

static swin_status op_dup(pk_machine *m, unsigned char code)
{
    (void)code;
    swin_pk_value *v = NULL;
    SWIN_TRY(pk_top(m, &v));
    return pk_append(&m->stack, v, m);
}

static swin_status op_constant(pk_machine *m, unsigned char code)
{
    if (code == 'N') return pk_push(m, (swin_pk_value){ .kind = SWIN_PK_NONE });
    return pk_push(m, (swin_pk_value){ .kind = SWIN_PK_BOOL, .i = code == 0x88 });
}

static swin_status op_int(pk_machine *m, unsigned char code)
{
    uint64_t v = 0;
    SWIN_TRY(pk_take_uint(m, code == 'J' ? 4 : code == 'M' ? 2 : 1, &v));
    return pk_push(
        m, (swin_pk_value){ .kind = SWIN_PK_INT, .i = code == 'J' ? (int32_t)(uint32_t)v : (int64_t)v });
}

static swin_status op_long(pk_machine *m, unsigned char code)
{
    uint64_t n = 0;
    const unsigned char *p = NULL;
    SWIN_TRY(pk_take_uint(m, code == 0x8a ? 1 : 4, &n));
    SWIN_TRY(pk_take(m, (size_t)n, &p));
    if (n > 8)
        return pk_push(m, (swin_pk_value){ .kind = SWIN_PK_BIGINT, .text = { (const char *)p, (size_t)n } });
    uint64_t v = n && p[n - 1] & 0x80 ? UINT64_MAX : 0; /* the sign reaches up */
    for (uint64_t i = 0; i < n; i++) v = (v & ~((uint64_t)255 << (8 * i))) | (uint64_t)p[i] << (8 * i);
    return pk_push(m, (swin_pk_value){ .kind = SWIN_PK_INT, .i = (int64_t)v });
}

static swin_status op_float(pk_machine *m, unsigned char code)
{
    (void)code;
    const unsigned char *p = NULL;
    SWIN_TRY(pk_take(m, 8, &p));
    uint64_t bits = 0; /* big-endian, alone among pickle's numbers */
    for (int i = 0; i < 8; i++) bits = bits << 8 | p[i];
    swin_pk_value v = { .kind = SWIN_PK_FLOAT };
    memcpy(&v.f, &bits, sizeof v.f);
    return pk_push(m, v);
}

static swin_status op_text(pk_machine *m, unsigned char code)
{
    size_t width = 4; /* X T B: BINUNICODE, BINSTRING, BINBYTES */
    if (code == 0x8c || code == 'U' || code == 'C') width = 1;
    if (code == 0x8d || code == 0x8e || code == 0x96) width = 8;
    const bool bytes = code == 'B' || code == 'C' || code == 0x8e || code == 0x96;
    uint64_t n = 0;
    const unsigned char *p = NULL;
    SWIN_TRY(pk_take_uint(m, width, &n));
    if (n > (uint64_t)(m->end - m->at)) return pk_broken(m, "a text goes beyond the end");
    SWIN_TRY(pk_take(m, (size_t)n, &p));
    return pk_push(
        m, (swin_pk_value){ .kind = bytes ? SWIN_PK_BYTES : SWIN_PK_STR, .text = { (const char *)p, n } });
}

static swin_status op_tuple(pk_machine *m, unsigned char code)
{
    size_t n = code == ')' ? 0 : (size_t)code - 0x84, from = m->stack.n - n; /* 0x85 is TUPLE1 */
    if (code == 't') {
        SWIN_TRY(pk_pop_mark(m, &from, &n));
    } else if (m->stack.n - pk_floor(m) < n) {
        return pk_broken(m, "a tuple of more values than the stack has");
    }
    swin_pk_value v = { .kind = SWIN_PK_TUPLE };
    if (n) SWIN_TRY(pk_extend(m, &v, m->stack.v + from, n));
    m->stack.n = from;
    return pk_push(m, v);
}

static swin_status op_empty(pk_machine *m, unsigned char code)
{
    if (code == 0x8f) return pk_push(m, (swin_pk_value){ .kind = SWIN_PK_OPAQUE, .text = { "set", 3 } });
    return pk_push(m, (swin_pk_value){ .kind = code == ']' ? SWIN_PK_LIST : SWIN_PK_DICT });
}

/* APPEND, SETITEM take one item or pair; APPENDS, SETITEMS, ADDITEMS all above the mark. Opaque objects swallow theirs. */
static swin_status op_fill(pk_machine *m, unsigned char code)
{
    const bool dict = code == 's' || code == 'u';
    const swin_pk_kind kind = dict ? SWIN_PK_DICT : SWIN_PK_LIST;
    size_t n = code == 's' ? 2 : 1, from = m->stack.n - n;
    if (code == 'a' || code == 's') {
        if (m->stack.n - pk_floor(m) < n) return pk_broken(m, "adds an item that the stack lacks");
    } else {
        SWIN_TRY(pk_pop_mark(m, &from, &n));
    }
    if (dict && n % 2) return pk_broken(m, "a key without a value");
    if (from <= pk_floor(m)) return pk_broken(m, "adds items to nothing");
    swin_pk_value *to = m->stack.v[from - 1];
    if (to->kind == kind) {
        SWIN_TRY(pk_extend(m, to, m->stack.v + from, n));
    } else if (to->kind != SWIN_PK_OPAQUE) {
        return pk_broken(m, "adds items to a value that holds none");
    }
    m->stack.n = from;
    return SWIN_OK;
}

/* LIST, DICT, FROZENSET: everything above the mark becomes one value. */
static swin_status op_collect(pk_machine *m, unsigned char code)
{
    size_t from = 0, n = 0;
    SWIN_TRY(pk_pop_mark(m, &from, &n));
    swin_pk_value v = { .kind = code == 'l' ? SWIN_PK_LIST : SWIN_PK_DICT };
    if (code == 'd' && n % 2) return pk_broken(m, "a key without a value");
    if (code == 0x91)
        v = (swin_pk_value){ .kind = SWIN_PK_OPAQUE, .text = { "frozenset", 9 } };
    else if (n)
        SWIN_TRY(pk_extend(m, &v, m->stack.v + from, n));
    m->stack.n = from;
    return pk_push(m, v);
}

static swin_status push_global(pk_machine *m, const char *module, size_t a, const char *name, size_t b)
{
    if (a + b > MAX_NAME) return pk_broken(m, "a name is too long");
    char *text;
    SWIN_TRY(pk_reserve(m, &text, a + b + 2));
    memcpy(text, module, a);
    text[a] = '.';
    memcpy(text + a + 1, name, b);
    text[a + 1 + b] = 0;
    for (size_t i = 0; i < a + 1 + b; i++)
        if (text[i] < 33 || text[i] > 126) text[i] = '?'; /* names are printed, and compared as texts */
    return pk_push(m, (swin_pk_value){ .kind = SWIN_PK_GLOBAL, .text = { text, a + b + 1 } });
}

static swin_status take_line(pk_machine *m, const char **p, size_t *n)
{
    const unsigned char *end = m->at < m->end ? memchr(m->at, '\n', (size_t)(m->end - m->at)) : NULL;
    if (!end) return pk_broken(m, "a name without an end");
    *p = (const char *)m->at;
    *n = (size_t)(end - m->at);
    m->at = end + 1;
    return SWIN_OK;
}

static swin_status op_global(pk_machine *m, unsigned char code)
{
    const char *module = NULL, *name = NULL;
    size_t a = 0, b = 0;
    if (code == 'c') {
        SWIN_TRY(take_line(m, &module, &a));
        SWIN_TRY(take_line(m, &name, &b));
        return push_global(m, module, a, name, b);
    }
    swin_pk_value *n = NULL, *mod = NULL;
    SWIN_TRY(pk_pop(m, &n));
    SWIN_TRY(pk_pop(m, &mod));
    if (n->kind != SWIN_PK_STR || mod->kind != SWIN_PK_STR) return pk_broken(m, "a name that is no text");
    return push_global(m, mod->text.p, mod->text.n, n->text.p, n->text.n);
}

static swin_status op_reduce(pk_machine *m, unsigned char code)
{
    swin_pk_value *what = NULL, *args = NULL, *keywords = NULL;
    if (code == 0x92) SWIN_TRY(pk_pop(m, &keywords)); /* NEWOBJ_EX */
    SWIN_TRY(pk_pop(m, &args));
    SWIN_TRY(pk_pop(m, &what));
    return pk_construct(m, what, args);
}

/* The state of an object (an OrderedDict's _metadata, a class's attributes) is dropped. */
static swin_status op_build(pk_machine *m, unsigned char code)
{
    (void)code;
    swin_pk_value *state, *object;
    SWIN_TRY(pk_pop(m, &state));
    return pk_top(m, &object);
}

static swin_status op_persid(pk_machine *m, unsigned char code)
{
    (void)code;
    swin_pk_value *id = NULL;
    SWIN_TRY(pk_pop(m, &id));
    const bool tuple = id->kind == SWIN_PK_TUPLE && id->items.n >= 1 && id->items.v[0]->kind == SWIN_PK_STR;
    const swin_pk_value *word = tuple ? id->items.v[0] : NULL;
    if (tuple && id->items.n >= 5 && word->text.n == 7 && memcmp(word->text.p, "storage", 7) == 0)
        return pk_push_storage(m, id);
    /* Legacy files keep a module's source code this way. */
    return pk_push_opaque(m, tuple && id->items.n >= 2 ? id->items.v[1] : id);
}

static swin_status op_put(pk_machine *m, unsigned char code)
{
    swin_pk_value *v = NULL;
    uint64_t index = m->memo.n; /* MEMOIZE */
    SWIN_TRY(pk_top(m, &v));
    if (code != 0x94) SWIN_TRY(pk_take_uint(m, code == 'q' ? 1 : 4, &index));
    if (index >= PK_MAX_STACK || index > (uint64_t)(m->end - m->start))
        return pk_broken(m, "its memo is too large");
    while (m->memo.n <= index) SWIN_TRY(pk_append(&m->memo, NULL, m));
    m->memo.v[index] = v;
    return SWIN_OK;
}

static swin_status op_get(pk_machine *m, unsigned char code)
{
    uint64_t index = 0;
    SWIN_TRY(pk_take_uint(m, code == 'h' ? 1 : 4, &index));
    if (index >= m->memo.n || !m->memo.v[index]) return pk_broken(m, "asks its memo for what it never kept");
    return pk_append(&m->stack, m->memo.v[index], m);
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

static swin_status execute(pk_machine *m, swin_pk_value **root)
{
    while (!m->stopped) {
        if (m->at == m->end) return pk_broken(m, "ends without STOP");
        const unsigned char code = *m->at;
        if (!opcodes[code])
            return swin_fail(SWIN_ERR_FORMAT,
                             "pickle, byte %zu: opcode 0x%02x is not one that checkpoints use",
                             (size_t)(m->at - m->start), code);
        m->at++;
        SWIN_TRY(opcodes[code](m, code));
    }
    return pk_pop(m, root);
}

swin_status swin_pickle_read(swin_pickle *pk, const unsigned char *data, size_t size, swin_pk_value **root,
                             size_t *taken)
{
    pk_machine m = { .pk = pk, .start = data, .at = data, .end = data + size };
    *root = NULL;
    const swin_status st = execute(&m, root);
    if (taken) *taken = (size_t)(m.at - m.start);
    free(m.stack.v);
    free(m.memo.v);
    free(m.marks);
    return st;
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
