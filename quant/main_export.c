/* swin-export: a calibration file as another engine's table or model. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "quant/corrections.h"
#include "quant/export.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/output.h"
#include "runtime/swin/checkpoint.h"
#include "runtime/swin/session.h"

typedef struct options {
    swin_common common;
    const char *calib, *format, *output, *weights_out, *name_map, *weight_granularity, *ft_layout;
    int trt_version;
    bool list, external_data;
} options;

#define F(member, kind, lo, hi, arg, help, choices)                                                          \
    {                                                                                                        \
#member, SWIN_FIELD_##kind, offsetof(options, member), lo, hi, arg, help, choices                    \
    }

static const swin_field fields[] = {
    F(calib, STR, 0, 0, "FILE", "calibration file (.h5) of swin-calib", NULL),
    F(format, STR, 0, 0, "NAME", "what to write: --list names them", NULL),
    F(output, STR, 0, 0, "FILE", "where to write it (onnxruntime: a folder)", NULL),
    F(list, BOOL, 0, 0, NULL, "list the formats and what their engines expect", NULL),
    F(weights_out, STR, 0, 0, "FILE", "also write the checkpoint with the file's corrections, .safetensors",
      NULL),
    F(name_map, STR, 0, 0, "FILE",
      "tensor names of another graph, lines of: site name, white space, tensor name", NULL),
    F(trt_version, INT, 1000, 999999, "N",
      "tensorrt-cache: TensorRT version, 8501 for 8.5.1, 100900 for 10.9.0", NULL),
    F(weight_granularity, CHOICE, 0, 0, "WHAT", "onnx-qdq: one weight scale for each", "channel|tensor"),
    F(ft_layout, CHOICE, 0, 0, "WHAT",
      "ft-weights: Linear weights as they are, or as codes in the tiles of GPUs before (sm75) or since "
      "(sm80) Ampere",
      "float16|sm75|sm80"),
    F(external_data, BOOL, 0, 0, NULL, "onnx-*: weights in FILE.data, as is always done past 2 GB", NULL),
    SWIN_COMMON_FIELDS(options),
    SWIN_LEGACY_FIELDS,
};

static const swin_program program = { "swin-export",
                                      "write a calibration file as another engine's table or model", fields,
                                      SWIN_COUNT(fields), NULL };

static void list_formats(bool json)
{
    json_t *array = json_array();
    for (const swin_export_format *const *f = swin_export_formats(); *f; f++) {
        if (!json) printf("%-15s %s\n", (*f)->name, (*f)->help);
        json_array_append_new(array, json_pack("{s:s, s:s}", "name", (*f)->name, "help", (*f)->help));
    }
    if (json) json_dumpf(array, stdout, JSON_INDENT(2));
    if (json) putchar('\n');
    json_decref(array);
}

/* What one run holds. */
typedef struct state {
    swin_calib_file calib;
    swin_session session; /* config; weights when a checkpoint is read */
    swin_name_map names;
    swin_export_job job;
} state;

static void state_free(state *s)
{
    swin_name_map_free(&s->names);
    swin_session_close(&s->session);
    swin_calib_file_free(&s->calib);
}

/* The model that was calibrated: from --cfg, or as the calibration file has it. */
static swin_status open_config(state *s, const options *o)
{
    if (o->common.cfg) {
        swin_config *c = &s->session.config;
        SWIN_TRY(swin_need_file("--cfg", o->common.cfg));
        SWIN_TRY(swin_config_load(c, o->common.cfg, &o->common.opts));
        if (!c->classes_given)
            c->num_classes = s->calib.config.num_classes; /* taken from a head, then and now */
        return SWIN_OK;
    }
    if (o->common.opts.count > 0)
        return swin_fail(SWIN_ERR_USAGE, "--opts: overrides keys of --cfg, which is not given");
    s->session.config = s->calib.config;
    return SWIN_OK;
}

static swin_status load_weights(state *s, const swin_common *o)
{
    swin_ckpt *ck;
    SWIN_TRY(swin_need_file("--resume", o->resume));
    if (o->map22k) SWIN_TRY(swin_need_file("--map22k", o->map22k));
    SWIN_TRY(swin_ckpt_open(&ck, o->resume));
    const swin_load_opts load = { .map22k = o->map22k };
    const swin_status st = swin_weights_load_from(&s->session.weights, &s->session.config, ck, &load);
    swin_ckpt_close(ck);
    return st;
}

static swin_status open_weights(state *s, const options *o)
{
    if (!s->job.calib) {
        SWIN_TRY(swin_model_load(&s->session.weights, &s->session.config, &o->common));
    } else {
        SWIN_TRY(load_weights(s, &o->common));
        SWIN_TRY(swin_weights_sha256(&s->session.config, &s->session.weights, s->session.sha256));
        SWIN_TRY(swin_calib_file_match(&s->calib, o->calib, &s->session.config, s->session.sha256));
    }
    if (s->job.corrected) SWIN_TRY(swin_corrections_apply(&s->session.weights, &s->session.config, o->calib));
    s->job.weights = &s->session.weights;
    return SWIN_OK;
}

