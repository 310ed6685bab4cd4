/* Window attention in float32 for the windows that matter: head size 32, 7 x 7 or 8 x 8 tokens.
 *
 * A block of 64 threads takes one head of one window. Thread (ty, tx) of 8 x 8 owns rows ty + 8 i and columns
 * tx + 8 j of the scores, and four channels of its rows' results, so that every value read from shared memory
 * meets at least four multiply-adds. Sums run over k in ascending order, as in attention_any.cu. */
#include "runtime/ops/kernels/tile.cuh"

namespace
{

constexpr int D = 32, PITCH = 36,
              THREADS = 64; /* PITCH: eight rows of one 16-byte column lie in different banks */

template <int W> struct shape {
    static constexpr int N = W * W, each = (N + 7) / 8;
    static constexpr int rows = 8 * each, score_pitch = rows + 4;
    static constexpr int floats = 3 * rows * PITCH;
    static_assert(rows * score_pitch <= 2 * rows * PITCH, "the probabilities lie where q and k were");
};

/* q, k, v of a window, eight threads a row; rows past the window are zeros. */
template <int W>
__device__ __forceinline__ void load_window(float *shared, const swin_attention_args &p, int64_t win,
                                            int head)
{
    using S = shape<W>;
    const int chunk = threadIdx.x % 8;
    const int64_t part = (int64_t)p.a.heads * D;
    const unsigned to = shared_address(shared);
    for (int row = threadIdx.x / 8; row < S::rows; row += THREADS / 8) {
        const bool ok = row < S::N;
        const int64_t at = win * S::N + (ok ? row : 0), from = p.image_order ? window_source(p.g, at) : at;
        const float *x = (const float *)p.qkv.data + from * p.qkv.ld + head * D + chunk * 4;
#pragma unroll
        for (int i = 0; i < 3; i++)
            copy16(to + ((i * S::rows + row) * PITCH + chunk * 4) * 4, x + i * part, ok);
    }
    copy_commit();
    copy_wait<0>();
    __syncthreads();
}

template <int W>
__device__ __forceinline__ void make_scores(float (&s)[shape<W>::each][shape<W>::each], const float *q,
                                            const float *k)
{
    constexpr int E = shape<W>::each;
    const int tx = threadIdx.x % 8, ty = threadIdx.x / 8;
#pragma unroll
    for (int c = 0; c < D; c += 4) {
        float4 key[E];
#pragma unroll
        for (int j = 0; j < E; j++) key[j] = *(const float4 *)(k + (tx + 8 * j) * PITCH + c);
#pragma unroll
        for (int i = 0; i < E; i++) {
            const float4 query = *(const float4 *)(q + (ty + 8 * i) * PITCH + c);
#pragma unroll
            for (int j = 0; j < E; j++) {
                s[i][j] = fmaf(query.x, key[j].x, s[i][j]);
                s[i][j] = fmaf(query.y, key[j].y, s[i][j]);
                s[i][j] = fmaf(query.z, key[j].z, s[i][j]);
                s[i][j] = fmaf(query.w, key[j].w, s[i][j]);
            }
        }
    }
}

/* In place: one row of raw scores, dealt to eight threads, to probabilities. */
template <int W>
__device__ __forceinline__ void softmax_row(float (&s)[shape<W>::each], const swin_attention_args &p,
                                            const float *bias, const float *mask)
{
    constexpr int E = shape<W>::each, N = W * W;
    const int tx = threadIdx.x % 8;
    float top = -INFINITY, sum = 0;
#pragma unroll
    for (int j = 0; j < E; j++) {
        const int col = tx + 8 * j;
        s[j] = col < N ? fmaf(s[j], p.a.scale, __ldg(bias + col)) : -INFINITY;
        if (mask && col < N) s[j] += __ldg(mask + col);
        top = fmaxf(top, s[j]);
    }
    for (int o = 4; o; o >>= 1) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, o));
#pragma unroll
    for (int j = 0; j < E; j++) {
        s[j] = expf(s[j] - top);
        if (p.a.softmax == SWIN_SOFTMAX_U8) s[j] = rintf(255.f * s[j]);
        sum += s[j];
    }
    for (int o = 4; o; o >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, o);
    const float inverse = 1.f / sum;
#pragma unroll
    for (int j = 0; j < E; j++) s[j] *= inverse;
}

/* Probabilities (shared) times v: four channels of this thread's rows. */
template <int W>
__device__ __forceinline__ void weigh(float4 (&o)[shape<W>::each], const float *prob, const float *v)
{
    using S = shape<W>;
    const int tx = threadIdx.x % 8, ty = threadIdx.x / 8;
#pragma unroll 2
    for (int j = 0; j < (S::N + 3) / 4 * 4; j += 4) {
        float4 value[4];
#pragma unroll
        for (int k = 0; k < 4; k++) value[k] = *(const float4 *)(v + (j + k) * PITCH + 4 * tx);
#pragma unroll
        for (int i = 0; i < S::each; i++) {
            const float4 w = *(const float4 *)(prob + (ty + 8 * i) * S::score_pitch + j);
            const float each[4] = { w.x, w.y, w.z, w.w };
#pragma unroll
            for (int k = 0; k < 4; k++) {
                o[i].x = fmaf(each[k], value[k].x, o[i].x);
                o[i].y = fmaf(each[k], value[k].y, o[i].y);
                o[i].z = fmaf(each[k], value[k].z, o[i].z);
                o[i].w = fmaf(each[k], value[k].w, o[i].w);
            }
        }
    }
}

