#include "quant/site_error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/swin/accuracy.h"
#include "runtime/swin/outputs.h"

/* A tensor as it passed in the network without quantization, and how far the quantized one's is from it. */
typedef struct seen {
    float *x; /* owned */
    size_t count;
    double signal, noise;
} seen;

typedef struct job {
    swin_dev *dev;
    const swin_config *c;
    const swin_calib_file *f;
    const swin_weights *w;
    swin_calib_file one; /* f's records with all sites off but at most one; only `sites` is owned */
    swin_sim *lone, *full;
    int n, parts;
    float *exact, *quantized;  /* owned, dev's memory: the streams [n][tokens][C] of both networks, abreast */
    float *reference, *logits; /* owned: [n][classes] */
    seen seen[SWIN_SITE_KIND_COUNT];
    bool keep; /* the tap stores what it sees, or compares with it */
    swin_eval_site *list;
    int count;
} job;

/* ---- accumulated -------------------------------------------------------------------------------------------------- */

static bool watched(void *user, swin_site site)
{
    const job *j = user;
    const swin_site_record *r = swin_calib_file_site(j->f, site);
    return r && r->enabled;
}

static swin_status compare(job *j, seen *s, const swin_tensor *x, const float *host)
{
    const size_t rows = (size_t)x->rows, cols = (size_t)x->cols;
    if (j->keep && s->count < rows * cols) {
        free(s->x);
        s->x = malloc(rows * cols * sizeof *s->x);
        s->count = s->x ? rows * cols : 0;
        if (!s->x) return swin_fail(SWIN_ERR_MEM, "--layers: no memory for %zu values", rows * cols);
    }
    for (size_t r = 0; r < rows; r++)
        for (size_t k = 0; k < cols; k++) {
            const float v = host[r * (size_t)x->ld + k];
            float *kept = &s->x[r * cols + k];
            if (j->keep) {
                *kept = v;
                continue;
            }
            const double d = (double)v - (double)*kept;
            s->signal += (double)*kept * (double)*kept;
            s->noise += d * d;
        }
    return SWIN_OK;
}

static swin_status at(void *user, const swin_tap_point *p)
{
    job *j = user;
    const size_t n = (size_t)((p->x->rows - 1) * p->x->ld + p->x->cols);
    float *host = malloc(n * sizeof *host);
    if (!host) return swin_fail(SWIN_ERR_MEM, "--layers: no memory for %zu values", n);
    swin_status st = p->dev->ops->download(p->dev, host, p->x->data, n * sizeof *host);
    if (st == SWIN_OK) st = compare(j, &j->seen[swin_site_kind_of(p->site)], p->x, host);
    free(host);
    return st;
}

/* Both networks through a part, image by image: a kept tensor is one image's. */
static swin_status advance(job *j, int part)
{
    const size_t in = swin_net_stream_floats(j->c, part), out = swin_net_stream_floats(j->c, part + 1);
    const swin_tap tap = { .user = j, .wants = watched, .at = at };
    for (int k = 0; k < SWIN_SITE_KIND_COUNT; k++) j->seen[k].signal = j->seen[k].noise = 0;
    for (int i = 0; i < j->n; i++) {
        const size_t from = (size_t)i * in, to = (size_t)i * out;
        j->keep = true;
        SWIN_TRY(swin_sim_forward_parts(j->lone, part, part + 1, j->exact + from, 1, j->exact + to, &tap));
        j->keep = false;
        SWIN_TRY(
            swin_sim_forward_parts(j->full, part, part + 1, j->quantized + from, 1, j->quantized + to, &tap));
    }
    return SWIN_OK;
}

/* ---- alone ---------------------------------------------------------------------------------------------------------- */

static swin_status finish_from(job *j, int part, float *logits)
{
    return swin_sim_forward_parts(j->lone, part, j->parts, j->exact, j->n, logits, NULL);
}

/* The stream `exact` enters the site's part, so that only what follows has to run. */
static swin_status alone(job *j, int part, int site, swin_eval_site *e)
{
    swin_site_record *r = &j->one.sites[site];
    const swin_site_role role = swin_site_role_of(r->site);
    const bool reload = role == SWIN_ROLE_WEIGHT || role == SWIN_ROLE_SOFTMAX; /* other sites need none */
    const size_t n = (size_t)j->n * (size_t)j->c->num_classes;
    SWIN_TRY(swin_check_interrupt());
    r->enabled = true;
    if (reload) SWIN_TRY(swin_sim_reload(j->lone, part, j->w));
    SWIN_TRY(finish_from(j, part, j->logits));
    r->enabled = false;
    if (reload) SWIN_TRY(swin_sim_reload(j->lone, part, j->w));
    double signal = 0, noise = 0;
    for (size_t i = 0; i < n; i++) {
        const double d = (double)j->logits[i] - (double)j->reference[i];
        signal += (double)j->reference[i] * (double)j->reference[i];
        noise += d * d;
    }
    *e = (swin_eval_site){ .site = r->site, .alone_db = swin_sqnr_of(signal, noise), .share = noise };
    return SWIN_OK;
}

