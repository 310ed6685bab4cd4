/* runtime/ops/kernels/attention_s8.cuh - window attention on codes: where tokens lie, maxima and sums over a
 * row, stores. */
#pragma once

#include "runtime/ops/kernels/int8.cuh"

/* Scores are kept in units of log 2, so that exp is one instruction. */
#define S8_LOG2E 1.4426950408889634f

/* Where the 16-byte half `chunk` of a token of 32 codes lies: eight tokens of one half never meet
 * in a bank. */
__device__ __forceinline__ unsigned s8_half_at(int row, int chunk)
{
    return (unsigned)(row * 32 + ((chunk ^ (row >> 2)) & 1) * 16);
}

/* The row of a window's token in q, k, v and out. */
template <int W> struct s8_place {
    int64_t base; /* row of its image's first token, or of its own in window order */
    int y, x;     /* corner on the map, shift included */

    __device__ __forceinline__ s8_place(const swin_attention_s8_args &p, int64_t win)
    {
        base = win * W * W, y = x = 0;
        if (!p.image_order) return;
        const unsigned across = (unsigned)p.g.width / W, per_image = across * ((unsigned)p.g.height / W);
        const int64_t image = win / per_image;
        const unsigned at = (unsigned)(win - image * per_image), wy = at / across, wx = at - wy * across;
        base = image * p.g.height * p.g.width, y = (int)wy * W + p.g.shift, x = (int)wx * W + p.g.shift;
    }
    __device__ __forceinline__ int64_t row(const swin_attention_s8_args &p, int token) const
    {
        if (!p.image_order) return base + token;
        int ty = y + token / W, tx = x + token % W;
        if (ty >= p.g.height) ty -= p.g.height;
        if (tx >= p.g.width) tx -= p.g.width;
        return base + (int64_t)ty * p.g.width + tx;
    }
};

/* Largest or sum over the four threads that share a row. */
__device__ __forceinline__ float s8_over_four(float v, bool largest)
{
    float o = __shfl_xor_sync(0xffffffffu, v, 1);
    v = largest ? fmaxf(v, o) : v + o;
    o = __shfl_xor_sync(0xffffffffu, v, 2);
    return largest ? fmaxf(v, o) : v + o;
}

/* Four neighbours of a row of the result. */
__device__ __forceinline__ void s8_store4(const swin_tensor &out, const swin_s8_rule &rule, int64_t at,
                                          const float (&v)[4])
{
    if (out.dtype == SWIN_S8) {
        *(unsigned *)((int8_t *)out.data + at) = s8_codes4(v, rule);
    } else if (out.dtype == SWIN_F16) {
        *(uint2 *)((__half *)out.data + at) =
            make_uint2(pack2<__half>(v[0], v[1]), pack2<__half>(v[2], v[3]));
    } else if (out.dtype == SWIN_BF16) {
        *(uint2 *)((__nv_bfloat16 *)out.data + at) =
            make_uint2(pack2<__nv_bfloat16>(v[0], v[1]), pack2<__nv_bfloat16>(v[2], v[3]));
    } else {
        *(float4 *)((float *)out.data + at) = make_float4(v[0], v[1], v[2], v[3]);
    }
}
