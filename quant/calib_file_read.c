#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quant/calib_file.h"
#include "quant/linear_weight.h"
#include "runtime/base/h5.h"

/* Whatever the file says, it is read as a stranger's: every number is checked before it is used. */

enum { MOST_BINS = 1 << 20 };

#define FACTORS "/corrections/factors"
#define OUTPUTS "/corrections/outputs"
#define HEADS   "/corrections/heads"

typedef struct reader {
    swin_h5 *h;
    const char *path;
    swin_calib_file *f;
    bool histograms;
} reader;

static swin_status get_f32(const reader *r, const char *at, const char *name, float *v)
{
    double d;
    SWIN_TRY(swin_h5_get_f64(r->h, at, name, &d));
    if (!isfinite(d) || !isfinite((float)d))
        return swin_fail(SWIN_ERR_VALUE, "%s: %s attribute %s is %g", r->path, at, name, d);
    *v = (float)d;
    return SWIN_OK;
}

static swin_status get_int(const reader *r, const char *at, const char *name, int64_t lo, int64_t hi,
                           int64_t *v)
{
    SWIN_TRY(swin_h5_get_i64(r->h, at, name, v));
    if (*v < lo || *v > hi)
        return swin_fail(SWIN_ERR_VALUE, "%s: %s attribute %s is %lld, outside [%lld, %lld]", r->path, at,
                         name, (long long)*v, (long long)lo, (long long)hi);
    return SWIN_OK;
}

static swin_status get_sha(const reader *r, const char *name, char sha[SWIN_SHA256_HEX])
{
    char *text;
    SWIN_TRY(swin_h5_get_str(r->h, "/", name, &text));
    const bool ok = strlen(text) == SWIN_SHA256_HEX - 1 &&
                    strspn(text, "0123456789abcdef") == SWIN_SHA256_HEX - 1;
    if (ok) memcpy(sha, text, SWIN_SHA256_HEX);
    free(text);
    return ok ? SWIN_OK : swin_fail(SWIN_ERR_FORMAT, "%s: attribute %s is no SHA-256", r->path, name);
}

static swin_status check_schema(const reader *r)
{
    int64_t schema;
    if (!swin_h5_has_attr(r->h, "/", "schema"))
        return swin_fail(SWIN_ERR_FORMAT, "%s: not a calibration file (no attribute schema)", r->path);
    SWIN_TRY(swin_h5_get_i64(r->h, "/", "schema", &schema));
    if (schema > SWIN_CALIB_SCHEMA)
        return swin_fail(
            SWIN_ERR_UNSUPPORTED,
            "%s: schema %lld is newer than this program's (%d): take a newer version of the toolkit", r->path,
            (long long)schema, SWIN_CALIB_SCHEMA);
    if (schema < 1) return swin_fail(SWIN_ERR_FORMAT, "%s: schema %lld is none", r->path, (long long)schema);
    return SWIN_OK;
}

static swin_status read_model(const reader *r)
{
    char *text;
    swin_config c;
    SWIN_TRY(swin_h5_get_str(r->h, "/", "model", &text));
    swin_status st = swin_config_parse(&c, text, strlen(text), "attribute model");
    free(text);
    if (st == SWIN_OK) st = swin_config_check(&c);
    if (st == SWIN_OK) st = swin_calib_file_init(r->f, &c);
    return st == SWIN_OK ? st : swin_fail_context(st, "%s", r->path);
}

static swin_status read_root(const reader *r)
{
    swin_calib_file *f = r->f;
    int64_t v;
    SWIN_TRY(get_int(r, "/", "int8_mode", 1, 3, &v));
    f->mode = (swin_int8_mode)v;
    SWIN_TRY(get_int(r, "/", "images", 0, INT64_MAX, &v));
    f->images = (uint64_t)v;
    SWIN_TRY(swin_h5_get_f64(r->h, "/", "percentile", &f->percentile));
    SWIN_TRY(swin_h5_get_str(r->h, "/", "tool", &f->tool));
    SWIN_TRY(swin_h5_get_str(r->h, "/", "engine", &f->engine));
    SWIN_TRY(swin_h5_get_str(r->h, "/", "calibrator", &f->calibrator));
    SWIN_TRY(swin_h5_get_str(r->h, "/", "histogram", &f->histogram));
    SWIN_TRY(swin_h5_get_str(r->h, "/", "recover", &f->recover));
    SWIN_TRY(swin_h5_get_str(r->h, "/", "preprocess", &f->preprocess));
    SWIN_TRY(get_sha(r, "checkpoint_sha256", f->checkpoint_sha256));
    return get_sha(r, "image_list_sha256", f->image_list_sha256);
}

