/* A configuration's YAML documents: official files, and the BASE files that they name. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/swin/config_impl.h"

#define MAX_TEXT  (1u << 20) /* bytes of one file: the official ones have a few hundred */
#define MAX_BASES 8          /* BASE files within BASE files */

typedef struct reader {
    config_draft *d;
    const char *where; /* file name for messages */
    int bases;         /* BASE files being read; -1: BASE is refused */
    yaml_document_t doc;
} reader;

static size_t line_of(const yaml_node_t *n)
{
    return n->start_mark.line + 1;
}

/* A scalar's text, or a flat list's items joined by commas. */
static swin_status node_text(reader *r, const yaml_node_t *n, char text[CONFIG_WORD])
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
        if (used + size + 2 > CONFIG_WORD) return swin_fail(SWIN_ERR_FORMAT, "value too long");
        if (memchr(item->data.scalar.value, 0, size))
            return swin_fail(SWIN_ERR_FORMAT, "value with a zero byte");
        if (i) text[used++] = ',';
        memcpy(text + used, item->data.scalar.value, size);
        used += size;
        text[used] = 0;
    }
    return SWIN_OK;
}

static swin_status read_leaf(reader *r, const config_key *k, void *base, const yaml_node_t *n)
{
    char text[CONFIG_WORD];
    if (k->kind == CONFIG_SECTION && n->type == YAML_SCALAR_NODE && n->data.scalar.length == 0)
        return SWIN_OK;
    SWIN_TRY(node_text(r, n, text));
    if (n->type == YAML_SEQUENCE_NODE && k->kind != CONFIG_INTS)
        return swin_fail(SWIN_ERR_FORMAT, "is not to be a list");
    return config_set(k, base, text);
}

static swin_status read_mapping(reader *r, const yaml_node_t *map, const char *prefix);

static swin_status read_pair(reader *r, const char *path, const yaml_node_t *name, const yaml_node_t *value)
{
    void *base;
    const config_key *k = config_find_key(r->d, path, &base);
    if (!k && strncmp(path, "MODEL.", 6) == 0)
        return swin_fail(SWIN_ERR_FORMAT, "%s:%zu: unknown key %s", r->where, line_of(name), path);
    if (!k) swin_warn("%s:%zu: unknown key %s, ignored", r->where, line_of(name), path);
    if (!k || k->kind == CONFIG_SKIP) return SWIN_OK;
    if (k->kind == CONFIG_SECTION && value->type == YAML_MAPPING_NODE) return read_mapping(r, value, path);
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
        if (!name || !value || name->type != YAML_SCALAR_NODE || name->data.scalar.length >= CONFIG_WORD)
            return swin_fail(SWIN_ERR_FORMAT, "%s:%zu: a key that is no word", r->where, line_of(map));
        char path[2 * CONFIG_WORD + 2];
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
        const swin_status st = config_read_file(r->d, path, r->bases + 1);
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

swin_status config_read_text(config_draft *d, const char *text, size_t size, const char *where, int bases)
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

swin_status config_read_file(config_draft *d, const char *path, int bases)
{
    swin_map m;
    SWIN_TRY(swin_map_open(&m, path));
    const swin_status st = config_read_text(d, m.data ? (const char *)m.data : "", m.size, path, bases);
    swin_map_close(&m);
    return st;
}
