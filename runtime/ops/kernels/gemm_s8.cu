/* INT8 products on tensor cores (m16n8k32): sums in INT32, exact, everything after them in registers. */
#include "runtime/ops/kernels/gemm_s8.cuh"
#include "runtime/ops/kernels/last_s8.cuh"

namespace
{

constexpr int KB = 128; /* bytes of k in a step of the pipeline */

/* MW x NW warps, each with a (BM/MW) x (BN/NW) part of the tile. */
template <int LAST, int BM, int BN, int MW, int NW, int STAGES>
__global__ void __launch_bounds__(MW *NW * 32) gemm_s8_kernel(const __grid_constant__ swin_gemm_s8 p)
{
    constexpr int THREADS = MW * NW * 32, WM = BM / MW, WN = BN / NW, MT = WM / 16, NT = WN / 8;
    static_assert(WM % 16 == 0 && WN % 32 == 0, "fragments are 16 rows; columns go in groups of 32");
    extern __shared__ __align__(128) char smem_base[];
    __shared__ __align__(16) float alpha[BN], bias[BN];
    const unsigned smem = shared_address(smem_base);
    const int tiles_n = (p.n + BN - 1) / BN, warp = threadIdx.x / 32, wm = warp / NW * WM,
              wn = warp % NW * WN, iters = (p.k + KB - 1) / KB;
    const int64_t m0 = (int64_t)(blockIdx.x / tiles_n) * BM;
    const int n0 = blockIdx.x % tiles_n * BN;
    auto load = [&](int it) {
        const unsigned stage = smem + it % STAGES * (BM + BN) * KB;
        tile_load<BM, KB, THREADS>(stage, (const char *)p.x + m0 * p.ldx + it * KB, p.ldx, p.m - m0,
                                   p.k - it * KB);
        s8_load_weights<BN, THREADS>(stage + BM * KB, p.w + (int64_t)n0 * p.k + it * KB, p.k, p.n - n0,
                                     p.k - it * KB);
    };

    chain_wait();
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < iters) load(s);
        copy_commit();
    }
    s8_load_factors<LAST, BN, THREADS>(alpha, bias, p, n0);
    int acc[MT][NT][4];
#pragma unroll
    for (int i = 0; i < MT; i++) s8_begin<NT>(acc[i], p, n0 + wn);
    for (int it = 0; it < iters; it++) {
        copy_wait<STAGES - 2>();
        __syncthreads(); /* step `it` is there for all, and all have left the slot that is filled next */
        if (it + STAGES - 1 < iters) load(it + STAGES - 1);
        copy_commit();
        const unsigned stage = smem + it % STAGES * (BM + BN) * KB;
        const int steps = min(KB, p.k - it * KB + 31) / 32;
#pragma unroll
        for (int step = 0; step < KB / 32; step++) {
            if (step >= steps) break;
            unsigned a[MT][4], b[NT / 2][4];
#pragma unroll
            for (int i = 0; i < MT; i++) load_a<KB>(a[i], stage, wm + 16 * i, step);
#pragma unroll
            for (int j = 0; j < NT / 2; j++) load_b<KB>(b[j], stage + BM * KB, wn + 16 * j, step);
#pragma unroll
            for (int i = 0; i < MT; i++)
#pragma unroll
                for (int j = 0; j < NT; j++)
                    mma_s8(acc[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
        }
    }
    copy_wait<0>();
#pragma unroll
    for (int i = 0; i < MT; i++)
        s8_finish<LAST, NT>(p, acc[i], alpha, bias, m0 + wm + 16 * i + threadIdx.x % 32 / 4, wn, n0);
}

/* One thread an output: shapes, alignments and chips that the tiles do not take. */
__global__ void __launch_bounds__(256) gemm_s8_any_kernel(const __grid_constant__ swin_gemm_s8 p)
{
    const int64_t total = p.m * p.n, step = (int64_t)gridDim.x * blockDim.x;
    const bool words = p.k % 4 == 0 && p.ldx % 4 == 0 && (size_t)p.x % 4 == 0;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < total; i += step) {
        const int64_t row = i / p.n, to = p.windows ? window_source(p.g, row) : row;
        const int col = (int)(i - row * p.n), part = col / p.width;
        const int8_t *x = p.x + row * p.ldx, *w = p.w + (int64_t)col * p.k;
        int sum = p.zero_share ? -p.zero_share[col] : 0;
        if (words)
            for (int k = 0; k < p.k; k += 4) sum = __dp4a(*(const int *)(x + k), *(const int *)(w + k), sum);
        else
            for (int k = 0; k < p.k; k++) sum += (int)x[k] * w[k];
        const float step = p.afters ? p.afters[col] : p.after;
        float v = s8_value(sum, s8_alpha(p, col), p.bias ? p.bias[col] : 0.f, step);
        if (p.act == SWIN_ACT_GELU) v = s8_gelu_value(v);
        const swin_s8_part &y = p.y[part];
        swin_s8_rule rule = y.rule;
        if (y.shrink) rule.inverse *= y.shrink[col - part * p.width];
        const int64_t at = to * y.ld + col - part * p.width;
        if (y.dtype == SWIN_S8)
            ((int8_t *)y.data)[at] = (int8_t)__float_as_uint(s8_code(v, rule));
        else if (y.dtype == SWIN_S32)
            ((int *)y.data)[at] = sum;
        else if (y.dtype == SWIN_F32)
            ((float *)y.data)[at] = p.residual ? ((float *)y.data)[at] + v : v;
        else if (y.dtype == SWIN_F16)
            ((__half *)y.data)[at] =
                __float2half_rn(p.residual ? __half2float(((__half *)y.data)[at]) + v : v);
        else
            ((__nv_bfloat16 *)y.data)[at] =
                __float2bfloat16_rn(p.residual ? __bfloat162float(((__nv_bfloat16 *)y.data)[at]) + v : v);
    }
}

