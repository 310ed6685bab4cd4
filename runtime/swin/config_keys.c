/* The keys of a configuration, in one table, and how their values are spelt. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "runtime/swin/config_impl.h"

static const config_key keys[] = {
    { "DATA", CONFIG_SECTION, 0 },
    { "DATA.IMG_SIZE", CONFIG_INT, offsetof(config_draft, image_size) },
    { "DATA.DATASET", CONFIG_DATASET, offsetof(config_draft, imagenet22k) },
    { "DATA.INTERPOLATION", CONFIG_INTERPOLATION, 0 },
    { "MODEL", CONFIG_SECTION, 0 },
    { "MODEL.TYPE", CONFIG_TYPE, offsetof(config_draft, family) },
    { "MODEL.NAME", CONFIG_NAME, offsetof(config_draft, name) },
    { "MODEL.NUM_CLASSES", CONFIG_INT, offsetof(config_draft, num_classes) },
    { "MODEL.SWIN", CONFIG_SECTION, 0 },
    { "MODEL.SWINV2", CONFIG_SECTION, 0 },
    { "TEST", CONFIG_SECTION, 0 },
    { "TEST.CROP", CONFIG_BOOL, offsetof(config_draft, test_crop) },
    /* What has no meaning without training, or for this network. */
    { "BASE", CONFIG_SKIP, 0 }, /* followed beforehand */
    { "TRAIN", CONFIG_SKIP, 0 },
    { "AUG", CONFIG_SKIP, 0 },
    { "MODEL.PRETRAINED", CONFIG_SKIP, 0 },
    { "MODEL.RESUME", CONFIG_SKIP, 0 },
    { "MODEL.DROP_RATE", CONFIG_SKIP, 0 },
    { "MODEL.DROP_PATH_RATE", CONFIG_SKIP, 0 },
    { "MODEL.LABEL_SMOOTHING", CONFIG_SKIP, 0 },
    { "MODEL.SWIN_MLP", CONFIG_SKIP, 0 },
    { "MODEL.SWIN_MOE", CONFIG_SKIP, 0 },
    { "MODEL.SIMMIM", CONFIG_SKIP, 0 },
    { "DATA.BATCH_SIZE", CONFIG_SKIP, 0 },
    { "DATA.DATA_PATH", CONFIG_SKIP, 0 },
    { "DATA.ZIP_MODE", CONFIG_SKIP, 0 },
    { "DATA.CACHE_MODE", CONFIG_SKIP, 0 },
    { "DATA.PIN_MEMORY", CONFIG_SKIP, 0 },
    { "DATA.NUM_WORKERS", CONFIG_SKIP, 0 },
    { "DATA.MASK_PATCH_SIZE", CONFIG_SKIP, 0 },
    { "DATA.MASK_RATIO", CONFIG_SKIP, 0 },
    { "TEST.SEQUENTIAL", CONFIG_SKIP, 0 },
    { "TEST.SHUFFLE", CONFIG_SKIP, 0 },
    { "AMP_ENABLE", CONFIG_SKIP, 0 },
    { "ENABLE_AMP", CONFIG_SKIP, 0 },
    { "AMP_OPT_LEVEL", CONFIG_SKIP, 0 },
    { "OUTPUT", CONFIG_SKIP, 0 },
    { "TAG", CONFIG_SKIP, 0 },
    { "SAVE_FREQ", CONFIG_SKIP, 0 },
    { "PRINT_FREQ", CONFIG_SKIP, 0 },
    { "SEED", CONFIG_SKIP, 0 },
    { "EVAL_MODE", CONFIG_SKIP, 0 },
    { "THROUGHPUT_MODE", CONFIG_SKIP, 0 },
    { "LOCAL_RANK", CONFIG_SKIP, 0 },
    { "FUSED_WINDOW_PROCESS", CONFIG_SKIP, 0 },
    { "FUSED_LAYERNORM", CONFIG_SKIP, 0 },
};

static const config_key arch_keys[] = {
    { "PATCH_SIZE", CONFIG_INT, offsetof(config_arch, patch_size) },
    { "IN_CHANS", CONFIG_INT, offsetof(config_arch, in_chans) },
    { "EMBED_DIM", CONFIG_INT, offsetof(config_arch, embed_dim) },
    { "DEPTHS", CONFIG_INTS, offsetof(config_arch, depths) },
    { "NUM_HEADS", CONFIG_INTS, offsetof(config_arch, heads) },
    { "WINDOW_SIZE", CONFIG_INT, offsetof(config_arch, window) },
    { "MLP_RATIO", CONFIG_REAL, offsetof(config_arch, mlp_ratio) },
    { "QKV_BIAS", CONFIG_BOOL, offsetof(config_arch, qkv_bias) },
    { "APE", CONFIG_BOOL, offsetof(config_arch, ape) },
    { "PATCH_NORM", CONFIG_BOOL, offsetof(config_arch, patch_norm) },
    { "QK_SCALE", CONFIG_REAL, offsetof(config_arch, qk_scale) },                  /* V1 */
    { "PRETRAINED_WINDOW_SIZES", CONFIG_INTS, offsetof(config_arch, pretrained) }, /* V2 */
};

