/* swin-eval - what each precision costs in accuracy, side by side, in one pass over the images. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/output.h"
#include "runtime/main_eval.h"

#define F(member, kind, lo, hi, arg, help, choices)                                                          \
    {                                                                                                        \
        .name = #member, SWIN_FIELD_##kind, offsetof(eval_options, member), lo, hi, arg, help, choices       \
    }

static const swin_field fields[] = {
    { "Evaluation:", SWIN_FIELD_HEADING, 0, 0, 0, NULL, NULL, NULL },
    F(precision, LIST, 0, 0, "LIST",
      "what to run, separated by commas; without it fp32,fp16 and, given --calib, int8. fp32 always "
      "runs, as the reference",
      "fp32|fp16|bf16|int8|int8-sim"),
    F(calib, STR, 0, 0, "FILE.h5", "calibration file of this checkpoint; needed by int8 and int8-sim", NULL),
    F(weight_granularity, CHOICE, 0, 0, "NAME",
      "INT8 weight scales: one for each output channel, or one per tensor", "channel|tensor"),
    F(split, STR, 0, 0, "NAME", "which part of the data set: train, val", NULL),
    F(batch_size, INT, 1, 4096, "N", "images in a forward pass; no result depends on it", NULL),
    F(limit, INT, 0, 2147483647, "N", "only the first N images of the list; 0 for all", NULL),
    { "Results:", SWIN_FIELD_HEADING, 0, 0, 0, NULL, NULL, NULL },
    F(max_drop, DOUBLE, 0, 100, "POINTS",
      "exit 3 when a listed precision loses more top-1 against FP16 (which then runs too); 100: no limit",
      NULL),
    F(min_agreement, DOUBLE, 0, 100, "PERCENT",
      "exit 3 when a listed precision has fp32's top-1 on fewer images; 0: no limit", NULL),
    F(layers, BOOL, 0, 0, NULL,
      "SQNR of every module's output, accumulated (runs the images one by one); for int8-sim also every "
      "site's, alone and accumulated, and its share of the error, on 8 images at most",
      NULL),
    F(report, STR, 0, 0, "FILE[,FILE]", "write the results; the ending chooses the form: .json, .csv, .html",
      NULL),
    F(dump, STR, 0, 0, "FILE.h5",
      "write every image's logits and some images' layer outputs (runtime/swin/dump.h)", NULL),
    F(dump_images, INT, 0, SWIN_DUMP_IMAGES_MAX, "N",
      "with --dump: images at the head of the list whose layer outputs go in", NULL),
    SWIN_COMMON_FIELDS(eval_options),
    { "Of older toolkits:", SWIN_FIELD_HEADING, 0, 0, 0, NULL, NULL, NULL },
    SWIN_LEGACY_FIELDS,
};

static const swin_program program = {
    "swin-eval", "top-1 and top-5 of each precision, drop against FP16, agreement and SQNR", fields,
    SWIN_COUNT(fields), NULL
};

/* ---- results --------------------------------------------------------------------------------- */

typedef swin_status (*path_fn)(void *user, const char *path);

/* Call fn for each name of the list; empty ones are an error. */
static swin_status each_path(const char *list, path_fn fn, void *user)
{
    swin_status st = SWIN_OK;
    for (const char *at = list; at && st == SWIN_OK;) {
        const size_t n = strcspn(at, ",");
        char *path = strndup(at, n);
        if (!path) return swin_fail(SWIN_ERR_MEM, "no memory for a file name");
        st = n ? fn(user, path) : swin_fail(SWIN_ERR_USAGE, "--report %s: an empty file name", list);
        free(path);
        at = at[n] ? at + n + 1 : NULL;
    }
    return st;
}

static swin_status check_output(const eval_options *o, const char *flag, const char *path)
{
    const swin_file_use inputs[] = { { "--cfg", o->common.cfg },
                                     { "--resume", o->common.resume },
                                     { "--map22k", o->common.map22k },
                                     { "--calib", o->calib } };
    return swin_output_check(flag, path, inputs, SWIN_COUNT(inputs));
}

static swin_status check_report(void *user, const char *path)
{
    const eval_options *o = user;
    const swin_file_use dump = { "--dump", o->dump };
    SWIN_TRY(swin_eval_report_check_path(path));
    SWIN_TRY(check_output(o, "--report", path));
    return swin_output_apart("--report", path, &dump, 1);
}

static swin_status write_report(void *user, const char *path)
{
    SWIN_TRY(swin_eval_report_write(user, path));
    swin_note("wrote %s", path);
    return SWIN_OK;
}

