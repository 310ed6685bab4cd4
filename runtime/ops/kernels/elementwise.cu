/* Elementwise kernels: bias and activation, residual add, rounding, the mean over tokens, patches.
 *
 * Rows are walked as vectors of 16 bytes where the matrix allows it, as single elements elsewhere. */
#include "runtime/ops/kernels/common.cuh"

/* Call f(row, first column, values) for each piece of N elements of x and store what it leaves. */
template <class T, int N, class F> __device__ __forceinline__ void each(const swin_tensor &x, F f)
{
    const int64_t per_row = x.cols / N, total = x.rows * per_row, step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < total; i += step) {
        /* Half the time of such a kernel would go into dividing 64 bits. */
        const int64_t row = total <= 0xffffffffll ? (unsigned)i / (unsigned)per_row : i / per_row;
        const int col = (int)(i - row * per_row) * N;
        T *at = (T *)x.data + row * x.ld + col;
        if constexpr (N == 1) {
            float v[1] = { to_float(*at) };
            f(row, col, v);
            *at = from_float<T>(v[0]);
        } else {
            vec<T> v;
            v.load(at);
            f(row, col, v.v);
            v.store(at);
        }
    }
}

template <class T, int N>
static __global__ void __launch_bounds__(256) bias_act_kernel(swin_tensor y, const float *bias, swin_act act)
{
    each<T, N>(y, [=](int64_t, int col, float *v) {
        float b[N] = {};
        if constexpr (N % 4 == 0) {
#pragma unroll
            for (int k = 0; bias && k < N; k += 4)
                *reinterpret_cast<float4 *>(b + k) = *reinterpret_cast<const float4 *>(bias + col + k);
        } else if (bias) {
            b[0] = bias[col];
        }
#pragma unroll
        for (int k = 0; k < N; k++) v[k] = activate<T>(v[k] + b[k], act);
    });
}

/* Walks y; f's store goes to the residual's row. */
template <class T, int N>
static __global__ void __launch_bounds__(256)
    residual_add_kernel(swin_tensor residual, swin_tensor y, swin_windows g, bool windows)
{
    const int64_t per_row = y.cols / N, total = y.rows * per_row, step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < total; i += step) {
        const int64_t row = total <= 0xffffffffll ? (unsigned)i / (unsigned)per_row : i / per_row;
        const int64_t col = (i - row * per_row) * N;
        const int64_t to = windows ? window_source(g, row) : row;
        const T *from = (const T *)y.data + row * y.ld + col;
        T *at = (T *)residual.data + to * residual.ld + col;
        if constexpr (N == 1) {
            *at = from_float<T>(to_float(*at) + to_float(*from));
        } else {
            vec<T> a, b;
            a.load(at), b.load(from);
#pragma unroll
            for (int k = 0; k < N; k++) a.v[k] += b.v[k];
            a.store(at);
        }
    }
}

template <class T, int N>
static __global__ void __launch_bounds__(256)
    fake_quant_kernel(swin_tensor x, float scale, float inverse, float zero, float lo, float hi)
{
    each<T, N>(x, [=](int64_t, int, float *v) {
#pragma unroll
        for (int k = 0; k < N; k++) /* fmaxf turns NaN into lo */
            v[k] = (fminf(fmaxf(rintf(v[k] * inverse) + zero, lo), hi) - zero) * scale;
    });
}

template <class T, int N, class R> static __global__ void __launch_bounds__(256) round_kernel(swin_tensor x)
{
    each<T, N>(x, [](int64_t, int, float *v) {
#pragma unroll
        for (int k = 0; k < N; k++) v[k] = to_float(from_float<R>(v[k]));
    });
}

/* Eight lanes a head of a row; lane l sums elements l, l + 8 and so on, then the lanes' sums meet in a fixed
 * order. */
template <class T>
static __global__ void __launch_bounds__(256)
    normalise_heads_kernel(swin_tensor out, swin_tensor x, int heads, const float *head_scale)
{
    const int size = (int)(x.cols / heads), lane = threadIdx.x % 8;
    const int64_t item = (int64_t)blockIdx.x * 32 + threadIdx.x / 8, total = x.rows * heads;
    chain_wait();
    if (item - threadIdx.x % 32 / 8 >= total) return; /* the whole warp is past the end */
    const bool live = item < total;
    const int64_t row = live ? item / heads : 0;
    const int head = live ? (int)(item - row * heads) : 0;
    const T *from = (const T *)x.data + row * x.ld + (int64_t)head * size;
    T *to = (T *)out.data + row * out.ld + (int64_t)head * size;
    float sum = 0;
    for (int i = lane; i < size; i += 8) sum = fmaf(to_float(from[i]), to_float(from[i]), sum);
    for (int o = 4; o; o >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, o);
    const float factor = (head_scale ? head_scale[head] : 1.f) / fmaxf(sqrtf(sum), 1e-12f);
    for (int i = lane; live && i < size; i += 8) to[i] = from_float<T>(to_float(from[i]) * factor);
}

