#include "quant/sim.h"

#include <math.h>
#include <stdlib.h>

#include "quant/linear_weight.h"

struct swin_sim {
    const swin_calib_file *f;
    swin_net *net;
    bool soft_u8;         /* the softmax itself makes the codes */
    const swin_tap *also; /* of the forward that is running */
};

/* One row in float32 as PyTorch computes `127.0 / amax`: reciprocal, then product. FP16 checkpoints have many weights at
 * exactly half a step, where the last bit of this decides. */
static void fake_quant_row(float *w, int n, float amax)
{
    const float s = 1.0f / amax * 127.0f;
    if (!isfinite(s)) { /* a dead output channel: every code is 0 */
        for (int i = 0; i < n; i++) w[i] = 0;
        return;
    }
    for (int i = 0; i < n; i++) w[i] = fminf(fmaxf(rintf(w[i] * s), -127.0f), 127.0f) / s;
}

static swin_status fake_quant_weights(swin_weights *w, const swin_calib_file *f, swin_granularity granularity)
{
    for (int i = 0; i < f->nweights; i++) {
        const swin_weight_record *r = &f->weights[i];
        const swin_site_record *site = swin_calib_file_site(f, r->site);
        if (!site || !site->enabled) continue;
        swin_linear_weight l;
        SWIN_TRY(swin_linear_weight_of(&l, &f->config, w, r->site));
        if (l.out != r->channels)
            return swin_fail(SWIN_ERR_MISMATCH, "%d output channels instead of %d", r->channels, l.out);
        for (int row = 0; row < l.out; row++)
            fake_quant_row(l.data + (size_t)row * (size_t)l.in, l.in,
                           granularity == SWIN_PER_CHANNEL ? r->amax_channel[row] : r->amax);
    }
    return SWIN_OK;
}

/* The walk knows one kind of softmax, so the file's sites must agree. */
static swin_status choose_softmax(const swin_calib_file *f, bool *u8)
{
    int sites = 0, codes = 0;
    for (int i = 0; i < f->nsites; i++) {
        const swin_site_record *r = &f->sites[i];
        if (swin_site_role_of(r->site) != SWIN_ROLE_SOFTMAX) continue;
        sites++;
        codes += r->enabled && r->q.qmin == 0;
    }
    *u8 = codes > 0;
    if (codes > 0 && codes < sites)
        return swin_fail(SWIN_ERR_UNSUPPORTED,
                         "int8-sim: 8-bit softmax in %d of %d blocks; all or none is offered", codes, sites);
    return SWIN_OK;
}

swin_status swin_sim_create(swin_sim **out, swin_dev *dev, const swin_calib_file *f, const swin_weights *w,
                            swin_granularity granularity)
{
    *out = NULL;
    swin_weights copy = { 0 };
    swin_sim *s = calloc(1, sizeof *s);
    if (!s) return swin_fail(SWIN_ERR_MEM, "no memory for int8-sim");
    s->f = f;
    swin_status st = choose_softmax(f, &s->soft_u8);
    if (st == SWIN_OK) st = swin_weights_clone(&copy, w, &f->config);
    if (st == SWIN_OK) st = fake_quant_weights(&copy, f, granularity);
    const swin_net_opts opts = { .dtype = SWIN_F32,
                                 .softmax = s->soft_u8 ? SWIN_SOFTMAX_U8 : SWIN_SOFTMAX_EXACT };
    if (st == SWIN_OK) st = swin_net_create(&s->net, dev, &f->config, &copy, &opts);
    swin_weights_free(&copy);
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
    free(s);
}

/* The activation's quantizer, NULL for none. */
static const swin_quant *quant_of(const swin_sim *s, swin_site site)
{
    const swin_site_role role = swin_site_role_of(site);
    if (role == SWIN_ROLE_WEIGHT || (role == SWIN_ROLE_SOFTMAX && s->soft_u8)) return NULL;
    const swin_site_record *r = swin_calib_file_site(s->f, site);
    return r && r->enabled ? &r->q : NULL;
}

static bool other_wants(const swin_sim *s, swin_site site)
{
    return s->also && (!s->also->wants || s->also->wants(s->also->user, site));
}

static bool wants(void *user, swin_site site)
{
    const swin_sim *s = user;
    return quant_of(s, site) || other_wants(s, site);
}

static swin_status at(void *user, const swin_tap_point *p)
{
    const swin_sim *s = user;
    const swin_quant *q = quant_of(s, p->site);
    if (q) SWIN_TRY(p->dev->ops->fake_quant(p->dev, p->x, q->scale, q->zero_point, q->qmin, q->qmax));
    return other_wants(s, p->site) ? s->also->at(s->also->user, p) : SWIN_OK;
}

swin_status swin_sim_forward(swin_sim *s, const float *images, int batch, float *logits, const swin_tap *also)
{
    const swin_tap tap = { .user = s, .wants = wants, .at = at };
    s->also = also;
    const swin_status st = swin_net_forward(s->net, images, batch, logits, &tap);
    s->also = NULL;
    return st;
}
