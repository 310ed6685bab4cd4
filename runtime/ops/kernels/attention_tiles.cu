/* Window attention on tensor cores, F16 and BF16, for windows of 64, 144, 256 or 576 tokens and heads of 24
 * or 32 channels: the float sibling of attention_s8_tiles.cu, which says how blocks share bias and mask.
 *
 * Up to 144 tokens a row's scores stay in registers; above, they are made twice: for the row's largest, then
 * for the weights. Weights are exp(score - largest), at most 1, rounded to the type; their sum is a product
 * with ones, and divides the result, so that what is summed is what was weighed. */
#include "runtime/ops/kernels/tile.cuh"

namespace
{

constexpr float LOG2E = 1.4426950408889634f, MAGIC = 12582912.f; /* 1.5 * 2^23: adding it rounds */

/* Window side, head size, tiles of 16 rows in a block, blocks that a multiprocessor should hold. */
template <int WINDOW, int HEAD, int TILES, int FIT> struct shape {
    static constexpr int W = WINDOW, D = HEAD, RT = TILES, fit = FIT, N = W * W, n8 = N / 8, n16 = N / 16;
    static constexpr int slices = n16 / RT, threads = 32 * RT;
    static constexpr bool once = N <= 144;
    static constexpr int q = 16 * RT * 64, kv = N * 64, bias = RT * n8 * 32 * 16; /* bytes */
    static constexpr int shared = bias + q + 2 * kv;
    static_assert(N % 16 == 0 && n16 % RT == 0 && D <= 32 && D % 8 == 0, "whole tiles");
};

/* Where a window lies: the row of its tokens in qkv and out. */
template <int W> struct place {
    int64_t base; /* row of its image's first token, or of its own in window order */
    int y, x;     /* corner on the map, shift included */

    __device__ __forceinline__ place(const swin_attention_args &p, int64_t win)
    {
        base = win * W * W, y = x = 0;
        if (!p.image_order) return;
        const unsigned across = (unsigned)p.g.width / W, per_image = across * ((unsigned)p.g.height / W);
        const int64_t image = win / per_image;
        const unsigned at = (unsigned)(win - image * per_image), wy = at / across, wx = at - wy * across;
        base = image * p.g.height * p.g.width, y = (int)wy * W + p.g.shift, x = (int)wx * W + p.g.shift;
    }
    __device__ __forceinline__ int64_t row(const swin_attention_args &p, int token) const
    {
        if (!p.image_order) return base + token;
        int ty = y + token / W, tx = x + token % W;
        if (ty >= p.g.height) ty -= p.g.height;
        if (tx >= p.g.width) tx -= p.g.width;
        return base + (int64_t)ty * p.g.width + tx;
    }
};

/* ROWS tokens from `first` on of one part of qkv. A head's missing columns become zeros. */
template <class T, class S, int ROWS>
__device__ __forceinline__ void load_rows(unsigned to, const swin_attention_args &p, const place<S::W> &at,
                                          int first, int64_t col)
{
#pragma unroll
    for (int i = threadIdx.x; i < ROWS * 4; i += S::threads) {
        const int row = i / 4, chunk = i % 4;
        const bool in = chunk * 8 < S::D;
        const T *from = (const T *)p.qkv.data + at.row(p, first + row) * p.qkv.ld + col;
        copy16(to + chunk_at<64>(row, chunk), in ? from + chunk * 8 : from, in);
    }
}

/* Position bias and mask of the block's rows, a tile of 16 x 8 in 32 pieces of 16 bytes. */
template <class S>
__device__ __forceinline__ void load_bias(float4 *to, const float *bias, const float *mask, int first_row)
{
    const int lane = threadIdx.x % 32;
    for (int i = threadIdx.x / 32; i < S::RT * S::n8; i += S::RT) {
        const int64_t at = (int64_t)(first_row + i / S::n8 * 16 + lane / 4) * S::N + i % S::n8 * 8 +
                           lane % 4 * 2;
        float2 a = __ldg((const float2 *)(bias + at)), b = __ldg((const float2 *)(bias + at + 8 * S::N));
        if (mask) {
            const float2 c = __ldg((const float2 *)(mask + at)),
                         d = __ldg((const float2 *)(mask + at + 8 * S::N));
            a.x += c.x, a.y += c.y, b.x += d.x, b.y += d.y;
        }
        to[i * 32 + lane] = make_float4(a.x * LOG2E, a.y * LOG2E, b.x * LOG2E, b.y * LOG2E);
    }
}

/* What a warp knows while it works on one image. */
struct rows_of {
    unsigned q[2][4]; /* the queries, as the tensor cores' operand */
    unsigned k, v;
    const float4 *bias; /* of this thread: a tile's next is 32 further */
    float alpha;
};

/* Scores of tiles j and j + 1 (8 keys each), in units of log 2. */
template <class E> __device__ __forceinline__ void score_two(float (&s)[2][4], const rows_of &r, int j)
{
    float sum[2][4] = {};
#pragma unroll
    for (int step = 0; step < 2; step++) {
        unsigned b[4];
        load_b<64>(b, r.k, 8 * j, step);
        E::run(sum[0], r.q[step], b[0], b[1]);
        E::run(sum[1], r.q[step], b[2], b[3]);
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float4 bias = r.bias[(j + i) * 32];
        s[i][0] = fmaf(sum[i][0], r.alpha, bias.x), s[i][1] = fmaf(sum[i][1], r.alpha, bias.y);
        s[i][2] = fmaf(sum[i][2], r.alpha, bias.z), s[i][3] = fmaf(sum[i][3], r.alpha, bias.w);
    }
}

__device__ __forceinline__ float over_four(float v)
{
    v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
    return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 2));
}

