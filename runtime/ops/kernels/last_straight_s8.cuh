/* runtime/ops/kernels/last_straight_s8.cuh - the last step of kernels that are several products long: x += the last one.
 *
 * Straight code, in which rows past the end are computed and not stored. A last step runs once, and after thousands of
 * other instructions its own come from far away: every jump over some waits for those behind it. With the jumps of
 * s8_finish, which does as much in fewer instructions, more than a quarter of the samples that ncu took of tail_s8.cu's
 * kernel waited for instructions (192 channels; 0.79 times the samples now). Kernels of one product wait for x there, and
 * keep s8_finish (1.1 times the samples with this). */
#pragma once

#include "runtime/ops/kernels/last_s8.cuh"

/* What x holds for a thread's columns in GROUPS times 32. */
template <int GROUPS> struct s8_ahead {
    uint4 stream[GROUPS][2];

    /* n: the first column. What is past an end is read from where there is something. */
    __device__ __forceinline__ void load(const swin_gemm_s8 &p, const int64_t (&to)[2], int n)
    {
#pragma unroll
        for (int i = 0; i < GROUPS; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int at = n + 32 * i < p.n ? n + 32 * i : 0;
                const int64_t row = to[half] < 0 ? 0 : to[half];
                stream[i][half] = *((const uint4 *)((const __half *)p.y[0].data + row * p.y[0].ld + at));
            }
    }
};

/* AFTER: p.after is not 0. REST: what float16 takes off is stored. */
template <int NT, bool AFTER, bool REST>
__device__ __forceinline__ void s8_add_straight(const swin_gemm_s8 &p, const int (&acc)[NT][4],
                                                const float *alpha, const float *bias, const int64_t (&to)[2])
{
    constexpr int AHEAD = NT > 12 ? 2 : NT / 4; /* reads of x that are under way together */
    s8_ahead<AHEAD> old;
#pragma unroll
    for (int q = 0; q < NT / 4; q++) {
        const int col = 32 * q + 8 * (threadIdx.x & 3);
        __syncwarp(); /* no reads for later columns yet: registers */
        if (q % AHEAD == 0) old.load(p, to, col);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const bool live = to[half] >= 0 && col < p.n;
            if (half) __syncwarp();
            float v[8];
            int sum[8];
#pragma unroll
            for (int k = 0; k < 8; k++) sum[k] = acc[4 * q + k / 2][2 * half + k % 2];
            s8_values_of<AFTER>(v, sum, alpha + col, bias + col, p.after);
            vec<__half> a;
            a.from(old.stream[q % AHEAD][half]);
#pragma unroll
            for (int k = 0; k < 8; k++) v[k] += a.v[k];
            const uint4 rounded = s8_halves<__half>(v);
            if (live) *(uint4 *)((__half *)p.y[0].data + to[half] * p.y[0].ld + col) = rounded;
            if constexpr (REST) {
                vec<__half> h;
                h.from(rounded);
                const uint2 rest = s8_rest8(v, h.v);
                if (live) *(uint2 *)(p.local.codes + to[half] * p.local.ld + col) = rest;
            }
        }
    }
}

/* A warp's 16 rows x (8 NT) columns, which are all that p has, added to a residual of F16. row: the thread's first. */
template <int NT>
__device__ __forceinline__ void s8_finish_straight(const swin_gemm_s8 &p, const int (&acc)[NT][4],
                                                   const float *alpha, const float *bias, int64_t row)
{
    const bool rest = p.local.codes != NULL;
    int64_t to[2];
    s8_rows(to, p, row);
    if (p.after == 0.f && !rest)
        s8_add_straight<NT, false, false>(p, acc, alpha, bias, to);
    else if (p.after == 0.f)
        s8_add_straight<NT, false, true>(p, acc, alpha, bias, to);
    else if (!rest)
        s8_add_straight<NT, true, false>(p, acc, alpha, bias, to);
    else
        s8_add_straight<NT, true, true>(p, acc, alpha, bias, to);
}
