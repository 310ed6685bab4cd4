/* runtime/ops/kernels/cluster.cuh - blocks that run side by side and wait for one another (sm_90). */
#pragma once

#include "runtime/ops/kernels/wgmma.cuh"

/* All threads of the cluster that still run, each warp as a whole: what they wrote to global memory before their arrival is
 * there for all after the wait. Nobody arrives twice without a wait between. */
__device__ __forceinline__ void cluster_arrive()
{
#if SWIN_HAVE_WGMMA
    asm volatile("barrier.cluster.arrive.release.aligned;\n" ::: "memory");
#endif
}

__device__ __forceinline__ void cluster_wait()
{
#if SWIN_HAVE_WGMMA
    asm volatile("barrier.cluster.wait.acquire.aligned;\n" ::: "memory");
#endif
}

__device__ __forceinline__ void cluster_sync()
{
    cluster_arrive();
    cluster_wait();
}
