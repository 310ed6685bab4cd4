/* runtime/ops/kernels/gemm_s8.cuh - the configurations of the INT8 products. */
#pragma once

#include "runtime/ops/kernels/int8.h"

typedef struct gemm_s8_config {
    const char *name;
    int bm, bn, threads;
    int stage, stages; /* bytes of a pipeline step of 128 bytes of k, steps */
    const void *kernel;
    bool boxes;           /* fed by the copy engine: swin_wgmma_s8_launch */
    int registers, fixed; /* of a thread; bytes of static shared memory. Known once ready */
    bool ready;           /* its shared memory has been asked for */
} gemm_s8_config;

/* gemm_s8_wgmma.cu: NULL where this build or the current GPU has no wgmma. last: an s8_last of
 * last_s8.cuh. */
gemm_s8_config *swin_wgmma_s8_table(int last, int *count);
/* stages: in use, at most c's. cudaErrorNotSupported where a matrix cannot be copied in boxes. */
cudaError_t swin_wgmma_s8_launch(cudaStream_t stream, const swin_gemm_s8 *p, const gemm_s8_config *c,
                                 unsigned blocks, size_t shared, int stages);