__device__ __forceinline__ void make_weights(float (&s)[4], const float (&top)[2], bool u8)
{
#pragma unroll
    for (int e = 0; e < 4; e++) {
        s[e] = exp2_fast(s[e] - top[e / 2]);
        if (u8) s[e] = fmaf(s[e], 255.f, MAGIC) - MAGIC;
    }
}

/* 16 rows of weights of 16 tokens times v; sum: the weights' sums. */
template <class E>
__device__ __forceinline__ void weigh(float (&o)[4][4], float (&sum)[4], const float (&s0)[4],
                                      const float (&s1)[4], unsigned v, int kk)
{
    using T = typename E::T;
    const int lane = threadIdx.x & 31;
    const unsigned a[4] = { pack2<T>(s0[0], s0[1]), pack2<T>(s0[2], s0[3]), pack2<T>(s1[0], s1[1]),
                            pack2<T>(s1[2], s1[3]) };
    const unsigned ones = pack2<T>(1.f, 1.f);
#pragma unroll
    for (int pair = 0; pair < 2; pair++) {
        unsigned b[4];
        ldmatrix4_trans(b, v + chunk_at<64>(16 * kk + (lane & 15), 2 * pair + (lane >> 4)));
        E::run(o[2 * pair], a, b[0], b[1]);
        E::run(o[2 * pair + 1], a, b[2], b[3]);
    }
    E::run(sum, a, ones, ones);
}

/* All scores of 16 rows at once. */
template <class E, class S>
__device__ __forceinline__ void attend_once(float (&o)[4][4], float (&sum)[4], const rows_of &rows, bool u8)
{
    float s[S::n8][4], top[2] = { -INFINITY, -INFINITY };
#pragma unroll
    for (int j = 0; j < S::n8; j += 2) {
        float two[2][4];
        score_two<E>(two, rows, j);
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                s[j + i][e] = two[i][e];
                top[e / 2] = fmaxf(top[e / 2], two[i][e]);
            }
    }
    top[0] = over_four(top[0]), top[1] = over_four(top[1]);
#pragma unroll
    for (int kk = 0; kk < S::n16; kk++) {
        make_weights(s[2 * kk], top, u8), make_weights(s[2 * kk + 1], top, u8);
        weigh<E>(o, sum, s[2 * kk], s[2 * kk + 1], rows.v, kk);
    }
}

