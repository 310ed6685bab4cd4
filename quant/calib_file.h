/* quant/calib_file.h - the calibration file (HDF5, DESIGN.md section 5) and its form in memory.
 *
 * Layout, schema 1
 *   /                       attributes: schema, tool, engine, model, checkpoint_sha256, int8_mode, calibrator, percentile,
 *                           histogram, recover, images, image_list_sha256, preprocess
 *   /sites/<site name>      a group: attributes amax, min, max, scale, zero_point, qmin, qmax, enabled, kind, count,
 *                           nonfinite, bin_width, hist_kind; dataset hist (int64, two-sided: bin i holds floor(x / bin_width) ==
 *                           i - bins/2; compat files: attribute `hist_kind` = "abs", bin i holds floor(|x| / bin_width))
 *   /weights/<module>       a group: attribute amax; dataset amax_channel (float32, one for each output channel)
 *   /corrections/...        what accuracy recovery adds (quant/corrections.h)
 *   /auto                   why sites that the mode quantizes are off, if they are: --int8-mode auto (quant/relax.h). int8_mode is
 *                           then the mode that was relaxed
 * Groups keep creation order, which is forward order. Nothing in the file depends on time, path, host or batch split.
 */
#ifndef SWIN_QUANT_CALIB_FILE_H
#define SWIN_QUANT_CALIB_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "quant/corrections.h"
#include "quant/mode.h"
#include "quant/relax.h"
#include "runtime/base/sha256.h"
#include "runtime/swin/config.h"
#include "runtime/swin/site.h"

#define SWIN_CALIB_SCHEMA 1

typedef struct swin_site_record {
    swin_site site;
    float amax;     /* the range that the calibrator chose */
    float min, max; /* observed */
    swin_quant q;   /* derived from the above */
    bool enabled;
    uint64_t count, nonfinite;
    double bin_width;
    bool hist_abs;  /* compat: histogram of |x| */
    uint64_t *hist; /* owned; NULL when not loaded */
    int bins;
    float
        *factor; /* owned: [channels] what the values are divided by before all of the above; NULL: nothing */
    float *
        channel_scale; /* owned: [channels] a GEMM's product (aftergemm) or attention's operand: the scale of each
                             channel, in place of q.scale (operands: one for all channels of a head); NULL: one for all */
    int channels;      /* of factor or of channel_scale: no site has both */
} swin_site_record;

typedef struct swin_weight_record {
    swin_site site;      /* the _weight site: names the module */
    float amax;          /* of the whole tensor */
    float *amax_channel; /* owned: [channels] */
    int channels;        /* output channels */
} swin_weight_record;

typedef struct swin_calib_file {
    swin_config config;
    swin_int8_mode mode;
    char *tool, *engine, *calibrator, *histogram, *recover, *preprocess; /* owned */
    double percentile;
    uint64_t images;
    char checkpoint_sha256[SWIN_SHA256_HEX], image_list_sha256[SWIN_SHA256_HEX];
    swin_site_record *sites; /* owned: swin_site_count(&config) of them, in its order */
    int nsites;
    swin_weight_record *weights; /* owned, in forward order */
    int nweights;
    swin_corrections corrections; /* owned; the changed weights are there after a run, not after a read */
    swin_relaxation relaxation;   /* owned */
} swin_calib_file;

/* Allocate records for a network, every site named, nothing observed yet. */
swin_status swin_calib_file_init(swin_calib_file *f, const swin_config *c);
void swin_calib_file_free(swin_calib_file *f); /* a zeroed struct is fine */

/* Set mode, enabled flags and derived scales of every site. Errors name the site: never observed, all zero, non-finite. */
swin_status swin_calib_file_derive(swin_calib_file *f, swin_int8_mode mode);

swin_status swin_calib_file_write(const swin_calib_file *f, const char *path); /* atomically */
/* Read and check: every site of the model present and usable, schema not newer than ours. */
swin_status swin_calib_file_read(swin_calib_file *f, const char *path, bool with_histograms);

/* Whether heads may have scales of their own there: what attention reads in int8-mode 3. */
bool swin_calib_file_has_heads(const swin_calib_file *f, swin_site site);

/* Refuse a file made for another model or checkpoint. */
swin_status swin_calib_file_match(const swin_calib_file *f, const char *path, const swin_config *c,
                                  const char *checkpoint_sha256);

/* The record of one site; NULL when the network has no such site. */
const swin_site_record *swin_calib_file_site(const swin_calib_file *f, swin_site site);
const swin_weight_record *swin_calib_file_weight(const swin_calib_file *f, swin_site weight_site);

#endif
