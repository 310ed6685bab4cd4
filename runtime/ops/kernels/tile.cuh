/* runtime/ops/kernels/tile.cuh - tiles of matrices in shared memory: asynchronous copies, swizzle, fragments,
 * mma.
 *
 * A tile's row is KB bytes (64 or 128) of one matrix row, in chunks of 16 bytes. Chunks are swizzled so that
 * eight consecutive rows of one chunk column lie in eight different groups of four banks: ldmatrix and the
 * SIMT kernel's reads then never collide. The same bytes serve every element type: a step of the tensor cores
 * is 32 bytes of k. */
#pragma once

#include "runtime/ops/kernels/common.cuh"

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define SWIN_HAVE_MMA 1
#else
#define SWIN_HAVE_MMA 0 /* sm_75 lacks cp.async, bfloat16 and m16n8k16 */
#endif

__device__ __forceinline__ unsigned shared_address(const void *p)
{
    return (unsigned)__cvta_generic_to_shared(p);
}

/* 16 bytes from global to shared memory, zeros when not ok (from is then not read, but must be an address).
 */
__device__ __forceinline__ void copy16(unsigned to, const void *from, bool ok)
{
#if SWIN_HAVE_MMA
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(ok ? 16 : 0));
#else
    const uint4 v = ok ? *(const uint4 *)from : make_uint4(0, 0, 0, 0);
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};\n" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z),
                 "r"(v.w));
#endif
}

/* The same with 8 bytes. */
__device__ __forceinline__ void copy8(unsigned to, const void *from, bool ok)
{
#if SWIN_HAVE_MMA
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;\n" ::"r"(to), "l"(from), "r"(ok ? 8 : 0));
#else
    const uint2 v = ok ? *(const uint2 *)from : make_uint2(0, 0);
    asm volatile("st.shared.v2.u32 [%0], {%1, %2};\n" ::"r"(to), "r"(v.x), "r"(v.y));
#endif
}

__device__ __forceinline__ void copy_commit()
{
#if SWIN_HAVE_MMA
    asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}

/* Wait until at most PENDING of this thread's groups are unfinished. */
template <int PENDING> __device__ __forceinline__ void copy_wait()
{
#if SWIN_HAVE_MMA
    asm volatile("cp.async.wait_group %0;\n" ::"n"(PENDING) : "memory");
#endif
}

template <int KB> __device__ __forceinline__ int swizzle(int row, int chunk)
{
    static_assert(KB == 64 || KB == 128, "a row is 64 or 128 bytes");
    return KB == 128 ? chunk ^ (row & 7) : chunk ^ ((row >> 1) & 3);
}

template <int KB> __device__ __forceinline__ unsigned chunk_at(int row, int chunk)
{
    return (unsigned)(row * KB + swizzle<KB>(row, chunk) * 16);
}

/* Queue copies of a tile of ROWS rows; rows past rows_left and bytes past bytes_left (a multiple of 16)
 * become zero. */
template <int ROWS, int KB, int THREADS>
__device__ __forceinline__ void tile_load(unsigned to, const char *from, int64_t pitch, int64_t rows_left,
                                          int bytes_left)
{
    constexpr int CHUNKS = KB / 16;
#pragma unroll
    for (int i = threadIdx.x; i < ROWS * CHUNKS; i += THREADS) {
        const int row = i / CHUNKS, chunk = i % CHUNKS;
        const bool ok = row < rows_left && chunk * 16 < bytes_left;
        copy16(to + chunk_at<KB>(row, chunk), ok ? from + row * pitch + chunk * 16 : from, ok);
    }
}

__device__ __forceinline__ void ldmatrix4(unsigned (&r)[4], unsigned at)
{
#if SWIN_HAVE_MMA
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
#endif
}

__device__ __forceinline__ void ldmatrix4_trans(unsigned (&r)[4], unsigned at)
{
#if SWIN_HAVE_MMA
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
#endif
}

/* The 16-row A fragment of 32 bytes of k, rows from `row`, and the B fragments of two 8-column tiles from
 * `row`. */
template <int KB> __device__ __forceinline__ void load_a(unsigned (&a)[4], unsigned tile, int row, int step)
{
    const int lane = threadIdx.x & 31;
    ldmatrix4(a, tile + chunk_at<KB>(row + (lane & 15), 2 * step + (lane >> 4)));
}
template <int KB> __device__ __forceinline__ void load_b(unsigned (&b)[4], unsigned tile, int row, int step)
{
    const int lane = threadIdx.x & 31;
    ldmatrix4(b, tile + chunk_at<KB>(row + (lane & 7) + (lane >> 4) * 8, 2 * step + ((lane >> 3) & 1)));
}

/* What the tensor cores multiply. T: the type in memory. prepare: an operand's words before the product;
 * prepare_weight: a weight's, which linear_prepare has already rounded. */
struct mma_f16 {
    using T = __half;
    static __device__ __forceinline__ void prepare(unsigned (&)[4]) {}
    static __device__ __forceinline__ void prepare_weight(unsigned (&)[4]) {}
    static __device__ __forceinline__ void run(float (&c)[4], const unsigned (&a)[4], unsigned b0,
                                               unsigned b1)
    {
#if SWIN_HAVE_MMA
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
    }
};

struct mma_bf16 {
    using T = __nv_bfloat16;
    static __device__ __forceinline__ void prepare(unsigned (&)[4]) {}
    static __device__ __forceinline__ void prepare_weight(unsigned (&)[4]) {}
    static __device__ __forceinline__ void run(float (&c)[4], const unsigned (&a)[4], unsigned b0,
                                               unsigned b1)
    {
#if SWIN_HAVE_MMA
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
    }
};

