/* All of a block after attention in one kernel, on Hopper: proj, the residual add, LayerNorm, fc1, GELU,
 * fc2 and the residual add, for the row lengths of mlp_s8.cu. In V2 LayerNorm follows either product.
 *
 * A block's warps hold whole rows of a product, four lanes a row, so LayerNorm needs no more than shuffles
 * in fours, and its codes go to where fc1 reads them: x between the halves passes through memory once, for
 * the sum at the end, and is read by the thread that wrote it. Proj's weight lies in the stages of the
 * ring that the MLP fills last.
 *
 * Bytes of a token, in C of them, x between the halves not counted: V1 5 (9 by proj and the MLP's kernel),
 * V2 with codes for the next block 6 (28 by its five kernels).
 *
 * Sums over a row are in the order of the kernels that do the same elsewhere (norm_s8.cuh for V1, norm.cuh
 * for V2): which of them ran must not show. */
#include "runtime/ops/kernels/mlp_s8.cuh"

#pragma nv_diag_suppress 177 /* code for other chips uses nothing of this */

namespace
{

/* A thread's columns of a row of x, as they lie in memory. Rows past the end are read as the first. */
template <int C> struct row_of_x {
    __half *at;
    bool live;
    uint4 raw[C / 32];

    __device__ __forceinline__ row_of_x(const swin_tail_s8 &p, int64_t row)
    {
        const swin_s8_part &y = p.mlp.fc2.y[0];
        live = row < p.proj.m;
        at = (__half *)y.data + (live ? row : 0) * y.ld + 8 * (threadIdx.x & 3);
    }
    __device__ __forceinline__ void load()
    {
#pragma unroll
        for (int q = 0; q < C / 32; q++) raw[q] = *(const uint4 *)(at + 32 * q);
    }
    /* v += x */
    __device__ __forceinline__ void add_to(float (&v)[C / 32][8]) const
    {
#pragma unroll
        for (int q = 0; q < C / 32; q++) {
            vec<__half> a;
            a.from(raw[q]);
#pragma unroll
            for (int k = 0; k < 8; k++) v[q][k] += a.v[k];
        }
    }
    __device__ __forceinline__ void store(int q, uint4 sum)
    {
        if (live) *(uint4 *)(at + 32 * q) = sum;
    }
};

/* Queue copies of proj's weight. */
template <int C, int WG> __device__ __forceinline__ void load_proj(unsigned to, const int8_t *w)
{
    using S = mlp_shape<C, WG>;
#pragma unroll
    for (int i = threadIdx.x; i < C * 8; i += S::THREADS) {
        const int row = i / 8, chunk = i % 8;
#pragma unroll
        for (int block = 0; block < S::BLOCKS; block++)
            if (block * 128 + 128 <= C || block * 128 + chunk * 16 < C)
                copy16(to + block * C * 128 + chunk_at<128>(row, chunk),
                       w + s8_column(row) * C + block * 128 + chunk * 16, true);
    }
}

/* Factors of a product's columns, for values_of. */
template <int C, int THREADS>
__device__ __forceinline__ void load_lines(float *alpha, float *bias, const swin_gemm_s8 &p,
                                           const swin_s8_rounding &r)
{
    if (r.step > 0)
        s8_load_factors<S8_CODES, C, THREADS, true>(alpha, bias, p, 0);
    else
        s8_load_factors<S8_RESIDUAL, C, THREADS, true>(alpha, bias, p, 0);
}

/* Sums of a row to values: v[q] are columns 32 q + 8 t and up of row 8 * half + lane / 4 of the warp's 16. ROUNDED: r.step is
 * not 0. */
template <int C, bool ROUNDED>
__device__ __forceinline__ void values_of(float (&v)[C / 32][8], const int (&acc)[C / 8][4], int half,
                                          const float *alpha, const float *bias, const swin_gemm_s8 &p,
                                          const swin_s8_rounding &r)
{
    const s8_span to = s8_span_of(p.y[0].rule);
#pragma unroll
    for (int q = 0; q < C / 32; q++) {
        const int col = 32 * q + 8 * (threadIdx.x & 3);
        float(&x)[8] = v[q];
        int sum[8];
        __syncwarp(); /* no reads for later ones yet: registers */
#pragma unroll
        for (int k = 0; k < 8; k++) sum[k] = acc[4 * q + k / 2][2 * half + k % 2];
        if constexpr (ROUNDED) {
#pragma unroll
            for (int k = 0; k < 8; k++) {
                const float share = s8_share((float)sum[k], alpha[col + k], bias[col + k]);
                x[k] =
                    fmaf(s8_code_of_share(share, to.lo, to.hi) - S8_MAGIC, r.step, __ldg(r.bias + col + k));
            }
        } else {
            s8_values_of<false>(x, sum, alpha + col, bias + col, 0);
        }
    }
}

__device__ __forceinline__ void round_to_half(float (&v)[8])
{
    vec<__half> h;
    h.from(s8_halves<__half>(v));
#pragma unroll
    for (int k = 0; k < 8; k++) v[k] = h.v[k];
}

/* A row's sum from its lanes' shares, `each` vectors a share. V1: vectors side by side make a share, and
 * neighbours add first. V2: every other vector, and the farthest lanes first. */
template <int C, bool V2, class SHARE> __device__ __forceinline__ float row_sum(SHARE share)
{
    constexpr int SHARES = fused_group<C> / 4, EACH = C / 32 / SHARES;
    static_assert(SHARES == 1 || SHARES == 2, "lanes of a row elsewhere: four or eight");
    float sum[SHARES] = {};
#pragma unroll
    for (int s = 0; s < SHARES; s++)
#pragma unroll
        for (int i = 0; i < EACH; i++) sum[s] = share(sum[s], V2 ? SHARES * i + s : EACH * s + i);
    if constexpr (V2) {
        float all = SHARES == 2 ? sum[0] + sum[SHARES - 1] : sum[0];
        all += __shfl_xor_sync(0xffffffffu, all, 2);
        return all + __shfl_xor_sync(0xffffffffu, all, 1);
    } else {
#pragma unroll
        for (int s = 0; s < SHARES; s++) {
            sum[s] += __shfl_xor_sync(0xffffffffu, sum[s], 1);
            sum[s] += __shfl_xor_sync(0xffffffffu, sum[s], 2);
        }
        return SHARES == 2 ? sum[0] + sum[SHARES - 1] : sum[0];
    }
}

/* In place; gamma and beta lie in shared memory. */
template <int C, bool V2> __device__ __forceinline__ void normalise(float (&v)[C / 32][8], const swin_norm &n)
{
    const float sum = row_sum<C, V2>([&](float s, int q) { return s8_add8(s, v[q]); }),
                mean = V2 ? sum / (float)C : sum * (1.f / C);
    const float squares = row_sum<C, V2>([&](float s, int q) { return s8_add8_squares(s, v[q], mean); });
    const float factor = V2 ? 1.f / sqrtf(squares / (float)C + n.eps) : rsqrtf(fmaf(squares, 1.f / C, n.eps));
#pragma unroll
    for (int q = 0; q < C / 32; q++) {
        __syncwarp(); /* no reads for later ones yet: registers */
        s8_normalise8<true>(v[q], n, 32 * q + 8 * (threadIdx.x & 3), factor);
    }
}

/* A row's codes to where fc1 reads them. */
template <int C, int ROWS>
__device__ __forceinline__ void store_operand(char *a, int row, const float (&v)[C / 32][8],
                                              const swin_s8_rule &rule)
{
    const int t = threadIdx.x & 3;
#pragma unroll
    for (int q = 0; q < C / 32; q++) {
        const int at = 4 * q + t;
        *(uint2 *)(a + at / 16 * ROWS * 128 + chunk_at<128>(row, at % 16 / 2) + at % 2 * 8) =
            make_uint2(s8_codes4(v[q], rule), s8_codes4(v[q] + 4, rule));
    }
}

/* V1: v is proj's product. x += v, and v becomes x as LayerNorm is to see it. */
template <int C, bool REST>
__device__ __forceinline__ void add_to_stream(float (&v)[C / 32][8], row_of_x<C> &x)
{
    x.add_to(v);
#pragma unroll
    for (int q = 0; q < C / 32; q++) {
        const uint4 sum = s8_halves<__half>(v[q]);
        x.store(q, sum);
        if (!REST) continue;
        vec<__half> h;
        h.from(sum);
#pragma unroll
        for (int k = 0; k < 8; k++)
            v[q][k] = s8_with_rest(h.v[k], min(max(s8_rest(v[q][k], h.v[k]), -128), 127));
    }
}

/* V2: v is a product. x += LN(v), and v becomes the sum before it is rounded. x is read here: LayerNorm takes long. */
template <int C, bool ROUNDED>
__device__ __forceinline__ void add_normalised(float (&v)[C / 32][8], row_of_x<C> &x, const swin_norm &n)
{
#pragma unroll
    for (int q = 0; q < C / 32; q++)
        if (!ROUNDED) round_to_half(v[q]); /* as a product in memory is */
    __syncwarp();
    x.load();
    normalise<C, true>(v, n);
    x.add_to(v);
#pragma unroll
    for (int q = 0; q < C / 32; q++) x.store(q, s8_halves<__half>(v[q]));
}

/* Factors of proj's columns, gamma and beta of its norm, of V2's last: past those of the MLP. */
template <int C, int WG> struct tail_factors {
    static constexpr int BYTES = 6 * C * 4;
    float *alpha, *bias, *norm, *last;
    __device__ __forceinline__ explicit tail_factors(const mlp_factors<C, WG> &f)
    {
        alpha = (float *)(f.start + C), bias = alpha + C, norm = bias + C, last = norm + 2 * C;
    }
    __device__ __forceinline__ void load(const swin_tail_s8 &p, bool v2) const
    {
        constexpr int THREADS = mlp_shape<C, WG>::THREADS;
        load_lines<C, THREADS>(alpha, bias, p.proj, p.proj_rounding);
        for (int i = threadIdx.x; i < C; i += THREADS) {
            norm[i] = p.mlp.norm.gamma[i], norm[C + i] = p.mlp.norm.beta[i];
            if (v2) last[i] = p.last.gamma[i], last[C + i] = p.last.beta[i];
        }
    }
};

/* A thread's first row. */
template <int C, int WG> __device__ __forceinline__ int64_t first_row()
{
    return (int64_t)blockIdx.x * mlp_shape<C, WG>::ROWS + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
}

/* What follows proj, up to fc1's input. x: the first row; in V1 its values are on their way. */
template <int C, int WG, bool V2, bool ROUNDED>
__device__ __forceinline__ void between(char *smem_base, const int (&acc)[C / 8][4],
                                        const tail_factors<C, WG> &f, row_of_x<C> x, const swin_tail_s8 &p)
{
    const swin_norm n = { f.norm, f.norm + C, p.mlp.norm.eps };
#pragma unroll
    for (int half = 0; half < 2; half++) {
        if (half) {
            __syncwarp(); /* what is ahead of it is done first: registers */
            x = row_of_x<C>(p, first_row<C, WG>() + 8);
            if (!V2) x.load();
        }
        float v[C / 32][8];
        values_of<C, ROUNDED>(v, acc, half, f.alpha, f.bias, p.proj, p.proj_rounding);
        if (V2) {
            add_normalised<C, ROUNDED>(v, x, n);
        } else {
            add_to_stream<C, !ROUNDED>(v, x);
            normalise<C, false>(v, n);
        }
        store_operand<C, mlp_shape<C, WG>::ROWS>(
            smem_base, threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + 8 * half, v, p.mlp.input);
    }
}

/* Proj, and what follows it. */
template <int C, int WG, bool V2>
__device__ __forceinline__ void begin(char *smem_base, const tail_factors<C, WG> &f, const row_of_x<C> &x,
                                      const swin_tail_s8 &p)
{
#if SWIN_HAVE_WGMMA
    using S = mlp_shape<C, WG>;
    const unsigned smem = shared_address(smem_base), a = smem + threadIdx.x / 128 * 64 * 128,
                   w = smem + S::A + S::STAGE;
    int acc[C / 8][4];
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < S::STEPS; step++)
        wgmma_s8<C>::run(acc, wgmma_operand(a + step / 4 * S::ROWS * 128) + 2 * (step % 4),
                         wgmma_operand(w + step / 4 * C * 128) + 2 * (step % 4), step > 0);
    wgmma_commit();
    wgmma_wait<0>();
    __syncthreads(); /* the rows have been read by all: their places are filled again */
    if (p.proj_rounding.step > 0)
        between<C, WG, V2, true>(smem_base, acc, f, x, p);
    else
        between<C, WG, V2, false>(smem_base, acc, f, x, p);
#endif
}

