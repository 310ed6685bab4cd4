/* runtime/ops/kernels/gemm.cuh - the configurations of the GEMM kernels. */
#pragma once

#include "runtime/ops/kernels/kernels.h"

typedef struct gemm_config {
    const char *name;
    int bm, bn, threads;
    int stage, stages, out; /* bytes of a pipeline step, steps, bytes of the staged output tile */
    int step;               /* bytes of k in a pipeline step */
    double rate;            /* products a clock, over what is usual for the type */
    const void *kernel;
    bool boxes;           /* operands come through the copy engine: swin_wgmma_launch */
    int registers, fixed; /* of a thread; bytes of static shared memory. Known once ready */
    bool ready;           /* its shared memory has been asked for */
} gemm_config;

/* gemm_wgmma.cu: NULL where this build or the current GPU has no wgmma, or for another type than F16 and
 * BF16. */
gemm_config *swin_wgmma_table(swin_gemm_math math, int *count);
cudaError_t swin_wgmma_launch(cudaStream_t stream, const swin_gemm *p, const gemm_config *c, unsigned blocks,
                              size_t shared, int stages);
/* A CUtensorMap of a row-major matrix of codes, taken in boxes of box_rows rows by 128 columns. False where the copy engine
 * cannot take it. */
bool swin_codes_map(void *map, const void *data, int64_t rows, int cols, int64_t ld, int box_rows);
