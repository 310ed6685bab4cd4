/* runtime/ops/kernels/box.cuh - tiles of matrices through the copy engine, and registers for the warps that
 * use them (sm_90a). */
#pragma once

#include <cuda.h> /* types of the copy engine's maps */

#include "runtime/ops/kernels/barrier.cuh"

/* The box at (k, row) of a matrix into shared memory, counted by the barrier; what lies outside the matrix
 * becomes zero. */
__device__ __forceinline__ void box_copy(unsigned to, const CUtensorMap *map, int k, int row,
                                         unsigned barrier)
{
#if SWIN_HAVE_WGMMA
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
                 "[%1, {%2, %3}], [%4];\n" ::"r"(to),
                 "l"(map), "r"(k), "r"(row), "r"(barrier)
                 : "memory");
#endif
}

/* Registers of a warpgroup's threads: those that ask for tiles give, those that hold sums take. Each in one
 * branch of a kernel with __launch_bounds__(threads, 1). */
template <int REGISTERS> __device__ __forceinline__ void registers_give()
{
#if SWIN_HAVE_WGMMA
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(REGISTERS));
#endif
}
template <int REGISTERS> __device__ __forceinline__ void registers_take()
{
#if SWIN_HAVE_WGMMA
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(REGISTERS));
#endif
}
