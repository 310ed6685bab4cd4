/* Reading a configuration: official YAML files and KEY VALUE overrides, through one table of keys. */
#include "runtime/swin/config.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <yaml.h>

#include "runtime/base/file.h"
#include "runtime/base/log.h"

#define MAX_TEXT  (1u << 20) /* bytes of one file: the official ones have a few hundred */
#define MAX_BASES 8          /* BASE files within BASE files */
#define MAX_WORD  256

typedef struct int_list {
    int count, v[SWIN_MAX_STAGES];
} int_list;

/* What MODEL.SWIN and MODEL.SWINV2 say; which of the two counts is known only when MODEL.TYPE is. */
typedef struct arch {
    int patch_size, in_chans, embed_dim, window;
    double mlp_ratio, qk_scale;
    bool qkv_bias, ape, patch_norm;
    int_list depths, heads, pretrained;
} arch;

typedef struct draft {
    char name[sizeof((swin_config *)0)->name];
    swin_family family;
    int image_size, num_classes; /* num_classes 0: not given */
    bool test_crop, imagenet22k;
    arch arch[2]; /* by swin_family */
} draft;

typedef enum key_kind { INT, REAL, BOOL, INTS, NAME, TYPE, DATASET, INTERPOLATION, SECTION, SKIP } key_kind;

typedef struct key {
    const char *path; /* in full, or inside MODEL.SWIN and MODEL.SWINV2 */
    key_kind kind;
    size_t offset;
} key;

static const key keys[] = {
    { "DATA", SECTION, 0 },
    { "DATA.IMG_SIZE", INT, offsetof(draft, image_size) },
    { "DATA.DATASET", DATASET, offsetof(draft, imagenet22k) },
    { "DATA.INTERPOLATION", INTERPOLATION, 0 },
    { "MODEL", SECTION, 0 },
    { "MODEL.TYPE", TYPE, offsetof(draft, family) },
    { "MODEL.NAME", NAME, offsetof(draft, name) },
    { "MODEL.NUM_CLASSES", INT, offsetof(draft, num_classes) },
    { "MODEL.SWIN", SECTION, 0 },
    { "MODEL.SWINV2", SECTION, 0 },
    { "TEST", SECTION, 0 },
    { "TEST.CROP", BOOL, offsetof(draft, test_crop) },
    /* What has no meaning without training, or for this network. */
    { "BASE", SKIP, 0 }, /* followed beforehand */
    { "TRAIN", SKIP, 0 },
    { "AUG", SKIP, 0 },
    { "MODEL.PRETRAINED", SKIP, 0 },
    { "MODEL.RESUME", SKIP, 0 },
    { "MODEL.DROP_RATE", SKIP, 0 },
    { "MODEL.DROP_PATH_RATE", SKIP, 0 },
    { "MODEL.LABEL_SMOOTHING", SKIP, 0 },
    { "MODEL.SWIN_MLP", SKIP, 0 },
    { "MODEL.SWIN_MOE", SKIP, 0 },
    { "MODEL.SIMMIM", SKIP, 0 },
    { "DATA.BATCH_SIZE", SKIP, 0 },
    { "DATA.DATA_PATH", SKIP, 0 },
    { "DATA.ZIP_MODE", SKIP, 0 },
    { "DATA.CACHE_MODE", SKIP, 0 },
    { "DATA.PIN_MEMORY", SKIP, 0 },
    { "DATA.NUM_WORKERS", SKIP, 0 },
    { "DATA.MASK_PATCH_SIZE", SKIP, 0 },
    { "DATA.MASK_RATIO", SKIP, 0 },
    { "TEST.SEQUENTIAL", SKIP, 0 },
    { "TEST.SHUFFLE", SKIP, 0 },
    { "AMP_ENABLE", SKIP, 0 },
    { "ENABLE_AMP", SKIP, 0 },
    { "AMP_OPT_LEVEL", SKIP, 0 },
    { "OUTPUT", SKIP, 0 },
    { "TAG", SKIP, 0 },
    { "SAVE_FREQ", SKIP, 0 },
    { "PRINT_FREQ", SKIP, 0 },
    { "SEED", SKIP, 0 },
    { "EVAL_MODE", SKIP, 0 },
    { "THROUGHPUT_MODE", SKIP, 0 },
    { "LOCAL_RANK", SKIP, 0 },
    { "FUSED_WINDOW_PROCESS", SKIP, 0 },
    { "FUSED_LAYERNORM", SKIP, 0 },
};

