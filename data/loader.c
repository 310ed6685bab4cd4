/* Workers take images in list order and put each into a slot of a ring; the consumer empties the slots in
 * list order. A worker may be at most `depth` images ahead of the consumer: that bounds memory, and nothing
 * that is delivered depends on who decoded what. */
#include "data/loader.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/pool.h"

enum { BROKEN_SHOWN = 20 }; /* warnings for broken images before they are only counted */

typedef struct slot {
    bool done;
    swin_status status;
    bool warned;                             /* recoverable faults */
    char *reason;                            /* owned: why status is not SWIN_OK */
    uint8_t *rgb;                            /* owned: the crop */
    unsigned char digest[SWIN_SHA256_BYTES]; /* of the file's bytes */
} slot;

typedef struct worker {
    swin_loader *loader;
    pthread_t thread;
    swin_resizer *resizer;
    swin_sha256 *sha;
    swin_bytes file;
} worker;

struct swin_loader {
    swin_dataset *ds;
    swin_loader_opts opts;
    size_t *indices; /* owned; NULL: all in order */
    size_t count, depth;
    slot *slots; /* [depth] */
    worker *workers;
    int running; /* threads started */

    pthread_mutex_t lock;
    pthread_cond_t room, ready;
    size_t next, taken; /* next to decode, next to deliver: under the lock */
    bool stop;

    /* the consumer's own */
    float *pixels;
    uint8_t *u8;
    int *labels;
    size_t *index;
    swin_sha256 *list_sha;
    swin_status failed; /* the stream ended with this error */
    char *failed_message;
    swin_loader_report report;
    size_t *broken_index;
    char **broken_reason;
    size_t broken_capacity;
};

static size_t position(const swin_loader *l, size_t task)
{
    return l->indices ? l->indices[task] : task;
}

static size_t crop_bytes(const swin_loader *l)
{
    return (size_t)l->opts.preprocess.size * (size_t)l->opts.preprocess.size * 3;
}

/* ---- workers ------------------------------------------------------------------------------------------- */

static swin_status load(worker *w, slot *s, size_t index)
{
    swin_loader *l = w->loader;
    int warnings = 0;
    if (!s->rgb && !(s->rgb = malloc(crop_bytes(l))))
        return swin_fail(SWIN_ERR_MEM, "no memory for a picture");
    SWIN_TRY(swin_dataset_read(l->ds, index, &w->file));
    SWIN_TRY(swin_sha256_add(w->sha, w->file.data, w->file.size));
    SWIN_TRY(swin_sha256_end(w->sha, s->digest));
    SWIN_TRY(swin_image_load(w->resizer, s->rgb, w->file.data, w->file.size, &l->opts.preprocess, &warnings));
    s->warned = warnings > 0;
    return SWIN_OK;
}

