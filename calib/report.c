#include "calib/report.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

#include "runtime/base/file.h"
#include "runtime/swin/site.h"

/* Share of a site's elements in bins that lie wholly beyond its range: what clipping costs. */
static double clipped_share(const swin_site_record *s)
{
    if (!s->hist || s->count == 0) return 0;
    const int half = s->hist_abs ? 0 : s->bins / 2;
    uint64_t beyond = 0;
    for (int i = 0; i < s->bins; i++) {
        const double inner = i >= half ? i - half : half - 1 - i; /* the bin's edge nearer to zero */
        if (inner * s->bin_width >= s->amax) beyond += s->hist[i];
    }
    return (double)beyond / (double)s->count;
}

/* ---- --int8-mode auto ------------------------------------------------------------------------------------------------- */

static double percent(uint64_t part, uint64_t all)
{
    return all ? 100.0 * (double)part / (double)all : 0;
}

/* What relaxing it alone gains is measured by --int8-mode auto only. */
static void print_unit(FILE *out, int width, const swin_relax_unit *u)
{
    char gain[24] = "-";
    if (!isnan(u->gain_db)) snprintf(gain, sizeof gain, "%+.3f", u->gain_db);
    fprintf(out, "%-*s  %8.2f  %7.2f%%  %8s  %10.3f  %10.1f  %s\n", width, u->name, u->alone_db, u->share,
            gain, (double)u->bytes / 1e6, (double)u->ops / 1e6, u->relaxed ? "float" : "int8");
}

/* Every unit, then what was relaxed and what that costs an engine. */
static void print_relaxation(FILE *out, const swin_relaxation *r)
{
    uint64_t bytes = 0, ops = 0, all_bytes = 0, all_ops = 0;
    int width = 4, relaxed = 0;
    for (int i = 0; i < r->nunits; i++) width = (int)fmax(width, (double)strlen(r->units[i].name));
    fprintf(out, "\n%-*s  %8s  %8s  %8s  %10s  %10s  %s\n", width, "unit", "alone dB", "share", "gain dB",
            "+MB", "FP16 Mop", "runs in");
    for (int i = 0; i < r->nunits; i++) {
        const swin_relax_unit *u = &r->units[i];
        print_unit(out, width, u);
        all_bytes += u->bytes;
        all_ops += u->ops;
        relaxed += u->relaxed;
        bytes += u->relaxed ? u->bytes : 0;
        ops += u->relaxed ? u->ops : 0;
    }
    fprintf(
        out,
        "%d of %d units relaxed, for an image %.3f MB more (%.2f %%) and %.1f Mop at FP16's rate (%.2f %%)\n",
        relaxed, r->nunits, (double)bytes / 1e6, percent(bytes, all_bytes), (double)ops / 1e6,
        percent(ops, all_ops));
    fprintf(out, "agreement %.2f -> %.2f %%, SQNR %.2f -> %.2f dB, on %llu images held back\n",
            r->before_agreement, r->after_agreement, r->before_db, r->after_db,
            (unsigned long long)r->images);
}

void swin_calib_print_table(FILE *out, const swin_calib_file *f)
{
    int width = 4, on = 0;
    char name[SWIN_SITE_NAME_MAX];
    for (int i = 0; i < f->nsites; i++) {
        swin_site_name(f->sites[i].site, name);
        if ((int)strlen(name) > width) width = (int)strlen(name);
    }
    fprintf(out, "%-*s  %-14s  int8  %12s  %12s  %12s  %12s  %5s  %9s\n", width, "site", "kind", "min", "max",
            "amax", "scale", "zero", "clipped");
    for (int i = 0; i < f->nsites; i++) {
        const swin_site_record *s = &f->sites[i];
        swin_site_name(s->site, name);
        on += s->enabled;
        fprintf(out, "%-*s  %-14s  %-4s  %12.6g  %12.6g  %12.6g  %12.6g  %5d  %8.4f%%\n", width, name,
                swin_site_role_name(swin_site_role_of(s->site)), s->enabled ? "on" : "off", (double)s->min,
                (double)s->max, (double)s->amax, (double)s->q.scale, s->q.zero_point, 100 * clipped_share(s));
    }
    fprintf(out, "%d sites, %d quantized in int8-mode %d; %s, %llu images, %s histograms\n", f->nsites, on,
            (int)f->mode, f->calibrator, (unsigned long long)f->images, f->histogram);
    if (f->relaxation.present) print_relaxation(out, &f->relaxation);
}

static json_t *site_json(const swin_site_record *s)
{
    char name[SWIN_SITE_NAME_MAX];
    swin_site_name(s->site, name);
    return json_pack("{s:s, s:s, s:b, s:f, s:f, s:f, s:f, s:i, s:i, s:i, s:I, s:f}", "name", name, "kind",
                     swin_site_role_name(swin_site_role_of(s->site)), "enabled", s->enabled, "amax",
                     (double)s->amax, "min", (double)s->min, "max", (double)s->max, "scale",
                     (double)s->q.scale, "zero_point", s->q.zero_point, "qmin", s->q.qmin, "qmax", s->q.qmax,
                     "count", (json_int_t)s->count, "clipped", clipped_share(s));
}

