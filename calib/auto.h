/* calib/auto.h - --int8-mode auto: leave the fewest units of a network in float that a limit asks for.
 *
 * Units and their cost: quant/relax.h. Every unit is measured on images that are held back from calibration and recovery: what
 * it costs alone (nothing else quantized) and what leaving it out gains. They are ranked by the first, which has less of the
 * chaos that one flipped code makes of all that follow; the least number of them, from the top of that list, that meets the
 * limit is found by bisection, running the network as it would be for every answer; and then every unit that can be
 * quantized after all, the least costly to accuracy first, is.
 */
#ifndef SWIN_CALIB_AUTO_H
#define SWIN_CALIB_AUTO_H

#include "data/loader.h"
#include "quant/calib_file.h"
#include "runtime/ops/ops.h"

#define SWIN_AUTO_IMAGES     80   /* held back, unless said otherwise */
#define SWIN_AUTO_IMAGES_MAX 1000 /* they are kept in memory */
#define SWIN_AUTO_MEASURED   16   /* of these, how many every single unit is measured on */

/* What the network must reach on the images held back; 0: no such limit. */
typedef struct swin_auto_limit {
    double min_agreement; /* percent of fp32's top-1 */
    double min_sqnr;      /* decibels of the logits */
} swin_auto_limit;

typedef struct swin_auto_opts {
    swin_auto_limit limit;
    int threads;
    bool strict;           /* a broken image is an error */
    const size_t *indices; /* [count] of the images held back, ascending */
    size_t count;
} swin_auto_opts;

/* Which images of `total` are held back when `calib` [count] (ascending) are for calibration: `want` of the others, or as many
 * as there are, into out, ascending. The number chosen. */
size_t swin_auto_hold_back(size_t *out, swin_sample how, uint64_t seed, size_t total, const size_t *calib,
                           size_t count, size_t want);

/* SWIN_ERR_USAGE, naming --min-agreement, when less than one of so many images would have to differ: they cannot show it. */
swin_status swin_auto_check(const swin_auto_limit *limit, size_t images);

/*
 * Relax units of f (enabled flags) until the limit is met, and note how in f->relaxation.
 *
 * before  the checkpoint: fp32's answers
 * exact   weights that make the same network with f's factors, before anything changed its answers
 * w       those for the quantized network; matrices of relaxed GEMMs become the exact ones
 * SWIN_ERR_LIMIT: not even the network in float meets it.
 */
swin_status swin_auto_run(swin_calib_file *f, swin_dev *dev, swin_dataset *data, const swin_weights *before,
                          const swin_weights *exact, swin_weights *w, const swin_auto_opts *o);

#endif
