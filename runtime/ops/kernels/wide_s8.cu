/* Products with many more outputs than inputs (qkv, Swin V2's too, and fc1), on Hopper: y = codes(act(w codes + bias)).
 *
 * One block stays on each multiprocessor and goes through its share of the output's tiles, columns first, so
 * the 192 rows of x at hand lie in shared memory until all of their columns are made, while the weight
 * streams past. Warpgroups own 64 rows and all or half of a tile's columns each, and wait for one another
 * through the ring of the weight's tiles, and where that is long enough in turns: while one rounds and stores,
 * the tensor cores work for the others. One thread more asks for the tiles.
 *
 * Floor of fc1 of 384 channels at 64 images of 224 pixels (Swin-T): 14.8 GOP, 10 us at 1.5 POP/s; GELU and
 * codes, 15 instructions for each of 19 M values, 10 us; from L2 70 MB, 12 us. */
#include "runtime/ops/kernels/box.cuh"
#include "runtime/ops/kernels/gemm.cuh"
#include "runtime/ops/kernels/last_s8.cuh"
#include "runtime/ops/kernels/wgmma_s8.cuh"

#pragma nv_diag_suppress 177 /* code for other chips uses nothing of this */

namespace
{

constexpr int BANDS = 3, BM = 64 * BANDS, BN = 128, KB = 128, MOST_STAGES = 8, MOST_PANELS = 6;

/* PANELS of 128 codes of k; SPLIT warpgroups side by side in each band of 64 rows. TURNS: bands multiply one
 * after the other. Shared memory: the rows' panels, the ring, factors and biases of all columns. */
template <int PANELS_, int SPLIT_, bool TURNS_> struct wide_shape {
    static constexpr int PANELS = PANELS_, SPLIT = SPLIT_;
    static constexpr bool TURNS = TURNS_;
    static constexpr int WG = BANDS * SPLIT, COLS = BN / SPLIT, CONSUMERS = 128 * WG,
                         THREADS = CONSUMERS + 128;
    static constexpr int PANEL = BM * KB, ROWS = PANELS * PANEL, TILE = BN * KB, MOST = 225 << 10;
    static constexpr int stages(int n)
    {
        const int fit = (MOST - ROWS - n * 8) / TILE;
        return fit < MOST_STAGES ? fit : MOST_STAGES;
    }
};

struct wide_memory {
    unsigned rows, tiles;                              /* addresses */
    unsigned full, empty, rows_full, rows_empty, turn; /* barriers */
    int stages;
};

/* Tiles of the output in the order of the blocks: `pieces` of columns for each BM rows. */
struct wide_work {
    int first, last, pieces;
};

/* A place in the ring and the parity of its phase. */
struct place {
    int slot;
    unsigned parity;

    __device__ __forceinline__ void next(int stages)
    {
        if (++slot == stages) slot = 0, parity ^= 1;
    }
};

/* One thread: rows where they change, and the weight's tiles, in the order in which they are used. */
template <class S>
__device__ __forceinline__ void feed(const wide_memory &s, const CUtensorMap *x, const CUtensorMap *w,
                                     const wide_work &work)
{
    place at = { 0, 1 }; /* a new barrier counts as one whose phase before has ended */
    unsigned rows_parity = 1;
    int asked = 0; /* of the weight, before the kernel before has ended */
    const int ahead = min(s.stages, (work.last - work.first) * S::PANELS);
    for (; asked < ahead; asked++) {
        barrier_expect(s.full + 8 * asked, S::TILE);
        box_copy(s.tiles + asked * S::TILE, w, asked % S::PANELS * KB,
                 (work.first + asked / S::PANELS) % work.pieces * BN, s.full + 8 * asked);
    }
    chain_wait();
    int count = 0, piece = work.first % work.pieces, row = work.first / work.pieces * BM;
    for (int unit = work.first; unit < work.last; unit++) {
        if (unit == work.first || piece == 0) {
            barrier_wait(s.rows_empty, rows_parity);
            rows_parity ^= 1;
            for (int panel = 0; panel < S::PANELS; panel++) {
                barrier_expect(s.rows_full + 8 * panel, S::PANEL);
                for (int part = 0; part < BANDS; part++)
                    box_copy(s.rows + panel * S::PANEL + part * 64 * KB, x, panel * KB, row + 64 * part,
                             s.rows_full + 8 * panel);
            }
        }
        for (int panel = 0; panel < S::PANELS; panel++, count++) {
            if (count >= asked) {
                barrier_wait(s.empty + 8 * at.slot, at.parity);
                barrier_expect(s.full + 8 * at.slot, S::TILE);
                box_copy(s.tiles + at.slot * S::TILE, w, panel * KB, piece * BN, s.full + 8 * at.slot);
            }
            at.next(s.stages);
        }
        if (++piece == work.pieces) piece = 0, row += BM;
    }
}

/* One tile's sums. fresh: its rows have just been asked for. */
template <class S>
__device__ __forceinline__ void multiply(int (&acc)[S::COLS / 8][4], const wide_memory &s, place &at,
                                         int band, int part, bool fresh, unsigned rows_parity,
                                         unsigned turn_parity, bool leader)
{
    int before = 0;
    if (S::TURNS) barrier_wait(s.turn + 8 * band, turn_parity);
#pragma unroll
    for (int panel = 0; panel < S::PANELS; panel++) {
        if (fresh) barrier_wait(s.rows_full + 8 * panel, rows_parity);
        barrier_wait(s.full + 8 * at.slot, at.parity);
        const uint64_t a = wgmma_operand(s.rows + panel * S::PANEL + band * 64 * KB),
                       b = wgmma_operand(s.tiles + at.slot * S::TILE + part * S::COLS * KB);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < 4; step++)
            wgmma_s8<S::COLS>::run(acc, a + 2 * step, b + 2 * step, panel + step > 0);
        wgmma_commit();
        if (panel > 0) {
            wgmma_wait<1>();
            if (leader) barrier_arrive(s.empty + 8 * before);
        }
        before = at.slot;
        at.next(s.stages);
    }
    if (S::TURNS && leader) barrier_arrive(s.turn + 8 * (band + 1 < BANDS ? band + 1 : 0));
    wgmma_wait<0>();
    if (leader) barrier_arrive(s.empty + 8 * before);
}

