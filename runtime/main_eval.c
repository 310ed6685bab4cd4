/* swin-eval - what each precision costs in accuracy, side by side, in one pass over the images. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/loader.h"
#include "quant/calib_file.h"
#include "quant/sim.h"
#include "runtime/base/field.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/swin/dump.h"
#include "runtime/swin/eval_report.h"
#include "runtime/swin/net.h"
#include "runtime/swin/session.h"

typedef struct options {
    swin_common common;
    const char *calib, *precision, *split, *weight_granularity, *dump, *report;
    int batch_size, limit, dump_images;
    double max_drop, min_agreement;
    bool layers;
} options;

#define F(member, kind, lo, hi, arg, help, choices)                                                          \
    {                                                                                                        \
#member, SWIN_FIELD_##kind, offsetof(options, member), lo, hi, arg, help, choices                    \
    }

static const swin_field fields[] = {
    { "Evaluation:", SWIN_FIELD_HEADING, 0, 0, 0, NULL, NULL, NULL },
    F(precision, LIST, 0, 0, "LIST",
      "what to run, separated by commas; without it fp32,fp16 and, given --calib, int8-sim. fp32 always "
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
    F(layers, BOOL, 0, 0, NULL, "SQNR of every module's output, accumulated (runs the images one by one)",
      NULL),
    F(report, STR, 0, 0, "FILE[,FILE]", "write the results; the ending chooses the form: .json, .csv, .html",
      NULL),
    F(dump, STR, 0, 0, "FILE.h5",
      "write every image's logits and some images' layer outputs (runtime/swin/dump.h)", NULL),
    F(dump_images, INT, 0, SWIN_DUMP_IMAGES_MAX, "N",
      "with --dump: images at the head of the list whose layer outputs go in", NULL),
    SWIN_COMMON_FIELDS(options),
    { "Of older toolkits:", SWIN_FIELD_HEADING, 0, 0, 0, NULL, NULL, NULL },
    SWIN_LEGACY_FIELDS,
};

static const swin_program program = {
    "swin-eval", "top-1 and top-5 of each precision, drop against FP16, agreement and SQNR", fields,
    SWIN_COUNT(fields), NULL
};

/* ---- engines --------------------------------------------------------------------------------------------- */

typedef struct engine_kind {
    const char *name;
    bool int8;
    swin_dtype dtype;
} engine_kind;

static const engine_kind kinds[] = {
    { "fp32", false, SWIN_F32 },
    { "fp16", false, SWIN_F16 },
    { "bf16", false, SWIN_BF16 },
    { "int8-sim", true, SWIN_F32 },
};

typedef struct engine {
    const engine_kind *kind;
    bool listed;
    swin_net *net; /* one of the two */
    swin_sim *sim;
    float *logits; /* [batch size][classes] */
    double seconds;
} engine;

typedef struct job {
    const options *o;
    swin_session model;
    swin_calib_file calib;
    swin_dataset *data;
    swin_loader *loader;
    engine engines[SWIN_COUNT(kinds)];
    int count;  /* engines; 0 is fp32 */
    int active; /* the one that runs, for the tap */
    swin_layers *layers;
    swin_dump *dump;
    swin_outputs outputs;
    swin_eval_report report;
} job;

static bool has_word(const char *list, const char *word)
{
    const size_t n = strlen(word);
    for (const char *at = list; at; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, word, n) == 0 && (at[n] == ',' || at[n] == 0)) return true;
    }
    return false;
}