static swin_status measure_part(job *j, int part)
{
    const int first = j->count;
    for (int i = 0; i < j->f->nsites; i++)
        if (j->f->sites[i].enabled && swin_output_part(j->c, j->f->sites[i].site) == part)
            SWIN_TRY(alone(j, part, i, &j->list[j->count++]));
    SWIN_TRY(advance(j, part));
    for (int i = first; i < j->count; i++) {
        const seen *s = &j->seen[swin_site_kind_of(j->list[i].site)];
        const bool weight = swin_site_role_of(j->list[i].site) == SWIN_ROLE_WEIGHT;
        j->list[i].accumulated_db = weight || s->signal == 0 ? NAN : swin_sqnr_of(s->signal, s->noise);
    }
    return SWIN_OK;
}

static swin_status measure_all(job *j, const float *images)
{
    swin_progress progress;
    const size_t stream = (size_t)j->n * swin_net_stream_floats(j->c, 1) * sizeof *j->exact;
    SWIN_TRY(swin_sim_forward_parts(j->lone, 0, 1, images, j->n, j->exact, NULL));
    SWIN_TRY(j->dev->ops->copy(j->dev, j->quantized, j->exact, stream));
    SWIN_TRY(finish_from(j, 1, j->reference));
    swin_progress_begin(&progress, "measuring sites", "parts", (size_t)(j->parts - 2));
    for (int part = 1; part + 1 < j->parts; part++) {
        SWIN_TRY(measure_part(j, part));
        swin_progress_add(&progress, 1);
    }
    swin_progress_end(&progress);
    double total = 0;
    for (int i = 0; i < j->count; i++) total += j->list[i].share;
    for (int i = 0; i < j->count; i++) j->list[i].share *= total > 0 ? 100 / total : 0;
    return SWIN_OK;
}

static swin_status alloc_streams(job *j)
{
    const size_t bytes = (size_t)j->n * swin_net_stream_floats(j->c, 1) * sizeof(float);
    float **all[] = { &j->exact, &j->quantized };
    for (size_t i = 0; i < SWIN_COUNT(all); i++) {
        void *stream;
        SWIN_TRY(j->dev->ops->alloc(j->dev, &stream, bytes));
        *all[i] = stream;
    }
    return SWIN_OK;
}

static swin_status open_job(job *j, swin_granularity granularity)
{
    swin_dev *dev = j->dev;
    const size_t n = (size_t)j->n, sites = (size_t)j->f->nsites, classes = (size_t)j->c->num_classes;
    j->one = *j->f;
    j->one.sites = malloc(sites * sizeof *j->one.sites);
    j->reference = malloc(n * classes * sizeof *j->reference);
    j->logits = malloc(n * classes * sizeof *j->logits);
    j->list = calloc(sites, sizeof *j->list);
    if (!j->one.sites || !j->reference || !j->logits || !j->list)
        return swin_fail(SWIN_ERR_MEM, "--layers: no memory for %d images", j->n);
    memcpy(j->one.sites, j->f->sites, sites * sizeof *j->one.sites);
    for (size_t i = 0; i < sites; i++) j->one.sites[i].enabled = false;
    SWIN_TRY(alloc_streams(j));
    SWIN_TRY(swin_sim_create(&j->lone, dev, &j->one, j->w, granularity));
    return swin_sim_create(&j->full, dev, j->f, j->w, granularity);
}

swin_status swin_site_errors(swin_eval_site **list, int *count, swin_dev *dev, const swin_calib_file *f,
                             const swin_weights *w, swin_granularity granularity, const float *images, int n)
{
    job j = { .dev = dev, .c = &f->config, .f = f, .w = w, .n = n, .parts = swin_output_count(&f->config) };
    *list = NULL;
    *count = 0;
    swin_status st = open_job(&j, granularity);
    if (st == SWIN_OK) st = measure_all(&j, images);
    swin_sim_free(j.lone);
    swin_sim_free(j.full);
    for (int k = 0; k < SWIN_SITE_KIND_COUNT; k++) free(j.seen[k].x);
    free(j.one.sites);
    dev->ops->free(dev, j.exact);
    dev->ops->free(dev, j.quantized);
    free(j.reference);
    free(j.logits);
    if (st == SWIN_OK) {
        *list = j.list;
        *count = j.count;
    } else {
        free(j.list);
    }
    return st;
}