static swin_status open_inputs(state *s, const options *o, const swin_export_format *format)
{
    swin_export_job *job = &s->job;
    if (o->calib) {
        SWIN_TRY(swin_need_file("--calib", o->calib));
        SWIN_TRY(swin_calib_file_read(&s->calib, o->calib, false));
        job->calib = &s->calib;
        SWIN_TRY(swin_corrections_present(&job->corrected, o->calib));
    }
    if (o->weights_out && !o->calib)
        return swin_fail(SWIN_ERR_USAGE, "--weights-out: --calib is needed with it");
    if (format && (format->flags & SWIN_EXPORT_CALIB) && !o->calib)
        return swin_fail(SWIN_ERR_USAGE, "--calib is needed for --format %s", format->name);
    job->config = &s->session.config;
    if (job->calib) {
        SWIN_TRY(open_config(s, o));
        SWIN_TRY(swin_calib_file_match(&s->calib, o->calib, job->config, NULL));
    }
    if (o->weights_out || o->common.resume || (format && (format->flags & SWIN_EXPORT_WEIGHTS)))
        SWIN_TRY(open_weights(s, o));
    if (o->name_map) {
        SWIN_TRY(swin_need_file("--name-map", o->name_map));
        SWIN_TRY(swin_name_map_read(&s->names, job->config, o->name_map));
        job->names = &s->names;
    }
    return SWIN_OK;
}

static void say(const options *o)
{
    if (o->common.json) {
        json_t *j = json_object();
        if (o->format) json_object_set_new(j, "format", json_string(o->format));
        if (o->format) json_object_set_new(j, "output", json_string(o->output));
        if (o->weights_out) json_object_set_new(j, "weights_out", json_string(o->weights_out));
        json_dumpf(j, stdout, JSON_INDENT(2));
        putchar('\n');
        json_decref(j);
        return;
    }
    if (o->format) printf("%s: %s\n", o->format, o->output);
    if (o->weights_out) printf("weights: %s\n", o->weights_out);
}

/* No result takes the place of a file that is read, or of the other result. */
static swin_status check_outputs(const options *o)
{
    const swin_file_use files[] = { { "--weights-out", o->weights_out }, { "--calib", o->calib },
                                    { "--cfg", o->common.cfg },          { "--resume", o->common.resume },
                                    { "--map22k", o->common.map22k },    { "--name-map", o->name_map } };
    if (o->weights_out)
        SWIN_TRY(swin_output_check("--weights-out", o->weights_out, files + 1, SWIN_COUNT(files) - 1));
    return o->output ? swin_output_apart("--output", o->output, files, SWIN_COUNT(files)) : SWIN_OK;
}

static swin_status run(state *s, const options *o)
{
    const swin_export_format *format = o->format ? swin_export_find(o->format) : NULL;
    if (o->format && !format)
        return swin_fail(SWIN_ERR_USAGE, "--format %s: unknown (--list names the formats)", o->format);
    if (!format && !o->weights_out)
        return swin_fail(SWIN_ERR_USAGE, "--format is needed (--list names the formats)");
    if (format && !o->output) return swin_fail(SWIN_ERR_USAGE, "--output is needed");
    SWIN_TRY(check_outputs(o));
    s->job = (swin_export_job){ .output = o->output,
                                .weights_out = o->weights_out != NULL,
                                .trt_version = o->trt_version,
                                .external_data = o->external_data };
    s->job.granularity = strcmp(o->weight_granularity, "tensor") == 0 ? SWIN_PER_TENSOR : SWIN_PER_CHANNEL;
    s->job.ft_layout = strcmp(o->ft_layout, "sm75") == 0   ? SWIN_FT_SM75
                       : strcmp(o->ft_layout, "sm80") == 0 ? SWIN_FT_SM80
                                                           : SWIN_FT_FLOAT16;
    SWIN_TRY(open_inputs(s, o, format));
    const double start = swin_now();
    /* Before anything is written. */
    SWIN_TRY(format ? swin_export_check(format, &s->job) : swin_export_check_weights(&s->job));
    SWIN_TRY(swin_check_interrupt());
    if (o->weights_out) {
        if (!s->job.corrected)
            swin_note("%s changes no weights: %s is the checkpoint as it was", o->calib, o->weights_out);
        SWIN_TRY(swin_weights_save(&s->session.weights, &s->session.config, o->weights_out));
    }
    SWIN_TRY(swin_check_interrupt());
    if (format) SWIN_TRY(format->write(&s->job));
    swin_detail("written in %.3f s", swin_now() - start);
    say(o);
    return SWIN_OK;
}

int main(int argc, char **argv)
{
    options o = { .common = SWIN_COMMON_DEFAULTS,
                  .trt_version = 100900,
                  .weight_granularity = "channel",
                  .ft_layout = "float16" };
    swin_status st = swin_fields_parse(&program, &o, argc, argv, NULL, NULL);
    if (st != SWIN_OK) return swin_report(st);
    swin_common_apply(&o.common);
    if (o.list) {
        list_formats(o.common.json);
        return 0;
    }
    swin_catch_interrupts();
    state s;
    memset(&s, 0, sizeof s);
    st = run(&s, &o);
    state_free(&s);
    return swin_report(st);
}
