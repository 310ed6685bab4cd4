/* The networks of swin-eval, and the one pass over the images. */
#include <stdlib.h>
#include <string.h>

#include "quant/plan.h"
#include "quant/site_error.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/main_eval.h"

static const eval_kind kinds[] = {
    { "fp32", EVAL_FLOAT, SWIN_F32 },   { "fp16", EVAL_FLOAT, SWIN_F16 },   { "bf16", EVAL_FLOAT, SWIN_BF16 },
    { "int8", EVAL_INTEGER, SWIN_F32 }, { "int8-sim", EVAL_SIM, SWIN_F32 },
};
_Static_assert(SWIN_COUNT(kinds) <= EVAL_ENGINES_MAX, "room for every precision");

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
swin_status eval_job_choose(eval_job *j)
{
    const eval_options *o = j->o;
    const char *list = o->precision ? o->precision : o->calib ? "fp32,fp16,int8" : "fp32,fp16";
    bool judged = false;
    for (size_t k = 0; k < SWIN_COUNT(kinds); k++) {
        const bool listed = has_word(list, kinds[k].name),
                   base = kinds[k].dtype == SWIN_F16 && o->max_drop < 100;
        if (!listed && k > 0 && !base) continue;
        if (!listed)
            swin_note("%s runs too: %s", kinds[k].name,
                      base ? "--max-drop is measured against it" : "the reference");
        j->engines[j->count++] = (eval_engine){ .kind = &kinds[k], .listed = listed };
        judged = judged || (k > 0 && kinds[k].dtype != SWIN_F16);
        if (kinds[k].form != EVAL_FLOAT) SWIN_TRY(swin_need_file("--calib", o->calib));
    }
    if (o->max_drop < 100 && !judged)
        return swin_fail(SWIN_ERR_USAGE,
                         "--max-drop: --precision lists nothing that could lose against FP16");
    return SWIN_OK;
}

static swin_status create_engine(eval_job *j, eval_engine *e)
{
    const size_t floats = (size_t)j->o->batch_size * (size_t)j->model.config.num_classes;
    e->logits = malloc(floats * sizeof *e->logits);
    if (!e->logits)
        return swin_fail(SWIN_ERR_MEM, "--batch-size %d: no memory for the logits", j->o->batch_size);
    const swin_granularity g = strcmp(j->o->weight_granularity, "tensor") == 0 ? SWIN_PER_TENSOR
                                                                               : SWIN_PER_CHANNEL;
    if (e->kind->form == EVAL_SIM) return swin_sim_create(&e->sim, j->model.dev, &j->calib, &j->corrected, g);
    swin_plan plan = { 0 };
    swin_net_opts opts = { .dtype = e->kind->dtype };
    swin_status st = SWIN_OK;
    if (e->kind->form == EVAL_INTEGER) {
        st = swin_plan_create(&plan, &j->calib, g);
        opts.plan = &plan;
        if (j->model.dev->ops->native_half) opts.dtype = SWIN_F16; /* what stays float between the integers */
    }
    const swin_weights *w = e->kind->form == EVAL_INTEGER ? &j->corrected : &j->model.weights;
    if (st == SWIN_OK) st = swin_net_create(&e->net, j->model.dev, &j->model.config, w, &opts);
    if (st == SWIN_ERR_UNSUPPORTED) st = swin_fail_context(st, "--precision %s", e->kind->name);
    swin_plan_free(&plan);
    return st;
}

static swin_status forward(eval_job *j, int e, const float *images, int n, int at, const swin_tap *tap)
{
    eval_engine *g = &j->engines[e];
    float *logits = g->logits + (size_t)at * (size_t)j->model.config.num_classes;
    const double start = swin_now();
    j->active = e;
    SWIN_TRY(swin_check_interrupt());
    SWIN_TRY(g->sim ? swin_sim_forward(g->sim, images, n, logits, tap)
                    : swin_net_forward(g->net, images, n, logits, tap));
    g->seconds += swin_now() - start;
    return SWIN_OK;
}

