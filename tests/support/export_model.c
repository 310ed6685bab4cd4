#include "tests/support/export_model.h"

#include <math.h>

#include "quant/linear_weight.h"
#include "runtime/base/file.h"
#include "tests/support/testing.h"
#include "tests/support/tiny.h"

static void fill_sites(swin_calib_file *f)
{
    swin_rng r = { 7 };
    for (int i = 0; i < f->nsites; i++) {
        swin_site_record *s = &f->sites[i];
        s->amax = (float)(0.5 + 2 * swin_rng_uniform(&r));
        s->min = -0.17f * s->amax;
        s->max = 1.25f * s->amax;
        s->count = 1000;
    }
}

static void fill_weights(swin_calib_file *f, const swin_weights *w)
{
    for (int i = 0; i < f->nweights; i++) {
        swin_weight_record *r = &f->weights[i];
        swin_linear_weight l;
        CHECK_OK(swin_linear_weight_of(&l, &f->config, w, r->site));
        for (int o = 0; o < l.out; o++)
            for (int k = 0; k < l.in; k++)
                r->amax_channel[o] =
                    fmaxf(r->amax_channel[o], fabsf(l.data[(size_t)o * (size_t)l.in + (size_t)k]));
        r->amax_channel[3] = 0; /* a dead channel is no fault */
        for (int o = 0; o < l.out; o++) r->amax = fmaxf(r->amax, r->amax_channel[o]);
    }
}

static void make(export_model *m, swin_family family, swin_int8_mode mode)
{
    memset(m, 0, sizeof *m);
    m->config = swin_tiny_config();
    m->config.family = family;
    CHECK_OK(swin_tiny_weights_of(&m->weights, &m->config, 11));
    CHECK_OK(swin_calib_file_init(&m->calib, &m->config));
    m->calib.calibrator = strdup("percentile");
    memset(m->calib.checkpoint_sha256, 'a', 64);
    memset(m->calib.image_list_sha256, 'b', 64);
    m->calib.images = 8;
    fill_sites(&m->calib);
    fill_weights(&m->calib, &m->weights);
    CHECK_OK(swin_calib_file_derive(&m->calib, mode));
    m->folder = swin_scratch_make("export");
    m->job = (swin_export_job){
        .calib = &m->calib, .config = &m->config, .weights = &m->weights, .trt_version = 8501
    };
}

void export_model_make(export_model *m, swin_int8_mode mode)
{
    make(m, SWIN_V1, mode);
}

void export_model_make_v2(export_model *m, swin_int8_mode mode)
{
    make(m, SWIN_V2, mode);
}

void export_model_free(export_model *m)
{
    swin_calib_file_free(&m->calib);
    swin_weights_free(&m->weights);
    swin_scratch_remove(m->folder);
}

const char *export_model_path(const export_model *m, const char *name)
{
    static char paths[4][4096];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", m->folder, name);
    return path;
}

swin_status export_model_run(export_model *m, const char *format, const char *name)
{
    const swin_export_format *f = swin_export_find(format);
    CHECK(f != NULL, "no format %s", format);
    m->job.output = export_model_path(m, name);
    return swin_export_run(f, &m->job);
}

unsigned char *export_model_read(const export_model *m, const char *name, size_t *size)
{
    unsigned char *data = NULL;
    CHECK_OK(swin_read_file(export_model_path(m, name), &data, size));
    return data;
}

swin_site_record *export_model_site(export_model *m, const char *name)
{
    const swin_site s = swin_site_find(&m->config, name);
    CHECK(s != SWIN_NO_SITE, "no site %s", name);
    return &m->calib.sites[swin_site_index(&m->config, s)];
}