/* Operands are rounded: the tensor cores would cut the low bits off. */
struct mma_tf32 {
    using T = float;
    static __device__ __forceinline__ void prepare(unsigned (&v)[4])
    {
#if SWIN_HAVE_MMA
#pragma unroll
        for (int i = 0; i < 4; i++) asm volatile("cvt.rna.tf32.f32 %0, %0;\n" : "+r"(v[i]));
#endif
    }
    static __device__ __forceinline__ void prepare_weight(unsigned (&)[4]) {}
    static __device__ __forceinline__ void run(float (&c)[4], const unsigned (&a)[4], unsigned b0,
                                               unsigned b1)
    {
#if SWIN_HAVE_MMA
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
    }
};

/* ---- a GEMM's last step
 * ------------------------------------------------------------------------------------- */

/* Elements between the rows of an output tile in shared memory. */
template <int BN> constexpr int out_pitch = BN + 8;

/* The bias of a tile's columns into shared memory, zeros where there is none. */
template <int BN, int THREADS>
__device__ __forceinline__ void load_bias(float *shared, const swin_gemm &p, int n0)
{
    for (int i = threadIdx.x; i < BN; i += THREADS) shared[i] = p.bias && n0 + i < p.n ? p.bias[n0 + i] : 0.f;
}

/* A warp's 16 rows x (8 NT) columns of sums, in the layout of the tensor cores' accumulators, through bias
 * and activation into the staged tile. row, col: where the warp's part begins in the tile. */
template <class T, int BN, int NT>
__device__ __forceinline__ void stage_rows(T *tile, const float *bias, float (&acc)[NT][4], swin_act act,
                                           int row, int col)
{
    const int lane = threadIdx.x & 31;
    row += lane / 4, col += lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < NT; j++) {
        const float2 b = *reinterpret_cast<const float2 *>(bias + col + 8 * j);
        acc[j][0] += b.x, acc[j][1] += b.y, acc[j][2] += b.x, acc[j][3] += b.y;
    }
    if (act == SWIN_ACT_GELU) {
#pragma unroll
        for (int j = 0; j < NT; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) acc[j][e] = gelu<T>(acc[j][e]);
    }
#pragma unroll
    for (int j = 0; j < NT; j++) {
        T *at = tile + row * out_pitch<BN> + col + 8 * j;
        if constexpr (sizeof(T) == 4) {
            *reinterpret_cast<float2 *>(at) = make_float2(acc[j][0], acc[j][1]);
            *reinterpret_cast<float2 *>(at + 8 * out_pitch<BN>) = make_float2(acc[j][2], acc[j][3]);
        } else {
            *reinterpret_cast<unsigned *>(at) = pack2<T>(acc[j][0], acc[j][1]);
            *reinterpret_cast<unsigned *>(at + 8 * out_pitch<BN>) = pack2<T>(acc[j][2], acc[j][3]);
        }
    }
}

/* The staged tile to memory: stored, or added to the residual (rounded once more, as a separate add would).
 * thread: of the THREADS that share the work. */
template <class T, int BM, int BN, int THREADS>
__device__ __forceinline__ void store_tile(const T *tile, const swin_gemm &p, int64_t m0, int n0, int thread)
{
    constexpr int V = vec<T>::n, PIECES = BM * BN / V, EACH = (PIECES + THREADS - 1) / THREADS;
    constexpr int BATCH = EACH % 4 == 0 ? 4 : EACH % 3 == 0 ? 3 : EACH % 2 == 0 ? 2 : 1;
    const int64_t rows = p.m - m0;
    if (p.n % V == 0 && p.ldy % V == 0 && (size_t)p.y % 16 == 0) {
        for (int first = 0; first < EACH; first += BATCH) {
            T *at[BATCH];
            uint4 old[BATCH];
#pragma unroll
            for (int k = 0; k < BATCH; k++) { /* all reads of the residual first: they take the longest */
                const int i = thread + (first + k) * THREADS, row = i / (BN / V), col = i % (BN / V) * V;
                at[k] = NULL;
                if (i >= PIECES || row >= rows || n0 + col >= p.n) continue;
                const int64_t to = p.windows ? window_source(p.g, m0 + row) : m0 + row;
                at[k] = (T *)p.y + to * p.ldy + n0 + col;
                if (p.residual) old[k] = *reinterpret_cast<const uint4 *>(at[k]);
            }
#pragma unroll
            for (int k = 0; k < BATCH; k++) {
                const int i = thread + (first + k) * THREADS, row = i / (BN / V), col = i % (BN / V) * V;
                if (!at[k]) continue;
                uint4 raw = *reinterpret_cast<const uint4 *>(tile + row * out_pitch<BN> + col);
                if (p.residual) {
                    vec<T> a, b;
                    a.from(old[k]), b.from(raw);
#pragma unroll
                    for (int e = 0; e < V; e++) a.v[e] += b.v[e];
                    raw = a.raw();
                }
                *reinterpret_cast<uint4 *>(at[k]) = raw;
            }
        }
        return;
    }
    for (int i = thread; i < BM * BN; i += THREADS) {
        const int row = i / BN, col = i % BN;
        if (row >= rows || n0 + col >= p.n) continue;
        const int64_t to = p.windows ? window_source(p.g, m0 + row) : m0 + row;
        T *at = (T *)p.y + to * p.ldy + n0 + col;
        const T v = tile[row * out_pitch<BN> + col];
        *at = p.residual ? from_float<T>(to_float(*at) + to_float(v)) : v;
    }
}
