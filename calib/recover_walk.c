#include <math.h>
#include <stdlib.h>

#include "calib/recover_impl.h"
#include "quant/factor.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/rng.h"
#include "runtime/base/status.h"
#include "runtime/swin/outputs.h"

enum { TOGETHER = 8 }; /* images in a pass */

/* ---- streams --------------------------------------------------------------------------------------------------- */

/* The taps of a walk see images of one pass; they are told how many came before. A pass may end once its last image has been
 * seen: there are as many images in it as the walk shows at once, else the earlier ones would go the whole way. */
typedef struct shifted {
    const swin_tap *tap;
    recover_walk *walk;
    int before;
} shifted;

static bool shifted_wants(void *user, swin_site site)
{
    const shifted *s = user;
    return s->tap && (!s->tap->wants || s->tap->wants(s->tap->user, site));
}

static swin_status shifted_at(void *user, const swin_tap_point *p)
{
    const shifted *s = user;
    swin_tap_point q = *p;
    q.image += s->before;
    SWIN_TRY(s->tap->at(s->tap->user, &q));
    if (!s->walk->stops) return SWIN_OK;
    s->walk->width = p->images > s->walk->width ? p->images : s->walk->width;
    s->walk->stopped = p->image + p->images == p->batch;
    return s->walk->stopped ? SWIN_ERR_LIMIT : SWIN_OK;
}

static swin_status pass(recover_walk *k, const swin_tap *tap, const float *in, int n, float *out)
{
    if (k->sim) return swin_sim_forward_parts(k->sim, k->part, k->part + 1, in, n, out, tap);
    swin_factor_tap factors = { .f = k->r->f, .also = tap };
    const swin_tap with = swin_factor_tap_of(&factors);
    return swin_net_forward_parts(k->net, k->part, k->part + 1, in, n, out, &with);
}

/* Output lies at or before the input in memory, image by image. What a part queues is waited for here: times are told apart. */
swin_status recover_walk_part(recover_walk *k, const swin_tap *tap, bool advance)
{
    const swin_config *c = k->r->config;
    const size_t in = swin_net_stream_floats(c, k->part), out = swin_net_stream_floats(c, k->part + 1);
    const float *from = k->part ? k->stream : k->r->pixels;
    const double start = swin_now();
    k->width = 0;
    for (int at = 0, n; at < k->r->fit; at += n) {
        const int together = k->width ? k->width : TOGETHER;
        n = k->r->fit - at < together ? k->r->fit - at : together;
        shifted s = { tap, k, at };
        const swin_tap shift = { .user = &s, .wants = shifted_wants, .at = shifted_at };
        SWIN_TRY(swin_check_interrupt());
        k->stopped = false;
        const swin_status st = pass(k, tap ? &shift : NULL, from + (size_t)at * in, n,
                                    advance ? k->stream + (size_t)at * out : NULL);
        if (st != SWIN_OK && !k->stopped) return st;
    }
    k->part += advance;
    const swin_status st = k->r->dev->ops->sync(k->r->dev);
    k->r->walk_s += swin_now() - start;
    return st;
}

swin_status recover_walk_begin(recover_walk *k, swin_recover *r, swin_net *net, swin_sim *sim)
{
    const size_t floats = (size_t)r->fit * swin_net_stream_floats(r->config, 1);
    void *stream;
    *k = (recover_walk){ .r = r, .net = net, .sim = sim };
    SWIN_TRY(r->dev->ops->alloc(r->dev, &stream, floats * sizeof(float)));
    k->stream = stream;
    return recover_walk_part(k, NULL, true);
}

void recover_walk_end(recover_walk *k)
{
    if (k->r) k->r->dev->ops->free(k->r->dev, k->stream);
    k->stream = NULL;
}

/* ---- samples --------------------------------------------------------------------------------------------------- */

