/* The cuda backend: one NVIDIA GPU. Its device, its table, and the operators that are one kernel each. */
#include "runtime/ops/kernels/cuda_dev.h"

#include <nvtx3/nvToolsExt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const swin_ops swin_ops_cuda;

swin_status swin_cuda_status(cudaError_t e, const char *what)
{
    if (e == cudaSuccess) return SWIN_OK;
    if (e == cudaErrorNotSupported)
        return swin_fail(SWIN_ERR_UNSUPPORTED, "%s: the cuda backend does not take this shape or type", what);
    if (e == cudaErrorMemoryAllocation) return swin_fail(SWIN_ERR_MEM, "%s: no GPU memory", what);
    return swin_fail(SWIN_ERR_DEVICE, "%s: %s (%s)", what, cudaGetErrorString(e), cudaGetErrorName(e));
}

/* ---- device -------------------------------------------------------------------------------------------------- */

static void cuda_close(swin_dev *dev)
{
    if (!dev) return;
    swin_cuda *d = swin_cuda_of(dev);
    if (d->stream) cudaStreamSynchronize(d->stream);
    swin_memory_close_cuda(d);
    cudaFree(d->scratch);
    cudaFree(d->work);
    for (size_t i = 0; i < d->nretired; i++) cudaFree(d->retired[i]);
    free(d->retired);
    if (d->stream) cudaStreamDestroy(d->stream);
    free(d->choices);
    free(d);
}

/* Which GPU, if any: the driver is opened by the CUDA runtime, which is linked statically. */
static swin_status find_gpu(swin_cuda *d, int device)
{
    int count = 0;
    const cudaError_t e = cudaGetDeviceCount(&count);
    if (e != cudaSuccess) {
        cudaGetLastError();
        return swin_fail(SWIN_ERR_DEVICE, "--backend cuda: no GPU to use: %s", cudaGetErrorString(e));
    }
    if (device < 0 || device >= count)
        return swin_fail(SWIN_ERR_DEVICE, "--device %d: there are %d GPUs", device, count);
    struct cudaDeviceProp prop;
    SWIN_TRY(swin_cuda_status(cudaGetDeviceProperties(&prop, device), "a GPU's properties"));
    d->device = device;
    d->multiprocessors = prop.multiProcessorCount;
    d->major = prop.major, d->minor = prop.minor;
    d->memory = prop.totalGlobalMem, d->l2 = (size_t)prop.l2CacheSize;
    snprintf(d->name, sizeof d->name, "%s", prop.name);
    if (10 * d->major + d->minor < 75)
        return swin_fail(SWIN_ERR_DEVICE, "--device %d: %s is older than sm_75", device, d->name);
    return SWIN_OK;
}

static swin_status set_up(swin_cuda *d, const swin_dev_opts *opts)
{
    SWIN_TRY(find_gpu(d, opts ? opts->device : 0));
    SWIN_TRY(swin_cuda_status(cudaSetDevice(d->device), "cudaSetDevice"));
    SWIN_TRY(swin_cuda_status(cudaRuntimeGetVersion(&d->runtime), "the runtime's version"));
    SWIN_TRY(swin_cuda_status(cudaDriverGetVersion(&d->driver), "the driver's version"));
    SWIN_TRY(swin_cuda_status(cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking), "a stream"));
    swin_tune_load(d);
    return SWIN_OK;
}

static swin_status cuda_open(swin_dev **dev, const swin_dev_opts *opts)
{
    *dev = NULL;
    swin_cuda *d = calloc(1, sizeof *d);
    if (!d) return swin_fail(SWIN_ERR_MEM, "no memory for the cuda backend");
    d->base.ops = &swin_ops_cuda;
    d->tf32 = opts && opts->tf32;
    const swin_status st = set_up(d, opts);
    if (st != SWIN_OK) {
        cuda_close(&d->base);
        return st;
    }
    *dev = &d->base;
    return SWIN_OK;
}

/* The kernels are this program's own: results depend on the chip's generation, not on a library. */
static void cuda_engine(swin_dev *dev, char *text, size_t size)
{
    const swin_cuda *d = swin_cuda_of(dev);
    snprintf(text, size, "cuda: %s, sm_%d%d, float32 GEMMs %s, CUDA %d.%d", d->name, d->major, d->minor,
             d->tf32 && d->major >= 8 ? "in TF32" : "in float32", d->runtime / 1000, d->runtime % 1000 / 10);
}

