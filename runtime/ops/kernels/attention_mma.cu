/* Window attention on tensor cores: F16 and BF16, head size 32, windows of 49, 64 or 144 tokens.
 *
 * A block takes one head of one window position in a run of images, and copies the next image's q, k, v while
 * it works on this one's; position bias and mask, which all of them share, stay in registers all the while. A
 * warp takes 16 query rows: scores, softmax and the weighted sum never leave its registers, where the
 * accumulator layout of the scores is the operand layout of the second product. Scores stay float32 into the
 * softmax; the parts, run one after the other, round them on their way through memory. */
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

/* Where a window lies: the row of its token (ty, tx) in qkv and out. */
struct place {
    int64_t base; /* row of its image's first token, or of its own in window order */
    int y, x;     /* corner on the map, shift included */
};

template <int W> __device__ __forceinline__ place find_window(const swin_attention_args &p, int64_t win)
{
    if (!p.image_order) return { win * W * W, 0, 0 };
    const unsigned across = (unsigned)p.g.width / W, per_image = across * ((unsigned)p.g.height / W);
    const int64_t image = win / per_image;
    const unsigned at = (unsigned)(win - image * per_image), wy = at / across, wx = at - wy * across;
    return { image * p.g.height * p.g.width, (int)wy * W + p.g.shift, (int)wx * W + p.g.shift };
}

template <int W>
__device__ __forceinline__ int64_t find_row(const swin_attention_args &p, const place &at, int token)
{
    if (!p.image_order) return at.base + token;
    int y = at.y + token / W, x = at.x + token % W;
    if (y >= p.g.height) y -= p.g.height;
    if (x >= p.g.width) x -= p.g.width;
    return at.base + (int64_t)y * p.g.width + x;
}

/* q, k, v of one head of a window. Four threads a row. */
template <class T, int W>
__device__ __forceinline__ void load_window(unsigned smem, const swin_attention_args &p, int64_t win,
                                            int head)
{
    constexpr int N = W * W, STEP = shape<N>::threads / 4;
    const int chunk = threadIdx.x % 4;
    const int64_t part = (int64_t)p.a.heads * D;
    const place at = find_window<W>(p, win);
#pragma unroll
    for (int first = 0; first < N; first += STEP) {
        const int row = first + threadIdx.x / 4;
        if (row >= N) continue;
        const T *from = (const T *)p.qkv.data + find_row<W>(p, at, row) * p.qkv.ld + head * D + chunk * 8;
#pragma unroll
        for (int i = 0; i < 3; i++)
            copy16(smem + i * shape<N>::tile + chunk_at<64>(row, chunk), from + i * part, true);
    }
}

/* This thread's share of a head's position bias, and of a window's mask if there is one, for 16 rows in the
 * layout of the scores. */
template <int N>
__device__ __forceinline__ void load_bias(float (&b)[shape<N>::n8][4], const float *bias, const float *mask,
                                          int row)
{
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int j = 0; j < shape<N>::n8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int r = row + e / 2 * 8, col = 8 * j + 2 * t + e % 2;
            b[j][e] = r < N && col < N ? __ldg(bias + r * N + col)
                                       : -INFINITY; /* columns past the window: no weight */
            if (r >= N) b[j][e] = 0;                /* rows past it: anything finite */
        }
    if (!mask) return;
#pragma unroll
    for (int j = 0; j < shape<N>::n8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int r = row + e / 2 * 8, col = 8 * j + 2 * t + e % 2;
            if (r < N && col < N) b[j][e] += __ldg(mask + r * N + col);
        }
}

/* In place: raw scores of 16 rows to probabilities. */
template <class T, int N>
__device__ __forceinline__ void
softmax_rows(float (&s)[shape<N>::n8][4], const float (&bias)[shape<N>::n8][4], const swin_attention_args &p)
{
    constexpr int n8 = shape<N>::n8;
#pragma unroll
    for (int j = 0; j < n8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) s[j][e] = fmaf(s[j][e], p.a.scale, bias[j][e]);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float top = -INFINITY, sum = 0;
#pragma unroll
        for (int j = 0; j < n8; j++) top = fmaxf(top, fmaxf(s[j][2 * half], s[j][2 * half + 1]));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
#pragma unroll
        for (int j = 0; j < n8; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) s[j][2 * half + e] = exp_neg<T>(s[j][2 * half + e] - top);
        if (p.a.softmax == SWIN_SOFTMAX_U8) {
#pragma unroll
            for (int j = 0; j < n8; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) s[j][2 * half + e] = rintf(255.f * s[j][2 * half + e]);
        }
#pragma unroll
        for (int j = 0; j < n8; j++) sum += s[j][2 * half] + s[j][2 * half + 1];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        const float inverse = 1.f / sum;
#pragma unroll
        for (int j = 0; j < n8; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) s[j][2 * half + e] *= inverse;
    }
}

/* Scores of a warp's 16 rows to or from memory, as T, through `stage` (16 N elements): rows without gaps lie
 * in one piece, which the lanes move side by side. tile: which 16 rows. */