static swin_status read_hist(const reader *r, const char *at, swin_site_record *s)
{
    char set[SWIN_SITE_NAME_MAX + 32];
    int ndim;
    int64_t dims[8];
    snprintf(set, sizeof set, "%s/hist", at);
    if (!swin_h5_exists(r->h, set)) return SWIN_OK; /* a file made from ranges alone has none */
    SWIN_TRY(swin_h5_shape(r->h, set, &ndim, dims));
    if (ndim != 1 || dims[0] < 1 || dims[0] > MOST_BINS || (!s->hist_abs && dims[0] % 2))
        return swin_fail(SWIN_ERR_FORMAT, "%s: %s is no histogram", r->path, set);
    s->bins = (int)dims[0];
    if (!r->histograms) return SWIN_OK;
    void *data;
    size_t count;
    SWIN_TRY(swin_h5_read(r->h, set, SWIN_S64, &data, &count));
    const int64_t *bins = data;
    uint64_t total = 0;
    bool ok = count == (size_t)s->bins;
    for (int i = 0; ok && i < s->bins; i++) ok = bins[i] >= 0 && (total += (uint64_t)bins[i]) <= s->count;
    if (!ok || total != s->count - s->nonfinite) {
        free(data);
        return swin_fail(SWIN_ERR_FORMAT, "%s: %s does not add up to the elements seen", r->path, set);
    }
    s->hist = data;
    return SWIN_OK;
}

static swin_status read_quant(const reader *r, const char *at, swin_quant *q)
{
    int64_t v;
    SWIN_TRY(get_f32(r, at, "scale", &q->scale));
    SWIN_TRY(get_int(r, at, "zero_point", -128, 255, &v));
    q->zero_point = (int)v;
    SWIN_TRY(get_int(r, at, "qmin", -128, 0, &v));
    q->qmin = (int)v;
    SWIN_TRY(get_int(r, at, "qmax", 1, 255, &v));
    q->qmax = (int)v;
    return SWIN_OK;
}

static swin_status read_counts(const reader *r, const char *at, swin_site_record *s)
{
    int64_t v;
    SWIN_TRY(get_int(r, at, "count", 1, INT64_MAX, &v));
    s->count = (uint64_t)v;
    SWIN_TRY(get_int(r, at, "nonfinite", 0, v, &v));
    s->nonfinite = (uint64_t)v;
    SWIN_TRY(swin_h5_get_f64(r->h, at, "bin_width", &s->bin_width));
    if (!isfinite(s->bin_width) || s->bin_width < 0)
        return swin_fail(SWIN_ERR_VALUE, "%s: %s attribute bin_width is %g", r->path, at, s->bin_width);
    if (!swin_h5_has_attr(r->h, at, "hist_kind")) return SWIN_OK;
    char *kind;
    SWIN_TRY(swin_h5_get_str(r->h, at, "hist_kind", &kind));
    s->hist_abs = strcmp(kind, "abs") == 0;
    free(kind);
    return SWIN_OK;
}

/* Scale and codes are stored for other readers; here they must be what the range gives. */
static swin_status check_quant(const reader *r, const char *at, swin_site_record *s)
{
    swin_quant q = { 0 };
    SWIN_TRY(read_quant(r, at, &q));
    if (!(q.scale > 0))
        return swin_fail(SWIN_ERR_VALUE, "%s: %s: scale %g cannot be used", r->path, at, (double)q.scale);
    const swin_status st = swin_quant_derive(&s->q, r->f->mode, s->site, s->amax, s->min, s->max);
    if (st != SWIN_OK) return swin_fail_context(st, "%s", r->path);
    if (fabsf(q.scale - s->q.scale) <= 1e-6f * s->q.scale && q.zero_point == s->q.zero_point &&
        q.qmin == s->q.qmin && q.qmax == s->q.qmax)
        return SWIN_OK;
    return swin_fail(SWIN_ERR_VALUE,
                     "%s: %s: scale %g, zero point %d, codes [%d, %d] do not follow from its range %g",
                     r->path, at, (double)q.scale, q.zero_point, q.qmin, q.qmax, (double)s->amax);
}

static swin_status read_enabled(const reader *r, const char *at, swin_site_record *s)
{
    int64_t enabled;
    SWIN_TRY(get_int(r, at, "enabled", 0, 1, &enabled));
    s->enabled = enabled == 1;
    if (s->enabled && swin_site_role_of(s->site) == SWIN_ROLE_OFF)
        return swin_fail(SWIN_ERR_VALUE, "%s: %s is enabled, but no int8 mode quantizes it", r->path, at);
    return SWIN_OK;
}

