/* runtime/ops/kernels/last_s8.cuh - an INT8 product's last step: sums that lie as the tensor cores leave
 * them, columns dealt as in int8.cuh, become values, codes and a residual stream. */
#pragma once

#include "runtime/ops/kernels/int8.cuh"

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

/* What a sum of column n is multiplied by: its scale, or the scale over that of the rounding before the
 * bias. */
__device__ __forceinline__ float s8_alpha(const swin_gemm_s8 &p, int n)
{
    const float alpha = p.x_scale * p.w_scale[n];
    if (p.afters) return alpha * (1.f / p.afters[n]);
    return p.after == 0.f ? alpha : alpha * p.after_inverse;
}

/* One sum to a value: scale, rounding before the bias where there is one, bias. */
__device__ __forceinline__ float s8_value(int acc, float alpha, float bias, float after)
{
    if (after == 0.f) return fmaf((float)acc, alpha, bias);
    const float code = fminf(fmaxf(fmaf((float)acc, alpha, S8_MAGIC), S8_MAGIC - 127.f), S8_MAGIC + 127.f);
    return fmaf(code - S8_MAGIC, after, bias);
}

/* What a kernel's last step can do: lean code for the network's own cases, one for all others. */
enum s8_last {
    S8_ANY,
    S8_CODES,      /* every part S8, no activation */
    S8_GELU_CODES, /* the same after GELU */
    S8_RESIDUAL,   /* added to a residual of F16; p.local: its rest is stored there */
    S8_LOCAL,      /* the same where more is to be added, a product in p.local */
    S8_HALVES,     /* F16 in one part, no activation */
    S8_COSINE,     /* codes of Swin V2's q, k, v: swin_gemm_s8.head_scale */
    S8_AFTERS /* a step of rounding for each column, p.afters; all else as ANY, or added to p.local too */
};

/* Eight sums to values. alpha, bias: of the eight columns, 16-byte aligned. */
__device__ __forceinline__ void s8_values(float (&v)[8], const int (&sum)[8], const float *alpha,
                                          const float *bias, float after)
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
        for (int k = 0; k < 8; k++) v[k] = s8_value(sum[k], a[k], b[k], after);
    }
}

/* The same with a step of rounding for each column. */
__device__ __forceinline__ void s8_values_afters(float (&v)[8], const int (&sum)[8], const float *alpha,
                                                 const float *bias, const float *afters)
{
#pragma unroll
    for (int k = 0; k < 8; k++) v[k] = s8_value(sum[k], alpha[k], bias[k], __ldg(afters + k));
}

/* Which part column n belongs to. */
__device__ __forceinline__ int s8_part_of(const swin_gemm_s8 &p, int n)
{
    int part = n >= p.width;
#pragma unroll
    for (int i = 2; i < SWIN_S8_PARTS; i++) part += n >= i * p.width;
    return part < p.parts ? part : 0;
}

/* Factor and bias of column n, as s8_finish<LAST> wants them: those of plain codes lead to the codes' share
 * of their span without a value between, past the part's factor of that column. */
template <int LAST> __device__ __forceinline__ float2 s8_line(const swin_gemm_s8 &p, int n)
{
    const float alpha = s8_alpha(p, n), bias = p.bias ? p.bias[n] : 0.f;
    if (LAST != S8_CODES || p.after != 0.f) return make_float2(alpha, bias);
    const int part = s8_part_of(p, n);
    const swin_s8_part &y = p.y[part];
    s8_span to = s8_span_of(y.rule);
    if (y.shrink) to.factor *= __ldg(y.shrink + n - part * p.width);
    return make_float2(alpha * to.factor, fmaf(bias, to.factor, to.begin));
}

