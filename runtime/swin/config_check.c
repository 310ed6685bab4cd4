/* What follows from a configuration, and what makes it unusable. Reading one is config.c's. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/swin/config.h"

#define MAX_CHANNELS 65536 /* of the last stage; keeps every product of sizes far inside 64 bits */

static const char *section(const swin_config *c)
{
    return c->family == SWIN_V2 ? "MODEL.SWINV2" : "MODEL.SWIN";
}

swin_stage swin_config_stage(const swin_config *c, int stage)
{
    swin_stage s = {
        .channels = c->embed_dim << stage,
        .resolution = (c->image_size / c->patch_size) >> stage,
        .heads = c->heads[stage],
        .depth = c->depths[stage],
        .merge = stage + 1 < c->num_stages,
    };
    s.head_size = s.channels / s.heads;
    s.hidden = (int)(s.channels * c->mlp_ratio);
    const bool one_window = s.resolution <= c->window;
    s.window = one_window ? s.resolution : c->window;
    s.shift = one_window ? 0 : c->window / 2;
    return s;
}

int swin_config_shift(const swin_config *c, int stage, int block)
{
    return block % 2 ? swin_config_stage(c, stage).shift : 0;
}

static swin_status check_int(const char *section_name, const char *key, int v, int lo, int hi)
{
    if (v >= lo && v <= hi) return SWIN_OK;
    return swin_fail(SWIN_ERR_VALUE, "%s.%s: %d is not in %d..%d", section_name, key, v, lo, hi);
}

static swin_status check_scalars(const swin_config *c)
{
    const char *arch = section(c);
    if (c->family != SWIN_V1 && c->family != SWIN_V2)
        return swin_fail(SWIN_ERR_VALUE, "MODEL.TYPE: unknown family");
    SWIN_TRY(check_int("DATA", "IMG_SIZE", c->image_size, 1, 8192));
    SWIN_TRY(check_int("MODEL", "NUM_CLASSES", c->num_classes, 1, 10000000));
    SWIN_TRY(check_int(arch, "PATCH_SIZE", c->patch_size, 1, 64));
    SWIN_TRY(check_int(arch, "EMBED_DIM", c->embed_dim, 1, MAX_CHANNELS));
    SWIN_TRY(check_int(arch, "WINDOW_SIZE", c->window, 1, 64));
    SWIN_TRY(check_int(arch, "DEPTHS (number of stages)", c->num_stages, 1, SWIN_MAX_STAGES));
    if (c->in_chans != 3)
        return swin_fail(SWIN_ERR_UNSUPPORTED, "%s.IN_CHANS: %d: images have 3 channels here", arch,
                         c->in_chans);
    if (!(c->mlp_ratio > 0 && c->mlp_ratio <= 64))
        return swin_fail(SWIN_ERR_VALUE, "%s.MLP_RATIO: %g is not in (0, 64]", arch, c->mlp_ratio);
    if (!isfinite(c->qk_scale)) return swin_fail(SWIN_ERR_VALUE, "%s.QK_SCALE: not a finite number", arch);
    if (c->image_size % c->patch_size != 0)
        return swin_fail(SWIN_ERR_VALUE, "DATA.IMG_SIZE: %d is not a multiple of PATCH_SIZE %d",
                         c->image_size, c->patch_size);
    return SWIN_OK;
}

static swin_status check_stage(const swin_config *c, int i)
{
    const char *arch = section(c);
    if (c->depths[i] < 1 || c->depths[i] > 255)
        return swin_fail(SWIN_ERR_VALUE, "%s.DEPTHS: %d in stage %d is not in 1..255", arch, c->depths[i], i);
    if (c->embed_dim > MAX_CHANNELS >> i)
        return swin_fail(SWIN_ERR_VALUE, "%s.EMBED_DIM: %d makes more than %d channels in stage %d", arch,
                         c->embed_dim, MAX_CHANNELS, i);
    const int channels = c->embed_dim << i, res = (c->image_size / c->patch_size) >> i;
    if (c->heads[i] < 1 || channels % c->heads[i] != 0)
        return swin_fail(SWIN_ERR_VALUE, "%s.NUM_HEADS: %d does not divide the %d channels of stage %d", arch,
                         c->heads[i], channels, i);
    if (res < 1 || (i + 1 < c->num_stages && res % 2 != 0))
        return swin_fail(SWIN_ERR_VALUE,
                         "DATA.IMG_SIZE: %d leaves stage %d a map of %dx%d, which patch merging cannot halve",
                         c->image_size, i, res, res);
    if (res > c->window && res % c->window != 0)
        return swin_fail(SWIN_ERR_VALUE,
                         "%s.WINDOW_SIZE: %d does not divide the %dx%d map of stage %d (DATA.IMG_SIZE %d)",
                         arch, c->window, res, res, i, c->image_size);
    if (swin_config_stage(c, i).hidden < 1)
        return swin_fail(SWIN_ERR_VALUE, "%s.MLP_RATIO: %g leaves stage %d no hidden channel", arch,
                         c->mlp_ratio, i);
    if (c->pretrained_window[i] < 0 || c->pretrained_window[i] > 1024 || c->pretrained_window[i] == 1)
        return swin_fail(SWIN_ERR_VALUE, "%s.PRETRAINED_WINDOW_SIZES: %d in stage %d is not 0 or 2..1024",
                         arch, c->pretrained_window[i], i);
    return SWIN_OK;
}

