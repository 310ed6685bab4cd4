/* What Swin V2 does between its products, row by row: x += LayerNorm(y), with the codes that the next product
 * reads, and the lengths of heads of 32 channels.
 *
 * Rows are held by groups of lanes as in norm.cu. Unless `exact`, values are rounded to their type where the
 * operators one by one would leave them in memory, so that the bits are theirs. */
#include "runtime/ops/kernels/int8.cuh"
#include "runtime/ops/kernels/norm.cuh"

namespace
{

struct norm_add_args {
    swin_tensor x, y, codes; /* codes.data NULL: none */
    const float *bias;       /* where y is codes: added to their values */
    swin_norm norm;
    swin_s8_rule rule;
    int group; /* lanes of a row: a power of two */
    bool
        exact; /* LayerNorm's output is not rounded before it is added, nor the sum before it becomes codes */
};

__device__ __forceinline__ void store_codes(int8_t *to, const vec<float> &v, const swin_s8_rule &rule)
{
    *(unsigned *)to = s8_codes4(v.v, rule);
}

template <class T>
__device__ __forceinline__ void store_codes(int8_t *to, const vec<T> &v, const swin_s8_rule &rule)
{
    *(uint2 *)to = make_uint2(s8_codes4(v.v, rule), s8_codes4(v.v + 4, rule));
}

/* Elements from `at` of a row of y: floats, or codes and a bias. */
template <class T, bool CODES>
__device__ __forceinline__ void load_y(vec<T> &v, const norm_add_args &p, int64_t row, int at)
{
    if constexpr (CODES) {
        const int8_t *from = (const int8_t *)p.y.data + row * p.y.ld + at;
#pragma unroll
        for (int k = 0; k < vec<T>::n; k += 4) {
            const char4 c = *(const char4 *)(from + k);
            const float4 b = p.bias ? *(const float4 *)(p.bias + at + k) : make_float4(0, 0, 0, 0);
            v.v[k] = fmaf((float)c.x, p.y.scale, b.x), v.v[k + 1] = fmaf((float)c.y, p.y.scale, b.y);
            v.v[k + 2] = fmaf((float)c.z, p.y.scale, b.z), v.v[k + 3] = fmaf((float)c.w, p.y.scale, b.w);
        }
    } else {
        v.load((const T *)p.y.data + row * p.y.ld + at);
    }
}

template <class T, int VECTORS, bool CODES>
__global__ void __launch_bounds__(256) norm_add_kernel(const __grid_constant__ norm_add_args p)
{
    constexpr int N = vec<T>::n;
    const int lane = threadIdx.x % p.group, total = (int)p.x.cols / N;
    const int64_t row = (int64_t)blockIdx.x * (blockDim.x / p.group) + threadIdx.x / p.group;
    chain_wait();
    if (row - threadIdx.x % 32 / p.group >= p.x.rows) return; /* the whole warp is past the end */
    const bool live = row < p.x.rows;
    T *x = (T *)p.x.data + row * p.x.ld;
    vec<T> v[VECTORS];
    uint4 old[VECTORS];
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int at = lane + i * p.group;
        if (live && at < total) load_y<T, CODES>(v[i], p, row, at * N), old[i] = *(const uint4 *)(x + at * N);
    }
    normalise_row<T, VECTORS>(v, p.norm, (int)p.x.cols, lane, p.group);
    if (!live) return;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int at = lane + i * p.group;
        if (at >= total) continue;
        vec<T> sum;
        sum.from(old[i]);
#pragma unroll
        for (int k = 0; k < N; k++)
            sum.v[k] = p.exact ? sum.v[k] + v[i].v[k]
                               : to_float(from_float<T>(sum.v[k] + to_float(from_float<T>(v[i].v[k]))));
        sum.store(x + at * N);
        if (p.codes.data) store_codes((int8_t *)p.codes.data + row * p.codes.ld + at * N, sum, p.rule);
    }
}

