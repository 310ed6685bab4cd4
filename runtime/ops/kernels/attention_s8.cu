/* Window attention on codes, on tensor cores: head size 32, windows of 49, 64 or 144 tokens.
 *
 * A block takes one head of one window position in a run of images, and copies the next image's q, k, v
 * while it works on this one's; position bias and mask, which all of them share, stay in registers all the
 * while. A warp takes 16 query rows: scores, softmax and the weighted sum never leave its registers. The
 * sums of the second product run over tokens in the order in which the first one leaves them in a thread,
 * so codes are packed where they lie; v is brought to that order by transposed loads of pairs, which leave
 * every thread four neighbouring columns of the result. */
#include "runtime/ops/kernels/int8.cuh"

namespace
{

constexpr int D = 32;

template <int N> struct shape {
    static constexpr int n8 = (N + 7) / 8, n16 = (N + 15) / 16, n32 = (N + 31) / 32, rows = 32 * n32;
    static constexpr int warps = N <= 64 ? n16 : 3, threads = 32 * warps;
    static constexpr int tile = rows * D;     /* bytes of one of q, k, v */
    static constexpr bool resident = N <= 64; /* the bias of a warp's one row tile stays in registers */
};

/* Where the 16-byte half `chunk` of a token lies: eight tokens of one half never meet in a bank. */
__device__ __forceinline__ unsigned half_at(int row, int chunk)
{
    return (unsigned)(row * D + ((chunk ^ (row >> 2)) & 1) * 16);
}

/* The row of a window's token in q, k, v and out. */
template <int W> struct place {
    int64_t base; /* row of its image's first token, or of its own in window order */
    int y, x;     /* corner on the map, shift included */

    __device__ __forceinline__ place(const swin_attention_s8_args &p, int64_t win)
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

/* q, k, v of one head of a window. Two threads a row. */
template <int W>
__device__ __forceinline__ void load_window(unsigned smem, const swin_attention_s8_args &p, int64_t win,
                                            int head)
{
    constexpr int N = W * W, STEP = shape<N>::threads / 2;
    const int chunk = threadIdx.x % 2;
    const place<W> at(p, win);
#pragma unroll
    for (int first = 0; first < N; first += STEP) {
        const int token = first + threadIdx.x / 2;
        if (token >= N) continue;
        const int64_t row = at.row(p, token), col = head * D + chunk * 16;
        const unsigned to = smem + half_at(token, chunk);
        copy16(to, (const int8_t *)p.q.data + row * p.q.ld + col, true);
        copy16(to + shape<N>::tile, (const int8_t *)p.k.data + row * p.k.ld + col, true);
        copy16(to + 2 * shape<N>::tile, (const int8_t *)p.v.data + row * p.v.ld + col, true);
    }
}

/* Scores are kept in units of log 2, so that exp is one instruction. */
constexpr float LOG2E = 1.4426950408889634f;

/* Position bias and mask of one score; columns past the window weigh nothing, rows past it are anything
 * finite. */
template <int N>
__device__ __forceinline__ float bias_at(const float *bias, const float *mask, int row, int col)
{
    if (col >= N) return -INFINITY;
    if (row >= N) return 0.f;
    const int at = row * N + col;
    return ((bias ? __ldg(bias + at) : 0.f) + (mask ? __ldg(mask + at) : 0.f)) * LOG2E;
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

/* In place: scores of one of a thread's two rows to codes (low bytes). Returns what a sum of A.V is
 * multiplied by. */
template <int N>
__device__ __forceinline__ float make_codes(float (&s)[shape<N>::n8][4], int half,
                                            const swin_attention_s8_args &p)
{
    constexpr int n8 = shape<N>::n8;
    float top = -INFINITY, sum = 0;
#pragma unroll
    for (int j = 0; j < n8; j++) top = fmaxf(top, fmaxf(s[j][2 * half], s[j][2 * half + 1]));
    top = over_group(top, true);
    if (p.a.softmax == SWIN_SOFTMAX_U8) {
#pragma unroll
        for (int j = 0; j < n8; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float &x = s[j][2 * half + e];
                x = fmaf(exp2_fast(x - top), 255.f, S8_MAGIC);
                sum += x - S8_MAGIC;
            }
        return p.v.scale / over_group(sum, false);
    }
#pragma unroll
    for (int j = 0; j < n8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float &x = s[j][2 * half + e];
            x = exp2_fast(x - top);
            sum += x;
        }
    const float inverse = 1.f / (over_group(sum, false) * p.prob_scale);
#pragma unroll
    for (int j = 0; j < n8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float &x = s[j][2 * half + e];
            x = fminf(fmaf(x, inverse, S8_MAGIC), S8_MAGIC + 127.f);
        }
    return p.v.scale * p.prob_scale;
}

/* Codes of 16 rows times v: o[c][e] holds columns 16 c + 4 t + e + {0, 2}. */
template <int N>
__device__ __forceinline__ void weigh(int (&o)[2][2][4], const float (&s)[shape<N>::n8][4], unsigned v)
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
    }
}

/* Four neighbours of a row of the result. */
__device__ __forceinline__ void store4(const swin_tensor &out, const swin_s8_rule &rule, int64_t at,
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

template <int W>
__global__ void __launch_bounds__(shape<W * W>::threads)
    attention_s8_kernel(const __grid_constant__ swin_attention_s8_args p, const swin_s8_rule rule, int each)
{
    constexpr int N = W * W;
    using S = shape<N>;
    __shared__ __align__(128) char smem_base[2 * 3 * S::tile];
    const unsigned smem = shared_address(smem_base);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = blockIdx.x % p.a.heads;
    const unsigned per_image = (unsigned)swin_windows_count(p.g), run = blockIdx.x / p.a.heads;
    const int position = (int)(run % per_image), first = (int)(run / per_image) * each;
    const int last = min(first + each, p.g.images);
    const float *head_bias = p.a.bias ? p.a.bias + (int64_t)head * N * N : NULL;
    const float *mask = p.a.mask ? p.a.mask + (int64_t)position * N * N : NULL;
    const float alpha = p.a.scale * (p.q.scale * p.k.scale) * LOG2E;
    auto window = [&](int image) { return (int64_t)image * per_image + position; };

    float bias[S::resident ? S::n8 : 1][4];
    if constexpr (S::resident)
#pragma unroll
        for (int j = 0; j < S::n8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                bias[j][e] = bias_at<N>(head_bias, mask, 16 * warp + lane / 4 + e / 2 * 8,
                                        8 * j + lane % 4 * 2 + e % 2);
    chain_wait();
    load_window<W>(smem, p, window(first), head);
    copy_commit();
    for (int image = first; image < last; image++) {
        const int turn = (image - first) & 1;
        const unsigned q = smem + turn * 3 * S::tile;
        if (image + 1 < last) load_window<W>(smem + (turn ^ 1) * 3 * S::tile, p, window(image + 1), head);
        copy_commit();
        copy_wait<1>();
        __syncthreads();
        const place<W> at(p, window(image));
        for (int tile = warp; tile < S::n16; tile += S::warps) {
            const int row = 16 * tile + lane / 4;
            int sums[S::n8][4];
            float s[S::n8][4];
            make_sums<N>(sums, q, q + S::tile, tile);
#pragma unroll
            for (int j = 0; j < S::n8; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const int r = row + e / 2 * 8, col = 8 * j + lane % 4 * 2 + e % 2;
                    float b;
                    if constexpr (S::resident)
                        b = bias[j][e];
                    else
                        b = bias_at<N>(head_bias, mask, r, col);
                    s[j][e] = fmaf(__int_as_float(sums[j][e]) - S8_MAGIC, alpha, b);
                }
            const float factor[2] = { make_codes<N>(s, 0, p), make_codes<N>(s, 1, p) };
            int o[2][2][4] = {};
            weigh<N>(o, s, q + 2 * S::tile);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                if (row + 8 * half >= N) continue;
                const int64_t to = at.row(p, row + 8 * half) * p.out.ld + head * D + lane % 4 * 4;
#pragma unroll
                for (int c = 0; c < 2; c++) {
                    const float f = factor[half],
                                v[4] = { (float)o[c][0][2 * half] * f, (float)o[c][1][2 * half] * f,
                                         (float)o[c][0][2 * half + 1] * f, (float)o[c][1][2 * half + 1] * f };
                    store4(p.out, rule, to + 16 * c, v);
                }
            }
        }
        __syncthreads(); /* this window's tiles are filled next */
    }
}

template <int W> cudaError_t launch(cudaStream_t stream, const swin_attention_s8_args *p, int multiprocessors)
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
    swin_s8_rule rule = {};
    if (p->out.dtype == SWIN_S8) rule = swin_s8_rule_of(&p->out);
    return chain_launch(attention_s8_kernel<W>, (unsigned)blocks, shape<W * W>::threads, 0, stream, *p, rule,
                        (int)each);
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
        !whole(&p->out, p->out.dtype == SWIN_S8 ? 4 : 16))
        return cudaErrorNotSupported;
    switch (p->g.window) {
    case 7:
        return launch<7>(stream, p, multiprocessors);
    case 8:
        return launch<8>(stream, p, multiprocessors);
    case 12:
        return launch<12>(stream, p, multiprocessors);
    default:
        return cudaErrorNotSupported;
    }
}