/* V2's last step: x += LN(fc2), and its codes. */
template <int C, int WG, bool ROUNDED>
__device__ __forceinline__ void finish_v2(const int (&acc)[C / 8][4], const mlp_factors<C, WG> &f,
                                          const float *last, const swin_tail_s8 &p)
{
    const swin_norm n = { last, last + C, p.last.eps };
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int64_t row = first_row<C, WG>() + 8 * half;
        __syncwarp();
        row_of_x<C> x(p, row);
        float v[C / 32][8];
        values_of<C, ROUNDED>(v, acc, half, f.alpha2, f.bias2, p.mlp.fc2, p.last_rounding);
        add_normalised<C, ROUNDED>(v, x, n);
        if (!p.codes) continue;
#pragma unroll
        for (int q = 0; q < C / 32; q++) {
            const uint2 codes = make_uint2(s8_codes4(v[q], p.rule), s8_codes4(v[q] + 4, p.rule));
            if (x.live) *(uint2 *)(p.codes + row * p.ld + 32 * q + 8 * (threadIdx.x & 3)) = codes;
        }
    }
}

template <int C, int WG, int FIT, bool AFTER, bool V2>
__global__ void __launch_bounds__(128 * WG, FIT) tail_s8_kernel(const __grid_constant__ swin_tail_s8 p)
{
#if SWIN_HAVE_WGMMA
    using S = mlp_shape<C, WG>;
    static_assert(S::BLOCKS * C * 128 <= (STAGES - 1) * S::STAGE, "proj's weight lies in the later stages");
    extern __shared__ __align__(1024) char smem_base[];
    mlp_factors<C, WG> f(smem_base);
    const tail_factors<C, WG> own(f);
    const unsigned smem = shared_address(smem_base);
    const int64_t m0 = (int64_t)blockIdx.x * S::ROWS;

    piece_copy<C, WG> copy(p.mlp);
    copy.run(smem + S::A);
    load_proj<C, WG>(smem + S::A + S::STAGE, p.proj.w);
    f.template load<AFTER>(p.mlp);
    if (V2) load_lines<C, S::THREADS>(f.alpha2, f.bias2, p.mlp.fc2, p.last_rounding);
    own.load(p, V2);
    chain_wait();
    row_of_x<C> x(p, first_row<C, WG>());
    if (!V2) x.load();
    copy_rows<C, S::ROWS, S::THREADS>(smem, p.proj, m0);
    copy_commit();
    copy_wait<0>();
    fence_async_proxy();
    __syncthreads();
    begin<C, WG, V2>(smem_base, own, x, p);
    int acc[C / 8][4];
    f.begin(acc);
    mlp_products<C, WG, AFTER>(acc, smem, copy, f, p.mlp);
    if (!V2)
        s8_finish_straight<C / 8>(p.mlp.fc2, acc, f.alpha2, f.bias2, first_row<C, WG>());
    else if (p.last_rounding.step > 0)
        finish_v2<C, WG, true>(acc, f, own.last, p);
    else
        finish_v2<C, WG, false>(acc, f, own.last, p);
#endif
}

