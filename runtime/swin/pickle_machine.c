/* The stack, the memory and the stream of a pickle machine, all of them bounded. */
#include <stdlib.h>
#include <string.h>

#include "runtime/swin/pickle_impl.h"

#define MAX_MEMORY  ((size_t)256 << 20) /* of all values: real checkpoints need a few megabytes */
#define BLOCK_BYTES ((size_t)64 << 10)

typedef struct pk_block {
    struct pk_block *next;
    size_t size, used;
    max_align_t data[];
} pk_block;

swin_status pk_broken(const pk_machine *m, const char *why)
{
    return swin_fail(SWIN_ERR_FORMAT, "pickle, byte %zu: %s", (size_t)(m->at - m->start), why);
}

swin_status pk_reserve(pk_machine *m, void *out, size_t size)
{
    swin_pickle *pk = m->pk;
    pk_block *b = pk->blocks;
    size = (size + sizeof(max_align_t) - 1) & ~(sizeof(max_align_t) - 1);
    if (size > MAX_MEMORY - pk->used) return pk_broken(m, "holds more values than any checkpoint needs");
    if (!b || b->size - b->used < size) {
        const size_t room = size > BLOCK_BYTES ? size : BLOCK_BYTES;
        pk_block *fresh = malloc(sizeof *fresh + room);
        if (!fresh) return swin_fail(SWIN_ERR_MEM, "no memory for the values of a pickle");
        *fresh = (pk_block){ .next = b, .size = room };
        pk->blocks = b = fresh;
    }
    void *p = (char *)b->data + b->used;
    b->used += size;
    pk->used += size;
    memcpy(out, &p, sizeof p);
    return SWIN_OK;
}

swin_status pk_append(pk_pointers *a, swin_pk_value *v, const pk_machine *m)
{
    if (a->n == a->cap) {
        if (a->cap >= PK_MAX_STACK) return pk_broken(m, "its stack is deeper than any checkpoint needs");
        const size_t cap = a->cap ? 2 * a->cap : 256;
        swin_pk_value **grown = realloc(a->v, cap * sizeof *grown);
        if (!grown) return swin_fail(SWIN_ERR_MEM, "no memory for the stack of a pickle");
        a->v = grown;
        a->cap = cap;
    }
    a->v[a->n++] = v;
    return SWIN_OK;
}

swin_status pk_push(pk_machine *m, swin_pk_value v)
{
    swin_pk_value *kept;
    SWIN_TRY(pk_reserve(m, &kept, sizeof *kept));
    *kept = v;
    return pk_append(&m->stack, kept, m);
}

size_t pk_floor(const pk_machine *m)
{
    return m->nmarks ? m->marks[m->nmarks - 1] : 0;
}

swin_status pk_pop(pk_machine *m, swin_pk_value **v)
{
    if (m->stack.n <= pk_floor(m)) return pk_broken(m, "takes a value from an empty stack");
    *v = m->stack.v[--m->stack.n];
    return SWIN_OK;
}

swin_status pk_top(pk_machine *m, swin_pk_value **v)
{
    if (m->stack.n <= pk_floor(m)) return pk_broken(m, "needs a value on an empty stack");
    *v = m->stack.v[m->stack.n - 1];
    return SWIN_OK;
}

swin_status pk_pop_mark(pk_machine *m, size_t *from, size_t *count)
{
    if (!m->nmarks) return pk_broken(m, "has no mark");
    *from = m->marks[--m->nmarks];
    *count = m->stack.n - *from;
    return SWIN_OK;
}

swin_status pk_take(pk_machine *m, size_t n, const unsigned char **p)
{
    if ((size_t)(m->end - m->at) < n) return pk_broken(m, "ends too early");
    *p = m->at;
    m->at += n;
    return SWIN_OK;
}

swin_status pk_take_uint(pk_machine *m, size_t n, uint64_t *v)
{
    const unsigned char *p = NULL;
    SWIN_TRY(pk_take(m, n, &p));
    *v = 0;
    for (size_t i = 0; i < n; i++) *v |= (uint64_t)p[i] << (8 * i);
    return SWIN_OK;
}

swin_status pk_extend(pk_machine *m, swin_pk_value *to, swin_pk_value **v, size_t n)
{
    if (n > PK_MAX_STACK || to->items.n + n > UINT32_MAX / 2) return pk_broken(m, "has too long a list");
    const uint32_t need = to->items.n + (uint32_t)n;
    if (need > to->items.cap) {
        const uint32_t cap = need < 8 ? 8 : need + need / 2;
        swin_pk_value **grown;
        SWIN_TRY(pk_reserve(m, &grown, cap * sizeof *grown));
        if (to->items.n) memcpy(grown, to->items.v, to->items.n * sizeof *grown);
        to->items.v = grown;
        to->items.cap = cap;
    }
    if (n) memcpy(to->items.v + to->items.n, v, n * sizeof *v);
    to->items.n = need;
    return SWIN_OK;
}

void swin_pickle_free(swin_pickle *pk)
{
    for (pk_block *b = pk->blocks, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    *pk = (swin_pickle){ 0 };
}
