/* Elementwise kernels: bias and activation, residual add, rounding, the mean over tokens, patches.
 *
 * Rows are walked as vectors of 16 bytes where the matrix allows it, as single elements elsewhere. */
#include "runtime/ops/kernels/common.cuh"

/* Call f(row, first column, values) for each piece of N elements of x and store what it leaves. */
template <class T, int N, class F> __device__ __forceinline__ void each(const swin_tensor &x, F f)
{
    const int64_t per_row = x.cols / N, total = x.rows * per_row, step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < total; i += step) {
        const int64_t row = i / per_row;
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
#pragma unroll
        for (int k = 0; k < N; k++) v[k] = activate<T>(bias ? v[k] + bias[col + k] : v[k], act);
    });
}

/* Walks y; f's store goes to the residual's row. */
template <class T, int N>
static __global__ void __launch_bounds__(256)
    residual_add_kernel(swin_tensor residual, swin_tensor y, swin_windows g, bool windows)
{
    const int64_t per_row = y.cols / N, total = y.rows * per_row, step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < total; i += step) {
        const int64_t row = i / per_row, col = (i - row * per_row) * N;
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

/* One thread a column, tokens in order. */
template <class T>
static __global__ void __launch_bounds__(128) mean_tokens_kernel(swin_tensor out, swin_tensor x, int tokens)
{
    const int64_t image = blockIdx.y;
    const int col = blockIdx.x * blockDim.x + threadIdx.x;
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

/* Patches of 4: a thread moves one patch's row of 4 pixels, neighbours along the picture's row. */
template <class T>
static __global__ void __launch_bounds__(256)
    patches4_kernel(swin_tensor out, const float *images, int chans, int size)
{
    const int64_t side = size / 4, total = out.rows * chans * 4, step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < total; i += step) {
        const int64_t line = i / side, x = i - line * side, plane = line / size;
        const int y = (int)(line - plane * size), chan = (int)(plane % chans);
        const int64_t row = (plane / chans * side + y / 4) * side + x;
        const float4 v = *reinterpret_cast<const float4 *>(images + 4 * i);
        T *to = (T *)out.data + row * out.ld + chan * 16 + y % 4 * 4;
        if constexpr (sizeof(T) == 4)
            *reinterpret_cast<float4 *>(to) = v;
        else
            *reinterpret_cast<uint2 *>(to) = make_uint2(pack2<T>(v.x, v.y), pack2<T>(v.z, v.w));
    }
}

/* ---- launchers --------------------------------------------------------------------------------------------- */

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
        if (swin_vectors(y))
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

extern "C" cudaError_t swin_mean_tokens_launch(cudaStream_t stream, const swin_tensor *out,
                                               const swin_tensor *x, int tokens)
{
    if (empty(out)) return cudaSuccess;
    for (int64_t at = 0; at < out->rows; at += 65535) { /* a grid's second dimension ends there */
        const int64_t n = out->rows - at < 65535 ? out->rows - at : 65535;
        const swin_tensor o = swin_rows(out, at, n), in = swin_rows(x, at * tokens, n * tokens);
        const dim3 blocks((unsigned)((out->cols + 127) / 128), (unsigned)n);
        SWIN_WITH_TYPE(x->dtype, (mean_tokens_kernel<T><<<blocks, 128, 0, stream>>>(o, in, tokens)))
    }
    return cudaGetLastError();
}

extern "C" cudaError_t swin_patches_launch(cudaStream_t stream, const swin_tensor *out, const float *images,
                                           int chans, int size, int patch)
{
    if (empty(out)) return cudaSuccess;
    SWIN_WITH_TYPE(out->dtype,
                   (patches_kernel<T><<<grid(out, 1), 256, 0, stream>>>(*out, images, chans, size, patch)))
    return cudaGetLastError();
}