static int cuda_threads(swin_dev *dev)
{
    (void)dev;
    return 1;
}

/* A kernel wants as many rows as there are. */
static int cuda_chunk(swin_dev *dev, size_t bytes_per_image, int batch)
{
    (void)dev;
    (void)bytes_per_image;
    return batch;
}

static swin_status cuda_memory(swin_dev *dev, size_t *free_bytes, size_t *total_bytes)
{
    SWIN_TRY(swin_cuda_status(cudaSetDevice(swin_cuda_of(dev)->device), "cudaSetDevice"));
    return swin_cuda_status(cudaMemGetInfo(free_bytes, total_bytes), "cudaMemGetInfo");
}

/* NVTX finds a profiler at run time; without one this costs next to nothing. */
static void cuda_range(swin_dev *dev, const char *name)
{
    (void)dev;
    if (name)
        nvtxRangePushA(name);
    else
        nvtxRangePop();
}

/* ---- graphs -------------------------------------------------------------------------------------------------- */

struct swin_graph {
    cudaGraphExec_t exec;
};

static swin_status cuda_graph_begin(swin_dev *dev)
{
    swin_cuda *d = swin_cuda_of(dev);
    SWIN_TRY(
        swin_cuda_status(cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal), "a graph"));
    d->capturing = true;
    return SWIN_OK;
}

static swin_status cuda_graph_end(swin_dev *dev, swin_graph **graph)
{
    swin_cuda *d = swin_cuda_of(dev);
    cudaGraph_t recorded = NULL;
    *graph = NULL;
    d->capturing = false;
    SWIN_TRY(swin_cuda_status(cudaStreamEndCapture(d->stream, &recorded), "a graph"));
    swin_graph *g = calloc(1, sizeof *g);
    swin_status st = g ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "no memory for a graph");
    if (st == SWIN_OK) st = swin_cuda_status(cudaGraphInstantiate(&g->exec, recorded, 0), "a graph");
    cudaGraphDestroy(recorded);
    if (st != SWIN_OK)
        free(g);
    else
        *graph = g;
    return st;
}

static swin_status cuda_graph_launch(swin_dev *dev, swin_graph *graph)
{
    return swin_cuda_status(cudaGraphLaunch(graph->exec, swin_cuda_of(dev)->stream), "a graph's launch");
}

static void cuda_graph_free(swin_dev *dev, swin_graph *graph)
{
    (void)dev;
    if (graph) cudaGraphExecDestroy(graph->exec);
    free(graph);
}

/* ---- operators ----------------------------------------------------------------------------------------------- */

swin_status swin_check_cuda(const char *op, const swin_tensor *a, const swin_tensor *b, int64_t rows,
                            int64_t cols)
{
    if (a->dtype != b->dtype || a->dtype > SWIN_BF16)
        return swin_fail(SWIN_ERR_UNSUPPORTED, "%s: %s and %s on cuda", op, swin_dtype_name(a->dtype),
                         swin_dtype_name(b->dtype));
    if (a->rows != rows || a->cols != cols || a->ld < a->cols || b->ld < b->cols)
        return swin_fail(SWIN_ERR_VALUE, "%s: %lld x %lld where %lld x %lld belongs", op, (long long)a->rows,
                         (long long)a->cols, (long long)rows, (long long)cols);
    return SWIN_OK;
}

static swin_status check_windows(const char *op, const swin_windows *g, int64_t rows)
{
    if (g->window < 1 || g->height % g->window || g->width % g->window || g->shift < 0 ||
        g->shift >= g->height || g->shift >= g->width)
        return swin_fail(SWIN_ERR_VALUE, "%s: windows of %d, shift %d, on a map of %d x %d", op, g->window,
                         g->shift, g->height, g->width);
    if (swin_windows_tokens(g) != rows)
        return swin_fail(SWIN_ERR_VALUE, "%s: %lld rows for %d maps of %d x %d", op, (long long)rows,
                         g->images, g->height, g->width);
    return SWIN_OK;
}

