/* Window attention on tensor cores: F16 and BF16, head size 32, windows of 49, 64 or 144 tokens.
 *
 * A block takes one window and a few heads, and copies the next head's q, k, v while it works on this one. A warp takes 16
 * query rows: scores, softmax and the weighted sum stay in its registers, where the accumulator layout of the scores is the
 * operand layout of the second product. Scores stay float32 into the softmax; the parts, run one after the other, round
 * them on their way through memory. */
#include "runtime/ops/kernels/tile.cuh"

namespace
{

constexpr int D = 32;

template <int N> struct shape {
    static constexpr int n8 = (N + 7) / 8, n16 = (N + 15) / 16, rows = 16 * n16;
    static constexpr int warps = N <= 64 ? n16 : 3, threads = 32 * warps;
    static constexpr int tile = rows * 64;          /* bytes of one of q, k, v */
    static constexpr int buffers = N <= 64 ? 2 : 1; /* of three tiles, within 48 KiB */
};

/* Rows of qkv and out that the window's tokens have. */
template <int N>
__device__ __forceinline__ void find_rows(int64_t *rows, const swin_attention_args &p, int64_t win)
{
    for (int i = threadIdx.x; i < N; i += blockDim.x)
        rows[i] = p.image_order ? window_source(p.g, win * N + i) : win * N + i;
}

template <class T, int N>
__device__ __forceinline__ void load_head(unsigned smem, const swin_attention_args &p, const int64_t *rows,
                                          int head)
{
    const int channels = p.a.heads * D;
    for (int i = threadIdx.x; i < 3 * N * 4; i += blockDim.x) {
        const int part = i / (N * 4), row = i / 4 % N, chunk = i % 4;
        const T *from = (const T *)p.qkv.data + rows[row] * p.qkv.ld + part * channels + head * D + chunk * 8;
        copy16(smem + part * shape<N>::tile + chunk_at<64>(row, chunk), from, true);
    }
}

/* In place: raw scores of 16 rows to probabilities. row: this thread's first; the other is row + 8. */
template <class T, int N>
__device__ __forceinline__ void softmax_rows(float (&s)[shape<N>::n8][4], const swin_attention_args &p,
                                             int64_t win, int head, int row)
{
    const int per_image = swin_windows_count(p.g), t = threadIdx.x % 4;
    const float *bias = p.a.bias + (int64_t)head * N * N;
    const float *mask = p.a.mask ? p.a.mask + (win % per_image) * N * N : NULL;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int r = row + 8 * half;
        float top = -INFINITY, sum = 0;
#pragma unroll
        for (int j = 0; j < shape<N>::n8; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int col = 8 * j + 2 * t + e;
                float &v = s[j][2 * half + e];
                if (col < N && r < N) {
                    v = fmaf(v, p.a.scale, __ldg(bias + r * N + col));
                    if (mask) v += __ldg(mask + r * N + col);
                    top = fmaxf(top, v);
                } else {
                    v = r < N ? -INFINITY : 0.f;
                }
            }
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        if (r >= N) top = 0;
#pragma unroll
        for (int j = 0; j < shape<N>::n8; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float &v = s[j][2 * half + e];
                v = exp_neg<T>(v - top);
                if (p.a.softmax == SWIN_SOFTMAX_U8) v = rintf(255.f * v);
                sum += v;
            }
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        const float inverse = 1.f / sum;
#pragma unroll
        for (int j = 0; j < shape<N>::n8; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) s[j][2 * half + e] *= inverse;
    }
}

/* Scores of 16 rows to or from memory, as T. */
template <class T, int N, bool STORE>
__device__ __forceinline__ void move_scores(float (&s)[shape<N>::n8][4], const swin_attention_args &p,
                                            int64_t matrix, int row)
{
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int j = 0; j < shape<N>::n8; j++)
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const int r = row + k / 2 * 8, col = 8 * j + 2 * t + k % 2;
            T *at = (T *)p.s.data + (matrix * N + r) * p.s.ld + col;
            const bool in = r < N && col < N;
            if (!STORE)
                s[j][k] = in ? to_float(*at) : 0.f;
            else if (in)
                *at = from_float<T>(s[j][k]);
        }
}

