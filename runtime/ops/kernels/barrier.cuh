/* runtime/ops/kernels/barrier.cuh - barriers in shared memory that count arrivals and bytes (sm_90), and
 * named ones. */
#pragma once

#include <stdint.h>

#include "runtime/ops/kernels/wgmma.cuh"

__device__ __forceinline__ void barrier_init(unsigned at, int arrivals)
{
#if SWIN_HAVE_WGMMA
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(at), "r"(arrivals) : "memory");
#endif
}

/* What this thread has initialised is there for the copy engine, after the next block-wide barrier for all
 * threads. */
__device__ __forceinline__ void barrier_init_done()
{
#if SWIN_HAVE_WGMMA
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
#endif
}

__device__ __forceinline__ void barrier_arrive(unsigned at)
{
#if SWIN_HAVE_WGMMA
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(at) : "memory");
#endif
}

/* Arrive; the phase also waits for this many bytes. */
__device__ __forceinline__ void barrier_expect(unsigned at, int bytes)
{
#if SWIN_HAVE_WGMMA
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(at), "r"(bytes) : "memory");
#endif
}

/* Wait for the end of a phase of this parity. */
__device__ __forceinline__ void barrier_wait(unsigned at, unsigned parity)
{
#if SWIN_HAVE_WGMMA
    asm volatile("{\n.reg .pred done;\nagain:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n}\n" ::"r"(at),
                 "r"(parity)
                 : "memory");
#endif
}

/* `bytes` (a multiple of 16) into shared memory, counted by the barrier. */
__device__ __forceinline__ void bulk_copy(unsigned to, const void *from, int bytes, unsigned barrier)
{
#if SWIN_HAVE_WGMMA
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::"r"(to),
        "l"(from), "r"(bytes), "r"(barrier)
        : "memory");
#endif
}

/* The `threads` threads that name the barrier `id` (1 to 15). */
__device__ __forceinline__ void threads_sync(int id, int threads)
{
    asm volatile("bar.sync %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}
