/* The cpu backend's kernels for AVX2, FMA and F16C; CMake gives files of this suffix those flags. */
#if defined(__x86_64__)
#define SWIN_CPU_TABLE swin_cpu_avx2
#define SWIN_CPU_ISA   "avx2"
#include "runtime/ops/ops_cpu_body.h"
#else
typedef int swin_cpu_avx2_is_x86_only;
#endif
