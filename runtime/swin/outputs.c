#include "runtime/swin/outputs.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/half.h"

int swin_output_count(const swin_config *c)
{
    int n = 2; /* patch_embed, norm */
    for (int s = 0; s < c->num_stages; s++) n += c->depths[s] + (s + 1 < c->num_stages);
    return n;
}

swin_site swin_output_at(const swin_config *c, int i)
{
    if (i == 0) return swin_site_make(0, 0, SWIN_SITE_PATCH_EMBED_OUT);
    i--;
    for (int s = 0; s < c->num_stages; s++) {
        if (i < c->depths[s]) return swin_site_make(s, i, SWIN_SITE_BLOCK_OUT);
        i -= c->depths[s];
        if (s + 1 == c->num_stages) break;
        if (i == 0) return swin_site_make(s, 0, SWIN_SITE_MERGE_OUT);
        i--;
    }
    return swin_site_make(0, 0, SWIN_SITE_NORM_OUT);
}

static int index_of(const swin_config *c, swin_site site)
{
    const int n = swin_output_count(c);
    for (int i = 0; i < n; i++)
        if (swin_output_at(c, i) == site) return i;
    return -1;
}

int swin_output_part(const swin_config *c, swin_site site)
{
    const swin_site_owner owner = swin_site_owner_of(site);
    const int stage = swin_site_stage(site);
    if (owner == SWIN_OWNER_MODEL) return -1;
    int part = 1;
    for (int s = 0; s < stage; s++) part += c->depths[s] + 1;
    return part + (owner == SWIN_OWNER_MERGE ? c->depths[stage] : swin_site_block(site));
}

static bool wants(void *user, swin_site site)
{
    const swin_outputs *o = user;
    return index_of(o->config, site) >= 0;
}

static swin_status reserve(void **p, size_t *have, size_t want)
{
    if (want <= *have) return SWIN_OK;
    void *grown = realloc(*p, want);
    if (!grown) return swin_fail(SWIN_ERR_MEM, "no memory for the %zu bytes of a layer's output", want);
    *p = grown;
    *have = want;
    return SWIN_OK;
}

/* Bring the rows to the host, widen them, and close the gaps between them. */
static swin_status fetch(swin_outputs *o, const swin_tap_point *p)
{
    const swin_tensor *x = p->x;
    const size_t item = swin_dtype_size(x->dtype), rows = (size_t)x->rows, cols = (size_t)x->cols,
                 ld = (size_t)x->ld;
    const size_t bytes = rows ? ((rows - 1) * ld + cols) * item : 0;
    void *host = o->host;
    SWIN_TRY(reserve(&o->raw, &o->raw_size, bytes));
    const swin_status st = reserve(&host, &o->host_size, rows * cols * sizeof(float));
    o->host = host;
    SWIN_TRY(st);
    SWIN_TRY(p->dev->ops->download(p->dev, o->raw, x->data, bytes));
    for (size_t r = 0; r < rows; r++)
        swin_widen(o->host + r * cols, (const char *)o->raw + r * ld * item, x->dtype, cols);
    return SWIN_OK;
}

static swin_status at(void *user, const swin_tap_point *p)
{
    swin_outputs *o = user;
    const int i = index_of(o->config, p->site);
    if (i < 0) return SWIN_OK;
    char name[SWIN_SITE_NAME_MAX];
    swin_site_name(p->site, name);
    if (p->batch != 1)
        return swin_fail(SWIN_ERR_VALUE, "%s: layer outputs are taken one image at a time", name);
    if (p->x->dtype != SWIN_F32 && p->x->dtype != SWIN_F16 && p->x->dtype != SWIN_BF16)
        return swin_fail(SWIN_ERR_UNSUPPORTED, "%s: output of type %s", name, swin_dtype_name(p->x->dtype));
    SWIN_TRY(fetch(o, p));
    return o->fn(o->user, i, o->host, p->x->rows, p->x->cols);
}

swin_tap swin_outputs_tap(swin_outputs *o)
{
    return (swin_tap){ .user = o, .wants = wants, .at = at };
}

void swin_outputs_free(swin_outputs *o)
{
    free(o->host);
    free(o->raw);
    o->host = NULL;
    o->raw = NULL;
    o->host_size = o->raw_size = 0;
}
