#include "tests/support/trained.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/rng.h"

static uint64_t fnv1a(const char *text)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (; *text; text++) h = (h ^ (unsigned char)*text) * 0x100000001b3u;
    return h;
}

static bool ends_with(const char *s, const char *tail)
{
    const size_t n = strlen(s), t = strlen(tail);
    return n >= t && strcmp(s + n - t, tail) == 0;
}

static void size_of(const swin_param *p, const swin_config *c, double *mean, double *sd)
{
    const bool weight = ends_with(p->key, ".weight");
    const bool in_block = strncmp(p->key, "layers.", 7) == 0 && !strstr(p->key, "downsample");
    *mean = 0;
    *sd = 0.1;
    if (strstr(p->key, "norm") && weight) {
        *mean = c->family == SWIN_V2 && in_block ? 0.5 : 1;
        *sd = 0.25;
    } else if (ends_with(p->key, "bias_table")) {
        *sd = 0.5;
    } else if (ends_with(p->key, "logit_scale")) {
        *mean = 3;
        *sd = 1.5;
    } else if (strstr(p->key, "cpb_mlp.0")) {
        *sd = 1;
    } else if (weight && !strstr(p->key, "cpb_mlp.2")) {
        const bool patch = strcmp(p->key, "patch_embed.proj.weight") == 0;
        *sd = (patch ? 1.5 : 1.2) / sqrt((double)p->count / (double)p->shape[0]);
    }
}

swin_status swin_trained_weights(swin_weights *w, const swin_config *c, uint64_t seed)
{
    swin_param *list;
    size_t count;
    SWIN_TRY(swin_weights_create(w, c));
    const swin_status st = swin_weights_list(c, w, &list, &count);
    if (st != SWIN_OK) {
        swin_weights_free(w);
        return st;
    }
    for (size_t i = 0; i < count; i++) {
        swin_rng r = { .state = seed * 0x9e3779b97f4a7c15u + fnv1a(list[i].key) };
        double mean, sd;
        size_of(&list[i], c, &mean, &sd);
        for (size_t k = 0; k < list[i].count; k++)
            (*list[i].slot)[k] = (float)(mean + sd * swin_rng_normal(&r));
    }
    free(list);
    return SWIN_OK;
}
