/* tests/support/literal.h - the calibrators' objectives as reference/swin.md 4.5 states them, slow and plain. */
#ifndef SWIN_TESTS_LITERAL_H
#define SWIN_TESTS_LITERAL_H

#include "calib/calibrator.h"

/* Squared error of quantizing every bin centre with the range centre[j]. */
double swin_literal_mse_error(const swin_abs_hist *h, int j);
/* KL(P || Q) of the first i bins, counts[0] replaced by counts[1]; NaN when they hold nothing. */
double swin_literal_kl(const swin_abs_hist *h, int i);

#endif
