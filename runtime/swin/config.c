/* Configurations from official YAML files and KEY VALUE overrides. */
#include "runtime/swin/config.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/log.h"
#include "runtime/swin/config_impl.h"

static config_draft draft_default(void)
{
    const config_arch a = {
        .patch_size = 4,
        .in_chans = 3,
        .embed_dim = 96,
        .window = 7,
        .mlp_ratio = 4,
        .qkv_bias = true,
        .patch_norm = true,
        .depths = { 4, { 2, 2, 6, 2 } },
        .heads = { 4, { 3, 6, 12, 24 } },
    };
    return (config_draft){ "swin_tiny_patch4_window7_224", SWIN_V1, 224, 0, true, false, { a, a } };
}

static swin_status apply_overrides(config_draft *d, const swin_pairs *overrides)
{
    for (int i = 0; overrides && i < overrides->count; i++) {
        const char *path = overrides->words[2 * i], *value = overrides->words[2 * i + 1];
        void *base;
        const config_key *k = config_find_key(d, path, &base);
        /* TRAIN.*, AUG.* are whole sections without a meaning here. */
        const bool training = strncmp(path, "TRAIN.", 6) == 0 || strncmp(path, "AUG.", 4) == 0;
        if (!k && !training) return swin_fail(SWIN_ERR_USAGE, "--opts: unknown key %s", path);
        if (!k || k->kind == CONFIG_SKIP) {
            swin_note("--opts %s: has no meaning here, ignored", path);
        } else if (config_set(k, base, value) != SWIN_OK) {
            return swin_fail_context(SWIN_ERR_USAGE, "--opts %s", path);
        }
    }
    return SWIN_OK;
}

static swin_status finish(swin_config *c, const config_draft *d)
{
    const config_arch *a = &d->arch[d->family];
    const char *name = d->family == SWIN_V2 ? "MODEL.SWINV2" : "MODEL.SWIN";
    *c = (swin_config){
        .family = d->family,
        .image_size = d->image_size,
        .num_classes = d->num_classes   ? d->num_classes
                       : d->imagenet22k ? 21841
                                        : 1000,
        .classes_given = d->num_classes != 0,
        .test_crop = d->test_crop,
        .patch_size = a->patch_size,
        .in_chans = a->in_chans,
        .embed_dim = a->embed_dim,
        .window = a->window,
        .mlp_ratio = a->mlp_ratio,
        .qkv_bias = a->qkv_bias,
        .qk_scale = d->family == SWIN_V1 ? a->qk_scale : 0,
        .patch_norm = a->patch_norm,
        .num_stages = a->depths.count,
    };
    strcpy(c->name, d->name);
    if (a->ape)
        return swin_fail(SWIN_ERR_UNSUPPORTED, "%s.APE: absolute position embedding is not supported", name);
    if (a->heads.count != a->depths.count)
        return swin_fail(SWIN_ERR_VALUE, "%s: DEPTHS has %d stages, NUM_HEADS has %d", name, a->depths.count,
                         a->heads.count);
    const bool pretrained = d->family == SWIN_V2 && a->pretrained.count;
    if (pretrained && a->pretrained.count != a->depths.count)
        return swin_fail(SWIN_ERR_VALUE, "%s: DEPTHS has %d stages, PRETRAINED_WINDOW_SIZES has %d", name,
                         a->depths.count, a->pretrained.count);
    for (int i = 0; i < c->num_stages; i++) {
        c->depths[i] = a->depths.v[i];
        c->heads[i] = a->heads.v[i];
        c->pretrained_window[i] = pretrained ? a->pretrained.v[i] : 0;
    }
    return swin_config_check(c);
}

swin_config swin_config_default(void)
{
    const config_draft d = draft_default();
    swin_config c;
    (void)finish(&c, &d); /* the defaults pass */
    return c;
}

swin_status swin_config_load(swin_config *c, const char *path, const swin_pairs *overrides)
{
    config_draft d = draft_default();
    if (path) SWIN_TRY(config_read_file(&d, path, 0));
    SWIN_TRY(apply_overrides(&d, overrides));
    const swin_status st = finish(c, &d);
    return st == SWIN_OK || !path ? st : swin_fail_context(st, "%s", path);
}

swin_status swin_config_parse(swin_config *c, const char *text, size_t size, const char *where)
{
    config_draft d = draft_default();
    SWIN_TRY(config_read_text(&d, text, size, where, -1));
    const swin_status st = finish(c, &d);
    return st == SWIN_OK ? st : swin_fail_context(st, "%s", where);
}

swin_status swin_config_override(swin_config *c, const swin_pairs *overrides)
{
    if (!overrides->count) return SWIN_OK;
    config_draft d = draft_default();
    char *text = swin_config_text(c);
    if (!text) return swin_fail(SWIN_ERR_MEM, "no memory for the configuration");
    swin_status st = config_read_text(&d, text, strlen(text), c->name, -1);
    free(text);
    if (st == SWIN_OK) st = apply_overrides(&d, overrides);
    if (st != SWIN_OK) return st;
    bool given = c->classes_given; /* the text spells the number out, asked for or not */
    for (int i = 0; i < overrides->count; i++)
        given = given || strcmp(overrides->words[2 * i], "MODEL.NUM_CLASSES") == 0;
    SWIN_TRY(finish(c, &d));
    c->classes_given = given;
    return SWIN_OK;
}
