/* y = act(LN(x) w^T + bias), or residual += that, for Hopper: a block reads its 128 rows of x once,
 * normalises them on their way into shared memory and keeps them there while the weight streams past. F16 and
 * BF16, k up to 256: past that, LayerNorm done again by every block that shares the rows costs more than a
 * pass of its own over memory.
 *
 * Two warpgroups own 64 rows each and never wait for one another; both read the weight from one ring of tiles
 * that a ninth warp fills with bulk copies, so that one may store its results while the other multiplies. The
 * weight lies in memory as those tiles lie in shared memory (swin_gemm_pack_launch): a tile is one copy. The
 * sums of an output are added as in gemm_wgmma.cu, so both give the same bits for the same rows. */
#include "runtime/ops/kernels/barrier.cuh"

#pragma nv_diag_suppress 177 /* code for other chips uses nothing of this */

namespace
{

constexpr int ROWS = 64, BM = 2 * ROWS, THREADS = 2 * 128 + 32, PANEL = BM * 128, MOST_STAGES = 8;

/* ---- rows of x
 * ------------------------------------------------------------------------------------------------ */

/* Where 8 elements from column `col` of output row `row` come from. */
template <class T> __device__ __forceinline__ const T *source(const swin_gemm_rows &p, int64_t row, int col)
{
    const T *x = (const T *)p.gemm.x;
    if (!p.merge) return x + row * p.gemm.ldx + col;
    const int c = p.gemm.k / 4, part = col / c; /* parts (0,0), (1,0), (0,1), (1,1) as (row, column) */
    const unsigned half_w = p.g.width / 2, per_image = p.g.height / 2 * half_w;
    const int64_t image = row / per_image;
    const unsigned at = (unsigned)(row - image * per_image), y = at / half_w, xx = at - y * half_w;
    return x + ((image * p.g.height + 2 * y + (part & 1)) * p.g.width + 2 * xx + (part >> 1)) * p.gemm.ldx +
           (col - part * c);
}

__device__ __forceinline__ float eight_sum(float v)
{
    v += __shfl_xor_sync(0xffffffffu, v, 4);
    v += __shfl_xor_sync(0xffffffffu, v, 2);
    return v + __shfl_xor_sync(0xffffffffu, v, 1);
}

/* In place: LayerNorm of a row that eight lanes hold, lane l its pieces l, l + 8 and so on. */
template <class T, int PANELS>
__device__ __forceinline__ void normalise(uint4 (&raw)[PANELS], const swin_norm &n, int k, int lane)
{
    vec<T> v[PANELS];
    float sum = 0, squares = 0;
#pragma unroll
    for (int i = 0; i < PANELS; i++) {
        v[i].from(raw[i]); /* zeros past the row's end */
#pragma unroll
        for (int e = 0; e < 8; e++) sum += v[i].v[e];
    }
    const float mean = eight_sum(sum) / (float)k;
#pragma unroll
    for (int i = 0; i < PANELS; i++)
        if ((8 * i + lane) * 8 < k)
#pragma unroll
            for (int e = 0; e < 8; e++) squares += (v[i].v[e] - mean) * (v[i].v[e] - mean);
    const float factor = 1.f / sqrtf(eight_sum(squares) / (float)k + n.eps);
#pragma unroll
    for (int i = 0; i < PANELS; i++) {
        const int col = (8 * i + lane) * 8;
        if (col >= k) continue;
#pragma unroll
        for (int e = 0; e < 8; e += 4) {
            const float4 a = __ldg(reinterpret_cast<const float4 *>(n.gamma + col + e));
            const float4 b = __ldg(reinterpret_cast<const float4 *>(n.beta + col + e));
            v[i].v[e] = (v[i].v[e] - mean) * factor * a.x + b.x;
            v[i].v[e + 1] = (v[i].v[e + 1] - mean) * factor * a.y + b.y;
            v[i].v[e + 2] = (v[i].v[e + 2] - mean) * factor * a.z + b.z;
            v[i].v[e + 3] = (v[i].v[e + 3] - mean) * factor * a.w + b.w;
        }
        raw[i] = v[i].raw();
    }
}

/* A warpgroup's 64 rows into its half of the panels: 16 rows at a time, eight lanes a row. */
template <class T, int PANELS>
__device__ __forceinline__ void load_rows(char *panels, const swin_gemm_rows &p, int64_t m0, int group)
{
    constexpr int PASSES = ROWS / 16, AHEAD = PANELS <= 2 ? PASSES : 2;
    const int lane = threadIdx.x % 8, first = group * ROWS + threadIdx.x % 128 / 8;
#pragma unroll
    for (int pass = 0; pass < PASSES; pass += AHEAD) {
        uint4 raw[AHEAD][PANELS];
#pragma unroll
        for (int a = 0; a < AHEAD; a++)
#pragma unroll
            for (int i = 0; i < PANELS; i++) {
                const int64_t row = m0 + first + 16 * (pass + a);
                const int col = (8 * i + lane) * 8;
                raw[a][i] = make_uint4(0, 0, 0, 0);
                if (row < p.gemm.m && col < p.gemm.k)
                    raw[a][i] = *reinterpret_cast<const uint4 *>(source<T>(p, row, col));
            }
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            const int row = first + 16 * (pass + a);
            if (p.norm.gamma) normalise<T, PANELS>(raw[a], p.norm, p.gemm.k, lane);
#pragma unroll
            for (int i = 0; i < PANELS; i++)
                *reinterpret_cast<uint4 *>(panels + i * PANEL + chunk_at<128>(row, lane)) = raw[a][i];
        }
    }
}

