/* Window attention on codes, on tensor cores: head size 32, windows of 49, 64 or 144 tokens.
 *
 * A block takes one head of one window position in a run of images, and copies the windows of the images
 * ahead while it works on this one's. All that its images share is made once: where a thread's rows lie from
 * an image's first, and position bias and mask, which stay in registers, or for 144 tokens in shared memory
 * in the order in which the tensor cores leave the scores. A warp takes 16 query rows: scores, softmax and
 * the weighted sum never leave its registers. The sums of the second product run over tokens in the order in
 * which the first one leaves them in a thread, so codes are packed where they lie; v is brought to that
 * order by transposed loads of pairs, which leave every thread four neighbouring columns of the result. A
 * column of ones beside v lets the tensor cores add up a row's codes. */
#include "runtime/ops/kernels/int8.cuh"

namespace
{

constexpr int D = 32;

template <int N> struct shape {
    static constexpr int n8 = (N + 7) / 8, n16 = (N + 15) / 16, n32 = (N + 31) / 32, rows = 32 * n32;
    static constexpr int threads = 32 * n16;
    static constexpr int tile = rows * D;     /* bytes of one of q, k, v */
    static constexpr bool resident = N <= 64; /* position bias and mask stay in registers */
    static constexpr int stages = resident ? 3 : 2,
                         fit = resident ? 5 : 2;                    /* fit: blocks on a multiprocessor */
    static constexpr int table = resident ? 0 : n16 * n8 * 32 * 16; /* bytes of bias and mask */
    static constexpr int shared = stages * 3 * tile + table;
};

/* Where the 16-byte half `chunk` of a token lies: eight tokens of one half never meet in a bank. */
__device__ __forceinline__ unsigned half_at(int row, int chunk)
{
    return (unsigned)(row * D + ((chunk ^ (row >> 2)) & 1) * 16);
}

/* The row of a window's token in q, k, v and out, from the first row of its image. */
template <int W>
__device__ __forceinline__ int row_in_image(const swin_attention_s8_args &p, int position, int token)
{
    if (!p.image_order) return position * W * W + token;
    const int across = p.g.width / W, wy = position / across, wx = position - wy * across;
    int y = wy * W + token / W + p.g.shift, x = wx * W + token % W + p.g.shift;
    if (y >= p.g.height) y -= p.g.height;
    if (x >= p.g.width) x -= p.g.width;
    return y * p.g.width + x;
}

/* A thread's share of the copies: half a token of each of q, k, v. */
template <int N> struct window_copy {
    const int8_t *from[3];
    int64_t step[3]; /* to the next image */
    unsigned to;
    bool ok;

    template <int W>
    __device__ __forceinline__ void begin(const swin_attention_s8_args &p, int position, int first, int head)
    {
        const int token = threadIdx.x / 2, chunk = threadIdx.x % 2;
        const int64_t per_image = (int64_t)p.g.height * p.g.width;
        const swin_tensor *part[3] = { &p.q, &p.k, &p.v };
        ok = token < N;
        const int64_t row = ok ? first * per_image + row_in_image<W>(p, position, token) : 0;
#pragma unroll
        for (int i = 0; i < 3; i++) {
            from[i] = (const int8_t *)part[i]->data + row * part[i]->ld + head * D + chunk * 16;
            step[i] = per_image * part[i]->ld;
        }
        to = half_at(token, chunk);
    }
    /* Queue the next image's. */
    __device__ __forceinline__ void run(unsigned smem)
    {
#pragma unroll
        for (int i = 0; i < 3; i++) {
            if (ok) copy16(smem + to + i * shape<N>::tile, from[i], true);
            from[i] += step[i];
        }
    }
};

/* Scores are kept in units of log 2, so that exp is one instruction. */
constexpr float LOG2E = 1.4426950408889634f;

/* Position bias and mask of a thread's scores in TILES tiles of 8 columns, from tile j on; columns past the
 * window weigh nothing, rows past it are anything finite. All loads are under way together: one after the
 * other they took longer than the windows. */
template <int N, int TILES>
__device__ __forceinline__ void bias_of_tiles(float4 (&to)[TILES], const float *bias, const float *mask,
                                              int row, int j)
{
    const int first = 8 * j + threadIdx.x % 4 * 2;
    float b[TILES][4], m[TILES][4];
    auto at = [&](int i, int e) {
        return min(row + e / 2 * 8, N - 1) * N + min(first + 8 * i + e % 2, N - 1);
    };
#pragma unroll
    for (int i = 0; i < TILES; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) b[i][e] = m[i][e] = 0;
    if (bias) {
#pragma unroll
        for (int i = 0; i < TILES; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) b[i][e] = __ldg(bias + at(i, e));
    }
    if (mask) {
#pragma unroll
        for (int i = 0; i < TILES; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) m[i][e] = __ldg(mask + at(i, e));
    }
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        float v[4];
#pragma unroll
        for (int e = 0; e < 4; e++)
            v[e] = first + 8 * i + e % 2 >= N ? -INFINITY : (b[i][e] + m[i][e]) * LOG2E;
        to[i] = make_float4(v[0], v[1], v[2], v[3]);
    }
}

