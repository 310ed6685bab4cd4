/* torch.save's zip form: <name>/data.pkl holds the structure, <name>/data/<key> one storage each.
 *
 * libzip reads the directory and unpacks deflated members. torch stores its members as they are, and those are used where
 * they lie in the map: libzip does not tell where that is, so the central directory is walked once more for it, each entry
 * held against what libzip says.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zip.h>

#include "runtime/swin/checkpoint_impl.h"

#define MAX_PREFIX   256
#define MAX_UNPACKED ((size_t)8 << 30) /* bytes of all deflated storages */

typedef struct member {
    const unsigned char *data; /* in the map, or unpacked; NULL: not unpacked yet */
    size_t size;
} member;

typedef struct archive {
    swin_ckpt *ck;
    zip_t *zip;
    member *members; /* by libzip's index */
    uint64_t count;
    char prefix[MAX_PREFIX]; /* "archive/" */
} archive;

static uint64_t le(const unsigned char *p, int bytes)
{
    uint64_t v = 0;
    for (int i = 0; i < bytes; i++) v |= (uint64_t)p[i] << (8 * i);
    return v;
}

/* Where the central directory starts; map->size when that cannot be told. */
static size_t directory_start(const swin_map *m)
{
    const unsigned char *p = m->data;
    const size_t n = m->size,
                 farthest = n > 65557 ? n - 65557 : 0; /* the end record and the longest comment */
    for (size_t at = n >= 22 ? n - 22 : 0; at > farthest; at--) {
        if (memcmp(p + at, "PK\5\6", 4) != 0) continue;
        const uint64_t start = le(p + at + 16, 4);
        if (start != 0xffffffffu && start < n) return (size_t)start;
        if (at < 20 || memcmp(p + at - 20, "PK\6\7", 4) != 0) return n;
        const uint64_t end64 = le(p + at - 12, 8);
        if (n < 56 || end64 > n - 56 || memcmp(p + end64, "PK\6\6", 4) != 0) return n;
        const uint64_t start64 = le(p + end64 + 48, 8);
        return start64 < n ? (size_t)start64 : n;
    }
    return n;
}

/* The local header's offset, from the ZIP64 field when the 32-bit one is full. UINT64_MAX: not there. */
static uint64_t local_offset(const unsigned char *entry)
{
    const uint64_t offset = le(entry + 42, 4);
    if (offset != 0xffffffffu) return offset;
    const unsigned char *p = entry + 46 + le(entry + 28, 2), *end = p + le(entry + 30, 2);
    for (; end - p >= 4; p += 4 + le(p + 2, 2)) {
        if (le(p, 2) != 1) continue;
        /* Present in this order: size, packed size, offset; each only when its 32-bit field is full. */
        const int skip = (le(entry + 24, 4) == 0xffffffffu ? 8 : 0) +
                         (le(entry + 20, 4) == 0xffffffffu ? 8 : 0);
        const int64_t size = (int64_t)le(p + 2, 2);
        return size >= skip + 8 && end - p >= 4 + skip + 8 ? le(p + 4 + skip, 8) : UINT64_MAX;
    }
    return UINT64_MAX;
}

/* The bytes of a stored member, or NULL when its headers do not agree with libzip's view. */
static const unsigned char *stored_at(const swin_map *m, const unsigned char *entry, const zip_stat_t *s)
{
    const uint64_t offset = local_offset(entry);
    if (m->size < 30 || offset > m->size - 30) return NULL;
    const unsigned char *local = m->data + offset;
    const uint64_t data = offset + 30 + le(local + 26, 2) + le(local + 28, 2);
    if (memcmp(local, "PK\3\4", 4) != 0 || data > m->size || s->size > m->size - data) return NULL;
    return m->data + data;
}