/* Scores made twice, 16 keys at a time. */
template <class E, class S>
__device__ __forceinline__ void attend_twice(float (&o)[4][4], float (&sum)[4], const rows_of &rows, bool u8)
{
    float top[2] = { -INFINITY, -INFINITY };
#pragma unroll 2
    for (int j = 0; j < S::n8; j += 2) {
        float s[2][4];
        score_two<E>(s, rows, j);
#pragma unroll
        for (int h = 0; h < 2; h++)
            top[h] = fmaxf(top[h],
                           fmaxf(fmaxf(s[0][2 * h], s[0][2 * h + 1]), fmaxf(s[1][2 * h], s[1][2 * h + 1])));
    }
    top[0] = over_four(top[0]), top[1] = over_four(top[1]);
#pragma unroll 2
    for (int kk = 0; kk < S::n16; kk++) {
        float s[2][4];
        score_two<E>(s, rows, 2 * kk);
        make_weights(s[0], top, u8), make_weights(s[1], top, u8);
        weigh<E>(o, sum, s[0], s[1], rows.v, kk);
    }
}

/* The result through this warp's own rows of q, which nobody else reads, for 16-byte stores. */
template <class T, class S>
__device__ __forceinline__ void store_rows(char *q, const float (&o)[4][4], const float (&sum)[4],
                                           const swin_attention_args &p, int64_t win, int head, int tile,
                                           int row)
{
    const int lane = threadIdx.x & 31, at_row = 16 * tile + lane / 4;
    const float f[2] = { 1.f / sum[0], 1.f / sum[2] };
    const place<S::W> at(p, win);
    __syncwarp();
#pragma unroll
    for (int j = 0; j < 4; j++) {
        *(unsigned *)(q + chunk_at<64>(at_row, j) + lane % 4 * 4) = pack2<T>(o[j][0] * f[0], o[j][1] * f[0]);
        *(unsigned *)(q + chunk_at<64>(at_row + 8, j) + lane % 4 * 4) =
            pack2<T>(o[j][2] * f[1], o[j][3] * f[1]);
    }
    __syncwarp();
    if (lane % 4 * 8 >= S::D) return;
#pragma unroll
    for (int half = 0; half < 2; half++)
        *(uint4 *)((T *)p.out.data + at.row(p, row + lane / 4 + 8 * half) * p.out.ld + head * S::D +
                   lane % 4 * 8) = *(const uint4 *)(q + chunk_at<64>(at_row + 8 * half, lane % 4));
}

template <class E, class S>
__global__ void __launch_bounds__(S::threads, S::fit)
    attention_tiles(const __grid_constant__ swin_attention_args p, int each)
{
    using T = typename E::T;
    extern __shared__ __align__(128) char base[];
    const int lane = threadIdx.x % 32, tile = threadIdx.x / 32;
    const unsigned per_image = (unsigned)swin_windows_count(p.g), slice = blockIdx.x % S::slices;
    const unsigned rest = blockIdx.x / S::slices, head = rest % p.a.heads, run = rest / p.a.heads;
    const unsigned position = run % per_image;
    const int first = (int)(run / per_image) * each, last = min(first + each, p.g.images);
    const bool u8 = p.a.softmax == SWIN_SOFTMAX_U8;
    const int64_t part = (int64_t)p.a.heads * S::D, col = (int64_t)head * S::D;
    char *q = base + S::bias;
    const unsigned q_at = shared_address(q), k_at = q_at + S::q;
    load_bias<S>((float4 *)base, p.a.bias + (int64_t)head * S::N * S::N,
                 p.a.mask ? p.a.mask + (int64_t)position * S::N * S::N : NULL, slice * S::RT * 16);
    chain_wait();
    for (int image = first; image < last; image++) {
        const int64_t win = (int64_t)image * per_image + position;
        const place<S::W> at(p, win);
        load_rows<T, S, 16 * S::RT>(q_at, p, at, slice * 16 * S::RT, col);
        load_rows<T, S, S::N>(k_at, p, at, 0, part + col);
        load_rows<T, S, S::N>(k_at + S::kv, p, at, 0, 2 * part + col);
        copy_commit();
        copy_wait<0>();
        __syncthreads();
        rows_of rows;
        rows.k = k_at, rows.v = k_at + S::kv;
        rows.bias = (const float4 *)base + tile * S::n8 * 32 + lane;
        rows.alpha = p.a.scale * LOG2E;
        load_a<64>(rows.q[0], q_at, 16 * tile, 0);
        load_a<64>(rows.q[1], q_at, 16 * tile, 1);
        float o[4][4] = {}, sum[4] = {};
        if constexpr (S::once)
            attend_once<E, S>(o, sum, rows, u8);
        else
            attend_twice<E, S>(o, sum, rows, u8);
        store_rows<T, S>(q, o, sum, p, win, head, tile, (slice * S::RT + tile) * 16);
        __syncthreads(); /* the tiles are filled next */
    }
}

