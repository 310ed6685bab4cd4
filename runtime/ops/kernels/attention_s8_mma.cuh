/* runtime/ops/kernels/attention_s8_mma.cuh - 16 query rows of window attention on codes, in one warp: head size
 * 32, windows of up to 144 tokens, whose q, k and v lie in shared memory one behind the other.
 *
 * Scores, softmax and the weighted sum never leave the warp's registers. The sums of the second product run over
 * tokens in the order in which the first one leaves them in a thread, so codes are packed where they lie; v is
 * brought to that order by transposed loads of pairs, which leave every thread four neighbouring columns of the
 * result. A column of ones beside v lets the tensor cores add up a row's codes. */
#pragma once

#include "runtime/ops/kernels/attention_s8.cuh"

namespace
{

constexpr int D = 32;

template <int N> struct window_shape {
    static constexpr int n8 = (N + 7) / 8, n16 = (N + 15) / 16, n32 = (N + 31) / 32, rows = 32 * n32;
    static constexpr int tile = rows * D; /* bytes of one of q, k, v */
};

/* Position bias and mask of a thread's scores in TILES tiles of 8 columns, from tile j on; columns past the
 * window weigh nothing, rows past it are anything finite. All loads are under way together: one after the
 * other they took longer than the windows. */
template <int N, int TILES>
__device__ __forceinline__ void bias_of_tiles(float4 (&to)[TILES], const float *bias, const float *mask,
                                              int row, int j)
{
    const int first = 8 * j + threadIdx.x % 4 * 2;
    float b[TILES][4], m[TILES][4];
    auto at = [&](int i, int e) {
        return min(row + e / 2 * 8, N - 1) * N + min(first + 8 * i + e % 2, N - 1);
    };
#pragma unroll
    for (int i = 0; i < TILES; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) b[i][e] = m[i][e] = 0;
    if (bias) {
#pragma unroll
        for (int i = 0; i < TILES; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) b[i][e] = __ldg(bias + at(i, e));
    }
    if (mask) {
#pragma unroll
        for (int i = 0; i < TILES; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) m[i][e] = __ldg(mask + at(i, e));
    }
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        float v[4];
#pragma unroll
        for (int e = 0; e < 4; e++)
            v[e] = first + 8 * i + e % 2 >= N ? -INFINITY : (b[i][e] + m[i][e]) * S8_LOG2E;
        to[i] = make_float4(v[0], v[1], v[2], v[3]);
    }
}

/* Sums of 16 rows: q k^T, on top of S8_MAGIC's bits. Any sum of 32 products fits under them. */
template <int N>
__device__ __forceinline__ void make_sums(int (&s)[window_shape<N>::n8][4], unsigned q, unsigned k, int tile)
{
    const int lane = threadIdx.x & 31;
    unsigned a[4];
    ldmatrix4(a, q + s8_half_at(16 * tile + (lane & 15), lane >> 4));
#pragma unroll
    for (int j = 0; j < window_shape<N>::n8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) s[j][e] = __float_as_int(S8_MAGIC);
#pragma unroll
    for (int j = 0; j < window_shape<N>::n8; j += 2) {
        unsigned b[4];
        ldmatrix4(b, k + s8_half_at(8 * j + (lane & 7) + (lane >> 4) * 8, (lane >> 3) & 1));
        mma_s8(s[j], a, b[0], b[1]);
        if (j + 1 < window_shape<N>::n8) mma_s8(s[j + 1], a, b[2], b[3]);
    }
}

/* In place: scores of one of a thread's two rows to codes (low bytes). */
template <int N, bool U8>
__device__ __forceinline__ void make_codes(float (&s)[window_shape<N>::n8][4], int half, float prob_scale)
{
    constexpr int n8 = window_shape<N>::n8;
    float top = -INFINITY, sum = 0;
#pragma unroll
    for (int j = 0; j < n8; j++) top = fmaxf(top, fmaxf(s[j][2 * half], s[j][2 * half + 1]));
    top = s8_over_four(top, true);
#pragma unroll
    for (int j = 0; j < n8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float &x = s[j][2 * half + e];
            x = exp2_fast(x - top);
            if (U8)
                x = fmaf(x, 255.f, S8_MAGIC);
            else
                sum += x;
        }
    if (U8) return;
    const float inverse = 1.f / (s8_over_four(sum, false) * prob_scale);
#pragma unroll
    for (int j = 0; j < n8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float &x = s[j][2 * half + e];
            x = fminf(fmaf(x, inverse, S8_MAGIC), S8_MAGIC + 127.f);
        }
}

