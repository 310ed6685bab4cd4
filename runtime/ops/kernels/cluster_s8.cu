/* A whole block of Swin V1 in one kernel, for few windows, on Hopper: x += proj(attention(qkv(LN x))), then
 * x += fc2(GELU(fc1(LN x))).
 *
 * Nothing of a block crosses windows, so a cluster of blocks takes one window through all of it, each block some of
 * its heads and the same share of proj's, fc1's and fc2's columns. What all of them need (attention's codes, x
 * between the halves, the hidden layer's codes) passes through memory between three barriers; LayerNorm of all rows
 * is made by every block. Weights are on their way before the kernel before has ended.
 *
 * Where a kernel for each operator takes 4.4 us whatever it does (launch, first reads, last writes: Swin-T at one
 * image, 84 of them), a barrier takes 0.8 us (H100). Which of the ways ran does not show: sums are integers, and
 * what is not is done by the same functions in the same order. */
#include "runtime/ops/kernels/cluster_s8.cuh"

#pragma nv_diag_suppress 177 /* code for other chips uses nothing of this */

namespace
{

/* ---- before the kernel before has ended
 * ---------------------------------------------------------------------- */

template <class S>
__device__ __forceinline__ void load_factors(const cluster_memory<S> &m, const swin_cluster_s8 &p, int rank)
{
    constexpr int H = S::HEADS;
    const s8_span hidden = s8_span_of(p.fc1.y[0].rule);
    const float *shrink = p.fc1.y[0].shrink;
    for (int i = threadIdx.x; i < 288 * H; i += CONSUMERS) {
        float2 line;
        if (i < m.PROJ) {
            line = s8_line<S8_CODES>(p.qkv, i / (32 * H) * S::C + rank * 32 * H + i % (32 * H));
        } else if (i < m.FC1) {
            const int n = rank * 32 * H + i - m.PROJ;
            line = p.proj.residual ? s8_line<S8_RESIDUAL>(p.proj, n) : s8_line<S8_CODES>(p.proj, n);
        } else if (i < m.FC2) {
            const int n = rank * 128 * H + i - m.FC1;
            line = s8_line<S8_GELU_CODES>(p.fc1, n);
            m.gelu[i - m.FC1] = shrink ? shrink[n] * hidden.factor : hidden.factor;
        } else {
            line = s8_line<S8_RESIDUAL>(p.fc2, rank * 32 * H + i - m.FC2);
        }
        m.alpha[i] = line.x, m.bias[i] = line.y;
    }
}

/* Bias and mask of the scores that this thread is to see. */
template <class S>
__device__ __forceinline__ void load_table(const cluster_memory<S> &m, const swin_attention_s8_args &p,
                                           int rank, int window)
{
    constexpr int N = 49, n8 = window_shape<N>::n8;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, tile = warp % 4;
    if (warp >= 4 * S::HEADS) return;
    const int64_t head = rank * S::HEADS + warp / 4, position = window % swin_windows_count(p.g);
    float4 bias[n8];
    bias_of_tiles<N>(bias, p.a.bias ? p.a.bias + head * N * N : NULL,
                     p.a.mask ? p.a.mask + position * N * N : NULL, 16 * tile + lane / 4, 0);
#pragma unroll
    for (int j = 0; j < n8; j++) m.table[(warp * n8 + j) * 32 + lane] = bias[j];
}

template <int C> __device__ __forceinline__ void load_norms(float *to, const swin_norm &a, const swin_norm &b)
{
    const float *const from[4] = { a.gamma, a.beta, b.gamma, b.beta };
#pragma unroll
    for (int which = 0; which < 4; which++)
        for (int i = threadIdx.x; i < C; i += CONSUMERS) to[which * C + i] = from[which][i];
}

/* ---- halves
 * -------------------------------------------------------------------------------------------------- */

/* LayerNorm's codes of the window's rows to shared memory. LOCAL: the second norm, which sees more than x holds. */
template <class S, bool LOCAL>
__device__ __forceinline__ void normalise(const cluster_memory<S> &m, const swin_cluster_s8 &p)
{
    constexpr int USED = ROWS * fused_group<S::C> < CONSUMERS ? ROWS * fused_group<S::C> : CONSUMERS;
    const swin_s8_part &y = p.fc2.y[0];
    const float *vectors = m.norms + (LOCAL ? 2 * S::C : 0);
    const swin_norm n = { vectors, vectors + S::C, LOCAL ? p.norm2.eps : p.norm1.eps };
    if (threadIdx.x < USED)
        fused_norm_rows<S::C, ROWS, USED, LOCAL, true>(
            m.a_at, (const __half *)y.data, y.ld, [&](int i) { return (int64_t)m.rows[i]; }, n,
            LOCAL ? p.input2 : p.input1, p.beside);
    fence_async_proxy();
    threads_sync(1, CONSUMERS);
}

/* Sums of 32 columns to codes, four in a word: word[r][h] are columns 8 t + 4 h and up of the thread's r-th row. GELU
 * has factors for each column, where the product is not rounded before its bias. */
template <int LAST>
__device__ __forceinline__ void words_of(unsigned (&word)[2][2], const int (&sum)[4][4], const float *alpha,
                                         const float *bias, const float *gelu, float after, const s8_span &to)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int col = threadIdx.x % 4 * 8 + 4 * h;
        float a[4], b[4], f[4] = { to.factor, to.factor, to.factor, to.factor };
        *reinterpret_cast<float4 *>(a) = *reinterpret_cast<const float4 *>(alpha + col);
        *reinterpret_cast<float4 *>(b) = *reinterpret_cast<const float4 *>(bias + col);
        if (LAST == S8_GELU_CODES)
            *reinterpret_cast<float4 *>(f) = *reinterpret_cast<const float4 *>(gelu + col);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int(&j)[4] = sum[2 * h], (&i)[4] = sum[2 * h + 1];
            const int four[4] = { j[2 * r], j[2 * r + 1], i[2 * r], i[2 * r + 1] };
            word[r][h] = s8_join(after == 0.f ? s8_four<LAST, false>(four, a, b, f, after, to)
                                              : s8_four<LAST, true>(four, a, b, f, after, to));
        }
    }
}