/* What was asked for, in the order of the table, and what the numbers asked for are measured against. */
static swin_status choose_engines(job *j)
{
    const options *o = j->o;
    const char *list = o->precision ? o->precision : o->calib ? "fp32,fp16,int8-sim" : "fp32,fp16";
    if (has_word(list, "int8"))
        return swin_fail(
            SWIN_ERR_UNSUPPORTED,
            "--precision int8: this build has no integer engine; int8-sim simulates its arithmetic");
    bool judged = false;
    for (size_t k = 0; k < SWIN_COUNT(kinds); k++) {
        const bool listed = has_word(list, kinds[k].name),
                   base = kinds[k].dtype == SWIN_F16 && o->max_drop < 100;
        if (!listed && k > 0 && !base) continue;
        if (!listed)
            swin_note("%s runs too: %s", kinds[k].name,
                      base ? "--max-drop is measured against it" : "the reference");
        j->engines[j->count++] = (engine){ .kind = &kinds[k], .listed = listed };
        judged = judged || (k > 0 && kinds[k].dtype != SWIN_F16);
        if (kinds[k].int8) SWIN_TRY(swin_need_file("--calib", o->calib));
    }
    if (o->max_drop < 100 && !judged)
        return swin_fail(SWIN_ERR_USAGE,
                         "--max-drop: --precision lists nothing that could lose against FP16");
    return SWIN_OK;
}

static swin_status create_engine(job *j, engine *e)
{
    const size_t floats = (size_t)j->o->batch_size * (size_t)j->model.config.num_classes;
    e->logits = malloc(floats * sizeof *e->logits);
    if (!e->logits)
        return swin_fail(SWIN_ERR_MEM, "--batch-size %d: no memory for the logits", j->o->batch_size);
    if (e->kind->int8) {
        const swin_granularity g = strcmp(j->o->weight_granularity, "tensor") == 0 ? SWIN_PER_TENSOR
                                                                                   : SWIN_PER_CHANNEL;
        return swin_sim_create(&e->sim, j->model.dev, &j->calib, &j->model.weights, g);
    }
    const swin_net_opts opts = { .dtype = e->kind->dtype };
    return swin_net_create(&e->net, j->model.dev, &j->model.config, &j->model.weights, &opts);
}

static swin_status forward(job *j, int e, const float *images, int n, int at, const swin_tap *tap)
{
    engine *g = &j->engines[e];
    float *logits = g->logits + (size_t)at * (size_t)j->model.config.num_classes;
    const double start = swin_now();
    j->active = e;
    SWIN_TRY(swin_check_interrupt());
    SWIN_TRY(g->sim ? swin_sim_forward(g->sim, images, n, logits, tap)
                    : swin_net_forward(g->net, images, n, logits, tap));
    g->seconds += swin_now() - start;
    return SWIN_OK;
}

/* ---- the pass over the images ---------------------------------------------------------------------------- */

static swin_status on_output(void *user, int i, const float *x, int64_t rows, int64_t cols)
{
    job *j = user;
    const bool dumped = j->dump && j->report.images < (uint64_t)j->o->dump_images;
    if (dumped) SWIN_TRY(swin_dump_output(j->dump, j->active, i, x, rows, cols));
    return j->layers ? swin_layers_add(j->layers, j->active, i, x, rows, cols) : SWIN_OK;
}

static swin_status account(job *j, const swin_batch *b)
{
    const int classes = j->model.config.num_classes;
    const float *ref = j->engines[0].logits;
    for (int e = 0; e < j->count; e++)
        swin_accuracy_add(&j->report.rows[e].acc, j->engines[e].logits, e ? ref : NULL, b->labels, b->n,
                          classes);
    for (int i = 0; j->dump && i < b->n; i++) {
        const float *rows[SWIN_COUNT(kinds)];
        for (int e = 0; e < j->count; e++) rows[e] = j->engines[e].logits + (size_t)i * (size_t)classes;
        SWIN_TRY(swin_dump_image(j->dump, swin_dataset_name(j->data, b->index[i]), b->labels[i], rows));
    }
    return SWIN_OK;
}

