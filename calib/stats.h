/* calib/stats.h - what calibration has seen at every observer site of a network.
 *
 * Gathering and choosing are separate: this file only gathers; a calibrator (calibrator.h) later turns one site's
 * statistics into one clipping range. Two kinds of histogram (DESIGN.md sections 2 and 3):
 *   exact    two-sided, power-of-two bins that double by exact pair merging: independent of order and batch split
 *   compat   the PyTorch toolkit's: |x|, 2048 bins on [0, max of the site's first batch], width fixed from then on
 */
#ifndef SWIN_CALIB_STATS_H
#define SWIN_CALIB_STATS_H

#include "runtime/swin/net.h"

typedef enum swin_hist_kind { SWIN_HIST_EXACT, SWIN_HIST_COMPAT } swin_hist_kind;

typedef struct swin_site_stats {
    uint64_t count;     /* elements seen, non-finite included */
    uint64_t nonfinite; /* NaN or Inf: in none of the following */
    float min, max;
    double bin_width;
    bool hist_abs; /* compat */
    int bins;
    uint64_t *hist; /* owned */
} swin_site_stats;

typedef struct swin_stats swin_stats;

/* Statistics for every observer site of c on dev. */
swin_status swin_stats_create(swin_stats **s, swin_dev *dev, const swin_config *c, swin_hist_kind kind);
void swin_stats_free(swin_stats *s); /* NULL is fine */

/* The tap that collects activations; give it to swin_net_forward. Compat wants the net's chunk to be the whole batch. */
swin_tap swin_stats_tap(swin_stats *s);

/* Observe the weights, once. */
swin_status swin_stats_weights(swin_stats *s, const swin_weights *w);

/* What was seen at observer site i (swin_site_at order); out->hist is new memory for the caller. */
swin_status swin_stats_read(swin_stats *s, int i, swin_site_stats *out);

#endif
