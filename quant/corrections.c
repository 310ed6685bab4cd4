#include "quant/corrections.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GROUP "/corrections/weights"

#define STEPS "/corrections/steps"

static swin_status known(void *user, const char *name)
{
    static const char *const names[] = { "weights", "factors", "outputs", "heads", "steps" };
    for (size_t i = 0; i < SWIN_COUNT(names); i++)
        if (strcmp(name, names[i]) == 0) return SWIN_OK;
    return swin_fail(SWIN_ERR_UNSUPPORTED, "%s: /corrections/%s is unknown to this version",
                     (const char *)user, name);
}

static swin_status count_one(void *user, const char *name)
{
    (void)name;
    ++*(size_t *)user;
    return SWIN_OK;
}

swin_status swin_corrections_present(bool *present, const char *path)
{
    swin_h5 *f = NULL;
    size_t count = 0;
    *present = false;
    SWIN_TRY(swin_h5_open(&f, path));
    swin_status st = SWIN_OK;
    if (swin_h5_exists(f, "/corrections"))
        st = swin_h5_each(f, "/corrections", known, (void *)(uintptr_t)path);
    if (st == SWIN_OK && swin_h5_exists(f, GROUP)) st = swin_h5_each(f, GROUP, count_one, &count);
    swin_h5_close(f);
    *present = count > 0;
    return st;
}

typedef struct apply_state {
    swin_h5 *f;
    const char *path;
    swin_param *params;
    size_t count;
} apply_state;

static const swin_param *find_param(const apply_state *s, const char *key)
{
    for (size_t i = 0; i < s->count; i++)
        if (strcmp(s->params[i].key, key) == 0) return &s->params[i];
    return NULL;
}

static swin_status apply_one(void *user, const char *key)
{
    const apply_state *s = user;
    const swin_param *p = find_param(s, key);
    if (!p)
        return swin_fail(SWIN_ERR_MISMATCH, "%s: corrects %s, which this network does not have", s->path,
                         key);
    char name[sizeof GROUP + SWIN_PARAM_KEY_MAX + 1];
    snprintf(name, sizeof name, GROUP "/%s", p->key);
    void *data = NULL;
    size_t count = 0;
    SWIN_TRY(swin_h5_read(s->f, name, SWIN_F32, &data, &count));
    const float *v = data;
    swin_status st = SWIN_OK;
    if (count != p->count)
        st = swin_fail(SWIN_ERR_MISMATCH, "%s: corrects %s with %zu numbers instead of %zu", s->path, key,
                       count, p->count);
    for (size_t i = 0; st == SWIN_OK && i < count; i++)
        if (!isfinite(v[i]))
            st = swin_fail(SWIN_ERR_VALUE, "%s: corrects %s with a value that is not finite", s->path, key);
    if (st == SWIN_OK) memcpy(*p->slot, v, count * sizeof *v);
    free(data);
    return st;
}

swin_status swin_corrections_apply(swin_weights *w, const swin_config *c, const char *path)
{
    apply_state s = { .path = path };
    swin_status st = SWIN_OK;
    SWIN_TRY(swin_h5_open(&s.f, path));
    if (swin_h5_exists(s.f, "/corrections"))
        SWIN_TRY_GOTO(st, swin_h5_each(s.f, "/corrections", known, (void *)(uintptr_t)path), done);
    if (swin_h5_exists(s.f, GROUP)) {
        SWIN_TRY_GOTO(st, swin_weights_list(c, w, &s.params, &s.count), done);
        st = swin_h5_each(s.f, GROUP, apply_one, &s);
    }
done:
    swin_h5_close(s.f);
    free(s.params);
    return st;
}

/* ---- in memory ------------------------------------------------------------------------------------------------ */

static swin_status collect_one(swin_corrections *k, const swin_param *p)
{
    swin_correction *n = &k->weights[k->nweights];
    *n = (swin_correction){ .ndim = p->ndim };
    memcpy(n->key, p->key, sizeof n->key);
    memcpy(n->shape, p->shape, sizeof n->shape);
    n->values = malloc(p->count * sizeof *n->values);
    if (!n->values) return swin_fail(SWIN_ERR_MEM, "no memory for the correction of %s", p->key);
    memcpy(n->values, *p->slot, p->count * sizeof *n->values);
    k->nweights++;
    return SWIN_OK;
}