/* Sums of 16 rows: q k^T, on top of S8_MAGIC's bits. Any sum of 32 products fits under them. */
template <int N>
__device__ __forceinline__ void make_sums(int (&s)[shape<N>::n8][4], unsigned q, unsigned k, int tile)
{
    const int lane = threadIdx.x & 31;
    unsigned a[4];
    ldmatrix4(a, q + half_at(16 * tile + (lane & 15), lane >> 4));
#pragma unroll
    for (int j = 0; j < shape<N>::n8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) s[j][e] = __float_as_int(S8_MAGIC);
#pragma unroll
    for (int j = 0; j < shape<N>::n8; j += 2) {
        unsigned b[4];
        ldmatrix4(b, k + half_at(8 * j + (lane & 7) + (lane >> 4) * 8, (lane >> 3) & 1));
        mma_s8(s[j], a, b[0], b[1]);
        if (j + 1 < shape<N>::n8) mma_s8(s[j + 1], a, b[2], b[3]);
    }
}

__device__ __forceinline__ float over_group(float v, bool largest)
{
    float o = __shfl_xor_sync(0xffffffffu, v, 1);
    v = largest ? fmaxf(v, o) : v + o;
    o = __shfl_xor_sync(0xffffffffu, v, 2);
    return largest ? fmaxf(v, o) : v + o;
}

/* In place: scores of one of a thread's two rows to codes (low bytes). */
template <int N, bool U8>
__device__ __forceinline__ void make_codes(float (&s)[shape<N>::n8][4], int half, float prob_scale)
{
    constexpr int n8 = shape<N>::n8;
    float top = -INFINITY, sum = 0;
#pragma unroll
    for (int j = 0; j < n8; j++) top = fmaxf(top, fmaxf(s[j][2 * half], s[j][2 * half + 1]));
    top = over_group(top, true);
#pragma unroll
    for (int j = 0; j < n8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float &x = s[j][2 * half + e];
            x = exp2_fast(x - top);
            if (U8)
                x = fmaf(x, 255.f, S8_MAGIC);
            else
                sum += x;
        }
    if (U8) return;
    const float inverse = 1.f / (over_group(sum, false) * prob_scale);
#pragma unroll
    for (int j = 0; j < n8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float &x = s[j][2 * half + e];
            x = fminf(fmaf(x, inverse, S8_MAGIC), S8_MAGIC + 127.f);
        }
}

/* Codes of 16 rows times v: o[c][e] holds columns 16 c + 4 t + e + {0, 2}; and with U8 the rows' sums of
 * codes. */
template <int N, bool U8>
__device__ __forceinline__ void weigh(int (&o)[2][2][4], int (&total)[4], const float (&s)[shape<N>::n8][4],
                                      unsigned v)
{
    constexpr int n8 = shape<N>::n8;
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int kk = 0; kk < shape<N>::n32; kk++) {
        unsigned a[4];
#pragma unroll
        for (int i = 0; i < 4; i++) { /* rows i % 2, tiles 4 kk + 2 (i / 2) and the next */
            const int j = 4 * kk + i / 2 * 2, e = i % 2 * 2;
            const int j0 = j < n8 ? j : n8 - 1, j1 = j + 1 < n8 ? j + 1 : n8 - 1;
            a[i] = s8_pack(s[j0][e], s[j0][e + 1], s[j1][e], s[j1][e + 1]);
            if (j >= n8)
                a[i] = 0;
            else if (j + 1 >= n8)
                a[i] &= 0xffff;
        }
#pragma unroll
        for (int c = 0; c < 2; c++) {
            unsigned r[4];
            ldmatrix4_trans(r, v + half_at(32 * kk + lane, c));
            mma_u8s8(o[c][0], a, __byte_perm(r[0], r[1], 0x6420), __byte_perm(r[2], r[3], 0x6420));
            mma_u8s8(o[c][1], a, __byte_perm(r[0], r[1], 0x7531), __byte_perm(r[2], r[3], 0x7531));
        }
        if (U8) mma_u8s8(total, a, 0x01010101, 0x01010101);
    }
}

