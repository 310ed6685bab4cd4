/* LayerNorm to codes, with the gathers that precede a GEMM: same row, window order, patch merging. Without
 * a norm: plain quantization.
 *
 * Rows of F16 are held by groups of lanes, so a row's bits do not depend on how many rows there are. */
#include "runtime/ops/kernels/last_s8.cuh"
#include "runtime/ops/kernels/norm_s8.cuh"

namespace
{

struct norm_s8_args {
    swin_tensor out, x;
    swin_norm norm;
    swin_windows g;
    swin_s8_rule rule;
    swin_s8_local local; /* added to x first: vectors of rows as they are */
    int cols;            /* of out */
    float share;         /* 1 / cols */
    int group, each;     /* lanes of a row: a power of two; vectors of a lane */
};

/* Where element `col` of output row `row` comes from, in elements of x. */
template <swin_norm_rows ROWS>
__device__ __forceinline__ int64_t source_of(const norm_s8_args &p, int64_t row, int col)
{
    if (ROWS == SWIN_ROWS_SAME) return row * p.x.ld + col;
    if (ROWS == SWIN_ROWS_WINDOWS) return window_source(p.g, row) * p.x.ld + col;
    const int c = (int)p.x.cols, part = col / c; /* parts (0,0), (1,0), (0,1), (1,1) as (row, column) */
    const unsigned half_w = p.g.width / 2, per_image = p.g.height / 2 * half_w;
    const int64_t image = row / per_image;
    const unsigned at = (unsigned)(row - image * per_image), y = at / half_w, xx = at - y * half_w;
    const int64_t source = (image * p.g.height + 2 * y + (part & 1)) * p.g.width + 2 * xx + (part >> 1);
    return source * p.x.ld + (col - part * c);
}

/* VECTORS: the most that a lane holds. GROUP: lanes of a row, each with just so many vectors; 0: as p
 * says. */
template <int VECTORS, swin_norm_rows ROWS, bool LOCAL, int GROUP>
__global__ void __launch_bounds__(256) norm_s8_kernel(const __grid_constant__ norm_s8_args p)
{
    chain_wait();
    const int group = GROUP ? GROUP : p.group, each = GROUP ? VECTORS : p.each;
    const int cols = GROUP ? 8 * GROUP * VECTORS : p.cols, lane = threadIdx.x % group, total = cols / 8;
    const int64_t row = (int64_t)blockIdx.x * (256 / group) + threadIdx.x / group;
    if (row - threadIdx.x % 32 / group >= p.out.rows) return; /* the whole warp is past the end */
    const bool live = row < p.out.rows;
    vec<__half> v[VECTORS];
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int at = s8_vector(lane, i, each);
        if (!live || i >= each || at >= total) continue;
        v[i].load((const __half *)p.x.data + source_of<ROWS>(p, row, at * 8));
        if (LOCAL)
            s8_add_local(v[i].v, *(const uint2 *)(p.local.codes + row * p.local.ld + at * 8), p.local,
                         at * 8);
    }
    if (p.norm.gamma) s8_normalise_row<VECTORS>(v, p.norm, cols, p.share, lane, group, each);
    if (!live) return;
    int8_t *out = (int8_t *)p.out.data + row * p.out.ld;
    const swin_s8_part part = { out, p.out.ld, 1, SWIN_S8, p.rule, p.out.shrink };
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int at = s8_vector(lane, i, each);
        if (i >= each || at >= total) continue;
        if (p.norm.gamma) {
            *(uint2 *)(out + at * 8) = s8_codes8(v[i].v, part, at * 8);
            continue;
        }
        float code[8];
#pragma unroll
        for (int k = 0; k < 8; k++)
            code[k] =
                s8_code_given(part.shrink ? v[i].v[k] * __ldg(part.shrink + at * 8 + k) : v[i].v[k], p.rule);
        *(uint2 *)(out + at * 8) = make_uint2(s8_pack(code[0], code[1], code[2], code[3]),
                                              s8_pack(code[4], code[5], code[6], code[7]));
    }
}

__device__ __forceinline__ float element(const swin_tensor &x, int64_t at)
{
    if (x.dtype == SWIN_F32) return ((const float *)x.data)[at];
    if (x.dtype == SWIN_F16) return __half2float(((const __half *)x.data)[at]);
    return __bfloat162float(((const __nv_bfloat16 *)x.data)[at]);
}

