/* runtime/swin/config_impl.h - a configuration while it is read; for config*.c alone. */
#ifndef SWIN_SWIN_CONFIG_IMPL_H
#define SWIN_SWIN_CONFIG_IMPL_H

#include "runtime/swin/config.h"

#define CONFIG_WORD 256 /* bytes of a key or value, its zero included */

typedef struct config_ints {
    int count, v[SWIN_MAX_STAGES];
} config_ints;

/* What MODEL.SWIN and MODEL.SWINV2 say; which of the two counts is known only when MODEL.TYPE is. */
typedef struct config_arch {
    int patch_size, in_chans, embed_dim, window;
    double mlp_ratio, qk_scale;
    bool qkv_bias, ape, patch_norm;
    config_ints depths, heads, pretrained;
} config_arch;

typedef struct config_draft {
    char name[sizeof((swin_config *)0)->name];
    swin_family family;
    int image_size, num_classes; /* num_classes 0: not given */
    bool test_crop, imagenet22k;
    config_arch arch[2]; /* by swin_family */
} config_draft;

/* ---- keys (config_keys.c) ---- */

typedef enum config_kind {
    CONFIG_INT,
    CONFIG_REAL,
    CONFIG_BOOL,
    CONFIG_INTS,
    CONFIG_NAME,
    CONFIG_TYPE,
    CONFIG_DATASET,
    CONFIG_INTERPOLATION,
    CONFIG_SECTION, /* holds keys */
    CONFIG_SKIP     /* has no meaning here */
} config_kind;

typedef struct config_key {
    const char *path; /* in full, or inside MODEL.SWIN and MODEL.SWINV2 */
    config_kind kind;
    size_t offset;
} config_key;

/* The key of that path; *base is where its offset counts from. NULL: unknown. */
const config_key *config_find_key(config_draft *d, const char *path, void **base);

/* Put a value given as text. The message says what is wrong with it, not whose it is. */
swin_status config_set(const config_key *k, void *base, const char *text);

/* ---- YAML (config_yaml.c) ---- */

/* Let a document change d. where: its name in messages; bases: BASE files being read, -1: BASE is refused. */
swin_status config_read_text(config_draft *d, const char *text, size_t size, const char *where, int bases);
swin_status config_read_file(config_draft *d, const char *path, int bases);

#endif
