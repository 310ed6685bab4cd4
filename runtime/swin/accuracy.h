/* runtime/swin/accuracy.h - what a network's answers are worth: top-1, top-5, agreement and logit SQNR.
 *
 * Definitions (DESIGN.md section 2)
 *   rank       of a label: how many classes have a larger logit, or an equal one and a lower index
 *   top-k      share of images whose label has rank < k
 *   agreement  share of images whose top-1 class is the reference's
 *   SQNR       10 log10(sum ref^2 / sum (x - ref)^2) over all logits of all images
 * Counts are integers and sums are doubles added image by image in list order, so nothing depends on the
 * batch split. An image with a NaN or an infinity among its logits (or the reference's) is never ranked: it
 * counts as wrong, as not agreeing, and makes the SQNR undefined.
 */
#ifndef SWIN_SWIN_ACCURACY_H
#define SWIN_SWIN_ACCURACY_H

#include <stdint.h>

typedef struct swin_accuracy {
    uint64_t images, top1, top5; /* counts */
    uint64_t agree;              /* images with the reference's top-1 */
    uint64_t nonfinite;          /* images whose own logits hold a NaN or an infinity */
    uint64_t unreferenced;       /* images whose reference does */
    double signal, noise;        /* sum ref^2, sum (x - ref)^2 over the finite images */
} swin_accuracy;

/*
 * Add the answers for some images.
 *
 * logits  [images][classes]
 * ref     [images][classes] of the reference; NULL when this is the reference itself
 * labels  [images], each in [0, classes)
 */
void swin_accuracy_add(swin_accuracy *a, const float *logits, const float *ref, const int *labels, int images,
                       int classes);

/* Percent of the images; NaN when there are none. */
double swin_accuracy_top1(const swin_accuracy *a);
double swin_accuracy_top5(const swin_accuracy *a);
double swin_accuracy_agreement(const swin_accuracy *a);

/* Percentage points that a lies below base, over the same images: positive when a is worse. */
double swin_accuracy_top1_drop(const swin_accuracy *a, const swin_accuracy *base);
double swin_accuracy_top5_drop(const swin_accuracy *a, const swin_accuracy *base);

/* Decibels; infinity when there is no error at all, NaN when it is undefined. */
double swin_accuracy_sqnr(const swin_accuracy *a);

/* The ratio alone: 10 log10(signal / noise). Infinity without noise, NaN for 0 / 0 or non-finite sums. */
double swin_sqnr_of(double signal, double noise);

/* The largest logit's class, the lowest of equal ones; -1 when any logit is not finite. */
int swin_top1(const float *logits, int classes);

#endif