template <int LAST, class S>
__device__ __forceinline__ void consume(const swin_gemm_s8 &p, const wide_memory &s, const float *alpha,
                                        const float *bias, const wide_work &work)
{
    const int group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0), band = group % BANDS,
              part = group / BANDS;
    const bool leader = threadIdx.x % 32 == 0;
    place at = { 0, 0 };
    unsigned rows_parity = 1, turn_parity = band == 0;
    int piece = work.first % work.pieces;
    int64_t row = (int64_t)(work.first / work.pieces) * BM + band * 64 + threadIdx.x / 32 % 4 * 16 +
                  threadIdx.x % 32 / 4;
    for (int unit = work.first; unit < work.last; unit++) {
        const bool fresh = unit == work.first || piece == 0;
        if (fresh) rows_parity ^= 1;
        int acc[S::COLS / 8][4];
        multiply<S>(acc, s, at, band, part, fresh, rows_parity, turn_parity, leader);
        turn_parity ^= 1;
        const int n = piece * BN + part * S::COLS;
        const int64_t here = row;
        if (++piece == work.pieces) {
            piece = 0, row += BM;
            if (leader && unit + 1 < work.last) barrier_arrive(s.rows_empty);
        }
        if constexpr (LAST == S8_COSINE) {
            const int64_t rows[2] = { here < p.m ? here : -1, here + 8 < p.m ? here + 8 : -1 };
            s8_finish_heads<S::COLS / 8>(p, acc, alpha, bias, rows, n, 0);
        } else {
            const s8_spot to = s8_spot_of<LAST>(p, here, n);
            const int col = n + 8 * (threadIdx.x & 3);
            s8_finish_whole<LAST, S::COLS / 8>(p, acc, alpha + col, bias + col, to, s8_span_of(to.rule));
        }
    }
}

