/* runtime/swin/safetensors_write.h - .safetensors files from tensors in host memory. */
#ifndef SWIN_SWIN_SAFETENSORS_WRITE_H
#define SWIN_SWIN_SAFETENSORS_WRITE_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"
#include "runtime/base/tensor.h"

/* One dense, row-major tensor; nothing is owned. */
typedef struct swin_named_tensor {
    const char *name; /* not NULL, each one once */
    swin_dtype dtype;
    int ndim; /* 0: one number */
    int64_t shape[8];
    const void *data; /* NULL only when a dimension is 0 */
} swin_named_tensor;

/*
 * Write `count` tensors, in their order, atomically (DESIGN.md rule 4). Equal input gives equal bytes; nothing is copied.
 *
 * SWIN_ERR_VALUE names a tensor whose shape or name cannot be written; SWIN_ERR_IO names the path.
 */
swin_status swin_safetensors_write(const char *path, const swin_named_tensor *tensors, size_t count);

#endif