swin_status swin_config_check(const swin_config *c)
{
    /* The name becomes part of file names and of the calibration file's text. */
    for (const char *p = c->name; *p; p++)
        if (*p < 32 || *p > 126 || *p == '/')
            return swin_fail(SWIN_ERR_VALUE, "MODEL.NAME: only printable ASCII without '/' is accepted");
    if (!c->name[0]) return swin_fail(SWIN_ERR_VALUE, "MODEL.NAME: is empty");
    SWIN_TRY(check_scalars(c));
    for (int i = 0; i < c->num_stages; i++) SWIN_TRY(check_stage(c, i));
    return SWIN_OK;
}

bool swin_config_same_network(const swin_config *a, const swin_config *b)
{
    if (a->family != b->family || a->image_size != b->image_size || a->patch_size != b->patch_size ||
        a->in_chans != b->in_chans || a->num_classes != b->num_classes || a->embed_dim != b->embed_dim ||
        a->num_stages != b->num_stages || a->window != b->window || a->mlp_ratio != b->mlp_ratio ||
        a->qkv_bias != b->qkv_bias || a->patch_norm != b->patch_norm)
        return false;
    if (a->family == SWIN_V1 && a->qk_scale != b->qk_scale) return false;
    for (int i = 0; i < a->num_stages; i++) {
        if (a->depths[i] != b->depths[i] || a->heads[i] != b->heads[i]) return false;
        if (a->family == SWIN_V2 && a->pretrained_window[i] != b->pretrained_window[i]) return false;
    }
    return true;
}

/* "[2, 2, 6, 2]" */
static void print_list(FILE *f, const char *key, const int *v, int n)
{
    fprintf(f, "    %s: [", key);
    for (int i = 0; i < n; i++) fprintf(f, "%s%d", i ? ", " : "", v[i]);
    fprintf(f, "]\n");
}

/* The fewest digits that read back to the same double, so that the text depends on the value alone. */
static void print_double(FILE *f, const char *key, double v)
{
    char text[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v) break;
    }
    fprintf(f, "    %s: %s\n", key, text);
}

static void print_arch(FILE *f, const swin_config *c)
{
    const bool v2 = c->family == SWIN_V2;
    fprintf(f, "  %s:\n", v2 ? "SWINV2" : "SWIN");
    fprintf(f, "    PATCH_SIZE: %d\n    IN_CHANS: %d\n    EMBED_DIM: %d\n", c->patch_size, c->in_chans,
            c->embed_dim);
    print_list(f, "DEPTHS", c->depths, c->num_stages);
    print_list(f, "NUM_HEADS", c->heads, c->num_stages);
    fprintf(f, "    WINDOW_SIZE: %d\n", c->window);
    print_double(f, "MLP_RATIO", c->mlp_ratio);
    fprintf(f, "    QKV_BIAS: %s\n", c->qkv_bias ? "true" : "false");
    if (!v2 && c->qk_scale != 0) print_double(f, "QK_SCALE", c->qk_scale);
    fprintf(f, "    PATCH_NORM: %s\n", c->patch_norm ? "true" : "false");
    if (v2) print_list(f, "PRETRAINED_WINDOW_SIZES", c->pretrained_window, c->num_stages);
}

char *swin_config_text(const swin_config *c)
{
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    if (!f) return NULL;
    fprintf(f, "DATA:\n  IMG_SIZE: %d\nMODEL:\n  TYPE: %s\n  NAME: '", c->image_size,
            c->family == SWIN_V2 ? "swinv2" : "swin");
    for (const char *p = c->name; *p; p++) fprintf(f, *p == '\'' ? "''" : "%c", *p);
    fprintf(f, "'\n  NUM_CLASSES: %d\n", c->num_classes);
    print_arch(f, c);
    fprintf(f, "TEST:\n  CROP: %s\n", c->test_crop ? "true" : "false");
    const bool bad = ferror(f) != 0;
    if (fclose(f) == 0 && !bad) return text;
    free(text);
    return NULL;
}
