#include "quant/sim.h"

#include <stdlib.h>
#include <string.h>

#include "quant/factor.h"
#include "quant/linear_weight.h"
#include "runtime/base/wide.h"
#include "runtime/swin/outputs.h"
#include "runtime/swin/weight_codes.h"

struct swin_sim {
    const swin_calib_file *f;
    swin_granularity granularity;
    swin_weights w; /* fake-quantized */
    swin_net *net;
    const swin_tap *also; /* of the forward that is running */
};

/* swin_weight_code's values, dequantized as PyTorch does: by a division. Rounds half to even as a sum that leaves no room for a
 * fraction; weights are finite. */
static SWIN_WIDE_BODY void round_row_body(float *restrict w, int n, float inverse, float low, float high)
{
    const float whole = 12582912.0f; /* 1.5 * 2^23 */
    for (int i = 0; i < n; i++) {
        float v = w[i] * inverse;
        v = v > low ? v : low;
        v = v < high ? v : high;
        w[i] = ((v + whole) - whole) / inverse;
    }
}
SWIN_WIDE(round_row, (float *w, int n, float inverse, float low, float high), (w, n, inverse, low, high))

static void fake_quant_row(float *w, int n, float amax)
{
    float scale, inverse;
    swin_weight_scale(&scale, &inverse, amax);
    if (inverse > 0)
        round_row(w, n, inverse, swin_opaque(-127.0f), swin_opaque(127.0f));
    else
        memset(w, 0, (size_t)n * sizeof *w);
}

static swin_status fake_quant_weight(swin_weights *w, const swin_calib_file *f, const swin_weight_record *r,
                                     swin_granularity granularity)
{
    const swin_site_record *site = swin_calib_file_site(f, r->site);
    if (!site || !site->enabled) return SWIN_OK;
    swin_linear_weight l;
    SWIN_TRY(swin_linear_weight_of(&l, &f->config, w, r->site));
    if (l.out != r->channels)
        return swin_fail(SWIN_ERR_MISMATCH, "%d output channels instead of %d", r->channels, l.out);
    for (int row = 0; row < l.out; row++)
        fake_quant_row(l.data + (size_t)row * (size_t)l.in, l.in,
                       granularity == SWIN_PER_CHANNEL ? r->amax_channel[row] : r->amax);
    return SWIN_OK;
}

/* The weights of one part, -1 for all. */
static swin_status fake_quant_weights(swin_sim *s, int part)
{
    for (int i = 0; i < s->f->nweights; i++) {
        const swin_weight_record *r = &s->f->weights[i];
        if (part < 0 || swin_output_part(&s->f->config, r->site) == part)
            SWIN_TRY(fake_quant_weight(&s->w, s->f, r, s->granularity));
    }
    return SWIN_OK;
}

/* Codes that the softmax itself makes, of exp(score - max): int8-mode 3's. */
static bool softmax_makes(const swin_site_record *r)
{
    return r->enabled && swin_site_role_of(r->site) == SWIN_ROLE_SOFTMAX && r->q.qmin == 0;
}

/* The softmax of one part's block, -1 for all. */
static swin_status choose_softmax(swin_sim *s, int part)
{
    for (int i = 0; i < s->f->nsites; i++) {
        const swin_site_record *r = &s->f->sites[i];
        if (swin_site_role_of(r->site) != SWIN_ROLE_SOFTMAX) continue;
        if (part >= 0 && swin_output_part(&s->f->config, r->site) != part) continue;
        SWIN_TRY(swin_net_set_softmax(s->net, swin_site_stage(r->site), swin_site_block(r->site),
                                      softmax_makes(r) ? SWIN_SOFTMAX_U8 : SWIN_SOFTMAX_EXACT));
    }
    return SWIN_OK;
}

swin_status swin_sim_create(swin_sim **out, swin_dev *dev, const swin_calib_file *f, const swin_weights *w,
                            swin_granularity granularity)
{
    *out = NULL;
    swin_sim *s = calloc(1, sizeof *s);
    if (!s) return swin_fail(SWIN_ERR_MEM, "no memory for int8-sim");
    s->f = f;
    s->granularity = granularity;
    swin_status st = swin_weights_clone(&s->w, w, &f->config);
    if (st == SWIN_OK) st = fake_quant_weights(s, -1);
    const swin_net_opts opts = { .dtype = SWIN_F32 };
    if (st == SWIN_OK) st = swin_net_create(&s->net, dev, &f->config, &s->w, &opts);
    if (st == SWIN_OK) st = choose_softmax(s, -1);
    if (st != SWIN_OK) {
        swin_sim_free(s);
        return st;
    }
    *out = s;
    return SWIN_OK;
}

void swin_sim_free(swin_sim *s)
{
    if (!s) return;
    swin_net_free(s->net);
    swin_weights_free(&s->w);
    free(s);
}

swin_status swin_sim_reload(swin_sim *s, int part, const swin_weights *w)
{
    size_t at, count;
    SWIN_TRY(swin_weights_part(w, &s->f->config, part, &at, &count));
    memcpy(s->w.block + at, w->block + at, count * sizeof *w->block);
    SWIN_TRY(fake_quant_weights(s, part));
    SWIN_TRY(choose_softmax(s, part));
    return swin_net_reload(s->net, part, &s->w);
}

/* s->w keeps the old ones: what is read of it later, a reload takes anew. */
swin_status swin_sim_reload_biases(swin_sim *s, int part, const swin_weights *w)
{
    return swin_net_reload_biases(s->net, part, w);
}

/* The record of an activation that is quantized here, NULL for none. */
static const swin_site_record *quantized(const swin_sim *s, swin_site site)
{
    if (swin_site_role_of(site) == SWIN_ROLE_WEIGHT) return NULL;
    const swin_site_record *r = swin_calib_file_site(s->f, site);
    return r && r->enabled && !softmax_makes(r) ? r : NULL;
}

static swin_status fake_quant(const swin_site_record *r, const swin_tap_point *p)
{
    const swin_quant *q = &r->q;
    if (r->channel_scale) return swin_fake_quant_channels(r, p);
    return p->dev->ops->fake_quant(p->dev, p->x, q->scale, q->zero_point, q->qmin, q->qmax);
}

static bool other_wants(const swin_sim *s, swin_site site)
{
    return s->also && (!s->also->wants || s->also->wants(s->also->user, site));
}

static bool wants(void *user, swin_site site)
{
    const swin_sim *s = user;
    return quantized(s, site) || swin_has_factor(s->f, site) || other_wants(s, site);
}

static swin_status at(void *user, const swin_tap_point *p)
{
    const swin_sim *s = user;
    const swin_site_record *r = quantized(s, p->site);
    SWIN_TRY(swin_divide_by_factor(s->f, p));
    if (r) SWIN_TRY(fake_quant(r, p));
    return other_wants(s, p->site) ? s->also->at(s->also->user, p) : SWIN_OK;
}

swin_status swin_sim_forward(swin_sim *s, const float *images, int batch, float *logits, const swin_tap *also)
{
    return swin_sim_forward_parts(s, 0, swin_output_count(&s->f->config), images, batch, logits, also);
}

swin_status swin_sim_forward_parts(swin_sim *s, int first, int end, const float *in, int batch, float *out,
                                   const swin_tap *also)
{
    const swin_tap tap = { .user = s, .wants = wants, .at = at };
    s->also = also;
    const swin_status st = swin_net_forward_parts(s->net, first, end, in, batch, out, &tap);
    s->also = NULL;
    return st;
}