/* Four neighbours of a row of a float result. */
__device__ __noinline__ void store_floats(const swin_tensor &out, int64_t at, float a, float b, float c,
                                          float d)
{
    if (out.dtype == SWIN_F16)
        *(uint2 *)((__half *)out.data + at) = make_uint2(pack2<__half>(a, b), pack2<__half>(c, d));
    else if (out.dtype == SWIN_BF16)
        *(uint2 *)((__nv_bfloat16 *)out.data + at) =
            make_uint2(pack2<__nv_bfloat16>(a, b), pack2<__nv_bfloat16>(c, d));
    else
        *(float4 *)((float *)out.data + at) = make_float4(a, b, c, d);
}

template <int W, bool U8>
__global__ void __launch_bounds__(shape<W * W>::threads, shape<W * W>::fit)
    attention_s8_kernel(const __grid_constant__ swin_attention_s8_args p, const swin_s8_rule rule, int each)
{
    constexpr int N = W * W;
    using S = shape<N>;
    constexpr bool SMALL = N * 255 * 127 <
                           1 << 22; /* sums of the second product fit under S8_MAGIC's bits too */
    extern __shared__ __align__(128) char smem_base[];
    const unsigned smem = shared_address(smem_base);
    float4 *table = (float4 *)(smem_base + S::stages * 3 * S::tile);
    const int lane = threadIdx.x % 32, tile = threadIdx.x / 32, head = blockIdx.x % p.a.heads;
    const int row = 16 * tile + lane / 4;
    const unsigned per_image = (unsigned)swin_windows_count(p.g), run = blockIdx.x / p.a.heads;
    const int position = (int)(run % per_image), first = (int)(run / per_image) * each;
    const int count = min(each, p.g.images - first);
    const float *head_bias = p.a.bias ? p.a.bias + (int64_t)head * N * N : NULL;
    const float *mask = p.a.mask ? p.a.mask + (int64_t)position * N * N : NULL;
    const float alpha = p.a.scale * (p.q.scale * p.k.scale) * LOG2E;
    const bool lower = 16 * tile + 8 < N; /* some of the warp's rows 8 to 15 exist */

    window_copy<N> copy;
    copy.template begin<W>(p, position, first, head);
    int64_t to[2], step = (int64_t)p.g.height * p.g.width * p.out.ld;
#pragma unroll
    for (int half = 0; half < 2; half++)
        to[half] = row + 8 * half < N ? ((int64_t)first * p.g.height * p.g.width +
                                         row_in_image<W>(p, position, row + 8 * half)) *
                                                p.out.ld +
                                            head * D + lane % 4 * 4
                                      : -1;
    constexpr int TOGETHER = S::resident ? S::n8 : 3;
    float4 bias[TOGETHER];
    for (int j = 0; j < S::n8; j += TOGETHER) {
        bias_of_tiles<N>(bias, head_bias, mask, row, j);
#pragma unroll
        for (int i = 0; i < TOGETHER && !S::resident; i++)
            table[(tile * S::n8 + j + i) * 32 + lane] = bias[i];
    }
    chain_wait();
#pragma unroll
    for (int s = 0; s < S::stages - 1; s++) {
        if (s < count) copy.run(smem + s * 3 * S::tile);
        copy_commit();
    }
    int slot = 0, next = S::stages - 1;
    for (int image = 0; image < count; image++) {
        copy_wait<S::stages - 2>();
        /* This window is there for all, and all are done with the last, whose place is filled. */
        __syncthreads();
        if (image + S::stages - 1 < count) copy.run(smem + next * 3 * S::tile);
        copy_commit();
        const unsigned q = smem + slot * 3 * S::tile;
        if (++slot == S::stages) slot = 0;
        if (++next == S::stages) next = 0;

        int sums[S::n8][4];
        float s[S::n8][4];
        make_sums<N>(sums, q, q + S::tile, tile);
#pragma unroll
        for (int j = 0; j < S::n8; j++) {
            float4 b;
            if constexpr (S::resident)
                b = bias[j];
            else
                b = table[(tile * S::n8 + j) * 32 + lane];
            s[j][0] = fmaf(__int_as_float(sums[j][0]) - S8_MAGIC, alpha, b.x);
            s[j][1] = fmaf(__int_as_float(sums[j][1]) - S8_MAGIC, alpha, b.y);
            s[j][2] = fmaf(__int_as_float(sums[j][2]) - S8_MAGIC, alpha, b.z);
            s[j][3] = fmaf(__int_as_float(sums[j][3]) - S8_MAGIC, alpha, b.w);
        }
        make_codes<N, U8>(s, 0, p.prob_scale);
        if (lower) make_codes<N, U8>(s, 1, p.prob_scale);
        int o[2][2][4], total[4] = { 0, 0, 0, 0 };
#pragma unroll
        for (int i = 0; i < 16; i++) o[i / 8][i / 4 % 2][i % 4] = SMALL ? __float_as_int(S8_MAGIC) : 0;
        weigh<N, U8>(o, total, s, q + 2 * S::tile);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            if (to[half] < 0) continue;
            const float f = U8 ? p.v.scale / (float)total[2 * half] : p.v.scale * p.prob_scale;
#pragma unroll
            for (int c = 0; c < 2; c++) {
                float v[4];
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    const int sum = o[c][k % 2][2 * half + k / 2];
                    v[k] = (SMALL ? __int_as_float(sum) - S8_MAGIC : (float)sum) * f;
                }
                const int64_t at = to[half] + 16 * c;
                if (p.out.dtype == SWIN_S8)
                    *(unsigned *)((int8_t *)p.out.data + at) = s8_codes4(v, rule);
                else
                    store_floats(p.out, at, v[0], v[1], v[2], v[3]);
            }
            to[half] += step;
        }
    }
}