/* Factors and biases of a tile's columns, in their own order. */
template <int LAST, int BN, int THREADS>
__device__ __forceinline__ void s8_load_factors(float *alpha, float *bias, const swin_gemm_s8 &p, int n0)
{
    for (int i = threadIdx.x; i < BN; i += THREADS) {
        const float2 line = n0 + i < p.n ? s8_line<LAST>(p, n0 + i) : make_float2(0.f, 0.f);
        alpha[i] = line.x, bias[i] = line.y;
    }
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
        for (int k = 0; k < 8; k++) v[k] = s8_gelu_value(v[k]);
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
        const s8_span to = s8_span_of(part ? p.raw[1] : p.raw[0]); /* as where they become codes in memory */
#pragma unroll
        for (int k = 0; k < 8; k++)
            v[k] = (s8_code_of_share(s8_share(v[k], to.factor, to.begin), to.lo, to.hi) - S8_MAGIC) * size;
    }
    s8_cosine(v, part ? 1.f : __ldg(p.head_scale + n / 32));
}

/* Four neighbours of a row to codes (s8_join). a, b: s8_line of their columns; f: factors of GELU's
 * values. */
template <int LAST, bool AFTER>
__device__ __forceinline__ uint2 s8_four(const int (&sum)[4], const float (&a)[4], const float (&b)[4],
                                         const float (&f)[4], float after, const s8_span &to)
{
    float code[4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
        float share;
        if (LAST == S8_CODES && !AFTER) {
            share = s8_share((float)sum[k], a[k], b[k]);
        } else {
            float v = AFTER ? s8_value(sum[k], a[k], b[k], after) : fmaf((float)sum[k], a[k], b[k]);
            if (LAST == S8_GELU_CODES) v = s8_gelu(v);
            share = s8_share(v, f[k], to.begin);
        }
        code[k] = s8_code_of_share(share, to.lo, to.hi);
    }
    return s8_pairs(code[0], code[1], code[2], code[3]);
}

/* Where a thread's codes go: its columns' first, in two rows eight apart; NULL: past the end. */
struct s8_spot {
    int8_t *row[2];
    const float *shrink; /* of that first column; NULL: none */
    swin_s8_rule rule;
};

/* Of a thread whose first row of the matrix is `row`, in columns n and up, which are of one part. */
template <int LAST> __device__ __forceinline__ s8_spot s8_spot_of(const swin_gemm_s8 &p, int64_t row, int n)
{
    const int part = LAST == S8_CODES ? s8_part_of(p, n) : 0,
              first = n - part * p.width + 8 * (threadIdx.x & 3);
    const swin_s8_part &y = p.y[part];
    int8_t *to = (int8_t *)y.data + row * y.ld + first;
    return { { row < p.m ? to : NULL, row + 8 < p.m ? to + 8 * y.ld : NULL },
             LAST == S8_GELU_CODES && y.shrink ? y.shrink + first : NULL,
             y.rule };
}

/* A warp's 16 rows x (8 NT) columns of sums to codes of one part, all of whose columns exist. alpha, bias:
 * of the thread's first column. */
template <int LAST, int NT, bool AFTER, bool SHRINK>
__device__ __forceinline__ void s8_finish_part(const int (&acc)[NT][4], const float *alpha, const float *bias,
                                               const s8_spot &at, const s8_span &to, float after)
{
#pragma unroll
    for (int q = 0; q < NT / 4; q++) {
        unsigned word[2][2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float a[4], b[4], f[4] = { to.factor, to.factor, to.factor, to.factor };
            *reinterpret_cast<float4 *>(a) = *reinterpret_cast<const float4 *>(alpha + 32 * q + 4 * h);
            *reinterpret_cast<float4 *>(b) = *reinterpret_cast<const float4 *>(bias + 32 * q + 4 * h);
            if (SHRINK) {
                *reinterpret_cast<float4 *>(f) =
                    __ldg(reinterpret_cast<const float4 *>(at.shrink + 32 * q + 4 * h));
#pragma unroll
                for (int k = 0; k < 4; k++) f[k] *= to.factor;
            }
#pragma unroll
            for (int below = 0; below < 2; below++) {
                const int(&j)[4] = acc[4 * q + 2 * h], (&i)[4] = acc[4 * q + 2 * h + 1];
                const int sum[4] = { j[2 * below], j[2 * below + 1], i[2 * below], i[2 * below + 1] };
                word[below][h] = s8_join(s8_four<LAST, AFTER>(sum, a, b, f, after, to));
            }
        }
#pragma unroll
        for (int below = 0; below < 2; below++)
            if (at.row[below])
                *reinterpret_cast<uint2 *>(at.row[below] + 32 * q) =
                    make_uint2(word[below][0], word[below][1]);
    }
}