static void *work(void *user)
{
    worker *w = user;
    swin_loader *l = w->loader;
    pthread_mutex_lock(&l->lock);
    for (;;) {
        while (!l->stop && l->next < l->count && l->next >= l->taken + l->depth)
            pthread_cond_wait(&l->room, &l->lock);
        if (l->stop || l->next >= l->count) break;
        const size_t task = l->next++;
        pthread_mutex_unlock(&l->lock);
        slot *s = &l->slots[task % l->depth];
        s->warned = false;
        s->status = load(w, s, position(l, task));
        s->reason = s->status == SWIN_OK ? NULL : swin_format("%s", swin_error_message());
        pthread_mutex_lock(&l->lock);
        s->done = true;
        pthread_cond_signal(&l->ready);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* ---- opening ------------------------------------------------------------------------------------------- */

static swin_status check_opts(const swin_dataset *ds, const swin_loader_opts *o)
{
    const size_t total = swin_dataset_count(ds);
    if (o->batch < 1) return swin_fail(SWIN_ERR_VALUE, "batch size %d: it must be at least 1", o->batch);
    if (o->workers < 0 || o->ahead < 0)
        return swin_fail(SWIN_ERR_VALUE, "negative number of workers or images ahead");
    if (o->preprocess.size < 1 || o->preprocess.size > SWIN_IMAGE_MAX_SIZE)
        return swin_fail(SWIN_ERR_VALUE, "image size %d: it must be 1 to %d", o->preprocess.size,
                         SWIN_IMAGE_MAX_SIZE);
    for (size_t i = 0; o->indices && i < o->count; i++)
        if (o->indices[i] >= total)
            return swin_fail(SWIN_ERR_VALUE, "image %zu of a data set of %zu", o->indices[i], total);
    return SWIN_OK;
}

static swin_status alloc_buffers(swin_loader *l, int workers)
{
    const size_t batch = (size_t)l->opts.batch, bytes = crop_bytes(l);
    l->slots = calloc(l->depth, sizeof *l->slots);
    l->workers = calloc((size_t)workers + 1, sizeof *l->workers);
    l->labels = malloc(batch * sizeof *l->labels);
    l->index = malloc(batch * sizeof *l->index);
    if (l->opts.u8)
        l->u8 = malloc(batch * bytes);
    else
        l->pixels = malloc(batch * bytes * sizeof *l->pixels);
    if (!l->slots || !l->workers || !l->labels || !l->index || !(l->u8 || l->pixels))
        return swin_fail(SWIN_ERR_MEM, "no memory for batches of %d images", l->opts.batch);
    return swin_sha256_begin(&l->list_sha);
}

static swin_status set_list(swin_loader *l, const swin_loader_opts *o)
{
    const size_t total = swin_dataset_count(l->ds);
    l->count = o->indices ? o->count : o->count && o->count < total ? o->count : total;
    if (!o->indices || !o->count) return SWIN_OK;
    l->indices = malloc(o->count * sizeof *l->indices);
    if (!l->indices) return swin_fail(SWIN_ERR_MEM, "no memory for a list of %zu images", o->count);
    memcpy(l->indices, o->indices, o->count * sizeof *l->indices);
    return SWIN_OK;
}

static swin_status start_workers(swin_loader *l, int workers)
{
    for (; l->running < workers; l->running++) {
        worker *w = &l->workers[l->running];
        w->loader = l;
        SWIN_TRY(swin_resizer_create(&w->resizer));
        SWIN_TRY(swin_sha256_begin(&w->sha));
        if (pthread_create(&w->thread, NULL, work, w) != 0)
            return swin_fail(SWIN_ERR_MEM, "cannot start decoding thread %d", l->running + 1);
    }
    return SWIN_OK;
}

static swin_status prepare(swin_loader *l, const swin_loader_opts *o)
{
    SWIN_TRY(set_list(l, o));
    int workers = o->workers ? o->workers : swin_processors();
    if ((size_t)workers > l->count) workers = l->count ? (int)l->count : 1;
    const size_t two_batches = 2 * (size_t)o->batch, two_each = 2 * (size_t)workers;
    l->depth = o->ahead ? (size_t)o->ahead : two_batches > two_each ? two_batches : two_each;
    if (l->depth > l->count) l->depth = l->count ? l->count : 1;
    SWIN_TRY(alloc_buffers(l, workers));
    return start_workers(l, workers);
}

swin_status swin_loader_open(swin_loader **out, swin_dataset *ds, const swin_loader_opts *opts)
{
    *out = NULL;
    SWIN_TRY(check_opts(ds, opts));
    swin_loader *l = calloc(1, sizeof *l);
    if (!l) return swin_fail(SWIN_ERR_MEM, "no memory");
    l->ds = ds;
    l->opts = *opts;
    l->opts.indices = NULL; /* the caller's: l->indices is ours */
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->room, NULL);
    pthread_cond_init(&l->ready, NULL);
    const swin_status st = prepare(l, opts);
    if (st != SWIN_OK) {
        swin_loader_close(l);
        return st;
    }
    *out = l;
    return SWIN_OK;
}

/* ---- delivering ---------------------------------------------------------------------------------------- */

/* The next image in order, decoded or failed; it stays the consumer's until release(). */
static slot *await(swin_loader *l)
{
    slot *s = &l->slots[l->taken % l->depth];
    pthread_mutex_lock(&l->lock);
    while (!s->done) pthread_cond_wait(&l->ready, &l->lock);
    pthread_mutex_unlock(&l->lock);
    return s;
}

static void release(swin_loader *l, slot *s)
{
    free(s->reason);
    s->reason = NULL;
    pthread_mutex_lock(&l->lock);
    s->done = false;
    l->taken++;
    pthread_cond_signal(&l->room);
    pthread_mutex_unlock(&l->lock);
}

static swin_status leave_out(swin_loader *l, slot *s, size_t index)
{
    if (l->report.broken == l->broken_capacity) {
        const size_t n = l->broken_capacity ? 2 * l->broken_capacity : 16;
        size_t *where = realloc(l->broken_index, n * sizeof *where);
        if (where) l->broken_index = where;
        char **why = where ? realloc(l->broken_reason, n * sizeof *why) : NULL;
        if (why) l->broken_reason = why;
        if (!why) return swin_fail(SWIN_ERR_MEM, "no memory for the list of broken images");
        l->broken_capacity = n;
    }
    const char *name = swin_dataset_name(l->ds, index);
    if (l->report.broken < BROKEN_SHOWN)
        swin_warn("left out %s: %s", name, s->reason);
    else if (l->report.broken == BROKEN_SHOWN)
        swin_warn("left out %s, and from here on broken images are only counted", name);
    l->broken_index[l->report.broken] = index;
    l->broken_reason[l->report.broken++] = s->reason;
    s->reason = NULL;
    return SWIN_OK;
}

/* SHA-256 over, image by image: the label (8 bytes, little-endian) and the SHA-256 of the file's bytes. */
static swin_status add_to_hash(swin_loader *l, const slot *s, int label)
{
    unsigned char record[8 + SWIN_SHA256_BYTES];
    for (int i = 0; i < 8; i++) record[i] = (unsigned char)((uint64_t)label >> (8 * i));
    memcpy(record + 8, s->digest, SWIN_SHA256_BYTES);
    return swin_sha256_add(l->list_sha, record, sizeof record);
}

static swin_status deliver(swin_loader *l, const slot *s, size_t index, int n)
{
    const size_t at = (size_t)n * crop_bytes(l);
    l->labels[n] = swin_dataset_label(l->ds, index);
    l->index[n] = index;
    if (l->opts.u8)
        memcpy(l->u8 + at, s->rgb, crop_bytes(l));
    else
        swin_image_normalise(l->pixels + at, s->rgb, l->opts.preprocess.size);
    l->report.images++;
    l->report.warnings += s->warned;
    return add_to_hash(l, s, l->labels[n]);
}

/* One image of the stream: one more in the batch, or one left out. */
static swin_status step(swin_loader *l, int *n)
{
    const size_t index = position(l, l->taken);
    slot *s = await(l);
    swin_status st = s->status;
    if (!s->reason && st != SWIN_OK) st = SWIN_ERR_MEM;
    if (st == SWIN_OK)
        st = deliver(l, s, index, (*n)++);
    else if (st == SWIN_ERR_MEM || l->opts.strict)
        swin_fail(st, "image %s: %s", swin_dataset_name(l->ds, index), s->reason ? s->reason : "no memory");
    else
        st = leave_out(l, s, index);
    release(l, s);
    return st;
}

static swin_status fill(swin_loader *l, int *n)
{
    while (*n < l->opts.batch && l->taken < l->count) {
        SWIN_TRY(swin_check_interrupt());
        SWIN_TRY(step(l, n));
    }
    if (l->taken < l->count || l->report.image_list_sha256[0]) return SWIN_OK;
    unsigned char digest[SWIN_SHA256_BYTES];
    SWIN_TRY(swin_sha256_end(l->list_sha, digest));
    swin_sha256_hex(l->report.image_list_sha256, digest);
    return SWIN_OK;
}

swin_status swin_loader_next(swin_loader *l, swin_batch *b)
{
    *b = (swin_batch){ 0 };
    if (l->failed != SWIN_OK) return swin_fail(l->failed, "%s", l->failed_message ? l->failed_message : "");
    int n = 0;
    l->failed = fill(l, &n);
    if (l->failed != SWIN_OK) {
        l->failed_message = swin_format("%s", swin_error_message());
        return l->failed;
    }
    *b = (swin_batch){ .n = n, .pixels = l->pixels, .u8 = l->u8, .labels = l->labels, .index = l->index };
    return SWIN_OK;
}

swin_status swin_loader_report_get(swin_loader *l, swin_loader_report *r)
{
    *r = l->report;
    r->broken_index = l->broken_index;
    r->broken_reason = (const char *const *)l->broken_reason;
    return SWIN_OK;
}

void swin_loader_close(swin_loader *l)
{
    if (!l) return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_broadcast(&l->room);
    pthread_mutex_unlock(&l->lock);
    for (int i = 0; i < l->running; i++) pthread_join(l->workers[i].thread, NULL);
    for (int i = 0; l->workers && i <= l->running; i++) {
        worker *w =
            &l->workers[i]; /* the one past the last running may be half made: there is room for one more */
        swin_resizer_free(w->resizer);
        swin_sha256_free(w->sha);
        free(w->file.data);
    }
    for (size_t i = 0; l->slots && i < l->depth; i++) {
        free(l->slots[i].rgb);
        free(l->slots[i].reason);
    }
    for (size_t i = 0; i < l->report.broken; i++) free(l->broken_reason[i]);
    free(l->broken_index);
    free(l->broken_reason);
    free(l->failed_message);
    swin_sha256_free(l->list_sha);
    free(l->slots);
    free(l->workers);
    free(l->indices);
    free(l->pixels);
    free(l->u8);
    free(l->labels);
    free(l->index);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->room);
    pthread_cond_destroy(&l->ready);
    free(l);
}
