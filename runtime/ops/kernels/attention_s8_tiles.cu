/* Window attention on codes, on tensor cores, for what attention_s8.cu does not take: windows of 256 and 576
 * tokens, and of 64 tokens with heads of 24 channels.
 *
 * A block takes some rows of queries of one head and window position, and walks a run of images. The position
 * bias and mask that all of them share lie in shared memory, in the order in which a warp's threads meet the
 * scores (16 x 8 of them: 16 bytes a thread), so that the inner loops read them without conflicts and the
 * natural layout is read once. A warp takes 16 query rows of one image. Of 64 tokens the scores stay in
 * registers; above, they are made twice: once for the row's largest (and its sum, where the softmax is
 * exact), once for the codes, which so come from the final largest and sum and not from running ones.
 *
 * Sums of codes come from the tensor cores too: a product with a column of ones. Tokens are summed in the
 * order in which the first product leaves them in a thread, as in attention_s8.cu. Smaller heads are padded
 * with zeros. */
#include "runtime/ops/kernels/attention_s8.cuh"

namespace
{

/* Window side, head size, tiles of 16 rows in a block, images at a time, buffers of them, blocks that a
 * multiprocessor should hold. */
template <int WINDOW, int HEAD, int TILES, int IMAGES, int BUFFERS, int FIT> struct shape {
    static constexpr int W = WINDOW, D = HEAD, RT = TILES, G = IMAGES, BUF = BUFFERS, fit = FIT;
    static constexpr int N = W * W, n8 = N / 8, n32 = (N + 31) / 32, slices = N / 16 / RT;
    static constexpr int warps = RT * G, threads = 32 * warps, each = 32 * RT; /* threads of an image */
    static constexpr bool once = N <= 64;
    static constexpr int q = 16 * RT * 32, k = N * 32, v = n32 * 32 * 32; /* bytes */
    static constexpr int image = q + k + v, bias = RT * n8 * 32 * 16;
    static constexpr int shared = bias + G * BUF * image;
    static_assert(N % 16 == 0 && N / 16 % RT == 0 && D <= 32 && D % 8 == 0, "whole tiles");
};

/* Pieces of ROWS tokens that a thread copies, and where they lie: bytes from the first token of an image (or
 * of a window in window order), the same for every image. -1: nothing there, zeros. */
template <class S, int ROWS> struct pieces {
    static constexpr int unit = S::D == 32 ? 16 : 8, row = 32 / unit,
                         count = (ROWS * row + S::each - 1) / S::each;
    int from[count];

    __device__ __forceinline__ void find(const swin_attention_s8_args &p, const swin_tensor &x,
                                         const s8_place<S::W> &at, int first, int head, int thread)
    {
#pragma unroll
        for (int i = 0; i < count; i++) {
            const int k = thread + i * S::each, token = k / row, piece = k % row;
            from[i] = k < ROWS * row && piece * unit < S::D
                          ? (int)((at.row(p, first + token) - at.base) * x.ld) + head * S::D + piece * unit
                          : -1;
        }
    }
    __device__ __forceinline__ void load(unsigned to, const int8_t *x, int thread) const
    {
#pragma unroll
        for (int i = 0; i < count; i++) {
            const int k = thread + i * S::each, token = k / row, piece = k % row;
            if (ROWS * row % S::each != 0 && k >= ROWS * row) continue;
            if constexpr (S::D == 32)
                copy16(to + s8_half_at(token, piece), x + from[i], true);
            else
                copy8(to + s8_half_at(token, piece / 2) + piece % 2 * 8, from[i] < 0 ? x : x + from[i],
                      from[i] >= 0);
        }
    }
};

/* Position bias and mask of the block's rows, a tile of 16 x 8 in 32 pieces of 16 bytes. */
template <class S>
__device__ __forceinline__ void load_bias(float4 *to, const float *bias, const float *mask, int first_row)
{
    const int lane = threadIdx.x % 32;
    for (int i = threadIdx.x / 32; i < S::RT * S::n8; i += S::warps) {
        const int64_t at = (int64_t)(first_row + i / S::n8 * 16 + lane / 4) * S::N + i % S::n8 * 8 +
                           lane % 4 * 2;
        float2 a = make_float2(0, 0), b = a;
        if (bias) a = __ldg((const float2 *)(bias + at)), b = __ldg((const float2 *)(bias + at + 8 * S::N));
        if (mask) {
            const float2 c = __ldg((const float2 *)(mask + at)),
                         d = __ldg((const float2 *)(mask + at + 8 * S::N));
            a.x += c.x, a.y += c.y, b.x += d.x, b.y += d.y;
        }
        to[i * 32 + lane] = make_float4(a.x * S8_LOG2E, a.y * S8_LOG2E, b.x * S8_LOG2E, b.y * S8_LOG2E);
    }
}

/* What a warp knows while it works on one image: addresses in shared memory and the scores' factor. */
struct rows_of {
    unsigned q[4]; /* the queries, as the tensor cores' operand */
    unsigned k, v;
    const float4 *bias; /* of this thread: a tile's next is 32 further */
    float alpha;
};

/* Scores of tiles j and j + 1 (8 keys each). Sums lie on top of S8_MAGIC's bits: any sum of 32
 * products fits. */
__device__ __forceinline__ void score_two(float (&s)[2][4], const rows_of &r, int j)
{
    const int lane = threadIdx.x & 31;
    int sum[2][4];
    unsigned b[4];
    ldmatrix4(b, r.k + s8_half_at(8 * j + (lane & 7) + (lane >> 4) * 8, (lane >> 3) & 1));
#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int e = 0; e < 4; e++) sum[i][e] = __float_as_int(S8_MAGIC);
        mma_s8(sum[i], r.q, b[2 * i], b[2 * i + 1]);
        const float4 bias = r.bias[(j + i) * 32];
        s[i][0] = fmaf(__int_as_float(sum[i][0]) - S8_MAGIC, r.alpha, bias.x);
        s[i][1] = fmaf(__int_as_float(sum[i][1]) - S8_MAGIC, r.alpha, bias.y);
        s[i][2] = fmaf(__int_as_float(sum[i][2]) - S8_MAGIC, r.alpha, bias.z);
        s[i][3] = fmaf(__int_as_float(sum[i][3]) - S8_MAGIC, r.alpha, bias.w);
    }
}