template <int C, int WG, int FIT, bool AFTER, bool V2>
cudaError_t launch(cudaStream_t stream, const swin_tail_s8 *p)
{
    using S = mlp_shape<C, WG>;
    static bool ready;
    constexpr int SHARED = S::SHARED + tail_factors<C, WG>::BYTES;
    const int64_t blocks = (p->proj.m + S::ROWS - 1) / S::ROWS;
    const void *kernel = (const void *)tail_s8_kernel<C, WG, FIT, AFTER, V2>;
    if (blocks > 0x7fffffff) return cudaErrorNotSupported;
    if (!ready) {
        const cudaError_t e =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED);
        if (e != cudaSuccess) return e;
        ready = true;
    }
    void *args[] = { (void *)p };
    return chain_launch_pointer(kernel, (unsigned)blocks, S::THREADS, SHARED, stream, args);
}

template <int C, int WG, int FIT> cudaError_t pick(cudaStream_t stream, const swin_tail_s8 *p)
{
    if (p->mlp.fc1.after > 0)
        return p->v2 ? launch<C, WG, FIT, true, true>(stream, p) : launch<C, WG, FIT, true, false>(stream, p);
    return p->v2 ? launch<C, WG, FIT, false, true>(stream, p) : launch<C, WG, FIT, false, false>(stream, p);
}

