/* runtime/swin/config.h - a model's hyper-parameters, from the official YAML files, checked once.
 *
 * Keys and defaults: reference/swin.md section 10. A file may hold training keys (TRAIN, AUG, DATA.DATASET, ...), which are
 * ignored; an unknown key under MODEL, MODEL.SWIN or MODEL.SWINV2 is an error that names it.
 */
#ifndef SWIN_SWIN_CONFIG_H
#define SWIN_SWIN_CONFIG_H

#include <stdbool.h>

#include "runtime/base/field.h"
#include "runtime/base/status.h"

#define SWIN_MAX_STAGES 8

typedef enum swin_family { SWIN_V1, SWIN_V2 } swin_family;

typedef struct swin_config {
    char name[128];     /* MODEL.NAME */
    swin_family family; /* MODEL.TYPE: swin, swinv2 */
    int image_size;     /* DATA.IMG_SIZE: square, pixels */
    int patch_size;     /* 4 */
    int in_chans;       /* 3 */
    int num_classes;    /* MODEL.NUM_CLASSES */
    bool classes_given; /* set by the file or --opts: a differing checkpoint head is then an error */
    int embed_dim;      /* C: channels of stage 0; stage i has C << i */
    int num_stages;
    int depths[SWIN_MAX_STAGES];
    int heads[SWIN_MAX_STAGES];
    int window;       /* WINDOW_SIZE, before a stage shrinks it */
    double mlp_ratio; /* hidden / channels: 4 */
    bool qkv_bias;
    double qk_scale; /* V1; 0: head_size^-0.5 */
    bool patch_norm;
    int pretrained_window[SWIN_MAX_STAGES]; /* V2; 0: none */
    bool test_crop;                         /* TEST.CROP: resize the short side and crop, or squash */
} swin_config;

/* What one stage works on, derived. */
typedef struct swin_stage {
    int channels;   /* embed_dim << stage */
    int resolution; /* tokens on a side */
    int window;     /* min(config window, resolution) */
    int shift;      /* of odd blocks: window / 2, or 0 when one window covers the map */
    int heads, head_size, hidden, depth;
    bool merge; /* patch merging follows (every stage but the last) */
} swin_stage;

/* The defaults of section 10. */
swin_config swin_config_default(void);

/* Read `path` (NULL: the defaults), follow BASE, apply KEY VALUE overrides, check. Errors name file, line and key. */
swin_status swin_config_load(swin_config *c, const char *path, const swin_pairs *overrides);

/* The same from text in memory; `where` stands for the file name in errors, and BASE is refused. */
swin_status swin_config_parse(swin_config *c, const char *text, size_t size, const char *where);

/* Apply KEY VALUE overrides to a checked configuration, and check again. */
swin_status swin_config_override(swin_config *c, const swin_pairs *overrides);

/* Refuse what no network can be built from: heads that do not divide channels, a window that does not divide the map... */
swin_status swin_config_check(const swin_config *c);

/* stage in [0, num_stages). */
swin_stage swin_config_stage(const swin_config *c, int stage);

/* Shift of one block: 0 for even blocks. */
int swin_config_shift(const swin_config *c, int stage, int block);

/* The resolved config as YAML text that swin_config_parse reads back to an equal config; caller frees; NULL: no memory. */
char *swin_config_text(const swin_config *c);

/* True when both describe the same network (names and test_crop aside). */
bool swin_config_same_network(const swin_config *a, const swin_config *b);

#endif
