/* runtime/ops/kernels/wgmma.cuh - Hopper's warpgroup multiply: d [64][N] += a [64][16] b [N][16]^T, operands in shared
 * memory. Compiled for sm_90a only. The accumulators lie in registers as those of m16n8k16: warp w of the four has rows
 * 16 w and up. */
#pragma once

#include <stdint.h>

#include "runtime/ops/kernels/tile.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SWIN_HAVE_WGMMA 1
#else
#define SWIN_HAVE_WGMMA 0
#endif

/* Rows of 128 bytes with the 128-byte swizzle (chunk_at<128>), eight rows every 1024 bytes. at: 1024-byte aligned, or that
 * plus 32 bytes for each further step of k. */
__device__ __forceinline__ uint64_t wgmma_operand(unsigned at)
{
    return (uint64_t)((at & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 |
           (uint64_t)1 << 62;
}

__device__ __forceinline__ void wgmma_fence()
{
#if SWIN_HAVE_WGMMA
    asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
#endif
}

__device__ __forceinline__ void wgmma_commit()
{
#if SWIN_HAVE_WGMMA
    asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
#endif
}

template <int PENDING> __device__ __forceinline__ void wgmma_wait()
{
#if SWIN_HAVE_WGMMA
    asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(PENDING) : "memory");
#endif
}

/* What this thread copied to shared memory becomes visible to wgmma, after the barrier that follows. */
__device__ __forceinline__ void fence_async_proxy()
{
#if SWIN_HAVE_WGMMA
    asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
#endif
}

/* The instruction's text names each accumulator, and asm wants each as an operand: lists of both, by their number. kind:
 * SWIN_ACC or SWIN_SUM. */
#define SWIN_NAMES16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define SWIN_NAMES32                                                                                         \
    SWIN_NAMES16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define SWIN_NAMES48                                                                                         \
    SWIN_NAMES32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define SWIN_NAMES64                                                                                         \
    SWIN_NAMES48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define SWIN_NAMES96                                                                                         \
    SWIN_NAMES64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"          \
                 ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"

#define SWIN_ACC(r)           "+f"(r[0]), "+f"(r[1]), "+f"(r[2]), "+f"(r[3])
#define SWIN_FOUR(kind, d, i) kind(d[i]), kind(d[i + 1]), kind(d[i + 2]), kind(d[i + 3])
#define SWIN_REGS16(kind, d)  SWIN_FOUR(kind, d, 0)
#define SWIN_REGS32(kind, d)  SWIN_REGS16(kind, d), SWIN_FOUR(kind, d, 4)
#define SWIN_REGS48(kind, d)  SWIN_REGS32(kind, d), SWIN_FOUR(kind, d, 8)
#define SWIN_REGS64(kind, d)  SWIN_REGS48(kind, d), SWIN_FOUR(kind, d, 12)
#define SWIN_REGS96(kind, d)  SWIN_REGS64(kind, d), SWIN_FOUR(kind, d, 16), SWIN_FOUR(kind, d, 20)

#if SWIN_HAVE_WGMMA
#define SWIN_WGMMA_ASM(...) asm volatile(__VA_ARGS__)
#else
#define SWIN_WGMMA_ASM(...)
#endif

template <class T, int N> struct wgmma;

/* COUNT = N / 2 accumulators a thread; A and B: the numbers of the operands after them. */
#define SWIN_WGMMA(T, TYPE, N, COUNT, A, B)                                                                  \
    template <> struct wgmma<T, N> {                                                                         \
        static __device__ __forceinline__ void run(float (&d)[N / 8][4], uint64_t a, uint64_t b)             \
        {                                                                                                    \
            SWIN_WGMMA_ASM("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE                   \
                           " {" SWIN_NAMES##COUNT "}, %" #A ", %" #B ", 1, 1, 1, 0, 0;\n"                    \
                           : SWIN_REGS##COUNT(SWIN_ACC, d)                                                   \
                           : "l"(a), "l"(b));                                                                \
        }                                                                                                    \
    }

#define SWIN_WGMMA_SIZES(T, TYPE)                                                                            \
    SWIN_WGMMA(T, TYPE, 32, 16, 16, 17);                                                                     \
    SWIN_WGMMA(T, TYPE, 64, 32, 32, 33);                                                                     \
    SWIN_WGMMA(T, TYPE, 96, 48, 48, 49);                                                                     \
    SWIN_WGMMA(T, TYPE, 128, 64, 64, 65);                                                                    \
    SWIN_WGMMA(T, TYPE, 192, 96, 96, 97)

SWIN_WGMMA_SIZES(__half, "f16");
SWIN_WGMMA_SIZES(__nv_bfloat16, "bf16");
