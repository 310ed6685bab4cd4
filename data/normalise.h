/* data/normalise.h - inside the data module: vector forms of swin_image_normalise.
 *
 * A quotient is got from the product with the reciprocal and one corrected remainder, which gives the
 * rounded quotient for all values that occur (tests/test_image.c goes through every one).
 */
#ifndef SWIN_DATA_NORMALISE_H
#define SWIN_DATA_NORMALISE_H

#include <stddef.h>
#include <stdint.h>

extern const float swin_image_mean[3], swin_image_deviation[3];

/* n pixels, red to out[0], green to out[n], blue to out[2 n]. Returns how many pixels it did, from the
 * first on; the rest is the caller's. */
typedef size_t (*swin_normalise_pass)(float *out, const uint8_t *rgb, size_t n);

size_t swin_normalise_plain(float *out, const uint8_t *rgb, size_t n); /* all of them: the definition */
#if defined(__x86_64__)
size_t swin_normalise_avx2(float *out, const uint8_t *rgb, size_t n);
size_t swin_normalise_avx512(float *out, const uint8_t *rgb, size_t n);
#endif

#endif
