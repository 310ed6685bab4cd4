/* y = act(x w^T + bias), or residual += that: tensor cores for F16, BF16 and TF32, multiply-adds for float32.
 *
 * A block makes one tile of the output. Its k loop runs over stages of KB bytes that cp.async fills ahead.
 * Every tile shape adds the products of one output in the same order, so shapes may be chosen for speed
 * alone. */
#include "runtime/ops/kernels/gemm.cuh"
#include "runtime/ops/kernels/tile.cuh"

/* Copies of a stage's rows of x, or of w. */
template <class T, int BM, int KB, int THREADS>
__device__ __forceinline__ void load_x(unsigned stage, const swin_gemm &p, int64_t m0, int it)
{
    tile_load<BM, KB, THREADS>(stage, (const char *)p.x + (m0 * p.ldx) * (int64_t)sizeof(T) + it * KB,
                               p.ldx * (int64_t)sizeof(T), p.m - m0, p.k * (int)sizeof(T) - it * KB);
}
template <class T, int BM, int BN, int KB, int THREADS>
__device__ __forceinline__ void load_w(unsigned stage, const swin_gemm &p, int n0, int it)
{
    tile_load<BN, KB, THREADS>(stage + BM * KB,
                               (const char *)p.w + (n0 * p.ldw) * (int64_t)sizeof(T) + it * KB,
                               p.ldw * (int64_t)sizeof(T), p.n - n0, p.k * (int)sizeof(T) - it * KB);
}

/* Run body(stage address) for every stage of k, copies running STAGES - 1 ahead. */
template <class T, int BM, int BN, int KB, int STAGES, int THREADS, class F>
__device__ __forceinline__ void k_loop(unsigned smem, const swin_gemm &p, int64_t m0, int n0, F body)
{
    constexpr int BYTES = (BM + BN) * KB;
    const int iters = (p.k * (int)sizeof(T) + KB - 1) / KB;
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++)
        if (s < iters) load_w<T, BM, BN, KB, THREADS>(smem + s * BYTES, p, n0, s);
    chain_wait();
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < iters) load_x<T, BM, KB, THREADS>(smem + s * BYTES, p, m0, s);
        copy_commit();
    }
    int slot = 0, fill = STAGES - 1;
    for (int it = 0; it < iters; it++) {
        copy_wait<STAGES - 2>();
        __syncthreads(); /* stage `it` is there for all, and all have left the slot that is filled next */
        if (it + STAGES - 1 < iters) {
            load_x<T, BM, KB, THREADS>(smem + fill * BYTES, p, m0, it + STAGES - 1);
            load_w<T, BM, BN, KB, THREADS>(smem + fill * BYTES, p, n0, it + STAGES - 1);
        }
        copy_commit();
        body(smem + slot * BYTES);
        slot = slot + 1 == STAGES ? 0 : slot + 1;
        fill = fill + 1 == STAGES ? 0 : fill + 1;
    }
    copy_wait<0>();
    __syncthreads(); /* the output tile is staged over the operands */
}

/* MW x NW warps, each with a (BM/MW) x (BN/NW) part of the tile. */
template <class E, int BM, int BN, int MW, int NW, int KB, int STAGES>
static __global__ void __launch_bounds__(MW *NW * 32) gemm_mma_kernel(const __grid_constant__ swin_gemm p)
{
    using T = typename E::T;
    constexpr int THREADS = MW * NW * 32, WM = BM / MW, WN = BN / NW, MT = WM / 16, NT = WN / 8;
    static_assert(WM % 16 == 0 && WN % 16 == 0, "fragments are 16 rows and pairs of 8 columns");
    extern __shared__ __align__(128) char smem_base[];
    __shared__ float bias[BN];
    const int tiles_n = (p.n + BN - 1) / BN, warp = threadIdx.x / 32, wm = warp / NW * WM,
              wn = warp % NW * WN;
    const int64_t m0 = (int64_t)(blockIdx.x / tiles_n) * BM;
    const int n0 = blockIdx.x % tiles_n * BN;

    float acc[MT][NT][4] = {};
    load_bias<BN, THREADS>(bias, p, n0);
    k_loop<T, BM, BN, KB, STAGES, THREADS>(shared_address(smem_base), p, m0, n0, [&](unsigned stage) {
        unsigned a[2][MT][4],
            b[2][NT / 2][4]; /* the next step's fragments load while this one's are multiplied */
        auto fragments = [&](int step) {
#pragma unroll
            for (int i = 0; i < MT; i++) load_a<KB>(a[step & 1][i], stage, wm + 16 * i, step);
#pragma unroll
            for (int j = 0; j < NT / 2; j++) load_b<KB>(b[step & 1][j], stage + BM * KB, wn + 16 * j, step);
        };
        fragments(0);
#pragma unroll
        for (int step = 0; step < KB / 32; step++) {
            if (step + 1 < KB / 32) fragments(step + 1);
            const int now = step & 1;
#pragma unroll
            for (int i = 0; i < MT; i++) E::prepare(a[now][i]);
#pragma unroll
            for (int j = 0; j < NT / 2; j++) E::prepare_weight(b[now][j]);
#pragma unroll
            for (int i = 0; i < MT; i++)
#pragma unroll
                for (int j = 0; j < NT; j++)
                    E::run(acc[i][j], a[now][i], b[now][j / 2][j % 2 * 2], b[now][j / 2][j % 2 * 2 + 1]);
        }
    });

    T *tile = reinterpret_cast<T *>(smem_base);
#pragma unroll
    for (int i = 0; i < MT; i++) stage_rows<T, BN, NT>(tile, bias, acc[i], p.act, wm + 16 * i, wn);
    __syncthreads();
    store_tile<T, BM, BN, THREADS>(tile, p, m0, n0, threadIdx.x);
}

