#include "runtime/base/half.h"

#include <string.h>

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

float swin_f16_to_f32(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, mantissa = h & 0x3ffu;
    if (exponent == 31) return float_of(sign | 0x7f800000u | mantissa << 13);
    if (exponent) return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
    const float tiny = (float)mantissa * 0x1p-24f; /* subnormal or zero */
    return sign ? -tiny : tiny;
}

uint16_t swin_f32_to_f16(float f)
{
    const uint32_t u = bits_of(f), sign = (u >> 16) & 0x8000u, mag = u & 0x7fffffffu;
    if (mag > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (mag >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* rounds past 65504 */
    if (mag < 0x38800000u) {                                   /* subnormal in f16: let the adder round */
        const float shifted = float_of(mag) + 0.5f;            /* one ulp of 0.5 is 2^-24 */
        return (uint16_t)(sign | (bits_of(shifted) - 0x3f000000u));
    }
    const uint32_t rounded = mag + 0xfffu + ((mag >> 13) & 1u);
    return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13));
}

float swin_bf16_to_f32(uint16_t h)
{
    return float_of((uint32_t)h << 16);
}

uint16_t swin_f32_to_bf16(float f)
{
    const uint32_t u = bits_of(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

void swin_widen(float *dst, const void *src, swin_dtype dtype, size_t n)
{
    const unsigned char *p = src;
    if (dtype == SWIN_F32) {
        memcpy(dst, src, n * sizeof *dst);
    } else if (dtype == SWIN_F64) {
        for (size_t i = 0; i < n; i++) {
            double d;
            memcpy(&d, p + 8 * i, 8);
            dst[i] = (float)d;
        }
    } else {
        for (size_t i = 0; i < n; i++) {
            uint16_t h;
            memcpy(&h, p + 2 * i, 2);
            dst[i] = dtype == SWIN_F16 ? swin_f16_to_f32(h) : swin_bf16_to_f32(h);
        }
    }
}

float swin_round_to(float x, swin_dtype dtype)
{
    if (dtype == SWIN_F16) return swin_f16_to_f32(swin_f32_to_f16(x));
    if (dtype == SWIN_BF16) return swin_bf16_to_f32(swin_f32_to_bf16(x));
    return x;
}