/* Rows, weights and norms as the copies and vectors want them. */
bool aligned(const swin_tail_s8 *p)
{
    const swin_s8_part *y = &p->mlp.fc2.y[0];
    const int c = p->mlp.fc2.n;
    return p->mlp.fc1.n == 4 * c && p->mlp.fc1.k == c && p->mlp.fc2.k == 4 * c && p->proj.n == c &&
           p->proj.k == c && y->dtype == SWIN_F16 && y->ld % 8 == 0 && (uintptr_t)y->data % 16 == 0 &&
           p->proj.ldx % 16 == 0 && (uintptr_t)p->proj.x % 16 == 0 && p->ld % 8 == 0 &&
           (uintptr_t)p->codes % 8 == 0;
}

} // namespace

extern "C" cudaError_t swin_tail_s8_launch(cudaStream_t stream, const swin_tail_s8 *p, int multiprocessors)
{
    const int c = p->mlp.fc2.n;
    if (p->proj.m == 0) return cudaSuccess;
    if (!swin_wgmma_available() || !aligned(p)) return cudaErrorNotSupported;
    if (p->mlp.fc1.zero_share || p->proj.zero_share || p->mlp.fc1.afters || p->mlp.fc2.afters)
        return cudaErrorNotSupported;
    /* Factors come with int8-mode 3. */
    if (p->mlp.fc1.after > 0 && p->mlp.fc1.y[0].shrink) return cudaErrorNotSupported;
    /* Long rows take long, so few of them wait for one another: then the operators one by one are faster. */
    if (c > 128 && p->proj.m < 64 * (int64_t)multiprocessors) return cudaErrorNotSupported;
    switch (c) {
    case 96:
        return pick<96, 2, 2>(stream, p);
    case 128:
        return pick<128, 2, 2>(stream, p);
    case 192:
        return pick<192, 3, 1>(stream, p);
    default:
        return cudaErrorNotSupported;
    }
}