/* A warp is 4 x 8 threads, each with 8 x TN outputs: rows ty + 4 i, columns tx + 8 j of the warp's 32 x (8
 * TN). */
template <int MW, int NW, int TN, int STAGES>
static __global__ void __launch_bounds__(MW *NW * 32, MW *NW == 8 ? 2 : 1)
    gemm_simt_kernel(const __grid_constant__ swin_gemm p)
{
    constexpr int KB = 64, BM = 32 * MW, BN = 8 * TN * NW, THREADS = MW * NW * 32;
    extern __shared__ __align__(128) char smem_base[];
    __shared__ float bias[BN];
    const unsigned smem = shared_address(smem_base);
    const int tiles_n = (p.n + BN - 1) / BN;
    const int64_t m0 = (int64_t)(blockIdx.x / tiles_n) * BM;
    const int n0 = blockIdx.x % tiles_n * BN, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int row0 = warp / NW * 32 + lane / 8, col0 = warp % NW * 8 * TN + lane % 8;

    float acc[8][TN] = {};
    load_bias<BN, THREADS>(bias, p, n0);
    k_loop<float, BM, BN, KB, STAGES, THREADS>(smem, p, m0, n0, [&](unsigned stage) {
        const char *at = smem_base + (stage - smem);
#pragma unroll
        for (int chunk = 0; chunk < KB / 16; chunk++) {
            float4 b[TN];
#pragma unroll
            for (int j = 0; j < TN; j++)
                b[j] = *(const float4 *)(at + BM * KB + chunk_at<KB>(col0 + 8 * j, chunk));
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const float4 a = *(const float4 *)(at + chunk_at<KB>(row0 + 4 * i, chunk));
#pragma unroll
                for (int j = 0; j < TN; j++) {
                    acc[i][j] = fmaf(a.x, b[j].x, acc[i][j]);
                    acc[i][j] = fmaf(a.y, b[j].y, acc[i][j]);
                    acc[i][j] = fmaf(a.z, b[j].z, acc[i][j]);
                    acc[i][j] = fmaf(a.w, b[j].w, acc[i][j]);
                }
            }
        }
    });

    float *tile = reinterpret_cast<float *>(smem_base);
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < TN; j++) {
            const float v = acc[i][j] + bias[col0 + 8 * j];
            tile[(row0 + 4 * i) * out_pitch<BN> + col0 + 8 * j] = p.act == SWIN_ACT_GELU ? gelu<float>(v) : v;
        }
    __syncthreads();
    store_tile<float, BM, BN, THREADS>(tile, p, m0, n0, threadIdx.x);
}

/* One thread an output: shapes and alignments that the tiles do not take. */
template <class T> static __global__ void __launch_bounds__(256) gemm_any_kernel(swin_gemm p)
{
    chain_wait();
    const int64_t total = p.m * p.n, step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < total; i += step) {
        const int64_t row = i / p.n;
        const int col = (int)(i - row * p.n);
        const T *x = (const T *)p.x + row * p.ldx, *w = (const T *)p.w + col * p.ldw;
        float sum = 0;
        for (int k = 0; k < p.k; k++) sum = fmaf(to_float(x[k]), to_float(w[k]), sum);
        const T v = from_float<T>(activate<T>(p.bias ? sum + p.bias[col] : sum, p.act));
        T *at = (T *)p.y + (p.windows ? window_source(p.g, row) : row) * p.ldy + col;
        *at = p.residual ? from_float<T>(to_float(*at) + to_float(v)) : v;
    }
}

/* ---- configurations
 * ----------------------------------------------------------------------------------------- */

