/* calib/abs_hist.h - the PyTorch toolkit's activation histogram (`--histogram compat`), gathered on the host.
 *
 * |x| in 2048 bins over [0, max of the first tensor]; the width stays, later tensors only add bins (reference/swin.md 4.5).
 * The quotient |x| / width is a float32 one, as in PyTorch. So the result depends on what the first tensor was.
 */
#ifndef SWIN_CALIB_ABS_HIST_H
#define SWIN_CALIB_ABS_HIST_H

#include "runtime/base/pool.h"
#include "runtime/ops/ops.h"

#define SWIN_ABS_HIST_BINS 2048
#define SWIN_ABS_HIST_MOST (1 << 17) /* more bins than this: the first tensor was no sample of the rest */

typedef struct swin_abs_counts {
    uint64_t count, nonfinite;
    float min, max;
    double width; /* 0 until the first tensor with a finite value */
    int bins;
    uint64_t *hist; /* owned */
} swin_abs_counts;

/* Scratch memory that adding shares between sites. */
typedef struct swin_abs_scratch swin_abs_scratch;
swin_status swin_abs_scratch_create(swin_abs_scratch **s, int threads);
void swin_abs_scratch_free(swin_abs_scratch *s); /* NULL is fine */

/* Add x (float32, in dev's memory). SWIN_ERR_VALUE when it would need more than SWIN_ABS_HIST_MOST bins. */
swin_status swin_abs_counts_add(swin_abs_counts *c, swin_abs_scratch *s, swin_dev *dev, const swin_tensor *x);

#endif
