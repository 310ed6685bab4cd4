/* runtime/ops/kernels/gemm.cuh - the configurations of the GEMM kernels. */
#pragma once

#include "runtime/ops/kernels/kernels.h"

typedef struct gemm_config {
    const char *name;
    int bm, bn, threads;
    int stage, stages, out; /* bytes of a pipeline step, steps, bytes of the staged output tile */
    int step;               /* bytes of k in a pipeline step */
    const void *kernel;
    int registers, fixed; /* of a thread; bytes of static shared memory. Known once ready */
    bool ready;           /* its shared memory has been asked for */
} gemm_config;

/* gemm_wgmma.cu: NULL where this build or the current GPU has no wgmma, or for another type than F16 and BF16. */
gemm_config *swin_wgmma_table(swin_gemm_math math, int *count);
