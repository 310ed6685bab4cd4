/* Output scales: what fc2 and the merges hand to the residual stream has channels of very different size, above all in large
 * models. Int8-mode 1 rounds these products before their bias, mode 2 does not for that reason. Our engines can round each
 * channel with a scale of its own, which costs nothing; engines with one scale for a tensor cannot, and their exports refuse
 * such a file. */
#include <stdio.h>
#include <stdlib.h>

#include "calib/recover_impl.h"
#include "runtime/swin/outputs.h"

enum { ROWS = 4096 };

/* The range that suits each channel by itself; a dead one keeps the tensor's scale. */
static swin_status scale_channels(swin_recover *r, swin_site_record *s, const recover_samples *x)
{
    float *scale = malloc((size_t)x->cols * sizeof *scale);
    if (!scale) return swin_fail(SWIN_ERR_MEM, "--recover: no memory for %d channels", x->cols);
    const swin_status st = recover_column_ranges(r, scale, x->x, x->rows, x->cols, x->cols, x->lo, x->hi);
    for (int k = 0; st == SWIN_OK && k < x->cols; k++) {
        scale[k] /= 127.0f;
        if (!(scale[k] > 1e-6f * s->q.scale)) scale[k] = s->q.scale;
    }
    if (st != SWIN_OK) {
        free(scale);
        return st;
    }
    free(s->channel_scale);
    s->channel_scale = scale;
    s->channels = x->cols;
    return SWIN_OK;
}

static swin_status part_outputs(recover_walk *k, int *count)
{
    swin_recover *r = k->r;
    const swin_site out = swin_output_at(r->config, k->part);
    const bool merge = swin_site_kind_of(out) == SWIN_SITE_MERGE_OUT;
    const swin_site site = swin_site_make(swin_site_stage(out), swin_site_block(out),
                                          merge ? SWIN_SITE_REDUCTION_AFTERGEMM : SWIN_SITE_FC2_AFTERGEMM);
    swin_site_record *s = &r->f->sites[swin_site_index(r->config, site)];
    if (!s->enabled) return recover_walk_part(k, NULL, true);
    swin_linear_weight l;
    recover_samples x;
    SWIN_TRY(swin_linear_shape_of(&l, r->config, site - 1));
    swin_status st = recover_samples_init(&x, r, site, l.out, ROWS, 6);
    recover_gather g = { .r = r, .samples = &x, .count = 1 };
    const swin_tap tap = recover_gather_tap(&g);
    if (st == SWIN_OK) st = recover_walk_part(k, &tap, true);
    if (st == SWIN_OK) st = scale_channels(r, s, &x);
    *count += st == SWIN_OK;
    recover_samples_free(&x);
    return st;
}

static swin_status outputs(swin_recover *r, char *changed, size_t size)
{
    const int parts = swin_output_count(r->config);
    int count = 0;
    swin_net *net = NULL;
    recover_walk k = { 0 };
    if (!r->dev->ops->after_channels) {
        snprintf(changed, size, "the %s backend rounds with one scale for a tensor", r->dev->ops->name);
        return SWIN_OK;
    }
    SWIN_TRY(recover_net(r, &net));
    swin_status st = recover_walk_begin(&k, r, net, NULL);
    while (st == SWIN_OK && k.part < parts - 1) st = part_outputs(&k, &count);
    snprintf(changed, size, "%d products with a scale for each channel: not for per-tensor engines", count);
    recover_walk_end(&k);
    return st;
}

/* Not guarded: no channel's error grows, and a dozen images judge by chance. */
const swin_recover_method swin_recover_outputs = {
    .name = "outputs",
    .help =
        "fc2's and merging's products rounded with a scale for each channel (int8-mode 1, our engines alone)",
    .levels = SWIN_RECOVER_BEST,
    .mode = SWIN_INT8_MODE_1,
    .when = SWIN_RECOVER_AFTER,
    .run = outputs,
};