/* q, k and v of this block's heads, in shared memory as attention reads them. */
template <class S> __device__ __forceinline__ void make_qkv(const cluster_memory<S> &m, const swin_gemm_s8 &p)
{
    constexpr int H = S::HEADS, PART = window_shape<49>::tile;
    const int group = group_of_warp(), row = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4,
              t = threadIdx.x % 4;
#pragma unroll 1
    for (int round = 0; round < (3 * H + WG - 1) / WG; round++) {
        const int job = WG * round + group, part = job / H, head = job % H, left = 3 * H - WG * round;
        int sum[4][4];
        multiply_rows<S>(sum, m, S::QKV + round * WG * S::K + group, left < WG ? left : WG, job < 3 * H);
        if (job >= 3 * H) continue;
        unsigned word[2][2];
        words_of<S8_CODES>(word, sum, m.alpha + 32 * job, m.bias + 32 * job, NULL, p.after,
                           s8_span_of(part == 0   ? p.y[0].rule
                                      : part == 1 ? p.y[1].rule
                                                  : p.y[2].rule));
        char *to = m.a_at + S::A + (head * 3 + part) * PART;
#pragma unroll
        for (int r = 0; r < 2; r++)
            *(uint2 *)(to + s8_half_at(row + 8 * r, t / 2) + t % 2 * 8) = make_uint2(word[r][0], word[r][1]);
    }
    threads_sync(1, CONSUMERS);
}

