#include "runtime/swin/checkpoint.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/swin/checkpoint_impl.h"
#include "runtime/swin/widen.h"

#define MAX_KEY 512

swin_status swin_ckpt_own(swin_ckpt *ck, void *p)
{
    if (ck->nowned == ck->cap_owned) {
        const size_t cap = ck->cap_owned ? 2 * ck->cap_owned : 64;
        void **grown = realloc(ck->owned, cap * sizeof *grown);
        if (!grown) {
            free(p);
            return swin_fail(SWIN_ERR_MEM, "%s: no memory", ck->path);
        }
        ck->owned = grown;
        ck->cap_owned = cap;
    }
    ck->owned[ck->nowned++] = p;
    return SWIN_OK;
}

void swin_ckpt_name(char *out, size_t size, const char *name, size_t n)
{
    if (n >= size) n = size - 1;
    for (size_t i = 0; i < n; i++) out[i] = name[i] < 32 || name[i] > 126 ? '?' : name[i];
    out[n] = 0;
}

/* Count the elements and check that the farthest one lies inside the storage. */
static swin_status check_extent(const swin_ckpt *ck, const char *key, swin_ckpt_tensor *t, int64_t offset,
                                swin_ckpt_bytes bytes)
{
    const int64_t room = (int64_t)(bytes.size / swin_dtype_size(t->dtype));
    int64_t count = 1, last = offset, step;
    bool bad = offset < 0, empty = false;
    for (int i = 0; i < t->ndim; i++) {
        if (t->shape[i] < 0 || t->stride[i] < 0) bad = true;
        if (t->shape[i] <= 0)
            empty = true;
        else if (__builtin_mul_overflow(t->shape[i] - 1, t->stride[i], &step) ||
                 __builtin_add_overflow(last, step, &last))
            bad = true;
    }
    for (int i = 0; !empty && i < t->ndim; i++)
        if (__builtin_mul_overflow(count, t->shape[i], &count) || count > INT64_MAX / 16) bad = true;
    if (bad || (!empty && last >= room))
        return swin_fail(SWIN_ERR_FORMAT, "%s: tensor %s reaches beyond its %lld stored elements", ck->path,
                         key, (long long)room);
    t->count = empty ? 0 : (size_t)count;
    return SWIN_OK;
}

swin_status swin_ckpt_add(swin_ckpt *ck, const char *key, size_t key_size, swin_ckpt_tensor t, int64_t offset,
                          swin_ckpt_bytes bytes)
{
    if (key_size > 7 && memcmp(key, "module.", 7) == 0)
        key += 7, key_size -= 7; /* DistributedDataParallel's */
    if (key_size > MAX_KEY || memchr(key, 0, key_size))
        return swin_fail(SWIN_ERR_FORMAT, "%s: a tensor's name is too long or holds a zero byte", ck->path);
    if (ck->count == ck->capacity) {
        const size_t cap = ck->capacity ? 2 * ck->capacity : 512;
        swin_ckpt_tensor *grown = realloc(ck->tensors, cap * sizeof *grown);
        if (!grown) return swin_fail(SWIN_ERR_MEM, "%s: no memory", ck->path);
        ck->tensors = grown;
        ck->capacity = cap;
    }
    char *copy = malloc(key_size + 1);
    if (!copy) return swin_fail(SWIN_ERR_MEM, "%s: no memory", ck->path);
    swin_ckpt_name(copy, key_size + 1, key, key_size);
    SWIN_TRY(swin_ckpt_own(ck, copy));
    SWIN_TRY(check_extent(ck, copy, &t, offset, bytes));
    t.key = copy;
    t.data = t.count ? bytes.data + (size_t)offset * swin_dtype_size(t.dtype) : NULL;
    ck->tensors[ck->count++] = t;
    return SWIN_OK;
}

/* ---- the public face ---- */

static int by_key(const void *a, const void *b)
{
    const swin_ckpt_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->key, (*y)->key);
}

static swin_status sort_keys(swin_ckpt *ck)
{
    ck->sorted = calloc(ck->count + 1, sizeof *ck->sorted);
    if (!ck->sorted) return swin_fail(SWIN_ERR_MEM, "%s: no memory", ck->path);
    for (size_t i = 0; i < ck->count; i++) ck->sorted[i] = &ck->tensors[i];
    qsort(ck->sorted, ck->count, sizeof *ck->sorted, by_key);
    for (size_t i = 1; i < ck->count; i++)
        if (strcmp(ck->sorted[i - 1]->key, ck->sorted[i]->key) == 0)
            return swin_fail(SWIN_ERR_FORMAT, "%s: tensor %s is there twice", ck->path, ck->sorted[i]->key);
    return SWIN_OK;
}

