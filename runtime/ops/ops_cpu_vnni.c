/* The cpu backend's kernels for AVX-512 with VNNI; CMake gives files of this suffix those flags. */
#if defined(__x86_64__)
#define SWIN_CPU_TABLE swin_cpu_vnni
#define SWIN_CPU_ISA   "vnni"
#include "runtime/ops/ops_cpu_body.h"
#else
typedef int swin_cpu_vnni_is_x86_only;
#endif
