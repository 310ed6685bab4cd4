#include "runtime/swin/eval_report.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/file.h"

const swin_eval_row *swin_eval_report_row(const swin_eval_report *r, const char *precision)
{
    for (int i = 0; i < r->nrows; i++)
        if (strcmp(r->rows[i].precision, precision) == 0) return &r->rows[i];
    return NULL;
}

/* FP16 itself has no drop against FP16. */
static const swin_eval_row *base_of(const swin_eval_report *r, const swin_eval_row *row)
{
    const swin_eval_row *base = swin_eval_report_row(r, "fp16");
    return base == row ? NULL : base;
}

/* ---- text ------------------------------------------------------------------------------------ */

/* "80.75 (-0.43)": the accuracy and how far it is from FP16's. */
static void accuracy_cell(char *cell, size_t n, double value, double drop, bool with_drop)
{
    const double change = drop == 0 ? 0 : -drop; /* no "-0.00" for equal ones */
    if (with_drop)
        snprintf(cell, n, "%6.2f (%+.2f)", value, change);
    else
        snprintf(cell, n, "%6.2f", value);
}

static void sqnr_cell(char *cell, size_t n, double db)
{
    if (isnan(db))
        snprintf(cell, n, "-");
    else
        snprintf(cell, n, "%.2f", db); /* "inf": not one bit of error */
}

static double row_sqnr(const swin_eval_report *r, const swin_eval_row *row)
{
    return row == &r->rows[0] ? NAN : swin_accuracy_sqnr(&row->acc);
}

/* Says whether the row has brackets. */
static bool text_row(const swin_eval_report *r, const swin_eval_row *row, FILE *out)
{
    const bool int8 = strncmp(row->precision, "int8", 4) == 0;
    const swin_eval_row *base = base_of(r, row);
    char name[32], one[32], five[32], sqnr[32];
    snprintf(name, sizeof name, "%s%s", row->precision, row->emulated ? "*" : "");
    accuracy_cell(one, sizeof one, swin_accuracy_top1(&row->acc),
                  base ? swin_accuracy_top1_drop(&row->acc, &base->acc) : 0, int8 && base);
    accuracy_cell(five, sizeof five, swin_accuracy_top5(&row->acc),
                  base ? swin_accuracy_top5_drop(&row->acc, &base->acc) : 0, int8 && base);
    sqnr_cell(sqnr, sizeof sqnr, row_sqnr(r, row));
    fprintf(out, "%-10s  %-16s %-16s %10.2f %9s", name, one, five, swin_accuracy_agreement(&row->acc), sqnr);
    if (row->acc.nonfinite)
        fprintf(out, "  %llu images with NaN or Inf", (unsigned long long)row->acc.nonfinite);
    fputc('\n', out);
    return int8 && base;
}

static void text_layers(const swin_eval_report *r, FILE *out)
{
    fprintf(out,
            "\nSQNR of each module's output against fp32, dB (errors accumulate along the network)\n%-24s",
            "module");
    for (int e = 1; e < r->nrows; e++) fprintf(out, " %9s", r->rows[e].precision);
    fputc('\n', out);
    for (int i = 0; i < swin_output_count(r->config); i++) {
        char name[SWIN_SITE_NAME_MAX], cell[32];
        swin_site_name(swin_output_at(r->config, i), name);
        fprintf(out, "%-24s", name);
        for (int e = 1; e < r->nrows; e++) {
            sqnr_cell(cell, sizeof cell, swin_layers_sqnr(r->layers, e, i));
            fprintf(out, " %9s", cell);
        }
        fputc('\n', out);
    }
}

static void text_sites(const swin_eval_report *r, FILE *out)
{
    fprintf(out,
            "\nint8-sim site by site, %d images: SQNR of the logits when it alone is quantized, of its "
            "tensor when all "
            "are, dB; share of the sum of the errors alone\n%-42s %9s %11s %7s\n",
            r->site_images, "site", "alone", "accumulated", "share");
    for (int i = 0; i < r->nsites; i++) {
        char name[SWIN_SITE_NAME_MAX], alone[32], accumulated[32];
        swin_site_name(r->sites[i].site, name);
        sqnr_cell(alone, sizeof alone, r->sites[i].alone_db);
        sqnr_cell(accumulated, sizeof accumulated, r->sites[i].accumulated_db);
        fprintf(out, "%-42s %9s %11s %6.2f%%\n", name, alone, accumulated, r->sites[i].share);
    }
}

