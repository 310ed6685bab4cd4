#include "runtime/swin/guess.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/swin/family.h"
#include "runtime/swin/resize_table.h"

static const struct {
    const char *name;
    int embed_dim, depth2, heads0;
} variants[] = {
    { "tiny", 96, 6, 3 },    { "small", 96, 18, 3 },   { "base", 128, 18, 4 },
    { "large", 192, 18, 6 }, { "tiny_c24", 96, 6, 4 },
};

/* Row of variants; -1: none of them. */
static int variant_of(const swin_config *c)
{
    for (size_t i = 0; i < SWIN_COUNT(variants); i++) {
        bool same = c->num_stages == 4 && c->embed_dim == variants[i].embed_dim &&
                    c->depths[2] == variants[i].depth2;
        for (int s = 0; same && s < 4; s++) {
            same = c->heads[s] == variants[i].heads0 << s;
            if (s != 2 && c->depths[s] != 2) same = false;
        }
        if (same) return (int)i;
    }
    return -1;
}

const char *swin_config_variant(const swin_config *c)
{
    const int i = variant_of(c);
    return i < 0 ? "custom" : variants[i].name;
}

static const swin_ckpt_tensor *find(const swin_keys *ck, int stage, int block, const char *name)
{
    char key[128];
    snprintf(key, sizeof key, "layers.%d.blocks.%d.%s", stage, block, name);
    return swin_keys_tensor(ck, key);
}

/* Dimension i as an int, 0 where it is none that a network could have. */
static int dim(const swin_ckpt_tensor *t, int i)
{
    return t && i < t->ndim && t->shape[i] > 0 && t->shape[i] < 1 << 24 ? (int)t->shape[i] : 0;
}

/* The window of a stage: from V1's bias table, or from a stored index. */
static int window_of(const swin_keys *ck, int stage)
{
    const int side = swin_table_side(dim(find(ck, stage, 0, "attn.relative_position_bias_table"), 0));
    if (side) return (side + 1) / 2;
    const int table = dim(find(ck, stage, 0, "attn.relative_coords_table"), 1);
    if (table % 2) return (table + 1) / 2;
    const swin_ckpt_tensor *index = find(ck, stage, 0, "attn.relative_position_index");
    return index ? (int)swin_square_root(swin_square_root((int64_t)index->count)) : 0;
}

/* V2: 0 where offsets are measured by the stage's own window. */
static int pretrained_of(const swin_keys *ck, int stage)
{
    const swin_ckpt_tensor *coords = find(ck, stage, 0, "attn.relative_coords_table");
    int window;
    const double p = coords ? swin_pretrained_window(coords, &window) : 0;
    return p >= 1.5 && p < 1024 && lrint(p) != window ? (int)lrint(p) : 0;
}

static swin_status no_swin(const char *key)
{
    return swin_fail(SWIN_ERR_MISMATCH, "no Swin: %s is missing or has an odd shape", key);
}

static swin_status guess_stages(swin_config *c, const swin_keys *ck)
{
    for (c->num_stages = 0; c->num_stages < SWIN_MAX_STAGES; c->num_stages++) {
        const int s = c->num_stages;
        int depth = 0;
        while (depth < 255 && find(ck, s, depth, "norm1.weight")) depth++;
        if (!depth) break;
        c->depths[s] = depth;
        c->heads[s] = c->family == SWIN_V2 ? dim(find(ck, s, 0, "attn.logit_scale"), 0)
                                           : dim(find(ck, s, 0, "attn.relative_position_bias_table"), 1);
        if (!c->heads[s]) return no_swin("an attention's position bias");
        c->pretrained_window[s] = c->family == SWIN_V2 ? pretrained_of(ck, s) : 0;
    }
    return c->num_stages ? SWIN_OK : no_swin("layers.0.blocks.0.norm1.weight");
}

/* The map that the last window covers, scaled up; a mask's count of windows is surer. */
static swin_status guess_sizes(swin_config *c, const swin_keys *ck)
{
    const int last = c->num_stages - 1, first = window_of(ck, 0), end = window_of(ck, last),
              across = (int)swin_square_root(dim(find(ck, 0, 1, "attn_mask"), 0));
    if (!first || !end) {
        c->window = 0;
        return swin_fail(
            SWIN_ERR_MISMATCH,
            "nothing in this checkpoint (%s names) tells the window of its attention: --cfg is needed",
            swin_keys_source(ck));
    }
    c->window = first;
    if (c->window > 4096 || end > 4096) return no_swin("a window of that size");
    const int map = across ? across * c->window : end << last;
    if (map > 8192 / c->patch_size) return no_swin("a map of that size");
    c->image_size = map * c->patch_size;
    c->test_crop = c->image_size != 384;
    return SWIN_OK;
}

/* ---- names ---- */

