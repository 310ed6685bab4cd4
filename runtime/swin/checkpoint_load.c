/* From an indexed checkpoint to a network's parameters, and back to a file. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/log.h"
#include "runtime/base/pool.h"
#include "runtime/swin/checkpoint_impl.h"

#define MAX_REPORT  15000 /* bytes of a list that fits an error message */
#define MAX_THREADS 8     /* more do not make memory faster */

typedef struct loader {
    const swin_config *c;
    const swin_ckpt *ck;
    swin_param *params;
    size_t count;
    const swin_ckpt_tensor **found; /* by parameter; NULL: missing */
    FILE *report;
    int missing, unexpected, unfit;
} loader;

static bool ends_with(const char *s, const char *tail)
{
    const size_t n = strlen(s), t = strlen(tail);
    return n >= t && strcmp(s + n - t, tail) == 0;
}

/* Buffers that follow from the configuration. */
static bool derivable(const char *key)
{
    return ends_with(key, ".attn_mask") || ends_with(key, ".relative_position_index") ||
           ends_with(key, ".relative_coords_table");
}

/* Ranges that FasterTransformer's toolkit stores in its calibrated checkpoints; ours come from the calibration file. */
static bool quantizer_range(const char *key)
{
    return ends_with(key, "_quantizer._amax");
}

static void print_shape(FILE *f, int ndim, const int64_t *shape)
{
    for (int i = 0; i < ndim; i++) fprintf(f, "%s%" PRId64, i ? ", " : "[", shape[i]);
    fprintf(f, ndim ? "]" : "[]");
}

static bool same_shape(const swin_param *p, const swin_ckpt_tensor *t)
{
    if (p->ndim != t->ndim) return false;
    for (int i = 0; i < p->ndim; i++)
        if (p->shape[i] != t->shape[i]) return false;
    return true;
}

static bool is_float(swin_dtype d)
{
    return d == SWIN_F32 || d == SWIN_F16 || d == SWIN_BF16 || d == SWIN_F64;
}

static void check_param(loader *l, size_t i)
{
    const swin_param *p = &l->params[i];
    const swin_ckpt_tensor *t = l->found[i] = swin_ckpt_find(l->ck, p->key);
    if (!t) {
        l->missing++;
        fprintf(l->report, "\n  missing: %s ", p->key);
        print_shape(l->report, p->ndim, p->shape);
    } else if (!same_shape(p, t)) {
        l->unfit++;
        fprintf(l->report, "\n  wrong shape: %s is ", p->key);
        print_shape(l->report, t->ndim, t->shape);
        fprintf(l->report, " and should be ");
        print_shape(l->report, p->ndim, p->shape);
    } else if (!is_float(t->dtype)) {
        l->unfit++;
        fprintf(l->report, "\n  wrong type: %s holds %s", p->key, swin_dtype_name(t->dtype));
    }
}

/* A stored index that is not the window's own order means a network that differs from ours. */
static bool index_agrees(const swin_config *c, const swin_ckpt_tensor *t)
{
    int stage = 0;
    if (sscanf(t->key, "layers.%3d.", &stage) != 1 || stage < 0 || stage >= c->num_stages) return true;
    const int64_t w = swin_config_stage(c, stage).window, n = w * w;
    if (t->dtype != SWIN_S64 || t->ndim != 2 || t->shape[0] != n || t->shape[1] != n) return false;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            const int64_t want = (i / w - j / w + w - 1) * (2 * w - 1) + (i % w - j % w + w - 1);
            int64_t got;
            memcpy(&got, (const char *)t->data + 8 * (i * t->stride[0] + j * t->stride[1]), 8);
            if (got != want) return false;
        }
    return true;
}

static void check_unexpected(loader *l, const bool *used)
{
    int ranges = 0;
    for (size_t i = 0; i < swin_ckpt_count(l->ck); i++) {
        const swin_ckpt_tensor *t = swin_ckpt_at(l->ck, i);
        if (used[i]) continue;
        if (quantizer_range(t->key)) {
            ranges++;
        } else if (!derivable(t->key)) {
            l->unexpected++;
            fprintf(l->report, "\n  unexpected: %s ", t->key);
            print_shape(l->report, t->ndim, t->shape);
        } else if (ends_with(t->key, ".relative_position_index") && !index_agrees(l->c, t)) {
            l->unfit++;
            fprintf(l->report, "\n  wrong values: %s is not the index of a window of this configuration",
                    t->key);
        }
    }
    if (ranges) swin_note("%s: %d stored quantizer ranges are not used", l->ck->path, ranges);
}

/* Every difference in one message. */
static swin_status check_all(loader *l)
{
    char *text = NULL;
    size_t size = 0;
    bool *used = calloc(swin_ckpt_count(l->ck) + 1, sizeof *used);
    l->report = open_memstream(&text, &size);
    if (!used || !l->report) {
        if (l->report) fclose(l->report);
        free(text);
        free(used);
        return swin_fail(SWIN_ERR_MEM, "%s: no memory", l->ck->path);
    }
    for (size_t i = 0; i < l->count; i++) {
        check_param(l, i);
        if (l->found[i]) used[l->found[i] - l->ck->tensors] = true;
    }
    check_unexpected(l, used);
    free(used);
    swin_status st = SWIN_OK;
    const bool whole = fclose(l->report) == 0 && text;
    if (!whole) {
        st = swin_fail(SWIN_ERR_MEM, "%s: no memory", l->ck->path);
    } else if (l->missing || l->unexpected || l->unfit) {
        const bool fits = size < MAX_REPORT;
        if (!fits) swin_warn("%s:%s", l->ck->path, text);
        st = swin_fail(
            SWIN_ERR_MISMATCH, "%s does not fit %s: %d missing, %d unexpected, %d of wrong shape or type%s",
            l->ck->path, l->c->name, l->missing, l->unexpected, l->unfit, fits ? text : " (listed above)");
    }
    free(text);
    return st;
}