/* ---- the kernel
 * ------------------------------------------------------------------------------------------------ */

struct ring {
    unsigned tiles, full, empty; /* shared memory: the tiles, and a pair of barriers for each */
    int stages;
};

/* One thread: the weight's tiles, panel after panel of one column tile after the other. */
template <int BN, int PANELS>
__device__ __forceinline__ void feed(const swin_gemm_rows &p, const ring &r, int first, int last)
{
    const int64_t panel = (int64_t)((p.gemm.n + 7) / 8) * 1024;
    int slot = 0;
    unsigned parity = 1; /* a new barrier counts as one whose phase before has ended */
    for (int tile = first; tile < last; tile++)
        for (int k = 0; k < PANELS; k++) {
            barrier_wait(r.empty + 8 * slot, parity);
            barrier_expect(r.full + 8 * slot, BN * 128);
            bulk_copy(r.tiles + slot * BN * 128,
                      (const char *)p.packed + k * panel + (int64_t)tile * BN * 128, BN * 128,
                      r.full + 8 * slot);
            if (++slot == r.stages) slot = 0, parity ^= 1;
        }
}

/* LAST: steps of 16 in the last panel. */
template <class T, int BN, int PANELS, int LAST>
__global__ void __launch_bounds__(THREADS, PANELS <= 3 || (BN == 64 && PANELS == 4) ? 2 : 1)
    gemm_rows_kernel(const __grid_constant__ swin_gemm_rows p, int splits, int stages)
{
#if SWIN_HAVE_WGMMA
    extern __shared__ __align__(1024) char smem_base[];
    __shared__ __align__(8) uint64_t barriers[2 * MOST_STAGES];
    __shared__ float zeros[BN];
    const unsigned smem = shared_address(smem_base);
    const ring r = { smem + PANELS * PANEL, shared_address(barriers), shared_address(barriers + MOST_STAGES),
                     stages };
    const int tiles = p.gemm.n / BN, split = blockIdx.x % splits, group = threadIdx.x / 128;
    const int first = tiles * split / splits, last = tiles * (split + 1) / splits;
    const int64_t m0 = (int64_t)(blockIdx.x / splits) * BM;

    if (threadIdx.x < stages) {
        barrier_init(r.full + 8 * threadIdx.x, 1);
        barrier_init(r.empty + 8 * threadIdx.x, 8); /* the warps that read */
        barrier_init_done();
    }
    if (threadIdx.x < BN) zeros[threadIdx.x] = 0;
    __syncthreads();
    if (group == 2) {
        chain_start();
        if (threadIdx.x == 256) feed<BN, PANELS>(p, r, first, last);
        return;
    }
    chain_wait();
    load_rows<T, PANELS>(smem_base, p, m0, group);
    fence_async_proxy();
    threads_sync(group + 1, 128);

    T *out = reinterpret_cast<T *>(smem_base + PANELS * PANEL + stages * BN * 128) +
             group * ROWS * out_pitch<BN>;
    const bool leader = threadIdx.x % 32 == 0;
    int slot = 0, before = 0;
    unsigned parity = 0;
    for (int tile = first; tile < last; tile++) {
        float acc[BN / 8][4] = {};
#pragma unroll
        for (int k = 0; k < PANELS; k++) {
            barrier_wait(r.full + 8 * slot, parity);
            const uint64_t a = wgmma_operand(smem + k * PANEL + group * ROWS * 128);
            const uint64_t b = wgmma_operand(r.tiles + slot * BN * 128);
            wgmma_fence();
#pragma unroll
            for (int step = 0; step < (k + 1 < PANELS ? 4 : LAST); step++)
                wgmma<T, BN>::run(acc, a + 2 * step, b + 2 * step);
            wgmma_commit();
            wgmma_wait<1>();
            if (k > 0 && leader) barrier_arrive(r.empty + 8 * before);
            before = slot;
            if (++slot == stages) slot = 0, parity ^= 1;
        }
        wgmma_wait<0>();
        if (leader) barrier_arrive(r.empty + 8 * before);
        const float *bias = p.gemm.bias ? p.gemm.bias + tile * BN : zeros;
        threads_sync(group + 1, 128); /* the tile before has left */
        stage_rows<T, BN, BN / 8>(out, bias, acc, p.gemm.act, threadIdx.x % 128 / 32 * 16, 0);
        threads_sync(group + 1, 128);
        store_tile<T, ROWS, BN, 128>(out, p.gemm, m0 + group * ROWS, tile * BN, threadIdx.x % 128);
    }
#endif
}