static const key arch_keys[] = {
    { "PATCH_SIZE", INT, offsetof(arch, patch_size) },
    { "IN_CHANS", INT, offsetof(arch, in_chans) },
    { "EMBED_DIM", INT, offsetof(arch, embed_dim) },
    { "DEPTHS", INTS, offsetof(arch, depths) },
    { "NUM_HEADS", INTS, offsetof(arch, heads) },
    { "WINDOW_SIZE", INT, offsetof(arch, window) },
    { "MLP_RATIO", REAL, offsetof(arch, mlp_ratio) },
    { "QKV_BIAS", BOOL, offsetof(arch, qkv_bias) },
    { "APE", BOOL, offsetof(arch, ape) },
    { "PATCH_NORM", BOOL, offsetof(arch, patch_norm) },
    { "QK_SCALE", REAL, offsetof(arch, qk_scale) },                  /* V1 */
    { "PRETRAINED_WINDOW_SIZES", INTS, offsetof(arch, pretrained) }, /* V2 */
};

static draft draft_default(void)
{
    const arch a = {
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
    return (draft){ "swin_tiny_patch4_window7_224", SWIN_V1, 224, 0, true, false, { a, a } };
}

/* ---- one value ---- */

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
static swin_status set_ints(int_list *out, const char *text)
{
    char copy[MAX_WORD];
    if (strlen(text) >= sizeof copy) return swin_fail(SWIN_ERR_FORMAT, "list too long");
    strcpy(copy, text);
    *out = (int_list){ 0 };
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

static swin_status set_value(const key *k, void *base, const char *text)
{
    void *at = (char *)base + k->offset;
    switch (k->kind) {
    case INT:
        return set_int(at, text);
    case REAL:
        return set_real(at, text);
    case BOOL:
        return set_bool(at, text);
    case INTS:
        return set_ints(at, text);
    case TYPE:
        return set_type(at, text);
    case NAME:
        if (strlen(text) >= sizeof((draft *)0)->name) return swin_fail(SWIN_ERR_VALUE, "name too long");
        strcpy(at, text);
        return SWIN_OK;
    case DATASET:
        *(bool *)at = strcasecmp(text, "imagenet22k") == 0;
        return SWIN_OK;
    case INTERPOLATION:
        if (strcmp(text, "bicubic") == 0) return SWIN_OK;
        return swin_fail(SWIN_ERR_UNSUPPORTED, "'%s': images are resized with bicubic only", text);
    case SECTION:
        return swin_fail(SWIN_ERR_FORMAT, "holds keys, not a value");
    case SKIP:
        break;
    }
    return SWIN_OK;
}

/* The key of that path; *base is where its offset counts from. NULL: unknown. */
static const key *find_key(draft *d, const char *path, void **base)
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

/* ---- one document ---- */

typedef struct reader {
    draft *d;
    const char *where; /* file name for messages */
    int bases;         /* BASE files being read; -1: BASE is refused */
    yaml_document_t doc;
} reader;

static swin_status read_file(draft *d, const char *path, int bases);

static size_t line_of(const yaml_node_t *n)
{
    return n->start_mark.line + 1;
}

/* A scalar's text, or a flat list's items joined by commas. */
static swin_status node_text(reader *r, const yaml_node_t *n, char text[MAX_WORD])
{
    size_t used = 0;
    text[0] = 0;
    if (n->type == YAML_MAPPING_NODE) return swin_fail(SWIN_ERR_FORMAT, "holds a value, not keys");
    const bool list = n->type == YAML_SEQUENCE_NODE;
    const size_t items = list ? (size_t)(n->data.sequence.items.top - n->data.sequence.items.start) : 1;
    for (size_t i = 0; i < items; i++) {
        const yaml_node_t *item = list ? yaml_document_get_node(&r->doc, n->data.sequence.items.start[i]) : n;
        if (!item || item->type != YAML_SCALAR_NODE) return swin_fail(SWIN_ERR_FORMAT, "is not a flat list");
        const size_t size = item->data.scalar.length;
        if (used + size + 2 > MAX_WORD) return swin_fail(SWIN_ERR_FORMAT, "value too long");
        if (memchr(item->data.scalar.value, 0, size))
            return swin_fail(SWIN_ERR_FORMAT, "value with a zero byte");
        if (i) text[used++] = ',';
        memcpy(text + used, item->data.scalar.value, size);
        used += size;
        text[used] = 0;
    }
    return SWIN_OK;
}

static swin_status read_leaf(reader *r, const key *k, void *base, const yaml_node_t *n)
{
    char text[MAX_WORD];
    if (k->kind == SECTION && n->type == YAML_SCALAR_NODE && n->data.scalar.length == 0) return SWIN_OK;
    SWIN_TRY(node_text(r, n, text));
    if (n->type == YAML_SEQUENCE_NODE && k->kind != INTS)
        return swin_fail(SWIN_ERR_FORMAT, "is not to be a list");
    return set_value(k, base, text);
}

static swin_status read_mapping(reader *r, const yaml_node_t *map, const char *prefix);

static swin_status read_pair(reader *r, const char *path, const yaml_node_t *name, const yaml_node_t *value)
{
    void *base;
    const key *k = find_key(r->d, path, &base);
    if (!k && strncmp(path, "MODEL.", 6) == 0)
        return swin_fail(SWIN_ERR_FORMAT, "%s:%zu: unknown key %s", r->where, line_of(name), path);
    if (!k) swin_warn("%s:%zu: unknown key %s, ignored", r->where, line_of(name), path);
    if (!k || k->kind == SKIP) return SWIN_OK;
    if (k->kind == SECTION && value->type == YAML_MAPPING_NODE) return read_mapping(r, value, path);
    const swin_status st = read_leaf(r, k, base, value);
    return st == SWIN_OK ? st : swin_fail_context(st, "%s:%zu: %s", r->where, line_of(value), path);
}

/* A sorted list of names would be faster; sections have a dozen keys, and the text is bounded. */
static bool seen_before(reader *r, const yaml_node_t *map, const yaml_node_pair_t *pair,
                        const yaml_node_t *name)
{
    for (const yaml_node_pair_t *p = map->data.mapping.pairs.start; p < pair; p++) {
        const yaml_node_t *other = yaml_document_get_node(&r->doc, p->key);
        if (other->type == YAML_SCALAR_NODE && other->data.scalar.length == name->data.scalar.length &&
            memcmp(other->data.scalar.value, name->data.scalar.value, name->data.scalar.length) == 0)
            return true;
    }
    return false;
}

static swin_status read_mapping(reader *r, const yaml_node_t *map, const char *prefix)
{
    if (map->data.mapping.pairs.top - map->data.mapping.pairs.start > 1000)
        return swin_fail(SWIN_ERR_FORMAT, "%s:%zu: more than 1000 keys in one section", r->where,
                         line_of(map));
    for (const yaml_node_pair_t *p = map->data.mapping.pairs.start; p < map->data.mapping.pairs.top; p++) {
        const yaml_node_t *name = yaml_document_get_node(&r->doc, p->key);
        const yaml_node_t *value = yaml_document_get_node(&r->doc, p->value);
        if (!name || !value || name->type != YAML_SCALAR_NODE || name->data.scalar.length >= MAX_WORD)
            return swin_fail(SWIN_ERR_FORMAT, "%s:%zu: a key that is no word", r->where, line_of(map));
        char path[2 * MAX_WORD + 2];
        snprintf(path, sizeof path, "%s%s%s", prefix, prefix[0] ? "." : "",
                 (const char *)name->data.scalar.value);
        if (seen_before(r, map, p, name))
            return swin_fail(SWIN_ERR_FORMAT, "%s:%zu: %s is given twice", r->where, line_of(name), path);
        SWIN_TRY(read_pair(r, path, name, value));
    }
    return SWIN_OK;
}

/* The files named by BASE come first, so that this file's own keys win. */
static swin_status read_bases(reader *r, const yaml_node_t *root)
{
    const yaml_node_t *list = NULL;
    for (const yaml_node_pair_t *p = root->data.mapping.pairs.start; p < root->data.mapping.pairs.top; p++) {
        const yaml_node_t *name = yaml_document_get_node(&r->doc, p->key);
        if (name->type == YAML_SCALAR_NODE && strcmp((const char *)name->data.scalar.value, "BASE") == 0)
            list = yaml_document_get_node(&r->doc, p->value);
    }
    if (!list) return SWIN_OK;
    if (r->bases < 0)
        return swin_fail(SWIN_ERR_FORMAT, "%s:%zu: BASE is not followed here", r->where, line_of(list));
    if (list->type != YAML_SEQUENCE_NODE)
        return swin_fail(SWIN_ERR_FORMAT, "%s:%zu: BASE is not a list of files", r->where, line_of(list));
    if (r->bases >= MAX_BASES)
        return swin_fail(SWIN_ERR_FORMAT, "%s:%zu: BASE goes deeper than %d files", r->where, line_of(list),
                         MAX_BASES);
    if (list->data.sequence.items.top - list->data.sequence.items.start > MAX_BASES)
        return swin_fail(SWIN_ERR_FORMAT, "%s:%zu: BASE lists more than %d files", r->where, line_of(list),
                         MAX_BASES);
    for (const int *i = list->data.sequence.items.start; i < list->data.sequence.items.top; i++) {
        const yaml_node_t *item = yaml_document_get_node(&r->doc, *i);
        if (!item || item->type != YAML_SCALAR_NODE)
            return swin_fail(SWIN_ERR_FORMAT, "%s:%zu: BASE is not a list of files", r->where, line_of(list));
        const char *name = (const char *)item->data.scalar.value, *slash = strrchr(r->where, '/');
        if (!*name) continue; /* the official default: a list of one empty name */
        const int folder = name[0] == '/' || !slash ? 0 : (int)(slash + 1 - r->where);
        char *path = swin_format("%.*s%s", folder, r->where, name);
        if (!path) return swin_fail(SWIN_ERR_MEM, "%s: no memory", r->where);
        const swin_status st = read_file(r->d, path, r->bases + 1);
        free(path);
        SWIN_TRY(st);
    }
    return SWIN_OK;
}

static swin_status yaml_fault(const yaml_parser_t *p, const char *where)
{
    if (p->error == YAML_MEMORY_ERROR) return swin_fail(SWIN_ERR_MEM, "%s: no memory", where);
    return swin_fail(SWIN_ERR_FORMAT, "%s:%zu: not YAML: %s", where, p->problem_mark.line + 1,
                     p->problem ? p->problem : "cannot be read");
}

static swin_status read_document(reader *r)
{
    const yaml_node_t *root = yaml_document_get_root_node(&r->doc);
    if (!root || root->type != YAML_MAPPING_NODE)
        return swin_fail(SWIN_ERR_FORMAT, "%s: holds no configuration (keys and values)", r->where);
    SWIN_TRY(read_bases(r, root));
    return read_mapping(r, root, "");
}

static swin_status read_text(draft *d, const char *text, size_t size, const char *where, int bases)
{
    if (size > MAX_TEXT)
        return swin_fail(SWIN_ERR_FORMAT, "%s: %zu bytes are too many for a configuration", where, size);
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser)) return swin_fail(SWIN_ERR_MEM, "%s: no memory", where);
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, size);
    reader r = { .d = d, .where = where, .bases = bases };
    swin_status st = SWIN_OK;
    if (!yaml_parser_load(&parser, &r.doc)) {
        st = yaml_fault(&parser, where);
    } else {
        st = read_document(&r);
        yaml_document_delete(&r.doc);
    }
    if (st == SWIN_OK) { /* what follows the first document would be ignored in silence */
        yaml_document_t more;
        if (!yaml_parser_load(&parser, &more)) {
            st = yaml_fault(&parser, where);
        } else {
            if (yaml_document_get_root_node(&more))
                st = swin_fail(SWIN_ERR_FORMAT, "%s: holds more than one YAML document", where);
            yaml_document_delete(&more);
        }
    }
    yaml_parser_delete(&parser);
    return st;
}

