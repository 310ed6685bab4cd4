#include "runtime/swin/widen.h"

#include <math.h>

#include "runtime/base/half.h"

static bool widen_plain(float *dst, const void *src, swin_dtype dtype, size_t n)
{
    bool finite = true;
    swin_widen(dst, src, dtype, n);
    for (size_t i = 0; i < n; i++) finite &= isfinite(dst[i]) != 0;
    return finite;
}

bool swin_widen_finite(float *dst, const void *src, swin_dtype dtype, size_t n)
{
#if defined(__x86_64__)
    /* Every processor with AVX2 has F16C, which compilers cannot all be asked for. */
    const size_t fast = n & ~(size_t)7;
    if (fast && dtype != SWIN_F64 && __builtin_cpu_supports("avx2")) {
        const bool head = swin_widen_finite_avx2(dst, src, dtype, fast);
        const char *rest = (const char *)src + fast * swin_dtype_size(dtype);
        return widen_plain(dst + fast, rest, dtype, n - fast) && head;
    }
#endif
    return widen_plain(dst, src, dtype, n);
}