static swin_status cuda_layernorm(swin_dev *dev, swin_tensor *out, const swin_tensor *x, const swin_norm *n)
{
    if (out->dtype == SWIN_S8) return swin_norm_s8_cuda(dev, out, x, n, SWIN_ROWS_SAME, NULL);
    SWIN_TRY(swin_check_cuda("layernorm", out, x, x->rows, x->cols));
    return swin_cuda_status(swin_norm_launch(swin_cuda_of(dev)->stream, out, x, n, SWIN_ROWS_SAME, NULL),
                            "layernorm");
}

static swin_status cuda_layernorm_windows(swin_dev *dev, swin_tensor *out, const swin_tensor *x,
                                          const swin_norm *n, const swin_windows *g)
{
    if (out->dtype == SWIN_S8) return swin_norm_s8_cuda(dev, out, x, n, SWIN_ROWS_WINDOWS, g);
    swin_tensor as_x = *out;
    if (out->dtype == SWIN_F32) as_x.dtype = x->dtype;
    SWIN_TRY(swin_check_cuda("layernorm_windows", &as_x, x, x->rows, x->cols));
    SWIN_TRY(check_windows("layernorm_windows", g, x->rows));
    return swin_cuda_status(swin_norm_launch(swin_cuda_of(dev)->stream, out, x, n, SWIN_ROWS_WINDOWS, g),
                            "layernorm_windows");
}

static swin_status cuda_layernorm_merge(swin_dev *dev, swin_tensor *out, const swin_tensor *x,
                                        const swin_norm *n, const swin_windows *g)
{
    if (out->dtype == SWIN_S8) return swin_norm_s8_cuda(dev, out, x, n, SWIN_ROWS_MERGE, g);
    SWIN_TRY(swin_check_cuda("layernorm_merge", out, x, x->rows / 4, 4 * x->cols));
    if (g->height % 2 || g->width % 2 || swin_windows_tokens(g) != x->rows)
        return swin_fail(SWIN_ERR_VALUE, "layernorm_merge: a map of %d x %d", g->height, g->width);
    return swin_cuda_status(swin_norm_launch(swin_cuda_of(dev)->stream, out, x, n, SWIN_ROWS_MERGE, g),
                            "layernorm_merge");
}

swin_status swin_bias_act_cuda(swin_dev *dev, swin_tensor *y, const float *bias, swin_act act)
{
    SWIN_TRY(swin_check_cuda("bias_act", y, y, y->rows, y->cols));
    return swin_cuda_status(swin_bias_act_launch(swin_cuda_of(dev)->stream, y, bias, act), "bias_act");
}

swin_status swin_residual_add_cuda(swin_dev *dev, swin_tensor *residual, const swin_tensor *y,
                                   const swin_windows *g)
{
    SWIN_TRY(swin_check_cuda("residual_add", residual, y, y->rows, y->cols));
    if (g) SWIN_TRY(check_windows("residual_add", g, y->rows));
    return swin_cuda_status(swin_residual_add_launch(swin_cuda_of(dev)->stream, residual, y, g),
                            "residual_add");
}

static swin_status cuda_mean_tokens(swin_dev *dev, swin_tensor *out, const swin_tensor *x, int tokens)
{
    if (tokens < 1) return swin_fail(SWIN_ERR_VALUE, "mean_tokens: %d tokens", tokens);
    SWIN_TRY(swin_check_cuda("mean_tokens", out, x, x->rows / tokens, x->cols));
    return swin_cuda_status(swin_mean_tokens_launch(swin_cuda_of(dev)->stream, out, x, tokens),
                            "mean_tokens");
}

/* Tensor cores where they take the shape, the kernel for all shapes elsewhere. */
swin_status swin_attention_run_cuda(swin_dev *dev, const swin_attention_args *args, swin_attention_part part)
{
    swin_cuda *d = swin_cuda_of(dev);
    cudaError_t e = cudaErrorNotSupported;
    if (d->major >= 8 && part == SWIN_ATTENTION_ALL)
        e = swin_attention_tiles_launch(d->stream, args, d->multiprocessors);
    if (d->major >= 8 && e == cudaErrorNotSupported)
        e = swin_attention_mma_launch(d->stream, args, part, d->multiprocessors);
    if (e == cudaErrorNotSupported) e = swin_attention_f32_launch(d->stream, args, part);
    if (e == cudaErrorNotSupported) e = swin_attention_any_launch(d->stream, args, part);
    return swin_cuda_status(e, "attention");
}

