/* The cpu backend's kernels for any processor. */
#define SWIN_CPU_TABLE swin_cpu_generic
#define SWIN_CPU_ISA   "generic"
#include "runtime/ops/ops_cpu_body.h"