static bool any_emulated(const swin_eval_report *r)
{
    for (int i = 0; i < r->nrows; i++)
        if (r->rows[i].emulated) return true;
    return false;
}

static const char emulated_note[] = "emulated in float32: weights and operator outputs are rounded "
                                    "(int8-sim: fake-quantized); ignore its speed";

void swin_eval_report_text(const swin_eval_report *r, FILE *out)
{
    fprintf(out, "model    %s, %d classes, image %d\n", r->config->name, r->config->num_classes,
            r->config->image_size);
    fprintf(out, "engine   %s\n", r->engine);
    fprintf(out, "images   %llu of split %s, %s\n", (unsigned long long)r->images, r->split, r->preprocess);
    if (r->calib)
        fprintf(out, "scales   int8-mode %d, %s, %llu images, weights per %s\n", r->calib->int8_mode,
                r->calib->calibrator, (unsigned long long)r->calib->images, r->calib->granularity);
    fprintf(out, "\n%-10s  %-16s %-16s %10s %9s\n", "precision", " acc@1", " acc@5", "agreement", "SQNR dB");
    bool brackets = false;
    for (int i = 0; i < r->nrows; i++) brackets = text_row(r, &r->rows[i], out) || brackets;
    if (brackets) fputs("in brackets: difference against FP16, points\n", out);
    if (any_emulated(r)) fprintf(out, "* %s\n", emulated_note);
    if (r->layers) text_layers(r, out);
    if (r->sites) text_sites(r, out);
    if (r->jpeg_warnings)
        fprintf(out, "%llu images had recoverable JPEG faults and were used\n",
                (unsigned long long)r->jpeg_warnings);
    if (r->nskipped) fprintf(out, "left out, because they cannot be decoded: %zu\n", r->nskipped);
    for (size_t i = 0; i < r->nskipped; i++)
        fprintf(out, "  %s: %s\n", r->skipped[i].name, r->skipped[i].reason);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static json_t *number(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

static json_t *string(const char *s)
{
    json_t *j = json_string(s ? s : "");
    return j ? j : json_string("(not UTF-8)");
}

static json_t *json_layers(const swin_eval_report *r, int engine)
{
    json_t *all = json_object();
    for (int i = 0; i < swin_output_count(r->config); i++) {
        char name[SWIN_SITE_NAME_MAX];
        swin_site_name(swin_output_at(r->config, i), name);
        json_object_set_new(all, name, number(swin_layers_sqnr(r->layers, engine, i)));
    }
    return all;
}

static json_t *json_sites(const swin_eval_report *r)
{
    json_t *all = json_object();
    for (int i = 0; i < r->nsites; i++) {
        char name[SWIN_SITE_NAME_MAX];
        json_t *one = json_object();
        swin_site_name(r->sites[i].site, name);
        json_object_set_new(one, "alone_db", number(r->sites[i].alone_db));
        json_object_set_new(one, "accumulated_db", number(r->sites[i].accumulated_db));
        json_object_set_new(one, "share", number(r->sites[i].share));
        json_object_set_new(all, name, one);
    }
    return all;
}

static json_t *json_row(const swin_eval_report *r, int i)
{
    const swin_eval_row *row = &r->rows[i], *base = base_of(r, row);
    json_t *o = json_object();
    json_object_set_new(o, "top1", number(swin_accuracy_top1(&row->acc)));
    json_object_set_new(o, "top5", number(swin_accuracy_top5(&row->acc)));
    json_object_set_new(o, "top1_drop", number(base ? swin_accuracy_top1_drop(&row->acc, &base->acc) : NAN));
    json_object_set_new(o, "top5_drop", number(base ? swin_accuracy_top5_drop(&row->acc, &base->acc) : NAN));
    json_object_set_new(o, "agreement", number(swin_accuracy_agreement(&row->acc)));
    json_object_set_new(o, "sqnr_db", number(row_sqnr(r, row)));
    json_object_set_new(o, "images", json_integer((json_int_t)row->acc.images));
    json_object_set_new(o, "nonfinite", json_integer((json_int_t)row->acc.nonfinite));
    json_object_set_new(o, "emulated", json_boolean(row->emulated));
    if (r->layers && i > 0) json_object_set_new(o, "layers_sqnr_db", json_layers(r, i));
    if (r->sites && strcmp(row->precision, "int8-sim") == 0) json_object_set_new(o, "sites", json_sites(r));
    return o;
}

static json_t *json_calib(const swin_eval_calib *c)
{
    if (!c) return json_null();
    json_t *o = json_object();
    json_object_set_new(o, "int8_mode", json_integer(c->int8_mode));
    json_object_set_new(o, "calibrator", string(c->calibrator));
    json_object_set_new(o, "percentile", number(c->percentile));
    json_object_set_new(o, "histogram", string(c->histogram));
    json_object_set_new(o, "recover", string(c->recover));
    json_object_set_new(o, "weight_granularity", string(c->granularity));
    json_object_set_new(o, "images", json_integer((json_int_t)c->images));
    json_object_set_new(o, "image_list_sha256", string(c->image_list_sha256));
    return o;
}

char *swin_eval_report_json(const swin_eval_report *r)
{
    json_t *o = json_object(), *results = json_object(), *skipped = json_array();
    for (int i = 0; i < r->nrows; i++) json_object_set_new(results, r->rows[i].precision, json_row(r, i));
    for (size_t i = 0; i < r->nskipped; i++) {
        json_t *one = json_object();
        json_object_set_new(one, "name", string(r->skipped[i].name));
        json_object_set_new(one, "reason", string(r->skipped[i].reason));
        json_array_append_new(skipped, one);
    }
    json_object_set_new(o, "tool", string("swin-eval " SWIN_VERSION));
    json_object_set_new(o, "model", string(r->config->name));
    json_object_set_new(o, "classes", json_integer(r->config->num_classes));
    json_object_set_new(o, "image_size", json_integer(r->config->image_size));
    json_object_set_new(o, "checkpoint_sha256", string(r->checkpoint_sha256));
    json_object_set_new(o, "engine", string(r->engine));
    json_object_set_new(o, "preprocess", string(r->preprocess));
    json_object_set_new(o, "split", string(r->split));
    json_object_set_new(o, "images", json_integer((json_int_t)r->images));
    json_object_set_new(o, "image_list_sha256", string(r->image_list_sha256));
    json_object_set_new(o, "jpeg_warnings", json_integer((json_int_t)r->jpeg_warnings));
    json_object_set_new(o, "skipped", skipped);
    json_object_set_new(o, "calibration", json_calib(r->calib));
    json_object_set_new(o, "reference", string("fp32"));
    json_object_set_new(o, "results", results);
    if (any_emulated(r)) json_object_set_new(o, "note", string(emulated_note));
    char *text = json_dumps(o, JSON_INDENT(2) | JSON_REAL_PRECISION(10));
    json_decref(o);
    return text;
}

/* ---- limits ---------------------------------------------------------------------------------- */

static void judge_row(const swin_eval_report *r, const swin_eval_row *row, double max_drop,
                      double min_agreement, FILE *faults)
{
    const swin_eval_row *base = base_of(r, row);
    if (!row->listed || row == &r->rows[0]) return;
    if (base && max_drop < 100) {
        const double drop = swin_accuracy_top1_drop(&row->acc, &base->acc);
        if (!(drop <= max_drop))
            fprintf(faults, "; --max-drop %g: %s lost %.4g points against FP16, %.4g too many", max_drop,
                    row->precision, drop, drop - max_drop);
    }
    const double agreement = swin_accuracy_agreement(&row->acc);
    if (!(agreement >= min_agreement))
        fprintf(faults, "; --min-agreement %g: %s agrees on %.4g percent, %.4g too few", min_agreement,
                row->precision, agreement, min_agreement - agreement);
}

swin_status swin_eval_report_judge(const swin_eval_report *r, double max_drop, double min_agreement)
{
    for (int i = 0; i < r->nrows; i++) {
        const swin_accuracy *a = &r->rows[i].acc;
        if (a->nonfinite)
            return swin_fail(SWIN_ERR_VALUE, "%s: logits of %llu of %llu images hold NaN or infinity",
                             r->rows[i].precision, (unsigned long long)a->nonfinite,
                             (unsigned long long)a->images);
    }
    char *text = NULL;
    size_t size = 0;
    FILE *faults = open_memstream(&text, &size);
    if (!faults) return swin_fail(SWIN_ERR_MEM, "no memory to compare with the limits");
    for (int i = 0; i < r->nrows; i++) judge_row(r, &r->rows[i], max_drop, min_agreement, faults);
    swin_status st = SWIN_OK;
    if (fclose(faults) != 0)
        st = swin_fail(SWIN_ERR_MEM, "no memory to compare with the limits");
    else if (size)
        st = swin_fail(SWIN_ERR_LIMIT, "%s", text + 2);
    free(text);
    return st;
}