/* The leanest of it. */
template <int LAST, int NT>
__device__ __forceinline__ void s8_finish_whole(const swin_gemm_s8 &p, const int (&acc)[NT][4],
                                                const float *alpha, const float *bias, const s8_spot &at,
                                                const s8_span &to)
{
    if (LAST == S8_GELU_CODES && at.shrink) {
        if (p.after == 0.f)
            s8_finish_part<LAST, NT, false, true>(acc, alpha, bias, at, to, p.after);
        else
            s8_finish_part<LAST, NT, true, true>(acc, alpha, bias, at, to, p.after);
    } else if (p.after == 0.f) {
        s8_finish_part<LAST, NT, false, false>(acc, alpha, bias, at, to, p.after);
    } else {
        s8_finish_part<LAST, NT, true, false>(acc, alpha, bias, at, to, p.after);
    }
}

/* The same wherever the columns end, and in several parts. */
template <int LAST, int NT>
__device__ __forceinline__ void s8_finish_codes(const swin_gemm_s8 &p, const int (&acc)[NT][4],
                                                const float *alpha, const float *bias,
                                                const int64_t (&row)[2], int col0, int n0)
{
    const int first = n0 + col0 + 8 * (threadIdx.x & 3);
    int part = LAST == S8_CODES ? s8_part_of(p, n0 + col0) : 0;
    const bool one_part = LAST != S8_CODES || s8_part_of(p, min(n0 + col0 + 8 * NT, p.n) - 1) == part;
    s8_span to = s8_span_of(p.y[part].rule);
#pragma unroll
    for (int q = 0; q < NT / 4; q++) {
        const int n = first + 32 * q;
        if (n >= p.n) continue;
        if (!one_part) part = s8_part_of(p, n), to = s8_span_of(p.y[part].rule);
        const swin_s8_part &y = p.y[part];
        s8_spot at = { { NULL, NULL }, LAST == S8_GELU_CODES && y.shrink ? y.shrink + n : NULL, y.rule };
#pragma unroll
        for (int half = 0; half < 2; half++)
            if (row[half] >= 0) at.row[half] = (int8_t *)y.data + row[half] * y.ld + n - part * p.width;
        const int col = col0 + 32 * q + 8 * (threadIdx.x & 3);
        s8_finish_whole<LAST, 4>(p, *reinterpret_cast<const int(*)[4][4]>(&acc[4 * q]), alpha + col,
                                 bias + col, at, to);
    }
}

/* Codes of Swin V2's q, k, v: rows past the end take part in their neighbours' shuffles. */
__device__ __forceinline__ void s8_finish_cosine(const swin_gemm_s8 &p, float (&v)[8], int64_t row, int n)
{
    const int part = s8_part_of(p, n);
    const swin_s8_part &y = p.y[part];
    s8_cosine_part(v, p, part, n);
    if (row < 0) return;
    const swin_s8_rule rule = s8_rule_in(y.rule, y.shrink, n - part * p.width);
    *reinterpret_cast<uint2 *>((int8_t *)y.data + row * y.ld + n - part * p.width) =
        make_uint2(s8_codes4(v, rule), s8_codes4(v + 4, rule));
}

/* Rows of y that a thread's two rows of the product belong to; -1: past the end. */
__device__ __forceinline__ void s8_rows(int64_t (&to)[2], const swin_gemm_s8 &p, int64_t row)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int64_t m = row + 8 * half;
        to[half] = m >= p.m ? -1 : p.windows ? window_source(p.g, m) : m;
    }
}

/* What the residual stream holds, and what lies beside it, for a thread's columns in GROUPS times 32. */
template <int LAST, int GROUPS> struct s8_old {
    static constexpr bool USED = LAST == S8_RESIDUAL || LAST == S8_LOCAL;
    uint4 stream[USED ? GROUPS : 1][2];
    uint2 kept[LAST == S8_LOCAL ? GROUPS : 1][2];

    /* n: the thread's first column. */
    __device__ __forceinline__ void load(const swin_gemm_s8 &p, const int64_t (&to)[2], int n)
    {
        if constexpr (USED) {
#pragma unroll
            for (int i = 0; i < GROUPS; i++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const int at = n + 32 * i;
                    if (to[half] < 0 || at >= p.n) continue;
                    stream[i][half] =
                        *((const uint4 *)((const __half *)p.y[0].data + to[half] * p.y[0].ld + at));
                    if (LAST == S8_LOCAL)
                        kept[i][half] = *(const uint2 *)(p.local.codes + to[half] * p.local.ld + at);
                }
        }
    }
};