static void drop_weights(swin_corrections *k)
{
    for (size_t i = 0; i < k->nweights; i++) free(k->weights[i].values);
    free(k->weights);
    k->weights = NULL;
    k->nweights = 0;
}

swin_status swin_corrections_collect(swin_corrections *k, const swin_config *c, swin_weights *before,
                                     swin_weights *after)
{
    swin_param *a = NULL, *b = NULL;
    size_t count = 0;
    swin_status st;
    drop_weights(k);
    SWIN_TRY_GOTO(st, swin_weights_list(c, before, &a, &count), done);
    SWIN_TRY_GOTO(st, swin_weights_list(c, after, &b, &count), done);
    k->weights = calloc(count, sizeof *k->weights);
    if (!k->weights) st = swin_fail(SWIN_ERR_MEM, "no memory for %zu corrections", count);
    for (size_t i = 0; st == SWIN_OK && i < count; i++)
        if (memcmp(*a[i].slot, *b[i].slot, a[i].count * sizeof(float)) != 0) st = collect_one(k, &b[i]);
done:
    free(a);
    free(b);
    return st;
}

void swin_corrections_free(swin_corrections *k)
{
    drop_weights(k);
    *k = (swin_corrections){ 0 };
}

static swin_status write_steps(const swin_corrections *k, swin_h5 *f)
{
    for (int i = 0; i < k->nsteps; i++) {
        const swin_recover_step *s = &k->steps[i];
        char at[sizeof STEPS + sizeof s->method + 16];
        snprintf(at, sizeof at, STEPS "/%d_%s", i + 1, s->method);
        SWIN_TRY(swin_h5_set_f64(f, at, "sqnr_before_db", s->before_db));
        SWIN_TRY(swin_h5_set_f64(f, at, "sqnr_after_db", s->after_db));
        SWIN_TRY(swin_h5_set_str(f, at, "changed", s->changed));
    }
    return SWIN_OK;
}

swin_status swin_corrections_write(const swin_corrections *k, swin_h5 *f)
{
    char name[sizeof GROUP + SWIN_PARAM_KEY_MAX + 1];
    for (size_t i = 0; i < k->nweights; i++) {
        const swin_correction *w = &k->weights[i];
        snprintf(name, sizeof name, GROUP "/%s", w->key);
        SWIN_TRY(swin_h5_write(f, name, SWIN_F32, w->values, w->ndim, w->shape, false));
    }
    return write_steps(k, f);
}

typedef struct step_reader {
    swin_corrections *k;
    swin_h5 *f;
    const char *path;
} step_reader;

static swin_status read_step(void *user, const char *name)
{
    const step_reader *r = user;
    swin_corrections *k = r->k;
    const char *method = strchr(name, '_');
    if (k->nsteps == SWIN_RECOVER_STEPS_MAX || !method || strlen(method + 1) >= sizeof k->steps->method)
        return swin_fail(SWIN_ERR_FORMAT, "%s: " STEPS "/%.100s is no step of a recovery", r->path, name);
    swin_recover_step *s = &k->steps[k->nsteps];
    char at[sizeof STEPS + sizeof s->method + 16], *text;
    snprintf(at, sizeof at, STEPS "/%.40s", name);
    snprintf(s->method, sizeof s->method, "%s", method + 1);
    SWIN_TRY(swin_h5_get_f64(r->f, at, "sqnr_before_db", &s->before_db));
    SWIN_TRY(swin_h5_get_f64(r->f, at, "sqnr_after_db", &s->after_db));
    SWIN_TRY(swin_h5_get_str(r->f, at, "changed", &text));
    snprintf(s->changed, sizeof s->changed, "%s", text);
    free(text);
    k->nsteps++;
    return SWIN_OK;
}

swin_status swin_corrections_read_steps(swin_corrections *k, swin_h5 *f, const char *path)
{
    if (!swin_h5_exists(f, "/corrections")) return SWIN_OK;
    SWIN_TRY(swin_h5_each(f, "/corrections", known, (void *)(uintptr_t)path));
    step_reader r = { k, f, path };
    return swin_h5_exists(f, STEPS) ? swin_h5_each(f, STEPS, read_step, &r) : SWIN_OK;
}