template <class T, int N, bool STORE>
__device__ __forceinline__ void move_scores(float (&s)[shape<N>::n8][4], T *stage,
                                            const swin_attention_args &p, int64_t matrix, int tile)
{
    const int lane = threadIdx.x % 32, rows = min(16, N - 16 * tile);
    T *memory = (T *)p.s.data + (matrix * N + 16 * tile) * p.s.ld;
    auto each = [&](auto f) {
#pragma unroll
        for (int j = 0; j < shape<N>::n8; j++)
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const int r = lane / 4 + k / 2 * 8, col = 8 * j + 2 * (lane % 4) + k % 2;
                if (r < rows && col < N) f(s[j][k], stage[r * N + col]);
            }
    };
    auto move = [&](auto f) {
        if (p.s.ld == N)
            for (int i = lane; i < rows * N; i += 32) f(memory[i], stage[i]);
        else
            for (int i = lane; i < rows * N; i += 32) f(memory[i / N * p.s.ld + i % N], stage[i]);
    };
    __syncwarp();
    if (STORE) {
        each([](float v, T &at) { at = from_float<T>(v); });
        __syncwarp();
        move([](T &to, T from) { to = from; });
    } else {
        move([](T from, T &to) { to = from; });
        __syncwarp();
        each([](float &v, T at) { v = to_float(at); });
    }
}

/* Scores of 16 rows: q k^T. */
template <class E, int N>
__device__ __forceinline__ void make_scores(float (&s)[shape<N>::n8][4], unsigned q, unsigned k, int tile)
{
    unsigned a[2][4];
#pragma unroll
    for (int step = 0; step < 2; step++) load_a<64>(a[step], q, 16 * tile, step);
#pragma unroll
    for (int j = 0; j < shape<N>::n8; j += 2)
#pragma unroll
        for (int step = 0; step < 2; step++) {
            unsigned b[4];
            load_b<64>(b, k, 8 * j, step);
            E::run(s[j], a[step], b[0], b[1]);
            if (j + 1 < shape<N>::n8) E::run(s[j + 1], a[step], b[2], b[3]);
        }
}

/* 16 rows of probabilities times v. */
template <class E, int N>
__device__ __forceinline__ void weigh(float (&o)[D / 8][4], const float (&s)[shape<N>::n8][4], unsigned v)
{
    using T = typename E::T;
    constexpr int n8 = shape<N>::n8;
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int kk = 0; kk < shape<N>::n16; kk++) {
        unsigned a[4] = { pack2<T>(s[2 * kk][0], s[2 * kk][1]), pack2<T>(s[2 * kk][2], s[2 * kk][3]), 0, 0 };
        if (2 * kk + 1 < n8) {
            constexpr int end = n8 - 1;
            const int j = 2 * kk + 1 < end ? 2 * kk + 1 : end;
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
}

/* The result through this warp's own rows of q, which nobody else reads, for 16-byte stores. */
template <class T, int W>
__device__ __forceinline__ void store_rows(char *q, const float (&o)[D / 8][4], const swin_attention_args &p,
                                           int64_t win, int head, int tile)
{
    const int lane = threadIdx.x & 31, row = 16 * tile + lane / 4;
    __syncwarp();
#pragma unroll
    for (int j = 0; j < D / 8; j++) {
        *(unsigned *)(q + chunk_at<64>(row, j) + lane % 4 * 4) = pack2<T>(o[j][0], o[j][1]);
        *(unsigned *)(q + chunk_at<64>(row + 8, j) + lane % 4 * 4) = pack2<T>(o[j][2], o[j][3]);
    }
    __syncwarp();
    const place at = find_window<W>(p, win);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int r = row + 8 * half;
        if (r < W * W)
            *(uint4 *)((T *)p.out.data + find_row<W>(p, at, r) * p.out.ld + head * D + lane % 4 * 8) =
                *(const uint4 *)(q + chunk_at<64>(r, lane % 4));
    }
}

