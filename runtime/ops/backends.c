#include "runtime/ops/ops.h"

#include <string.h>

#include "runtime/base/log.h"

extern const swin_ops swin_ops_ref, swin_ops_cpu;
#if SWIN_WITH_CUDA
extern const swin_ops swin_ops_cuda;
#endif

static const swin_ops *const backends[] = {
#if SWIN_WITH_CUDA
    &swin_ops_cuda, /* one NVIDIA GPU */
#endif
    &swin_ops_cpu, /* packed kernels on all threads */
    &swin_ops_ref, /* double; slow; the definition */
    NULL,
};

const swin_ops *const *swin_backends(void)
{
    return backends;
}

static const swin_ops *find(const char *name)
{
    for (const swin_ops *const *b = backends; *b; b++)
        if (strcmp((*b)->name, name) == 0) return *b;
    return NULL;
}

static swin_status open_auto(swin_dev **dev, const swin_dev_opts *opts)
{
    const swin_ops *cuda = find("cuda");
    if (cuda && cuda->open(dev, opts) == SWIN_OK) return SWIN_OK;
    if (cuda) swin_detail("no GPU: %s", swin_error_message());
    return swin_ops_cpu.open(dev, opts);
}

swin_status swin_dev_open(swin_dev **dev, const char *backend, const swin_dev_opts *opts)
{
    *dev = NULL;
    if (strcmp(backend, "auto") == 0) return open_auto(dev, opts);
    const swin_ops *ops = find(backend);
    if (ops) return ops->open(dev, opts);
    if (strcmp(backend, "cuda") == 0)
        return swin_fail(SWIN_ERR_DEVICE,
                         "--backend cuda: this build has no CUDA (no nvcc was found when it was made)");
    return swin_fail(SWIN_ERR_USAGE, "--backend %s: unknown", backend);
}

void swin_dev_close(swin_dev *dev)
{
    if (dev) dev->ops->close(dev);
}
