/* runtime/ops/kernels/int8.cuh - codes: rounding and packing, the tensor cores' INT8 product. What becomes of
 * its sums: last_s8.cuh.
 *
 * Columns of a product are dealt to the tensor cores' n in another order than their own: within 32 of
 * them, position 8 j + 2 t + e (tile j, the thread's number t in its group of four) takes column 8 t + 2 j
 * + e. So a thread ends with eight neighbours of a row, which it scales, rounds and stores with one
 * instruction, without a detour through shared memory. */
#pragma once

#include "runtime/ops/kernels/int8.h"
#include "runtime/ops/kernels/tile.cuh"

/* 1.5 * 2^23: a float32 sum with it is rounded to an integer, half to even, which then lies in the low
 * bits. */
#define S8_MAGIC 12582912.f

/* x as a code, still a float32 of S8_MAGIC + code: rounded, clamped, NaN to the lowest. An exact tie goes
 * to even with the zero point added: for computed values, where a tie is chance. */
__device__ __forceinline__ float s8_code(float x, const swin_s8_rule &r)
{
    return fminf(fmaxf(fmaf(x, r.inverse, r.zero), r.lo), r.hi);
}

/* The same for given values: ties to even before the zero point is added, as ops.h says. */
__device__ __forceinline__ float s8_code_given(float x, const swin_s8_rule &r)
{
    return fminf(fmaxf(fmaf(x, r.inverse, S8_MAGIC) + (r.zero - S8_MAGIC), r.lo), r.hi);
}

/* GELU of a value that stays one: as gelu<__half> of common.cuh, but to 1e-7. log2 Q is minimax over [0, 5.6]
 * with the weight that it has in the result; past 10, Q is nothing. */
__device__ __forceinline__ float s8_gelu_value(float x)
{
    const float a = fminf(fabsf(x), 10.f);
    float p = fmaf(a, 3.309279298e-05f, -7.692194929e-04f);
    p = fmaf(a, p, 8.080715788e-03f);
    p = fmaf(a, p, -5.341210290e-02f);
    p = fmaf(a, p, -4.587709745e-01f);
    p = fmaf(a, p, -1.151201702e+00f);
    p = fmaf(a, p, -9.999930611e-01f);
    return fmaf(-a, exp2_fast(p), fmaxf(x, 0.f));
}

/* The same to 6e-7, which moves a code in 30,000. Here log2 Q only falls past its range, [0, 7], and needs no
 * limit on |x|. */
__device__ __forceinline__ float s8_gelu(float x)
{
    const float a = fabsf(x);
    float p = fmaf(a, -4.73294018e-04f, 7.08446133e-03f);
    p = fmaf(a, p, -5.18271693e-02f);
    p = fmaf(a, p, -4.59992644e-01f);
    p = fmaf(a, p, -1.15078777f);
    p = fmaf(a, p, -1.00003763f);
    return fmaf(-a, exp2_fast(p), fmaxf(x, 0.f));
}

/* The same with one comparison: the multiply-add that ends in [0, 1] is the lower limit. S8_SPAN is a power
 * of two, so that ties stay ties. */
#define S8_SPAN 512.f

struct s8_span {
    float factor, begin; /* x * factor + begin is (code - lowest code) / S8_SPAN */
    float lo, hi;        /* on top of S8_MAGIC */
};

__device__ __forceinline__ s8_span s8_span_of(const swin_s8_rule &r)
{
    return { r.inverse / S8_SPAN, (r.zero - r.lo) / S8_SPAN, r.lo, r.hi };
}

__device__ __forceinline__ float s8_share(float x, float factor, float begin)
{
    float y;
    asm("fma.rn.sat.f32 %0, %1, %2, %3;" : "=f"(y) : "f"(x), "f"(factor), "f"(begin));
    return y;
}

__device__ __forceinline__ float s8_code_of_share(float share, float lo, float hi)
{
    return fminf(fmaf(share, S8_SPAN, lo), hi);
}

/* The low bytes of four: in pairs, and those together. */
__device__ __forceinline__ uint2 s8_pairs(float a, float b, float c, float d)
{
    return make_uint2(__byte_perm(__float_as_uint(a), __float_as_uint(b), 0x0040),
                      __byte_perm(__float_as_uint(c), __float_as_uint(d), 0x0040));
}

__device__ __forceinline__ unsigned s8_join(uint2 pairs)
{
    return __byte_perm(pairs.x, pairs.y, 0x5410);
}

__device__ __forceinline__ unsigned s8_pack(float a, float b, float c, float d)
{
    return s8_join(s8_pairs(a, b, c, d));
}

__device__ __forceinline__ unsigned s8_codes4(const float *x, const swin_s8_rule &r)
{
    return s8_pack(s8_code(x[0], r), s8_code(x[1], r), s8_code(x[2], r), s8_code(x[3], r));
}

/* The same with a factor for each, 1 / scale included. */
__device__ __forceinline__ unsigned s8_codes4(const float *x, float4 factor, swin_s8_rule r)
{
    const float f[4] = { factor.x, factor.y, factor.z, factor.w };
    float code[4];
#pragma unroll
    for (int k = 0; k < 4; k++) r.inverse = f[k], code[k] = s8_code(x[k], r);
    return s8_pack(code[0], code[1], code[2], code[3]);
}

