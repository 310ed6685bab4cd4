/* quant/relax.h - what of a quantized network can be left in float: the units that engines can switch off, their cost, and
 * the record of what was.
 *
 * A unit is the least set of sites whose absence changes how an engine runs (runtime/swin/plan.h): one GEMM's output rounding
 * (modes 1 and 2), a GEMM with its input, weight and output, or a block's attention with its operands. A relaxed unit is sites
 * with enabled = 0 and nothing more; `/auto` of the calibration file says why:
 *
 *   /auto              attributes min_agreement, min_sqnr_db (0: no such limit), images (held back), image_list_sha256,
 *                      before_agreement, before_sqnr_db, after_agreement, after_sqnr_db
 *   /auto/<unit>       a group for each unit: attributes relaxed (0, 1), sqnr_alone_db, share, gain_db, bytes, ops
 */
#ifndef SWIN_QUANT_RELAX_H
#define SWIN_QUANT_RELAX_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/h5.h"
#include "runtime/base/sha256.h"
#include "runtime/swin/site.h"
#include "runtime/swin/weights.h"

struct swin_calib_file;

enum { SWIN_RELAX_SITES_MAX = 8 };

typedef struct swin_relax_unit {
    char name[SWIN_SITE_NAME_MAX]; /* the output's site, or the path of the GEMM or the attention */
    int part;                      /* block or merge, as swin_output_part counts */
    swin_site sites[SWIN_RELAX_SITES_MAX];
    int count; /* of sites: all that are off when it is relaxed */
    int own;   /* the first of them, whose error is its own: a GEMM's output is also a unit of itself */
    /* What an engine pays for one image when the unit is FP16 instead of INT8 (swin_relax_units): bytes moved besides those of
     * INT8, and operations (multiplications and additions) that run at FP16's rate, half of INT8's. */
    uint64_t bytes, ops;
    uint64_t weights; /* of the bytes: those that are read once for a batch */
    /* As measured (quant/sensitivity.h), decibels of the logits; NaN: not measured */
    double alone_db; /* when nothing else is quantized */
    double share;    /* of the error of all units alone, percent */
    double gain_db;  /* when the unit is relaxed and nothing else */
    bool relaxed;
} swin_relax_unit;

/*
 * The units that have an enabled site in f, in forward order: a GEMM's output before the GEMM. Caller frees. The network's
 * totals of bytes and ops are their sums.
 *
 * Model of the cost, M rows (tokens) of a GEMM with K inputs and N outputs: 2 M N K operations; bytes M K of input, N K of
 * weight; its rounded output M N. Attention: 4 M n C operations for windows of n tokens and C channels, and 3 M C bytes of
 * operands; its probabilities stay in the kernel. FP16 has one byte more than INT8 for each element.
 */
swin_status swin_relax_units(swin_relax_unit **units, int *count, const struct swin_calib_file *f);

/* Seconds that the model gives a unit in INT8 for one image of a batch of 64: its operations at 1.19e15, its bytes at 3.0e12 a
 * second, an H100's rates as measured (tests/RESULTS.md). In FP16 it takes twice that. */
double swin_relax_time(const swin_relax_unit *u);

/* Switch the sites of a unit off or on in f. On: those that the mode quantizes. */
void swin_relax_set(struct swin_calib_file *f, const swin_relax_unit *u, bool relaxed);

/* Copy one Linear, named by its weight site, from one set of weights to another: its matrix, and with bias what recovery may
 * have shifted behind it (its bias; in Swin V2 for proj and fc2 also that of the norm that follows). */
swin_status swin_relax_layer(swin_weights *to, const swin_weights *from, const swin_config *c,
                             swin_site weight, bool bias);

/* Every Linear whose weight is switched off in f, from `exact` to w: what recovery did to it for the sake of its codes, and to
 * its bias against their error, has no use any more. */
swin_status swin_relax_weights(swin_weights *w, const swin_weights *exact, const struct swin_calib_file *f);

/* The outcome of --int8-mode auto, as the calibration file keeps it. Zeroed: none. */
typedef struct swin_relaxation {
    bool present;
    double min_agreement, min_sqnr; /* percent, decibels; 0: no such limit */
    uint64_t images;
    char image_list_sha256[SWIN_SHA256_HEX];
    double before_agreement, before_db, after_agreement, after_db;
    swin_relax_unit *units; /* owned; after a read: no sites */
    int nunits;
} swin_relaxation;

void swin_relaxation_free(swin_relaxation *r);
swin_status swin_relaxation_write(const swin_relaxation *r, swin_h5 *f); /* nothing when not present */
swin_status swin_relaxation_read(swin_relaxation *r, swin_h5 *f, const char *path);

#endif
