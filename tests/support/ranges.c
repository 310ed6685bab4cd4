#include "tests/support/ranges.h"

#include <math.h>
#include <stdlib.h>

#include "calib/stats.h"
#include "quant/linear_weight.h"

static swin_status read_sites(swin_calib_file *f, swin_stats *s)
{
    for (int i = 0; i < f->nsites; i++) {
        swin_site_record *r = &f->sites[i];
        swin_site_stats seen;
        SWIN_TRY(swin_stats_read(s, i, &seen));
        r->min = seen.min, r->max = seen.max, r->count = seen.count;
        r->amax = fmaxf(-seen.min, seen.max);
        free(seen.hist);
    }
    return SWIN_OK;
}

static swin_status read_weights(swin_calib_file *f, const swin_config *c, const swin_weights *w)
{
    for (int i = 0; i < f->nweights; i++) {
        swin_weight_record *r = &f->weights[i];
        swin_linear_weight l;
        SWIN_TRY(swin_linear_weight_of(&l, c, w, r->site));
        for (int64_t k = 0; k < (int64_t)l.out * l.in; k++) {
            float *row = &r->amax_channel[k / l.in];
            *row = fmaxf(*row, fabsf(l.data[k]));
            r->amax = fmaxf(r->amax, *row);
        }
    }
    return SWIN_OK;
}

swin_status swin_ranges_of(swin_calib_file *f, swin_dev *dev, const swin_config *c, const swin_weights *w,
                           const float *images, int count, swin_int8_mode mode)
{
    swin_net *net = NULL;
    swin_stats *stats = NULL;
    float *logits = malloc((size_t)count * (size_t)c->num_classes * sizeof *logits);
    swin_status st = logits ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "no memory for logits");
    *f = (swin_calib_file){ 0 };
    SWIN_TRY_GOTO(st, st, done);
    SWIN_TRY_GOTO(st, swin_calib_file_init(f, c), done);
    SWIN_TRY_GOTO(st, swin_net_create(&net, dev, c, w, &(swin_net_opts){ .dtype = SWIN_F32 }), done);
    SWIN_TRY_GOTO(st, swin_stats_create(&stats, dev, c, SWIN_HIST_EXACT), done);
    const swin_tap tap = swin_stats_tap(stats);
    SWIN_TRY_GOTO(st, swin_net_forward(net, images, count, logits, &tap), done);
    SWIN_TRY_GOTO(st, swin_stats_weights(stats, w), done);
    SWIN_TRY_GOTO(st, read_sites(f, stats), done);
    SWIN_TRY_GOTO(st, read_weights(f, c, w), done);
    st = swin_calib_file_derive(f, mode);
done:
    swin_stats_free(stats);
    swin_net_free(net);
    free(logits);
    if (st != SWIN_OK) swin_calib_file_free(f);
    return st;
}