/* [k / 64 panels][n / 8][8 rows of 128 bytes, swizzled], zeros past n and k. */
__global__ void __launch_bounds__(256) pack_kernel(uint4 *packed, const uint4 *w, int n, int k)
{
    const int64_t rows = (n + 7) / 8 * 8, total = rows * ((k + 63) / 64) * 8;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < total;
         i += (int64_t)gridDim.x * blockDim.x) {
        const int64_t panel = i / (rows * 8), row = (i - panel * rows * 8) / 8;
        const int place = (int)(i % 8), chunk = place ^ (int)(row & 7); /* swizzle<128> undone */
        const int64_t col = panel * 64 + chunk * 8;
        packed[i] = row < n && col < k ? w[(row * k + col) / 8] : make_uint4(0, 0, 0, 0);
    }
}

/* ---- choice
 * ---------------------------------------------------------------------------------------------------- */

struct variant {
    const void *kernel;
    int bn, panels, each; /* each: blocks that a multiprocessor holds */
    bool ready;
};

template <class T, int BN, int PANELS, int LAST> variant make()
{
    return { (const void *)gemm_rows_kernel<T, BN, PANELS, LAST>, BN, PANELS,
             PANELS <= 3 || (BN == 64 && PANELS == 4) ? 2 : 1, false };
}

template <class T> variant *find(int n, int k)
{
    static variant k96 = make<T, 96, 2, 2>(), k192 = make<T, 96, 3, 4>();
    static variant k128 = make<T, 64, 2, 4>(), k256 = make<T, 64, 4, 4>();
    if (n % 96 == 0 && k == 96) return &k96;
    if (n % 96 == 0 && k == 192) return &k192;
    if (n % 64 == 0 && k == 128) return &k128;
    return n % 64 == 0 && k == 256 ? &k256 : NULL;
}

