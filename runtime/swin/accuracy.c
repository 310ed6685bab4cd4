#include "runtime/swin/accuracy.h"

#include <math.h>
#include <stddef.h>

int swin_top1(const float *logits, int classes)
{
    int best = 0;
    for (int i = 0; i < classes; i++) {
        if (!isfinite(logits[i])) return -1;
        if (logits[i] > logits[best]) best = i;
    }
    return best;
}

/* How many classes stand before the label. All logits are finite. */
static int rank_of(const float *logits, int classes, int label)
{
    int before = 0;
    for (int i = 0; i < classes; i++)
        before += logits[i] > logits[label] || (logits[i] == logits[label] && i < label);
    return before;
}

/* One image's own sums first, so that the total sees one addition per image whatever the batch. */
static void add_error(swin_accuracy *a, const float *x, const float *ref, int classes)
{
    double signal = 0, noise = 0;
    for (int i = 0; i < classes; i++) {
        const double d = (double)x[i] - ref[i];
        signal += (double)ref[i] * ref[i];
        noise += d * d;
    }
    a->signal += signal;
    a->noise += noise;
}

static void add_image(swin_accuracy *a, const float *x, const float *ref, int label, int classes)
{
    const int top = swin_top1(x, classes), ref_top = ref ? swin_top1(ref, classes) : top;
    a->images++;
    a->nonfinite += top < 0;
    a->unreferenced += ref_top < 0;
    if (top >= 0) {
        const int rank = rank_of(x, classes, label);
        a->top1 += rank < 1;
        a->top5 += rank < 5;
    }
    if (top < 0 || ref_top < 0) return;
    a->agree += top == ref_top;
    add_error(a, x, ref ? ref : x, classes);
}

void swin_accuracy_add(swin_accuracy *a, const float *logits, const float *ref, const int *labels, int images,
                       int classes)
{
    for (int i = 0; i < images; i++) {
        const size_t at = (size_t)i * (size_t)classes;
        add_image(a, logits + at, ref ? ref + at : NULL, labels[i], classes);
    }
}

/* One rounding: 100 k / n is the double nearest to the true percentage, so limits such as 0.7 compare as
 * written. */
static double percent(double k, uint64_t n)
{
    return n ? 100 * k / (double)n : NAN;
}

double swin_accuracy_top1(const swin_accuracy *a)
{
    return percent((double)a->top1, a->images);
}

double swin_accuracy_top5(const swin_accuracy *a)
{
    return percent((double)a->top5, a->images);
}

double swin_accuracy_agreement(const swin_accuracy *a)
{
    return percent((double)a->agree, a->images);
}

double swin_accuracy_top1_drop(const swin_accuracy *a, const swin_accuracy *base)
{
    return percent((double)base->top1 - (double)a->top1, a->images);
}

double swin_accuracy_top5_drop(const swin_accuracy *a, const swin_accuracy *base)
{
    return percent((double)base->top5 - (double)a->top5, a->images);
}

double swin_sqnr_of(double signal, double noise)
{
    if (!isfinite(signal) || !isfinite(noise)) return NAN;
    if (noise == 0) return signal > 0 ? INFINITY : NAN;
    return 10 * log10(signal / noise);
}

double swin_accuracy_sqnr(const swin_accuracy *a)
{
    return a->nonfinite || a->unreferenced ? NAN : swin_sqnr_of(a->signal, a->noise);
}