/* The rule of a head whose columns, from `column` on, have one factor (NULL: none). */
__device__ __forceinline__ swin_s8_rule s8_rule_in(swin_s8_rule r, const float *shrink, int column)
{
    if (shrink) r.inverse *= __ldg(shrink + column);
    return r;
}

/* The scale of such a head's codes, as swin_code_scale of host.h. */
__device__ __forceinline__ float s8_scale_in(const swin_tensor &t, int column)
{
    return t.shrink ? t.scale / __ldg(t.shrink + column) : t.scale;
}

/* Factors of four columns: 1 / scale times what the values are multiplied by. */
__device__ __forceinline__ float4 s8_factors(const float *shrink, const swin_s8_rule &r)
{
    const float4 f = __ldg(reinterpret_cast<const float4 *>(shrink));
    return make_float4(f.x * r.inverse, f.y * r.inverse, f.z * r.inverse, f.w * r.inverse);
}

/* Eight codes of a part whose first column here is `col`. */
__device__ __forceinline__ uint2 s8_codes8(const float (&x)[8], const swin_s8_part &y, int col)
{
    if (!y.shrink) return make_uint2(s8_codes4(x, y.rule), s8_codes4(x + 4, y.rule));
    return make_uint2(s8_codes4(x, s8_factors(y.shrink + col, y.rule), y.rule),
                      s8_codes4(x + 4, s8_factors(y.shrink + col + 4, y.rule), y.rule));
}

/* Code k of four whose signs are turned: under 2^23's bits it is a number, without the slow conversion. */
__device__ __forceinline__ float s8_byte(unsigned turned, int k)
{
    return __uint_as_float(__byte_perm(turned, 0x4b000000u, 0x7540u + k)) - (8388608.f + 128.f);
}

/* What rounding v to a float16, given widened, took off, in steps of 2^-17 of its binade: a signed byte but
 * for numbers too small for float16's exponent. Neighbours in float32 are neighbours as integers. */
__device__ __forceinline__ int s8_rest(float v, float rounded)
{
    return (int)(__float_as_uint(v) - __float_as_uint(rounded) + 32u) >> 6;
}
__device__ __forceinline__ float s8_with_rest(float rounded, int rest)
{
    return __uint_as_float(__float_as_uint(rounded) + (unsigned)(rest << 6));
}

/* Four of them, saturated. */
__device__ __forceinline__ unsigned s8_pack_rest(int a, int b, int c, int d)
{
    unsigned r;
    asm("{\n.reg .b32 upper;\ncvt.pack.sat.s8.s32.b32 upper, %4, %3, 0;\n"
        "cvt.pack.sat.s8.s32.b32 %0, %2, %1, upper;\n}\n"
        : "=r"(r)
        : "r"(a), "r"(b), "r"(c), "r"(d));
    return r;
}

/* Of eight values and what they became. */
__device__ __forceinline__ uint2 s8_rest8(const float (&v)[8], const float (&rounded)[8])
{
    int r[8];
#pragma unroll
    for (int k = 0; k < 8; k++) r[k] = s8_rest(v[k], rounded[k]);
    return make_uint2(s8_pack_rest(r[0], r[1], r[2], r[3]), s8_pack_rest(r[4], r[5], r[6], r[7]));
}

/* Eight values of a residual stream, with what l keeps beside it. */
__device__ __forceinline__ void s8_add_local(float (&x)[8], uint2 codes, const swin_s8_local &l, int col)
{
    const unsigned word[2] = { codes.x, codes.y };
    if (!l.bias) {
#pragma unroll
        for (int k = 0; k < 8; k++) x[k] = s8_with_rest(x[k], (int8_t)(word[k / 4] >> 8 * (k % 4)));
        return;
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const float4 b4 = __ldg(reinterpret_cast<const float4 *>(l.bias + col + 4 * h));
        const float b[4] = { b4.x, b4.y, b4.z, b4.w };
#pragma unroll
        for (int k = 0; k < 4; k++) x[4 * h + k] += fmaf(s8_byte(word[h] ^ 0x80808080u, k), l.scale, b[k]);
    }
}

/* c [16][8] += a [16][32] b [8][32]^T. */
__device__ __forceinline__ void mma_s8(int (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1)
{
#if SWIN_HAVE_MMA
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

/* The same with a of unsigned codes. */
__device__ __forceinline__ void mma_u8s8(int (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1)
{
#if SWIN_HAVE_MMA
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

/* The column that n position r takes. */
__device__ __forceinline__ int s8_column(int r)
{
    return (r & ~31) | (r & 6) << 2 | (r & 24) >> 2 | (r & 1);
}

/* Queue copies of a tile of weights, rows in the order of s8_column; as tile_load otherwise. */
template <int ROWS, int THREADS>
__device__ __forceinline__ void s8_load_weights(unsigned to, const int8_t *w, int64_t pitch, int rows_left,
                                                int bytes_left)
{
#pragma unroll
    for (int i = threadIdx.x; i < ROWS * 8; i += THREADS) {
        const int row = i / 8, chunk = i % 8, from = s8_column(row);
        const bool ok = from < rows_left && chunk * 16 < bytes_left;
        copy16(to + chunk_at<128>(row, chunk), ok ? w + from * pitch + chunk * 16 : w, ok);
    }
}