/* JSON has no infinity: null. */
static json_t *real_or_null(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

static json_t *unit_json(const swin_relax_unit *u)
{
    return json_pack("{s:s, s:b, s:o, s:f, s:o, s:I, s:I}", "name", u->name, "relaxed", u->relaxed,
                     "sqnr_alone_db", real_or_null(u->alone_db), "share", u->share, "gain_db",
                     real_or_null(u->gain_db), "bytes", (json_int_t)u->bytes, "ops", (json_int_t)u->ops);
}

static json_t *relaxation_json(const swin_relaxation *r)
{
    if (!r->present) return json_null();
    json_t *units = json_array();
    for (int i = 0; units && i < r->nunits; i++)
        if (json_array_append_new(units, unit_json(&r->units[i])) != 0) {
            json_decref(units);
            return NULL;
        }
    return json_pack("{s:f, s:f, s:I, s:s, s:o, s:o, s:o, s:o, s:o}", "min_agreement", r->min_agreement,
                     "min_sqnr_db", r->min_sqnr, "images", (json_int_t)r->images, "image_list_sha256",
                     r->image_list_sha256, "before_agreement", real_or_null(r->before_agreement),
                     "before_sqnr_db", real_or_null(r->before_db), "after_agreement",
                     real_or_null(r->after_agreement), "after_sqnr_db", real_or_null(r->after_db), "units",
                     units);
}

static json_t *file_json(const swin_calib_file *f)
{
    json_t *sites = json_array();
    for (int i = 0; sites && i < f->nsites; i++)
        if (json_array_append_new(sites, site_json(&f->sites[i])) != 0) {
            json_decref(sites);
            return NULL;
        }
    return json_pack("{s:s, s:s, s:s, s:i, s:s, s:f, s:s, s:s, s:I, s:s, s:s, s:s, s:o, s:o}", "tool",
                     f->tool, "model", f->config.name, "engine", f->engine, "int8_mode", (int)f->mode,
                     "calibrator", f->calibrator, "percentile", f->percentile, "histogram", f->histogram,
                     "recover", f->recover, "images", (json_int_t)f->images, "checkpoint_sha256",
                     f->checkpoint_sha256, "image_list_sha256", f->image_list_sha256, "preprocess",
                     f->preprocess, "auto", relaxation_json(&f->relaxation), "sites", sites);
}

swin_status swin_calib_print_json(FILE *out, const swin_calib_file *f)
{
    json_t *j = file_json(f);
    if (!j) return swin_fail(SWIN_ERR_MEM, "the ranges cannot be put into JSON (a name that is not UTF-8?)");
    const int bad = json_dumpf(j, out, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    json_decref(j);
    if (bad || fputc('\n', out) == EOF) return swin_fail(SWIN_ERR_IO, "cannot write the ranges as JSON");
    return SWIN_OK;
}

static void print_csv(FILE *out, const swin_calib_file *f)
{
    fputs("site,kind,enabled,min,max,amax,scale,zero_point,qmin,qmax,count,clipped\n", out);
    for (int i = 0; i < f->nsites; i++) {
        const swin_site_record *s = &f->sites[i];
        char name[SWIN_SITE_NAME_MAX];
        swin_site_name(s->site, name);
        fprintf(out, "%s,%s,%d,%.9g,%.9g,%.9g,%.9g,%d,%d,%d,%llu,%.9g\n", name,
                swin_site_role_name(swin_site_role_of(s->site)), s->enabled, (double)s->min, (double)s->max,
                (double)s->amax, (double)s->q.scale, s->q.zero_point, s->q.qmin, s->q.qmax,
                (unsigned long long)s->count, clipped_share(s));
    }
}

static bool ends_in(const char *path, const char *end)
{
    const size_t n = strlen(path), m = strlen(end);
    return n > m && strcmp(path + n - m, end) == 0;
}

swin_status swin_calib_report_check(const char *path)
{
    if (ends_in(path, ".json") || ends_in(path, ".csv")) return SWIN_OK;
    return swin_fail(SWIN_ERR_USAGE, "--report %s: the name must end in .json or .csv", path);
}

swin_status swin_calib_report_write(const char *path, const swin_calib_file *f)
{
    swin_outfile o;
    SWIN_TRY(swin_calib_report_check(path));
    SWIN_TRY(swin_outfile_open(&o, path));
    swin_status st = SWIN_OK;
    if (ends_in(path, ".json"))
        st = swin_calib_print_json(o.f, f);
    else
        print_csv(o.f, f);
    if (st == SWIN_OK) st = swin_outfile_commit(&o);
    swin_outfile_discard(&o);
    return st;
}
