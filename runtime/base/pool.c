#include "runtime/base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* A forward pass makes some hundred short loops, so a worker spins for a moment before it sleeps. */
enum { SPINS = 20000 };

typedef struct worker {
    swin_pool *pool;
    int index;
    pthread_t thread;
} worker;

struct swin_pool {
    int threads;
    worker *workers; /* threads - 1 */
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    atomic_uint generation; /* one more for each loop */
    atomic_int active;      /* workers still inside the loop */
    bool stop;

    swin_task task;
    void *user;
    size_t count;
    atomic_size_t next;

    size_t failed; /* lowest failed task, SIZE_MAX if none */
    swin_status failed_status;
    char *failed_message;
};

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    sched_yield();
#endif
}

int swin_processors(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    const int n = CPU_COUNT(&set);
    return n > 0 ? n : 1;
}

static void record_failure(swin_pool *p, size_t task, swin_status st)
{
    pthread_mutex_lock(&p->lock);
    if (task < p->failed) {
        p->failed = task;
        p->failed_status = st;
        free(p->failed_message);
        p->failed_message = strdup(swin_error_message());
    }
    pthread_mutex_unlock(&p->lock);
}

/* Tasks go out in order, so the lowest failing one has always been started when a failure stops the rest. */
static void drain(swin_pool *p, int index)
{
    for (;;) {
        const size_t task = atomic_fetch_add(&p->next, 1);
        if (task >= p->count) return;
        const swin_status st = p->task(p->user, task, index);
        if (st != SWIN_OK) {
            record_failure(p, task, st);
            atomic_store(&p->next, p->count);
        }
    }
}

static void wait_for_loop(swin_pool *p, unsigned seen)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load(&p->generation) != seen) return;
        relax();
    }
    pthread_mutex_lock(&p->lock);
    while (atomic_load(&p->generation) == seen) pthread_cond_wait(&p->wake, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

static void *worker_main(void *arg)
{
    worker *w = arg;
    swin_pool *p = w->pool;
    unsigned seen = 0;
    for (;;) {
        wait_for_loop(p, seen);
        seen = atomic_load(&p->generation);
        if (p->stop) return NULL;
        drain(p, w->index);
        if (atomic_fetch_sub(&p->active, 1) == 1) {
            pthread_mutex_lock(&p->lock);
            pthread_cond_signal(&p->done);
            pthread_mutex_unlock(&p->lock);
        }
    }
}

static void begin_loop(swin_pool *p)
{
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->active, p->threads - 1);
    atomic_fetch_add(&p->generation, 1);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

static void wait_for_workers(swin_pool *p)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load(&p->active) == 0) return;
        relax();
    }
    pthread_mutex_lock(&p->lock);
    while (atomic_load(&p->active) != 0) pthread_cond_wait(&p->done, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

swin_status swin_pool_run(swin_pool *p, size_t count, swin_task task, void *user)
{
    p->task = task;
    p->user = user;
    p->count = count;
    p->failed = SIZE_MAX;
    p->failed_status = SWIN_OK;
    atomic_store(&p->next, 0);
    if (p->threads > 1 && count > 1) {
        begin_loop(p);
        drain(p, 0);
        wait_for_workers(p);
    } else {
        drain(p, 0);
    }
    if (p->failed == SIZE_MAX) return SWIN_OK;
    const swin_status st = swin_fail(p->failed_status, "%s", p->failed_message ? p->failed_message : "");
    free(p->failed_message);
    p->failed_message = NULL;
    return st;
}

swin_status swin_pool_create(swin_pool **pool, int threads)
{
    *pool = NULL;
    if (threads <= 0) threads = swin_processors();
    swin_pool *p = calloc(1, sizeof *p);
    if (!p) return swin_fail(SWIN_ERR_MEM, "no memory for a thread pool");
    p->workers = calloc((size_t)threads, sizeof *p->workers);
    if (!p->workers) {
        free(p);
        return swin_fail(SWIN_ERR_MEM, "no memory for %d threads", threads);
    }
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->done, NULL);
    p->threads = 1;
    for (int i = 0; i < threads - 1; i++) {
        p->workers[i] = (worker){ .pool = p, .index = i + 1 };
        if (pthread_create(&p->workers[i].thread, NULL, worker_main, &p->workers[i]) != 0) {
            swin_pool_free(p);
            return swin_fail(SWIN_ERR_MEM, "cannot start thread %d of %d", i + 2, threads);
        }
        p->threads++;
    }
    *pool = p;
    return SWIN_OK;
}

int swin_pool_threads(const swin_pool *p)
{
    return p->threads;
}

void swin_pool_free(swin_pool *p)
{
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    atomic_fetch_add(&p->generation, 1);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->threads - 1; i++) pthread_join(p->workers[i].thread, NULL);
    pthread_cond_destroy(&p->done);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p->failed_message);
    free(p->workers);
    free(p);
}