/* Attention's codes as proj's left operand. */
template <class S, bool U8>
__device__ __forceinline__ void make_mixed(const cluster_memory<S> &m, const swin_cluster_s8 &p, int rank,
                                           char *mixed)
{
    constexpr int N = 49, n8 = window_shape<N>::n8;
    const swin_attention_s8_args &at = p.attention;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, tile = warp % 4, head = warp / 4;
    if (head >= S::HEADS) return;
    const float4 *table = m.table + warp * n8 * 32 + lane;
    unsigned word[4];
    attend<N, U8>(
        m.heads + head * 3 * window_shape<N>::tile, tile, [&](int j) { return table[j * 32]; },
        at.a.scale * (at.q.scale * at.k.scale) * S8_LOG2E, at.prob_scale, at.v.scale,
        [&](int half, int c, const float(&v)[4]) { word[half + 2 * c] = s8_codes4(v, p.mixed); });
    *(uint4 *)(mixed + fragment_at(tile, S::C / 32, rank * S::HEADS + head, lane)) =
        make_uint4(word[0], word[1], word[2], word[3]);
}

/* Codes of GELU's output as fc2's left operand: 8 t and up of 32 columns lie in two lanes' shares. */
template <class S>
__device__ __forceinline__ void make_hidden(const cluster_memory<S> &m, const swin_gemm_s8 &p, int rank,
                                            char *hidden)
{
    const int group = group_of_warp(), tile = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, t = lane % 4;
    const s8_span to = s8_span_of(p.y[0].rule);
#pragma unroll 1
    for (int round = 0; round < S::HEADS; round++) {
        const int job = WG * round + group, col = m.FC1 + 32 * job;
        int sum[4][4];
        multiply_rows<S>(sum, m, S::FC1 + round * WG * S::K + group, WG, true);
        unsigned word[2][2];
        words_of<S8_GELU_CODES>(word, sum, m.alpha + col, m.bias + col, m.gelu + 32 * job, p.after, to);
        char *at = hidden + fragment_at(tile, S::C / 8, rank * 4 * S::HEADS + job, lane - t + t % 2 * 2) +
                   t / 2 * 8;
#pragma unroll
        for (int h = 0; h < 2; h++) *(uint2 *)(at + 16 * h) = make_uint2(word[0][h], word[1][h]);
    }
}

/* Rows of x that this thread's two rows of a product are; -1: past the window. */
template <class S> __device__ __forceinline__ void rows_of(int64_t (&to)[2], const cluster_memory<S> &m)
{
    const int row = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
    to[0] = m.rows[row], to[1] = m.rows[row + 8];
}

/* x += proj, or its codes beside x. */
template <class S>
__device__ __forceinline__ void add_proj(const cluster_memory<S> &m, const swin_gemm_s8 &p, const char *mixed,
                                         int rank)
{
    const int group = group_of_warp(), n = group % S::HEADS, share = group / S::HEADS,
              n0 = rank * 32 * S::HEADS;
    int sum[4][4] = {};
    int64_t to[2];
    s8_old<S8_RESIDUAL, 1> old;
    rows_of(to, m);
    if (share == 0 && p.residual) old.load(p, to, n0 + 32 * n + threadIdx.x % 4 * 8);
    multiply_fragments<S, S::C>(sum, m, mixed, S::PROJ, n, share);
    add_shares(sum, m, n, share);
    if (share > 0) return;
    const float *alpha = m.alpha + m.PROJ, *bias = m.bias + m.PROJ;
    if (p.residual)
        s8_finish_rows<S8_RESIDUAL, 4>(p, sum, alpha, bias, to, 32 * n, n0, &old);
    else
        s8_finish_rows<S8_CODES, 4>(p, sum, alpha, bias, to, 32 * n, n0);
}

