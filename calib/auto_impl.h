/* calib/auto_impl.h - what auto.c (measuring) and auto_search.c (choosing) share. Private to auto*.c. */
#ifndef SWIN_CALIB_AUTO_IMPL_H
#define SWIN_CALIB_AUTO_IMPL_H

#include "calib/auto.h"
#include "quant/relax.h"
#include "quant/sensitivity.h"
#include "runtime/swin/accuracy.h"

enum { AUTO_TOGETHER = 8 }; /* images in a pass */

typedef struct job {
    swin_calib_file *f;
    swin_dev *dev;
    const swin_weights *exact;
    swin_weights *w;
    const swin_auto_opts *o;
    float *pixels;    /* owned: [images][3][S][S] */
    float *reference; /* owned: [images][classes], fp32 */
    int images;
    double signal;          /* sum of its squares */
    swin_relax_unit *units; /* owned */
    int count;              /* of units */
    double *error;          /* owned: [count] squared error that each makes alone */
    int *order;             /* owned: [count] units, the largest error first */
} job;

/* The network that f's enabled sites describe, on the images held back; all: do not stop where the limit is out of reach. */
swin_status auto_judge(job *j, bool all, swin_accuracy *a);
bool auto_meets(const job *j, const swin_accuracy *a);

/* Set the units' `relaxed` and f's enabled flags; end: what the network reaches before, and then with that. */
swin_status auto_search(job *j, swin_accuracy *end);

#endif