/* Largest and, where the softmax is exact, sum of exp(score - largest) of a thread's two rows. */
struct row_range {
    float top[2], sum[2];
};

/* Scores of a tile to codes, on top of S8_MAGIC. factor: what exp is multiplied by. */
__device__ __forceinline__ void make_codes(float (&s)[4], const row_range &r, const float (&factor)[2],
                                           bool u8)
{
#pragma unroll
    for (int e = 0; e < 4; e++) {
        s[e] = fmaf(exp2_fast(s[e] - r.top[e / 2]), factor[e / 2], S8_MAGIC);
        if (!u8) s[e] = fminf(s[e], S8_MAGIC + 127.f);
    }
}

/* 16 rows of codes of 32 tokens (four tiles) times v. o[c][e] holds columns 16 c + 4 t + e + {0, 2}; sum the
 * codes' sums. */
__device__ __forceinline__ void weigh(int (&o)[2][2][4], int (&sum)[4], const unsigned (&a)[4], unsigned v,
                                      int kk)
{
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int c = 0; c < 2; c++) {
        unsigned r[4];
        ldmatrix4_trans(r, v + s8_half_at(32 * kk + lane, c));
        mma_u8s8(o[c][0], a, __byte_perm(r[0], r[1], 0x6420), __byte_perm(r[2], r[3], 0x6420));
        mma_u8s8(o[c][1], a, __byte_perm(r[0], r[1], 0x7531), __byte_perm(r[2], r[3], 0x7531));
    }
    mma_u8s8(sum, a, 0x01010101u, 0x01010101u);
}

__device__ __forceinline__ void pack_codes(unsigned (&a)[4], const float (&s0)[4], const float (&s1)[4],
                                           int at)
{
    a[at] = s8_pack(s0[0], s0[1], s1[0], s1[1]);
    a[at + 1] = s8_pack(s0[2], s0[3], s1[2], s1[3]);
}