/* Images that all engines see alike: copied to the device once. */
static swin_status forward_all(eval_job *j, const float *images, int n, int at, size_t pixels)
{
    const swin_ops *ops = j->model.dev->ops;
    const double start = swin_now();
    if (!j->images)
        SWIN_TRY(ops->alloc(j->model.dev, (void **)&j->images,
                            (size_t)j->o->batch_size * pixels * sizeof *j->images));
    SWIN_TRY(ops->upload(j->model.dev, j->images, images, (size_t)n * pixels * sizeof *images));
    j->copying += swin_now() - start;
    for (int e = 0; e < j->count; e++) {
        eval_engine *g = &j->engines[e];
        if (g->sim) {
            SWIN_TRY(forward(j, e, images, n, at, NULL));
            continue;
        }
        const double begin = swin_now();
        swin_tensor logits;
        SWIN_TRY(swin_check_interrupt());
        SWIN_TRY(swin_net_forward_device(g->net, j->images, n, &logits, NULL));
        SWIN_TRY(
            swin_net_logits(g->net, &logits, g->logits + (size_t)at * (size_t)j->model.config.num_classes));
        g->seconds += swin_now() - begin;
    }
    return SWIN_OK;
}

/* ---- the pass over the images ---------------------------------------------------------------- */

static swin_status on_output(void *user, int i, const float *x, int64_t rows, int64_t cols)
{
    eval_job *j = user;
    const bool dumped = j->dump && j->report.images < (uint64_t)j->o->dump_images;
    if (dumped) SWIN_TRY(swin_dump_output(j->dump, j->active, i, x, rows, cols));
    return j->layers ? swin_layers_add(j->layers, j->active, i, x, rows, cols) : SWIN_OK;
}

static swin_status account(eval_job *j, const swin_batch *b)
{
    const int classes = j->model.config.num_classes;
    const float *ref = j->engines[0].logits;
    for (int e = 0; e < j->count; e++)
        swin_accuracy_add(&j->report.rows[e].acc, j->engines[e].logits, e ? ref : NULL, b->labels, b->n,
                          classes);
    for (int i = 0; j->dump && i < b->n; i++) {
        const float *rows[EVAL_ENGINES_MAX];
        for (int e = 0; e < j->count; e++) rows[e] = j->engines[e].logits + (size_t)i * (size_t)classes;
        SWIN_TRY(swin_dump_image(j->dump, swin_dataset_name(j->data, b->index[i]), b->labels[i], rows));
    }
    return SWIN_OK;
}

enum { SITE_IMAGES = 8 };

/* On the head of the first batch. */
static swin_status measure_sites(eval_job *j, const swin_batch *b)
{
    bool simulated = false;
    for (int e = 0; e < j->count; e++) simulated = simulated || j->engines[e].kind->form == EVAL_SIM;
    if (!j->o->layers || !simulated || j->sites) return SWIN_OK;
    j->site_images = b->n < SITE_IMAGES ? b->n : SITE_IMAGES;
    const swin_granularity g = strcmp(j->o->weight_granularity, "tensor") == 0 ? SWIN_PER_TENSOR
                                                                               : SWIN_PER_CHANNEL;
    return swin_site_errors(&j->sites, &j->nsites, j->model.dev, &j->calib, &j->corrected, g, b->pixels,
                            j->site_images);
}

/* Images whose layers are looked at go one by one through all engines; the rest of a batch goes together. */
static swin_status run_batch(eval_job *j, const swin_batch *b)
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
    if (i < b->n) SWIN_TRY(forward_all(j, b->pixels + (size_t)i * pixels, b->n - i, i, pixels));
    j->report.images = before + (uint64_t)b->n;
    return account(j, b);
}

swin_status eval_job_run(eval_job *j)
{
    const size_t total = swin_dataset_count(j->data), limit = (size_t)j->o->limit;
    swin_progress progress;
    swin_progress_begin(&progress, "evaluating", "images", limit && limit < total ? limit : total);
    for (;;) {
        swin_batch b;
        SWIN_TRY(swin_loader_next(j->loader, &b));
        if (b.n == 0) break;
        SWIN_TRY(measure_sites(j, &b));
        SWIN_TRY(run_batch(j, &b));
        swin_progress_add(&progress, (size_t)b.n);
    }
    swin_progress_end(&progress);
    const double images = (double)(j->report.images ? j->report.images : 1);
    if (strcmp(j->model.dev->ops->name, "cuda") == 0)
        swin_note("copies to the GPU: %.2f ms an image", 1e3 * j->copying / images);
    for (int e = 0; e < j->count; e++)
        swin_note("%s: %.2f ms an image%s", j->engines[e].kind->name, 1e3 * j->engines[e].seconds / images,
                  j->report.rows[e].emulated ? " (emulated)" : "");
    return SWIN_OK;
}