static swin_status read_site(const reader *r, swin_site_record *s)
{
    char name[SWIN_SITE_NAME_MAX], at[SWIN_SITE_NAME_MAX + 16];
    swin_site_name(s->site, name);
    snprintf(at, sizeof at, "/sites/%s", name);
    if (!swin_h5_exists(r->h, at))
        return swin_fail(SWIN_ERR_MISMATCH, "%s: the site %s is missing", r->path, name);
    SWIN_TRY(get_f32(r, at, "amax", &s->amax));
    SWIN_TRY(get_f32(r, at, "min", &s->min));
    SWIN_TRY(get_f32(r, at, "max", &s->max));
    SWIN_TRY(read_counts(r, at, s));
    if (s->nonfinite > 0)
        return swin_fail(SWIN_ERR_VALUE, "%s: %s saw %llu NaN or infinite values", r->path, name,
                         (unsigned long long)s->nonfinite);
    SWIN_TRY(check_quant(r, at, s));
    SWIN_TRY(read_enabled(r, at, s));
    return read_hist(r, at, s);
}

static swin_status read_weight(const reader *r, swin_weight_record *w)
{
    char name[SWIN_SITE_NAME_MAX], at[SWIN_SITE_NAME_MAX + 16], set[SWIN_SITE_NAME_MAX + 32];
    int ndim;
    int64_t dims[8];
    swin_site_module(w->site, name);
    snprintf(at, sizeof at, "/weights/%s", name);
    snprintf(set, sizeof set, "%s/amax_channel", at);
    if (!swin_h5_exists(r->h, at))
        return swin_fail(SWIN_ERR_MISMATCH, "%s: the weight ranges of %s are missing", r->path, name);
    SWIN_TRY(get_f32(r, at, "amax", &w->amax));
    SWIN_TRY(swin_h5_shape(r->h, set, &ndim, dims));
    if (ndim != 1 || dims[0] != w->channels)
        return swin_fail(SWIN_ERR_FORMAT, "%s: %s has not the %d output channels of this model", r->path, set,
                         w->channels);
    void *data;
    size_t count;
    SWIN_TRY(swin_h5_read(r->h, set, SWIN_F32, &data, &count));
    free(w->amax_channel);
    w->amax_channel = data;
    if (!(w->amax > 0))
        return swin_fail(SWIN_ERR_VALUE, "%s: %s: range %g cannot be used", r->path, at, (double)w->amax);
    for (int i = 0; i < w->channels; i++)
        if (!isfinite(w->amax_channel[i]) || w->amax_channel[i] < 0)
            return swin_fail(SWIN_ERR_VALUE, "%s: %s: range %g of channel %d cannot be used", r->path, at,
                             (double)w->amax_channel[i], i);
    return SWIN_OK;
}

/* [channels] positive numbers of a site, into new memory. */
static swin_status read_channels(float **out, const reader *r, const char *set, int channels)
{
    void *data;
    size_t count;
    SWIN_TRY(swin_h5_read(r->h, set, SWIN_F32, &data, &count));
    const float *v = data;
    bool ok = count == (size_t)channels;
    for (size_t k = 0; ok && k < count; k++) ok = isnormal(v[k]) && v[k] > 0 && isnormal(1.0f / v[k]);
    if (!ok) {
        free(data);
        return swin_fail(SWIN_ERR_VALUE, "%s: %s must hold %d positive numbers", r->path, set, channels);
    }
    *out = data;
    return SWIN_OK;
}

/* Only fc2's input can have factors: the GELU before it applies them. */
static swin_status read_factor(void *user, const char *name)
{
    const reader *r = user;
    const swin_site site = swin_site_find(&r->f->config, name);
    const int i = site == SWIN_NO_SITE ? -1 : swin_site_index(&r->f->config, site);
    if (i < 0 || swin_site_role_of(site) != SWIN_ROLE_GELU || r->f->mode != SWIN_INT8_MODE_3)
        return swin_fail(SWIN_ERR_UNSUPPORTED, "%s: factors for %.200s are unknown to this version", r->path,
                         name);
    char set[SWIN_SITE_NAME_MAX + 32];
    swin_site_record *s = &r->f->sites[i];
    s->channels = swin_config_stage(&r->f->config, swin_site_stage(site)).hidden;
    snprintf(set, sizeof set, FACTORS "/%s", name);
    return read_channels(&s->factor, r, set, s->channels);
}

