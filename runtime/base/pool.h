/* runtime/base/pool.h - a fixed set of threads that run the tasks of one loop.
 *
 * Tasks are handed out in order of their number, to whichever thread is free. What a task computes must depend on its
 * number alone, never on the thread that runs it: that is how results stay equal for any --threads.
 */
#ifndef SWIN_BASE_POOL_H
#define SWIN_BASE_POOL_H

#include <stddef.h>

#include "runtime/base/status.h"

typedef struct swin_pool swin_pool;

/* One task. worker is in [0, swin_pool_threads()): an index for scratch memory only. */
typedef swin_status (*swin_task)(void *user, size_t task, int worker);

/* A pool of `threads` threads, the caller's included; 0 means one for each processor this process may use. */
swin_status swin_pool_create(swin_pool **pool, int threads);

/* Run tasks 0..count-1 and wait. On failure the status and message of the lowest failed task are the caller's. Not
 * reentrant: a task must not call it on the same pool. */
swin_status swin_pool_run(swin_pool *pool, size_t count, swin_task task, void *user);

int swin_pool_threads(const swin_pool *pool);
void swin_pool_free(swin_pool *pool); /* NULL is fine */

/* Processors this process may run on. */
int swin_processors(void);

#endif