/* ---- set-up ---------------------------------------------------------------------------------- */

/* Labels beyond the classes mean another data set; a folder with fewer classes than the model shifts all its
 * labels. */
static swin_status check_labels(const eval_job *j)
{
    const int classes = j->model.config.num_classes, have = swin_dataset_classes(j->data);
    if (have > classes)
        return swin_fail(SWIN_ERR_MISMATCH,
                         "--data-path %s: labels up to %d, but the model has %d classes: another data set?",
                         j->o->common.data_path, have - 1, classes);
    if (classes == 21841 && have <= 1000)
        return swin_fail(
            SWIN_ERR_MISMATCH,
            "--data-path %s has %d classes, but the checkpoint's head has the 21841 of ImageNet-22k: "
            "--map22k FILE names the row of each class (the official map22kto1k.txt for ImageNet-1k)",
            j->o->common.data_path, have);
    if (have < classes && strcmp(swin_dataset_kind(j->data), "folder") == 0)
        swin_warn("%s: %d class folders for a model of %d classes; a label is its folder's rank among them",
                  j->o->common.data_path, have, classes);
    return SWIN_OK;
}

static swin_status open_data(eval_job *j)
{
    const eval_options *o = j->o;
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

static swin_status open_calib(eval_job *j)
{
    const char *path = j->o->calib;
    bool needed = false;
    for (int e = 0; e < j->count; e++) needed = needed || j->engines[e].kind->form != EVAL_FLOAT;
    if (path && !needed) swin_note("--calib %s: no precision listed needs it", path);
    if (!needed) return SWIN_OK;
    SWIN_TRY(swin_calib_file_read(&j->calib, path, false));
    SWIN_TRY(swin_calib_file_match(&j->calib, path, &j->model.config, j->model.sha256));
    SWIN_TRY(swin_weights_clone(&j->corrected, &j->model.weights, &j->model.config));
    return swin_corrections_apply(&j->corrected, &j->model.config, path);
}

static swin_status open_watchers(eval_job *j)
{
    const char *names[EVAL_ENGINES_MAX];
    for (int e = 0; e < j->count; e++) names[e] = j->engines[e].kind->name;
    j->outputs = (swin_outputs){ .config = &j->model.config, .fn = on_output, .user = j };
    if (j->o->layers) SWIN_TRY(swin_layers_create(&j->layers, &j->model.config, j->count));
    return j->o->dump ? swin_dump_create(&j->dump, j->o->dump, &j->model.config, names, j->count) : SWIN_OK;
}

/* Nobody asked for int8 by name: a backend without the integer network shows its simulation instead. */
static void settle_default(eval_job *j)
{
    if (j->o->precision || j->model.dev->ops->linear_s8) return;
    for (int e = 0; e < j->count; e++)
        for (size_t k = 0; j->engines[e].kind->form == EVAL_INTEGER && k < SWIN_COUNT(kinds); k++)
            if (kinds[k].form == EVAL_SIM) {
                swin_note("the %s backend has no integer network yet: %s instead", j->model.dev->ops->name,
                          kinds[k].name);
                j->engines[e].kind = &kinds[k];
            }
}

swin_status eval_job_open(eval_job *j)
{
    SWIN_TRY(swin_session_open(&j->model, &j->o->common, true));
    settle_default(j);
    SWIN_TRY(open_data(j));
    SWIN_TRY(open_calib(j));
    const bool emulates = strcmp(j->model.dev->ops->name, "cuda") != 0;
    for (int e = 0; e < j->count; e++) {
        eval_engine *g = &j->engines[e];
        SWIN_TRY(create_engine(j, g));
        const bool halves = g->kind->form == EVAL_FLOAT && g->kind->dtype != SWIN_F32;
        j->report.rows[e] = (swin_eval_row){ .precision = g->kind->name,
                                             .emulated = g->kind->form == EVAL_SIM || (emulates && halves),
                                             .listed = g->listed };
    }
    j->report.nrows = j->count;
    return open_watchers(j);
}

void eval_job_close(eval_job *j)
{
    if (j->images) j->model.dev->ops->free(j->model.dev, j->images);
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
    swin_weights_free(&j->corrected);
    free(j->sites);
    swin_session_close(&j->model);
}
