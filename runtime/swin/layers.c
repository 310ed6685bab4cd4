#include "runtime/swin/layers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/swin/accuracy.h"

typedef struct layer {
    float *ref; /* owned: the reference's output for the current image */
    size_t count;
} layer;

typedef struct sums {
    double signal, noise;
} sums;

struct swin_layers {
    int engines, outputs;
    layer *layers; /* [outputs] */
    sums *sums;    /* [engines][outputs] */
};

swin_status swin_layers_create(swin_layers **out, const swin_config *c, int engines)
{
    *out = NULL;
    const int n = swin_output_count(c);
    swin_layers *l = calloc(1, sizeof *l);
    if (l) {
        *l = (swin_layers){ .engines = engines, .outputs = n };
        l->layers = calloc((size_t)n, sizeof *l->layers);
        l->sums = calloc((size_t)n * (size_t)engines, sizeof *l->sums);
    }
    if (!l || !l->layers || !l->sums) {
        swin_layers_free(l);
        return swin_fail(SWIN_ERR_MEM, "no memory for --layers");
    }
    *out = l;
    return SWIN_OK;
}

void swin_layers_free(swin_layers *l)
{
    if (!l) return;
    for (int i = 0; l->layers && i < l->outputs; i++) free(l->layers[i].ref);
    free(l->layers);
    free(l->sums);
    free(l);
}

static swin_status keep(layer *to, const float *x, size_t n)
{
    if (to->count != n) {
        free(to->ref);
        to->ref = malloc(n ? n * sizeof *x : 1);
        to->count = to->ref ? n : 0;
        if (!to->ref) return swin_fail(SWIN_ERR_MEM, "no memory for a layer's output of %zu numbers", n);
    }
    memcpy(to->ref, x, n * sizeof *x);
    return SWIN_OK;
}

swin_status swin_layers_add(swin_layers *l, int engine, int i, const float *x, int64_t rows, int64_t cols)
{
    const size_t n = (size_t)rows * (size_t)cols;
    layer *at = &l->layers[i];
    if (engine == 0) return keep(at, x, n);
    if (at->count != n)
        return swin_fail(SWIN_ERR_MISMATCH, "layer output %d: %zu numbers, the reference has %zu", i, n,
                         at->count);
    double signal = 0, noise = 0;
    for (size_t k = 0; k < n; k++) {
        const double r = at->ref[k], d = x[k] - r;
        signal += r * r;
        noise += d * d;
    }
    sums *s = &l->sums[(size_t)engine * (size_t)l->outputs + (size_t)i];
    s->signal += signal;
    s->noise += noise;
    return SWIN_OK;
}

double swin_layers_sqnr(const swin_layers *l, int engine, int i)
{
    if (engine == 0) return NAN;
    const sums *s = &l->sums[(size_t)engine * (size_t)l->outputs + (size_t)i];
    return swin_sqnr_of(s->signal, s->noise);
}
