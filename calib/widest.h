/* calib/widest.h - the largest sizes of interleaved values, in vectors; what ranges of weights and of columns are made from.
 * Functions of each file that includes it: runtime/base/wide.h chooses the instructions. */
#ifndef SWIN_CALIB_WIDEST_H
#define SWIN_CALIB_WIDEST_H

#include "runtime/base/wide.h"

/* top [n]: raised to the largest sizes of every n-th of the k values e; k a multiple of n. */
static SWIN_WIDE_BODY void widest_body(float *restrict top, const float *restrict e, int k, int n)
{
    for (int i = 0; i < k; i += n)
        for (int j = 0; j < n; j++) {
            const float size = e[i + j] < 0 ? -e[i + j] : e[i + j];
            top[j] = size > top[j] ? size : top[j];
        }
}
SWIN_WIDE(widest, (float *top, const float *e, int k, int n), (top, e, k, n))

#endif