/* Images whose layers are looked at go one by one through all engines; the rest of the batch goes together. */
static swin_status run_batch(job *j, const swin_batch *b)
{
    const size_t pixels = (size_t)3 * (size_t)j->model.config.image_size * (size_t)j->model.config.image_size;
    const swin_tap tap = swin_outputs_tap(&j->outputs);
    const uint64_t before = j->report.images;
    int i = 0;
    for (; i < b->n && (j->layers || (j->dump && before + (uint64_t)i < (uint64_t)j->o->dump_images)); i++) {
        j->report.images = before + (uint64_t)i;
        for (int e = 0; e < j->count; e++)
            SWIN_TRY(forward(j, e, b->pixels + (size_t)i * pixels, 1, i, &tap));
    }
    for (int e = 0; i < b->n && e < j->count; e++)
        SWIN_TRY(forward(j, e, b->pixels + (size_t)i * pixels, b->n - i, i, NULL));
    j->report.images = before + (uint64_t)b->n;
    return account(j, b);
}

static swin_status run_all(job *j)
{
    const size_t total = swin_dataset_count(j->data), limit = (size_t)j->o->limit;
    swin_progress progress;
    swin_progress_begin(&progress, "evaluating", "images", limit && limit < total ? limit : total);
    for (;;) {
        swin_batch b;
        SWIN_TRY(swin_loader_next(j->loader, &b));
        if (b.n == 0) break;
        SWIN_TRY(run_batch(j, &b));
        swin_progress_add(&progress, (size_t)b.n);
    }
    swin_progress_end(&progress);
    for (int e = 0; e < j->count; e++)
        swin_note("%s: %.2f ms an image%s", j->engines[e].kind->name,
                  1e3 * j->engines[e].seconds / (double)(j->report.images ? j->report.images : 1),
                  j->report.rows[e].emulated ? " (emulated)" : "");
    return SWIN_OK;
}

/* ---- set-up ---------------------------------------------------------------------------------------------- */

/* Labels beyond the classes mean another data set; a folder with fewer classes than the model shifts all its labels. */
static swin_status check_labels(const job *j)
{
    const int classes = j->model.config.num_classes, have = swin_dataset_classes(j->data);
    if (have > classes)
        return swin_fail(SWIN_ERR_MISMATCH,
                         "--data-path %s: labels up to %d, but the model has %d classes: another data set?",
                         j->o->common.data_path, have - 1, classes);
    if (have < classes && strcmp(swin_dataset_kind(j->data), "folder") == 0)
        swin_warn("%s: %d class folders for a model of %d classes; a label is its folder's rank among them",
                  j->o->common.data_path, have, classes);
    return SWIN_OK;
}

static swin_status open_data(job *j)
{
    const options *o = j->o;
    const swin_config *c = &j->model.config;
    SWIN_TRY(swin_dataset_open(&j->data, o->common.data_path, o->split));
    SWIN_TRY(check_labels(j));
    const size_t total = swin_dataset_count(j->data), limit = (size_t)o->limit;
    if (limit > total) swin_note("--limit %d: the split has %zu images, all are taken", o->limit, total);
    const swin_loader_opts lo = {
        .count = limit < total ? limit : 0,
        .batch = o->batch_size,
        .workers = o->common.threads,
        .strict = o->common.strict,
        .preprocess = { .size = c->image_size, .crop = c->test_crop },
    };
    return swin_loader_open(&j->loader, j->data, &lo);
}

static swin_status open_calib(job *j)
{
    const char *path = j->o->calib;
    bool needed = false;
    for (int e = 0; e < j->count; e++) needed = needed || j->engines[e].kind->int8;
    if (path && !needed) swin_note("--calib %s: no precision listed needs it", path);
    if (!needed) return SWIN_OK;
    SWIN_TRY(swin_calib_file_read(&j->calib, path, false));
    return swin_calib_file_match(&j->calib, path, &j->model.config, j->model.sha256);
}

