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

#define SWIN_ACC(r) "+f"(r[0]), "+f"(r[1]), "+f"(r[2]), "+f"(r[3])

template <class T, int N> struct wgmma;

template <> struct wgmma<__half, 32> {
    static __device__ __forceinline__ void run(float (&d)[4][4], uint64_t a, uint64_t b)
    {
#if SWIN_HAVE_WGMMA
        asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 {"
                     "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
                     "%16, %17, 1, 1, 1, 0, 0;\n"
                     : SWIN_ACC(d[0]), SWIN_ACC(d[1]), SWIN_ACC(d[2]), SWIN_ACC(d[3])
                     : "l"(a), "l"(b));
#endif
    }
};

template <> struct wgmma<__nv_bfloat16, 32> {
    static __device__ __forceinline__ void run(float (&d)[4][4], uint64_t a, uint64_t b)
    {
#if SWIN_HAVE_WGMMA
        asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
                     "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
                     "%16, %17, 1, 1, 1, 0, 0;\n"
                     : SWIN_ACC(d[0]), SWIN_ACC(d[1]), SWIN_ACC(d[2]), SWIN_ACC(d[3])
                     : "l"(a), "l"(b));
#endif
    }
};

template <> struct wgmma<__half, 64> {
    static __device__ __forceinline__ void run(float (&d)[8][4], uint64_t a, uint64_t b)
    {
#if SWIN_HAVE_WGMMA
        asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {"
                     "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                     "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                     "%32, %33, 1, 1, 1, 0, 0;\n"
                     : SWIN_ACC(d[0]), SWIN_ACC(d[1]), SWIN_ACC(d[2]), SWIN_ACC(d[3]), SWIN_ACC(d[4]),
                       SWIN_ACC(d[5]), SWIN_ACC(d[6]), SWIN_ACC(d[7])
                     : "l"(a), "l"(b));
#endif
    }
};

template <> struct wgmma<__nv_bfloat16, 64> {
    static __device__ __forceinline__ void run(float (&d)[8][4], uint64_t a, uint64_t b)
    {
#if SWIN_HAVE_WGMMA
        asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
                     "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                     "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                     "%32, %33, 1, 1, 1, 0, 0;\n"
                     : SWIN_ACC(d[0]), SWIN_ACC(d[1]), SWIN_ACC(d[2]), SWIN_ACC(d[3]), SWIN_ACC(d[4]),
                       SWIN_ACC(d[5]), SWIN_ACC(d[6]), SWIN_ACC(d[7])
                     : "l"(a), "l"(b));
#endif
    }
};

template <> struct wgmma<__half, 96> {
    static __device__ __forceinline__ void run(float (&d)[12][4], uint64_t a, uint64_t b)
    {
#if SWIN_HAVE_WGMMA
        asm volatile("wgmma.mma_async.sync.aligned.m64n96k16.f32.f16.f16 {"
                     "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                     "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                     "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47}, "
                     "%48, %49, 1, 1, 1, 0, 0;\n"
                     : SWIN_ACC(d[0]), SWIN_ACC(d[1]), SWIN_ACC(d[2]), SWIN_ACC(d[3]), SWIN_ACC(d[4]),
                       SWIN_ACC(d[5]), SWIN_ACC(d[6]), SWIN_ACC(d[7]), SWIN_ACC(d[8]), SWIN_ACC(d[9]),
                       SWIN_ACC(d[10]), SWIN_ACC(d[11])
                     : "l"(a), "l"(b));
#endif
    }
};

template <> struct wgmma<__nv_bfloat16, 96> {
    static __device__ __forceinline__ void run(float (&d)[12][4], uint64_t a, uint64_t b)
    {
#if SWIN_HAVE_WGMMA
        asm volatile("wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 {"
                     "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                     "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                     "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47}, "
                     "%48, %49, 1, 1, 1, 0, 0;\n"
                     : SWIN_ACC(d[0]), SWIN_ACC(d[1]), SWIN_ACC(d[2]), SWIN_ACC(d[3]), SWIN_ACC(d[4]),
                       SWIN_ACC(d[5]), SWIN_ACC(d[6]), SWIN_ACC(d[7]), SWIN_ACC(d[8]), SWIN_ACC(d[9]),
                       SWIN_ACC(d[10]), SWIN_ACC(d[11])
                     : "l"(a), "l"(b));
#endif
    }
};

