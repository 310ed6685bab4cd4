/* LayerNorm and the product that reads it in one kernel, on Hopper: y = codes(w codes(LN x) + bias), with
 * or without GELU. Or the product alone, to Swin V2's q, k, v.
 *
 * A block normalises its rows once, keeps them in shared memory as codes, and goes through its share of
 * the weight's rows in pieces, the next one under way while it multiplies. Several blocks share the rows
 * where there are few of them.
 *
 * Floor of qkv in stage 0 at 64 images of 224 pixels (Swin-T): 39 MB read and 58 MB written, 32 us at 3
 * TB/s; the normalised rows, 19 MB written and read, are what the fusion saves. */
#include "runtime/ops/kernels/fused_s8.cuh"
#include "runtime/ops/kernels/gemm.cuh"
#include "runtime/ops/kernels/last_s8.cuh"

#pragma nv_diag_suppress 177 /* code for other chips uses nothing of this */

namespace
{

template <int C, int WG> struct norm_shape {
    static constexpr int ROWS = 64 * WG, THREADS = 128 * WG, BLOCKS = (C + 127) / 128, STEPS = C / 32;
    static constexpr int BN = C == 96 ? 96 : 64; /* columns of a piece: 3 C and 4 C are whole numbers of it */
    static constexpr int A = BLOCKS * ROWS * 128, PIECE = BLOCKS * BN * 128;
};

template <int C, class S> __device__ __forceinline__ void load_piece(unsigned to, const int8_t *w)
{
#pragma unroll
    for (int i = threadIdx.x; i < S::BN * 8; i += S::THREADS) {
        const int row = i / 8, chunk = i % 8;
#pragma unroll
        for (int block = 0; block < S::BLOCKS; block++)
            if (block * 128 + 128 <= C || block * 128 + chunk * 16 < C)
                copy16(to + block * S::BN * 128 + chunk_at<128>(row, chunk),
                       w + s8_column(row) * C + block * 128 + chunk * 16, true);
    }
}

/* LAST of S8_COSINE: rows of codes, no norm. */
template <int LAST, int C, int WG, int FIT, bool LOCAL>
__global__ void __launch_bounds__(128 * WG, FIT)
    norm_gemm_s8_kernel(const __grid_constant__ swin_norm_gemm_s8 p, int splits, int pieces)
{
#if SWIN_HAVE_WGMMA
    using S = norm_shape<C, WG>;
    extern __shared__ __align__(1024) char smem_base[];
    const unsigned smem = shared_address(smem_base), ring = smem + S::A;
    const int64_t m0 = (int64_t)(blockIdx.x / splits) * S::ROWS;
    const int first = blockIdx.x % splits * pieces, n0 = first * S::BN;
    const int count = min(pieces, p.gemm.n / S::BN - first), cols = pieces * S::BN;
    float *alpha = (float *)(smem_base + S::A + 2 * S::PIECE), *bias = alpha + cols;
    const int8_t *w = p.gemm.w + (int64_t)n0 * C;

    load_piece<C, S>(ring, w);
    copy_commit();
    for (int i = threadIdx.x; i < count * S::BN; i += S::THREADS) {
        const float2 line = s8_line<LAST>(p.gemm, n0 + i);
        alpha[i] = line.x, bias[i] = line.y;
    }
    chain_wait();
    if constexpr (LAST == S8_COSINE) {
        copy_rows<C, S::ROWS, S::THREADS>(smem, p.gemm, m0);
        copy_commit();
    } else {
        fused_norm<C, S::ROWS, S::THREADS, LOCAL>(smem_base, (const __half *)p.x, p.ldx, m0, p.gemm.m, p.norm,
                                                  p.input, p.gemm.local);
    }

    const int64_t row = m0 + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
    const unsigned a = smem + threadIdx.x / 128 * 64 * 128;
    for (int piece = 0; piece < count; piece++) {
        const unsigned stage = ring + (piece & 1) * S::PIECE;
        copy_wait<0>();
        fence_async_proxy();
        /* The piece is there for all, and all are done with the last one, whose place is filled now. */
        __syncthreads();
        if (piece + 1 < count)
            load_piece<C, S>(ring + (~piece & 1) * S::PIECE, w + (int64_t)(piece + 1) * S::BN * C);
        copy_commit();
        int acc[S::BN / 8][4];
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < S::STEPS; step++)
            wgmma_s8<S::BN>::run(acc, wgmma_operand(a + step / 4 * S::ROWS * 128) + 2 * (step % 4),
                                 wgmma_operand(stage + step / 4 * S::BN * 128) + 2 * (step % 4), step > 0);
        wgmma_commit();
        wgmma_wait<0>();
        if constexpr (LAST == S8_COSINE) {
            const int64_t rows[2] = { row < p.gemm.m ? row : -1, row + 8 < p.gemm.m ? row + 8 : -1 };
            s8_finish_heads<S::BN / 8>(p.gemm, acc, alpha, bias, rows, piece * S::BN, n0);
        } else {
            const int col = piece * S::BN + 8 * (threadIdx.x & 3);
            const s8_spot at = s8_spot_of<LAST>(p.gemm, row, n0 + piece * S::BN);
            s8_finish_whole<LAST, S::BN / 8>(p.gemm, acc, alpha + col, bias + col, at, s8_span_of(at.rule));
        }
    }
#endif
}