/* The official files; a network may be that of several. */
static const struct {
    const char *name;
    int variant, window, image; /* variant: row of `variants` */
    bool v2, k22, adapted;      /* 21,841 classes; offsets measured by another window */
} official[] = {
    { "swin_tiny_patch4_window7_224", 0, 7, 224, 0, 0, 0 },
    { "swin_small_patch4_window7_224", 1, 7, 224, 0, 0, 0 },
    { "swin_base_patch4_window7_224", 2, 7, 224, 0, 0, 0 },
    { "swin_base_patch4_window12_384_finetune", 2, 12, 384, 0, 0, 0 },
    { "swin_tiny_c24_patch4_window8_256", 4, 8, 256, 0, 0, 0 },
    { "swin_tiny_patch4_window7_224_22k", 0, 7, 224, 0, 1, 0 },
    { "swin_small_patch4_window7_224_22k", 1, 7, 224, 0, 1, 0 },
    { "swin_base_patch4_window7_224_22k", 2, 7, 224, 0, 1, 0 },
    { "swin_large_patch4_window7_224_22k", 3, 7, 224, 0, 1, 0 },
    { "swin_tiny_patch4_window7_224_22kto1k_finetune", 0, 7, 224, 0, 0, 0 },
    { "swin_small_patch4_window7_224_22kto1k_finetune", 1, 7, 224, 0, 0, 0 },
    { "swin_base_patch4_window7_224_22kto1k_finetune", 2, 7, 224, 0, 0, 0 },
    { "swin_large_patch4_window7_224_22kto1k_finetune", 3, 7, 224, 0, 0, 0 },
    { "swin_base_patch4_window12_384_22kto1k_finetune", 2, 12, 384, 0, 0, 0 },
    { "swin_large_patch4_window12_384_22kto1k_finetune", 3, 12, 384, 0, 0, 0 },
    { "swinv2_tiny_patch4_window8_256", 0, 8, 256, 1, 0, 0 },
    { "swinv2_tiny_patch4_window16_256", 0, 16, 256, 1, 0, 0 },
    { "swinv2_small_patch4_window8_256", 1, 8, 256, 1, 0, 0 },
    { "swinv2_small_patch4_window16_256", 1, 16, 256, 1, 0, 0 },
    { "swinv2_base_patch4_window8_256", 2, 8, 256, 1, 0, 0 },
    { "swinv2_base_patch4_window16_256", 2, 16, 256, 1, 0, 0 },
    { "swinv2_base_patch4_window12_192_22k", 2, 12, 192, 1, 1, 0 },
    { "swinv2_large_patch4_window12_192_22k", 3, 12, 192, 1, 1, 0 },
    { "swinv2_base_patch4_window12to16_192to256_22kto1k_ft", 2, 16, 256, 1, 0, 1 },
    { "swinv2_large_patch4_window12to16_192to256_22kto1k_ft", 3, 16, 256, 1, 0, 1 },
    { "swinv2_base_patch4_window12to24_192to384_22kto1k_ft", 2, 24, 384, 1, 0, 1 },
    { "swinv2_large_patch4_window12to24_192to384_22kto1k_ft", 3, 24, 384, 1, 0, 1 },
};

int swin_config_official(const swin_config *c, const char *names[], int max)
{
    int n = 0;
    const int variant = variant_of(c);
    for (size_t i = 0; i < SWIN_COUNT(official) && n < max; i++) {
        const bool sized = !c->window ||
                           (official[i].window == c->window && official[i].image == c->image_size &&
                            official[i].adapted == (c->pretrained_window[0] != 0));
        if (sized && official[i].variant == variant && official[i].v2 == (c->family == SWIN_V2) &&
            official[i].k22 == (c->num_classes == 21841))
            names[n++] = official[i].name;
    }
    return n;
}

static void name_it(swin_config *c)
{
    const char *name;
    if (swin_config_official(c, &name, 1))
        snprintf(c->name, sizeof c->name, "%s", name);
    else
        snprintf(c->name, sizeof c->name, "%s_%s_patch%d_window%d_%d",
                 c->family == SWIN_V2 ? "swinv2" : "swin", swin_config_variant(c), c->patch_size, c->window,
                 c->image_size);
}

swin_status swin_config_guess(swin_config *c, const swin_ckpt *ck)
{
    const swin_keys keys = swin_keys_of(ck), *k = &keys;
    *c = swin_config_default();
    const swin_ckpt_tensor *patch = swin_keys_tensor(k, "patch_embed.proj.weight");
    c->embed_dim = dim(patch, 0);
    c->in_chans = dim(patch, 1);
    c->patch_size = dim(patch, 2);
    if (!c->embed_dim || !c->in_chans || !c->patch_size || patch->ndim != 4)
        return no_swin("patch_embed.proj.weight");
    c->family = find(k, 0, 0, "attn.logit_scale") ? SWIN_V2 : SWIN_V1;
    SWIN_TRY(guess_stages(c, k));
    c->patch_norm = swin_keys_tensor(k, "patch_embed.norm.weight") != NULL;
    char bias[64];
    snprintf(bias, sizeof bias, "layers.0.blocks.0.attn.%s", c->family == SWIN_V2 ? "q_bias" : "qkv.bias");
    c->qkv_bias = swin_keys_find(k, bias).count > 0;
    c->mlp_ratio = (double)dim(find(k, 0, 0, "mlp.fc1.weight"), 0) / c->embed_dim;
    const swin_ckpt_tensor *head = swin_keys_tensor(k, "head.weight");
    c->num_classes = head ? dim(head, 0) : 1000; /* a feature extractor's: the loader tells */
    if (!c->num_classes) return no_swin("head.weight");
    SWIN_TRY(guess_sizes(c, k));
    name_it(c);
    return swin_config_check(c);
}
