/* calib/report.h - a calibration file's ranges for people and for programs. Nothing in it depends on time or place. */
#ifndef SWIN_CALIB_REPORT_H
#define SWIN_CALIB_REPORT_H

#include <stdio.h>

#include "quant/calib_file.h"

/* The table that swin-calib prints: one line for each site, then a summary. */
void swin_calib_print_table(FILE *out, const swin_calib_file *f);

/* The same as one JSON object. SWIN_ERR_IO when it cannot be written. */
swin_status swin_calib_print_json(FILE *out, const swin_calib_file *f);

/* SWIN_ERR_USAGE unless path ends in .json or .csv. */
swin_status swin_calib_report_check(const char *path);
/* Write path, whole or not at all, in the form that its ending names. */
swin_status swin_calib_report_write(const char *path, const swin_calib_file *f);

#endif
