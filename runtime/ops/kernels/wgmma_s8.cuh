/* runtime/ops/kernels/wgmma_s8.cuh - Hopper's warpgroup multiply on codes: d [64][N] += a [64][32] b
 * [N][32]^T, exact in INT32; operands and accumulators lie as in wgmma.cuh. add 0: d is replaced. a may
 * come from registers, laid out as that of m16n8k32. */
#pragma once

#include "runtime/ops/kernels/wgmma.cuh"

#define SWIN_SUM(r) "+r"(r[0]), "+r"(r[1]), "+r"(r[2]), "+r"(r[3])

/* As wgmma_operand, for rows of 64 bytes with the 64-byte swizzle (chunk_at<64>), eight rows every 512
 * bytes. */
__device__ __forceinline__ uint64_t wgmma_operand64(unsigned at)
{
    return (uint64_t)((at & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (uint64_t)(512 >> 4) << 32 |
           (uint64_t)2 << 62;
}

template <int N> struct wgmma_s8;

template <> struct wgmma_s8<32> {
    static __device__ __forceinline__ void run(int (&d)[4][4], uint64_t a, uint64_t b, int add = 1)
    {
#if SWIN_HAVE_WGMMA
        asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %18, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n32k32.s32.s8.s8 {"
                     "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
                     "%16, %17, add;\n}\n"
                     : SWIN_SUM(d[0]), SWIN_SUM(d[1]), SWIN_SUM(d[2]), SWIN_SUM(d[3])
                     : "l"(a), "l"(b), "r"(add));
#endif
    }
};

template <> struct wgmma_s8<64> {
    static __device__ __forceinline__ void run(int (&d)[8][4], uint64_t a, uint64_t b, int add = 1)
    {
#if SWIN_HAVE_WGMMA
        asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %34, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 {"
                     "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                     "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                     "%32, %33, add;\n}\n"
                     : SWIN_SUM(d[0]), SWIN_SUM(d[1]), SWIN_SUM(d[2]), SWIN_SUM(d[3]), SWIN_SUM(d[4]),
                       SWIN_SUM(d[5]), SWIN_SUM(d[6]), SWIN_SUM(d[7])
                     : "l"(a), "l"(b), "r"(add));
#endif
    }
};

template <> struct wgmma_s8<96> {
    static __device__ __forceinline__ void run(int (&d)[12][4], uint64_t a, uint64_t b, int add = 1)
    {
#if SWIN_HAVE_WGMMA
        asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %50, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n96k32.s32.s8.s8 {"
                     "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                     "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                     "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47}, "
                     "%48, %49, add;\n}\n"
                     : SWIN_SUM(d[0]), SWIN_SUM(d[1]), SWIN_SUM(d[2]), SWIN_SUM(d[3]), SWIN_SUM(d[4]),
                       SWIN_SUM(d[5]), SWIN_SUM(d[6]), SWIN_SUM(d[7]), SWIN_SUM(d[8]), SWIN_SUM(d[9]),
                       SWIN_SUM(d[10]), SWIN_SUM(d[11])
                     : "l"(a), "l"(b), "r"(add));
#endif
    }
    static __device__ __forceinline__ void run(int (&d)[12][4], const unsigned (&a)[4], uint64_t b)
    {
#if SWIN_HAVE_WGMMA
        asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %53, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n96k32.s32.s8.s8 {"
                     "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                     "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                     "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47}, "
                     "{%48, %49, %50, %51}, %52, add;\n}\n"
                     : SWIN_SUM(d[0]), SWIN_SUM(d[1]), SWIN_SUM(d[2]), SWIN_SUM(d[3]), SWIN_SUM(d[4]),
                       SWIN_SUM(d[5]), SWIN_SUM(d[6]), SWIN_SUM(d[7]), SWIN_SUM(d[8]), SWIN_SUM(d[9]),
                       SWIN_SUM(d[10]), SWIN_SUM(d[11])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(1));
#endif
    }
};

template <> struct wgmma_s8<128> {
    static __device__ __forceinline__ void run(int (&d)[16][4], uint64_t a, uint64_t b, int add = 1)
    {
#if SWIN_HAVE_WGMMA
        asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {"
                     "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                     "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                     "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                     "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                     "%64, %65, add;\n}\n"
                     : SWIN_SUM(d[0]), SWIN_SUM(d[1]), SWIN_SUM(d[2]), SWIN_SUM(d[3]), SWIN_SUM(d[4]),
                       SWIN_SUM(d[5]), SWIN_SUM(d[6]), SWIN_SUM(d[7]), SWIN_SUM(d[8]), SWIN_SUM(d[9]),
                       SWIN_SUM(d[10]), SWIN_SUM(d[11]), SWIN_SUM(d[12]), SWIN_SUM(d[13]), SWIN_SUM(d[14]),
                       SWIN_SUM(d[15])
                     : "l"(a), "l"(b), "r"(add));
#endif
    }
    static __device__ __forceinline__ void run(int (&d)[16][4], const unsigned (&a)[4], uint64_t b)
    {
#if SWIN_HAVE_WGMMA
        asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %69, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {"
                     "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                     "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                     "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                     "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                     "{%64, %65, %66, %67}, %68, add;\n}\n"
                     : SWIN_SUM(d[0]), SWIN_SUM(d[1]), SWIN_SUM(d[2]), SWIN_SUM(d[3]), SWIN_SUM(d[4]),
                       SWIN_SUM(d[5]), SWIN_SUM(d[6]), SWIN_SUM(d[7]), SWIN_SUM(d[8]), SWIN_SUM(d[9]),
                       SWIN_SUM(d[10]), SWIN_SUM(d[11]), SWIN_SUM(d[12]), SWIN_SUM(d[13]), SWIN_SUM(d[14]),
                       SWIN_SUM(d[15])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(1));
#endif
    }
};

template <> struct wgmma_s8<192> {
    static __device__ __forceinline__ void run(int (&d)[24][4], uint64_t a, uint64_t b, int add = 1)
    {
#if SWIN_HAVE_WGMMA
        asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %98, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n192k32.s32.s8.s8 {"
                     "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                     "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                     "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                     "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
                     "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
                     "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95}, "
                     "%96, %97, add;\n}\n"
                     : SWIN_SUM(d[0]), SWIN_SUM(d[1]), SWIN_SUM(d[2]), SWIN_SUM(d[3]), SWIN_SUM(d[4]),
                       SWIN_SUM(d[5]), SWIN_SUM(d[6]), SWIN_SUM(d[7]), SWIN_SUM(d[8]), SWIN_SUM(d[9]),
                       SWIN_SUM(d[10]), SWIN_SUM(d[11]), SWIN_SUM(d[12]), SWIN_SUM(d[13]), SWIN_SUM(d[14]),
                       SWIN_SUM(d[15]), SWIN_SUM(d[16]), SWIN_SUM(d[17]), SWIN_SUM(d[18]), SWIN_SUM(d[19]),
                       SWIN_SUM(d[20]), SWIN_SUM(d[21]), SWIN_SUM(d[22]), SWIN_SUM(d[23])
                     : "l"(a), "l"(b), "r"(add));
#endif
    }
    static __device__ __forceinline__ void run(int (&d)[24][4], const unsigned (&a)[4], uint64_t b)
    {
#if SWIN_HAVE_WGMMA
        asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %101, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n192k32.s32.s8.s8 {"
                     "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                     "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                     "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                     "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
                     "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
                     "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95}, "
                     "{%96, %97, %98, %99}, %100, add;\n}\n"
                     : SWIN_SUM(d[0]), SWIN_SUM(d[1]), SWIN_SUM(d[2]), SWIN_SUM(d[3]), SWIN_SUM(d[4]),
                       SWIN_SUM(d[5]), SWIN_SUM(d[6]), SWIN_SUM(d[7]), SWIN_SUM(d[8]), SWIN_SUM(d[9]),
                       SWIN_SUM(d[10]), SWIN_SUM(d[11]), SWIN_SUM(d[12]), SWIN_SUM(d[13]), SWIN_SUM(d[14]),
                       SWIN_SUM(d[15]), SWIN_SUM(d[16]), SWIN_SUM(d[17]), SWIN_SUM(d[18]), SWIN_SUM(d[19]),
                       SWIN_SUM(d[20]), SWIN_SUM(d[21]), SWIN_SUM(d[22]), SWIN_SUM(d[23])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(1));
#endif
    }
};
