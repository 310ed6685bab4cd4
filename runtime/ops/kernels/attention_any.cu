/* Window attention in float32 arithmetic: every type, window and head size. The definition of the parts for float32.
 *
 * A block takes one window and head; k and v lie in shared memory as float32. A warp takes R query rows at a time: a lane
 * owns every 32nd key for the scores and every 32nd channel for the weighted sum. */
#include "runtime/ops/kernels/common.cuh"

namespace
{

constexpr int WARPS = 4;

struct layout {
    int n, n4, d,
        pitch; /* tokens, padded to 4, head size, floats between rows: a multiple of 4, odd in fours */
};

__host__ __device__ inline layout make_layout(int n, int d)
{
    const int fours = (d + 3) / 4;
    return { n, (n + 3) / 4 * 4, d, 4 * (fours | 1) };
}

/* k and v of the window, then for each warp R rows of q and R rows of probabilities. */
template <int R> __host__ __device__ inline size_t shared_floats(const layout &l)
{
    return (size_t)2 * l.n4 * l.pitch + (size_t)WARPS * R * (l.pitch + l.n4);
}

template <class T, int JJ, int R, swin_attention_part PART>
__global__ void __launch_bounds__(32 * WARPS)
    attention_any_kernel(const __grid_constant__ swin_attention_args p)
{
    extern __shared__ __align__(16) float shared[];
    const int n = p.g.window * p.g.window, d = p.a.head_size, heads = p.a.heads, channels = heads * d;
    const layout l = make_layout(n, d);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = blockIdx.x % heads;
    const int64_t win = blockIdx.x / heads;
    float *k = shared, *v = k + l.n4 * l.pitch;
    float *q = v + l.n4 * l.pitch + warp * R * (l.pitch + l.n4), *prob = q + R * l.pitch;
    constexpr bool QKV = PART != SWIN_ATTENTION_SOFTMAX;
    constexpr bool SCORES = PART == SWIN_ATTENTION_ALL || PART == SWIN_ATTENTION_SCORES;
    constexpr bool SOFTMAX = PART == SWIN_ATTENTION_ALL || PART == SWIN_ATTENTION_SOFTMAX;
    constexpr bool SUM = PART == SWIN_ATTENTION_ALL || PART == SWIN_ATTENTION_SUM;
    const T *qkv = (const T *)p.qkv.data + head * d;

    if (QKV) {
        for (int i = threadIdx.x; i < l.n4 * l.pitch; i += blockDim.x) {
            const int row = i / l.pitch, col = i % l.pitch;
            float kv[2] = { 0, 0 };
            if (row < n && col < d) {
                const int64_t at = win * n + row, from = p.image_order ? window_source(p.g, at) : at;
                kv[0] = to_float(qkv[from * p.qkv.ld + channels + col]);
                kv[1] = to_float(qkv[from * p.qkv.ld + 2 * channels + col]);
            }
            k[i] = kv[0], v[i] = kv[1];
        }
        __syncthreads();
    }
    const float *bias = p.a.bias + (int64_t)head * n * n;
    const float *mask = p.a.mask ? p.a.mask + win % swin_windows_count(p.g) * n * n : NULL;
    T *scores = (T *)p.s.data + (win * heads + head) * n * p.s.ld;

    for (int row0 = warp * R; row0 < n; row0 += WARPS * R) {
        float s[R][JJ] = {};
        if (SCORES) {
            __syncwarp();
            for (int i = lane; i < R * l.pitch; i += 32) {
                const int row = row0 + i / l.pitch, col = i % l.pitch;
                const int64_t at = win * n + row, from = p.image_order ? window_source(p.g, at) : at;
                q[i] = row < n && col < d ? to_float(qkv[from * p.qkv.ld + col]) : 0.f;
            }
            __syncwarp();
            for (int c = 0; c < d; c += 4) {
                float4 key[JJ];
#pragma unroll
                for (int j = 0; j < JJ; j++)
                    key[j] = lane + 32 * j < n ? *(const float4 *)(k + (lane + 32 * j) * l.pitch + c)
                                               : make_float4(0, 0, 0, 0);
#pragma unroll
                for (int r = 0; r < R; r++) {
                    const float4 query = *(const float4 *)(q + r * l.pitch + c);
#pragma unroll
                    for (int j = 0; j < JJ; j++) {
                        s[r][j] = fmaf(query.x, key[j].x, s[r][j]);
                        s[r][j] = fmaf(query.y, key[j].y, s[r][j]);
                        s[r][j] = fmaf(query.z, key[j].z, s[r][j]);
                        s[r][j] = fmaf(query.w, key[j].w, s[r][j]);
                    }
                }
            }
        }
#pragma unroll
        for (int r = 0; r < R; r++) {
            const int row = row0 + r;
            float top = -INFINITY, sum = 0;
            if (row >= n) break;
#pragma unroll
            for (int j = 0; j < JJ; j++) {
                const int col = lane + 32 * j;
                if (col >= n) continue;
                T *at = scores + row * p.s.ld + col;
                if (!SCORES) s[r][j] = to_float(*at);
                if (PART == SWIN_ATTENTION_SCORES) *at = from_float<T>(s[r][j]);
                if (!SOFTMAX) continue;
                s[r][j] = fmaf(s[r][j], p.a.scale, bias[row * n + col]);
                if (mask) s[r][j] += mask[row * n + col];
                top = fmaxf(top, s[r][j]);
            }
            if (SOFTMAX) {
                for (int o = 16; o; o >>= 1) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, o));
#pragma unroll
                for (int j = 0; j < JJ; j++) {
                    if (lane + 32 * j >= n) continue;
                    s[r][j] = exp_neg<T>(s[r][j] - top);
                    if (p.a.softmax == SWIN_SOFTMAX_U8) s[r][j] = rintf(255.f * s[r][j]);
                    sum += s[r][j];
                }
                for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, o);
                const float inverse = 1.f / sum;
#pragma unroll
                for (int j = 0; j < JJ; j++) {
                    if (lane + 32 * j >= n) continue;
                    s[r][j] = to_float(from_float<T>(s[r][j] * inverse));
                    if (!SUM) scores[row * p.s.ld + lane + 32 * j] = from_float<T>(s[r][j]);
                }
            }
        }
        if (!SUM) continue;
        __syncwarp();
