/* The report's file forms: CSV, HTML, and the choice by a name's ending. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/file.h"
#include "runtime/swin/eval_report.h"

/* ---- CSV ------------------------------------------------------------------------------------- */

static void csv_text(const char *s, FILE *out)
{
    fputc('"', out);
    for (; s && *s; s++) {
        if (*s == '"') fputc('"', out);
        fputc(*s, out);
    }
    fputc('"', out);
}

static void csv_number(double v, FILE *out)
{
    fputc(',', out);
    if (isfinite(v)) fprintf(out, "%.10g", v);
}

static void csv_row(const swin_eval_report *r, const swin_eval_row *row, FILE *out)
{
    const swin_eval_row *fp16 = swin_eval_report_row(r, "fp16");
    const swin_accuracy *base = fp16 && fp16 != row ? &fp16->acc : NULL;
    fprintf(out, "%s,%s,%llu", row->precision, row->emulated ? "yes" : "no",
            (unsigned long long)row->acc.images);
    csv_number(swin_accuracy_top1(&row->acc), out);
    csv_number(swin_accuracy_top5(&row->acc), out);
    csv_number(base ? swin_accuracy_top1_drop(&row->acc, base) : NAN, out);
    csv_number(base ? swin_accuracy_top5_drop(&row->acc, base) : NAN, out);
    csv_number(swin_accuracy_agreement(&row->acc), out);
    csv_number(row == &r->rows[0] ? NAN : swin_accuracy_sqnr(&row->acc), out);
    fprintf(out, ",%llu,", (unsigned long long)row->acc.nonfinite);
    csv_text(r->config->name, out);
    fprintf(out, ",%s,%s,", r->checkpoint_sha256, r->image_list_sha256);
    csv_text(r->engine, out);
    fputs("\r\n", out);
}

void swin_eval_report_csv(const swin_eval_report *r, FILE *out)
{
    fputs("precision,emulated,images,top1,top5,top1_drop,top5_drop,agreement,sqnr_db,nonfinite,model,"
          "checkpoint_sha256,"
          "image_list_sha256,engine\r\n",
          out);
    for (int i = 0; i < r->nrows; i++) csv_row(r, &r->rows[i], out);
}

/* ---- HTML ------------------------------------------------------------------------------------ */

static void html_text(const char *s, FILE *out)
{
    for (; s && *s; s++) {
        switch (*s) {
        case '&':
            fputs("&amp;", out);
            break;
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '"':
            fputs("&quot;", out);
            break;
        default:
            fputc(*s, out);
        }
    }
}

static void html_fact(const char *name, const char *value, FILE *out)
{
    fprintf(out, "<tr><th>%s</th><td>", name);
    html_text(value, out);
    fputs("</td></tr>\n", out);
}

static void html_number(double v, FILE *out)
{
    if (isnan(v))
        fputs("<td>&ndash;</td>", out);
    else if (isinf(v))
        fputs("<td>no error</td>", out);
    else
        fprintf(out, "<td>%.2f</td>", v);
}

static void html_row(const swin_eval_report *r, const swin_eval_row *row, FILE *out)
{
    const swin_eval_row *fp16 = swin_eval_report_row(r, "fp16");
    const swin_accuracy *base = fp16 && fp16 != row ? &fp16->acc : NULL;
    fprintf(out, "<tr><th>%s%s</th>", row->precision, row->emulated ? " (emulated)" : "");
    html_number(swin_accuracy_top1(&row->acc), out);
    html_number(swin_accuracy_top5(&row->acc), out);
    html_number(base ? swin_accuracy_top1_drop(&row->acc, base) : NAN, out);
    html_number(base ? swin_accuracy_top5_drop(&row->acc, base) : NAN, out);
    html_number(swin_accuracy_agreement(&row->acc), out);
    html_number(row == &r->rows[0] ? NAN : swin_accuracy_sqnr(&row->acc), out);
    fprintf(out, "<td>%llu</td></tr>\n", (unsigned long long)row->acc.nonfinite);
}

static void html_layers(const swin_eval_report *r, FILE *out)
{
    fputs("<h2>SQNR of each module's output against fp32, dB</h2>\n<table>\n<tr><th>module</th>", out);
    for (int e = 1; e < r->nrows; e++) fprintf(out, "<th>%s</th>", r->rows[e].precision);
    fputs("</tr>\n", out);
    for (int i = 0; i < swin_output_count(r->config); i++) {
        char name[SWIN_SITE_NAME_MAX];
        swin_site_name(swin_output_at(r->config, i), name);
        fprintf(out, "<tr><th>%s</th>", name);
        for (int e = 1; e < r->nrows; e++) html_number(swin_layers_sqnr(r->layers, e, i), out);
        fputs("</tr>\n", out);
    }
    fputs("</table>\n", out);
}