/* Codes of 16 rows times v: o[c][e] holds columns 16 c + 4 t + e + {0, 2}; and with U8 the rows' sums of
 * codes. */
template <int N, bool U8>
__device__ __forceinline__ void weigh(int (&o)[2][2][4], int (&total)[4],
                                      const float (&s)[window_shape<N>::n8][4], unsigned v)
{
    constexpr int n8 = window_shape<N>::n8;
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int kk = 0; kk < window_shape<N>::n32; kk++) {
        unsigned a[4];
#pragma unroll
        for (int i = 0; i < 4; i++) { /* rows i % 2, tiles 4 kk + 2 (i / 2) and the next */
            const int j = 4 * kk + i / 2 * 2, e = i % 2 * 2;
            const int j0 = j < n8 ? j : n8 - 1, j1 = j + 1 < n8 ? j + 1 : n8 - 1;
            a[i] = s8_pack(s[j0][e], s[j0][e + 1], s[j1][e], s[j1][e + 1]);
            if (j >= n8)
                a[i] = 0;
            else if (j + 1 >= n8)
                a[i] &= 0xffff;
        }
#pragma unroll
        for (int c = 0; c < 2; c++) {
            unsigned r[4];
            ldmatrix4_trans(r, v + s8_half_at(32 * kk + lane, c));
            mma_u8s8(o[c][0], a, __byte_perm(r[0], r[1], 0x6420), __byte_perm(r[2], r[3], 0x6420));
            mma_u8s8(o[c][1], a, __byte_perm(r[0], r[1], 0x7531), __byte_perm(r[2], r[3], 0x7531));
        }
        if (U8) mma_u8s8(total, a, 0x01010101, 0x01010101);
    }
}

/* Attention of rows 16 `tile` and up. q: address of the window's queries, keys and values; bias(j): position bias
 * and mask of tile j as bias_of_tiles gives them; alpha: what sums of q and k are multiplied by, in units of log 2;
 * factors of the result: prob_scale (not with U8) and v_scale. store(half, c, v): columns 16 c + 4 t and up of row
 * 8 half + lane / 4, t the thread's number in its four. */
template <int N, bool U8, class BIAS, class STORE>
__device__ __forceinline__ void attend(unsigned q, int tile, const BIAS &bias, float alpha, float prob_scale,
                                       float v_scale, const STORE &store)
{
    using S = window_shape<N>;
    constexpr bool SMALL = N * 255 * 127 <
                           1 << 22;       /* sums of the second product fit under S8_MAGIC's bits too */
    const bool lower = 16 * tile + 8 < N; /* some of the warp's rows 8 to 15 exist */
    int sums[S::n8][4];
    float s[S::n8][4];
    make_sums<N>(sums, q, q + S::tile, tile);
#pragma unroll
    for (int j = 0; j < S::n8; j++) {
        const float4 b = bias(j);
        s[j][0] = fmaf(__int_as_float(sums[j][0]) - S8_MAGIC, alpha, b.x);
        s[j][1] = fmaf(__int_as_float(sums[j][1]) - S8_MAGIC, alpha, b.y);
        s[j][2] = fmaf(__int_as_float(sums[j][2]) - S8_MAGIC, alpha, b.z);
        s[j][3] = fmaf(__int_as_float(sums[j][3]) - S8_MAGIC, alpha, b.w);
    }
    make_codes<N, U8>(s, 0, prob_scale);
    if (lower) make_codes<N, U8>(s, 1, prob_scale);
    int o[2][2][4], total[4] = { 0, 0, 0, 0 };
#pragma unroll
    for (int i = 0; i < 16; i++) o[i / 8][i / 4 % 2][i % 4] = SMALL ? __float_as_int(S8_MAGIC) : 0;
    weigh<N, U8>(o, total, s, q + 2 * S::tile);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float f = U8 ? v_scale / (float)total[2 * half] : v_scale * prob_scale;
#pragma unroll
        for (int c = 0; c < 2; c++) {
            float v[4];
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const int sum = o[c][k % 2][2 * half + k / 2];
                v[k] = (SMALL ? __int_as_float(sum) - S8_MAGIC : (float)sum) * f;
            }
            store(half, c, v);
        }
    }
}

} // namespace
