/* A whole block of Swin V1 in one kernel, for few windows, on Hopper: x += proj(attention(qkv(LN x))), then
 * x += fc2(GELU(fc1(LN x))).
 *
 * Nothing of a block crosses windows, so a cluster of blocks takes one window through all of it, each block some of
 * its heads, the same share of proj's, fc1's and fc2's columns, and LayerNorm of some rows. What is made, all of them
 * need: it goes straight to where they read it, their shared memory, and is counted there. x stays in the registers of
 * the thread that has its columns of proj and fc2. Weights are on their way before the kernel before has ended.
 *
 * Where a kernel for each operator takes 4.4 us whatever it does (launch, first reads, last writes: Swin-T at one
 * image, 84 of them), what is made is there for all after 0.5 us (H100). Which of the ways ran does not show: sums are
 * integers, and what is not is done by the same functions in the same order. */
#include "runtime/ops/kernels/cluster_s8.cuh"

#pragma nv_diag_suppress 177 /* code for other chips uses nothing of this */

namespace
{

/* ---- halves
 * -------------------------------------------------------------------------------------------------- */

/* What a thread of LayerNorm reads of its row: x, and for the second what lies beside it. */
template <class S, bool SECOND> struct norm_row {
    static constexpr int GROUP = fused_group<S::C>, EACH = (S::C / 8 + GROUP - 1) / GROUP;
    vec<__half> v[EACH];

    /* token: of the window; own: of this block's; where that is not `live`, zeros. */
    __device__ __forceinline__ void load(const cluster_memory<S> &m, const swin_cluster_s8 &p, int token,
                                         int own, int lane, bool live)
    {
        const swin_s8_part &y = p.fc2.y[0];
        const char *kept = m.at(m.heads);
        const bool here = SECOND && p.proj.residual;
        const __half *x = here ? (const __half *)kept + own * S::C
                               : (const __half *)y.data + (live ? m.rows[token] : 0) * y.ld;
        const int8_t *codes = (const int8_t *)kept + S::OWN * S::C * 2 + own * S::C;
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int at = s8_vector(lane, i, EACH);
            v[i].from(make_uint4(0, 0, 0, 0));
            if (!live || at >= S::C / 8) continue;
            v[i].from(here ? *(const uint4 *)(x + at * 8) : __ldcg((const uint4 *)(x + at * 8)));
            if (SECOND) s8_add_local(v[i].v, *(const uint2 *)(codes + at * 8), p.beside, at * 8);
        }
    }
};

/* LayerNorm's codes of this block's rows to all blocks, as left operands. The lanes' shares of a row are norm_s8.cu's, so
 * are the bits. The last threads: they have nothing else to do while others add up proj. */
template <class S, bool SECOND>
__device__ __forceinline__ void normalise(const cluster_memory<S> &m, const swin_cluster_s8 &p, int rank)
{
    using R = norm_row<S, SECOND>;
    const int thread = (CONSUMERS / 32 - 1 - threadIdx.x / 32) * 32 + threadIdx.x % 32,
              lane = thread % R::GROUP, own = thread / R::GROUP, first = rank * S::OWN, token = first + own,
              rows = min(S::OWN, TOKENS - first);
    const bool live = own < rows;
    const float *vectors = m.norms + (SECOND ? 2 * S::C : 0);
    const swin_norm n = { vectors, vectors + S::C, SECOND ? p.norm2.eps : p.norm1.eps };
    const swin_s8_rule &rule = SECOND ? p.input2 : p.input1;
    const int sent = SECOND ? SENT_SECOND : SENT_FIRST;
    if (thread >= S::LANES) return;
    R r;
    r.load(m, p, token, own, lane, live);
    s8_normalise_row<R::EACH, true>(r.v, n, S::C, 1.f / S::C, lane, R::GROUP, R::EACH);
#pragma unroll
    for (int i = 0; i < R::EACH; i++) {
        const int at = s8_vector(lane, i, R::EACH);
        if (live && at < S::C / 8)
            *(uint2 *)(m.at(m.normed) + at / 16 * ROWS * 128 + chunk_at<128>(token, at % 16 / 2) +
                       at % 2 * 8) = make_uint2(s8_codes4(r.v[i].v, rule), s8_codes4(r.v[i].v + 4, rule));
    }
    fence_async_proxy();
    threads_sync(SECOND ? SYNC_SECOND : SYNC_FIRST, S::LANES);
    if (thread % 32 == 0) barrier_arrive(m.barrier(sent));
    for (int i = thread; i < S::BLOCKS * S::K && rows > 0; i += S::LANES) {
        const int block = i % S::BLOCKS;
        const unsigned at = m.normed + (i / S::BLOCKS * ROWS + first) * 128;
        if (block != rank)
            cluster_copy(cluster_address(at, block), at, rows * 128, cluster_address(m.barrier(sent), block));
    }
}

