#include "quant/export.h"

static void list(FILE *out, const float *v, int n)
{
    for (int k = 0; v && k < n; k++) fprintf(out, "%s%.9g", k ? " " : "", (double)v[k]);
}

static swin_status fill(FILE *out, const swin_export_job *job)
{
    char name[SWIN_SITE_NAME_MAX];
    fprintf(out, "site,kind,enabled,scale,zero_point,qmin,qmax,amax,min,max,factors,channel_scales\n");
    for (int i = 0; i < job->calib->nsites; i++) {
        const swin_site_record *r = &job->calib->sites[i];
        swin_site_name(r->site, name);
        fprintf(out, "%s,%s,%d,%.9g,%d,%d,%d,%.9g,%.9g,%.9g,", name,
                swin_site_role_name(swin_site_role_of(r->site)), r->enabled, (double)r->q.scale,
                r->q.zero_point, r->q.qmin, r->q.qmax, (double)r->amax, (double)r->min, (double)r->max);
        list(out, r->factor, r->channels);
        fputc(',', out);
        list(out, r->channel_scale, r->channels);
        fputc('\n', out);
    }
    return SWIN_OK;
}

static swin_status save(const swin_export_job *job)
{
    return swin_export_text(job->output, fill, job);
}

const swin_export_format swin_export_csv = {
    .name = "csv",
    .help =
        "for people: a line for each site: kind, enabled, scale, zero point, codes, amax, min, max, factors, "
        "scales of output channels",
    .flags = SWIN_EXPORT_CALIB | SWIN_EXPORT_FACTORS | SWIN_EXPORT_CHANNELS,
    .write = save,
};
