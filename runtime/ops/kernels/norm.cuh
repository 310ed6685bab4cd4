/* runtime/ops/kernels/norm.cuh - LayerNorm of a row that a group of lanes holds in registers. */
#pragma once

#include "runtime/ops/kernels/common.cuh"

/* Lanes that share a row of `vectors` 16-byte vectors: the fewest, from 4 up, that leave each lane at most three. */
__host__ __device__ static inline int norm_group(int vectors)
{
    int group = 4;
    while (group < 32 && 3 * group < vectors) group *= 2;
    return group;
}

/* Sum over the group's lanes; every lane gets it. The order is fixed by the group's size. */
__device__ __forceinline__ float group_sum(float v, int group)
{
    for (int o = group >> 1; o; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}

/* v[i] holds vector lane + i * group of the row (nothing past its end); all lanes of the warp must call. */
template <class T, int VECTORS>
__device__ __forceinline__ void normalise_row(vec<T> (&v)[VECTORS], const swin_norm &n, int cols, int lane,
                                              int group)
{
    constexpr int N = vec<T>::n;
    const int total = cols / N;
    float sum = 0, squares = 0;
#pragma unroll
    for (int i = 0; i < VECTORS; i++)
        if (lane + i * group < total)
            for (int k = 0; k < N; k++) sum += v[i].v[k];
    const float mean = group_sum(sum, group) / (float)cols;
#pragma unroll
    for (int i = 0; i < VECTORS; i++)
        if (lane + i * group < total)
            for (int k = 0; k < N; k++) squares = fmaf(v[i].v[k] - mean, v[i].v[k] - mean, squares);
    const float factor = 1.f / sqrtf(group_sum(squares, group) / (float)cols + n.eps);
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int at = lane + i * group;
        if (at >= total) continue;
#pragma unroll
        for (int k = 0; k < N; k += 4) {
            const float4 a = *reinterpret_cast<const float4 *>(n.gamma + at * N + k);
            const float4 b = *reinterpret_cast<const float4 *>(n.beta + at * N + k);
            v[i].v[k] = fmaf((v[i].v[k] - mean) * factor, a.x, b.x);
            v[i].v[k + 1] = fmaf((v[i].v[k + 1] - mean) * factor, a.y, b.y);
            v[i].v[k + 2] = fmaf((v[i].v[k + 2] - mean) * factor, a.z, b.z);
            v[i].v[k + 3] = fmaf((v[i].v[k + 3] - mean) * factor, a.w, b.w);
        }
    }
}