template <class E, int BM, int BN, int MW, int NW, int KB, int STAGES>
static gemm_config mma_config(const char *name, double rate = 1)
{
    gemm_config c = { name, BM, BN, MW * NW * 32 };
    c.rate = rate;
    c.stage = (BM + BN) * KB, c.stages = STAGES, c.step = KB;
    c.out = BM * out_pitch<BN> * (int)sizeof(typename E::T);
    c.kernel = (const void *)gemm_mma_kernel<E, BM, BN, MW, NW, KB, STAGES>;
    return c;
}

template <int MW, int NW, int TN, int STAGES> static gemm_config simt_config(const char *name, double rate)
{
    constexpr int BM = 32 * MW, BN = 8 * TN * NW;
    gemm_config c = { name, BM, BN, MW * NW * 32 };
    c.rate = rate;
    c.stage = (BM + BN) * 64, c.stages = STAGES, c.step = 64;
    c.out = BM * out_pitch<BN> * (int)sizeof(float);
    c.kernel = (const void *)gemm_simt_kernel<MW, NW, TN, STAGES>;
    return c;
}

/* Rates of tiles: fitted to what `swin-bench --tune --verbose` timed for Swin-T's products at batches of 1 and 64 on an
 * H100, where TF32 and FP32 take these tables. */
#define MMA_CONFIGS 6
template <class E> static gemm_config *mma_table()
{
    constexpr bool tf32 = sizeof(typename E::T) == 4;
    static gemm_config table[MMA_CONFIGS] = {
        mma_config<E, 128, 128, 2, 2, 128, 3>("128x128", tf32 ? 1.16 : 1),
        mma_config<E, 128, 96, 2, 2, 64, 4>("128x96", tf32 ? 0.84 : 1),
        mma_config<E, 128, 64, 2, 2, 64, 4>("128x64"),
        mma_config<E, 64, 64, 2, 2, 128, 3>("64x64"),
        mma_config<E, 64, 32, 2, 2, 128, 4>("64x32"),
        mma_config<E, 32, 32, 2, 1, 128, 4>("32x32"),
    };
    return table;
}

#define SIMT_CONFIGS 4
static gemm_config *simt_table()
{
    static gemm_config table[SIMT_CONFIGS] = {
        simt_config<4, 2, 8, 3>("128x128", 1),
        simt_config<4, 2, 6, 3>("128x96", 1.08),
        simt_config<2, 2, 4, 3>("64x64", 1.09),
        simt_config<1, 2, 2, 4>("32x32", 1.03),
    };
    return table;
}

/* Hopper's own instructions wherever they are built in and the chip has them: one kind of instruction for all
 * shapes of a type, so that every tile gives the same bits. */
static gemm_config *table_of(swin_gemm_math math, int *count)
{
    gemm_config *wide = swin_wgmma_table(math, count);
    if (wide) return wide;
    *count = math == SWIN_GEMM_FP32 ? SIMT_CONFIGS : MMA_CONFIGS;
    if (math == SWIN_GEMM_FP32) return simt_table();
    if (math == SWIN_GEMM_TF32) return mma_table<mma_tf32>();
    return math == SWIN_GEMM_F16 ? mma_table<mma_f16>() : mma_table<mma_bf16>();
}

extern "C" int swin_gemm_configs(swin_gemm_math math)
{
    int count;
    table_of(math, &count);
    return count;
}

extern "C" const char *swin_gemm_config_name(swin_gemm_math math, int config)
{
    int count;
    return table_of(math, &count)[config].name;
}

static int steps_of(const gemm_config *c, const swin_gemm *p)
{
    return (p->k * (p->math <= SWIN_GEMM_TF32 ? 4 : 2) + c->step - 1) / c->step;
}

/* A product of few steps needs few stages, and so leaves room for more blocks. */
static int stages_of(const gemm_config *c, const swin_gemm *p)
{
    const int steps = steps_of(c, p);
    return steps < c->stages ? steps : c->stages;
}

/* Dynamic shared memory. */
static int shared_of(const gemm_config *c, const swin_gemm *p)
{
    const int operands = c->stage * stages_of(c, p);
    return operands > c->out ? operands : c->out;
}

