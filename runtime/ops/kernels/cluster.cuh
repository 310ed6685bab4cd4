/* runtime/ops/kernels/cluster.cuh - blocks that run side by side and wait for one another (sm_90). */
#pragma once

#include "runtime/ops/kernels/wgmma.cuh"

/* All threads of the cluster that still run: what they wrote to global memory before is there for all after.
 * Reads of it must not come from a first-level cache that saw older values (__ldcg). */
__device__ __forceinline__ void cluster_sync()
{
#if SWIN_HAVE_WGMMA
    asm volatile("barrier.cluster.arrive.release.aligned;\n"
                 "barrier.cluster.wait.acquire.aligned;\n" ::
                     : "memory");
#endif
}
