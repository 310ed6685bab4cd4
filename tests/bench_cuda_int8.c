/* Every tile of the INT8 products on Swin's shapes, in microseconds: what the choice of tiles is held
 * against.
 *
 * usage: bench_cuda_int8 [IMAGES [CHANNELS]] */
#include <stdio.h>
#include <stdlib.h>

#if SWIN_WITH_CUDA
#include "runtime/ops/kernels/cuda_dev.h"
#include "runtime/ops/kernels/int8.h"

enum { RUNS = 20 };

static swin_dev *dev;

static void *block(size_t bytes, int fill)
{
    void *p = NULL;
    if (dev->ops->alloc(dev, &p, bytes) != SWIN_OK || cudaMemset(p, fill, bytes) != cudaSuccess) {
        fprintf(stderr, "%s\n", swin_error_message());
        exit(1);
    }
    return p;
}

static double microseconds(const swin_gemm_s8 *p, int config)
{
    swin_cuda *d = swin_cuda_of(dev);
    cudaEvent_t a, b;
    float ms = 0;
    cudaEventCreate(&a), cudaEventCreate(&b);
    cudaError_t e = swin_gemm_s8_launch(d->stream, p, config, d->multiprocessors);
    cudaEventRecord(a, d->stream);
    for (int i = 0; i < RUNS && e == cudaSuccess; i++)
        e = swin_gemm_s8_launch(d->stream, p, config, d->multiprocessors);
    cudaEventRecord(b, d->stream);
    cudaEventSynchronize(b);
    cudaEventElapsedTime(&ms, a, b);
    cudaEventDestroy(a), cudaEventDestroy(b);
    if (e != cudaSuccess) printf("[%s]", cudaGetErrorString(e));
    return 1e3 * ms / RUNS;
}

static void one(const char *what, int64_t m, int n, int k, bool residual, swin_act act)
{
    const swin_tensor how = { .scale = 1, .qmin = -127, .qmax = 127 };
    swin_gemm_s8 p = { .m = m,
                       .n = n,
                       .k = k,
                       .x = block((size_t)m * (size_t)k, 1),
                       .w = block((size_t)n * (size_t)k, 2),
                       .dealt = block((size_t)n * (size_t)k, 2),
                       .ldx = k,
                       .x_scale = 1,
                       .w_scale = block((size_t)n * 4, 0x3c),
                       .bias = block((size_t)n * 4, 0x3c),
                       .act = act,
                       .parts = 1,
                       .width = n,
                       .residual = residual };
    p.y[0] = (swin_s8_part){ .data = block((size_t)m * (size_t)n * (residual ? 2 : 1), 0),
                             .ld = n,
                             .unit = residual ? 2 : 1,
                             .dtype = residual ? SWIN_F16 : SWIN_S8,
                             .rule = swin_s8_rule_of(&how) };
    printf("%-16s %7lld x %4d x %4d: chosen %6.1f |", what, (long long)m, n, k, microseconds(&p, -1));
    for (int c = 0; c < swin_gemm_s8_configs(); c++)
        printf(" %s %.1f", swin_gemm_s8_config_name(c), microseconds(&p, c));
    printf("\n");
    const void *all[] = { p.x, p.w, p.dealt, p.w_scale, p.bias, p.y[0].data };
    for (int i = 0; i < 6; i++) dev->ops->free(dev, (void *)(uintptr_t)all[i]);
}

int main(int argc, char **argv)
{
    const int64_t images = argc > 1 ? atoi(argv[1]) : 64;
    int c = argc > 2 ? atoi(argv[2]) : 96;
    if (swin_dev_open(&dev, "cuda", &(swin_dev_opts){ 0 }) != SWIN_OK) {
        fprintf(stderr, "%s\n", swin_error_message());
        return 1;
    }
    for (int side = 56; side >= 7; side /= 2, c *= 2) {
        const int64_t m = images * side * side;
        one("qkv", m, 3 * c, c, false, SWIN_ACT_NONE);
        one("proj", m, c, c, true, SWIN_ACT_NONE);
        one("fc1", m, 4 * c, c, false, SWIN_ACT_GELU);
        one("fc2", m, c, 4 * c, true, SWIN_ACT_NONE);
        if (side > 7) one("reduction", m / 4, 2 * c, 4 * c, false, SWIN_ACT_NONE);
    }
    swin_dev_close(dev);
    return 0;
}
#else
int main(void)
{
    puts("bench_cuda_int8: built without CUDA");
    return 0;
}
#endif