/* ---- configurations
 * ------------------------------------------------------------------------------------------- */

template <int LAST, int BM, int BN, int MW, int NW, int STAGES> gemm_s8_config config(const char *name)
{
    gemm_s8_config c = { name, BM, BN, MW * NW * 32, (BM + BN) * KB, STAGES };
    c.kernel = (const void *)gemm_s8_kernel<LAST, BM, BN, MW, NW, STAGES>;
    return c;
}

constexpr int CONFIGS = 2;

template <int LAST> gemm_s8_config *table()
{
    static gemm_s8_config all[CONFIGS] = { config<LAST, 128, 96, 4, 1, 3>("128x96"),
                                           config<LAST, 64, 32, 4, 1, 4>("64x32") };
    return all;
}

/* The leanest last step that does what p asks for. */
int last_of(const swin_gemm_s8 *p)
{
    if (p->afters) return S8_AFTERS;
    if (p->local.codes && p->local.bias) return S8_LOCAL;
    if (p->head_scale) return S8_COSINE;
    if (p->residual) return p->y[0].dtype == SWIN_F16 ? S8_RESIDUAL : S8_ANY;
    if (p->parts == 1 && p->y[0].dtype == SWIN_F16 && p->act == SWIN_ACT_NONE) return S8_HALVES;
    for (int i = 0; i < p->parts; i++)
        if (p->y[i].dtype != SWIN_S8 || !swin_s8_lean_shrink(p, i)) return S8_ANY;
    return p->act == SWIN_ACT_NONE ? S8_CODES : p->parts == 1 ? S8_GELU_CODES : S8_ANY;
}

gemm_s8_config *table_of(int last, int *count)
{
    gemm_s8_config *wide = swin_wgmma_s8_table(last, count);
    if (wide) return wide;
    *count = CONFIGS;
    switch (last) {
    case S8_CODES:
        return table<S8_CODES>();
    case S8_GELU_CODES:
        return table<S8_GELU_CODES>();
    case S8_RESIDUAL:
        return table<S8_RESIDUAL>();
    case S8_LOCAL:
        return table<S8_LOCAL>();
    case S8_HALVES:
        return table<S8_HALVES>();
    case S8_COSINE:
        return table<S8_COSINE>();
    case S8_AFTERS:
        return table<S8_AFTERS>();
    default:
        return table<S8_ANY>();
    }
}

/* Dynamic shared memory: a product of few steps needs few stages, and so leaves room for more blocks. */
int shared_of(const gemm_s8_config *c, const swin_gemm_s8 *p)
{
    const int steps = (p->k + KB - 1) / KB;
    return c->stage * (steps < c->stages ? steps : c->stages);
}

cudaError_t get_ready(gemm_s8_config *c)
{
    if (c->ready) return cudaSuccess;
    cudaFuncAttributes a;
    cudaError_t e =
        cudaFuncSetAttribute(c->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, c->stage * c->stages);
    if (e == cudaSuccess) e = cudaFuncGetAttributes(&a, c->kernel);
    if (e != cudaSuccess) return e;
    c->registers = a.numRegs, c->fixed = (int)a.sharedSizeBytes;
    c->ready = true;
    return cudaSuccess;
}

/* Blocks of a configuration that fit a multiprocessor (the sizes of sm_90; others differ little). */
int resident(const gemm_s8_config *c, const swin_gemm_s8 *p)
{
    const int by_shared = (228 << 10) / (shared_of(c, p) + c->fixed + 1024);
    const int by_registers = 65536 / ((c->registers + 7) / 8 * 8 * c->threads),
              by_threads = 2048 / c->threads;
    const int least = by_shared < by_registers ? by_shared : by_registers;
    return least < by_threads ? least : by_threads;
}