static swin_status check_attention(const swin_attention *a, const swin_windows *g, const swin_tensor *rows,
                                   const swin_tensor *s)
{
    const int64_t n = (int64_t)g->window * g->window;
    if (rows) SWIN_TRY(check_windows("attention", g, rows->rows));
    if (a->heads < 1 || a->head_size < 1)
        return swin_fail(SWIN_ERR_VALUE, "attention: %d heads of %d", a->heads, a->head_size);
    if (s && (s->cols != n || s->rows != swin_windows_tokens(g) * a->heads || s->dtype > SWIN_BF16))
        return swin_fail(SWIN_ERR_VALUE, "attention: %lld x %lld scores for windows of %lld tokens",
                         (long long)s->rows, (long long)s->cols, (long long)n);
    return SWIN_OK;
}

static swin_status check_qkv(const swin_tensor *qkv, const swin_attention *a)
{
    return swin_check_cuda("attention", qkv, qkv, qkv->rows, (int64_t)3 * a->heads * a->head_size);
}

static swin_status cuda_attention(swin_dev *dev, swin_tensor *out, const swin_tensor *qkv,
                                  const swin_attention *a, const swin_windows *g)
{
    SWIN_TRY(check_attention(a, g, qkv, NULL));
    SWIN_TRY(check_qkv(qkv, a));
    SWIN_TRY(swin_check_cuda("attention", out, qkv, qkv->rows, (int64_t)a->heads * a->head_size));
    return swin_attention_run_cuda(dev, &(swin_attention_args){ .a = *a, .g = *g, .qkv = *qkv, .out = *out },
                                   SWIN_ATTENTION_ALL);
}

static swin_status cuda_scores(swin_dev *dev, swin_tensor *s, const swin_tensor *qkv, const swin_attention *a,
                               const swin_windows *g)
{
    SWIN_TRY(check_attention(a, g, qkv, s));
    SWIN_TRY(check_qkv(qkv, a));
    SWIN_TRY(swin_check_cuda("scores", s, qkv, s->rows, s->cols));
    return swin_attention_run_cuda(dev, &(swin_attention_args){ .a = *a, .g = *g, .qkv = *qkv, .s = *s },
                                   SWIN_ATTENTION_SCORES);
}

static swin_status cuda_softmax(swin_dev *dev, swin_tensor *s, const swin_attention *a, const swin_windows *g)
{
    SWIN_TRY(check_attention(a, g, NULL, s));
    return swin_attention_run_cuda(dev, &(swin_attention_args){ .a = *a, .g = *g, .s = *s },
                                   SWIN_ATTENTION_SOFTMAX);
}

static swin_status cuda_weighted_sum(swin_dev *dev, swin_tensor *out, const swin_tensor *s,
                                     const swin_tensor *qkv, const swin_attention *a, const swin_windows *g)
{
    SWIN_TRY(check_attention(a, g, qkv, s));
    SWIN_TRY(check_qkv(qkv, a));
    SWIN_TRY(swin_check_cuda("weighted_sum", out, qkv, qkv->rows, (int64_t)a->heads * a->head_size));
    SWIN_TRY(swin_check_cuda("weighted_sum", s, qkv, s->rows, s->cols));
    return swin_attention_run_cuda(
        dev, &(swin_attention_args){ .a = *a, .g = *g, .qkv = *qkv, .s = *s, .out = *out },
        SWIN_ATTENTION_SUM);
}

static swin_status cuda_normalise_heads(swin_dev *dev, swin_tensor *out, const swin_tensor *x, int heads,
                                        const float *head_scale)
{
    if (out->dtype == SWIN_S8) return swin_normalise_heads_s8_cuda(dev, out, x, heads, head_scale);
    SWIN_TRY(swin_check_cuda("normalise_heads", out, x, x->rows, x->cols));
    if (heads < 1 || x->cols % heads != 0)
        return swin_fail(SWIN_ERR_VALUE, "normalise_heads: %lld columns in %d heads", (long long)x->cols,
                         heads);
    const cudaStream_t stream = swin_cuda_of(dev)->stream;
    cudaError_t e = swin_heads32_launch(stream, out, x, heads, head_scale ? heads : 0, head_scale);
    if (e == cudaErrorNotSupported) e = swin_normalise_heads_launch(stream, out, x, heads, head_scale);
    return swin_cuda_status(e, "normalise_heads");
}

