/* runtime/ops/kernels/int8.cuh - codes: rounding and packing, the tensor cores' INT8 product, a product's
 * last step.
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

/* x as a code, still a float32 of S8_MAGIC + code: rounded, clamped, NaN to the lowest. An exact tie goes to
 * even with the zero point added: for computed values, where a tie is chance. */
__device__ __forceinline__ float s8_code(float x, const swin_s8_rule &r)
{
    return fminf(fmaxf(fmaf(x, r.inverse, r.zero), r.lo), r.hi);
}

/* The same for given values: ties to even before the zero point is added, as ops.h says. */
__device__ __forceinline__ float s8_code_given(float x, const swin_s8_rule &r)
{
    return fminf(fmaxf(fmaf(x, r.inverse, S8_MAGIC) + (r.zero - S8_MAGIC), r.lo), r.hi);
}

/* As gelu<__half> of common.cuh, but to 1e-7: a code must not move. log2 Q is minimax over [0, 5.6] with
 * the weight that it has in the result; past 10, Q is nothing. */
__device__ __forceinline__ float s8_gelu(float x)
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

/* The low bytes of four. */
__device__ __forceinline__ unsigned s8_pack(float a, float b, float c, float d)
{
    const unsigned ab = __byte_perm(__float_as_uint(a), __float_as_uint(b), 0x0040);
    const unsigned cd = __byte_perm(__float_as_uint(c), __float_as_uint(d), 0x0040);
    return __byte_perm(ab, cd, 0x5410);
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

/* Eight codes of a product that was rounded before its bias, the bias added, onto a residual stream. */
__device__ __forceinline__ void s8_add_local(float (&x)[8], uint2 codes, const swin_s8_local &l, int col)
{
    const unsigned word[2] = { codes.x, codes.y };
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const float4 b4 = __ldg(reinterpret_cast<const float4 *>(l.bias + col + 4 * h));
        const float b[4] = { b4.x, b4.y, b4.z, b4.w };
#pragma unroll
        for (int k = 0; k < 4; k++) x[4 * h + k] += fmaf((float)(int8_t)(word[h] >> 8 * k), l.scale, b[k]);
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

/* ---- a product's last step
 * ------------------------------------------------------------------------------------ */

/* Factors and biases of a tile's columns, in their own order. */
template <int BN, int THREADS>
__device__ __forceinline__ void s8_load_factors(float *alpha, float *bias, const swin_gemm_s8 &p, int n0)
{
    for (int i = threadIdx.x; i < BN; i += THREADS) {
        const bool in = n0 + i < p.n;
        alpha[i] = in ? p.x_scale * p.w_scale[n0 + i] : 0.f;
        bias[i] = in && p.bias ? p.bias[n0 + i] : 0.f;
    }
}

/* What a thread's sums start from: minus the zero point's share. col: the warp's first column in the
 * matrix. */
template <int NT> __device__ __forceinline__ void s8_begin(int (&acc)[NT][4], const swin_gemm_s8 &p, int col)
{
#pragma unroll
    for (int j = 0; j < NT; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const int n = col + 32 * (j / 4) + 8 * (threadIdx.x & 3) + 2 * (j % 4) + e;
            acc[j][e] = acc[j][e + 2] = p.zero_share && n < p.n ? -__ldg(p.zero_share + n) : 0;
        }
}

/* One sum to a value: scale, rounding before the bias where there is one, bias, activation. */
__device__ __forceinline__ float s8_value(int acc, float alpha, float bias, float after, float after_inverse)
{
    const float v = (float)acc * alpha;
    if (after == 0.f) return fmaf((float)acc, alpha, bias);
    const float code = fminf(fmaxf(fmaf(v, after_inverse, S8_MAGIC), S8_MAGIC - 127.f), S8_MAGIC + 127.f) -
                       S8_MAGIC;
    return fmaf(code, after, bias);
}

/* What a kernel's last step can do: lean code for the network's own cases, one for all others. */
enum s8_last {
    S8_ANY,
    S8_CODES,      /* every part S8, no activation */
    S8_GELU_CODES, /* the same after GELU */
    S8_RESIDUAL,   /* added to a residual of F16 */
    S8_LOCAL,      /* the same where more is to be added, p.local */
    S8_HALVES,     /* F16 in one part, no activation */
    S8_COSINE,     /* codes of Swin V2's q, k, v: swin_gemm_s8.head_scale */
    S8_AFTERS /* a step of rounding for each column, p.afters; all else as ANY, or added to p.local too */
};

/* Eight sums to values. alpha, bias: of the eight columns, 16-byte aligned. */
__device__ __forceinline__ void s8_values(float (&v)[8], const int (&sum)[8], const float *alpha,
                                          const float *bias, float after, float after_inverse)
{
    float a[8], b[8];
    *reinterpret_cast<float4 *>(a) = *reinterpret_cast<const float4 *>(alpha);
    *reinterpret_cast<float4 *>(a + 4) = *reinterpret_cast<const float4 *>(alpha + 4);
    *reinterpret_cast<float4 *>(b) = *reinterpret_cast<const float4 *>(bias);
    *reinterpret_cast<float4 *>(b + 4) = *reinterpret_cast<const float4 *>(bias + 4);
    if (after == 0.f) {
#pragma unroll
        for (int k = 0; k < 8; k++) v[k] = fmaf((float)sum[k], a[k], b[k]);
    } else {
#pragma unroll
        for (int k = 0; k < 8; k++) v[k] = s8_value(sum[k], a[k], b[k], after, after_inverse);
    }
}

/* The same with a step of rounding for each column. */
__device__ __forceinline__ void s8_values_afters(float (&v)[8], const int (&sum)[8], const float *alpha,
                                                 const float *bias, const float *afters)
{
#pragma unroll
    for (int k = 0; k < 8; k++) {
        const float step = __ldg(afters + k);
        v[k] = s8_value(sum[k], alpha[k], bias[k], step, 1.f / step);
    }
}

/* Which part column n belongs to. */
__device__ __forceinline__ int s8_part_of(const swin_gemm_s8 &p, int n)
{
    int part = n >= p.width;
#pragma unroll
    for (int i = 2; i < SWIN_S8_PARTS; i++) part += n >= i * p.width;
    return part < p.parts ? part : 0;
}

/* Eight neighbours as 16 bytes of a half type. */
template <class T> __device__ __forceinline__ uint4 s8_halves(const float (&v)[8])
{
    return make_uint4(pack2<T>(v[0], v[1]), pack2<T>(v[2], v[3]), pack2<T>(v[4], v[5]), pack2<T>(v[6], v[7]));
}

/* Add what lies at a residual of T to eight neighbours. */
template <class T> __device__ __forceinline__ void s8_add_old(float (&v)[8], const char *at)
{
    vec<T> old;
#pragma unroll
    for (int h = 0; h < 8; h += vec<T>::n) {
        old.load((const T *)at + h);
#pragma unroll
        for (int k = 0; k < vec<T>::n; k++) v[h + k] += old.v[k];
    }
}

/* Store eight neighbours as whatever the part is. A template, so that each file may have its own. */
template <class G>
__device__ __noinline__ void s8_store_any(const G &p, int64_t row, int n, float (&v)[8], const int (&sum)[8])
{
    const int part = s8_part_of(p, n);
    const swin_s8_part &y = p.y[part];
    char *at = (char *)y.data + (row * y.ld + n - part * p.width) * (int64_t)y.unit;
    if (p.act == SWIN_ACT_GELU) {
#pragma unroll
        for (int k = 0; k < 8; k++) v[k] = s8_gelu(v[k]);
    }
    if (y.dtype == SWIN_S8) {
        *reinterpret_cast<uint2 *>(at) = s8_codes8(v, y, n - part * p.width);
    } else if (y.dtype == SWIN_F16) {
        if (p.residual) s8_add_old<__half>(v, at);
        *reinterpret_cast<uint4 *>(at) = s8_halves<__half>(v);
    } else if (y.dtype == SWIN_BF16) {
        if (p.residual) s8_add_old<__nv_bfloat16>(v, at);
        *reinterpret_cast<uint4 *>(at) = s8_halves<__nv_bfloat16>(v);
    } else if (y.dtype == SWIN_F32) {
        if (p.residual) s8_add_old<float>(v, at);
        *reinterpret_cast<float4 *>(at) = make_float4(v[0], v[1], v[2], v[3]);
        *reinterpret_cast<float4 *>(at + 16) = make_float4(v[4], v[5], v[6], v[7]);
    } else {
        *reinterpret_cast<int4 *>(at) = make_int4(sum[0], sum[1], sum[2], sum[3]);
        *reinterpret_cast<int4 *>(at + 16) = make_int4(sum[4], sum[5], sum[6], sum[7]);
    }
}

/* Eight neighbours of a row and the other 24 columns of their head, in the row's four threads: divided by
 * their length, times the head's scale. The sum's order is that of normalise_heads32_s8 (norm_s8.cu). */
__device__ __forceinline__ void s8_cosine(float (&v)[8], float scale)
{
    float sum = 0;
#pragma unroll
    for (int k = 0; k < 8; k++) sum = fmaf(v[k], v[k], sum);
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    const float factor = scale / fmaxf(sqrtf(sum), 1e-12f);
#pragma unroll
    for (int k = 0; k < 8; k++) v[k] *= factor;
}

/* The same for a product's values; n: column of the first. */
__device__ __forceinline__ void s8_cosine_part(float (&v)[8], const swin_gemm_s8 &p, int part, int n)
{
    if (part > 1) return;
    const float size = part ? p.raw_scale[1] : p.raw_scale[0];
    if (size > 0) {
        const swin_s8_rule rule = part ? p.raw[1] : p.raw[0];
#pragma unroll
        for (int k = 0; k < 8; k++) v[k] = (s8_code(v[k], rule) - S8_MAGIC) * size;
    }
    s8_cosine(v, part ? 1.f : __ldg(p.head_scale + n / 32));
}

/* A warp's 16 rows x (8 NT) columns of sums to memory. row: of the matrix, for this thread's first; col0:
 * the warp's first column in the tile whose factors these are; n0: the tile's first. */
template <int LAST, int NT>
__device__ __forceinline__ void s8_finish(const swin_gemm_s8 &p, const int (&acc)[NT][4], const float *alpha,
                                          const float *bias, int64_t row, int col0, int n0)
{
    const int t = threadIdx.x & 3;
    int64_t to[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int64_t m = row + 8 * half;
        to[half] = m >= p.m ? -1 : p.windows ? window_source(p.g, m) : m;
    }
    constexpr bool PARTS = LAST == S8_CODES || LAST == S8_COSINE;
    int part = PARTS ? s8_part_of(p, n0 + col0) : 0;
    const bool one_part = !PARTS || s8_part_of(p, min(n0 + col0 + 8 * NT, p.n) - 1) == part;
    swin_s8_rule rule = p.y[part].rule;
    int8_t *codes = (int8_t *)p.y[part].data -
                    part * p.width; /* of S8 parts: row 0 of the matrix' column 0 */
    int64_t ld = p.y[part].ld;
    constexpr int AHEAD = NT > 12 ? 2 : NT / 4; /* reads of the residual that are under way together */
    uint4 old[AHEAD][2];
#pragma unroll
    for (int q = 0; q < NT / 4; q++) {
        if ((LAST == S8_RESIDUAL || LAST == S8_LOCAL) && q % AHEAD == 0) {
#pragma unroll
            for (int i = 0; i < AHEAD; i++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const int n = n0 + col0 + 32 * (q + i) + 8 * t;
                    if (to[half] >= 0 && n < p.n)
                        old[i][half] =
                            *((const uint4 *)((const __half *)p.y[0].data + to[half] * p.y[0].ld + n));
                }
        }
        const int col = col0 + 32 * q + 8 * t, n = n0 + col;
        if (n >= p.n) continue;
        if (!one_part) {
            part = s8_part_of(p, n);
            rule = p.y[part].rule, ld = p.y[part].ld;
            codes = (int8_t *)p.y[part].data - part * p.width;
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            if (LAST != S8_COSINE && to[half] < 0) continue;
            float v[8];
            int sum[8];
#pragma unroll
            for (int k = 0; k < 8; k++) sum[k] = acc[4 * q + k / 2][2 * half + k % 2];
            if constexpr (LAST == S8_AFTERS)
                s8_values_afters(v, sum, alpha + col, bias + col, p.afters + n);
            else
                s8_values(v, sum, alpha + col, bias + col, p.after, p.after_inverse);
            if constexpr (LAST == S8_AFTERS) {
                if (p.local.codes)
                    s8_add_local(v, *(const uint2 *)(p.local.codes + to[half] * p.local.ld + n), p.local, n);
            }
            if constexpr (LAST == S8_ANY || LAST == S8_AFTERS) {
                s8_store_any(p, to[half], n, v, sum);
            } else if constexpr (LAST == S8_HALVES) {
                *((uint4 *)((__half *)p.y[0].data + to[half] * p.y[0].ld + n)) = s8_halves<__half>(v);
            } else if constexpr (LAST == S8_RESIDUAL || LAST == S8_LOCAL) {
                vec<__half> a;
                a.from(old[q % AHEAD][half]);
                if (LAST == S8_LOCAL)
                    s8_add_local(a.v, *(const uint2 *)(p.local.codes + to[half] * p.local.ld + n), p.local,
                                 n);
#pragma unroll
                for (int k = 0; k < 8; k++) v[k] += a.v[k];
                *((uint4 *)((__half *)p.y[0].data + to[half] * p.y[0].ld + n)) = s8_halves<__half>(v);
            } else {
                if constexpr (LAST == S8_GELU_CODES) {
#pragma unroll
                    for (int k = 0; k < 8; k++) v[k] = s8_gelu(v[k]);
                }
                if constexpr (LAST ==
                              S8_COSINE) { /* rows past the end take part in their neighbours' shuffles */
                    s8_cosine_part(v, p, part, n);
                    if (to[half] < 0) continue;
                }
                uint2 *at = (uint2 *)(codes + to[half] * ld + n);
                if constexpr (LAST == S8_GELU_CODES)
                    *at = s8_codes8(v, p.y[0], n);
                else
                    *at = make_uint2(s8_codes4(v, rule), s8_codes4(v + 4, rule));
            }
        }
    }
}