/* What exp(score - largest) is multiplied by to give codes. */
__device__ __forceinline__ void factors_of(float (&factor)[2], const row_range &r,
                                           const swin_attention_s8_args &p, bool u8)
{
    factor[0] = u8 ? 255.f : 1.f / (r.sum[0] * p.prob_scale);
    factor[1] = u8 ? 255.f : 1.f / (r.sum[1] * p.prob_scale);
}

/* All scores of 16 rows at once. */
template <class S>
__device__ __forceinline__ void attend_once(int (&o)[2][2][4], int (&sum)[4], const rows_of &rows,
                                            const swin_attention_s8_args &p, bool u8)
{
    float s[S::n8][4];
    row_range r = { { -INFINITY, -INFINITY }, { 0, 0 } };
#pragma unroll
    for (int j = 0; j < S::n8; j += 2) {
        float two[2][4];
        score_two(two, rows, j);
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                s[j + i][e] = two[i][e];
                r.top[e / 2] = fmaxf(r.top[e / 2], two[i][e]);
            }
    }
    r.top[0] = s8_over_four(r.top[0], true), r.top[1] = s8_over_four(r.top[1], true);
    if (!u8) { /* exp is made twice: where it is read, registers are dearer */
#pragma unroll
        for (int j = 0; j < S::n8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) r.sum[e / 2] += exp2_fast(s[j][e] - r.top[e / 2]);
        r.sum[0] = s8_over_four(r.sum[0], false), r.sum[1] = s8_over_four(r.sum[1], false);
    }
    float factor[2];
    factors_of(factor, r, p, u8);
#pragma unroll
    for (int kk = 0; kk < S::n32; kk++) {
        unsigned a[4] = { 0, 0, 0, 0 };
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
            constexpr int end = S::n8 - 2;
            if (4 * kk + i > end) continue;
            const int j = 4 * kk + i;
            make_codes(s[j], r, factor, u8), make_codes(s[j + 1], r, factor, u8);
            pack_codes(a, s[j], s[j + 1], i);
        }
        weigh(o, sum, a, rows.v, kk);
    }
}

/* Scores made twice, 32 keys at a time. */
template <class S>
__device__ __forceinline__ void attend_twice(int (&o)[2][2][4], int (&sum)[4], const rows_of &rows,
                                             const swin_attention_s8_args &p, bool u8)
{
    row_range r = { { -1e30f, -1e30f }, { 0, 0 } };
#pragma unroll 2
    for (int j = 0; j < S::n8; j += 4) {
        float s[4][4];
        score_two(*(float(*)[2][4]) & s[0], rows, j);
        score_two(*(float(*)[2][4]) & s[2], rows, j + 2);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float top = r.top[h];
#pragma unroll
            for (int i = 0; i < 4; i++) top = fmaxf(top, fmaxf(s[i][2 * h], s[i][2 * h + 1]));
            if (!u8) {
                float more = 0;
#pragma unroll
                for (int i = 0; i < 4; i++)
                    more += exp2_fast(s[i][2 * h] - top) + exp2_fast(s[i][2 * h + 1] - top);
                r.sum[h] = fmaf(r.sum[h], exp2_fast(r.top[h] - top), more);
            }
            r.top[h] = top;
        }
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const float top = s8_over_four(r.top[h], true);
        if (!u8) r.sum[h] = s8_over_four(r.sum[h] * exp2_fast(r.top[h] - top), false);
        r.top[h] = top;
    }
    float factor[2];
    factors_of(factor, r, p, u8);
#pragma unroll 2
    for (int kk = 0; kk < S::n32; kk++) {
        unsigned a[4];
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
            float s[2][4];
            score_two(s, rows, 4 * kk + i);
            make_codes(s[0], r, factor, u8), make_codes(s[1], r, factor, u8);
            pack_codes(a, s[0], s[1], i);
        }
        weigh(o, sum, a, rows.v, kk);
    }
}

/* to: where this thread's two rows begin, head included, from the image's first token on. */
template <class S>
__device__ __forceinline__ void store_rows(const int (&o)[2][2][4], const int (&sum)[4],
                                           const swin_attention_s8_args &p, const swin_s8_rule &rule,
                                           float v_scale, int64_t base, const int (&to)[2], bool u8)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float f = u8 ? v_scale / (float)sum[2 * half] : v_scale * p.prob_scale;
