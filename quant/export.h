/* quant/export.h - a calibration file in the form that another engine takes.
 *
 * A format is one file (export_NAME.c) and one row of the table in export.c. What its writer may rely on is checked before
 * it runs (swin_export_check), so writers only write. Equal inputs give equal bytes, and files appear whole or not at all.
 */
#ifndef SWIN_QUANT_EXPORT_H
#define SWIN_QUANT_EXPORT_H

#include "quant/calib_file.h"
#include "quant/ft_codes.h"
#include "quant/name_map.h"
#include "quant/sim.h"
#include "runtime/swin/weights.h"

/* What a format needs and refuses. */
enum {
    SWIN_EXPORT_CALIB = 1, /* needs a calibration file */
    /* Needs the checkpoint, and writes weights: corrected ones are then right by themselves. */
    SWIN_EXPORT_WEIGHTS = 2,
    SWIN_EXPORT_SYMMETRIC = 4, /* has one scale for a tensor, codes [-127, 127]: refuses int8-mode 3 */
    /* Its engine quantizes all that the int8-mode says: refuses a file that relaxes sites. */
    SWIN_EXPORT_WHOLE_MODE = 8,
    SWIN_EXPORT_NAMES = 16, /* names tensors of a graph: takes a name map */
    SWIN_EXPORT_DIR = 32,   /* writes several files: --output is a folder, made if need be */
    SWIN_EXPORT_FT = 64,    /* is FasterTransformer's, whose Swin V2 knows no int8-mode 2 */
    /* Says what GELU's output is divided by, channel by channel (quant/corrections.h): others refuse a file with factors. */
    SWIN_EXPORT_FACTORS = 128,
    /* Says, or does without, the scales of single output channels and heads: others refuse a file with them. */
    SWIN_EXPORT_CHANNELS = 256
};

typedef struct swin_export_job {
    const swin_calib_file *calib; /* NULL when the format does without */
    const swin_config *config;
    const swin_weights *weights; /* corrections applied; NULL when the format does without */
    const char *output;
    bool corrected;             /* the calibration file changes weights... */
    bool weights_out;           /* ...and they are written too */
    const swin_name_map *names; /* NULL: the tensor names of our own ONNX export, which are the site names */
    int trt_version;            /* tensorrt-cache: 8501 for 8.5.1, 100900 for 10.9.0 */
    swin_granularity granularity; /* onnx-qdq: weight scales */
    swin_ft_layout ft_layout;     /* ft-weights: how Linear weights are written */
    bool external_data;           /* onnx-*: weights in a file of their own, whatever their size */
} swin_export_job;

typedef struct swin_export_format {
    const char *name, *help; /* help: what the engine expects, one line */
    unsigned flags;          /* SWIN_EXPORT_* */
    swin_status (*write)(const swin_export_job *job);
} swin_export_format;

/* NULL-terminated, in the order of --list. */
const swin_export_format *const *swin_export_formats(void);
const swin_export_format *swin_export_find(const char *name); /* NULL: unknown */

/*
 * Refuse what the format cannot express. The message names the site or the reason.
 *
 * SWIN_ERR_VALUE        a site's amax or scale, a weight's, or a factor is missing, zero or not finite
 * SWIN_ERR_UNSUPPORTED  zero points in a symmetric format; relaxed sites, or a mode, that the engine does not follow; factors
 *                       where the engine cannot divide by them; scales of single output channels or heads; corrected weights in a format without
 *                       weights
 */
swin_status swin_export_check(const swin_export_format *format, const swin_export_job *job);

/* The same for a corrected checkpoint that goes out with no format beside it: SWIN_ERR_UNSUPPORTED when it expects factors,
 * for no checkpoint holds these. */
swin_status swin_export_check_weights(const swin_export_job *job);

/* Check and write. */
swin_status swin_export_run(const swin_export_format *format, const swin_export_job *job);

/* ---- for the writers --------------------------------------------------------------------------------------------- */

/* Call fn for each enabled activation site and each tensor that stands for it, in forward order. */
typedef swin_status (*swin_export_tensor)(void *user, const swin_site_record *r, const char *tensor);
swin_status swin_export_each(const swin_export_job *job, swin_export_tensor fn, void *user);

/* Text files: open_memstream, filled by the caller, then written atomically and freed. */
swin_status swin_export_text(const char *path, swin_status (*fill)(FILE *out, const swin_export_job *job),
                             const swin_export_job *job);

#endif