static swin_status cuda_fake_quant(swin_dev *dev, swin_tensor *x, float scale, int zero_point, int qmin,
                                   int qmax)
{
    SWIN_TRY(swin_check_cuda("fake_quant", x, x, x->rows, x->cols));
    if (!(scale > 0) || qmin >= qmax)
        return swin_fail(SWIN_ERR_VALUE, "fake_quant: scale %g, codes %d to %d", (double)scale, qmin, qmax);
    return swin_cuda_status(
        swin_fake_quant_launch(swin_cuda_of(dev)->stream, x, scale, zero_point, qmin, qmax), "fake_quant");
}

static swin_status cuda_round_to(swin_dev *dev, swin_tensor *x, swin_dtype dtype)
{
    SWIN_TRY(swin_check_cuda("round_to", x, x, x->rows, x->cols));
    return swin_cuda_status(swin_round_to_launch(swin_cuda_of(dev)->stream, x, dtype), "round_to");
}

const swin_ops swin_ops_cuda = {
    .name = "cuda",
    .help = "one NVIDIA GPU (sm_75 or newer): tensor cores for int8, fp16, bf16 and, on request, tf32",
    .open = cuda_open,
    .close = cuda_close,
    .engine = cuda_engine,
    .threads = cuda_threads,
    .alloc = swin_alloc_cuda,
    .free = swin_free_cuda,
    .upload = swin_upload_cuda,
    .download = swin_download_cuda,
    .copy = swin_copy_cuda,
    .sync = swin_sync_cuda,
    .chunk = cuda_chunk,
    .linear_prepare = swin_linear_prepare_cuda,
    .linear_release = swin_linear_release_cuda,
    .patch_embed = swin_patch_embed_cuda,
    .layernorm = cuda_layernorm,
    .layernorm_windows = cuda_layernorm_windows,
    .layernorm_merge = cuda_layernorm_merge,
    .linear = swin_linear_cuda,
    .linear_residual = swin_linear_residual_cuda,
    .bias_act = swin_bias_act_cuda,
    .residual_add = swin_residual_add_cuda,
    .attention = cuda_attention,
    .scores = cuda_scores,
    .softmax = cuda_softmax,
    .weighted_sum = cuda_weighted_sum,
    .mean_tokens = cuda_mean_tokens,
    .attention_half = swin_attention_half_cuda,
    .mlp_half = swin_mlp_half_cuda,
    .quantize = swin_quantize_cuda,
    .linear_s8_prepare = swin_linear_s8_prepare_cuda,
    .linear_s8 = swin_linear_s8_cuda,
    .linear_s8_residual = swin_linear_s8_residual_cuda,
    .attention_s8 = swin_attention_s8_cuda,
    .attention_half_s8 = swin_attention_half_s8_cuda,
    .mlp_half_s8 = swin_mlp_half_s8_cuda,
    .blocks_s8 = swin_blocks_s8_cuda,
    .shrinks = true,
    .after_channels = true,
    .attention_half_v2 = swin_attention_half_v2_cuda,
    .mlp_half_v2 = swin_mlp_half_v2_cuda,
    .attention_half_v2_s8 = swin_attention_half_v2_s8_cuda,
    .mlp_half_v2_s8 = swin_mlp_half_v2_s8_cuda,
    .merge_s8 = swin_merge_s8_cuda,
    .fake_quant = cuda_fake_quant,
    .round_to = cuda_round_to,
    .observer_create = swin_observer_create_cuda,
    .observer_free = swin_observer_free_cuda,
    .observe = swin_observe_cuda,
    .observer_read = swin_observer_read_cuda,
    .bias_act_observed = swin_bias_act_observed_cuda,
    .residual_add_observed = swin_residual_add_observed_cuda,
    .native_half = true,
    .graph_begin = cuda_graph_begin,
    .graph_end = cuda_graph_end,
    .graph_launch = cuda_graph_launch,
    .graph_free = cuda_graph_free,
    .memory = cuda_memory,
    .tune = swin_tune_cuda,
    .normalise_heads = cuda_normalise_heads,
    .merge = swin_merge_cuda,
    .upload_beside = swin_upload_beside_cuda,
    .download_later = swin_download_later_cuda,
    .download_wait = swin_download_wait_cuda,
    .range = cuda_range,
    .scale_columns = swin_scale_columns_cuda,
    .moments = swin_moments_cuda,
    .take_rows = swin_take_rows_cuda,
};