#pragma unroll
        for (int c = 0; c < 2; c++) {
            const int col = 16 * c + threadIdx.x % 4 * 4;
            if (S::D < 32 && col >= S::D) continue;
            const float v[4] = { (float)o[c][0][2 * half] * f, (float)o[c][1][2 * half] * f,
                                 (float)o[c][0][2 * half + 1] * f, (float)o[c][1][2 * half + 1] * f };
            s8_store4(p.out, rule, base + to[half] + col, v);
        }
    }
}

template <class S, bool U8>
__global__ void __launch_bounds__(S::threads, S::fit)
    attention_s8_tiles(const __grid_constant__ swin_attention_s8_args p, const swin_s8_rule rule, int each)
{
    extern __shared__ __align__(128) char base[];
    const int lane = threadIdx.x % 32, tile = threadIdx.x / 32 % S::RT, group = threadIdx.x / S::each;
    const unsigned per_image = (unsigned)swin_windows_count(p.g), slice = blockIdx.x % S::slices;
    const unsigned rest = blockIdx.x / S::slices, head = rest % p.a.heads, run = rest / p.a.heads;
    const unsigned position = run % per_image;
    const int first = (int)(run / per_image) * each, last = min(first + each, p.g.images);
    const int thread = threadIdx.x % S::each, row = (slice * S::RT + tile) * 16 + lane / 4;
    const unsigned tiles = shared_address(base) + S::bias + group * S::BUF * S::image;
    const int col = (int)head * S::D;
    const float alpha = p.a.scale * (s8_scale_in(p.q, col) * s8_scale_in(p.k, col)) * S8_LOG2E,
                v_scale = s8_scale_in(p.v, col);
    const s8_place<S::W> at(p, position);
    pieces<S, 16 * S::RT> q;
    pieces<S, S::N> k, v;
    q.find(p, p.q, at, slice * S::RT * 16, head, thread);
    k.find(p, p.k, at, 0, head, thread);
    v.find(p, p.v, at, 0, head, thread);
    const int to[2] = { (int)((at.row(p, row) - at.base) * p.out.ld) + (int)head * S::D,
                        (int)((at.row(p, row + 8) - at.base) * p.out.ld) + (int)head * S::D };
    auto base_row = [&](int image) { /* of the image's first token, or of the window's */
                                     return p.image_order ? (int64_t)image * p.g.height * p.g.width
                                                          : ((int64_t)image * per_image + position) * S::N;
    };
    auto fetch = [&](int image, int turn) {
        const unsigned smem = tiles + turn * S::image;
        const int64_t first_row = base_row(image);
        if (image < last) {
            q.load(smem, (const int8_t *)p.q.data + first_row * p.q.ld, thread);
            k.load(smem + S::q, (const int8_t *)p.k.data + first_row * p.k.ld, thread);
            v.load(smem + S::q + S::k, (const int8_t *)p.v.data + first_row * p.v.ld, thread);
        }
        copy_commit();
    };
    load_bias<S>((float4 *)base, p.a.bias ? p.a.bias + (int64_t)head * S::N * S::N : NULL,
                 p.a.mask ? p.a.mask + (int64_t)position * S::N * S::N : NULL, slice * S::RT * 16);
    chain_wait();
    fetch(first + group, 0);
    for (int image = first + group, turn = 0; image - group < last; image += S::G, turn ^= S::BUF - 1) {
        if (S::BUF == 2) fetch(image + S::G, turn ^ 1);
        copy_wait<S::BUF - 1>();
        __syncthreads();
        if (image < last) {
            const unsigned smem = tiles + turn * S::image;
            rows_of rows = { .k = smem + S::q,
                             .v = smem + S::q + S::k,
                             .bias = (const float4 *)base + tile * S::n8 * 32 + lane,
                             .alpha = alpha };
            ldmatrix4(rows.q, smem + s8_half_at(16 * tile + (lane & 15), lane >> 4));
            int o[2][2][4] = {}, sum[4] = {};
            if constexpr (S::once)
                attend_once<S>(o, sum, rows, p, U8);
            else
                attend_twice<S>(o, sum, rows, p, U8);
            store_rows<S>(o, sum, p, rule, v_scale, base_row(image) * p.out.ld, to, U8);
        }
        __syncthreads(); /* these tiles are filled next */
        if (S::BUF == 1 && image + S::G - group < last) fetch(image + S::G, 0);
    }
}

