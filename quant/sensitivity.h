/* quant/sensitivity.h - what quantizing a part of a network costs at its logits, group of sites by group of sites.
 *
 * Two int8-sim networks go through the images abreast, block by block: one with nothing quantized, one with everything. At
 * each group's block the rest of a network is run again from there with the group switched: so a group costs about half a
 * forward pass, and none but its own block is prepared anew.
 *
 *     swin_sense_create(&s, dev, f, exact, w, granularity, groups, count, SWIN_SENSE_ALONE);
 *     swin_sense_add(s, images, n, reference);      as often as wanted
 *     swin_sense_get(s, i)->alone / s->signal ...
 *
 * Sums are doubles added image by image in the order given: nothing depends on how images are split into calls.
 */
#ifndef SWIN_QUANT_SENSITIVITY_H
#define SWIN_QUANT_SENSITIVITY_H

#include "quant/sim.h"

typedef struct swin_sense swin_sense;

/* Sites that are switched together; all of one block or merge. */
typedef struct swin_sense_group {
    int part;               /* as swin_output_part counts; groups come in ascending order of it */
    const swin_site *sites; /* borrowed */
    int alone, without;     /* how many of the first sites are on in ALONE and UPTO, off in WITHOUT */
} swin_sense_group;

enum {
    SWIN_SENSE_ALONE = 1,   /* only the group is quantized; against the network with nothing quantized */
    SWIN_SENSE_WITHOUT = 2, /* all but the group; against the reference */
    SWIN_SENSE_UPTO = 4     /* it and all groups before it; against the reference */
};

/* Squared errors of the logits, summed over the images. */
typedef struct swin_sense_sums {
    double alone, without, upto;
} swin_sense_sums;

typedef struct swin_sense_totals {
    double signal; /* of the reference */
    double noise;  /* with everything quantized, against the reference */
    double
        residual; /* with nothing quantized, against the reference: what corrections of biases and weights do */
    uint64_t images;
} swin_sense_totals;

/*
 * f       calibration; its enabled sites are "everything". Not changed, must outlive s
 * exact   weights where nothing is quantized; w: those whose matrices are quantized, with their biases. The same for a network
 *         without corrections, or where only corrected ones are known. Read during the call only
 * groups  borrowed
 */
swin_status swin_sense_create(swin_sense **s, swin_dev *dev, const swin_calib_file *f,
                              const swin_weights *exact, const swin_weights *w, swin_granularity granularity,
                              const swin_sense_group *groups, int count, unsigned what);
void swin_sense_free(swin_sense *s); /* NULL is fine */

/* images: host float32 [n][3][S][S], normalised; reference [n][classes]: fp32's logits. `done` (NULL: none) is called after
 * every group; a status other than SWIN_OK ends the work. */
swin_status swin_sense_add(swin_sense *s, const float *images, int n, const float *reference,
                           swin_status (*done)(void *user), void *user);

const swin_sense_sums *swin_sense_get(const swin_sense *s, int group);
const swin_sense_totals *swin_sense_total(const swin_sense *s);

#endif
