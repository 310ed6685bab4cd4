/* torch.save's older form: five pickles (magic number, version, machine, structure, storage keys), then the storages' bytes
 * in the order of the keys, each after its 64-bit number of elements. */
#include <stdlib.h>
#include <string.h>

#include "runtime/swin/checkpoint_impl.h"

static const unsigned char magic[] = { 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19 };

/* A storage by its key: how wide its elements are, and where its bytes turned out to be. */
typedef struct stored {
    const char *key;
    size_t key_size, element;
    int64_t numel;
    swin_ckpt_bytes bytes;
} stored;

typedef struct stream {
    swin_ckpt *ck;
    size_t at; /* bytes of the map that are used up */
    swin_pickle pk;
    stored *storages; /* sorted by key */
    size_t count;
} stream;

static int compare_keys(const void *a, const void *b)
{
    const stored *x = a, *y = b;
    const size_t n = x->key_size < y->key_size ? x->key_size : y->key_size;
    const int order = n ? memcmp(x->key, y->key, n) : 0;
    return order ? order : (x->key_size > y->key_size) - (x->key_size < y->key_size);
}

static swin_status next_pickle(stream *s, swin_pk_value **v)
{
    const size_t left = s->ck->map.size - s->at;
    size_t taken = 0;
    const swin_status st = swin_pickle_read(&s->pk, s->ck->map.data + s->at,
                                            left < SWIN_CKPT_MAX_PICKLE ? left : SWIN_CKPT_MAX_PICKLE, v,
                                            &taken);
    if (st != SWIN_OK) return swin_fail_context(st, "%s: after %zu bytes", s->ck->path, s->at);
    s->at += taken;
    return SWIN_OK;
}

static swin_status read_preamble(stream *s)
{
    swin_pk_value *v;
    const swin_status st = next_pickle(s, &v);
    if (st != SWIN_OK) return st;
    if (v->kind != SWIN_PK_BIGINT || v->text.n != sizeof magic || memcmp(v->text.p, magic, sizeof magic) != 0)
        return swin_fail(SWIN_ERR_FORMAT, "%s: a pickle, but not one of torch.save", s->ck->path);
    SWIN_TRY(next_pickle(s, &v));
    if (v->kind != SWIN_PK_INT || v->i != 1001)
        return swin_fail(SWIN_ERR_UNSUPPORTED, "%s: a version of torch.save's legacy form that is not 1001",
                         s->ck->path);
    SWIN_TRY(next_pickle(s, &v));
    const swin_pk_value *little = swin_pk_get(v, "little_endian");
    if (little && little->kind == SWIN_PK_BOOL && !little->i)
        return swin_fail(SWIN_ERR_UNSUPPORTED, "%s: written on a big-endian machine", s->ck->path);
    return SWIN_OK;
}

/* One entry for each key that the structure mentions. */
static swin_status collect_storages(stream *s)
{
    size_t n = 0;
    for (const swin_pk_storage *p = s->pk.storages; p; p = p->next) n++;
    s->storages = calloc(n + 1, sizeof *s->storages);
    if (!s->storages) return swin_fail(SWIN_ERR_MEM, "%s: no memory", s->ck->path);
    n = 0;
    for (const swin_pk_storage *p = s->pk.storages; p; p = p->next)
        s->storages[n++] =
            (stored){ p->key, p->key_size, swin_ckpt_storage_element(p->type), p->numel, { 0 } };
    qsort(s->storages, n, sizeof *s->storages, compare_keys);
    for (size_t i = 0; i < n; i++) {
        stored *last = s->count ? &s->storages[s->count - 1] : NULL;
        if (!last || compare_keys(last, &s->storages[i]) != 0)
            s->storages[s->count++] = s->storages[i];
        else if (last->element != s->storages[i].element || last->numel != s->storages[i].numel)
            return swin_fail(SWIN_ERR_FORMAT, "%s: one storage has two types or sizes", s->ck->path);
    }
    return SWIN_OK;
}

static stored *find_key(const stream *s, const char *key, size_t size)
{
    const stored wanted = { .key = key, .key_size = size };
    return bsearch(&wanted, s->storages, s->count, sizeof *s->storages, compare_keys);
}

/* Note where each listed storage's bytes are. */
static swin_status locate_storages(stream *s, const swin_pk_value *keys)
{
    const swin_map *m = &s->ck->map;
    if (keys->kind != SWIN_PK_LIST)
        return swin_fail(SWIN_ERR_FORMAT, "%s: has no list of storages", s->ck->path);
    for (uint32_t i = 0; i < keys->items.n; i++) {
        const swin_pk_value *k = keys->items.v[i];
        stored *found = k->kind == SWIN_PK_STR ? find_key(s, k->text.p, k->text.n) : NULL;
        if (!found || !found->element)
            return swin_fail(SWIN_ERR_FORMAT, "%s: storage %u of its list has no known type", s->ck->path, i);
        uint64_t numel = 0;
        if (m->size - s->at < 8)
            return swin_fail(SWIN_ERR_FORMAT, "%s: ends before storage %u", s->ck->path, i);
        for (int b = 0; b < 8; b++) numel |= (uint64_t)m->data[s->at + (size_t)b] << (8 * b);
        s->at += 8;
        if (numel != (uint64_t)found->numel || numel > (m->size - s->at) / found->element)
            return swin_fail(SWIN_ERR_FORMAT,
                             "%s: storage %u has %llu elements: not what was announced, or truncated",
                             s->ck->path, i, (unsigned long long)numel);
        found->bytes = (swin_ckpt_bytes){ m->data + s->at, (size_t)numel * found->element };
        s->at += found->bytes.size;
    }
    return SWIN_OK;
}

static swin_status find_storage(void *user, const swin_pk_storage *p, swin_ckpt_bytes *bytes)
{
    const stream *s = user;
    const stored *found = find_key(s, p->key, p->key_size);
    if (!found || !found->bytes.data) return swin_fail(SWIN_ERR_FORMAT, "its storage is not in the file");
    *bytes = (swin_ckpt_bytes){ found->bytes.data + (size_t)p->view_offset * found->element,
                                (size_t)p->view_size * found->element };
    return SWIN_OK;
}

static swin_status read_stream(stream *s)
{
    swin_pk_value *root, *keys;
    SWIN_TRY(read_preamble(s));
    SWIN_TRY(next_pickle(s, &root));
    SWIN_TRY(next_pickle(s, &keys));
    SWIN_TRY(collect_storages(s));
    SWIN_TRY(locate_storages(s, keys));
    return swin_ckpt_add_pickled(s->ck, root, find_storage, s);
}

swin_status swin_ckpt_read_legacy(swin_ckpt *ck)
{
    stream s = { .ck = ck };
    ck->container = "pth (legacy)";
    const swin_status st = read_stream(&s);
    swin_pickle_free(&s.pk);
    free(s.storages);
    return st;
}