static swin_status open_watchers(job *j)
{
    const char *names[SWIN_COUNT(kinds)];
    for (int e = 0; e < j->count; e++) names[e] = j->engines[e].kind->name;
    j->outputs = (swin_outputs){ .config = &j->model.config, .fn = on_output, .user = j };
    if (j->o->layers) SWIN_TRY(swin_layers_create(&j->layers, &j->model.config, j->count));
    return j->o->dump ? swin_dump_create(&j->dump, j->o->dump, &j->model.config, names, j->count) : SWIN_OK;
}

static swin_status open_job(job *j)
{
    SWIN_TRY(swin_session_open(&j->model, &j->o->common, true));
    SWIN_TRY(open_data(j));
    SWIN_TRY(open_calib(j));
    const bool emulates = strcmp(j->model.dev->ops->name, "cuda") != 0;
    for (int e = 0; e < j->count; e++) {
        engine *g = &j->engines[e];
        SWIN_TRY(create_engine(j, g));
        j->report.rows[e] =
            (swin_eval_row){ .precision = g->kind->name,
                             .emulated = g->kind->int8 || (emulates && g->kind->dtype != SWIN_F32),
                             .listed = g->listed };
    }
    j->report.nrows = j->count;
    return open_watchers(j);
}

static void close_job(job *j)
{
    for (int e = 0; e < j->count; e++) {
        swin_net_free(j->engines[e].net);
        swin_sim_free(j->engines[e].sim);
        free(j->engines[e].logits);
    }
    swin_dump_close(j->dump);
    swin_layers_free(j->layers);
    swin_outputs_free(&j->outputs);
    swin_loader_close(j->loader);
    swin_dataset_close(j->data);
    swin_calib_file_free(&j->calib);
    swin_session_close(&j->model);
}

/* ---- results --------------------------------------------------------------------------------------------- */

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

/* Find out before the work, not after it, that a result has nowhere to go. */
static swin_status check_output(const char *flag, const char *path)
{
    const char *slash = strrchr(path, '/');
    char *folder = !slash ? strdup(".") : strndup(path, slash == path ? 1 : (size_t)(slash - path));
    if (!folder) return swin_fail(SWIN_ERR_MEM, "no memory for a file name");
    swin_status st = SWIN_OK;
    if (swin_is_dir(path))
        st = swin_fail(SWIN_ERR_USAGE, "%s %s: is a folder, a file name is needed", flag, path);
    else if (!swin_is_dir(folder) || access(folder, W_OK) != 0)
        st = swin_fail(SWIN_ERR_USAGE, "%s %s: cannot write in %s", flag, path, folder);
    free(folder);
    return st;
}

static swin_status check_report(void *user, const char *path)
{
    (void)user;
    SWIN_TRY(swin_eval_report_check_path(path));
    return check_output("--report", path);
}

static swin_status write_report(void *user, const char *path)
{
    SWIN_TRY(swin_eval_report_write(user, path));
    swin_note("wrote %s", path);
    return SWIN_OK;
}

static swin_status print_results(const job *j)
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

static swin_status deliver(job *j, const swin_loader_report *lr)
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
static swin_status conclude(job *j)
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
    const swin_status st = deliver(j, &lr);
    free(skipped);
    return st;
}

static swin_status evaluate(const options *o)
{
    job j = { .o = o };
    SWIN_TRY(swin_need_file("--cfg", o->common.cfg));
    SWIN_TRY(swin_need_file("--resume", o->common.resume));
    SWIN_TRY(swin_need_path("--data-path", o->common.data_path));
    SWIN_TRY(each_path(o->report, check_report, NULL));
    if (o->dump) SWIN_TRY(check_output("--dump", o->dump));
    swin_status st = choose_engines(&j);
    if (st == SWIN_OK) st = open_job(&j);
    if (st == SWIN_OK) st = run_all(&j);
    if (st == SWIN_OK) st = conclude(&j);
    close_job(&j);
    return st;
}

int main(int argc, char **argv)
{
    options o = { .common = SWIN_COMMON_DEFAULTS,
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