/* What this block and the others have sent here. */
template <class S> __device__ __forceinline__ void await(const cluster_memory<S> &m, int sent)
{
    barrier_wait(m.barrier(sent), 0);
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
    constexpr int H = S::HEADS, PART = window_shape<TOKENS>::tile;
    const int group = group_of_warp(), row = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4,
              t = threadIdx.x % 4;
#pragma unroll 1
    for (int round = 0; round < (3 * H + WG - 1) / WG; round++) {
        const int job = min(WG * round + group, 3 * H - 1), part = job / H, head = job % H;
        int sum[4][4];
        multiply_rows<S::C>(sum, m.normed, m.tiles + (S::QKV + job * S::K) * TILE);
        unsigned word[2][2];
        words_of<S8_CODES>(word, sum, m.alpha + 32 * job, m.bias + 32 * job, NULL, p.after,
                           s8_span_of(part == 0   ? p.y[0].rule
                                      : part == 1 ? p.y[1].rule
                                                  : p.y[2].rule));
        char *to = m.at(m.heads) + (head * 3 + part) * PART;
        if (WG * round + group > job) continue; /* no such job */
#pragma unroll
        for (int r = 0; r < 2; r++)
            *(uint2 *)(to + s8_half_at(row + 8 * r, t / 2) + t % 2 * 8) = make_uint2(word[r][0], word[r][1]);
    }
    threads_sync(SYNC_QKV, CONSUMERS);
}

/* Attention's codes as proj's left operand, to all blocks. */
template <class S, bool U8>
__device__ __forceinline__ void make_mixed(const cluster_memory<S> &m, const swin_cluster_s8 &p, int rank)
{
    constexpr int N = TOKENS, n8 = window_shape<N>::n8;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, tile = warp % 4, head = warp / 4;
    if (head >= S::HEADS) return;
    const float4 *table = m.table + warp * n8 * 32 + lane;
    const float2 scale = m.scales[head];
    unsigned word[4];
    attend<N, U8>(
        m.heads + head * 3 * window_shape<N>::tile, tile, [&](int j) { return table[j * 32]; }, scale.x,
        p.attention.prob_scale, scale.y,
        [&](int half, int c, const float(&v)[4]) { word[half + 2 * c] = s8_codes4(v, p.mixed); });
    const unsigned to = m.mixed + fragment_at(tile, rank * S::HEADS + head, 0);
    *(uint4 *)(m.at(to) + lane * 16) = make_uint4(word[0], word[1], word[2], word[3]);
    send_fragment(m, to, SENT_MIXED, rank);
}

/* What a thread has of x and beside it: eight columns of two rows, from before proj to after fc2. */
template <class S> struct kept_rows {
    int64_t to[2];         /* rows of x; -1: past the window */
    int row, n, share, n0; /* the first in the window; which 32 columns of this block's, and which share of k;
                              the block's first column */
    s8_old<S8_LOCAL, 1> old;

    __device__ __forceinline__ kept_rows(const cluster_memory<S> &m, int rank)
    {
        const int group = group_of_warp();
        row = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
        n = group % S::HEADS, share = group / S::HEADS, n0 = rank * 32 * S::HEADS;
        to[0] = m.rows[row], to[1] = m.rows[row + 8];
    }
    __device__ __forceinline__ int col() const /* of the block's */ { return 32 * n + threadIdx.x % 4 * 8; }
    __device__ __forceinline__ void load(const swin_s8_part &y)
    {
#pragma unroll
        for (int r = 0; r < 2; r++)
            if (share == 0 && to[r] >= 0)
                old.stream[0][r] =
                    __ldcg((const uint4 *)((const __half *)y.data + to[r] * y.ld + n0 + col()));
    }
};

