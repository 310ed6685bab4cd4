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

/* A thread's two rows: v[half][q] are columns 32 q + 8 t and up of row `half` * 8 + lane / 4 of the warp's
 * 16. */
template <int C> using two_rows = float[2][C / 32][8];

/* Queue copies of proj's weight, and of attention's codes for the block's rows. */
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

template <int C, int WG>
__device__ __forceinline__ void load_mixed(unsigned to, const swin_gemm_s8 &proj, int64_t m0)
{
    using S = mlp_shape<C, WG>;
#pragma unroll
    for (int i = threadIdx.x; i < S::ROWS * 8; i += S::THREADS) {
        const int row = i / 8, chunk = i % 8;
        const bool in = m0 + row < proj.m;
        const int8_t *from = in ? proj.x + (m0 + row) * proj.ldx + chunk * 16 : proj.x;
#pragma unroll
        for (int block = 0; block < S::BLOCKS; block++)
            if (block * 128 + 128 <= C || block * 128 + chunk * 16 < C)
                copy16(to + block * S::ROWS * 128 + chunk_at<128>(row, chunk), in ? from + block * 128 : from,
                       in);
    }
}

/* Factors of a product's columns, for values_of. */
template <int C, int THREADS>
__device__ __forceinline__ void load_lines(float *alpha, float *bias, const swin_gemm_s8 &p,
                                           const swin_s8_rounding &r)
{
    if (r.step > 0)
        s8_load_factors<S8_CODES, C, THREADS>(alpha, bias, p, 0);
    else
        s8_load_factors<S8_RESIDUAL, C, THREADS>(alpha, bias, p, 0);
}

