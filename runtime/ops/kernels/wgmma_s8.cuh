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

/* P: the number of the operand that says whether d is added to; then as SWIN_WGMMA. */
#define SWIN_WGMMA_S8_TEXT(N, COUNT, FROM, P)                                                                \
    "{\n.reg .pred add;\nsetp.ne.b32 add, %" #P ", 0;\n"                                                     \
    "wgmma.mma_async.sync.aligned.m64n" #N "k32.s32.s8.s8 {" SWIN_NAMES##COUNT "}, " FROM ", add;\n}\n"

#define SWIN_WGMMA_S8_SHARED(N, COUNT, A, B, P)                                                              \
    static __device__ __forceinline__ void run(int(&d)[N / 8][4], uint64_t a, uint64_t b, int add = 1)       \
    {                                                                                                        \
        SWIN_WGMMA_ASM(SWIN_WGMMA_S8_TEXT(N, COUNT, "%" #A ", %" #B, P)                                      \
                       : SWIN_REGS##COUNT(SWIN_SUM, d)                                                       \
                       : "l"(a), "l"(b), "r"(add));                                                          \
    }

#define SWIN_WGMMA_S8_REGISTERS(N, COUNT, A, A1, A2, A3, B, P)                                               \
    static __device__ __forceinline__ void run(int(&d)[N / 8][4], const unsigned(&a)[4], uint64_t b)         \
    {                                                                                                        \
        SWIN_WGMMA_ASM(SWIN_WGMMA_S8_TEXT(N, COUNT, "{%" #A ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B, P)      \
                       : SWIN_REGS##COUNT(SWIN_SUM, d)                                                       \
                       : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(1));                        \
    }

template <> struct wgmma_s8<32> {
    SWIN_WGMMA_S8_SHARED(32, 16, 16, 17, 18)
    SWIN_WGMMA_S8_REGISTERS(32, 16, 16, 17, 18, 19, 20, 21)
};

template <> struct wgmma_s8<64> {
    SWIN_WGMMA_S8_SHARED(64, 32, 32, 33, 34)
};

template <> struct wgmma_s8<96> {
    SWIN_WGMMA_S8_SHARED(96, 48, 48, 49, 50)
    SWIN_WGMMA_S8_REGISTERS(96, 48, 48, 49, 50, 51, 52, 53)
};

template <> struct wgmma_s8<128> {
    SWIN_WGMMA_S8_SHARED(128, 64, 64, 65, 66)
    SWIN_WGMMA_S8_REGISTERS(128, 64, 64, 65, 66, 67, 68, 69)
};

template <> struct wgmma_s8<192> {
    SWIN_WGMMA_S8_SHARED(192, 96, 96, 97, 98)
    SWIN_WGMMA_S8_REGISTERS(192, 96, 96, 97, 98, 99, 100, 101)
};
