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
static swin_status copy_staged(swin_cuda *d, cudaStream_t stream, void *dst, const void *host, size_t bytes)
{
    SWIN_TRY(make_stages(d));
    int turn = 0;
    for (size_t at = 0; at < bytes; at += STAGE_BYTES, turn ^= 1) {
        swin_cuda_stage *s = &d->stages[turn];
        const size_t n = bytes - at < STAGE_BYTES ? bytes - at : STAGE_BYTES;
        SWIN_TRY(swin_cuda_status(cudaEventSynchronize(s->copied), "an upload"));
        memcpy(s->pinned, (const char *)host + at, n);
        SWIN_TRY(swin_cuda_status(
            cudaMemcpyAsync((char *)dst + at, s->pinned, n, cudaMemcpyHostToDevice, stream), "an upload"));
        SWIN_TRY(swin_cuda_status(cudaEventRecord(s->copied, stream), "an upload"));
    }
    return SWIN_OK;
}

swin_status swin_upload_cuda(swin_dev *dev, void *dst, const void *host, size_t bytes)
{
    swin_cuda *d = swin_cuda_of(dev);
    SWIN_TRY(swin_cuda_status(cudaSetDevice(d->device), "cudaSetDevice"));
    return copy_staged(d, d->stream, dst, host, bytes);
}

static swin_status make_beside(swin_cuda *d)
{
    SWIN_TRY(swin_cuda_status(cudaSetDevice(d->device), "cudaSetDevice"));
    if (!d->queued)
        SWIN_TRY(swin_cuda_status(cudaEventCreateWithFlags(&d->queued, cudaEventDisableTiming), "an event"));
    if (!d->arrived)
        SWIN_TRY(swin_cuda_status(cudaEventCreateWithFlags(&d->arrived, cudaEventDisableTiming), "an event"));
    if (d->copies) return SWIN_OK;
    SWIN_TRY(swin_cuda_status(cudaEventRecord(d->queued, d->stream), "an upload"));
    return swin_cuda_status(cudaStreamCreateWithFlags(&d->copies, cudaStreamNonBlocking), "a stream");
}

swin_status swin_upload_beside_cuda(swin_dev *dev, void *dst, const void *host, size_t bytes)
{
    swin_cuda *d = swin_cuda_of(dev);
    SWIN_TRY(make_beside(d));
    SWIN_TRY(swin_cuda_status(cudaStreamWaitEvent(d->copies, d->queued, 0), "an upload"));
    SWIN_TRY(swin_cuda_status(cudaEventRecord(d->queued, d->stream), "an upload")); /* for the next one */
    SWIN_TRY(copy_staged(d, d->copies, dst, host, bytes));
    SWIN_TRY(swin_cuda_status(cudaEventRecord(d->arrived, d->copies), "an upload"));
    return swin_cuda_status(cudaStreamWaitEvent(d->stream, d->arrived, 0), "an upload");
}

swin_status swin_download_later_cuda(swin_dev *dev, int slot, const void *src, size_t bytes)
{
    swin_cuda *d = swin_cuda_of(dev);
    swin_cuda_later *l = &d->later[slot];
    SWIN_TRY(swin_cuda_status(cudaSetDevice(d->device), "cudaSetDevice"));
    if (!l->done)
        SWIN_TRY(swin_cuda_status(cudaEventCreateWithFlags(&l->done, cudaEventDisableTiming), "an event"));
    if (bytes > l->capacity) {
        if (l->pinned) cudaFreeHost(l->pinned);
        l->pinned = NULL, l->capacity = 0;
        SWIN_TRY(swin_cuda_status(cudaMallocHost(&l->pinned, bytes), "pinned memory"));
        l->capacity = bytes;
    }
    SWIN_TRY(swin_cuda_status(cudaMemcpyAsync(l->pinned, src, bytes, cudaMemcpyDeviceToHost, d->stream),
                              "a download"));
    return swin_cuda_status(cudaEventRecord(l->done, d->stream), "a download");
}

swin_status swin_download_wait_cuda(swin_dev *dev, int slot, void *host, size_t bytes)
{
    swin_cuda_later *l = &swin_cuda_of(dev)->later[slot];
    if (bytes > l->capacity)
        return swin_fail(SWIN_ERR_VALUE, "a download of %zu bytes was not queued", bytes);
    SWIN_TRY(swin_cuda_status(cudaEventSynchronize(l->done), "the work before a download"));
    memcpy(host, l->pinned, bytes);
    return SWIN_OK;
}

void swin_memory_close_cuda(swin_cuda *d)
{
    if (d->copies) cudaStreamSynchronize(d->copies);
    for (int i = 0; i < 2; i++) {
        if (d->stages[i].copied) cudaEventDestroy(d->stages[i].copied);
        if (d->stages[i].pinned) cudaFreeHost(d->stages[i].pinned);
        if (d->later[i].done) cudaEventDestroy(d->later[i].done);
        if (d->later[i].pinned) cudaFreeHost(d->later[i].pinned);
    }
    if (d->queued) cudaEventDestroy(d->queued);
    if (d->arrived) cudaEventDestroy(d->arrived);
    if (d->copies) cudaStreamDestroy(d->copies);
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