/* Sums of C columns to values. */
template <int C>
__device__ __forceinline__ void values_of(two_rows<C> &v, const int (&acc)[C / 8][4], const float *alpha,
                                          const float *bias, const swin_gemm_s8 &p, const swin_s8_rounding &r)
{
    const s8_span to = s8_span_of(p.y[0].rule);
#pragma unroll
    for (int q = 0; q < C / 32; q++) {
        const int col = 32 * q + 8 * (threadIdx.x & 3);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float(&x)[8] = v[half][q];
            int sum[8];
#pragma unroll
            for (int k = 0; k < 8; k++) sum[k] = acc[4 * q + k / 2][2 * half + k % 2];
            if (r.step == 0) {
                s8_values(x, sum, alpha + col, bias + col, 0);
                continue;
            }
#pragma unroll
            for (int k = 0; k < 8; k++) {
                const float share = s8_share((float)sum[k], alpha[col + k], bias[col + k]);
                x[k] =
                    fmaf(s8_code_of_share(share, to.lo, to.hi) - S8_MAGIC, r.step, __ldg(r.bias + col + k));
            }
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

/* In place. */
template <int C, bool V2> __device__ __forceinline__ void normalise(float (&v)[C / 32][8], const swin_norm &n)
{
    const float sum = row_sum<C, V2>([&](float s, int q) { return s8_add8(s, v[q]); }),
                mean = V2 ? sum / (float)C : sum * (1.f / C);
    const float squares = row_sum<C, V2>([&](float s, int q) { return s8_add8_squares(s, v[q], mean); });
    const float factor = V2 ? 1.f / sqrtf(squares / (float)C + n.eps) : rsqrtf(fmaf(squares, 1.f / C, n.eps));
#pragma unroll
    for (int q = 0; q < C / 32; q++) s8_normalise8(v[q], n, 32 * q + 8 * (threadIdx.x & 3), factor);
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
template <int C>
__device__ __forceinline__ void add_to_stream(float (&v)[C / 32][8], __half *x, bool live, bool rest)
{
    const int t = threadIdx.x & 3;
#pragma unroll
    for (int q = 0; q < C / 32; q++) {
        vec<__half> a = {};
        if (live) a.load(x + 32 * q + 8 * t);
#pragma unroll
        for (int k = 0; k < 8; k++) v[q][k] += a.v[k];
    }
#pragma unroll
    for (int q = 0; q < C / 32; q++) {
        const uint4 sum = s8_halves<__half>(v[q]);
        if (live) *(uint4 *)(x + 32 * q + 8 * t) = sum;
        if (!rest) continue;
        vec<__half> h;
        h.from(sum);
#pragma unroll
        for (int k = 0; k < 8; k++)
            v[q][k] = s8_with_rest(h.v[k], min(max(s8_rest(v[q][k], h.v[k]), -128), 127));
    }
}

/* V2: v is a product. x += LN(v), and v becomes the sum before it is rounded. */
template <int C>
__device__ __forceinline__ void add_normalised(float (&v)[C / 32][8], __half *x, bool live, bool after,
                                               const swin_norm &n)
{
    const int t = threadIdx.x & 3;
#pragma unroll
    for (int q = 0; q < C / 32; q++)
        if (!after) round_to_half(v[q]); /* as a product in memory is */
    normalise<C, true>(v, n);
#pragma unroll
    for (int q = 0; q < C / 32; q++) {
        vec<__half> a = {};
        if (live) a.load(x + 32 * q + 8 * t);
#pragma unroll
        for (int k = 0; k < 8; k++) v[q][k] += a.v[k];
    }
#pragma unroll
    for (int q = 0; q < C / 32; q++)
        if (live) *(uint4 *)(x + 32 * q + 8 * t) = s8_halves<__half>(v[q]);
}

/* Proj, and what follows it up to fc1's input. */
template <int C, int WG, bool V2>
__device__ __forceinline__ void begin(char *smem_base, const float *alpha, const float *bias, int64_t m0,
                                      const swin_tail_s8 &p)
{
#if SWIN_HAVE_WGMMA
    using S = mlp_shape<C, WG>;
    const unsigned smem = shared_address(smem_base), a = smem + threadIdx.x / 128 * 64 * 128,
                   w = smem + S::A + S::STAGE;
    int acc[C / 8][4];
    two_rows<C> v;
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < S::STEPS; step++)
        wgmma_s8<C>::run(acc, wgmma_operand(a + step / 4 * S::ROWS * 128) + 2 * (step % 4),
                         wgmma_operand(w + step / 4 * C * 128) + 2 * (step % 4), step > 0);
    wgmma_commit();
    wgmma_wait<0>();
    __syncthreads(); /* the rows have been read by all: their places are filled again */
    values_of<C>(v, acc, alpha, bias, p.proj, p.proj_rounding);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + 8 * half;
        const bool live = m0 + row < p.proj.m;
        const swin_s8_part &y = p.mlp.fc2.y[0];
        __half *x = (__half *)y.data + (m0 + row) * y.ld;
        if (V2) {
            add_normalised<C>(v[half], x, live, p.proj_rounding.step > 0, p.mlp.norm);
        } else {
            add_to_stream<C>(v[half], x, live, p.proj_rounding.step == 0);
            normalise<C, false>(v[half], p.mlp.norm);
        }
        store_operand<C, S::ROWS>(smem_base, row, v[half], p.mlp.input);
    }
#endif
}

/* V2's last step: x += LN(fc2), and its codes. */
template <int C>
__device__ __forceinline__ void finish_v2(const int (&acc)[C / 8][4], const float *alpha, const float *bias,
                                          int64_t m0, const swin_tail_s8 &p)
{
    const int t = threadIdx.x & 3;
    two_rows<C> v;
    values_of<C>(v, acc, alpha, bias, p.mlp.fc2, p.last_rounding);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int64_t row = m0 + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + 8 * half;
        const bool live = row < p.proj.m;
        const swin_s8_part &y = p.mlp.fc2.y[0];
        add_normalised<C>(v[half], (__half *)y.data + row * y.ld, live, p.last_rounding.step > 0, p.last);
#pragma unroll
        for (int q = 0; q < C / 32; q++)
            if (live && p.codes)
                *(uint2 *)(p.codes + row * p.ld + 32 * q + 8 * t) =
                    make_uint2(s8_codes4(v[half][q], p.rule), s8_codes4(v[half][q] + 4, p.rule));
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
    float *alpha0 = f.bias2 + C, *bias0 = alpha0 + C;
    const unsigned smem = shared_address(smem_base);
    const int64_t m0 = (int64_t)blockIdx.x * S::ROWS;

    piece_copy<C, WG> copy(p.mlp);
    copy.run(smem + S::A);
    load_proj<C, WG>(smem + S::A + S::STAGE, p.proj.w);
    f.template load<AFTER>(p.mlp);
    if (V2) load_lines<C, S::THREADS>(f.alpha2, f.bias2, p.mlp.fc2, p.last_rounding);
    load_lines<C, S::THREADS>(alpha0, bias0, p.proj, p.proj_rounding);
    chain_wait();
    load_mixed<C, WG>(smem, p.proj, m0);
    copy_commit();
    copy_wait<0>();
    fence_async_proxy();
    __syncthreads();
    begin<C, WG, V2>(smem_base, alpha0, bias0, m0, p);
    int acc[C / 8][4];
    s8_begin<C / 8>(acc, p.mlp.fc2, 0);
    mlp_products<C, WG, AFTER>(acc, smem, copy, f, p.mlp);
    if (V2)
        finish_v2<C>(acc, f.alpha2, f.bias2, m0, p);
    else
        s8_finish<S8_RESIDUAL, C / 8>(p.mlp.fc2, acc, f.alpha2, f.bias2,
                                      m0 + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, 0, 0);
#endif
}

template <int C, int WG, int FIT, bool AFTER, bool V2>
cudaError_t launch(cudaStream_t stream, const swin_tail_s8 *p)
{
    using S = mlp_shape<C, WG>;
    static bool ready;
    constexpr int SHARED = S::SHARED + 2 * C * 4;
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