/* cudaErrorNotSupported: the chip has too little shared memory for it. */
static cudaError_t get_ready(gemm_config *c)
{
    if (c->ready) return cudaSuccess;
    const int operands = c->stage * c->stages, most = operands > c->out ? operands : c->out;
    int device = 0, room = 0;
    cudaFuncAttributes a;
    cudaError_t e = cudaGetDevice(&device);
    if (e == cudaSuccess) e = cudaDeviceGetAttribute(&room, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (e == cudaSuccess) e = cudaFuncGetAttributes(&a, c->kernel);
    if (e != cudaSuccess) return e;
    room -= (int)a.sharedSizeBytes;
    if (most > room) return cudaErrorNotSupported;
    /* All there is: configurations may share a kernel. */
    e = cudaFuncSetAttribute(c->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, room);
    if (e != cudaSuccess) return e;
    c->registers = a.numRegs, c->fixed = (int)a.sharedSizeBytes;
    c->ready = true;
    return cudaSuccess;
}

/* Blocks of a configuration that fit a multiprocessor (the sizes of sm_90; others differ little). */
static int resident(const gemm_config *c, const swin_gemm *p)
{
    const int by_shared = (228 << 10) / (shared_of(c, p) + c->fixed + 1024);
    const int by_registers = 65536 / ((c->registers + 7) / 8 * 8 * c->threads),
              by_threads = 2048 / c->threads;
    const int least = by_shared < by_registers ? by_shared : by_registers;
    return least < by_threads ? least : by_threads;
}

static int64_t tiles(const gemm_config *c, const swin_gemm *p)
{
    return (p->m + c->bm - 1) / c->bm * ((p->n + c->bn - 1) / c->bn);
}

/* About how many clocks a multiprocessor needs for one step of one block, with the operands from the L2
 * cache. */
static double step_clocks(const gemm_config *c, swin_gemm_math math)
{
    static const double products[] = { 100, 400, 1700,
                                       1700 }; /* multiply-adds a clock that are really reached */
    const double unit = math <= SWIN_GEMM_TF32 ? 4 : 2, bytes = (double)(c->bm + c->bn) * c->step;
    const double multiply = (double)c->bm * c->bn * c->step / unit / (products[math] * c->rate),
                 fetch = bytes / 32;
    return multiply > fetch ? multiply : fetch;
}

/* Waves of blocks times the clocks of one; past a few waves a last one that is not full matters little. */
static cudaError_t choose(gemm_config **best, const swin_gemm *p, int multiprocessors)
{
    int count;
    gemm_config *table = table_of(p->math, &count);
    double least = 0;
    *best = NULL;
    for (int i = 0; i < count; i++) {
        gemm_config *c = &table[i];
        const cudaError_t e = get_ready(c);
        if (e == cudaErrorNotSupported) continue;
        if (e != cudaSuccess) return e;
        const int fit = resident(c, p);
        if (fit < 1) continue;
        const double blocks = (double)tiles(c, p), waves = blocks / ((double)multiprocessors * fit);
        const double share = waves < 1 ? ceil(blocks / multiprocessors) : fit;
        const double ends = (double)c->bm * c->bn / (p->act == SWIN_ACT_GELU ? 5 : 10);
        const double work = share * (steps_of(c, p) * step_clocks(c, p->math) + ends) + 1500 +
                            (share < 2 ? ends : 0);
        const double cost = work * (waves < 3 ? ceil(waves) : waves + 0.4);
        if (!*best || cost < least) *best = c, least = cost;
    }
    return *best ? cudaSuccess : cudaErrorNotSupported;
}

static bool aligned(const swin_gemm *p)
{
    const int64_t n = p->math <= SWIN_GEMM_TF32 ? 4 : 8;
    return p->k % n == 0 && p->ldx % n == 0 && p->ldw % n == 0 && (uintptr_t)p->x % 16 == 0 &&
           (uintptr_t)p->w % 16 == 0;
}

extern "C" cudaError_t swin_gemm_launch(cudaStream_t stream, const swin_gemm *p, int config,
                                        int multiprocessors)
{
    if (p->m == 0 || p->n == 0) return cudaSuccess;
    if (p->k == 0 || !aligned(p)) return cudaErrorNotSupported;
    gemm_config *c = NULL;
    if (config >= 0) {
        int count;
        c = &table_of(p->math, &count)[config];
        const cudaError_t e = get_ready(c);
        if (e != cudaSuccess) return e;
    } else {
        const cudaError_t e = choose(&c, p, multiprocessors);
        if (e != cudaSuccess) return e;
    }
    const int64_t blocks = tiles(c, p);
    if (blocks > 0x7fffffff) return cudaErrorNotSupported;
    if (c->boxes)
        return swin_wgmma_launch(stream, p, c, (unsigned)blocks, (size_t)shared_of(c, p), stages_of(c, p));
    void *args[] = { (void *)p };
    return chain_launch_pointer(c->kernel, (unsigned)blocks, (unsigned)c->threads, (size_t)shared_of(c, p),
                                stream, args);
}

extern "C" cudaError_t swin_gemm_any_launch(cudaStream_t stream, const swin_gemm *p)
{
    if (p->m == 0 || p->n == 0) return cudaSuccess;
    const unsigned blocks = swin_blocks(p->m * p->n, 256, 1 << 16);
    if (p->math <= SWIN_GEMM_TF32) return chain_launch(gemm_any_kernel<float>, blocks, 256, 0, stream, *p);
    if (p->math == SWIN_GEMM_F16) return chain_launch(gemm_any_kernel<__half>, blocks, 256, 0, stream, *p);
    return chain_launch(gemm_any_kernel<__nv_bfloat16>, blocks, 256, 0, stream, *p);
}
