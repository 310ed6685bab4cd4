#include "quant/export.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quant/linear_weight.h"
#include "runtime/base/file.h"

extern const swin_export_format swin_export_onnx_float, swin_export_onnx_fp16, swin_export_onnx_qdq;
extern const swin_export_format swin_export_ft_scales, swin_export_ft_weights;
extern const swin_export_format swin_export_tensorrt_cache, swin_export_onnxruntime, swin_export_openvino_fq;
extern const swin_export_format swin_export_pytorch, swin_export_csv, swin_export_json;

static const swin_export_format *const formats[] = {
    &swin_export_onnx_qdq,       /* a network with its integers */
    &swin_export_onnx_float,     /* the same network without */
    &swin_export_onnx_fp16,      /* and in halves */
    &swin_export_ft_scales,      /* scale tables of engines that have the network themselves */
    &swin_export_ft_weights,     /* and its weights beside them */
    &swin_export_tensorrt_cache, /* one scale for a tensor name */
    &swin_export_onnxruntime,    /* one range for a tensor name */
    &swin_export_openvino_fq,    /* limits and levels */
    &swin_export_pytorch,        /* amax under the toolkit's keys */
    &swin_export_csv,            /* for people */
    &swin_export_json,           /* for scripts */
    NULL,
};

const swin_export_format *const *swin_export_formats(void)
{
    return formats;
}

const swin_export_format *swin_export_find(const char *name)
{
    for (const swin_export_format *const *f = formats; *f; f++)
        if (strcmp((*f)->name, name) == 0) return *f;
    return NULL;
}

/* ---- what a format may rely on ----------------------------------------------------------------------------------- */

static bool usable(float v)
{
    return isfinite(v) && v > 0;
}

static swin_status check_site(const swin_export_format *format, const swin_calib_file *f,
                              const swin_site_record *r)
{
    char name[SWIN_SITE_NAME_MAX];
    swin_site_name(r->site, name);
    if (!usable(r->amax))
        return swin_fail(SWIN_ERR_VALUE, "%s: amax is %g: nothing to export", name, (double)r->amax);
    if (!usable(r->q.scale))
        return swin_fail(SWIN_ERR_VALUE, "%s: scale is %g: nothing to export", name, (double)r->q.scale);
    if (!isfinite(r->min) || !isfinite(r->max))
        return swin_fail(SWIN_ERR_VALUE, "%s: its range [%g, %g] is not finite", name, (double)r->min,
                         (double)r->max);
    if (r->q.qmin >= r->q.qmax || r->q.zero_point < r->q.qmin || r->q.zero_point > r->q.qmax ||
        r->q.qmin < -128 || r->q.qmax > (r->q.qmin < 0 ? 127 : 255))
        return swin_fail(SWIN_ERR_VALUE, "%s: codes [%d, %d] with zero point %d are no 8-bit codes", name,
                         r->q.qmin, r->q.qmax, r->q.zero_point);
    const bool symmetric = r->q.zero_point == 0 && r->q.qmin == -127 && r->q.qmax == 127;
    if ((format->flags & SWIN_EXPORT_SYMMETRIC) && r->enabled && !symmetric)
        return swin_fail(
            SWIN_ERR_UNSUPPORTED,
            "%s: %s takes symmetric int8 only, and this site has codes [%d, %d] with zero point %d "
            "(int8-mode %d): calibrate with --int8-mode 1 or 2",
            name, format->name, r->q.qmin, r->q.qmax, r->q.zero_point, (int)f->mode);
    if ((format->flags & SWIN_EXPORT_WHOLE_MODE) &&
        r->enabled != swin_mode_enabled(f->mode, f->config.family, r->site))
        return swin_fail(SWIN_ERR_UNSUPPORTED,
                         "%s: %s follows int8-mode %d, which has this site %s; the file has it %s", name,
                         format->name, (int)f->mode, r->enabled ? "off" : "on", r->enabled ? "on" : "off");
    return SWIN_OK;
}

