/* tests/support/export_model.h - a small network with random weights and a made-up calibration, as exporters take them. */
#ifndef SWIN_TESTS_EXPORT_MODEL_H
#define SWIN_TESTS_EXPORT_MODEL_H

#include "quant/export.h"

typedef struct export_model {
    swin_config config;
    swin_weights weights;
    swin_calib_file calib; /* every site with another range; one dead output channel */
    swin_export_job job;   /* points to the above; output is NULL */
    char *folder;          /* scratch */
} export_model;

void export_model_make(export_model *m, swin_int8_mode mode);
void export_model_make_v2(export_model *m, swin_int8_mode mode); /* the same with Swin V2's blocks */
void export_model_free(export_model *m);

/* Run a format into "<folder>/<name>"; the path is in one of 4 rotating buffers. */
const char *export_model_path(const export_model *m, const char *name);
swin_status export_model_run(export_model *m, const char *format, const char *name);

/* A file's bytes; the test fails when it cannot be read. Caller frees. */
unsigned char *export_model_read(const export_model *m, const char *name, size_t *size);

/* The record of a site, to be spoilt. */
swin_site_record *export_model_site(export_model *m, const char *name);

#endif