static swin_status set_int(int *out, const char *text)
{
    char *end;
    errno = 0;
    const long v = strtol(text, &end, 10);
    if (end == text || *end || errno || v < -1000000000 || v > 1000000000)
        return swin_fail(SWIN_ERR_FORMAT, "'%s' is not an integer of use here", text);
    *out = (int)v;
    return SWIN_OK;
}

static swin_status set_real(double *out, const char *text)
{
    char *end;
    if (!*text || strcmp(text, "~") == 0 || strcasecmp(text, "null") == 0 || strcasecmp(text, "none") == 0) {
        *out = 0;
        return SWIN_OK;
    }
    const double v = strtod(text, &end);
    if (end == text || *end || !isfinite(v)) return swin_fail(SWIN_ERR_FORMAT, "'%s' is not a number", text);
    *out = v;
    return SWIN_OK;
}

static swin_status set_bool(bool *out, const char *text)
{
    static const char *const yes[] = { "true", "yes", "on" }, *const no[] = { "false", "no", "off" };
    for (size_t i = 0; i < SWIN_COUNT(yes); i++) {
        if (strcasecmp(text, yes[i]) != 0 && strcasecmp(text, no[i]) != 0) continue;
        *out = strcasecmp(text, yes[i]) == 0;
        return SWIN_OK;
    }
    return swin_fail(SWIN_ERR_FORMAT, "'%s' is neither true nor false", text);
}

/* "2,2,6,2", in brackets or not. */
static swin_status set_ints(config_ints *out, const char *text)
{
    char copy[CONFIG_WORD];
    if (strlen(text) >= sizeof copy) return swin_fail(SWIN_ERR_FORMAT, "list too long");
    strcpy(copy, text);
    *out = (config_ints){ 0 };
    char *save = NULL, *list = copy, *const last = copy + strlen(copy) - (*copy != '\0');
    if ((*copy == '[' && *last == ']') || (*copy == '(' && *last == ')')) {
        *last = '\0';
        list++;
    }
    for (char *w = strtok_r(list, ", \t", &save); w; w = strtok_r(NULL, ", \t", &save)) {
        if (out->count == SWIN_MAX_STAGES)
            return swin_fail(SWIN_ERR_VALUE, "more than %d stages in '%s'", SWIN_MAX_STAGES, text);
        SWIN_TRY(set_int(&out->v[out->count++], w));
    }
    return out->count ? SWIN_OK : swin_fail(SWIN_ERR_FORMAT, "'%s' is not a list of integers", text);
}

static swin_status set_type(swin_family *out, const char *text)
{
    if (strcmp(text, "swin") != 0 && strcmp(text, "swinv2") != 0)
        return swin_fail(SWIN_ERR_UNSUPPORTED, "'%s' is neither swin nor swinv2", text);
    *out = strcmp(text, "swinv2") == 0 ? SWIN_V2 : SWIN_V1;
    return SWIN_OK;
}

swin_status config_set(const config_key *k, void *base, const char *text)
{
    void *at = (char *)base + k->offset;
    switch (k->kind) {
    case CONFIG_INT:
        return set_int(at, text);
    case CONFIG_REAL:
        return set_real(at, text);
    case CONFIG_BOOL:
        return set_bool(at, text);
    case CONFIG_INTS:
        return set_ints(at, text);
    case CONFIG_TYPE:
        return set_type(at, text);
    case CONFIG_NAME:
        if (strlen(text) >= sizeof((config_draft *)0)->name)
            return swin_fail(SWIN_ERR_VALUE, "name too long");
        strcpy(at, text);
        return SWIN_OK;
    case CONFIG_DATASET:
        *(bool *)at = strcasecmp(text, "imagenet22k") == 0;
        return SWIN_OK;
    case CONFIG_INTERPOLATION:
        if (strcmp(text, "bicubic") == 0) return SWIN_OK;
        return swin_fail(SWIN_ERR_UNSUPPORTED, "'%s': images are resized with bicubic only", text);
    case CONFIG_SECTION:
        return swin_fail(SWIN_ERR_FORMAT, "holds keys, not a value");
    case CONFIG_SKIP:
        break;
    }
    return SWIN_OK;
}

const config_key *config_find_key(config_draft *d, const char *path, void **base)
{
    *base = d;
    for (size_t i = 0; i < SWIN_COUNT(keys); i++)
        if (strcmp(keys[i].path, path) == 0) return &keys[i];
    const bool v2 = strncmp(path, "MODEL.SWINV2.", 13) == 0;
    if (!v2 && strncmp(path, "MODEL.SWIN.", 11) != 0) return NULL;
    const char *rest = path + (v2 ? 13 : 11);
    if (strcmp(rest, v2 ? "QK_SCALE" : "PRETRAINED_WINDOW_SIZES") == 0) return NULL;
    *base = &d->arch[v2 ? SWIN_V2 : SWIN_V1];
    for (size_t i = 0; i < SWIN_COUNT(arch_keys); i++)
        if (strcmp(arch_keys[i].path, rest) == 0) return &arch_keys[i];
    return NULL;
}