/* A dead output channel (amax 0) is no error: its codes are 0. A dead or broken layer is. */
static swin_status check_weight(const swin_weight_record *w)
{
    char name[SWIN_SITE_NAME_MAX];
    swin_site_module(w->site, name);
    if (!usable(w->amax)) return swin_fail(SWIN_ERR_VALUE, "%s: weight amax is %g", name, (double)w->amax);
    if (w->channels <= 0 || !w->amax_channel)
        return swin_fail(SWIN_ERR_VALUE, "%s: no weight amax per channel", name);
    for (int i = 0; i < w->channels; i++)
        if (!isfinite(w->amax_channel[i]) || w->amax_channel[i] < 0)
            return swin_fail(SWIN_ERR_VALUE, "%s: weight amax of channel %d is %g", name, i,
                             (double)w->amax_channel[i]);
    return SWIN_OK;
}

static swin_status check_calib(const swin_export_format *format, const swin_calib_file *f)
{
    char name[SWIN_SITE_NAME_MAX];
    if ((format->flags & SWIN_EXPORT_FT) && f->config.family == SWIN_V2 && f->mode == SWIN_INT8_MODE_2)
        return swin_fail(SWIN_ERR_UNSUPPORTED,
                         "%s: FasterTransformer's Swin V2 quantizes every GEMM output, also of mlp.fc2 and "
                         "downsample.reduction: calibrate with --int8-mode 1, not 2",
                         format->name);
    for (int i = 0; i < swin_site_count(&f->config); i++) {
        const swin_site s = swin_site_at(&f->config, i);
        const swin_site_record *r = swin_calib_file_site(f, s);
        swin_site_name(s, name);
        if (!r) return swin_fail(SWIN_ERR_VALUE, "%s: the calibration file has no scale for it", name);
        SWIN_TRY(check_site(format, f, r));
        if (swin_site_role_of(s) != SWIN_ROLE_WEIGHT) continue;
        const swin_weight_record *w = swin_calib_file_weight(f, s);
        if (!w)
            return swin_fail(SWIN_ERR_VALUE, "%s: the calibration file has no weight scales for it", name);
        SWIN_TRY(check_weight(w));
        swin_linear_weight shape;
        SWIN_TRY(swin_linear_shape_of(&shape, &f->config, s));
        if (w->channels != shape.out)
            return swin_fail(SWIN_ERR_MISMATCH, "%s: %d channel scales for %d output channels", name,
                             w->channels, shape.out);
    }
    return SWIN_OK;
}

/* Other people's tensor names: every enabled site must be named or left out on purpose. */
static swin_status check_names(const swin_export_job *job)
{
    char name[SWIN_SITE_NAME_MAX], first[SWIN_SITE_NAME_MAX] = "";
    int missing = 0;
    for (int i = 0; i < job->calib->nsites; i++) {
        const swin_site_record *r = &job->calib->sites[i];
        size_t count;
        if (!r->enabled || swin_site_role_of(r->site) == SWIN_ROLE_WEIGHT) continue;
        swin_name_map_find(job->names, r->site, &count);
        if (count > 0) continue;
        swin_site_name(r->site, name);
        if (missing++ == 0) memcpy(first, name, sizeof first);
    }
    if (missing == 0) return SWIN_OK;
    return swin_fail(SWIN_ERR_MISMATCH,
                     "%s: no tensor for %d enabled sites, %s the first (\"-\" leaves one out)",
                     job->names->path, missing, first);
}

/* The first site whose values are divided by factors; NULL: none. */
static const swin_site_record *first_factored(const swin_calib_file *f)
{
    for (int i = 0; f && i < f->nsites; i++)
        if (f->sites[i].factor) return &f->sites[i];
    return NULL;
}