/* Find stored members in the map. What is not found is read through libzip later: slower, never wrong. */
static void locate_stored(archive *a)
{
    const swin_map *m = &a->ck->map;
    size_t at = directory_start(m);
    for (uint64_t i = 0; i < a->count; i++) {
        if (at > m->size || m->size - at < 46 || memcmp(m->data + at, "PK\1\2", 4) != 0) return;
        const unsigned char *entry = m->data + at;
        const size_t name = le(entry + 28, 2), extra = le(entry + 30, 2), comment = le(entry + 32, 2);
        if (m->size - at - 46 < name + extra + comment) return;
        zip_stat_t s;
        if (zip_stat_index(a->zip, i, ZIP_FL_ENC_RAW, &s) != 0 || !s.name || strlen(s.name) != name ||
            memcmp(s.name, entry + 46, name) != 0)
            return;
        if (s.comp_method == ZIP_CM_STORE && s.size == s.comp_size && s.encryption_method == ZIP_EM_NONE)
            a->members[i].data = stored_at(m, entry, &s);
        at += 46 + name + extra + comment;
    }
}

static swin_status zip_fault(const archive *a, const char *what)
{
    return swin_fail(SWIN_ERR_FORMAT, "%s: %s: %s", a->ck->path, what, zip_strerror(a->zip));
}

/* Read a member into memory of ck's. Its size is the directory's claim: deflate cannot exceed about 1032 to 1. */
static swin_status unpack(archive *a, uint64_t index, const zip_stat_t *s)
{
    swin_ckpt *ck = a->ck;
    if (s->size > ck->map.size * 1100 || s->size > MAX_UNPACKED - ck->unpacked)
        return swin_fail(SWIN_ERR_FORMAT, "%s: %s claims %llu bytes", ck->path, s->name,
                         (unsigned long long)s->size);
    unsigned char *p = malloc(s->size ? s->size : 1);
    if (!p) return swin_fail(SWIN_ERR_MEM, "%s: no memory for %s", ck->path, s->name);
    SWIN_TRY(swin_ckpt_own(ck, p));
    ck->unpacked += s->size;
    zip_file_t *f = zip_fopen_index(a->zip, index, 0);
    if (!f) return zip_fault(a, s->name);
    const zip_int64_t got = zip_fread(f, p, s->size);
    /* One byte more makes libzip compare the checksum. */
    const zip_int64_t more = zip_fread(f, &(unsigned char){ 0 }, 1);
    const bool bad = zip_fclose(f) != 0 || got < 0 || (uint64_t)got != s->size || more != 0;
    if (bad)
        return swin_fail(SWIN_ERR_FORMAT, "%s: %s cannot be unpacked (truncated or damaged)", ck->path,
                         s->name);
    a->members[index].data = p;
    return SWIN_OK;
}

/* The member "<prefix><name>". */
static swin_status find_member(archive *a, const char *name, size_t name_size, swin_ckpt_bytes *bytes)
{
    char full[MAX_PREFIX + 128];
    if (name_size > 96) return swin_fail(SWIN_ERR_FORMAT, "storage name too long");
    snprintf(full, sizeof full, "%s%.*s", a->prefix, (int)name_size, name);
    const zip_int64_t i = zip_name_locate(a->zip, full, ZIP_FL_ENC_RAW);
    if (i < 0 || (uint64_t)i >= a->count) return swin_fail(SWIN_ERR_FORMAT, "no member %s", full);
    member *m = &a->members[i];
    zip_stat_t s;
    if (zip_stat_index(a->zip, (uint64_t)i, ZIP_FL_ENC_RAW, &s) != 0) return zip_fault(a, full);
    m->size = s.size;
    if (!m->data) SWIN_TRY(unpack(a, (uint64_t)i, &s));
    *bytes = (swin_ckpt_bytes){ m->data, m->size };
    return SWIN_OK;
}

