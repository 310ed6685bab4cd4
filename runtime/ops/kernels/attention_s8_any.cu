/* Window attention on codes for every window and head size, without tensor cores: a warp takes one query
 * row at a time. */
#include "runtime/ops/kernels/int8.cuh"

namespace
{

constexpr int WARPS = 4;

__device__ __forceinline__ float over_warp(float v, bool largest)
{
    for (int o = 16; o; o >>= 1) {
        const float other = __shfl_xor_sync(0xffffffffu, v, o);
        v = largest ? fmaxf(v, other) : v + other;
    }
    return v;
}

/* Scores in s to codes; returns what a sum of A.V is multiplied by. */
__device__ float codes_of(float *s, int n, const swin_attention_s8_args &p, float v_scale)
{
    const int lane = threadIdx.x % 32;
    const bool u8 = p.a.softmax == SWIN_SOFTMAX_U8;
    float top = -INFINITY, sum = 0;
    for (int j = lane; j < n; j += 32) top = fmaxf(top, s[j]);
    top = over_warp(top, true);
    for (int j = lane; j < n; j += 32) {
        const float e = expf(s[j] - top);
        s[j] = u8 ? rintf(255.f * e) : e;
        sum += s[j];
    }
    sum = over_warp(sum, false);
    if (u8) return v_scale / sum;
    const float inverse = 1.f / (sum * p.prob_scale);
    for (int j = lane; j < n; j += 32) s[j] = fminf(rintf(s[j] * inverse), 127.f);
    return v_scale * p.prob_scale;
}

__device__ __forceinline__ void store(const swin_tensor &out, const swin_s8_rule &rule, int64_t at, float v)
{
    if (out.dtype == SWIN_S8)
        ((int8_t *)out.data)[at] = (int8_t)__float_as_uint(s8_code(v, rule));
    else if (out.dtype == SWIN_F16)
        ((__half *)out.data)[at] = __float2half_rn(v);
    else if (out.dtype == SWIN_BF16)
        ((__nv_bfloat16 *)out.data)[at] = __float2bfloat16_rn(v);
    else
        ((float *)out.data)[at] = v;
}

__global__ void __launch_bounds__(32 * WARPS)
    attention_s8_any_kernel(const __grid_constant__ swin_attention_s8_args p, const swin_s8_rule rule)
{
    extern __shared__ float shared[];
    const int n = p.g.window * p.g.window, d = p.a.head_size, heads = p.a.heads, lane = threadIdx.x % 32;
    const int head = blockIdx.x % heads;
    const int64_t win = blockIdx.x / heads;
    float *s = shared + threadIdx.x / 32 * n;
    const float alpha = p.a.scale * (s8_scale_in(p.q, head * d) * s8_scale_in(p.k, head * d)),
                v_scale = s8_scale_in(p.v, head * d);
    const float *bias = p.a.bias ? p.a.bias + (int64_t)head * n * n : NULL;
    const float *mask = p.a.mask ? p.a.mask + win % swin_windows_count(p.g) * n * n : NULL;
    auto row_of = [&](int token) {
        const int64_t at = win * n + token;
        return p.image_order ? window_source(p.g, at) : at;
    };

    for (int row = threadIdx.x / 32; row < n; row += WARPS) {
        const int8_t *q = (const int8_t *)p.q.data + row_of(row) * p.q.ld + head * d;
        for (int j = lane; j < n; j += 32) {
            const int8_t *k = (const int8_t *)p.k.data + row_of(j) * p.k.ld + head * d;
            int sum = 0;
            for (int c = 0; c < d; c++) sum += (int)q[c] * k[c];
            s[j] = fmaf((float)sum, alpha, bias ? bias[row * n + j] : 0.f) + (mask ? mask[row * n + j] : 0.f);
        }
        __syncwarp();
        const float factor = codes_of(s, n, p, v_scale);
        __syncwarp();
        for (int c = lane; c < d; c += 32) {
            int sum = 0;
            for (int j = 0; j < n; j++)
                sum += (int)s[j] * ((const int8_t *)p.v.data)[row_of(j) * p.v.ld + head * d + c];
            store(p.out, rule, row_of(row) * p.out.ld + head * d + c, (float)sum * factor);
        }
        __syncwarp();
    }
}

} // namespace

extern "C" cudaError_t swin_attention_s8_any_launch(cudaStream_t stream, const swin_attention_s8_args *p)
{
    const int64_t blocks = (int64_t)p->g.images * swin_windows_per_image(&p->g) * p->a.heads;
    const size_t shared = (size_t)WARPS * (size_t)p->g.window * (size_t)p->g.window * sizeof(float);
    if (blocks == 0) return cudaSuccess;
    if (blocks > 0x7fffffff || shared > 48 << 10) return cudaErrorNotSupported;
    swin_s8_rule rule = {};
    if (p->out.dtype == SWIN_S8) rule = swin_s8_rule_of(&p->out);
    attention_s8_any_kernel<<<(unsigned)blocks, 32 * WARPS, shared, stream>>>(*p, rule);
    return cudaGetLastError();
}
