/* swin-calib - images to calibration file. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calib/from_checkpoint.h"
#include "calib/report.h"
#include "calib/run.h"
#include "runtime/base/field.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/output.h"
#include "runtime/swin/session.h"

typedef struct options {
    swin_common common;
    const char *split, *sample, *calibrator, *histogram, *recover, *calib_output_path, *report, *int8_mode;
    int num_calib_batch, calib_batchsz, seed, auto_from, auto_images;
    double percentile, min_agreement, min_sqnr;
    bool from_checkpoint;
} options;

#define F(member, kind, lo, hi, arg, help, choices)                                                          \
    {                                                                                                        \
#member, SWIN_FIELD_##kind, offsetof(options, member), lo, hi, arg, help, choices                    \
    }

static const swin_field fields[] = {
    { "Images:", SWIN_FIELD_HEADING, 0, 0, 0, NULL, NULL, NULL },
    F(split, STR, 0, 0, "NAME", "which part of the data set: train, val", NULL),
    F(num_calib_batch, INT, 1, 10000000, "N", "batches; times --calib-batchsz images are used", NULL),
    F(calib_batchsz, INT, 1, 4096, "N", "images in a forward pass", NULL),
    F(sample, CHOICE, 0, 0, "NAME", "which images: evenly over the list, its head, or drawn from --seed",
      "spread|first|random"),
    F(seed, INT, 0, 2147483647, "N", "for --sample random", NULL),
    { "Calibration:", SWIN_FIELD_HEADING, 0, 0, 0, NULL, NULL, NULL },
    F(int8_mode, CHOICE, 0, 0, "NAME",
      "1: every GEMM input and output; 2: fc2's and merging's outputs stay INT32; 3: inputs only, asymmetric "
      "where it pays; auto: --auto-from, relaxed to meet a limit",
      "1|2|3|auto"),
    F(calibrator, CHOICE, 0, 0, "NAME",
      "how a range is chosen for an activation: by its histogram; gemm-mse: by the error of the GEMM that "
      "reads it",
      "percentile|max|mse|entropy|gemm-mse"),
    F(percentile, DOUBLE, 50, 100, "P", "percent of all magnitudes that --calibrator percentile keeps", NULL),
    F(histogram, CHOICE, 0, 0, "NAME",
      "exact: independent of order and batches; compat: the PyTorch toolkit's, fixed by the first batch",
      "exact|compat"),
    F(recover, STR, 0, 0, "NAME",
      "accuracy recovery without training: none, or fast, best and methods by name, separated by commas: "
      "center, equalize, ranges, heads, outputs, round, bias, relax",
      NULL),
    { "With --int8-mode auto (on images held back):", SWIN_FIELD_HEADING, 0, 0, 0, NULL, NULL, NULL },
    F(min_agreement, DOUBLE, 0, 100, "PERCENT", "fp32's top-1 on so many of them; 0: no such limit", NULL),
    F(min_sqnr, DOUBLE, 0, 200, "DB", "SQNR of the logits against fp32; 0: no such limit", NULL),
    F(auto_from, INT, 1, 3, "N", "the int8-mode that is relaxed", NULL),
    F(auto_images, INT, 2, SWIN_AUTO_IMAGES_MAX, "N", "images held back, besides those for calibration",
      NULL),
    { "Checkpoints:", SWIN_FIELD_HEADING, 0, 0, 0, NULL, NULL, NULL },
    F(from_checkpoint, BOOL, 0, 0, NULL,
      "no images: take the ranges that a PyTorch toolkit's calibrated checkpoint stores (its _amax buffers)",
      NULL),
    SWIN_FIELD_COMMON(options, no_head, SWIN_FIELD_BOOL, 0, 0, NULL,
                      "accept a feature extractor's checkpoint, which has no classification head", NULL),
    { "Results:", SWIN_FIELD_HEADING, 0, 0, 0, NULL, NULL, NULL },
    F(calib_output_path, STR, 0, 0, "PATH", "calibration file; a folder gets <MODEL.NAME>_calib.h5", NULL),
    F(report, STR, 0, 0, "FILE", "also write the table of ranges, as .json or .csv", NULL),
    SWIN_COMMON_FIELDS(options),
    { "Of older toolkits:", SWIN_FIELD_HEADING, 0, 0, 0, NULL, NULL, NULL },
    { "calib", SWIN_FIELD_IGNORED, 0, 0, 0, NULL, "the program's name says what it does", NULL },
    SWIN_LEGACY_FIELDS,
};

static const swin_program program = { "swin-calib",
                                      "watch a Swin network on real images and write its INT8 ranges", fields,
                                      SWIN_COUNT(fields), NULL };

/* The file to write: caller frees. */
static swin_status output_path(char **path, const char *given, const swin_config *c)
{
    char name[sizeof c->name];
    snprintf(name, sizeof name, "%s", c->name);
    for (char *p = name; *p; p++)
        if (*p == '/') *p = '_'; /* a model's name is no path */
    *path = swin_is_dir(given) ? swin_format("%s/%s_calib.h5", given, name) : strdup(given);
    return *path ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "no memory for a file name");
}

