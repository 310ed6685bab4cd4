#include "runtime/swin/site.h"

#include <stdio.h>
#include <string.h>

typedef struct site_kind {
    swin_site_owner owner;
    const char *module, *suffix;
    swin_site_role role;
} site_kind;

static const site_kind kinds[SWIN_SITE_KIND_COUNT] = {
#define SITE_ROW(kind, own, mod, suf, rol) { SWIN_OWNER_##own, mod, suf, SWIN_ROLE_##rol },
    SWIN_SITE_KINDS(SITE_ROW)
#undef SITE_ROW
};

/* Observer sites come first in the list of kinds: a block's, then a merge's. */
enum {
    BLOCK_KINDS = SWIN_SITE_ADD2_LOCAL + 1,
    MERGE_SITES = SWIN_SITE_REDUCTION_AFTERGEMM + 1 - BLOCK_KINDS,
    V2_KINDS = 2, /* of a block's: mha_q and mha_k, side by side */
};
_Static_assert(SWIN_SITE_MHA_K == SWIN_SITE_MHA_Q + 1, "V1's sites skip both at once");

static int block_sites(const swin_config *c)
{
    return c->family == SWIN_V2 ? BLOCK_KINDS : BLOCK_KINDS - V2_KINDS;
}

/* The i-th of a block's sites, and back. */
static swin_site_kind block_kind(const swin_config *c, int i)
{
    return (swin_site_kind)(c->family == SWIN_V2 || i < SWIN_SITE_MHA_Q ? i : i + V2_KINDS);
}
static int block_place(const swin_config *c, int kind)
{
    return c->family == SWIN_V2 || kind < SWIN_SITE_MHA_Q ? kind : kind - V2_KINDS;
}

static const site_kind *kind_of(swin_site s)
{
    static const site_kind none = { SWIN_OWNER_MODEL, "?", "", SWIN_ROLE_OUTPUT };
    return swin_site_kind_of(s) < SWIN_SITE_KIND_COUNT ? &kinds[swin_site_kind_of(s)] : &none;
}

swin_site_role swin_site_role_of(swin_site s)
{
    return kind_of(s)->role;
}

swin_site_owner swin_site_owner_of(swin_site s)
{
    return kind_of(s)->owner;
}

const char *swin_site_role_name(swin_site_role r)
{
    switch (r) {
    case SWIN_ROLE_INPUT:
        return "input";
    case SWIN_ROLE_GELU:
        return "gelu";
    case SWIN_ROLE_WEIGHT:
        return "weight";
    case SWIN_ROLE_AFTERGEMM:
        return "aftergemm";
    case SWIN_ROLE_AFTERGEMM_WIDE:
        return "aftergemm_wide";
    case SWIN_ROLE_MATMUL:
        return "matmul";
    case SWIN_ROLE_SOFTMAX:
        return "softmax";
    case SWIN_ROLE_OFF:
        return "off";
    case SWIN_ROLE_OUTPUT:
        return "output";
    }
    return "?";
}

void swin_site_module(swin_site s, char name[SWIN_SITE_NAME_MAX])
{
    const site_kind *k = kind_of(s);
    const char *dot = k->module[0] ? "." : "";
    if (k->owner == SWIN_OWNER_BLOCK || k->owner == SWIN_OWNER_BLOCK_V2)
        snprintf(name, SWIN_SITE_NAME_MAX, "layers.%d.blocks.%d%s%s", swin_site_stage(s), swin_site_block(s),
                 dot, k->module);
    else if (k->owner == SWIN_OWNER_MERGE)
        snprintf(name, SWIN_SITE_NAME_MAX, "layers.%d.downsample%s%s", swin_site_stage(s), dot, k->module);
    else
        snprintf(name, SWIN_SITE_NAME_MAX, "%s", k->module);
}

void swin_site_name(swin_site s, char name[SWIN_SITE_NAME_MAX])
{
    swin_site_module(s, name);
    const char *suffix = kind_of(s)->suffix;
    const size_t at = strlen(name);
    if (suffix[0]) snprintf(name + at, SWIN_SITE_NAME_MAX - at, ".%s", suffix);
}

static int stage_sites(const swin_config *c, int stage)
{
    return c->depths[stage] * block_sites(c) + (stage + 1 < c->num_stages ? MERGE_SITES : 0);
}

int swin_site_count(const swin_config *c)
{
    int n = 0;
    for (int s = 0; s < c->num_stages; s++) n += stage_sites(c, s);
    return n;
}

swin_site swin_site_at(const swin_config *c, int i)
{
    if (i < 0) return SWIN_NO_SITE;
    for (int s = 0; s < c->num_stages; i -= stage_sites(c, s), s++) {
        if (i >= stage_sites(c, s)) continue;
        const int block = i / block_sites(c), of_merge = i - c->depths[s] * block_sites(c);
        if (block < c->depths[s]) return swin_site_make(s, block, block_kind(c, i % block_sites(c)));
        return swin_site_make(s, 0, (swin_site_kind)(BLOCK_KINDS + of_merge));
    }
    return SWIN_NO_SITE;
}

/* Whether this network has the site at all, observer or output. */
static bool exists(const swin_config *c, swin_site s)
{
    const int stage = swin_site_stage(s), block = swin_site_block(s);
    if (swin_site_kind_of(s) >= SWIN_SITE_KIND_COUNT || stage >= c->num_stages) return false;
    switch (kind_of(s)->owner) {
    case SWIN_OWNER_BLOCK:
        return block < c->depths[stage];
    case SWIN_OWNER_BLOCK_V2:
        return c->family == SWIN_V2 && block < c->depths[stage];
    case SWIN_OWNER_MERGE:
        return block == 0 && stage + 1 < c->num_stages;
    case SWIN_OWNER_MODEL:
        return block == 0 && stage == 0;
    }
    return false;
}

int swin_site_index(const swin_config *c, swin_site s)
{
    if (!exists(c, s) || swin_site_role_of(s) == SWIN_ROLE_OUTPUT) return -1;
    int at = 0;
    for (int stage = 0; stage < swin_site_stage(s); stage++) at += stage_sites(c, stage);
    const int kind = (int)swin_site_kind_of(s);
    if (kind < BLOCK_KINDS) return at + swin_site_block(s) * block_sites(c) + block_place(c, kind);
    return at + c->depths[swin_site_stage(s)] * block_sites(c) + kind - BLOCK_KINDS;
}

swin_site swin_site_find(const swin_config *c, const char *name)
{
    unsigned stage = 0, block = 0; /* absent numbers leave 0, as model-wide sites have it */
    if (sscanf(name, "layers.%3u.blocks.%3u", &stage, &block) < 1) stage = 0;
    if (stage > 255 || block > 255) return SWIN_NO_SITE;
    for (int kind = 0; kind < SWIN_SITE_KIND_COUNT; kind++) {
        const swin_site s = swin_site_make((int)stage, (int)block, (swin_site_kind)kind);
        char spelled[SWIN_SITE_NAME_MAX];
        swin_site_name(s, spelled);
        if (strcmp(spelled, name) == 0 && exists(c, s)) return s;
    }
    return SWIN_NO_SITE;
}
