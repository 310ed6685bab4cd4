/* runtime/ops/kernels/chain.cuh - kernels of a forward follow each other without a gap.
 *
 * On sm_90 and newer a kernel launched by chain_launch may start while the one before it still runs: what it
 * does before chain_wait() touches nothing that earlier kernels write (it computes addresses, reads weights,
 * fills shared memory), and chain_wait() returns when everything queued before has finished. Every such
 * kernel calls it, once, before its first read or write of an activation: the order of three kernels rests on
 * the middle one having waited. */
#pragma once

#include <cuda_runtime.h>

/* The kernel after this one may start. */
__device__ __forceinline__ void chain_start()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
#endif
}

__device__ __forceinline__ void chain_wait()
{
    chain_start();
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;\n" ::: "memory");
#endif
}

/* Whether the current GPU has such launches. */
static inline bool chain_available()
{
    static int known = -1; /* one kind of GPU in a machine */
    if (known < 0) {
        int device = 0, major = 0;
        if (cudaGetDevice(&device) != cudaSuccess ||
            cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess)
            return false;
        known = major >= 9;
    }
    return known == 1;
}

/* cluster: blocks that run side by side (sm_90); 0: any. */
static inline cudaError_t chain_launch_pointer(const void *kernel, unsigned blocks, unsigned threads,
                                               size_t shared, cudaStream_t stream, void **args,
                                               unsigned cluster = 0)
{
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim.x = cluster;
    attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(blocks), config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared, config.stream = stream;
    config.attrs = attributes, config.numAttrs = !chain_available() ? 0 : cluster ? 2 : 1;
    return cudaLaunchKernelExC(&config, kernel, args);
}

/* kernel<<<blocks, threads, shared, stream>>>(args...), chained to what was queued before. */
template <class... P, class... A>
cudaError_t chain_launch(void (*kernel)(P...), unsigned blocks, unsigned threads, size_t shared,
                         cudaStream_t stream, A... args)
{
    static_assert(sizeof...(P) == sizeof...(A), "one argument for each parameter");
    return [&](P... exact) { /* each of the parameter's own type */
                             void *list[] = { (void *)&exact... };
                             return chain_launch_pointer((const void *)kernel, blocks, threads, shared,
                                                         stream, list);
    }(args...);
}