/* Images for a block: blocks go over the chip in rounds, each as long as its images and a start. */
int images_each(int64_t images, int64_t groups, int64_t slots)
{
    int best = 1;
    double least = 0;
    for (int each = 1; each <= images && each <= 64; each++) {
        const int64_t blocks = (images + each - 1) / each * groups, rounds = (blocks + slots - 1) / slots;
        const double cost = (double)rounds * (each + 1.5);
        if (each == 1 || cost < least) best = each, least = cost;
    }
    return best;
}

template <int W, bool U8>
cudaError_t launch(cudaStream_t stream, const swin_attention_s8_args *p, int multiprocessors)
{
    using S = shape<W * W>;
    static bool ready;
    const int64_t groups = (int64_t)swin_windows_per_image(&p->g) * p->a.heads, images = p->g.images;
    if (images * groups == 0) return cudaSuccess;
    if (!ready && S::shared > 48 << 10) {
        const cudaError_t e = cudaFuncSetAttribute(attention_s8_kernel<W, U8>,
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize, S::shared);
        if (e != cudaSuccess) return cudaGetLastError(), cudaErrorNotSupported; /* a chip with less */
    }
    ready = true;
    const int each = images_each(images, groups, (int64_t)multiprocessors * S::fit);
    const int64_t blocks = (images + each - 1) / each * groups;
    if (blocks > 0x7fffffff) return cudaErrorNotSupported;
    swin_s8_rule rule = {};
    if (p->out.dtype == SWIN_S8) rule = swin_s8_rule_of(&p->out);
    return chain_launch(attention_s8_kernel<W, U8>, (unsigned)blocks, S::threads, S::shared, stream, *p, rule,
                        each);
}

template <int W> cudaError_t pick(cudaStream_t stream, const swin_attention_s8_args *p, int multiprocessors)
{
    return p->a.softmax == SWIN_SOFTMAX_U8 ? launch<W, true>(stream, p, multiprocessors)
                                           : launch<W, false>(stream, p, multiprocessors);
}

bool whole(const swin_tensor *t, int64_t piece)
{
    return t->ld *
                   (int64_t)(t->dtype == SWIN_S8    ? 1
                             : t->dtype == SWIN_F32 ? 4
                                                    : 2) %
                   piece ==
               0 &&
           (uintptr_t)t->data % (uintptr_t)piece == 0;
}

} // namespace

extern "C" cudaError_t swin_attention_s8_mma_launch(cudaStream_t stream, const swin_attention_s8_args *p,
                                                    int multiprocessors)
{
    if (p->a.head_size != D || !whole(&p->q, 16) || !whole(&p->k, 16) || !whole(&p->v, 16) ||
        !whole(&p->out, p->out.dtype == SWIN_S8 ? 4 : 16) || (int64_t)p->g.height * p->g.width > 0x7fffffff)
        return cudaErrorNotSupported;
    switch (p->g.window) {
    case 7:
        return pick<7>(stream, p, multiprocessors);
    case 8:
        return pick<8>(stream, p, multiprocessors);
    case 12:
        return pick<12>(stream, p, multiprocessors);
    default:
        return cudaErrorNotSupported;
    }
}