static swin_status read_file(draft *d, const char *path, int bases)
{
    swin_map m;
    SWIN_TRY(swin_map_open(&m, path));
    const swin_status st = read_text(d, m.data ? (const char *)m.data : "", m.size, path, bases);
    swin_map_close(&m);
    return st;
}

/* ---- the whole ---- */

static swin_status apply_overrides(draft *d, const swin_pairs *overrides)
{
    for (int i = 0; overrides && i < overrides->count; i++) {
        const char *path = overrides->words[2 * i], *value = overrides->words[2 * i + 1];
        void *base;
        const key *k = find_key(d, path, &base);
        /* TRAIN.*, AUG.* are whole sections without a meaning here. */
        const bool training = strncmp(path, "TRAIN.", 6) == 0 || strncmp(path, "AUG.", 4) == 0;
        if (!k && !training) return swin_fail(SWIN_ERR_USAGE, "--opts: unknown key %s", path);
        if (!k || k->kind == SKIP) {
            swin_note("--opts %s: has no meaning here, ignored", path);
        } else if (set_value(k, base, value) != SWIN_OK) {
            return swin_fail_context(SWIN_ERR_USAGE, "--opts %s", path);
        }
    }
    return SWIN_OK;
}

static swin_status finish(swin_config *c, const draft *d)
{
    const arch *a = &d->arch[d->family];
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
    const draft d = draft_default();
    swin_config c;
    (void)finish(&c, &d); /* the defaults pass */
    return c;
}

swin_status swin_config_load(swin_config *c, const char *path, const swin_pairs *overrides)
{
    draft d = draft_default();
    if (path) SWIN_TRY(read_file(&d, path, 0));
    SWIN_TRY(apply_overrides(&d, overrides));
    const swin_status st = finish(c, &d);
    return st == SWIN_OK || !path ? st : swin_fail_context(st, "%s", path);
}

swin_status swin_config_parse(swin_config *c, const char *text, size_t size, const char *where)
{
    draft d = draft_default();
    SWIN_TRY(read_text(&d, text, size, where, -1));
    const swin_status st = finish(c, &d);
    return st == SWIN_OK ? st : swin_fail_context(st, "%s", where);
}

swin_status swin_config_override(swin_config *c, const swin_pairs *overrides)
{
    if (!overrides->count) return SWIN_OK;
    draft d = draft_default();
    char *text = swin_config_text(c);
    if (!text) return swin_fail(SWIN_ERR_MEM, "no memory for the configuration");
    swin_status st = read_text(&d, text, strlen(text), c->name, -1);
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
