#include "quant/corrections.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/h5.h"

#define GROUP "/corrections/weights"

static swin_status only_weights(void *user, const char *name)
{
    if (strcmp(name, "weights") == 0) return SWIN_OK;
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
    if (swin_h5_exists(f, "/corrections")) st = swin_h5_each(f, "/corrections", only_weights, (void *)path);
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
    if (swin_h5_exists(s.f, GROUP)) {
        SWIN_TRY_GOTO(st, swin_weights_list(c, w, &s.params, &s.count), done);
        st = swin_h5_each(s.f, GROUP, apply_one, &s);
    }
done:
    swin_h5_close(s.f);
    free(s.params);
    return st;
}