static swin_status print_results(const eval_job *j)
{
    if (!j->o->common.json) {
        swin_eval_report_text(&j->report, stdout);
    } else {
        char *text = swin_eval_report_json(&j->report);
        if (!text) return swin_fail(SWIN_ERR_MEM, "no memory for the results");
        printf("%s\n", text);
        free(text);
    }
    if (fflush(stdout) != 0 || ferror(stdout)) return swin_fail(SWIN_ERR_IO, "standard output: cannot write");
    return SWIN_OK;
}

static swin_status deliver(eval_job *j, const swin_loader_report *lr)
{
    swin_eval_report *r = &j->report;
    if (j->dump) {
        SWIN_TRY(swin_dump_commit(j->dump, r->engine, r->checkpoint_sha256, lr->image_list_sha256));
        swin_note("wrote %s", j->o->dump);
    }
    SWIN_TRY(each_path(j->o->report, write_report, r));
    SWIN_TRY(print_results(j));
    return swin_eval_report_judge(r, j->o->max_drop, j->o->min_agreement);
}

/* Fill in what the report says besides the numbers, and hand it out. */
static swin_status conclude(eval_job *j)
{
    swin_loader_report lr;
    SWIN_TRY(swin_loader_report_get(j->loader, &lr));
    if (lr.images == 0)
        return swin_fail(SWIN_ERR_FORMAT, "%s: none of %zu images can be decoded; the first: %s: %s",
                         j->o->common.data_path, lr.broken,
                         lr.broken ? swin_dataset_name(j->data, lr.broken_index[0]) : "",
                         lr.broken ? lr.broken_reason[0] : "");
    const swin_calib_file *f = &j->calib;
    const swin_eval_calib calib = { .int8_mode = (int)f->mode,
                                    .calibrator = f->calibrator,
                                    .histogram = f->histogram,
                                    .recover = f->recover,
                                    .granularity = j->o->weight_granularity,
                                    .percentile = f->percentile,
                                    .images = f->images,
                                    .image_list_sha256 = f->image_list_sha256 };
    char engine_text[512], preprocess[128];
    const swin_preprocess p = { .size = j->model.config.image_size, .crop = j->model.config.test_crop };
    j->model.dev->ops->engine(j->model.dev, engine_text, sizeof engine_text);
    swin_preprocess_text(&p, preprocess, sizeof preprocess);
    swin_eval_skipped *skipped = calloc(lr.broken + 1, sizeof *skipped);
    if (!skipped) return swin_fail(SWIN_ERR_MEM, "no memory for the list of broken images");
    for (size_t i = 0; i < lr.broken; i++)
        skipped[i] =
            (swin_eval_skipped){ swin_dataset_name(j->data, lr.broken_index[i]), lr.broken_reason[i] };

    swin_eval_report *r = &j->report;
    r->config = &j->model.config;
    r->checkpoint_sha256 = j->model.sha256;
    r->engine = engine_text;
    r->preprocess = preprocess;
    r->split = j->o->split;
    r->image_list_sha256 = lr.image_list_sha256;
    r->calib = f->nsites ? &calib : NULL;
    r->jpeg_warnings = lr.warnings;
    r->skipped = skipped;
    r->nskipped = lr.broken;
    r->layers = j->layers;
    r->sites = j->sites;
    r->nsites = j->nsites;
    r->site_images = j->site_images;
    const swin_status st = deliver(j, &lr);
    free(skipped);
    return st;
}

static swin_status evaluate(const eval_options *o)
{
    eval_job j = { .o = o };
    if (o->common.cfg) SWIN_TRY(swin_need_file("--cfg", o->common.cfg));
    SWIN_TRY(swin_need_file("--resume", o->common.resume));
    SWIN_TRY(swin_need_path("--data-path", o->common.data_path));
    if (o->calib) SWIN_TRY(swin_need_file("--calib", o->calib));
    SWIN_TRY(each_path(o->report, check_report, (void *)o));
    if (o->dump) SWIN_TRY(check_output(o, "--dump", o->dump));
    swin_status st = eval_job_choose(&j);
    if (st == SWIN_OK) st = eval_job_open(&j);
    if (st == SWIN_OK) st = eval_job_run(&j);
    if (st == SWIN_OK) st = conclude(&j);
    eval_job_close(&j);
    return st;
}

int main(int argc, char **argv)
{
    eval_options o = { .common = SWIN_COMMON_DEFAULTS,
                       .split = "val",
                       .weight_granularity = "channel",
                       .batch_size = 32,
                       .dump_images = 1,
                       .max_drop = 100 };
    swin_status st = swin_fields_parse(&program, &o, argc, argv, NULL, NULL);
    if (st == SWIN_OK) {
        swin_common_apply(&o.common);
        swin_catch_interrupts();
        st = evaluate(&o);
    }
    return swin_report(st);
}