/* Weights that expect inputs divided by factors are of no use to an engine that does not divide. */
static swin_status refuse_factors(const char *what, const swin_site_record *r)
{
    char name[SWIN_SITE_NAME_MAX];
    swin_site_name(r->site, name);
    return swin_fail(
        SWIN_ERR_UNSUPPORTED,
        "%s cannot say what each channel of %s is divided by, which recovery chose for int8-mode 3: "
        "take an ONNX format or json, or calibrate with --recover ranges,bias (or none)",
        what, name);
}

static swin_status check_factor(const swin_calib_file *f, const swin_site_record *r)
{
    char name[SWIN_SITE_NAME_MAX];
    swin_site_name(r->site, name);
    if (swin_site_role_of(r->site) != SWIN_ROLE_GELU)
        return swin_fail(SWIN_ERR_UNSUPPORTED, "%s: no export divides the channels of this site", name);
    const int hidden = swin_config_stage(&f->config, swin_site_stage(r->site)).hidden;
    if (r->channels != hidden)
        return swin_fail(SWIN_ERR_MISMATCH, "%s: %d factors for %d channels", name, r->channels, hidden);
    for (int k = 0; k < hidden; k++)
        if (!usable(r->factor[k]) || !isnormal(1.0f / r->factor[k]))
            return swin_fail(SWIN_ERR_VALUE, "%s: channel %d cannot be divided by %g", name, k,
                             (double)r->factor[k]);
    return SWIN_OK;
}

static swin_status check_factors(const swin_export_format *format, const swin_calib_file *f)
{
    const swin_site_record *first = first_factored(f);
    if (!first) return SWIN_OK;
    if (!(format->flags & SWIN_EXPORT_FACTORS)) return refuse_factors(format->name, first);
    for (int i = 0; i < f->nsites; i++)
        if (f->sites[i].factor) SWIN_TRY(check_factor(f, &f->sites[i]));
    return SWIN_OK;
}

static swin_status refuse_channel_scale(const swin_export_format *format, const char *site, bool heads)
{
    return swin_fail(SWIN_ERR_UNSUPPORTED,
                     "%s has one scale for a tensor, and recovery chose one for each %s of %s: take "
                     "onnx-qdq, json or csv, or calibrate with --recover fast (or best's methods without %s)",
                     format->name, heads ? "head" : "channel", site, heads ? "heads" : "outputs");
}

/* How many channels such a site has, all channels of a head with one scale. */
static swin_status scaled_channels(int *channels, int *together, const swin_calib_file *f,
                                   const swin_site_record *r, bool heads)
{
    if (heads) {
        const swin_stage s = swin_config_stage(&f->config, swin_site_stage(r->site));
        *channels = s.channels, *together = s.head_size;
        return SWIN_OK;
    }
    swin_linear_weight l;
    SWIN_TRY(swin_linear_shape_of(&l, &f->config, r->site - 1));
    *channels = l.out, *together = 1;
    return SWIN_OK;
}

static swin_status check_channel_scale(const swin_export_format *format, const swin_calib_file *f,
                                       const swin_site_record *r)
{
    char name[SWIN_SITE_NAME_MAX];
    int channels, together;
    const bool heads = swin_calib_file_has_heads(f, r->site);
    swin_site_name(r->site, name);
    if (swin_site_role_of(r->site) != SWIN_ROLE_AFTERGEMM_WIDE && !heads)
        return swin_fail(SWIN_ERR_UNSUPPORTED, "%s: no export has a scale for each channel of this site",
                         name);
    if (!(format->flags & SWIN_EXPORT_CHANNELS)) return refuse_channel_scale(format, name, heads);
    SWIN_TRY(scaled_channels(&channels, &together, f, r, heads));
    if (r->channels != channels)
        return swin_fail(SWIN_ERR_MISMATCH, "%s: %d scales for %d channels", name, r->channels, channels);
    for (int k = 0; k < channels; k++)
        if (!usable(r->channel_scale[k]) || !isnormal(r->channel_scale[k]) ||
            r->channel_scale[k] != r->channel_scale[k - k % together])
            return swin_fail(SWIN_ERR_VALUE, "%s: the scale of channel %d is %g", name, k,
                             (double)r->channel_scale[k]);
    return SWIN_OK;
}