static void html_facts(const swin_eval_report *r, FILE *out)
{
    char *images =
        swin_format("%llu of split %s, %s", (unsigned long long)r->images, r->split, r->preprocess);
    fputs("<table>\n", out);
    html_fact("model", r->config->name, out);
    html_fact("checkpoint", r->checkpoint_sha256, out);
    html_fact("engine", r->engine, out);
    html_fact("images", images, out);
    html_fact("image list", r->image_list_sha256, out);
    free(images);
    if (r->calib) {
        char *scales = swin_format("int8-mode %d, %s, %llu images, weights per %s", r->calib->int8_mode,
                                   r->calib->calibrator, (unsigned long long)r->calib->images,
                                   r->calib->granularity);
        html_fact("scales", scales, out);
        free(scales);
    }
    fputs("</table>\n", out);
}

void swin_eval_report_html(const swin_eval_report *r, FILE *out)
{
    fputs(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Swin INT8 "
        "accuracy</title>\n<style>\n"
        "body { font-family: sans-serif; margin: 2em; }\ntable { border-collapse: collapse; margin: 1em 0; "
        "}\n"
        "th, td { border: 1px solid #999; padding: 0.3em 0.7em; text-align: right; }\n"
        "th:first-child { text-align: left; }\n</style></head><body>\n<h1>Swin accuracy by precision</h1>\n",
        out);
    html_facts(r, out);
    fputs("<table>\n<tr><th>precision</th><th>acc@1, %</th><th>acc@5, %</th><th>acc@1 drop against FP16</th>"
          "<th>acc@5 drop</th><th>agreement with fp32, %</th><th>SQNR, dB</th><th>images with NaN or "
          "Inf</th></tr>\n",
          out);
    for (int i = 0; i < r->nrows; i++) html_row(r, &r->rows[i], out);
    fputs("</table>\n", out);
    bool emulated = false;
    for (int k = 0; k < r->nrows; k++) emulated = emulated || r->rows[k].emulated;
    if (emulated)
        fputs("<p>Emulated: in float32, by rounding weights and operator outputs (int8-sim: fake "
              "quantization); not a "
              "speed.</p>\n",
              out);
    if (r->layers) html_layers(r, out);
    if (r->nskipped) {
        fprintf(out, "<h2>%zu images left out</h2>\n<ul>\n", r->nskipped);
        for (size_t i = 0; i < r->nskipped; i++) {
            fputs("<li>", out);
            html_text(r->skipped[i].name, out);
            fputs(": ", out);
            html_text(r->skipped[i].reason, out);
            fputs("</li>\n", out);
        }
        fputs("</ul>\n", out);
    }
    fputs("</body></html>\n", out);
}

/* ---- choice ---------------------------------------------------------------------------------- */

static bool ends_with(const char *path, const char *ending)
{
    const size_t n = strlen(path), m = strlen(ending);
    return n > m && strcmp(path + n - m, ending) == 0;
}

swin_status swin_eval_report_check_path(const char *path)
{
    if (ends_with(path, ".json") || ends_with(path, ".csv") || ends_with(path, ".html")) return SWIN_OK;
    return swin_fail(SWIN_ERR_USAGE, "--report %s: the name must end in .json, .csv or .html", path);
}

static void json_form(const swin_eval_report *r, FILE *out)
{
    char *text = swin_eval_report_json(r);
    if (text) fprintf(out, "%s\n", text);
    free(text);
}

swin_status swin_eval_report_write(const swin_eval_report *r, const char *path)
{
    SWIN_TRY(swin_eval_report_check_path(path));
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out) return swin_fail(SWIN_ERR_MEM, "%s: no memory to write it", path);
    if (ends_with(path, ".json"))
        json_form(r, out);
    else if (ends_with(path, ".csv"))
        swin_eval_report_csv(r, out);
    else
        swin_eval_report_html(r, out);
    swin_status st = SWIN_OK;
    if (fclose(out) != 0 || size == 0) st = swin_fail(SWIN_ERR_MEM, "%s: no memory to write it", path);
    if (st == SWIN_OK) st = swin_write_file(path, text, size);
    free(text);
    return st;
}