#pragma unroll
        for (int r = 0; r < R; r++)
#pragma unroll
            for (int j = 0; j < JJ; j++)
                if (lane + 32 * j < l.n4)
                    prob[r * l.n4 + lane + 32 * j] = lane + 32 * j < n && row0 + r < n ? s[r][j] : 0.f;
        __syncwarp();
        for (int c = lane; c < d; c += 32) {
            float o[R] = {};
            for (int j = 0; j < l.n4; j += 4) {
                const float v0 = v[j * l.pitch + c], v1 = v[(j + 1) * l.pitch + c];
                const float v2 = v[(j + 2) * l.pitch + c], v3 = v[(j + 3) * l.pitch + c];
#pragma unroll
                for (int r = 0; r < R; r++) {
                    const float4 w = *(const float4 *)(prob + r * l.n4 + j);
                    o[r] = fmaf(w.x, v0, o[r]);
                    o[r] = fmaf(w.y, v1, o[r]);
                    o[r] = fmaf(w.z, v2, o[r]);
                    o[r] = fmaf(w.w, v3, o[r]);
                }
            }
#pragma unroll
            for (int r = 0; r < R; r++) {
                if (row0 + r >= n) break;
                const int64_t at = win * n + row0 + r, to = p.image_order ? window_source(p.g, at) : at;
                ((T *)p.out.data)[to * p.out.ld + head * d + c] = from_float<T>(o[r]);
            }
        }
    }
}

template <class T, int JJ, int R, swin_attention_part PART>
cudaError_t launch(cudaStream_t stream, const swin_attention_args *p)
{
    const int64_t blocks = (int64_t)p->g.images * swin_windows_per_image(&p->g) * p->a.heads;
    const size_t shared = shared_floats<R>(make_layout(p->g.window * p->g.window, p->a.head_size)) *
                          sizeof(float);
    if (blocks == 0) return cudaSuccess;
    if (blocks > 0x7fffffff) return cudaErrorNotSupported;
    if (shared > 48 << 10) {
        const cudaError_t e = cudaFuncSetAttribute(attention_any_kernel<T, JJ, R, PART>,
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
        if (e != cudaSuccess) {
            cudaGetLastError(); /* the next launch must not find it */
            return cudaErrorNotSupported;
        }
    }
    attention_any_kernel<T, JJ, R, PART><<<(unsigned)blocks, 32 * WARPS, shared, stream>>>(*p);
    return cudaGetLastError();
}

template <class T, swin_attention_part PART>
cudaError_t pick(cudaStream_t stream, const swin_attention_args *p)
{
    const int n = p->g.window * p->g.window;
    if (n <= 64) return launch<T, 2, 8, PART>(stream, p);
    if (n <= 160) return launch<T, 5, 4, PART>(stream, p);
    if (n <= 576) return launch<T, 18, 1, PART>(stream, p);
    return cudaErrorNotSupported;
}

} // namespace

extern "C" cudaError_t swin_attention_any_launch(cudaStream_t stream, const swin_attention_args *p,
                                                 swin_attention_part part)
{
    const swin_dtype dtype = part == SWIN_ATTENTION_SOFTMAX ? p->s.dtype : p->qkv.dtype;
    SWIN_WITH_TYPE(
        dtype, switch (part) {
            case SWIN_ATTENTION_ALL:
                return pick<T, SWIN_ATTENTION_ALL>(stream, p);
            case SWIN_ATTENTION_SCORES:
                return pick<T, SWIN_ATTENTION_SCORES>(stream, p);
            case SWIN_ATTENTION_SOFTMAX:
                return pick<T, SWIN_ATTENTION_SOFTMAX>(stream, p);
            default:
                return pick<T, SWIN_ATTENTION_SUM>(stream, p);
        })
    return cudaErrorInvalidValue;
}