template <class E, int W, swin_attention_part PART>
__global__ void __launch_bounds__(shape<W * W>::threads)
    attention_mma_kernel(const __grid_constant__ swin_attention_args p, int each)
{
    using T = typename E::T;
    constexpr int N = W * W;
    using S = shape<N>;
    constexpr bool ALL = PART == SWIN_ATTENTION_ALL;
    __shared__ __align__(128) char smem_base[S::buffers * 3 * S::tile];
    __shared__ T stages[ALL ? 1 : S::warps * 16 * N];
    const unsigned smem = shared_address(smem_base);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = blockIdx.x % p.a.heads;
    const unsigned per_image = (unsigned)swin_windows_count(p.g), run = blockIdx.x / p.a.heads;
    const int position = (int)(run % per_image), first = (int)(run / per_image) * each;
    const int last = min(first + each, p.g.images);
    constexpr bool QKV = PART != SWIN_ATTENTION_SOFTMAX,
                   SUM = PART == SWIN_ATTENTION_ALL || PART == SWIN_ATTENTION_SUM;
    constexpr bool SOFTMAX = PART == SWIN_ATTENTION_ALL || PART == SWIN_ATTENTION_SOFTMAX;
    const float *head_bias = p.a.bias + (int64_t)head * N * N;
    const float *mask = p.a.mask ? p.a.mask + (int64_t)position * N * N : NULL;
    auto window = [&](int image) { return (int64_t)image * per_image + position; };

    if (QKV) {
        constexpr int pad = (S::rows - N) * 4; /* 16-byte pieces of the tokens that fill a tile up: zeros */
        for (int i = threadIdx.x; i < S::buffers * 3 * pad; i += blockDim.x)
            *reinterpret_cast<uint4 *>(smem_base + i / max(pad, 1) * S::tile + N * 64 +
                                       i % max(pad, 1) * 16) = make_uint4(0, 0, 0, 0);
    }
    float bias[S::n8][4];
    if (SOFTMAX && S::n16 <= S::warps) load_bias<N>(bias, head_bias, mask, 16 * warp + lane / 4);
    chain_wait();
    if (QKV) {
        load_window<T, W>(smem, p, window(first), head);
        copy_commit();
    }
    for (int image = first; image < last; image++) {
        const int turn = S::buffers == 2 ? (image - first) & 1 : 0;
        const unsigned q = smem + turn * 3 * S::tile;
        if (QKV) {
            if (S::buffers == 1 && image > first) load_window<T, W>(smem, p, window(image), head);
            if (S::buffers == 2 && image + 1 < last)
                load_window<T, W>(smem + (turn ^ 1) * 3 * S::tile, p, window(image + 1), head);
            copy_commit();
            copy_wait<S::buffers - 1>();
            __syncthreads();
        }
        for (int tile = warp; tile < S::n16; tile += S::warps) {
            const int row = 16 * tile + lane / 4;
            const int64_t matrix = window(image) * p.a.heads + head;
            float s[S::n8][4] = {};
            if (PART == SWIN_ATTENTION_ALL || PART == SWIN_ATTENTION_SCORES)
                make_scores<E, N>(s, q, q + S::tile, tile);
            else
                move_scores<T, N, false>(s, stages + warp * 16 * N, p, matrix, tile);
            if (SOFTMAX) {
                if (S::n16 > S::warps) load_bias<N>(bias, head_bias, mask, row);
                softmax_rows<T, N>(s, bias, p);
            }
            if (SUM) {
                float o[D / 8][4] = {};
                weigh<E, N>(o, s, q + 2 * S::tile);
                store_rows<T, W>(smem_base + turn * 3 * S::tile, o, p, window(image), head, tile);
            } else {
                move_scores<T, N, true>(s, stages + warp * 16 * N, p, matrix, tile);
            }
        }
        if (QKV) __syncthreads(); /* this window's tiles are filled next */
    }
}

template <class E, int W>
cudaError_t launch(cudaStream_t stream, const swin_attention_args *p, swin_attention_part part,
                   int multiprocessors)
{
    const int64_t per_image = swin_windows_per_image(&p->g), images = p->g.images;
    if (images * per_image * p->a.heads == 0) return cudaSuccess;
    /* About two rounds of four blocks a multiprocessor, images dealt evenly. */
    int64_t runs = (int64_t)multiprocessors * 8 / (per_image * p->a.heads);
    runs = runs < 1 ? 1 : runs > images ? images : runs;
    int64_t each = (images + runs - 1) / runs;
    each = each > 64 ? 64 : each;
    const int64_t blocks = (images + each - 1) / each * per_image * p->a.heads;
    if (blocks > 0x7fffffff) return cudaErrorNotSupported;
    const unsigned grid = (unsigned)blocks, threads = shape<W * W>::threads;
    const int n = (int)each;
    if (part == SWIN_ATTENTION_ALL)
        return chain_launch(attention_mma_kernel<E, W, SWIN_ATTENTION_ALL>, grid, threads, 0, stream, *p, n);
    if (part == SWIN_ATTENTION_SCORES)
        return chain_launch(attention_mma_kernel<E, W, SWIN_ATTENTION_SCORES>, grid, threads, 0, stream, *p,
                            n);
    if (part == SWIN_ATTENTION_SOFTMAX)
        return chain_launch(attention_mma_kernel<E, W, SWIN_ATTENTION_SOFTMAX>, grid, threads, 0, stream, *p,
                            n);
    return chain_launch(attention_mma_kernel<E, W, SWIN_ATTENTION_SUM>, grid, threads, 0, stream, *p, n);
}

template <class E>
cudaError_t pick(cudaStream_t stream, const swin_attention_args *p, swin_attention_part part, int sms)
{
    switch (p->g.window) {
    case 7:
        return launch<E, 7>(stream, p, part, sms);
    case 8:
        return launch<E, 8>(stream, p, part, sms);
    case 12:
        return launch<E, 12>(stream, p, part, sms);
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
