/* runtime/swin/pickle_impl.h - the machine that pickle.c drives; for pickle*.c alone.
 *
 * Every function that can fail says at which byte of the stream.
 */
#ifndef SWIN_SWIN_PICKLE_IMPL_H
#define SWIN_SWIN_PICKLE_IMPL_H

#include <stdbool.h>

#include "runtime/swin/pickle.h"

#define PK_MAX_STACK ((size_t)4 << 20)

typedef struct pk_pointers { /* a growing array */
    swin_pk_value **v;
    size_t n, cap;
} pk_pointers;

typedef struct pk_machine {
    swin_pickle *pk;
    const unsigned char *start, *at, *end;
    pk_pointers stack, memo;
    size_t *marks, nmarks, cap_marks; /* stack heights */
    bool stopped;
} pk_machine;

swin_status pk_broken(const pk_machine *m, const char *why);

/* ---- memory and stack (pickle_machine.c) ---- */

/* size bytes that live as long as the pickle; *out is a pointer of any type. */
swin_status pk_reserve(pk_machine *m, void *out, size_t size);

swin_status pk_append(pk_pointers *a, swin_pk_value *v, const pk_machine *m);
swin_status pk_push(pk_machine *m, swin_pk_value v); /* a copy of it */
swin_status pk_pop(pk_machine *m, swin_pk_value **v);
swin_status pk_top(pk_machine *m, swin_pk_value **v);

/* The stack's height at the newest mark: what lies below is out of reach. */
size_t pk_floor(const pk_machine *m);
/* Forget the newest mark; *from is the stack height it kept, *count the values above it. */
swin_status pk_pop_mark(pk_machine *m, size_t *from, size_t *count);

/* Add n values to those of a tuple, list or dict. */
swin_status pk_extend(pk_machine *m, swin_pk_value *to, swin_pk_value **v, size_t n);

/* The next n bytes of the stream; the same as a little-endian unsigned number, n <= 8. */
swin_status pk_take(pk_machine *m, size_t n, const unsigned char **p);
swin_status pk_take_uint(pk_machine *m, size_t n, uint64_t *v);

/* ---- known constructors (pickle_objects.c) ---- */

/* What calling `what` with args makes: a value of its own kind, or an opaque one. */
swin_status pk_construct(pk_machine *m, const swin_pk_value *what, const swin_pk_value *args);
swin_status pk_push_opaque(pk_machine *m, const swin_pk_value *from);
/* ('storage', type, key, location, numel[, (view key, offset, size)]) */
swin_status pk_push_storage(pk_machine *m, const swin_pk_value *id);

#endif