/* proj, added to x, and what rounding takes off; or its codes. Either goes to the block that normalises the row. */
template <class S>
__device__ __forceinline__ void add_proj(const cluster_memory<S> &m, const swin_gemm_s8 &p, kept_rows<S> &k)
{
    int sum[4][4] = {};
    multiply_fragments<S::C, S::SPLIT, false>(sum, m.at(m.mixed), m.tiles + (S::PROJ + k.n * S::K) * TILE,
                                              k.share);
    add_shares(sum, m, k.n, k.share, S::QKV, SUMS_PROJ);
    if (k.share > 0) return;
    const float *alpha = m.alpha + m.PROJ, *bias = m.bias + m.PROJ;
    unsigned word[2][2];
    if (!p.residual)
        words_of<S8_CODES>(word, sum, alpha + 32 * k.n, bias + 32 * k.n, NULL, 0.f, s8_span_of(p.y[0].rule));
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int token = k.row + 8 * r, owner = token / S::OWN, own = token % S::OWN, col = k.n0 + k.col();
        if (token >= TOKENS) continue;
        const unsigned rows = cluster_address(m.heads, owner),
                       sent = cluster_address(m.barrier(SENT_ROWS), owner);
        k.old.kept[0][r] = make_uint2(word[r][0], word[r][1]);
        if (p.residual) {
            float v[8];
            int s[8];
            vec<__half> x;
#pragma unroll
            for (int i = 0; i < 8; i++) s[i] = sum[i / 2][2 * r + i % 2];
            s8_values(v, s, alpha + k.col(), bias + k.col(), 0.f);
            x.from(k.old.stream[0][r]);
#pragma unroll
            for (int i = 0; i < 8; i++) v[i] += x.v[i];
            k.old.stream[0][r] = s8_halves<__half>(v);
            x.from(k.old.stream[0][r]);
            k.old.kept[0][r] = s8_rest8(v, x.v);
            cluster_store(rows + (own * S::C + col) * 2, k.old.stream[0][r], sent);
        }
        cluster_store(rows + S::OWN * S::C * 2 + own * S::C + col, k.old.kept[0][r], sent);
    }
}

/* Codes of GELU's output as fc2's left operand, to all blocks. */
template <class S>
__device__ __forceinline__ void make_hidden(const cluster_memory<S> &m, const swin_gemm_s8 &p, int rank,
                                            char *exchange)
{
    const int group = group_of_warp();
    const s8_span span = s8_span_of(p.y[0].rule);
#pragma unroll 1
    for (int round = 0; round < S::HEADS; round++) {
        const int job = WG * round + group, first = m.FC1 + 32 * job;
        int sum[4][4];
        multiply_rows<S::C>(sum, m.normed, m.tiles + (S::FC1 + job * S::K) * TILE);
        unsigned word[2][2];
        words_of<S8_GELU_CODES>(word, sum, m.alpha + first, m.bias + first, m.gelu + 32 * job, p.after, span);
        const int at = fragment_at(threadIdx.x / 32 % 4, rank * 4 * S::HEADS + job, 0);
        /* columns 8 t + 4 h and up of two rows are neighbours in lane 2 (t % 2) + h of the row's four */
        char *to = (S::HERE ? m.at(m.hidden) : exchange) + at +
                   (threadIdx.x % 32 / 4 * 4 + threadIdx.x % 2 * 2) * 16 + threadIdx.x % 4 / 2 * 8;
#pragma unroll
        for (int h = 0; h < 2; h++) *(uint2 *)(to + 16 * h) = make_uint2(word[0][h], word[1][h]);
        if (S::HERE) send_fragment(m, m.hidden + at, SENT_HIDDEN, rank);
    }
}