static swin_status find_storage(void *user, const swin_pk_storage *s, swin_ckpt_bytes *bytes)
{
    archive *a = user;
    char name[128];
    if (s->key_size > 64) return swin_fail(SWIN_ERR_FORMAT, "storage name too long");
    for (size_t i = 0; i < s->key_size; i++) /* torch writes numbers */
        if (s->key[i] < 33 || s->key[i] > 126)
            return swin_fail(SWIN_ERR_FORMAT, "storage name with odd characters");
    const int n = snprintf(name, sizeof name, "data/%.*s", (int)s->key_size, s->key);
    SWIN_TRY(find_member(a, name, (size_t)n, bytes));
    const size_t element = swin_ckpt_storage_element(s->type);
    if (bytes->size / element < (uint64_t)s->numel)
        return swin_fail(SWIN_ERR_FORMAT, "%s%s holds %zu bytes, too few for %lld elements", a->prefix, name,
                         bytes->size, (long long)s->numel);
    bytes->data += (size_t)s->view_offset * element;
    bytes->size = (size_t)s->view_size * element;
    return SWIN_OK;
}

/* "<prefix>data.pkl" tells the folder that everything is in. */
static swin_status find_prefix(archive *a)
{
    for (uint64_t i = 0; i < a->count; i++) {
        const char *name = zip_get_name(a->zip, i, ZIP_FL_ENC_RAW), *slash = name ? strchr(name, '/') : NULL;
        if (!slash || strcmp(slash + 1, "data.pkl") != 0 || (size_t)(slash - name) + 2 > MAX_PREFIX) continue;
        memcpy(a->prefix, name, (size_t)(slash - name) + 1);
        return SWIN_OK;
    }
    return swin_fail(SWIN_ERR_FORMAT, "%s: a zip file, but no PyTorch checkpoint: it has no data.pkl",
                     a->ck->path);
}

static swin_status read_archive(archive *a)
{
    swin_ckpt *ck = a->ck;
    const zip_int64_t count = zip_get_num_entries(a->zip, 0);
    a->count = count > 0 ? (uint64_t)count : 0;
    a->members = calloc(a->count + 1, sizeof *a->members);
    if (!a->members) return swin_fail(SWIN_ERR_MEM, "%s: no memory", ck->path);
    SWIN_TRY(find_prefix(a));
    locate_stored(a);
    swin_ckpt_bytes order, pickled;
    if (find_member(a, "byteorder", 9, &order) == SWIN_OK && order.size >= 3 &&
        memcmp(order.data, "big", 3) == 0)
        return swin_fail(SWIN_ERR_UNSUPPORTED, "%s: written on a big-endian machine", ck->path);
    const swin_status st = find_member(a, "data.pkl", 8, &pickled);
    if (st != SWIN_OK) return swin_fail_context(st, "%s", ck->path);
    if (pickled.size > SWIN_CKPT_MAX_PICKLE)
        return swin_fail(SWIN_ERR_FORMAT, "%s: data.pkl has %zu bytes, more than any checkpoint needs",
                         ck->path, pickled.size);
    swin_pickle pk = { 0 };
    swin_pk_value *root;
    swin_status read = swin_pickle_read(&pk, pickled.data, pickled.size, &root, NULL);
    if (read != SWIN_OK) swin_fail_context(read, "%s: data.pkl", ck->path);
    if (read == SWIN_OK) read = swin_ckpt_add_pickled(ck, root, find_storage, a);
    swin_pickle_free(&pk);
    return read;
}

swin_status swin_ckpt_read_zip(swin_ckpt *ck)
{
    zip_error_t error;
    zip_error_init(&error);
    ck->container = "pth (zip)";
    swin_status st = SWIN_OK;
    zip_source_t *source = zip_source_buffer_create(ck->map.data, ck->map.size, 0, &error);
    archive a = { .ck = ck, .zip = source ? zip_open_from_source(source, ZIP_RDONLY, &error) : NULL };
    if (a.zip) {
        st = read_archive(&a);
        zip_discard(a.zip);
    } else {
        st = swin_fail(SWIN_ERR_FORMAT, "%s: not a whole zip file: %s", ck->path, zip_error_strerror(&error));
        zip_source_free(source);
    }
    free(a.members);
    zip_error_fini(&error);
    return st;
}