/* Images of a block. A multiprocessor's time is that of its blocks, of which two beside each other take less
 * than two alone; filling the bias is worth three images. */
template <class S> int64_t share_of(int64_t images, int64_t one, int64_t multiprocessors)
{
    int64_t best = images;
    double least = 0;
    for (int64_t runs = 1; runs <= images && runs <= 256; runs++) {
        const int64_t each = ((images + runs - 1) / runs + S::G - 1) / S::G * S::G;
        const int64_t turns = ((images + each - 1) / each * one + multiprocessors - 1) / multiprocessors;
        const double cost = (double)(turns * (each + 3)) *
                            (1 + 1.0 / (double)(turns < S::fit ? turns : S::fit));
        if (runs == 1 || cost < least) least = cost, best = each;
    }
    return best;
}

template <class S, bool U8>
cudaError_t start(cudaStream_t stream, const swin_attention_s8_args *p, int multiprocessors)
{
    static bool ready;
    const int64_t images = p->g.images, one = swin_windows_per_image(&p->g) * p->a.heads * S::slices;
    if (images * one == 0) return cudaSuccess;
    if (!ready) {
        const cudaError_t e = cudaFuncSetAttribute(attention_s8_tiles<S, U8>,
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize, S::shared);
        if (e != cudaSuccess) {
            cudaGetLastError(); /* the next launch must not find it */
            return cudaErrorNotSupported;
        }
        ready = true;
    }
    const int64_t each = share_of<S>(images, one, multiprocessors), blocks = (images + each - 1) / each * one;
    if (blocks > 0x7fffffff) return cudaErrorNotSupported;
    swin_s8_rule rule = {};
    if (p->out.dtype == SWIN_S8) rule = swin_s8_rule_of(&p->out);
    return chain_launch(attention_s8_tiles<S, U8>, (unsigned)blocks, S::threads, S::shared, stream, *p, rule,
                        (int)each);
}

template <class S>
cudaError_t launch(cudaStream_t stream, const swin_attention_s8_args *p, int multiprocessors)
{
    return p->a.softmax == SWIN_SOFTMAX_U8 ? start<S, true>(stream, p, multiprocessors)
                                           : start<S, false>(stream, p, multiprocessors);
}

/* Rows come in whole pieces, and offsets within an image fit 32 bits. */
bool whole(const swin_tensor *t, const swin_windows &g, int64_t piece)
{
    if ((int64_t)g.height * g.width * t->ld > 0x7fffffff) return false;
    const int64_t unit = t->dtype == SWIN_S8 ? 1 : t->dtype == SWIN_F32 ? 4 : 2;
    return t->ld * unit % piece == 0 && (uintptr_t)t->data % (uintptr_t)piece == 0;
}

cudaError_t pick(cudaStream_t stream, const swin_attention_s8_args *p, int sms)
{
    if (p->a.head_size == 24)
        return p->g.window == 8 ? launch<shape<8, 24, 4, 1, 2, 5>>(stream, p, sms) : cudaErrorNotSupported;
    switch (p->g.window) {
    case 16:
        return launch<shape<16, 32, 4, 2, 1, 2>>(stream, p, sms);
    case 24:
        return launch<shape<24, 32, 4, 2, 1, 1>>(stream, p, sms);
    default:
        return cudaErrorNotSupported;
    }
}

} // namespace

extern "C" cudaError_t swin_attention_s8_tiles_launch(cudaStream_t stream, const swin_attention_s8_args *p,
                                                      int multiprocessors)
{
    const int d = p->a.head_size, piece = d == 32 ? 16 : 8;
    if ((d != 32 && d != 24) || !whole(&p->q, p->g, piece) || !whole(&p->k, p->g, piece) ||
        !whole(&p->v, p->g, piece) || !whole(&p->out, p->g, p->out.dtype == SWIN_S8 ? 4 : 16) ||
        (uintptr_t)p->a.bias % 8 || (uintptr_t)p->a.mask % 8)
        return cudaErrorNotSupported;
    return pick(stream, p, multiprocessors);
}