/* Images of a block, as in attention_s8_tiles.cu. */
int64_t share_of(int64_t images, int64_t one, int64_t multiprocessors, int fit)
{
    int64_t best = images;
    double least = 0;
    for (int64_t runs = 1; runs <= images && runs <= 256; runs++) {
        const int64_t each = (images + runs - 1) / runs;
        const int64_t turns = ((images + each - 1) / each * one + multiprocessors - 1) / multiprocessors;
        const double cost = (double)(turns * (each + 3)) * (1 + 1.0 / (double)(turns < fit ? turns : fit));
        if (runs == 1 || cost < least) least = cost, best = each;
    }
    return best;
}

template <class E, class S>
cudaError_t launch(cudaStream_t stream, const swin_attention_args *p, int multiprocessors)
{
    static bool ready;
    const int64_t per_image = swin_windows_per_image(&p->g), images = p->g.images;
    const int64_t one = per_image * p->a.heads * S::slices;
    if (images * one == 0) return cudaSuccess;
    if (!ready) {
        const cudaError_t e = cudaFuncSetAttribute(attention_tiles<E, S>,
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize, S::shared);
        if (e != cudaSuccess) {
            cudaGetLastError(); /* the next launch must not find it */
            return cudaErrorNotSupported;
        }
        ready = true;
    }
    const int64_t each = share_of(images, one, multiprocessors, S::fit);
    const int64_t blocks = (images + each - 1) / each * one;
    if (blocks > 0x7fffffff) return cudaErrorNotSupported;
    return chain_launch(attention_tiles<E, S>, (unsigned)blocks, S::threads, S::shared, stream, *p,
                        (int)each);
}

template <class E> cudaError_t pick(cudaStream_t stream, const swin_attention_args *p, int sms)
{
    const bool narrow = p->a.head_size == 24;
    switch (p->g.window) {
    case 8:
        return narrow ? launch<E, shape<8, 24, 4, 4>>(stream, p, sms) : cudaErrorNotSupported;
    case 12:
        return narrow ? cudaErrorNotSupported : launch<E, shape<12, 32, 3, 4>>(stream, p, sms);
    case 16:
        return narrow ? cudaErrorNotSupported : launch<E, shape<16, 32, 4, 2>>(stream, p, sms);
    case 24:
        return narrow ? cudaErrorNotSupported : launch<E, shape<24, 32, 4, 1>>(stream, p, sms);
    default:
        return cudaErrorNotSupported;
    }
}

} // namespace

extern "C" cudaError_t swin_attention_tiles_launch(cudaStream_t stream, const swin_attention_args *p,
                                                   int multiprocessors)
{
    if ((p->a.head_size != 32 && p->a.head_size != 24) || p->qkv.ld % 8 || (uintptr_t)p->qkv.data % 16 ||
        p->out.ld % 8 || (uintptr_t)p->out.data % 16 || !p->a.bias || (uintptr_t)p->a.bias % 8 ||
        (uintptr_t)p->a.mask % 8)
        return cudaErrorNotSupported;
    if (p->qkv.dtype == SWIN_F16) return pick<mma_f16>(stream, p, multiprocessors);
    if (p->qkv.dtype == SWIN_BF16) return pick<mma_bf16>(stream, p, multiprocessors);
    return cudaErrorNotSupported;
}
