/* runtime/ops/kernels/cluster.cuh - blocks that run side by side (sm_90): barriers of them all, and stores into one
 * another's shared memory. */
#pragma once

#include "runtime/ops/kernels/barrier.cuh"

/* All threads of the cluster that still run, each warp as a whole: what they wrote to global memory before is there for
 * all after; reads of it must not come from a first-level cache that saw older values (__ldcg). */
__device__ __forceinline__ void cluster_sync()
{
#if SWIN_HAVE_WGMMA
    asm volatile("barrier.cluster.arrive.release.aligned;\n"
                 "barrier.cluster.wait.acquire.aligned;\n" ::
                     : "memory");
#endif
}

/* The same in two steps: a thread tells that it has come, and later waits for all to have told. */
__device__ __forceinline__ void cluster_arrive()
{
#if SWIN_HAVE_WGMMA
    asm volatile("barrier.cluster.arrive.release;\n" ::: "memory");
#endif
}

__device__ __forceinline__ void cluster_wait()
{
#if SWIN_HAVE_WGMMA
    asm volatile("barrier.cluster.wait.acquire;\n" ::: "memory");
#endif
}

/* An address in this block's shared memory as the same place in another's. */
__device__ __forceinline__ unsigned cluster_address(unsigned at, int block)
{
    unsigned there = at;
#if SWIN_HAVE_WGMMA
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;\n" : "=r"(there) : "r"(at), "r"(block));
#endif
    return there;
}

/* Stores to a block's shared memory (cluster_address), counted in bytes by a barrier there: who waits for it sees
 * them. A lane's is about a clock of the multiprocessor's time; cluster_copy is for more than a few. */
__device__ __forceinline__ void cluster_store(unsigned to, uint2 v, unsigned barrier)
{
#if SWIN_HAVE_WGMMA
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%1, %2}, [%3];\n" ::"r"(to),
        "r"(v.x), "r"(v.y), "r"(barrier)
        : "memory");
#endif
}
__device__ __forceinline__ void cluster_store(unsigned to, uint4 v, unsigned barrier)
{
#if SWIN_HAVE_WGMMA
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];\n" ::
            "r"(to),
        "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w), "r"(barrier)
        : "memory");
#endif
}

/* `bytes` (a multiple of 16) of this block's shared memory, by the copy engine, for which fence_async_proxy has to come
 * after the stores; counted as above. */
__device__ __forceinline__ void cluster_copy(unsigned to, unsigned from, int bytes, unsigned barrier)
{
#if SWIN_HAVE_WGMMA
    asm volatile(
        "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::
            "r"(to),
        "r"(from), "r"(bytes), "r"(barrier)
        : "memory");
#endif
}