/* A warp's 16 rows x (8 NT) columns of sums to memory. to: rows of y for this thread's two (s8_rows); col0: the
 * warp's first column in the tile whose factors these are; n0: the tile's first. early: the residual stream's
 * values, if they have been read. */
template <int LAST, int NT>
__device__ __forceinline__ void s8_finish_rows(const swin_gemm_s8 &p, const int (&acc)[NT][4],
                                               const float *alpha, const float *bias, const int64_t (&to)[2],
                                               int col0, int n0, const s8_old<LAST, NT / 4> *early = NULL)
{
    if constexpr (LAST == S8_CODES || LAST == S8_GELU_CODES) {
        s8_finish_codes<LAST, NT>(p, acc, alpha, bias, to, col0, n0);
        return;
    }
    /* reads of the residual that are under way together */
    constexpr int AHEAD = NT > 12 ? (LAST == S8_LOCAL ? 1 : 2) : NT / 4;
    s8_old<LAST, AHEAD> old;
#pragma unroll
    for (int q = 0; q < NT / 4; q++) {
        const int col = col0 + 32 * q + 8 * (threadIdx.x & 3), n = n0 + col;
        if (!early && q % AHEAD == 0) old.load(p, to, n);
        if (n >= p.n) continue;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            if (LAST != S8_COSINE && to[half] < 0) continue;
            float v[8];
            int sum[8];
#pragma unroll
            for (int k = 0; k < 8; k++) sum[k] = acc[4 * q + k / 2][2 * half + k % 2];
            if constexpr (LAST == S8_AFTERS) {
                s8_values_afters(v, sum, alpha + col, bias + col, p.afters + n);
                if (p.local.codes)
                    s8_add_local(v, *(const uint2 *)(p.local.codes + to[half] * p.local.ld + n), p.local, n);
            } else {
                s8_values(v, sum, alpha + col, bias + col, p.after);
            }
            if constexpr (LAST == S8_COSINE) {
                s8_finish_cosine(p, v, to[half], n);
            } else if constexpr (LAST == S8_ANY || LAST == S8_AFTERS) {
                s8_store_any(p, to[half], n, v, sum);
            } else {
                uint4 *at = (uint4 *)((__half *)p.y[0].data + to[half] * p.y[0].ld + n);
                if constexpr (LAST != S8_HALVES) {
                    vec<__half> a;
                    a.from(early ? early->stream[q][half] : old.stream[q % AHEAD][half]);
                    if constexpr (LAST == S8_LOCAL) { /* rounded as tail_s8.cu leaves it in memory */
                        s8_add_local(a.v, early ? early->kept[q][half] : old.kept[q % AHEAD][half], p.local,
                                     n);
                        a.from(s8_halves<__half>(a.v));
                    }
#pragma unroll
                    for (int k = 0; k < 8; k++) v[k] += a.v[k];
                }
                const uint4 rounded = s8_halves<__half>(v);
                *at = rounded;
                if (LAST == S8_RESIDUAL && p.local.codes) {
                    vec<__half> h;
                    h.from(rounded);
                    *(uint2 *)(p.local.codes + to[half] * p.local.ld + n) = s8_rest8(v, h.v);
                }
            }
        }
    }
}

/* The same for rows `row` and row + 8 of the matrix. */
template <int LAST, int NT>
__device__ __forceinline__ void s8_finish(const swin_gemm_s8 &p, const int (&acc)[NT][4], const float *alpha,
                                          const float *bias, int64_t row, int col0, int n0,
                                          const s8_old<LAST, NT / 4> *early = NULL)
{
    int64_t to[2];
    s8_rows(to, p, row);
    s8_finish_rows<LAST, NT>(p, acc, alpha, bias, to, col0, n0, early);
}