template <int W, swin_attention_part PART>
__global__ void __launch_bounds__(THREADS) attention_f32_kernel(const __grid_constant__ swin_attention_args p)
{
    using S = shape<W>;
    constexpr int E = S::each;
    constexpr bool QKV = PART != SWIN_ATTENTION_SOFTMAX;
    constexpr bool SCORES = PART == SWIN_ATTENTION_ALL || PART == SWIN_ATTENTION_SCORES;
    constexpr bool SOFTMAX = PART == SWIN_ATTENTION_ALL || PART == SWIN_ATTENTION_SOFTMAX;
    constexpr bool SUM = PART == SWIN_ATTENTION_ALL || PART == SWIN_ATTENTION_SUM;
    __shared__ __align__(16) float shared[S::floats];
    const int head = blockIdx.x % p.a.heads, tx = threadIdx.x % 8, ty = threadIdx.x / 8;
    const int64_t win = blockIdx.x / p.a.heads;
    const float *bias = p.a.bias + (int64_t)head * S::N * S::N;
    const float *mask = p.a.mask ? p.a.mask + win % swin_windows_count(p.g) * S::N * S::N : NULL;
    float *scores = (float *)p.s.data + (win * p.a.heads + head) * S::N * p.s.ld;
    float s[E][E] = {};

    chain_wait();
    if (QKV) load_window<W>(shared, p, win, head);
    if (SCORES) make_scores<W>(s, shared, shared + S::rows * PITCH);
    if (SCORES && SUM) __syncthreads(); /* the probabilities go over q and k */
#pragma unroll
    for (int i = 0; i < E; i++) {
        const int row = ty + 8 * i;
        const bool in = row < S::N;
#pragma unroll
        for (int j = 0; j < E && !SCORES; j++)
            s[i][j] = in && tx + 8 * j < S::N ? scores[row * p.s.ld + tx + 8 * j] : 0.f;
        if (SOFTMAX)
            softmax_row<W>(s[i], p, bias + (in ? row : 0) * S::N, mask ? mask + (in ? row : 0) * S::N : NULL);
#pragma unroll
        for (int j = 0; j < E; j++) {
            const int col = tx + 8 * j;
            if (SUM)
                shared[row * S::score_pitch + col] = s[i][j];
            else if (in && col < S::N)
                scores[row * p.s.ld + col] = s[i][j];
        }
    }
    if (!SUM) return;
    __syncthreads();
    float4 o[E] = {};
    weigh<W>(o, shared, shared + 2 * S::rows * PITCH);
#pragma unroll
    for (int i = 0; i < E; i++) {
        const int row = ty + 8 * i;
        if (row >= S::N) continue;
        const int64_t at = win * S::N + row, to = p.image_order ? window_source(p.g, at) : at;
        *(float4 *)((float *)p.out.data + to * p.out.ld + head * D + 4 * tx) = o[i];
    }
}

template <int W>
cudaError_t launch(cudaStream_t stream, const swin_attention_args *p, swin_attention_part part)
{
    const int64_t blocks = (int64_t)p->g.images * swin_windows_per_image(&p->g) * p->a.heads;
    if (blocks == 0) return cudaSuccess;
    if (blocks > 0x7fffffff) return cudaErrorNotSupported;
    const unsigned n = (unsigned)blocks;
    switch (part) {
    case SWIN_ATTENTION_ALL:
        return chain_launch(attention_f32_kernel<W, SWIN_ATTENTION_ALL>, n, THREADS, 0, stream, *p);
    case SWIN_ATTENTION_SCORES:
        return chain_launch(attention_f32_kernel<W, SWIN_ATTENTION_SCORES>, n, THREADS, 0, stream, *p);
    case SWIN_ATTENTION_SOFTMAX:
        return chain_launch(attention_f32_kernel<W, SWIN_ATTENTION_SOFTMAX>, n, THREADS, 0, stream, *p);
    default:
        return chain_launch(attention_f32_kernel<W, SWIN_ATTENTION_SUM>, n, THREADS, 0, stream, *p);
    }
}

} // namespace

extern "C" cudaError_t swin_attention_f32_launch(cudaStream_t stream, const swin_attention_args *p,
                                                 swin_attention_part part)
{
    const bool qkv = part != SWIN_ATTENTION_SOFTMAX,
               out = part == SWIN_ATTENTION_ALL || part == SWIN_ATTENTION_SUM;
    if (p->a.head_size != D || (qkv ? p->qkv.dtype : p->s.dtype) != SWIN_F32) return cudaErrorNotSupported;
    if (qkv && (p->qkv.ld % 4 != 0 || (uintptr_t)p->qkv.data % 16 != 0)) return cudaErrorNotSupported;
    if (out && (p->out.ld % 4 != 0 || (uintptr_t)p->out.data % 16 != 0)) return cudaErrorNotSupported;
    if (p->g.window == 7) return launch<7>(stream, p, part);
    if (p->g.window == 8) return launch<8>(stream, p, part);
    return cudaErrorNotSupported;
}
