#include <stdlib.h>
#include <string.h>

#include "quant/calib_file.h"
#include "runtime/base/h5.h"

typedef struct place {
    char at[SWIN_SITE_NAME_MAX + 16];  /* the group */
    char set[SWIN_SITE_NAME_MAX + 32]; /* its dataset */
} place;

static swin_status write_root(swin_h5 *h, const swin_calib_file *f)
{
    char *model = swin_config_text(&f->config);
    if (!model) return swin_fail(SWIN_ERR_MEM, "no memory for the model's text");
    swin_status st = swin_h5_set_str(h, "/", "model", model);
    free(model);
    SWIN_TRY(st);
    SWIN_TRY(swin_h5_set_i64(h, "/", "schema", SWIN_CALIB_SCHEMA));
    const struct {
        const char *name, *text;
    } texts[] = {
        { "tool", f->tool },
        { "engine", f->engine },
        { "calibrator", f->calibrator },
        { "histogram", f->histogram },
        { "recover", f->recover },
        { "preprocess", f->preprocess },
        { "checkpoint_sha256", f->checkpoint_sha256 },
        { "image_list_sha256", f->image_list_sha256 },
    };
    for (size_t i = 0; i < SWIN_COUNT(texts); i++)
        SWIN_TRY(swin_h5_set_str(h, "/", texts[i].name, texts[i].text ? texts[i].text : ""));
    SWIN_TRY(swin_h5_set_f64(h, "/", "percentile", f->percentile));
    SWIN_TRY(swin_h5_set_i64(h, "/", "int8_mode", f->mode));
    return swin_h5_set_i64(h, "/", "images", (int64_t)f->images);
}

static swin_status write_numbers(swin_h5 *h, const char *at, const swin_site_record *r)
{
    SWIN_TRY(swin_h5_set_f32(h, at, "amax", r->amax));
    SWIN_TRY(swin_h5_set_f32(h, at, "min", r->min));
    SWIN_TRY(swin_h5_set_f32(h, at, "max", r->max));
    SWIN_TRY(swin_h5_set_f32(h, at, "scale", r->q.scale));
    SWIN_TRY(swin_h5_set_i64(h, at, "zero_point", r->q.zero_point));
    SWIN_TRY(swin_h5_set_i64(h, at, "qmin", r->q.qmin));
    SWIN_TRY(swin_h5_set_i64(h, at, "qmax", r->q.qmax));
    SWIN_TRY(swin_h5_set_i64(h, at, "enabled", r->enabled));
    SWIN_TRY(swin_h5_set_i64(h, at, "count", (int64_t)r->count));
    SWIN_TRY(swin_h5_set_i64(h, at, "nonfinite", (int64_t)r->nonfinite));
    SWIN_TRY(swin_h5_set_f64(h, at, "bin_width", r->bin_width));
    SWIN_TRY(swin_h5_set_str(h, at, "hist_kind", r->hist_abs ? "abs" : "two-sided"));
    return swin_h5_set_str(h, at, "kind", swin_site_role_name(swin_site_role_of(r->site)));
}

static swin_status write_site(swin_h5 *h, const swin_site_record *r)
{
    char name[SWIN_SITE_NAME_MAX];
    place p;
    swin_site_name(r->site, name);
    snprintf(p.at, sizeof p.at, "/sites/%s", name);
    snprintf(p.set, sizeof p.set, "%s/hist", p.at);
    SWIN_TRY(write_numbers(h, p.at, r));
    if (!r->hist) return SWIN_OK;
    const int64_t bins = r->bins;
    return swin_h5_write(h, p.set, SWIN_S64, r->hist, 1, &bins, true);
}

static swin_status write_weight(swin_h5 *h, const swin_weight_record *r)
{
    char name[SWIN_SITE_NAME_MAX];
    place p;
    swin_site_module(r->site, name);
    snprintf(p.at, sizeof p.at, "/weights/%s", name);
    snprintf(p.set, sizeof p.set, "%s/amax_channel", p.at);
    SWIN_TRY(swin_h5_set_f32(h, p.at, "amax", r->amax));
    const int64_t channels = r->channels;
    return swin_h5_write(h, p.set, SWIN_F32, r->amax_channel, 1, &channels, false);
}

static swin_status write_vector(swin_h5 *h, const char *group, swin_site site, const float *v, int64_t n)
{
    char name[SWIN_SITE_NAME_MAX], set[SWIN_SITE_NAME_MAX + 32];
    swin_site_name(site, name);
    snprintf(set, sizeof set, "/corrections/%s/%s", group, name);
    return swin_h5_write(h, set, SWIN_F32, v, 1, &n, false);
}

/* One number for a head. */
static swin_status write_heads(swin_h5 *h, const swin_calib_file *f, const swin_site_record *r)
{
    const swin_stage s = swin_config_stage(&f->config, swin_site_stage(r->site));
    float *v = malloc((size_t)s.heads * sizeof *v);
    if (!v) return swin_fail(SWIN_ERR_MEM, "no memory for %d heads", s.heads);
    for (int i = 0; i < s.heads; i++) v[i] = r->channel_scale[i * s.head_size];
    const swin_status st = write_vector(h, "heads", r->site, v, s.heads);
    free(v);
    return st;
}

/* Factors belong to the weights and stay; heads' scales go with the codes, of which a site that is off has none. */
static swin_status write_channels(swin_h5 *h, const swin_calib_file *f, const swin_site_record *r)
{
    if (r->factor) return write_vector(h, "factors", r->site, r->factor, r->channels);
    if (!r->channel_scale) return SWIN_OK;
    if (!swin_calib_file_has_heads(f, r->site))
        return write_vector(h, "outputs", r->site, r->channel_scale, r->channels);
    return r->enabled ? write_heads(h, f, r) : SWIN_OK;
}

swin_status swin_calib_file_write(const swin_calib_file *f, const char *path)
{
    swin_h5 *h;
    SWIN_TRY(swin_h5_create(&h, path));
    swin_status st = write_root(h, f);
    for (int i = 0; st == SWIN_OK && i < f->nsites; i++) st = write_site(h, &f->sites[i]);
    for (int i = 0; st == SWIN_OK && i < f->nweights; i++) st = write_weight(h, &f->weights[i]);
    for (int i = 0; st == SWIN_OK && i < f->nsites; i++) st = write_channels(h, f, &f->sites[i]);
    if (st == SWIN_OK) st = swin_corrections_write(&f->corrections, h);
    if (st == SWIN_OK) st = swin_relaxation_write(&f->relaxation, h);
    if (st == SWIN_OK) st = swin_h5_commit(h);
    swin_h5_close(h);
    return st;
}