static swin_status read_container(swin_ckpt *ck)
{
    const unsigned char *p = ck->map.data;
    const size_t n = ck->map.size;
    if (n >= 4 && memcmp(p, "PK\3\4", 4) == 0) return swin_ckpt_read_zip(ck);
    if (n >= 2 && p[0] == 0x80) return swin_ckpt_read_legacy(ck);
    if (n >= 9 && p[8] == '{') return swin_ckpt_read_safetensors(ck);
    if (n >= 262 && memcmp(p + 257, "ustar", 5) == 0)
        return swin_fail(SWIN_ERR_UNSUPPORTED, "%s: a tar checkpoint of PyTorch before 0.2", ck->path);
    return swin_fail(SWIN_ERR_FORMAT, "%s: neither a .pth (zip or pickle) nor a .safetensors file%s",
                     ck->path, n ? "" : ": it is empty");
}

swin_status swin_ckpt_open(swin_ckpt **ck, const char *path)
{
    swin_ckpt *c = calloc(1, sizeof *c);
    *ck = NULL;
    if (!c || !(c->path = strdup(path))) {
        free(c);
        return swin_fail(SWIN_ERR_MEM, "%s: no memory", path);
    }
    swin_status st;
    SWIN_TRY_GOTO(st, swin_map_open(&c->map, path), done);
    SWIN_TRY_GOTO(st, read_container(c), done);
    SWIN_TRY_GOTO(st, sort_keys(c), done);
    *ck = c;
    return SWIN_OK;
done:
    swin_ckpt_close(c);
    return st;
}

void swin_ckpt_close(swin_ckpt *ck)
{
    if (!ck) return;
    for (size_t i = 0; i < ck->nowned; i++) free(ck->owned[i]);
    free(ck->owned);
    free(ck->sorted);
    free(ck->tensors);
    swin_map_close(&ck->map);
    free(ck->path);
    free(ck);
}

const char *swin_ckpt_container(const swin_ckpt *ck)
{
    return ck->container;
}
const char *swin_ckpt_wrapper(const swin_ckpt *ck)
{
    return ck->wrapper;
}
size_t swin_ckpt_count(const swin_ckpt *ck)
{
    return ck->count;
}

const swin_ckpt_tensor *swin_ckpt_at(const swin_ckpt *ck, size_t i)
{
    return i < ck->count ? &ck->tensors[i] : NULL;
}

const swin_ckpt_tensor *swin_ckpt_find(const swin_ckpt *ck, const char *key)
{
    const swin_ckpt_tensor wanted = { .key = key }, *p = &wanted;
    const swin_ckpt_tensor **hit = bsearch(&p, ck->sorted, ck->count, sizeof *ck->sorted, by_key);
    return hit ? *hit : NULL;
}

/* How many elements from the start of each innermost run lie one after another. */
static int64_t dense_run(const swin_ckpt_tensor *t, int *outer)
{
    int64_t run = 1;
    int i = t->ndim;
    while (i > 0 && (t->shape[i - 1] == 1 || t->stride[i - 1] == run)) run *= t->shape[--i];
    *outer = i;
    return run;
}

swin_status swin_ckpt_read_checked(const swin_ckpt_tensor *t, float *dst, bool *finite)
{
    if (t->dtype != SWIN_F32 && t->dtype != SWIN_F16 && t->dtype != SWIN_BF16 && t->dtype != SWIN_F64)
        return swin_fail(SWIN_ERR_MISMATCH, "tensor %s holds %s, not floating-point numbers", t->key,
                         swin_dtype_name(t->dtype));
    *finite = true;
    if (!t->count) return SWIN_OK;
    int outer;
    const int64_t run = dense_run(t, &outer);
    const size_t element = swin_dtype_size(t->dtype);
    int64_t at[8] = { 0 }, from = 0;
    for (size_t done = 0; done < t->count; done += (size_t)run) {
        const char *src = (const char *)t->data + (size_t)from * element;
        if (!swin_widen_finite(dst + done, src, t->dtype, (size_t)run)) *finite = false;
        for (int i = outer - 1; i >= 0; i--) { /* count up the outer indices */
            from += t->stride[i];
            if (++at[i] < t->shape[i]) break;
            from -= t->stride[i] * t->shape[i];
            at[i] = 0;
        }
    }
    return SWIN_OK;
}

swin_status swin_ckpt_read(const swin_ckpt_tensor *t, float *dst)
{
    bool finite;
    return swin_ckpt_read_checked(t, dst, &finite);
}
