/* runtime/swin/layers.h - where along the network an engine's error arises: SQNR of every module's output
 * against the reference's, both engines running freely (errors accumulate from module to module).
 */
#ifndef SWIN_SWIN_LAYERS_H
#define SWIN_SWIN_LAYERS_H

#include "runtime/swin/outputs.h"

typedef struct swin_layers swin_layers;

/* Sums for `engines` engines over the outputs of a network; engine 0 is the reference. */
swin_status swin_layers_create(swin_layers **l, const swin_config *c, int engines);
void swin_layers_free(swin_layers *l); /* NULL is fine */

/* One image's output i (runtime/swin/outputs.h) from an engine. An image's reference must come first. */
swin_status swin_layers_add(swin_layers *l, int engine, int i, const float *x, int64_t rows, int64_t cols);

/* Decibels over all images so far; infinity without error, NaN when undefined (also for the reference). */
double swin_layers_sqnr(const swin_layers *l, int engine, int i);

#endif