/* Minutes of work should not end at a missing folder, nor on a file that is needed. */
static swin_status check_output(const options *o, const char *flag, const char *path)
{
    const swin_file_use inputs[] = { { "--cfg", o->common.cfg },
                                     { "--resume", o->common.resume },
                                     { "--map22k", o->common.map22k } };
    return swin_output_check(flag, path, inputs, SWIN_COUNT(inputs));
}

static bool is_auto(const options *o)
{
    return strcmp(o->int8_mode, "auto") == 0;
}

static swin_int8_mode mode_of(const options *o)
{
    return (swin_int8_mode)(is_auto(o) ? o->auto_from : o->int8_mode[0] - '0');
}

static swin_auto_limit limit_of(const options *o)
{
    return (swin_auto_limit){ .min_agreement = o->min_agreement, .min_sqnr = o->min_sqnr };
}

static swin_status check_auto(const options *o)
{
    const bool limited = o->min_agreement > 0 || o->min_sqnr > 0;
    const swin_auto_limit limit = limit_of(o);
    if (!is_auto(o) && limited)
        return swin_fail(SWIN_ERR_USAGE, "%s: a limit for --int8-mode auto, not for --int8-mode %s",
                         o->min_agreement > 0 ? "--min-agreement" : "--min-sqnr", o->int8_mode);
    if (!is_auto(o)) return SWIN_OK;
    if (!limited)
        return swin_fail(SWIN_ERR_USAGE, "--int8-mode auto needs --min-agreement PERCENT or --min-sqnr DB");
    if (o->from_checkpoint)
        return swin_fail(SWIN_ERR_USAGE, "--int8-mode auto measures on images: not with --from-checkpoint");
    return swin_auto_check(&limit, (size_t)o->auto_images);
}

static swin_status check(const options *o)
{
    unsigned methods;
    SWIN_TRY(check_auto(o));
    SWIN_TRY(swin_recover_choose(&methods, o->recover));
    if (!o->from_checkpoint)
        SWIN_TRY(swin_need_path("--data-path", o->common.data_path));
    else if (o->common.data_path)
        swin_note("--data-path %s: not read, --from-checkpoint needs no images", o->common.data_path);
    if (o->report) SWIN_TRY(swin_calib_report_check(o->report));
    if (o->report) SWIN_TRY(check_output(o, "--report", o->report));
    return swin_is_dir(o->calib_output_path) ? SWIN_OK
                                             : check_output(o, "--calib-output-path", o->calib_output_path);
}

static swin_sample sample_of(const char *name)
{
    return strcmp(name, "first") == 0    ? SWIN_SAMPLE_FIRST
           : strcmp(name, "random") == 0 ? SWIN_SAMPLE_RANDOM
                                         : SWIN_SAMPLE_SPREAD;
}