template <> struct wgmma<__half, 128> {
    static __device__ __forceinline__ void run(float (&d)[16][4], uint64_t a, uint64_t b)
    {
#if SWIN_HAVE_WGMMA
        asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
                     "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                     "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                     "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                     "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                     "%64, %65, 1, 1, 1, 0, 0;\n"
                     : SWIN_ACC(d[0]), SWIN_ACC(d[1]), SWIN_ACC(d[2]), SWIN_ACC(d[3]), SWIN_ACC(d[4]),
                       SWIN_ACC(d[5]), SWIN_ACC(d[6]), SWIN_ACC(d[7]), SWIN_ACC(d[8]), SWIN_ACC(d[9]),
                       SWIN_ACC(d[10]), SWIN_ACC(d[11]), SWIN_ACC(d[12]), SWIN_ACC(d[13]), SWIN_ACC(d[14]),
                       SWIN_ACC(d[15])
                     : "l"(a), "l"(b));
#endif
    }
};

template <> struct wgmma<__nv_bfloat16, 128> {
    static __device__ __forceinline__ void run(float (&d)[16][4], uint64_t a, uint64_t b)
    {
#if SWIN_HAVE_WGMMA
        asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
                     "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                     "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                     "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                     "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                     "%64, %65, 1, 1, 1, 0, 0;\n"
                     : SWIN_ACC(d[0]), SWIN_ACC(d[1]), SWIN_ACC(d[2]), SWIN_ACC(d[3]), SWIN_ACC(d[4]),
                       SWIN_ACC(d[5]), SWIN_ACC(d[6]), SWIN_ACC(d[7]), SWIN_ACC(d[8]), SWIN_ACC(d[9]),
                       SWIN_ACC(d[10]), SWIN_ACC(d[11]), SWIN_ACC(d[12]), SWIN_ACC(d[13]), SWIN_ACC(d[14]),
                       SWIN_ACC(d[15])
                     : "l"(a), "l"(b));
#endif
    }
};

template <> struct wgmma<__half, 192> {
    static __device__ __forceinline__ void run(float (&d)[24][4], uint64_t a, uint64_t b)
    {
#if SWIN_HAVE_WGMMA
        asm volatile("wgmma.mma_async.sync.aligned.m64n192k16.f32.f16.f16 {"
                     "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                     "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                     "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                     "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
                     "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
                     "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95}, "
                     "%96, %97, 1, 1, 1, 0, 0;\n"
                     : SWIN_ACC(d[0]), SWIN_ACC(d[1]), SWIN_ACC(d[2]), SWIN_ACC(d[3]), SWIN_ACC(d[4]),
                       SWIN_ACC(d[5]), SWIN_ACC(d[6]), SWIN_ACC(d[7]), SWIN_ACC(d[8]), SWIN_ACC(d[9]),
                       SWIN_ACC(d[10]), SWIN_ACC(d[11]), SWIN_ACC(d[12]), SWIN_ACC(d[13]), SWIN_ACC(d[14]),
                       SWIN_ACC(d[15]), SWIN_ACC(d[16]), SWIN_ACC(d[17]), SWIN_ACC(d[18]), SWIN_ACC(d[19]),
                       SWIN_ACC(d[20]), SWIN_ACC(d[21]), SWIN_ACC(d[22]), SWIN_ACC(d[23])
                     : "l"(a), "l"(b));
#endif
    }
};

template <> struct wgmma<__nv_bfloat16, 192> {
    static __device__ __forceinline__ void run(float (&d)[24][4], uint64_t a, uint64_t b)
    {
#if SWIN_HAVE_WGMMA
        asm volatile("wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 {"
                     "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                     "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                     "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                     "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
                     "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
                     "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95}, "
                     "%96, %97, 1, 1, 1, 0, 0;\n"
                     : SWIN_ACC(d[0]), SWIN_ACC(d[1]), SWIN_ACC(d[2]), SWIN_ACC(d[3]), SWIN_ACC(d[4]),
                       SWIN_ACC(d[5]), SWIN_ACC(d[6]), SWIN_ACC(d[7]), SWIN_ACC(d[8]), SWIN_ACC(d[9]),
                       SWIN_ACC(d[10]), SWIN_ACC(d[11]), SWIN_ACC(d[12]), SWIN_ACC(d[13]), SWIN_ACC(d[14]),
                       SWIN_ACC(d[15]), SWIN_ACC(d[16]), SWIN_ACC(d[17]), SWIN_ACC(d[18]), SWIN_ACC(d[19]),
                       SWIN_ACC(d[20]), SWIN_ACC(d[21]), SWIN_ACC(d[22]), SWIN_ACC(d[23])
                     : "l"(a), "l"(b));
#endif
    }
};