template <class E, int N, swin_attention_part PART>
__global__ void __launch_bounds__(shape<N>::threads)
    attention_mma_kernel(const __grid_constant__ swin_attention_args p, int heads_each)
{
    using T = typename E::T;
    using S = shape<N>;
    __shared__ __align__(128) char smem_base[S::buffers * 3 * S::tile];
    __shared__ int64_t rows[N];
    const unsigned smem = shared_address(smem_base);
    const int groups = (p.a.heads + heads_each - 1) / heads_each, lane = threadIdx.x % 32,
              warp = threadIdx.x / 32;
    const int64_t win = blockIdx.x / groups;
    const int first = blockIdx.x % groups * heads_each, last = min(first + heads_each, p.a.heads);
    constexpr bool QKV = PART != SWIN_ATTENTION_SOFTMAX,
                   SCORES = PART == SWIN_ATTENTION_ALL || PART == SWIN_ATTENTION_SCORES;
    constexpr bool SUM = PART == SWIN_ATTENTION_ALL || PART == SWIN_ATTENTION_SUM;

    if (QKV) {
        find_rows<N>(rows, p, win);
        constexpr int pad = (S::rows - N) * 4; /* 16-byte pieces of the tokens that fill a tile up: zeros */
        for (int i = threadIdx.x; i < S::buffers * 3 * pad; i += blockDim.x)
            *reinterpret_cast<uint4 *>(smem_base + i / max(pad, 1) * S::tile + N * 64 +
                                       i % max(pad, 1) * 16) = make_uint4(0, 0, 0, 0);
        __syncthreads();
        load_head<T, N>(smem, p, rows, first);
        copy_commit();
    }
    for (int head = first; head < last; head++) {
        const unsigned q = smem + (head - first) % S::buffers * 3 * S::tile, k = q + S::tile, v = k + S::tile;
        if (QKV) {
            if (S::buffers == 1 && head > first) load_head<T, N>(smem, p, rows, head);
            if (S::buffers == 2 && head + 1 < last)
                load_head<T, N>(smem + (head + 1 - first) % 2 * 3 * S::tile, p, rows, head + 1);
            copy_commit();
            copy_wait<S::buffers - 1>();
            __syncthreads();
        }
        for (int tile = warp; tile < S::n16; tile += S::warps) {
            const int row = 16 * tile + lane / 4;
            const int64_t matrix = win * p.a.heads + head;
            float s[S::n8][4] = {};
            if (SCORES) {
                unsigned a[2][4];
#pragma unroll
                for (int step = 0; step < 2; step++) load_a<64>(a[step], q, 16 * tile, step);
#pragma unroll
                for (int j = 0; j < S::n8; j += 2)
#pragma unroll
                    for (int step = 0; step < 2; step++) {
                        unsigned b[4];
                        load_b<64>(b, k, 8 * j, step);
                        E::run(s[j], a[step], b[0], b[1]);
                        if (j + 1 < S::n8) E::run(s[j + 1], a[step], b[2], b[3]);
                    }
            } else {
                move_scores<T, N, false>(s, p, matrix, row);
            }
            if (PART == SWIN_ATTENTION_ALL || PART == SWIN_ATTENTION_SOFTMAX)
                softmax_rows<T, N>(s, p, win, head, row);
            if (!SUM) {
                move_scores<T, N, true>(s, p, matrix, row);
                continue;
            }
            float o[D / 8][4] = {};
#pragma unroll
            for (int kk = 0; kk < S::n16; kk++) {
                unsigned a[4] = { pack2<T>(s[2 * kk][0], s[2 * kk][1]), pack2<T>(s[2 * kk][2], s[2 * kk][3]),
                                  0, 0 };
                if (2 * kk + 1 < S::n8) {
                    constexpr int last8 = S::n8 - 1;
                    const int j = 2 * kk + 1 < last8 ? 2 * kk + 1 : last8;
                    a[2] = pack2<T>(s[j][0], s[j][1]), a[3] = pack2<T>(s[j][2], s[j][3]);
                }
#pragma unroll
                for (int pair = 0; pair < D / 16; pair++) {
                    unsigned b[4];
                    ldmatrix4_trans(b, v + chunk_at<64>(16 * kk + (lane & 15), 2 * pair + (lane >> 4)));
                    E::run(o[2 * pair], a, b[0], b[1]);
                    E::run(o[2 * pair + 1], a, b[2], b[3]);
                }
            }
            /* This warp alone reads these rows of q: the result passes through them, for 16-byte stores. */
            __syncwarp();
            char *out = smem_base + (q - smem);
#pragma unroll
            for (int j = 0; j < D / 8; j++) {
                *(unsigned *)(out + chunk_at<64>(row, j) + lane % 4 * 4) = pack2<T>(o[j][0], o[j][1]);
                *(unsigned *)(out + chunk_at<64>(row + 8, j) + lane % 4 * 4) = pack2<T>(o[j][2], o[j][3]);
            }
            __syncwarp();
#pragma unroll
            for (int i = lane; i < 64; i += 32) {
                const int r = 16 * tile + i / 4;
                if (r < N)
                    *(uint4 *)((T *)p.out.data + rows[r] * p.out.ld + head * D + i % 4 * 8) =
                        *(const uint4 *)(out + chunk_at<64>(r, i % 4));
            }
        }
        if (QKV) __syncthreads(); /* this head's tiles are filled next */
    }
}