template <int LAST, class S>
__global__ void __launch_bounds__(S::THREADS, 1)
    wide_s8_kernel(const __grid_constant__ swin_gemm_s8 p, const __grid_constant__ CUtensorMap x,
                   const __grid_constant__ CUtensorMap w, int stages)
{
#if SWIN_HAVE_WGMMA
    extern __shared__ __align__(1024) char smem_base[];
    __shared__ __align__(8) uint64_t barriers[2 * MOST_STAGES + MOST_PANELS + 1 + BANDS];
    const int pieces = p.n / BN;
    const int64_t units = (p.m + BM - 1) / BM * pieces;
    const wide_work work = { (int)(units * blockIdx.x / gridDim.x),
                             (int)(units * (blockIdx.x + 1) / gridDim.x), pieces };
    float *alpha = (float *)(smem_base + S::ROWS + stages * S::TILE), *bias = alpha + p.n;
    wide_memory s = { shared_address(smem_base), shared_address(smem_base) + S::ROWS,
                      shared_address(barriers) };
    s.empty = s.full + 8 * MOST_STAGES, s.rows_full = s.empty + 8 * MOST_STAGES,
    s.rows_empty = s.rows_full + 8 * MOST_PANELS, s.turn = s.rows_empty + 8;
    s.stages = stages;

    if (threadIdx.x == 0) {
        for (int i = 0; i < stages; i++) {
            barrier_init(s.full + 8 * i, 1);
            barrier_init(s.empty + 8 * i, 4 * S::WG); /* the warps that read */
        }
        for (int i = 0; i < S::PANELS; i++) barrier_init(s.rows_full + 8 * i, 1);
        for (int i = 0; i < BANDS; i++) barrier_init(s.turn + 8 * i, 4 * S::SPLIT);
        barrier_init(s.rows_empty, 4 * S::WG);
        barrier_init_done();
    }
    __syncthreads();
    if (threadIdx.x >= S::CONSUMERS) {
        registers_give<24>();
        chain_start();
        if (threadIdx.x == S::CONSUMERS) feed<S>(s, &x, &w, work);
    } else {
        registers_take<S::WG == 6 ? 80 : 160>();
        for (int i = threadIdx.x; i < p.n; i += S::CONSUMERS) {
            const float2 line = s8_line<LAST>(p, i);
            alpha[i] = line.x, bias[i] = line.y;
        }
        threads_sync(1, S::CONSUMERS);
        chain_wait();
        consume<LAST, S>(p, s, alpha, bias, work);
    }
#endif
}

template <int LAST, class S>
cudaError_t launch(cudaStream_t stream, const swin_gemm_s8 *p, int multiprocessors)
{
    static bool ready;
    const void *kernel = (const void *)wide_s8_kernel<LAST, S>;
    int stages = S::stages(p->n);
    const int64_t units = (p->m + BM - 1) / BM * (p->n / BN);
    CUtensorMap x, w;
    /* A band whose turn it is needs all panels of a tile; those that wait for theirs still hold them. */
    if (stages < (S::TURNS ? S::PANELS + 1 : 3) || units > 0x7fffffff / BM ||
        !swin_codes_map(&x, p->x, p->m, p->k, p->ldx, 64) ||
        !swin_codes_map(&w, p->dealt, p->n, p->k, p->k, BN))
        return cudaErrorNotSupported;
    if (!ready) {
        const cudaError_t e =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::MOST);
        if (e != cudaSuccess) return e;
        ready = true;
    }
    void *args[] = { (void *)p, &x, &w, &stages };
    return chain_launch_pointer(kernel, (unsigned)(units < multiprocessors ? units : multiprocessors),
                                S::THREADS, (size_t)(S::ROWS + stages * S::TILE + p->n * 8), stream, args);
}

/* Shapes as measured on an H100. The rows of six panels leave the ring too short for turns. */
template <int LAST> cudaError_t pick(cudaStream_t stream, const swin_gemm_s8 *p, int multiprocessors)
{
    switch (p->k) {
    case 384:
        return launch<LAST, wide_shape<3, 2, true>>(stream, p, multiprocessors);
    case 512:
        return launch<LAST, wide_shape<4, 1, true>>(stream, p, multiprocessors);
    case 768:
        return launch<LAST, wide_shape<6, 2, false>>(stream, p, multiprocessors);
    default:
        return cudaErrorNotSupported;
    }
}

} // namespace

extern "C" cudaError_t swin_wide_s8_launch(cudaStream_t stream, const swin_gemm_s8 *p, int multiprocessors)
{
    if (p->m == 0) return cudaSuccess;
    if (!swin_wgmma_available() || p->n % 128 != 0 || p->zero_share || p->residual || p->afters ||
        p->ldx % 16 != 0 || (uintptr_t)p->x % 16 != 0)
        return cudaErrorNotSupported;
    for (int i = 0; i < p->parts; i++)
        if (p->y[i].dtype != SWIN_S8 || p->y[i].ld % 8 != 0 || (uintptr_t)p->y[i].data % 8 != 0 ||
            p->width % 128 != 0 || !swin_s8_lean_shrink(p, i))
            return cudaErrorNotSupported;
    /* A few tiles would leave most of the chip idle. */
    if (p->m < 16 * (int64_t)multiprocessors) return cudaErrorNotSupported;
    if (p->head_scale)
        return p->parts == 3 ? pick<S8_COSINE>(stream, p, multiprocessors) : cudaErrorNotSupported;
    if (p->act == SWIN_ACT_NONE) return pick<S8_CODES>(stream, p, multiprocessors);
    return p->parts == 1 ? pick<S8_GELU_CODES>(stream, p, multiprocessors) : cudaErrorNotSupported;
}