static swin_status read_param(void *user, size_t i, int worker)
{
    (void)worker;
    const loader *l = user;
    bool finite = true;
    const swin_ckpt_tensor *t = l->found[i];
    const swin_status st = swin_ckpt_read_checked(t, *l->params[i].slot, &finite);
    swin_map_drop(&l->ck->map, t->data, t->count * swin_dtype_size(t->dtype)); /* one copy in memory, not two */
    if (st != SWIN_OK) return swin_fail_context(st, "%s", l->ck->path);
    if (finite) return SWIN_OK;
    return swin_fail(SWIN_ERR_VALUE, "%s: tensor %s holds NaN or infinity", l->ck->path, l->params[i].key);
}

static swin_status read_all(loader *l)
{
    swin_pool *pool = NULL;
    const int n = swin_processors();
    SWIN_TRY(swin_pool_create(&pool, n < MAX_THREADS ? n : MAX_THREADS));
    const swin_status st = swin_pool_run(pool, l->count, read_param, l);
    swin_pool_free(pool);
    return st;
}

/* The class count that the checkpoint's head has, where the configuration leaves it open. */
static void follow_head(swin_config *c, const swin_ckpt *ck)
{
    const swin_ckpt_tensor *head = swin_ckpt_find(ck, "head.weight");
    if (c->classes_given || !head || head->ndim != 2 || head->shape[0] == c->num_classes) return;
    if (head->shape[0] < 1 || head->shape[0] > 10000000 ||
        head->shape[1] != c->embed_dim << (c->num_stages - 1))
        return;
    swin_note("%s: its head has %" PRId64 " classes; MODEL.NUM_CLASSES (%d by default) follows", ck->path,
              head->shape[0], c->num_classes);
    c->num_classes = (int)head->shape[0];
}

swin_status swin_weights_load(swin_weights *w, swin_config *c, const char *path)
{
    swin_config fitted = *c;
    swin_ckpt *ck = NULL;
    loader l = { .c = &fitted };
    *w = (swin_weights){ 0 };
    swin_status st;
    SWIN_TRY_GOTO(st, swin_ckpt_open(&ck, path), done);
    l.ck = ck;
    follow_head(&fitted, ck);
    SWIN_TRY_GOTO(st, swin_weights_list(&fitted, NULL, &l.params, &l.count), done);
    l.found = calloc(l.count, sizeof *l.found);
    if (!l.found) {
        st = swin_fail(SWIN_ERR_MEM, "%s: no memory", path);
        goto done;
    }
    SWIN_TRY_GOTO(st, check_all(&l), done); /* before any large allocation */
    free(l.params);
    l.params = NULL;
    SWIN_TRY_GOTO(st, swin_weights_create(w, &fitted), done);
    SWIN_TRY_GOTO(st, swin_weights_list(&fitted, w, &l.params, &l.count), done);
    SWIN_TRY_GOTO(st, read_all(&l), done);
    *c = fitted;
done:
    free(l.found);
    free(l.params);
    swin_ckpt_close(ck);
    if (st != SWIN_OK) swin_weights_free(w);
    return st;
}

/* ---- writing ---- */

static void print_header(FILE *f, const swin_param *list, size_t n)
{
    uint64_t at = 0;
    fprintf(f, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = 0; i < n; i++) {
        fprintf(f, ",\"%s\":{\"dtype\":\"F32\",\"shape\":[", list[i].key);
        for (int d = 0; d < list[i].ndim; d++) fprintf(f, "%s%" PRId64, d ? "," : "", list[i].shape[d]);
        fprintf(f, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", at, at + 4 * list[i].count);
        at += 4 * list[i].count;
    }
    fprintf(f, "}");
}

static swin_status write_safetensors(FILE *f, const char *path, const swin_param *list, size_t n)
{
    char *header = NULL;
    size_t size = 0;
    FILE *text = open_memstream(&header, &size);
    if (!text) return swin_fail(SWIN_ERR_MEM, "%s: no memory", path);
    print_header(text, list, n);
    if (fclose(text) != 0 || !header) {
        free(header);
        return swin_fail(SWIN_ERR_MEM, "%s: no memory", path);
    }
    const size_t pad = (8 - size % 8) % 8; /* tensors start at a multiple of 8 */
    for (int i = 0; i < 8; i++) putc((int)((uint64_t)(size + pad) >> (8 * i) & 255), f);
    fprintf(f, "%s%*s", header, (int)pad, "");
    free(header);
    for (size_t i = 0; i < n; i++) fwrite(*list[i].slot, sizeof(float), list[i].count, f);
    return SWIN_OK; /* the commit looks at f's error flag */
}

swin_status swin_weights_save(const swin_weights *w, const swin_config *c, const char *path)
{
    swin_weights view = *w;
    swin_param *list = NULL;
    size_t n = 0;
    swin_outfile out = { 0 };
    swin_status st;
    SWIN_TRY_GOTO(st, swin_weights_list(c, &view, &list, &n), done);
    SWIN_TRY_GOTO(st, swin_outfile_open(&out, path), done);
    SWIN_TRY_GOTO(st, write_safetensors(out.f, path, list, n), done);
    st = swin_outfile_commit(&out);
done:
    swin_outfile_discard(&out);
    free(list);
    return st;
}
