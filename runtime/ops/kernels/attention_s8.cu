/* Window attention on codes, on tensor cores: head size 32, windows of 49, 64 or 144 tokens.
 *
 * A block takes one head of one window position in a run of images, and copies the windows of the images
 * ahead while it works on this one's. All that its images share is made once: where a thread's rows lie from
 * an image's first, and position bias and mask, which stay in registers, or for 144 tokens in shared memory
 * in the order in which the tensor cores leave the scores. A warp takes 16 query rows (attention_s8_mma.cuh). */
#include "runtime/ops/kernels/attention_s8_mma.cuh"

namespace
{

template <int N> struct shape : window_shape<N> {
    using W = window_shape<N>;
    static constexpr int threads = 32 * W::n16;
    static constexpr bool resident = N <= 64; /* position bias and mask stay in registers */
    static constexpr int stages = resident ? 3 : 2,
                         fit = resident ? 5 : 2; /* fit: blocks on a multiprocessor */
    static constexpr int table = resident ? 0 : W::n16 * W::n8 * 32 * 16; /* bytes of bias and mask */
    static constexpr int shared = stages * 3 * W::tile + table;
};

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
        to = s8_half_at(token, chunk);
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
    __shared__ float score_scale, v_scale; /* of the head; registers are short */
    if (threadIdx.x == 0) {
        score_scale = p.a.scale * (s8_scale_in(p.q, head * D) * s8_scale_in(p.k, head * D)) * S8_LOG2E;
        v_scale = s8_scale_in(p.v, head * D);
    }

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

        attend<N, U8>(
            q, tile,
            [&](int j) {
                if constexpr (S::resident)
                    return bias[j];
                else
                    return table[(tile * S::n8 + j) * 32 + lane];
            },
            score_scale, p.prob_scale, v_scale,
            [&](int half, int c, const float(&v)[4]) {
                if (to[half] < 0) return;
                const int64_t at = to[half] + 16 * c;
                if (p.out.dtype == SWIN_S8)
                    *(unsigned *)((int8_t *)p.out.data + at) = s8_codes4(v, rule);
                else
                    store_floats(p.out, at, v[0], v[1], v[2], v[3]);
            });
#pragma unroll
        for (int half = 0; half < 2; half++)
            if (to[half] >= 0) to[half] += step;
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