/* One thread a column, tokens in order. */
template <class T>
static __global__ void __launch_bounds__(128) mean_tokens_kernel(swin_tensor out, swin_tensor x, int tokens)
{
    const int64_t blocks = (out.cols + blockDim.x - 1) / blockDim.x, image = blockIdx.x / blocks;
    const int col = (int)(blockIdx.x - image * blocks) * blockDim.x + threadIdx.x;
    chain_wait();
    if (col >= out.cols) return;
    const T *at = (const T *)x.data + image * tokens * x.ld + col;
    float sum = 0;
    for (int t = 0; t < tokens; t++) sum += to_float(at[t * x.ld]);
    ((T *)out.data)[image * out.ld + col] = from_float<T>(sum / (float)tokens);
}

template <class T>
static __global__ void __launch_bounds__(256)
    patches_kernel(swin_tensor out, const float *images, int chans, int size, int patch)
{
    const int64_t side = size / patch, total = out.rows * out.cols, step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < total; i += step) {
        const int64_t row = i / out.cols, image = row / (side * side), at = row - image * side * side;
        const int col = (int)(i - row * out.cols), chan = col / (patch * patch), in = col % (patch * patch);
        const int64_t y = at / side * patch + in / patch, x = at % side * patch + in % patch;
        ((T *)out.data)[row * out.ld + col] =
            from_float<T>(images[((image * chans + chan) * size + y) * size + x]);
    }
}

/* Patches of 4: a thread moves one channel of one patch, neighbours along the picture's row. */
template <class T>
static __global__ void __launch_bounds__(256)
    patches4_kernel(swin_tensor out, const float *images, int chans, int size)
{
    const int64_t side = size / 4, total = out.rows * chans, step = (int64_t)gridDim.x * blockDim.x;
    chain_wait();
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < total; i += step) {
        const int64_t line = i / side, x = i - line * side, plane = line / side, y = line - plane * side;
        const int64_t image = plane / chans;
        const int chan = (int)(plane - image * chans);
        const float *from = images + (plane * size + 4 * y) * size + 4 * x;
        float v[16];
#pragma unroll
        for (int k = 0; k < 4; k++)
            *reinterpret_cast<float4 *>(v + 4 * k) =
                *reinterpret_cast<const float4 *>(from + (int64_t)k * size);
        T *to = (T *)out.data + ((image * side + y) * side + x) * out.ld + chan * 16;
#pragma unroll
        for (int k = 0; k < 16; k += vec<T>::n) {
            vec<T> piece;
#pragma unroll
            for (int e = 0; e < vec<T>::n; e++) piece.v[e] = v[k + e];
            piece.store(to + k);
        }
    }
}

/* ---- launchers
 * --------------------------------------------------------------------------------------------- */

static unsigned grid(const swin_tensor *x, int per_piece)
{
    return swin_blocks(x->rows * (x->cols / per_piece), 256, 132 * 16);
}

static bool empty(const swin_tensor *x)
{
    return x->rows == 0 || x->cols == 0;
}

extern "C" cudaError_t swin_bias_act_launch(cudaStream_t stream, const swin_tensor *y, const float *bias,
                                            swin_act act)
{
    if (empty(y)) return cudaSuccess;
    SWIN_WITH_TYPE(y->dtype, {
        constexpr int N = vec<T>::n;
        if (swin_vectors(y) && (uintptr_t)bias % 16 == 0)
            bias_act_kernel<T, N><<<grid(y, N), 256, 0, stream>>>(*y, bias, act);
        else
            bias_act_kernel<T, 1><<<grid(y, 1), 256, 0, stream>>>(*y, bias, act);
    })
    return cudaGetLastError();
}

