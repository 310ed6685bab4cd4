/* runtime/swin/tap.h - the hinge: one model walk, and a function that it calls at each site.
 *
 * Collecting statistics, fake quantization, forcing an input and dumping a layer are taps. The walk runs fused operators
 * where no site inside them is wanted and composes them from plain ones where one is; both give the same bits.
 *
 * A tap that only observes says so (observer), and the walk may then take operators that observe what they compute.
 *
 * In a network that runs on integers, the sites that such a layer hands on in codes are shown as S8 matrices, and the sites
 * inside its kernels (_aftergemm, softmax_input, matmul_a, add1_local, add2_local) are not shown.
 */
#ifndef SWIN_SWIN_TAP_H
#define SWIN_SWIN_TAP_H

#include <stdbool.h>

#include "runtime/base/tensor.h"
#include "runtime/ops/ops.h"
#include "runtime/swin/site.h"

typedef struct swin_tap_point {
    swin_site site;
    swin_tensor *x; /* in dev's memory; activations only, never weights. Rows are in the walk's order: windows
                                 for attention's inner sites (row = ((image, window), token)), image rows otherwise; the
                                 scores have one matrix per (image, window, head), stacked */
    swin_dev *dev;
    int image, images; /* x covers images [image, image + images) of the batch... */
    int batch;         /* ...which has this many: the walk may work in chunks (swin_net_opts.chunk) */
} swin_tap_point;

typedef struct swin_tap {
    void *user;
    bool (*wants)(void *user, swin_site site); /* NULL: every site */
    /* Called on the caller's thread, in forward order. May change x's values in place. A status other than SWIN_OK ends
     * the forward and is returned. */
    swin_status (*at)(void *user, const swin_tap_point *p);
    /* NULL function or result: `at` is called. Otherwise all that `at` would do at this site is to give x to this observer
     * with ops->observe, once for each forward; the walk may do so itself, inside another operator. */
    swin_observer *(*observer)(void *user, swin_site site);
} swin_tap;

#endif