int fixed_bytes(const variant *v)
{
    return v->panels * PANEL + BM * (v->bn + 8) * 2;
}

/* As many tiles ahead as fit beside the other blocks of the multiprocessor. */
int stages_of(const variant *v)
{
    const int room = (v->each == 2 ? 112 << 10 : 225 << 10) - fixed_bytes(v), n = room / (v->bn * 128);
    return n < MOST_STAGES ? n : MOST_STAGES;
}

/* Blocks that share the columns of a row block: rounds of blocks times a block's work, where reading its rows
 * counts as one tile. */
int choose_splits(const variant *v, int64_t row_blocks, int tiles, int multiprocessors)
{
    const int64_t slots = (int64_t)multiprocessors * v->each;
    int best = 1;
    double least = 0;
    for (int splits = 1; splits <= tiles; splits++) {
        const double rounds = (double)(row_blocks * splits) / (double)slots;
        const double work = 1 + (tiles + splits - 1) / splits;
        const double time = (rounds < 4 ? ceil(rounds) : rounds + 0.5) * work;
        if (splits == 1 || time < 0.98 * least) best = splits, least = time;
    }
    return best;
}

cudaError_t get_ready(variant *v)
{
    if (v->ready) return cudaSuccess;
    const cudaError_t e = cudaFuncSetAttribute(v->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                               fixed_bytes(v) + stages_of(v) * v->bn * 128);
    v->ready = e == cudaSuccess;
    return e;
}

} // namespace

extern "C" size_t swin_gemm_pack_bytes(swin_dtype dtype, int n, int k)
{
    if (!swin_wgmma_available() || (dtype != SWIN_F16 && dtype != SWIN_BF16) || !find<__half>(n, k)) return 0;
    return (size_t)((n + 7) / 8 * 8) * (size_t)((k + 63) / 64) * 128;
}

extern "C" cudaError_t swin_gemm_pack_launch(cudaStream_t stream, void *packed, const void *w, int n, int k)
{
    const unsigned blocks = swin_blocks((int64_t)(n + 7) / 8 * 8 * ((k + 63) / 64) * 8, 256, 4096);
    pack_kernel<<<blocks, 256, 0, stream>>>((uint4 *)packed, (const uint4 *)w, n, k);
    return cudaGetLastError();
}

extern "C" cudaError_t swin_gemm_rows_launch(cudaStream_t stream, const swin_gemm_rows *p,
                                             int multiprocessors)
{
    const swin_gemm *g = &p->gemm;
    if (!p->packed || (g->math != SWIN_GEMM_F16 && g->math != SWIN_GEMM_BF16)) return cudaErrorNotSupported;
    if (g->ldx % 8 != 0 || g->ldy % 8 != 0 || (uintptr_t)g->x % 16 != 0 || (uintptr_t)g->y % 16 != 0)
        return cudaErrorNotSupported;
    variant *v = g->math == SWIN_GEMM_F16 ? find<__half>(g->n, g->k) : find<__nv_bfloat16>(g->n, g->k);
    if (!v || (p->merge && g->k / 4 % 8 != 0)) return cudaErrorNotSupported;
    if (g->m == 0) return cudaSuccess;
    const cudaError_t e = get_ready(v);
    if (e != cudaSuccess) return e;
    const int64_t row_blocks = (g->m + BM - 1) / BM;
    int splits = choose_splits(v, row_blocks, g->n / v->bn, multiprocessors), stages = stages_of(v);
    if (row_blocks * splits > 0x7fffffff) return cudaErrorNotSupported;
    void *args[] = { (void *)p, &splits, &stages };
    return chain_launch_pointer(v->kernel, (unsigned)(row_blocks * splits), THREADS,
                                (size_t)(fixed_bytes(v) + stages * v->bn * 128), stream, args);
}
