/* swin-bench's results as text, CSV or JSON. */
#include "runtime/main_bench.h"

#include <stdio.h>

typedef enum form { TEXT, CSV, JSON } form;

static form form_of(const bench *b)
{
    return b->o->common.json ? JSON : b->o->csv ? CSV : TEXT;
}

swin_status bench_print_head(const bench *b)
{
    switch (form_of(b)) {
    case JSON:
        printf("{\"model\": \"%s\", \"results\": [", b->model.config.name);
        break;
    case CSV:
        printf("precision,batch,median_ms,p99_ms,images_per_s,memory_mib,observers_ms,floor_bytes_ms,floor_"
               "ops_ms,"
               "what,value,unit\n");
        break;
    default:
        printf("%-9s %5s %10s %10s %10s %9s %10s %11s %9s %6s\n", "precision", "batch", "median ms", "p99 ms",
               "images/s", "MiB", "+observers", "bytes ms", "ops ms", "share");
    }
    return SWIN_OK;
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

swin_status bench_print(bench *b, const bench_run *r)
{
    const double rate = r->batch / r->each, mib = (double)r->used / (1 << 20);
    const double extra = r->observed > 0 ? 1e3 * (r->observed - r->each) : 0;
    const double bytes = 1e3 * r->floor_bytes, ops = 1e3 * r->floor_ops;
    const char *const comma = b->rows++ ? "," : "";
    switch (form_of(b)) {
    case JSON:
        printf(
            "%s\n  {\"precision\": \"%s\", \"batch\": %d, \"median_ms\": %.4f, \"p99_ms\": %.4f, "
            "\"images_per_s\": %.1f, "
            "\"memory_mib\": %.1f, \"observers_ms\": %.3f, \"floor_bytes_ms\": %.4f, \"floor_ops_ms\": %.4f}",
            comma, r->precision, r->batch, 1e3 * r->median, 1e3 * r->p99, rate, mib, extra, bytes, ops);
        break;
    case CSV:
        printf("%s,%d,%.4f,%.4f,%.1f,%.1f,%.3f,%.4f,%.4f,,,\n", r->precision, r->batch, 1e3 * r->median,
               1e3 * r->p99, rate, mib, extra, bytes, ops);
        break;
    default:
        printf("%-9s %5d %10.3f %10.3f %10.0f %9.0f", r->precision, r->batch, 1e3 * r->median, 1e3 * r->p99,
               rate, mib);
        if (r->observed > 0)
            printf(" %10.3f", extra);
        else
            printf(" %10s", "-");
        if (bytes > 0) printf(" %11.3f %9.3f %5.0f%%", bytes, ops, 0.1 * larger(bytes, ops) / r->each);
        printf("\n");
    }
    fflush(stdout);
    return SWIN_OK;
}

void bench_print_extra(bench *b, const bench_run *r, const char *what, double value, const char *unit)
{
    switch (form_of(b)) {
    case JSON:
        printf("%s\n  {\"precision\": \"%s\", \"batch\": %d, \"what\": \"%s\", \"value\": %.4f, \"unit\": "
               "\"%s\"}",
               b->rows++ ? "," : "", r->precision, r->batch, what, value, unit);
        break;
    case CSV:
        printf("%s,%d,,,,,,,,%s,%.4f,%s\n", r->precision, r->batch, what, value, unit);
        break;
    default:
        printf("    %-24s %10.3f %s\n", what, value, unit);
    }
}

swin_status bench_print_end(const bench *b)
{
    if (form_of(b) == JSON) printf("\n]}\n");
    if (fflush(stdout) != 0 || ferror(stdout)) return swin_fail(SWIN_ERR_IO, "standard output: cannot write");
    return SWIN_OK;
}