int64_t tiles(const gemm_s8_config *c, const swin_gemm_s8 *p)
{
    return (p->m + c->bm - 1) / c->bm * ((p->n + c->bn - 1) / c->bn);
}

/* Waves of blocks times the work of one, with a toll for each tile's start and end. */
cudaError_t choose(gemm_s8_config **best, const swin_gemm_s8 *p, int multiprocessors)
{
    int count;
    gemm_s8_config *table = table_of(last_of(p), &count);
    double least = 0;
    *best = NULL;
    for (int i = 0; i < count; i++) {
        gemm_s8_config *c = &table[i];
        const cudaError_t e = get_ready(c);
        if (e != cudaSuccess) return e;
        const int fit = resident(c, p);
        if (fit < 1) continue;
        const double blocks = (double)tiles(c, p), slots = (double)multiprocessors * fit;
        const double work = (double)(c->bm + 32) * (c->bn + 32) * (p->k + 192);
        const double share = blocks <= slots ? ceil(blocks / multiprocessors) : fit;
        const double waves = blocks <= slots ? 1 : blocks / slots + 0.5;
        const double cost = waves * work * (share < 2 ? 1.4 : share);
        if (!*best || cost < least) *best = c, least = cost;
    }
    return *best ? cudaSuccess : cudaErrorNotSupported;
}

/* Eight neighbours of every part can be stored at once, and operands come in pieces of 16 bytes. */
bool aligned(const swin_gemm_s8 *p)
{
    bool ok = p->k % 16 == 0 && p->ldx % 16 == 0 && (uintptr_t)p->x % 16 == 0 && (uintptr_t)p->w % 16 == 0 &&
              p->n % 8 == 0 && p->width % 8 == 0;
    for (int i = 0; i < p->parts; i++) {
        const swin_s8_part *y = &p->y[i];
        const int piece = y->unit == 1 ? 8 : 16;
        ok = ok && y->ld * y->unit % piece == 0 && (uintptr_t)y->data % (uintptr_t)piece == 0 &&
             (uintptr_t)y->shrink % 16 == 0;
    }
    return ok;
}

/* Heads of 32 columns, every part in codes. */
bool whole_heads(const swin_gemm_s8 *p)
{
    bool ok = p->parts == 3 && p->width % 32 == 0 && p->act == SWIN_ACT_NONE && !p->residual;
    for (int i = 0; i < p->parts; i++) ok = ok && p->y[i].dtype == SWIN_S8;
    return ok || !p->head_scale;
}

} // namespace

extern "C" int swin_gemm_s8_configs(void)
{
    int count;
    table_of(S8_RESIDUAL, &count);
    return count;
}

extern "C" const char *swin_gemm_s8_config_name(int config)
{
    int count;
    return table_of(S8_RESIDUAL, &count)[config].name;
}

extern "C" cudaError_t swin_gemm_s8_launch(cudaStream_t stream, const swin_gemm_s8 *p, int config,
                                           int multiprocessors)
{
    if (p->m == 0 || p->n == 0) return cudaSuccess;
    if (p->k == 0 || !aligned(p) || !whole_heads(p)) return cudaErrorNotSupported;
    int count;
    gemm_s8_config *c = &table_of(last_of(p), &count)[config < 0 ? 0 : config];
    if (config >= count) return cudaErrorNotSupported;
    const cudaError_t e = config < 0 ? choose(&c, p, multiprocessors) : get_ready(c);
    if (e != cudaSuccess) return e;
    const int64_t blocks = tiles(c, p);
    if (blocks > 0x7fffffff) return cudaErrorNotSupported;
    const int shared = shared_of(c, p);
    if (c->boxes)
        return swin_wgmma_s8_launch(stream, p, c, (unsigned)blocks, (size_t)shared, shared / c->stage);
    void *args[] = { (void *)p };
    return chain_launch_pointer(c->kernel, (unsigned)blocks, (unsigned)c->threads, (size_t)shared, stream,
                                args);
}

extern "C" cudaError_t swin_gemm_s8_any_launch(cudaStream_t stream, const swin_gemm_s8 *p)
{
    if (p->m == 0 || p->n == 0) return cudaSuccess;
    if (p->local.codes) return cudaErrorNotSupported;
    if (p->head_scale) return cudaErrorNotSupported;
    gemm_s8_any_kernel<<<swin_blocks(p->m * p->n, 256, 1 << 16), 256, 0, stream>>>(*p);
    return cudaGetLastError();
}