/* x += fc2, and what waits beside x. */
template <class S>
__device__ __forceinline__ void add_fc2(const cluster_memory<S> &m, const swin_gemm_s8 &p, const char *hidden,
                                        int rank)
{
    const int group = group_of_warp(), n = group % S::HEADS, share = group / S::HEADS,
              n0 = rank * 32 * S::HEADS;
    int sum[4][4] = {}, begin[4][4];
    int64_t to[2];
    s8_old<S8_LOCAL, 1> old;
    s8_old<S8_RESIDUAL, 1> alone;
    rows_of(to, m);
    if (share == 0 && p.local.codes) old.load(p, to, n0 + 32 * n + threadIdx.x % 4 * 8);
    if (share == 0 && !p.local.codes) alone.load(p, to, n0 + 32 * n + threadIdx.x % 4 * 8);
    multiply_fragments<S, 4 * S::C>(sum, m, hidden, S::FC2, n, share);
    add_shares(sum, m, n, share);
    if (share > 0) return;
    s8_begin<4>(begin, p, n0 + 32 * n);
#pragma unroll
    for (int i = 0; i < 16; i++) sum[i / 4][i % 4] += begin[i / 4][i % 4];
    const float *alpha = m.alpha + m.FC2, *bias = m.bias + m.FC2;
    if (p.local.codes)
        s8_finish_rows<S8_LOCAL, 4>(p, sum, alpha, bias, to, 32 * n, n0, &old);
    else
        s8_finish_rows<S8_RESIDUAL, 4>(p, sum, alpha, bias, to, 32 * n, n0, &alone);
}

template <class S, bool U8>
__device__ __forceinline__ void consume(const cluster_memory<S> &m, const swin_cluster_s8 &p, int window,
                                        int rank)
{
    char *mixed = p.exchange + (int64_t)window * SWIN_CLUSTER_ROWS * 5 * S::C,
         *hidden = mixed + SWIN_CLUSTER_ROWS * S::C;
    load_factors(m, p, rank);
    load_table(m, p.attention, rank, window);
    load_norms<S::C>(m.norms, p.norm1, p.norm2);
    if (threadIdx.x < ROWS)
        m.rows[threadIdx.x] =
            threadIdx.x < 49 ? (int)window_source(p.attention.g, (int64_t)window * 49 + threadIdx.x) : -1;
    threads_sync(1, CONSUMERS);
    chain_wait();
    normalise<S, false>(m, p);
    make_qkv(m, p.qkv);
    make_mixed<S, U8>(m, p, rank, mixed);
    cluster_sync();
    add_proj(m, p.proj, mixed, rank);
    cluster_sync();
    normalise<S, true>(m, p);
    make_hidden(m, p.fc1, rank, hidden);
    cluster_sync();
    add_fc2(m, p.fc2, hidden, rank);
}

template <class S, bool U8>
__global__ void __launch_bounds__(THREADS, 1)
    cluster_s8_kernel(const __grid_constant__ swin_cluster_s8 p, const __grid_constant__ cluster_maps w)
{
#if SWIN_HAVE_WGMMA
    extern __shared__ __align__(1024) char smem_base[];
    __shared__ __align__(8) uint64_t barriers[2 * S::SLOTS];
    __shared__ int rows[ROWS];
    const cluster_memory<S> m(smem_base, barriers, rows);
    const int window = blockIdx.x / S::BLOCKS, rank = blockIdx.x % S::BLOCKS;
    if (threadIdx.x < S::SLOTS) {
        barrier_init(m.full + 8 * threadIdx.x, 1);
        barrier_init(m.empty + 8 * threadIdx.x, 4); /* the warps of the one warpgroup that reads */
        barrier_init_done();
    }
    __syncthreads();
    if (threadIdx.x >= CONSUMERS)
        feed<S>(m, rank, w);
    else
        consume<S, U8>(m, p, window, rank);
#endif
}