/* Only what mode 1 rounds and mode 2 does not can have a scale for each channel. */
static swin_status read_output(void *user, const char *name)
{
    const reader *r = user;
    const swin_site site = swin_site_find(&r->f->config, name);
    const int i = site == SWIN_NO_SITE ? -1 : swin_site_index(&r->f->config, site);
    if (i < 0 || swin_site_role_of(site) != SWIN_ROLE_AFTERGEMM_WIDE || r->f->mode != SWIN_INT8_MODE_1)
        return swin_fail(SWIN_ERR_UNSUPPORTED,
                         "%s: scales for each channel of %.200s are unknown to this version", r->path, name);
    char set[SWIN_SITE_NAME_MAX + 32];
    swin_site_record *s = &r->f->sites[i];
    swin_linear_weight l;
    SWIN_TRY(swin_linear_shape_of(&l, &r->f->config, site - 1)); /* follows its weight in the list of kinds */
    s->channels = l.out;
    snprintf(set, sizeof set, OUTPUTS "/%s", name);
    return read_channels(&s->channel_scale, r, set, s->channels);
}

/* One scale for a head becomes one for each of its channels. */
static swin_status read_heads(void *user, const char *name)
{
    const reader *r = user;
    const swin_site site = swin_site_find(&r->f->config, name);
    const int i = site == SWIN_NO_SITE ? -1 : swin_site_index(&r->f->config, site);
    if (i < 0 || !swin_calib_file_has_heads(r->f, site))
        return swin_fail(SWIN_ERR_UNSUPPORTED,
                         "%s: scales for single heads of %.200s are unknown to this version", r->path, name);
    char set[SWIN_SITE_NAME_MAX + 32];
    swin_site_record *s = &r->f->sites[i];
    const swin_stage g = swin_config_stage(&r->f->config, swin_site_stage(site));
    float *head = NULL;
    snprintf(set, sizeof set, HEADS "/%s", name);
    SWIN_TRY(read_channels(&head, r, set, g.heads));
    s->channels = g.channels;
    s->channel_scale = malloc((size_t)g.channels * sizeof *s->channel_scale);
    for (int c = 0; s->channel_scale && c < g.channels; c++) s->channel_scale[c] = head[c / g.head_size];
    free(head);
    return s->channel_scale ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "no memory for %d scales", g.channels);
}

/* A group that the model does not know means that file and model text do not belong together. */
static swin_status known_site(void *user, const char *name)
{
    const reader *r = user;
    const swin_site site = swin_site_find(&r->f->config, name);
    if (site != SWIN_NO_SITE && swin_site_index(&r->f->config, site) >= 0) return SWIN_OK;
    return swin_fail(SWIN_ERR_MISMATCH, "%s: the model has no site %.200s", r->path, name);
}

static swin_status read_all(const reader *r)
{
    SWIN_TRY(check_schema(r));
    SWIN_TRY(read_model(r));
    SWIN_TRY(read_root(r));
    for (int i = 0; i < r->f->nsites; i++) SWIN_TRY(read_site(r, &r->f->sites[i]));
    for (int i = 0; i < r->f->nweights; i++) SWIN_TRY(read_weight(r, &r->f->weights[i]));
    SWIN_TRY(swin_h5_each(r->h, "/sites", known_site, (void *)r));
    SWIN_TRY(swin_corrections_read_steps(&r->f->corrections, r->h, r->path));
    SWIN_TRY(swin_relaxation_read(&r->f->relaxation, r->h, r->path));
    if (swin_h5_exists(r->h, FACTORS)) SWIN_TRY(swin_h5_each(r->h, FACTORS, read_factor, (void *)r));
    if (swin_h5_exists(r->h, OUTPUTS)) SWIN_TRY(swin_h5_each(r->h, OUTPUTS, read_output, (void *)r));
    return swin_h5_exists(r->h, HEADS) ? swin_h5_each(r->h, HEADS, read_heads, (void *)r) : SWIN_OK;
}

swin_status swin_calib_file_read(swin_calib_file *f, const char *path, bool with_histograms)
{
    *f = (swin_calib_file){ 0 };
    reader r = { .path = path, .f = f, .histograms = with_histograms };
    SWIN_TRY(swin_h5_open(&r.h, path));
    const swin_status st = read_all(&r);
    swin_h5_close(r.h);
    if (st != SWIN_OK) swin_calib_file_free(f);
    return st;
}