template <class E, int N>
cudaError_t launch(cudaStream_t stream, const swin_attention_args *p, swin_attention_part part,
                   int multiprocessors)
{
    const int64_t windows = (int64_t)p->g.images * swin_windows_per_image(&p->g);
    int each = p->a.heads % 3 == 0 ? 3 : p->a.heads % 4 == 0 ? 4 : 1;
    while (each > 1 && windows * (p->a.heads / each) < 8 * (int64_t)multiprocessors) each = each == 4 ? 2 : 1;
    const int64_t blocks = windows * ((p->a.heads + each - 1) / each);
    if (blocks == 0) return cudaSuccess;
    if (blocks > 0x7fffffff) return cudaErrorNotSupported;
    const unsigned grid = (unsigned)blocks, threads = shape<N>::threads;
    switch (part) {
    case SWIN_ATTENTION_ALL:
        attention_mma_kernel<E, N, SWIN_ATTENTION_ALL><<<grid, threads, 0, stream>>>(*p, each);
        break;
    case SWIN_ATTENTION_SCORES:
        attention_mma_kernel<E, N, SWIN_ATTENTION_SCORES><<<grid, threads, 0, stream>>>(*p, each);
        break;
    case SWIN_ATTENTION_SOFTMAX:
        attention_mma_kernel<E, N, SWIN_ATTENTION_SOFTMAX><<<grid, threads, 0, stream>>>(*p, each);
        break;
    default:
        attention_mma_kernel<E, N, SWIN_ATTENTION_SUM><<<grid, threads, 0, stream>>>(*p, each);
        break;
    }
    return cudaGetLastError();
}

template <class E>
cudaError_t pick(cudaStream_t stream, const swin_attention_args *p, swin_attention_part part, int sms)
{
    switch (p->g.window) {
    case 7:
        return launch<E, 49>(stream, p, part, sms);
    case 8:
        return launch<E, 64>(stream, p, part, sms);
    case 12:
        return launch<E, 144>(stream, p, part, sms);
    default:
        return cudaErrorNotSupported;
    }
}

} // namespace

extern "C" cudaError_t swin_attention_mma_launch(cudaStream_t stream, const swin_attention_args *p,
                                                 swin_attention_part part, int multiprocessors)
{
    const bool qkv = part != SWIN_ATTENTION_SOFTMAX,
               out = part == SWIN_ATTENTION_ALL || part == SWIN_ATTENTION_SUM;
    if (p->a.head_size != D) return cudaErrorNotSupported;
    if (qkv && (p->qkv.ld % 8 != 0 || (uintptr_t)p->qkv.data % 16 != 0)) return cudaErrorNotSupported;
    if (out && (p->out.ld % 8 != 0 || (uintptr_t)p->out.data % 16 != 0)) return cudaErrorNotSupported;
    const swin_dtype dtype = qkv ? p->qkv.dtype : p->s.dtype;
    if (dtype == SWIN_F16) return pick<mma_f16>(stream, p, part, multiprocessors);
    if (dtype == SWIN_BF16) return pick<mma_bf16>(stream, p, part, multiprocessors);
    return cudaErrorNotSupported;
}