template <class S, bool U8> cudaError_t launch(cudaStream_t stream, const swin_cluster_s8 *p, int windows)
{
    static int at_once = -1; /* clusters */
    const void *kernel = (const void *)cluster_s8_kernel<S, U8>;
    cluster_maps w;
    if (at_once < 0) {
        cudaLaunchAttribute size = {};
        size.id = cudaLaunchAttributeClusterDimension;
        size.val.clusterDim.x = S::BLOCKS, size.val.clusterDim.y = size.val.clusterDim.z = 1;
        cudaLaunchConfig_t config = {};
        config.gridDim = dim3(S::BLOCKS), config.blockDim = dim3(THREADS),
        config.dynamicSmemBytes = S::SHARED;
        config.attrs = &size, config.numAttrs = 1;
        int most = 0;
        if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::SHARED) !=
                cudaSuccess ||
            cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) != cudaSuccess ||
            cudaOccupancyMaxActiveClusters(&most, kernel, &config) != cudaSuccess)
            cudaGetLastError(), most = 0; /* a chip with less */
        at_once = most;
    }
    if (windows > 2 * at_once) return cudaErrorNotSupported;
    if (!swin_codes_map(&w.qkv, p->qkv.dealt, 3 * S::C, S::C, S::C, 32) ||
        !swin_codes_map(&w.proj, p->proj.dealt, S::C, S::C, S::C, 32) ||
        !swin_codes_map(&w.fc1, p->fc1.dealt, 4 * S::C, S::C, S::C, 32) ||
        !swin_codes_map(&w.fc2, p->fc2.dealt, S::C, 4 * S::C, 4 * S::C, 32))
        return cudaErrorNotSupported;
    void *args[] = { (void *)p, &w };
    return chain_launch_pointer(kernel, (unsigned)(windows * S::BLOCKS), THREADS, S::SHARED, stream, args,
                                S::BLOCKS);
}

template <int C, int HEADS> cudaError_t pick(cudaStream_t stream, const swin_cluster_s8 *p, int windows)
{
    using S = cluster_shape<C, HEADS>;
    return p->attention.a.softmax == SWIN_SOFTMAX_U8 ? launch<S, true>(stream, p, windows)
                                                     : launch<S, false>(stream, p, windows);
}

/* Steps for each column, zero points where the network has none. */
bool plain(const swin_gemm_s8 *p)
{
    return !p->afters && !p->zero_share && p->dealt;
}

bool aligned(const swin_cluster_s8 *p, int c)
{
    const swin_s8_part *y = &p->fc2.y[0];
    const void *at[] = { y->data, p->norm1.gamma, p->norm1.beta, p->norm2.gamma, p->norm2.beta, p->exchange };
    for (size_t i = 0; i < sizeof at / sizeof *at; i++)
        if (!at[i] || (uintptr_t)at[i] % 16 != 0) return false;
    return y->dtype == SWIN_F16 && y->ld % 8 == 0 && p->qkv.n == 3 * c && p->qkv.k == c && p->proj.n == c &&
           p->proj.k == c && p->fc1.n == 4 * c && p->fc1.k == c && p->fc2.k == 4 * c;
}

} // namespace

extern "C" cudaError_t swin_cluster_s8_launch(cudaStream_t stream, const swin_cluster_s8 *p)
{
    const swin_windows *g = &p->attention.g;
    const int c = p->fc2.n;
    const int64_t windows = (int64_t)g->images * swin_windows_per_image(g);
    if (!swin_wgmma_available() || g->window != 7 || p->attention.a.head_size != 32 || windows > 1 << 20)
        return cudaErrorNotSupported;
    if (!plain(&p->qkv) || !plain(&p->proj) || !plain(&p->fc1) || p->fc2.afters || !p->fc2.dealt ||
        !aligned(p, c) || (p->fc1.after > 0 && p->fc1.y[0].shrink))
        return cudaErrorNotSupported;
    if (windows == 0) return cudaSuccess;
    switch (c) {
    case 96:
        return pick<96, 3>(stream, p, (int)windows);
    case 128:
        return pick<128, 2>(stream, p, (int)windows);
    case 192:
        return pick<192, 1>(stream, p, (int)windows);
    case 256:
        return pick<256, 1>(stream, p, (int)windows);
    case 384:
        return pick<384, 1>(stream, p, (int)windows);
    case 512:
        return pick<512, 2>(stream, p, (int)windows);
    case 768:
        return pick<768, 2>(stream, p, (int)windows);
    default:
        return cudaErrorNotSupported;
    }
}
