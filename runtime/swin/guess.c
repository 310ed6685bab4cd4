#include "runtime/swin/guess.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int embed_dim, depth2, heads0;
} variants[] = {
    { "tiny", 96, 6, 3 },
    { "small", 96, 18, 3 },
    { "base", 128, 18, 4 },
    { "large", 192, 18, 6 },
};

const char *swin_config_variant(const swin_config *c)
{
    for (size_t i = 0; i < SWIN_COUNT(variants); i++) {
        bool same = c->num_stages == 4 && c->embed_dim == variants[i].embed_dim &&
                    c->depths[2] == variants[i].depth2;
        for (int s = 0; same && s < 4; s++) {
            same = c->heads[s] == variants[i].heads0 << s;
            if (s != 2 && c->depths[s] != 2) same = false;
        }
        if (same) return variants[i].name;
    }
    return "custom";
}

static const swin_ckpt_tensor *find(const swin_ckpt *ck, int stage, int block, const char *name)
{
    char key[128];
    snprintf(key, sizeof key, "layers.%d.blocks.%d.%s", stage, block, name);
    return swin_ckpt_find(ck, key);
}

/* Dimension i as an int, 0 where it is none that a network could have. */
static int dim(const swin_ckpt_tensor *t, int i)
{
    return t && i < t->ndim && t->shape[i] > 0 && t->shape[i] < 1 << 24 ? (int)t->shape[i] : 0;
}

static int square_root(int n)
{
    int r = 0;
    while (r < 4096 && (r + 1) * (r + 1) <= n) r++;
    return r * r == n ? r : 0;
}

/* The window of a stage: from V1's bias table, or from a stored index. */
static int window_of(const swin_ckpt *ck, int stage)
{
    const int side = square_root(dim(find(ck, stage, 0, "attn.relative_position_bias_table"), 0));
    if (side % 2) return (side + 1) / 2;
    const int table = dim(find(ck, stage, 0, "attn.relative_coords_table"), 1);
    if (table % 2) return (table + 1) / 2;
    return square_root(dim(find(ck, stage, 0, "attn.relative_position_index"), 0));
}

static swin_status no_swin(const char *key)
{
    return swin_fail(SWIN_ERR_MISMATCH, "no Swin: %s is missing or has an odd shape", key);
}

static swin_status guess_stages(swin_config *c, const swin_ckpt *ck)
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
        c->pretrained_window[s] = 0;
    }
    return c->num_stages ? SWIN_OK : no_swin("layers.0.blocks.0.norm1.weight");
}

/* The map that the last window covers, scaled up; a mask's count of windows is surer. */
static swin_status guess_sizes(swin_config *c, const swin_ckpt *ck)
{
    const int last = c->num_stages - 1;
    c->window = window_of(ck, 0);
    const int end = window_of(ck, last), across = square_root(dim(find(ck, 0, 1, "attn.attn_mask"), 0));
    if (!c->window || !end) return no_swin("an attention's table or index, which tells the window,");
    if (c->window > 4096 || end > 4096) return no_swin("a window of that size");
    const int map = across ? across * c->window : end << last;
    if (map > 8192 / c->patch_size) return no_swin("a map of that size");
    c->image_size = map * c->patch_size;
    c->test_crop = c->image_size != 384;
    return SWIN_OK;
}

swin_status swin_config_guess(swin_config *c, const swin_ckpt *ck)
{
    *c = swin_config_default();
    const swin_ckpt_tensor *patch = swin_ckpt_find(ck, "patch_embed.proj.weight");
    c->embed_dim = dim(patch, 0);
    c->in_chans = dim(patch, 1);
    c->patch_size = dim(patch, 2);
    if (!c->embed_dim || !c->in_chans || !c->patch_size || patch->ndim != 4)
        return no_swin("patch_embed.proj.weight");
    c->family = find(ck, 0, 0, "attn.logit_scale") ? SWIN_V2 : SWIN_V1;
    SWIN_TRY(guess_stages(c, ck));
    SWIN_TRY(guess_sizes(c, ck));
    c->patch_norm = swin_ckpt_find(ck, "patch_embed.norm.weight") != NULL;
    c->qkv_bias = find(ck, 0, 0, c->family == SWIN_V2 ? "attn.q_bias" : "attn.qkv.bias") != NULL;
    c->mlp_ratio = (double)dim(find(ck, 0, 0, "mlp.fc1.weight"), 0) / c->embed_dim;
    c->num_classes = dim(swin_ckpt_find(ck, "head.weight"), 0);
    if (!c->num_classes) return no_swin("head.weight");
    const char *variant = swin_config_variant(c);
    snprintf(c->name, sizeof c->name, "%s_%s_patch%d_window%d_%d", c->family == SWIN_V2 ? "swinv2" : "swin",
             variant, c->patch_size, c->window, c->image_size);
    return swin_config_check(c);
}