/* One block a row: any type, length and alignment. */
template <swin_norm_rows ROWS>
__global__ void __launch_bounds__(128) norm_s8_any_kernel(const __grid_constant__ norm_s8_args p)
{
    __shared__ float part[4];
    const int64_t row = blockIdx.x;
    float mean = 0, factor = 1;
    for (int pass = 0; pass < 2 && p.norm.gamma; pass++) {
        float sum = 0;
        for (int i = threadIdx.x; i < p.cols; i += blockDim.x) {
            const float d = element(p.x, source_of<ROWS>(p, row, i)) - mean;
            sum += pass ? d * d : d;
        }
        for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, o);
        __syncthreads();
        if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
        __syncthreads();
        sum = (part[0] + part[1]) + (part[2] + part[3]);
        if (pass)
            factor = 1.f / sqrtf(sum / (float)p.cols + p.norm.eps);
        else
            mean = sum / (float)p.cols;
    }
    int8_t *out = (int8_t *)p.out.data + row * p.out.ld;
    for (int i = threadIdx.x; i < p.cols; i += blockDim.x) {
        float v = element(p.x, source_of<ROWS>(p, row, i));
        if (p.norm.gamma) v = (v - mean) * factor * p.norm.gamma[i] + p.norm.beta[i];
        if (p.out.shrink) v *= p.out.shrink[i];
        out[i] = (int8_t)__float_as_uint(p.norm.gamma ? s8_code(v, p.rule) : s8_code_given(v, p.rule));
    }
}

/* A warp takes a head of a row: its norm, then its codes. */
__global__ void __launch_bounds__(256)
    normalise_heads_s8_kernel(const __grid_constant__ norm_s8_args p, int heads, const float *head_scale)
{
    const int64_t item = (int64_t)blockIdx.x * 8 + threadIdx.x / 32;
    const int lane = threadIdx.x % 32, d = p.cols / heads;
    if (item >= p.out.rows * heads) return;
    const int64_t row = item / heads;
    const int head = (int)(item - row * heads);
    const int8_t *codes = (const int8_t *)p.x.data + row * p.x.ld + head * d;
    auto value = [&](int i) {
        return p.x.dtype == SWIN_S8 ? (float)codes[i] * p.x.scale : element(p.x, row * p.x.ld + head * d + i);
    };
    float sum = 0;
    for (int i = lane; i < d; i += 32) sum += value(i) * value(i);
    for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, o);
    const float factor = (head_scale ? head_scale[head] : 1.f) / fmaxf(sqrtf(sum), 1e-12f);
    for (int i = lane; i < d; i += 32) { /* a place is read and written by one lane */
        const swin_s8_rule rule = s8_rule_in(p.rule, p.out.shrink, head * d + i);
        ((int8_t *)p.out.data)[row * p.out.ld + head * d + i] =
            (int8_t)__float_as_uint(s8_code(value(i) * factor, rule));
    }
}

/* Heads of 32 columns: four lanes a head. The bits are those of a product that does it itself (S8_COSINE). */
__global__ void __launch_bounds__(256)
    normalise_heads32_s8(const __grid_constant__ norm_s8_args p, int heads, const float *head_scale)
{
    const int64_t item = (int64_t)blockIdx.x * 64 + threadIdx.x / 4, total = p.out.rows * heads;
    chain_wait();
    if (item - threadIdx.x % 32 / 4 >= total) return; /* the whole warp is past the end */
    const bool live = item < total;
    const int64_t row = live ? item / heads : 0;
    const int head = live ? (int)(item - row * heads) : 0, col = head * 32 + threadIdx.x % 4 * 8;
    float v[8];
#pragma unroll
    for (int k = 0; k < 8; k++)
        v[k] = p.x.dtype == SWIN_S8 ? (float)((const int8_t *)p.x.data)[row * p.x.ld + col + k] * p.x.scale
                                    : element(p.x, row * p.x.ld + col + k);
    s8_cosine(v, head_scale ? head_scale[head] : 1.f);
    if (!live) return;
    const swin_s8_rule rule = s8_rule_in(p.rule, p.out.shrink, col);
#pragma unroll
    for (int k = 0; k < 8; k++)
        ((int8_t *)p.out.data)[row * p.out.ld + col + k] = (int8_t)__float_as_uint(s8_code(v[k], rule));
}

