/* runtime/ops/kernels/norm_s8.cuh - LayerNorm of a row, for codes. Every kernel that does it adds in one
 * order, so that it does not show which of them did.
 *
 * A row is a sequence of vectors of eight columns. Groups of lanes (norm_group of norm.cuh) hold it: four
 * neighbours take four vectors side by side, and each lane `each` of them, 32 columns apart. A lane adds up
 * its columns from the left; then lanes add in pairs, neighbours first. So the tensor cores' own way of
 * holding a row (int8.cuh: four lanes, eight columns of every 32 each) fits: a lane there holds the shares
 * of several. */
#pragma once

#include "runtime/ops/kernels/norm.cuh"

/* The i-th vector of a lane. */
__device__ __forceinline__ int s8_vector(int lane, int i, int each)
{
    return 4 * (each * (lane / 4) + i) + lane % 4;
}

/* Sum over a group; every lane gets it. */
__device__ __forceinline__ float s8_group_sum(float v, int group)
{
    for (int o = 1; o < group; o *= 2) v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}

__device__ __forceinline__ float s8_add8(float sum, const float (&v)[8])
{
#pragma unroll
    for (int k = 0; k < 8; k++) sum += v[k];
    return sum;
}

/* In place: v becomes its distance from the mean, whose squares are added up. */
__device__ __forceinline__ float s8_add8_squares(float sum, float (&v)[8], float mean)
{
#pragma unroll
    for (int k = 0; k < 8; k++) v[k] -= mean, sum = fmaf(v[k], v[k], sum);
    return sum;
}

/* In place, columns col and up, of distances from the mean. factor: 1 over the standard deviation. SHARED: gamma
 * and beta lie in shared memory. */
template <bool SHARED = false>
__device__ __forceinline__ void s8_normalise8(float (&v)[8], const swin_norm &n, int col, float factor)
{
#pragma unroll
    for (int k = 0; k < 8; k += 4) {
        const float4 *gamma = reinterpret_cast<const float4 *>(n.gamma + col + k),
                     *beta = reinterpret_cast<const float4 *>(n.beta + col + k);
        const float4 a = SHARED ? *gamma : __ldg(gamma), b = SHARED ? *beta : __ldg(beta);
        v[k] = fmaf(v[k] * factor, a.x, b.x);
        v[k + 1] = fmaf(v[k + 1] * factor, a.y, b.y);
        v[k + 2] = fmaf(v[k + 2] * factor, a.z, b.z);
        v[k + 3] = fmaf(v[k + 3] * factor, a.w, b.w);
    }
}

/* In place: v[i] holds the lane's i-th vector where it lies in the row; all lanes of the warp must call.
 * share: 1 over the row's columns. */
template <int VECTORS, bool SHARED = false>
__device__ __forceinline__ void s8_normalise_row(vec<__half> (&v)[VECTORS], const swin_norm &n, int cols,
                                                 float share, int lane, int group, int each)
{
    const int total = cols / 8;
    float sum = 0, squares = 0;
#pragma unroll
    for (int i = 0; i < VECTORS; i++)
        if (i < each && s8_vector(lane, i, each) < total) sum = s8_add8(sum, v[i].v);
    const float mean = s8_group_sum(sum, group) * share;
#pragma unroll
    for (int i = 0; i < VECTORS; i++)
        if (i < each && s8_vector(lane, i, each) < total) squares = s8_add8_squares(squares, v[i].v, mean);
    const float factor = rsqrtf(fmaf(s8_group_sum(squares, group), share, n.eps));
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int at = s8_vector(lane, i, each);
        if (i < each && at < total) s8_normalise8<SHARED>(v[i].v, n, 8 * at, factor);
    }
}