static swin_calib_opts run_opts(const options *o)
{
    unsigned methods = 0;
    (void)swin_recover_choose(&methods, o->recover); /* has been checked */
    return (swin_calib_opts){
        .data_path = o->common.data_path,
        .split = o->split,
        .images = (size_t)o->num_calib_batch * (size_t)o->calib_batchsz,
        .batch = o->calib_batchsz,
        .threads = o->common.threads,
        .sample = sample_of(o->sample),
        .seed = (uint64_t)o->seed,
        .strict = o->common.strict,
        .mode = mode_of(o),
        .histogram = strcmp(o->histogram, "compat") == 0 ? SWIN_HIST_COMPAT : SWIN_HIST_EXACT,
        .calibrator = swin_calibrator_find(o->calibrator),
        .calibrator_opts = { .percentile = o->percentile },
        .recover = methods,
        .recover_name = o->recover,
        .auto_images = is_auto(o) ? (size_t)o->auto_images : 0,
        .limit = limit_of(o),
    };
}

static swin_status show(const options *o, const swin_calib_file *f)
{
    if (o->report) SWIN_TRY(swin_calib_report_write(o->report, f));
    if (o->common.json)
        SWIN_TRY(swin_calib_print_json(stdout, f));
    else
        swin_calib_print_table(stdout, f);
    return fflush(stdout) == 0 ? SWIN_OK : swin_fail(SWIN_ERR_IO, "cannot write to standard output");
}

/* Ranges from images. */
static swin_status observe(swin_calib_file *f, const options *o, const swin_session *s)
{
    swin_calib_timing t;
    const swin_calib_opts run = run_opts(o);
    const swin_status st = swin_calib_run(f, s->dev, &s->config, &s->weights, s->sha256, &run, &t);
    if (st == SWIN_OK)
        swin_note("data %.2f s, images and ranges %.2f s (%d times), recovery %.2f s%s%s%s, auto %.2f s",
                  t.open_s, t.observe_s, t.looks, t.recover_s, *t.recover_parts ? " (" : "", t.recover_parts,
                  *t.recover_parts ? ")" : "", t.auto_s);
    return st;
}

/* Ranges that are stored in the checkpoint. */
static swin_status take(swin_calib_file *f, const options *o, const swin_session *s)
{
    swin_ckpt *ck;
    SWIN_TRY(swin_ckpt_open(&ck, o->common.resume));
    const swin_status st = swin_calib_from_checkpoint(f, &s->config, &s->weights, ck, s->sha256, mode_of(o));
    swin_ckpt_close(ck);
    return st == SWIN_OK ? st : swin_fail_context(st, "%s", o->common.resume);
}

static swin_status calibrate(const options *o)
{
    swin_session s;
    swin_calib_file f = { 0 };
    char *path = NULL;
    const double start = swin_now();
    SWIN_TRY(check(o));
    SWIN_TRY(swin_session_open(&s, &o->common, !o->from_checkpoint));
    const double opened = swin_now();
    swin_status st = output_path(&path, o->calib_output_path, &s.config);
    if (st == SWIN_OK) st = check_output(o, "--calib-output-path", path); /* in a folder, too */
    if (st == SWIN_OK && o->report)
        st = swin_output_apart("--report", o->report, &(swin_file_use){ "--calib-output-path", path }, 1);
    if (st == SWIN_OK) st = o->from_checkpoint ? take(&f, o, &s) : observe(&f, o, &s);
    const double ran = swin_now();
    if (st == SWIN_OK) st = swin_check_interrupt();
    if (st == SWIN_OK) st = swin_calib_file_write(&f, path);
    if (st == SWIN_OK) {
        swin_note("%s: written. Model %.2f s, file %.2f s", path, opened - start, swin_now() - ran);
        st = show(o, &f);
    }
    free(path);
    swin_calib_file_free(&f);
    swin_session_close(&s);
    return st;
}

int main(int argc, char **argv)
{
    options o = {
        .common = SWIN_COMMON_DEFAULTS,
        .split = "train",
        .num_calib_batch = 10,
        .calib_batchsz = 8,
        .sample = "spread",
        .int8_mode = "1",
        .auto_from = 3,
        .auto_images = SWIN_AUTO_IMAGES,
        .calibrator = "percentile",
        .percentile = 99.99,
        .histogram = "exact",
        .recover = "fast",
        .calib_output_path = ".",
    };
    const swin_status st = swin_fields_parse(&program, &o, argc, argv, NULL, NULL);
    if (st != SWIN_OK) return swin_report(st);
    swin_common_apply(&o.common);
    swin_catch_interrupts();
    return swin_report(calibrate(&o));
}
