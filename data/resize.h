/* data/resize.h - inside the data module: Pillow's fixed-point bicubic resampling along one axis at a time.
 *
 * An output sample is clip((2^21 + sum of pixel * k) >> 22), k being the weight times 2^22, rounded. The
 * plain passes say what that is; the others give the same bytes. They split k into k = high * 2^11 + low
 * (or into three 8-bit digits), so that narrow multiply-add instructions do exact work.
 */
#ifndef SWIN_DATA_RESIZE_H
#define SWIN_DATA_RESIZE_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

enum { SWIN_WEIGHT_BITS = 22, SWIN_LOW_BITS = 11, SWIN_ROW_SLACK = 64 };

/* What a horizontal pass wants the weights split into. */
typedef enum swin_split { SWIN_SPLIT_NONE, SWIN_SPLIT_WORDS, SWIN_SPLIT_DIGITS } swin_split;

/* Where each of `count` output samples comes from on one axis. */
typedef struct swin_axis {
    int64_t in, resized; /* samples before and after; equal: nothing to compute */
    int64_t first;       /* outputs wanted: [first, first + count) of resized */
    int count;
    swin_split split;    /* which of the arrays below k hold something */
    int taps;            /* input samples of the widest output, rounded up to a multiple of 4 */
    int64_t *from;       /* [count, rounded up to fours] first input sample; owned, as are those below */
    int *used;           /* [count] input samples */
    int32_t *k;          /* [count][taps], 0 after the used ones */
    int16_t *high, *low; /* [(count + 1) / 2][taps / 4][2][16]: for a pair of outputs and four taps, what
                               multiplies (r0 r1 g0 g1 b0 b1 - - r2 r3 g2 g3 b2 b3 - -) */
    int8_t *digits;      /* [(count + 3) / 4][taps / 4][3][4][16]: for four outputs and taps, the three
                               digits of what multiplies (r0 r1 r2 r3 g0 ... b3 - - - -); 64-byte aligned as
                               are high and low */
    size_t capacity;     /* pairs of outputs times taps */
} swin_axis;

/* Fill the axis ; its arrays are reused, and nothing is done when it holds just that already. */
swin_status swin_axis_set(swin_axis *a, int64_t in, int64_t resized, int64_t first, int count,
                          swin_split how);
void swin_axis_free(swin_axis *a);

/*
 * One row, 3 channels interleaved. in points to input sample `origin`; bytes after the last input sample
 * that a tap uses may be read, up to 12 * taps + SWIN_ROW_SLACK. out has SWIN_ROW_SLACK spare bytes.
 */
typedef void (*swin_horizontal_pass)(uint8_t *out, const uint8_t *in, int64_t origin, const swin_axis *a);

/* One output row of n bytes from `used` rows, which have SWIN_ROW_SLACK spare bytes each. out has none. */
typedef void (*swin_vertical_pass)(uint8_t *out, const uint8_t *const *rows, int used, const int32_t *k,
                                   size_t n);

void swin_horizontal_plain(uint8_t *out, const uint8_t *in, int64_t origin, const swin_axis *a);
void swin_vertical_plain(uint8_t *out, const uint8_t *const *rows, int used, const int32_t *k, size_t n);

/* What a processor can run; a name for tests and benchmarks. */
typedef struct swin_passes {
    const char *name; /* "plain", "avx2", "avx512", "vnni" */
    swin_horizontal_pass horizontal;
    swin_vertical_pass vertical;
    swin_split split;
} swin_passes;

extern const swin_passes swin_passes_plain;
#if defined(__x86_64__)
extern const swin_passes swin_passes_avx2, swin_passes_avx512, swin_passes_vnni;
void swin_vertical_avx512(uint8_t *out, const uint8_t *const *rows, int used, const int32_t *k, size_t n);
#endif

/* Number i of those that this processor runs, the fastest first; NULL after the last. */
const swin_passes *swin_passes_get(int i);

/* Make a resizer use other passes than the fastest: for tests and benchmarks. */
struct swin_resizer;
void swin_resizer_use(struct swin_resizer *r, const swin_passes *passes);

#endif
