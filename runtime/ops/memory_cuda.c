/* Device memory of the cuda backend, and copies through pinned staging. */
#include <stdlib.h>
#include <string.h>

#include "runtime/ops/kernels/cuda_dev.h"

#define STAGE_BYTES ((size_t)4 << 20)

swin_status swin_alloc_cuda(swin_dev *dev, void **p, size_t bytes)
{
    swin_cuda *d = swin_cuda_of(dev);
    *p = NULL;
    cudaError_t e = cudaSetDevice(d->device);
    if (e == cudaSuccess) e = cudaMalloc(p, bytes ? bytes : 1);
    if (e == cudaErrorMemoryAllocation) {
        cudaGetLastError(); /* not for the next launch to find */
        return swin_fail(SWIN_ERR_MEM, "no memory for %zu bytes on GPU %d (%s)", bytes, d->device, d->name);
    }
    return swin_cuda_status(e, "cudaMalloc");
}

void swin_free_cuda(swin_dev *dev, void *p)
{
    (void)dev;
    if (p) cudaFree(p); /* waits for what still uses it */
}

static swin_status make_stages(swin_cuda *d)
{
    for (int i = 0; i < 2; i++) {
        swin_cuda_stage *s = &d->stages[i];
        if (!s->copied)
            SWIN_TRY(
                swin_cuda_status(cudaEventCreateWithFlags(&s->copied, cudaEventDisableTiming), "an event"));
        if (!s->pinned) SWIN_TRY(swin_cuda_status(cudaMallocHost(&s->pinned, STAGE_BYTES), "pinned memory"));
    }
    return SWIN_OK;
}

/* While the device takes one half of the staging, the other is filled. */
swin_status swin_upload_cuda(swin_dev *dev, void *dst, const void *host, size_t bytes)
{
    swin_cuda *d = swin_cuda_of(dev);
    SWIN_TRY(swin_cuda_status(cudaSetDevice(d->device), "cudaSetDevice"));
    SWIN_TRY(make_stages(d));
    int turn = 0;
    for (size_t at = 0; at < bytes; at += STAGE_BYTES, turn ^= 1) {
        swin_cuda_stage *s = &d->stages[turn];
        const size_t n = bytes - at < STAGE_BYTES ? bytes - at : STAGE_BYTES;
        SWIN_TRY(swin_cuda_status(cudaEventSynchronize(s->copied), "an upload"));
        memcpy(s->pinned, (const char *)host + at, n);
        SWIN_TRY(swin_cuda_status(
            cudaMemcpyAsync((char *)dst + at, s->pinned, n, cudaMemcpyHostToDevice, d->stream), "an upload"));
        SWIN_TRY(swin_cuda_status(cudaEventRecord(s->copied, d->stream), "an upload"));
    }
    return SWIN_OK;
}

swin_status swin_download_cuda(swin_dev *dev, void *host, const void *src, size_t bytes)
{
    swin_cuda *d = swin_cuda_of(dev);
    SWIN_TRY(swin_cuda_status(cudaSetDevice(d->device), "cudaSetDevice"));
    SWIN_TRY(
        swin_cuda_status(cudaMemcpyAsync(host, src, bytes, cudaMemcpyDeviceToHost, d->stream), "a download"));
    return swin_cuda_status(cudaStreamSynchronize(d->stream), "the work before a download");
}

swin_status swin_copy_cuda(swin_dev *dev, void *dst, const void *src, size_t bytes)
{
    swin_cuda *d = swin_cuda_of(dev);
    return swin_cuda_status(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, d->stream), "a copy");
}

swin_status swin_sync_cuda(swin_dev *dev)
{
    return swin_cuda_status(cudaStreamSynchronize(swin_cuda_of(dev)->stream), "the queued work");
}

/* An outgrown block lives on until the device closes: a recorded graph may still point to it. */
static swin_status retire_work(swin_cuda *d)
{
    if (!d->work) return SWIN_OK;
    void **grown = realloc(d->retired, (d->nretired + 1) * sizeof *grown);
    if (!grown) return swin_fail(SWIN_ERR_MEM, "no memory for scratch blocks");
    d->retired = grown;
    d->retired[d->nretired++] = d->work;
    d->work = NULL, d->work_bytes = 0;
    return SWIN_OK;
}

swin_status swin_cuda_work(swin_cuda *d, void **p, size_t bytes)
{
    if (bytes > d->work_bytes) {
        if (d->capturing) return swin_fail(SWIN_ERR_DEVICE, "scratch memory cannot grow inside a graph");
        SWIN_TRY(retire_work(d));
        SWIN_TRY(swin_alloc_cuda(&d->base, &d->work, bytes));
        d->work_bytes = bytes;
    }
    *p = d->work;
    return SWIN_OK;
}
