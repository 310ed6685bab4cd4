/* The images that recovery works on, the two networks that it keeps, and what the images held back say of them. */
#include <stdlib.h>
#include <string.h>

#include "calib/recover_impl.h"
#include "runtime/base/file.h"
#include "runtime/swin/accuracy.h"

/* ---- images ------------------------------------------------------------------------------------------------------ */

enum { HELD_BACK = 5, TOGETHER = 8 }; /* every fifth image is a judge */

static size_t pixels_of(const swin_recover *r)
{
    const swin_config *c = r->config;
    return (size_t)c->in_chans * (size_t)c->image_size * (size_t)c->image_size;
}

static swin_status choose_images(swin_recover *r)
{
    const size_t want = r->o.count < SWIN_RECOVER_IMAGES ? r->o.count : SWIN_RECOVER_IMAGES;
    r->indices = malloc((want + 1) * sizeof *r->indices);
    if (!r->indices) return swin_fail(SWIN_ERR_MEM, "--recover: no memory for %zu images", want);
    r->count = swin_sample_choose(SWIN_SAMPLE_SPREAD, 0, r->o.count, want, r->indices);
    for (size_t i = 0; i < r->count; i++) r->indices[i] = r->o.indices[r->indices[i]];
    return SWIN_OK;
}

/* Fit images from the front, judges from the back; the judges' order does not matter to a sum over all of them, but is kept
 * by turning them round at the end. */
static swin_status read_images(swin_recover *r, swin_loader *l)
{
    const size_t size = pixels_of(r);
    size_t seen = 0, judges = 0;
    for (;;) {
        swin_batch b;
        SWIN_TRY(swin_loader_next(l, &b));
        if (b.n == 0) break;
        for (int i = 0; i < b.n && seen < r->count; i++, seen++) {
            const bool judge = seen % HELD_BACK == HELD_BACK - 1;
            judges += judge;
            const size_t at = judge ? r->count - judges : seen - judges;
            memcpy(r->pixels + at * size, b.pixels + (size_t)i * size, size * sizeof(float));
        }
    }
    if (seen == 0) return swin_fail(SWIN_ERR_VALUE, "--recover: none of %zu images could be read", r->count);
    r->fit = (int)(seen - judges);
    r->judges = judges ? (int)judges : r->fit;
    r->judge_pixels = r->pixels + (judges ? (r->count - judges) * size : 0);
    return SWIN_OK;
}

static swin_status load_images(swin_recover *r, swin_dataset *data)
{
    const swin_config *c = r->config;
    const swin_loader_opts lo = { .indices = r->indices,
                                  .count = r->count,
                                  .batch = TOGETHER,
                                  .workers = r->o.threads,
                                  .strict = r->o.strict,
                                  .preprocess = { .size = c->image_size, .crop = c->test_crop } };
    swin_loader *l;
    r->pixels = malloc(r->count * pixels_of(r) * sizeof *r->pixels);
    if (!r->pixels) return swin_fail(SWIN_ERR_MEM, "--recover: no memory for %zu images", r->count);
    SWIN_TRY(swin_loader_open(&l, data, &lo));
    const swin_status st = read_images(r, l);
    swin_loader_close(l);
    return st;
}

swin_status recover_take_images(swin_recover *r, swin_dataset *data)
{
    SWIN_TRY(choose_images(r));
    return load_images(r, data);
}

/* ---- the networks -------------------------------------------------------------------------------------------------- */

swin_status recover_net(swin_recover *r, swin_net **net)
{
    const swin_net_opts opts = { .dtype = SWIN_F32 };
    if (r->net_old) {
        swin_net_free(r->net);
        r->net = NULL;
    }
    r->net_old = false;
    if (!r->net)
        SWIN_TRY(swin_net_create(&r->net, r->dev, r->config, r->exact.block ? &r->exact : &r->w, &opts));
    *net = r->net;
    return SWIN_OK;
}

swin_status recover_sim(swin_recover *r, swin_sim **sim)
{
    if (r->sim_old) {
        swin_sim_free(r->sim);
        r->sim = NULL;
    }
    r->sim_old = false;
    if (!r->sim) SWIN_TRY(swin_sim_create(&r->sim, r->dev, r->f, &r->w, SWIN_PER_CHANNEL));
    *sim = r->sim;
    return SWIN_OK;
}

void recover_changed(swin_recover *r)
{
    r->sim_old = true;
    if (!r->exact.block) r->net_old = true;
}

/* ---- the judges -------------------------------------------------------------------------------------------------- */

/* Logits of the judges, by the float network (sim NULL) or by int8-sim. */
static swin_status answers(swin_recover *r, swin_net *net, swin_sim *sim, float *logits)
{
    const size_t classes = (size_t)r->config->num_classes;
    for (int at = 0; at < r->judges; at += TOGETHER) {
        const int n = r->judges - at < TOGETHER ? r->judges - at : TOGETHER;
        const float *in = r->judge_pixels + (size_t)at * pixels_of(r);
        float *out = logits + (size_t)at * classes;
        SWIN_TRY(swin_check_interrupt());
        SWIN_TRY(sim ? swin_sim_forward(sim, in, n, out, NULL) : swin_net_forward(net, in, n, out, NULL));
    }
    return SWIN_OK;
}

swin_status recover_reference(swin_recover *r)
{
    swin_net *net;
    r->reference = malloc((size_t)r->judges * (size_t)r->config->num_classes * sizeof *r->reference);
    if (!r->reference) return swin_fail(SWIN_ERR_MEM, "--recover: no memory for logits");
    SWIN_TRY(recover_net(r, &net));
    return answers(r, net, NULL, r->reference);
}

swin_status recover_judge(swin_recover *r, double *db, double *agreement)
{
    const int classes = r->config->num_classes;
    const size_t n = (size_t)r->judges * (size_t)classes;
    swin_accuracy a = { 0 };
    swin_sim *sim;
    float *logits = malloc(n * sizeof *logits);
    if (!logits) return swin_fail(SWIN_ERR_MEM, "--recover: no memory for logits");
    swin_status st = recover_sim(r, &sim);
    if (st == SWIN_OK) st = answers(r, NULL, sim, logits);
    for (int i = 0, label = 0; st == SWIN_OK && i < r->judges; i++) { /* top-1 is not asked for */
        const size_t at = (size_t)i * (size_t)classes;
        swin_accuracy_add(&a, logits + at, r->reference + at, &label, 1, classes);
    }
    *db = swin_accuracy_sqnr(&a);
    *agreement = swin_accuracy_agreement(&a);
    free(logits);
    return st;
}