swin_status recover_samples_init(recover_samples *s, const swin_recover *r, swin_site site, int cols,
                                 int rows, uint64_t seed)
{
    int tokens, channels;
    swin_net_stream(r->config, swin_output_part(r->config, site), &tokens, &channels);
    if (swin_site_owner_of(site) == SWIN_OWNER_MERGE) tokens /= 4;
    int each = (rows + r->fit - 1) / r->fit;
    if (each > tokens) each = tokens;
    *s = (recover_samples){
        .site = site, .seed = seed, .cols = cols, .per_image = each, .rows = each * r->fit
    };
    s->x = malloc(((size_t)s->rows * (size_t)cols + 1) * sizeof *s->x);
    s->lo = calloc((size_t)cols, sizeof *s->lo);
    s->hi = calloc((size_t)cols, sizeof *s->hi);
    return s->x && s->lo && s->hi
               ? SWIN_OK
               : swin_fail(SWIN_ERR_MEM, "--recover: no memory for %d x %d samples", s->rows, cols);
}

void recover_samples_free(recover_samples *s)
{
    free(s->x);
    free(s->lo);
    free(s->hi);
    *s = (recover_samples){ 0 };
}

/* One row of each of per_image equal stretches of an image's rows. */
static void choose_rows(int64_t *row, const recover_samples *s, int64_t rows, int image)
{
    swin_rng rng = { s->seed * 1000003u + (uint64_t)image };
    for (int i = 0; i < s->per_image; i++) {
        const int64_t lo = rows * i / s->per_image, hi = rows * (i + 1) / s->per_image;
        row[i] = lo + (int64_t)swin_rng_below(&rng, (uint64_t)(hi - lo));
    }
}

static swin_status take_rows(recover_samples *s, swin_recover *r, const swin_tap_point *p)
{
    const int64_t rows = p->x->rows / p->images;
    const size_t each = (size_t)s->per_image, at = (size_t)p->image * each * (size_t)s->cols;
    if (s->per_image == 0) return SWIN_OK;
    int64_t *row = malloc((size_t)p->images * each * sizeof *row);
    if (!row) return swin_fail(SWIN_ERR_MEM, "--recover: no memory for a list of %d rows", s->rows);
    for (int i = 0; i < p->images; i++) {
        choose_rows(row + (size_t)i * each, s, rows, p->image + i);
        for (size_t k = 0; k < each; k++) row[(size_t)i * each + k] += i * rows;
    }
    const swin_status st = r->dev->ops->take_rows(r->dev, s->x + at, p->x, row, p->images * s->per_image);
    free(row);
    return st;
}

/* The ranges seen before and those of x. */
static swin_status widen(recover_samples *s, swin_recover *r, const swin_tensor *x)
{
    const size_t n = (size_t)s->cols;
    float *ends = malloc(2 * n * sizeof *ends);
    if (!ends) return swin_fail(SWIN_ERR_MEM, "--recover: no memory for the ranges of %d columns", s->cols);
    const swin_moments m = { .lo = ends, .hi = ends + n };
    const swin_status st = r->dev->ops->moments(r->dev, &m, x, 1);
    for (size_t k = 0; st == SWIN_OK && k < n; k++) {
        s->lo[k] = fminf(s->lo[k], m.lo[k]);
        s->hi[k] = fmaxf(s->hi[k], m.hi[k]);
    }
    free(ends);
    return st;
}

static recover_samples *samples_of(const recover_gather *g, swin_site site)
{
    for (int i = 0; i < g->count; i++)
        if (g->samples[i].site == site) return &g->samples[i];
    return NULL;
}

static bool gather_wants(void *user, swin_site site)
{
    return samples_of(user, site) != NULL;
}

static swin_status gather_at(void *user, const swin_tap_point *p)
{
    recover_gather *g = user;
    recover_samples *s = samples_of(g, p->site);
    if (p->x->cols != s->cols)
        return swin_fail(SWIN_ERR_MISMATCH, "--recover: %lld columns instead of %d", (long long)p->x->cols,
                         s->cols);
    SWIN_TRY(take_rows(s, g->r, p));
    return widen(s, g->r, p->x);
}

swin_tap recover_gather_tap(recover_gather *g)
{
    return (swin_tap){ .user = g, .wants = gather_wants, .at = gather_at };
}
