/* The cpu backend's kernels for AVX-512 (F, BW, VL, DQ); CMake gives files of this suffix those flags. */
#if defined(__x86_64__)
#define SWIN_CPU_TABLE swin_cpu_avx512
#define SWIN_CPU_ISA   "avx512"
#include "runtime/ops/ops_cpu_body.h"
#else
typedef int swin_cpu_avx512_is_x86_only;
#endif