/* The widths of Swin's long rows have kernels of their own. */
template <swin_norm_rows ROWS, bool LOCAL> const void *kernel_of(int cols, int each)
{
    if constexpr (ROWS != SWIN_ROWS_WINDOWS) {
        if (cols == 384) return (const void *)norm_s8_kernel<3, ROWS, LOCAL, 16>;
        if (cols == 512) return (const void *)norm_s8_kernel<2, ROWS, LOCAL, 32>;
        if (cols == 768) return (const void *)norm_s8_kernel<3, ROWS, LOCAL, 32>;
    }
    if (each <= 3) return (const void *)norm_s8_kernel<3, ROWS, LOCAL, 0>;
    if (each <= 6) return (const void *)norm_s8_kernel<6, ROWS, LOCAL, 0>;
    return (const void *)norm_s8_kernel<12, ROWS, LOCAL, 0>;
}

template <swin_norm_rows ROWS> cudaError_t launch(cudaStream_t stream, norm_s8_args p)
{
    const int total = p.cols / 8;
    p.share = 1.f / (float)p.cols;
    p.group = norm_group(total);
    const int each = p.each = (total + p.group - 1) / p.group;
    const bool vectors = p.x.dtype == SWIN_F16 && p.cols % 8 == 0 && swin_vectors(&p.x) &&
                         p.out.ld % 8 == 0 && (uintptr_t)p.out.data % 8 == 0;
    if (!vectors || each > 12) {
        if (p.local.codes) return cudaErrorNotSupported;
        norm_s8_any_kernel<ROWS><<<(unsigned)p.out.rows, 128, 0, stream>>>(p);
        return cudaGetLastError();
    }
    const int64_t per_block = 256 / p.group;
    const int64_t blocks = (p.out.rows + per_block - 1) / per_block;
    void *args[] = { &p };
    const void *kernel;
    if (!p.local.codes)
        kernel = kernel_of<ROWS, false>(p.cols, each);
    else if (ROWS == SWIN_ROWS_SAME && each <= 6)
        kernel = kernel_of<SWIN_ROWS_SAME, true>(p.cols, each);
    else
        return cudaErrorNotSupported;
    return chain_launch_pointer(kernel, (unsigned)blocks, 256, 0, stream, args);
}

} // namespace

extern "C" cudaError_t swin_norm_s8_launch(cudaStream_t stream, const swin_tensor *out, const swin_tensor *x,
                                           const swin_norm *n, swin_norm_rows rows, const swin_windows *g)
{
    if (out->rows == 0 || out->cols == 0) return cudaSuccess;
    norm_s8_args p = {};
    p.out = *out, p.x = *x, p.cols = (int)out->cols, p.rule = swin_s8_rule_of(out);
    if (n) p.norm = *n;
    if (g) p.g = *g;
    if (rows == SWIN_ROWS_SAME) return launch<SWIN_ROWS_SAME>(stream, p);
    if (rows == SWIN_ROWS_WINDOWS) return launch<SWIN_ROWS_WINDOWS>(stream, p);
    return launch<SWIN_ROWS_MERGE>(stream, p);
}

extern "C" cudaError_t swin_norm_local_s8_launch(cudaStream_t stream, const swin_tensor *out,
                                                 const swin_tensor *x, const swin_norm *n,
                                                 const swin_s8_local *local)
{
    if (out->rows == 0 || out->cols == 0) return cudaSuccess;
    norm_s8_args p = {};
    p.out = *out, p.x = *x, p.cols = (int)out->cols, p.rule = swin_s8_rule_of(out), p.local = *local;
    if (n) p.norm = *n;
    return launch<SWIN_ROWS_SAME>(stream, p);
}

extern "C" cudaError_t swin_normalise_heads_s8_launch(cudaStream_t stream, const swin_tensor *out,
                                                      const swin_tensor *x, int heads,
                                                      const float *head_scale)
{
    if (out->rows == 0 || out->cols == 0) return cudaSuccess;
    norm_s8_args p = {};
    p.out = *out, p.x = *x, p.cols = (int)out->cols, p.rule = swin_s8_rule_of(out);
    if (out->cols == (int64_t)heads * 32 && out->rows * heads < 1LL << 36)
        return chain_launch(normalise_heads32_s8, (unsigned)((out->rows * heads + 63) / 64), 256, 0, stream,
                            p, heads, head_scale);
    const int64_t blocks = (out->rows * heads + 7) / 8;
    if (blocks > 0x7fffffff) return cudaErrorNotSupported;
    normalise_heads_s8_kernel<<<(unsigned)blocks, 256, 0, stream>>>(p, heads, head_scale);
    return cudaGetLastError();
}