extern "C" cudaError_t swin_residual_add_launch(cudaStream_t stream, const swin_tensor *residual,
                                                const swin_tensor *y, const swin_windows *g)
{
    if (empty(y)) return cudaSuccess;
    const swin_windows none = {}, geometry = g ? *g : none;
    SWIN_WITH_TYPE(y->dtype, {
        constexpr int N = vec<T>::n;
        if (swin_vectors(y) && swin_vectors(residual))
            residual_add_kernel<T, N><<<grid(y, N), 256, 0, stream>>>(*residual, *y, geometry, g != NULL);
        else
            residual_add_kernel<T, 1><<<grid(y, 1), 256, 0, stream>>>(*residual, *y, geometry, g != NULL);
    })
    return cudaGetLastError();
}

extern "C" cudaError_t swin_fake_quant_launch(cudaStream_t stream, const swin_tensor *x, float scale,
                                              int zero_point, int qmin, int qmax)
{
    if (empty(x)) return cudaSuccess;
    const float inverse = 1.f / scale, zero = (float)zero_point, lo = (float)qmin, hi = (float)qmax;
    SWIN_WITH_TYPE(x->dtype, {
        constexpr int N = vec<T>::n;
        if (swin_vectors(x))
            fake_quant_kernel<T, N><<<grid(x, N), 256, 0, stream>>>(*x, scale, inverse, zero, lo, hi);
        else
            fake_quant_kernel<T, 1><<<grid(x, 1), 256, 0, stream>>>(*x, scale, inverse, zero, lo, hi);
    })
    return cudaGetLastError();
}

extern "C" cudaError_t swin_round_to_launch(cudaStream_t stream, const swin_tensor *x, swin_dtype dtype)
{
    if (empty(x) || dtype == SWIN_F32 || dtype == x->dtype) return cudaSuccess;
    if (dtype != SWIN_F16 && dtype != SWIN_BF16) return cudaErrorInvalidValue;
    SWIN_WITH_TYPE(x->dtype, {
        constexpr int N = vec<T>::n;
        const bool vectors = swin_vectors(x), f16 = dtype == SWIN_F16;
        if (vectors && f16)
            round_kernel<T, N, __half><<<grid(x, N), 256, 0, stream>>>(*x);
        else if (vectors)
            round_kernel<T, N, __nv_bfloat16><<<grid(x, N), 256, 0, stream>>>(*x);
        else if (f16)
            round_kernel<T, 1, __half><<<grid(x, 1), 256, 0, stream>>>(*x);
        else
            round_kernel<T, 1, __nv_bfloat16><<<grid(x, 1), 256, 0, stream>>>(*x);
    })
    return cudaGetLastError();
}

extern "C" cudaError_t swin_normalise_heads_launch(cudaStream_t stream, const swin_tensor *out,
                                                   const swin_tensor *x, int heads, const float *head_scale)
{
    if (empty(out)) return cudaSuccess;
    const int64_t blocks = (x->rows * heads + 31) / 32;
    if (blocks > 0x7fffffff) return cudaErrorNotSupported;
    SWIN_WITH_TYPE(x->dtype, return chain_launch(normalise_heads_kernel<T>, (unsigned)blocks, 256, 0, stream,
                                                 *out, *x, heads, head_scale))
    return cudaErrorInvalidValue;
}

extern "C" cudaError_t swin_mean_tokens_launch(cudaStream_t stream, const swin_tensor *out,
                                               const swin_tensor *x, int tokens)
{
    if (empty(out)) return cudaSuccess;
    const int64_t blocks = out->rows * ((out->cols + 127) / 128);
    if (blocks > 0x7fffffff) return cudaErrorNotSupported;
    SWIN_WITH_TYPE(x->dtype, return chain_launch(mean_tokens_kernel<T>, (unsigned)blocks, 128, 0, stream,
                                                 *out, *x, tokens))
    return cudaErrorInvalidValue;
}

extern "C" cudaError_t swin_patches_launch(cudaStream_t stream, const swin_tensor *out, const float *images,
                                           int chans, int size, int patch)
{
    if (empty(out)) return cudaSuccess;
    const bool fours = patch == 4 && size % 4 == 0 && (uintptr_t)images % 16 == 0 &&
                       (uintptr_t)out->data % 16 == 0 && out->ld % 8 == 0;
    const unsigned blocks = swin_blocks(out->rows * chans, 256, 132 * 32);
    SWIN_WITH_TYPE(out->dtype, {
        if (fours) return chain_launch(patches4_kernel<T>, blocks, 256, 0, stream, *out, images, chans, size);
        patches_kernel<T><<<grid(out, 1), 256, 0, stream>>>(*out, images, chans, size, patch);
    })
    return cudaGetLastError();
}
