/* /auto of the calibration file. What it says explains the choice of sites and decides nothing: `enabled` of the sites does. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quant/relax.h"

#define GROUP "/auto"

enum { MOST_UNITS = 1 << 16 };

void swin_relaxation_free(swin_relaxation *r)
{
    free(r->units);
    *r = (swin_relaxation){ 0 };
}

/* NaN and infinity (no error at all) are stored as they are: HDF5 has both. */
static swin_status write_unit(const swin_relax_unit *u, swin_h5 *f)
{
    char at[sizeof GROUP + SWIN_SITE_NAME_MAX + 1];
    snprintf(at, sizeof at, GROUP "/%s", u->name);
    SWIN_TRY(swin_h5_set_i64(f, at, "relaxed", u->relaxed));
    SWIN_TRY(swin_h5_set_f64(f, at, "sqnr_alone_db", u->alone_db));
    SWIN_TRY(swin_h5_set_f64(f, at, "share", u->share));
    SWIN_TRY(swin_h5_set_f64(f, at, "gain_db", u->gain_db));
    SWIN_TRY(swin_h5_set_i64(f, at, "bytes", (int64_t)u->bytes));
    return swin_h5_set_i64(f, at, "ops", (int64_t)u->ops);
}

swin_status swin_relaxation_write(const swin_relaxation *r, swin_h5 *f)
{
    if (!r->present) return SWIN_OK;
    const struct {
        const char *name;
        double v;
    } numbers[] = {
        { "min_agreement", r->min_agreement },       { "min_sqnr_db", r->min_sqnr },
        { "before_agreement", r->before_agreement }, { "before_sqnr_db", r->before_db },
        { "after_agreement", r->after_agreement },   { "after_sqnr_db", r->after_db },
    };
    for (size_t i = 0; i < SWIN_COUNT(numbers); i++)
        SWIN_TRY(swin_h5_set_f64(f, GROUP, numbers[i].name, numbers[i].v));
    SWIN_TRY(swin_h5_set_i64(f, GROUP, "images", (int64_t)r->images));
    SWIN_TRY(swin_h5_set_str(f, GROUP, "image_list_sha256", r->image_list_sha256));
    for (int i = 0; i < r->nunits; i++) SWIN_TRY(write_unit(&r->units[i], f));
    return SWIN_OK;
}

/* ---- reading -------------------------------------------------------------------------------------------------------- */

typedef struct reader {
    swin_relaxation *r;
    swin_h5 *f;
    const char *path;
    int room;
} reader;

static swin_status get_count(const reader *r, const char *at, const char *name, uint64_t *v)
{
    int64_t n;
    SWIN_TRY(swin_h5_get_i64(r->f, at, name, &n));
    if (n < 0) return swin_fail(SWIN_ERR_VALUE, "%s: %s attribute %s is negative", r->path, at, name);
    *v = (uint64_t)n;
    return SWIN_OK;
}

static swin_status grow(reader *r)
{
    if (r->r->nunits < r->room) return SWIN_OK;
    if (r->room >= MOST_UNITS) return swin_fail(SWIN_ERR_FORMAT, "%s: too many units in " GROUP, r->path);
    const int room = r->room ? 2 * r->room : 64;
    swin_relax_unit *grown = realloc(r->r->units, (size_t)room * sizeof *grown);
    if (!grown) return swin_fail(SWIN_ERR_MEM, "no memory for %d units", room);
    r->r->units = grown;
    r->room = room;
    return SWIN_OK;
}

static swin_status read_unit(void *user, const char *name)
{
    reader *r = user;
    swin_relax_unit u = { 0 };
    uint64_t relaxed;
    if (strlen(name) >= sizeof u.name)
        return swin_fail(SWIN_ERR_FORMAT, "%s: " GROUP "/%.100s is no unit", r->path, name);
    char at[sizeof GROUP + SWIN_SITE_NAME_MAX + 1];
    snprintf(u.name, sizeof u.name, "%s", name);
    snprintf(at, sizeof at, GROUP "/%s", u.name);
    SWIN_TRY(get_count(r, at, "relaxed", &relaxed));
    u.relaxed = relaxed != 0;
    SWIN_TRY(swin_h5_get_f64(r->f, at, "sqnr_alone_db", &u.alone_db));
    SWIN_TRY(swin_h5_get_f64(r->f, at, "share", &u.share));
    SWIN_TRY(swin_h5_get_f64(r->f, at, "gain_db", &u.gain_db));
    SWIN_TRY(get_count(r, at, "bytes", &u.bytes));
    SWIN_TRY(get_count(r, at, "ops", &u.ops));
    SWIN_TRY(grow(r));
    r->r->units[r->r->nunits++] = u;
    return SWIN_OK;
}

static swin_status read_head(const reader *r)
{
    swin_relaxation *x = r->r;
    char *sha;
    SWIN_TRY(swin_h5_get_f64(r->f, GROUP, "min_agreement", &x->min_agreement));
    SWIN_TRY(swin_h5_get_f64(r->f, GROUP, "min_sqnr_db", &x->min_sqnr));
    SWIN_TRY(swin_h5_get_f64(r->f, GROUP, "before_agreement", &x->before_agreement));
    SWIN_TRY(swin_h5_get_f64(r->f, GROUP, "before_sqnr_db", &x->before_db));
    SWIN_TRY(swin_h5_get_f64(r->f, GROUP, "after_agreement", &x->after_agreement));
    SWIN_TRY(swin_h5_get_f64(r->f, GROUP, "after_sqnr_db", &x->after_db));
    SWIN_TRY(get_count(r, GROUP, "images", &x->images));
    SWIN_TRY(swin_h5_get_str(r->f, GROUP, "image_list_sha256", &sha));
    snprintf(x->image_list_sha256, sizeof x->image_list_sha256, "%s", sha);
    free(sha);
    return SWIN_OK;
}

swin_status swin_relaxation_read(swin_relaxation *x, swin_h5 *f, const char *path)
{
    if (!swin_h5_exists(f, GROUP)) return SWIN_OK;
    reader r = { .r = x, .f = f, .path = path };
    x->present = true;
    SWIN_TRY(read_head(&r));
    return swin_h5_each(f, GROUP, read_unit, &r);
}