template <class T, bool CODES> cudaError_t launch_norm_add(cudaStream_t stream, norm_add_args p)
{
    const int total = (int)p.x.cols / vec<T>::n;
    p.group = norm_group(total);
    const int each = (total + p.group - 1) / p.group;
    const int64_t per_block = 256 / p.group, blocks = (p.x.rows + per_block - 1) / per_block;
    if (each > 12 || blocks > 0x7fffffff) return cudaErrorNotSupported;
    if (each <= 3) return chain_launch(norm_add_kernel<T, 3, CODES>, (unsigned)blocks, 256, 0, stream, p);
    if (each <= 6) return chain_launch(norm_add_kernel<T, 6, CODES>, (unsigned)blocks, 256, 0, stream, p);
    return chain_launch(norm_add_kernel<T, 12, CODES>, (unsigned)blocks, 256, 0, stream, p);
}

/* 32 channels of a head lie in the vectors of 32 / N neighbouring lanes. Heads below `scaled` take
 * a factor. */
template <class T>
__global__ void __launch_bounds__(256)
    heads32_kernel(const __grid_constant__ swin_tensor out, const __grid_constant__ swin_tensor x, int heads,
                   int scaled, const float *head_scale)
{
    constexpr int N = vec<T>::n, LANES = 32 / N;
    const int64_t item = ((int64_t)blockIdx.x * 256 + threadIdx.x) / LANES, total = x.rows * heads;
    chain_wait();
    if (item - threadIdx.x % 32 / LANES >= total) return; /* the whole warp is past the end */
    const bool live = item < total;
    const int64_t row = live ? item / heads : 0;
    const int head = live ? (int)(item - row * heads) : 0, col = head * 32 + threadIdx.x % LANES * N;
    vec<T> v;
    v.load((const T *)x.data + row * x.ld + col);
    float sum = 0;
#pragma unroll
    for (int k = 0; k < N; k++) sum = fmaf(v.v[k], v.v[k], sum);
#pragma unroll
    for (int o = 1; o < LANES; o <<= 1) sum += __shfl_xor_sync(0xffffffffu, sum, o);
    const float factor = (head < scaled ? head_scale[head] : 1.f) / fmaxf(sqrtf(sum), 1e-12f);
#pragma unroll
    for (int k = 0; k < N; k++) v.v[k] *= factor;
    if (live) v.store((T *)out.data + row * out.ld + col);
}

} // namespace

extern "C" cudaError_t swin_norm_add_launch(cudaStream_t stream, const swin_tensor *x, const swin_tensor *y,
                                            const float *y_bias, const swin_norm *n, const swin_tensor *codes,
                                            bool exact)
{
    const bool coded = codes && codes->data, from_codes = y->dtype == SWIN_S8;
    if (x->rows == 0 || x->cols == 0) return cudaSuccess;
    if (!n->gamma || !swin_vectors(x) || (uintptr_t)n->gamma % 16 || (uintptr_t)n->beta % 16 ||
        (coded && (codes->ld % 8 || (uintptr_t)codes->data % 8)))
        return cudaErrorNotSupported;
    if (from_codes ? y->ld % 4 || (uintptr_t)y->data % 4 || (uintptr_t)y_bias % 16
                   : x->dtype != y->dtype || !swin_vectors(y))
        return cudaErrorNotSupported;
    norm_add_args p = {};
    p.x = *x, p.y = *y, p.bias = y_bias, p.norm = *n, p.exact = exact;
    if (coded) p.codes = *codes, p.rule = swin_s8_rule_of(codes);
    SWIN_WITH_TYPE(x->dtype, return from_codes ? launch_norm_add<T, true>(stream, p)
                                               : launch_norm_add<T, false>(stream, p))
    return cudaErrorInvalidValue;
}

extern "C" cudaError_t swin_heads32_launch(cudaStream_t stream, const swin_tensor *out, const swin_tensor *x,
                                           int heads, int scaled, const float *head_scale)
{
    if (x->rows == 0 || x->cols == 0) return cudaSuccess;
    if (x->cols != (int64_t)heads * 32 || !swin_vectors(x) || !swin_vectors(out) || x->dtype != out->dtype)
        return cudaErrorNotSupported;
    const int64_t threads = x->rows * heads * (x->dtype == SWIN_F32 ? 8 : 4), blocks = (threads + 255) / 256;
    if (blocks > 0x7fffffff) return cudaErrorNotSupported;
    SWIN_WITH_TYPE(x->dtype, return chain_launch(heads32_kernel<T>, (unsigned)blocks, 256, 0, stream, *out,
                                                 *x, heads, scaled, head_scale))
    return cudaErrorInvalidValue;
}