static swin_status check_channel_scales(const swin_export_format *format, const swin_calib_file *f)
{
    for (int i = 0; f && i < f->nsites; i++)
        if (f->sites[i].channel_scale && f->sites[i].enabled)
            SWIN_TRY(check_channel_scale(format, f, &f->sites[i]));
    return SWIN_OK;
}

swin_status swin_export_check_weights(const swin_export_job *job)
{
    const swin_site_record *first = first_factored(job->calib);
    return first ? refuse_factors("--weights-out without --format", first) : SWIN_OK;
}

/* What the caller forgot to give. */
static swin_status check_inputs(const swin_export_format *format, const swin_export_job *job)
{
    if ((format->flags & SWIN_EXPORT_CALIB) && !job->calib)
        return swin_fail(SWIN_ERR_USAGE, "--calib is needed for --format %s", format->name);
    if ((format->flags & SWIN_EXPORT_WEIGHTS) && !job->weights)
        return swin_fail(SWIN_ERR_USAGE, "--resume is needed for --format %s", format->name);
    if (job->names && !(format->flags & SWIN_EXPORT_NAMES))
        return swin_fail(SWIN_ERR_USAGE, "--name-map: %s names no tensors", format->name);
    return SWIN_OK;
}

/* What another calibration alone can mend is said before what a flag can. */
swin_status swin_export_check(const swin_export_format *format, const swin_export_job *job)
{
    SWIN_TRY(check_inputs(format, job));
    if (format->flags & SWIN_EXPORT_CALIB) SWIN_TRY(check_calib(format, job->calib));
    SWIN_TRY(check_factors(format, job->calib));
    SWIN_TRY(check_channel_scales(format, job->calib));
    if (job->corrected && !(format->flags & SWIN_EXPORT_WEIGHTS) && !job->weights_out)
        return swin_fail(
            SWIN_ERR_UNSUPPORTED,
            "%s holds scales only, and the calibration file changes weights: give --weights-out FILE (with "
            "--resume) and deploy that checkpoint with it",
            format->name);
    return job->names ? check_names(job) : SWIN_OK;
}

swin_status swin_export_run(const swin_export_format *format, const swin_export_job *job)
{
    SWIN_TRY(swin_export_check(format, job));
    return format->write(job);
}

/* ---- for the writers --------------------------------------------------------------------------------------------- */

swin_status swin_export_each(const swin_export_job *job, swin_export_tensor fn, void *user)
{
    char name[SWIN_SITE_NAME_MAX];
    for (int i = 0; i < job->calib->nsites; i++) {
        const swin_site_record *r = &job->calib->sites[i];
        if (!r->enabled || swin_site_role_of(r->site) == SWIN_ROLE_WEIGHT) continue;
        size_t count = 0;
        const swin_name_pair *pairs = job->names ? swin_name_map_find(job->names, r->site, &count) : NULL;
        for (size_t k = 0; k < count; k++)
            if (strcmp(pairs[k].tensor, "-") != 0) SWIN_TRY(fn(user, r, pairs[k].tensor));
        if (job->names) continue;
        swin_site_name(r->site, name);
        SWIN_TRY(fn(user, r, name));
    }
    return SWIN_OK;
}

swin_status swin_export_text(const char *path, swin_status (*fill)(FILE *out, const swin_export_job *job),
                             const swin_export_job *job)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out) return swin_fail(SWIN_ERR_MEM, "%s: no memory to write it", path);
    swin_status st = fill(out, job);
    if (fclose(out) != 0 && st == SWIN_OK) st = swin_fail(SWIN_ERR_MEM, "%s: no memory to write it", path);
    if (st == SWIN_OK) st = swin_write_file(path, text, size);
    free(text);
    return st;
}