/* x += fc2, and what waits beside x. */
template <class S>
__device__ __forceinline__ void add_fc2(const cluster_memory<S> &m, const swin_gemm_s8 &p, const char *hidden,
                                        const kept_rows<S> &k)
{
    int sum[4][4] = {}, begin[4][4];
    multiply_fragments<4 * S::C, S::SPLIT, !S::HERE>(
        sum, hidden, m.tiles + (S::FC2 + k.n * (4 * S::C / 128)) * TILE, k.share);
    add_shares(sum, m, k.n, k.share, S::FC1, SUMS_FC2);
    if (k.share > 0) return;
    s8_begin<4>(begin, p, k.n0 + 32 * k.n);
#pragma unroll
    for (int i = 0; i < 16; i++) sum[i / 4][i % 4] += begin[i / 4][i % 4];
    const float *alpha = m.alpha + m.FC2, *bias = m.bias + m.FC2;
    s8_old<S8_RESIDUAL, 1> alone;
    alone.stream[0][0] = k.old.stream[0][0], alone.stream[0][1] = k.old.stream[0][1];
    if (p.local.codes)
        s8_finish_rows<S8_LOCAL, 4>(p, sum, alpha, bias, k.to, 32 * k.n, k.n0, &k.old);
    else
        s8_finish_rows<S8_RESIDUAL, 4>(p, sum, alpha, bias, k.to, 32 * k.n, k.n0, &alone);
}

template <class S, bool U8>
__device__ __forceinline__ void consume(const cluster_memory<S> &m, const swin_cluster_s8 &p, int window,
                                        int rank)
{
    char *exchange = p.exchange + (int64_t)window * S::HIDDEN;
    load_factors(m, p, rank);
    load_table(m, p.attention, rank, window);
    load_norms<S::C>(m.norms, p.norm1, p.norm2);
    if (threadIdx.x < ROWS)
        m.rows[threadIdx.x] = threadIdx.x < TOKENS
                                  ? (int)window_source(p.attention.g, (int64_t)window * TOKENS + threadIdx.x)
                                  : -1;
    cluster_sync(); /* every block's barriers are there */
    chain_wait();
    kept_rows<S> kept(m, rank);
    kept.load(p.fc2.y[0]);
    normalise<S, false>(m, p, rank);
    await(m, SENT_FIRST);
    await(m, FULL_QKV);
    make_qkv(m, p.qkv);
    make_mixed<S, U8>(m, p, rank);
    await(m, SENT_MIXED);
    await(m, FULL_PROJ);
    add_proj(m, p.proj, kept);
    await(m, SENT_ROWS);
    normalise<S, true>(m, p, rank);
    await(m, SENT_SECOND);
    await(m, FULL_FC1);
    make_hidden(m, p.fc1, rank, exchange);
    if (S::HERE) {
        await(m, SENT_HIDDEN);
        cluster_arrive(); /* all that was sent here has been read there */
    } else {
        cluster_sync();
    }
    await(m, FULL_FC2);
    add_fc2(m, p.fc2, S::HERE ? m.at(m.hidden) : exchange, kept);
    if (S::HERE) cluster_wait(); /* a block's shared memory lasts until the others have what it sent */
}

template <class S, bool U8>
__global__ void __launch_bounds__(THREADS, 1)
    cluster_s8_kernel(const __grid_constant__ swin_cluster_s8 p, const __grid_constant__ cluster_maps w)
{
#if SWIN_HAVE_WGMMA
    extern __shared__ __align__(1024) char smem_base[];
    __shared__ __align__(8) uint64_t barriers[BARRIERS];
    __shared__ int rows[ROWS];
    const cluster_memory<S> m(smem_base, barriers, rows);
    const int window = blockIdx.x / S::BLOCKS, rank = blockIdx.x % S::BLOCKS;
    if (threadIdx.x == 0) begin_barriers(m, p, rank);
    __syncthreads();
    if (threadIdx.x >= CONSUMERS)
        ask(m, rank, w);
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
    if (windows > at_once) return cudaErrorNotSupported; /* then the operators one by one are faster */
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
        !aligned(p, c))
        return cudaErrorNotSupported;
    for (int i = 0; i < 3; i++)
        if (!swin_s8_lean_shrink(&p->qkv, i)) return cudaErrorNotSupported;
    if (p->fc1.after > 0 && p->fc1.y[0].shrink) return cudaErrorNotSupported;
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
    default:
        return cudaErrorNotSupported;
    }
}