template <int LAST, int C, int WG, int FIT, bool LOCAL>
cudaError_t launch(cudaStream_t stream, const swin_norm_gemm_s8 *p, int multiprocessors)
{
    using S = norm_shape<C, WG>;
    static bool ready;
    constexpr int FIXED = S::A + 2 * S::PIECE, MOST = 4 * C / S::BN;
    const int total = p->gemm.n / S::BN;
    const int64_t tiles = (p->gemm.m + S::ROWS - 1) / S::ROWS;
    int64_t splits = FIT * multiprocessors / tiles; /* as many blocks as run at once */
    splits = splits < 1 ? 1 : splits > total ? total : splits;
    const int pieces = (int)((total + splits - 1) / splits);
    splits = (total + pieces - 1) / pieces;
    if (tiles * splits > 0x7fffffff) return cudaErrorNotSupported;
    if (!ready) {
        const cudaError_t e = cudaFuncSetAttribute(norm_gemm_s8_kernel<LAST, C, WG, FIT, LOCAL>,
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   FIXED + MOST * S::BN * 8);
        if (e != cudaSuccess) return e;
        ready = true;
    }
    int share = (int)splits, each = pieces;
    void *args[] = { (void *)p, &share, &each };
    return chain_launch_pointer((const void *)norm_gemm_s8_kernel<LAST, C, WG, FIT, LOCAL>,
                                (unsigned)(tiles * splits), S::THREADS, (size_t)(FIXED + pieces * S::BN * 8),
                                stream, args);
}

template <int LAST> cudaError_t pick(cudaStream_t stream, const swin_norm_gemm_s8 *p, int sms)
{
    if (p->gemm.local.codes) /* shorter rows stay in tail_s8.cu's registers */
        return LAST == S8_GELU_CODES && p->gemm.k == 192
                   ? launch<S8_GELU_CODES, 192, 2, 2, true>(stream, p, sms)
                   : cudaErrorNotSupported;
    switch (p->gemm.k) {
    case 96:
        return launch<LAST, 96, 2, 3, false>(stream, p, sms);
    case 128:
        return launch<LAST, 128, 2, 3, false>(stream, p, sms);
    case 192:
        return launch<LAST, 192, 2, 2, false>(stream, p, sms);
    default:
        return cudaErrorNotSupported;
    }
}

/* Columns of codes that can be stored in eights. */
bool takes(const swin_gemm_s8 *g)
{
    if ((g->n != 3 * g->k && g->n != 4 * g->k) || g->width % 8 != 0 || (uintptr_t)g->w % 16 != 0 ||
        g->zero_share || g->residual || g->afters)
        return false;
    for (int i = 0; i < g->parts; i++)
        if (g->y[i].dtype != SWIN_S8 || g->y[i].ld % 8 != 0 || (uintptr_t)g->y[i].data % 8 != 0 ||
            !swin_s8_lean_shrink(g, i))
            return false;
    return true;
}

} // namespace

extern "C" cudaError_t swin_heads_gemm_s8_launch(cudaStream_t stream, const swin_gemm_s8 *p,
                                                 int multiprocessors)
{
    if (p->m == 0) return cudaSuccess;
    if (!p->head_scale || p->parts != 3 || p->n != 3 * p->k || !swin_wgmma_available() || !takes(p) ||
        p->local.codes || p->ldx % 16 != 0 || (uintptr_t)p->x % 16 != 0)
        return cudaErrorNotSupported;
    const swin_norm_gemm_s8 all = { .gemm = *p };
    return pick<S8_COSINE>(stream, &all, multiprocessors);
}

extern "C" cudaError_t swin_norm_gemm_s8_launch(cudaStream_t stream, const swin_norm_gemm_s8 *p,
                                                int multiprocessors)
{
    const swin_gemm_s8 *g = &p->gemm;
    if (g->m == 0) return cudaSuccess;
    if (!swin_wgmma_available()) return cudaErrorNotSupported;
    if (!takes(g) || g->head_scale || p->ldx % 8 != 0 || (uintptr_t)p->x % 16 != 0)
        return cudaErrorNotSupported;
    if (g->act == SWIN_ACT_NONE) return pick<S8_CODES>(stream, p, multiprocessors);
    return g->parts == 1 ? pick<S8_GELU_CODES>(stream, p, multiprocessors) : cudaErrorNotSupported;
}
