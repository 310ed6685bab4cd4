/* What a checkpoint lacks, has too much, or holds in another shape, all of it in one message. */
#include "runtime/swin/checkpoint_fit.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/log.h"
#include "runtime/swin/checkpoint_impl.h"
#include "runtime/swin/guess.h"
#include "runtime/swin/resize_table.h"

#define MAX_REPORT 15000 /* bytes of a list that fits an error message */

typedef struct checker {
    swin_fit *f;
    const swin_config *c;
    const swin_keys *keys;
    const swin_ckpt *ck;
    FILE *report;
    int missing, unexpected, unfit;
} checker;

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

static bool of_head(const char *key)
{
    return strncmp(key, "head.", 5) == 0;
}

static void print_shape(FILE *f, int ndim, const int64_t *shape)
{
    for (int i = 0; i < ndim; i++) fprintf(f, "%s%" PRId64, i ? ", " : "[", shape[i]);
    fprintf(f, ndim ? "]" : "[]");
}

static bool is_float(swin_dtype d)
{
    return d == SWIN_F32 || d == SWIN_F16 || d == SWIN_BF16 || d == SWIN_F64;
}

/* Together the pieces have the parameter's shape: equal shares along its first dimension. */
bool swin_fit_exact(const swin_param *p, const swin_pieces *q)
{
    for (int n = 0; n < q->count; n++) {
        const swin_ckpt_tensor *t = q->tensor[n];
        if (p->ndim != t->ndim || p->shape[0] * q->parts != t->shape[0] * q->count) return false;
        for (int i = 1; i < p->ndim; i++)
            if (p->shape[i] != t->shape[i]) return false;
    }
    return true;
}

/* V1's table of position biases, made for another window. */
static bool resizable(const swin_param *p, const swin_pieces *q)
{
    const swin_ckpt_tensor *t = q->tensor[0];
    return ends_with(p->key, "relative_position_bias_table") && q->count == 1 && t->ndim == 2 &&
           t->shape[1] == p->shape[1] && swin_table_side(t->shape[0]) > 0 && swin_table_side(p->shape[0]) > 0;
}

static void print_key(const checker *k, const swin_param *p, const swin_pieces *q)
{
    fprintf(k->report, "%s", p->key);
    if (strcmp(p->key, q->name) != 0) fprintf(k->report, " (here: %s)", q->name);
}

static void check_param(checker *k, size_t i)
{
    const swin_param *p = &k->f->params[i];
    const swin_pieces *q = &k->f->found[i];
    if (!q->count) {
        if (k->f->no_head && of_head(p->key)) return;
        k->missing++;
        fprintf(k->report, "\n  missing: ");
        print_key(k, p, q);
        fprintf(k->report, " ");
        print_shape(k->report, p->ndim, p->shape);
        return;
    }
    bool floats = true;
    for (int n = 0; n < q->count; n++) floats = floats && is_float(q->tensor[n]->dtype);
    const bool fits = swin_fit_exact(p, q);
    if (fits && floats) return;
    if (floats && resizable(p, q)) {
        k->f->resized++;
        return;
    }
    k->unfit++;
    fprintf(k->report, fits ? "\n  wrong type: " : "\n  wrong shape: ");
    print_key(k, p, q);
    if (fits) {
        fprintf(k->report, " holds %s", swin_dtype_name(q->tensor[0]->dtype));
        return;
    }
    fprintf(k->report, " is ");
    print_shape(k->report, q->tensor[0]->ndim, q->tensor[0]->shape);
    fprintf(k->report, " and should be ");
    print_shape(k->report, p->ndim, p->shape);
}

/* ---- stored buffers: checks of what we derive ---- */

/* The index of a window of side w, in our order? torchvision stores it flat. */
static bool index_agrees(const swin_ckpt_tensor *t)
{
    const int64_t n = t->ndim == 2 ? t->shape[0] : swin_square_root((int64_t)t->count),
                  w = swin_square_root(n);
    if (t->dtype != SWIN_S64 || w == 0 || (uint64_t)(n * n) != t->count) return false;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            const int64_t want = (i / w - j / w + w - 1) * (2 * w - 1) + (i % w - j % w + w - 1);
            const int64_t at = t->ndim == 2 ? i * t->stride[0] + j * t->stride[1]
                                            : (i * n + j) * t->stride[0];
            int64_t got;
            memcpy(&got, (const char *)t->data + 8 * at, 8);
            if (got != want) return false;
        }
    return true;
}

static void wrong_values(checker *k, const swin_ckpt_tensor *t, const char *what)
{
    k->unfit++;
    fprintf(k->report, "\n  wrong values: %s is not %s", t->key, what);
}

/* V2: its offsets were measured by some window; by another one the network would be another. */
static void check_coords(checker *k, int stage, const swin_ckpt_tensor *t)
{
    const swin_stage s = swin_config_stage(k->c, stage);
    const int pretrained = k->c->pretrained_window[stage], ours = pretrained ? pretrained : s.window;
    int window;
    const double theirs = swin_pretrained_window(t, &window);
    if (theirs > 0 && fabs(theirs - ours) < 0.02 * ours) return;
    char what[200];
    snprintf(what, sizeof what,
             "that of window %d and pretrained window %d: it was made for %d and %.0f; see "
             "MODEL.SWINV2.WINDOW_SIZE and PRETRAINED_WINDOW_SIZES",
             s.window, ours, window, theirs);
    wrong_values(k, t, what);
}

static void check_buffers(checker *k)
{
    char key[SWIN_PARAM_KEY_MAX];
    for (int s = 0; s < k->c->num_stages; s++)
        for (int b = 0; b < k->c->depths[s]; b++) {
            const swin_stage stage = swin_config_stage(k->c, s);
            snprintf(key, sizeof key, "layers.%d.blocks.%d.attn.relative_position_index", s, b);
            const swin_ckpt_tensor *t = swin_keys_tensor(k->keys, key);
            const int64_t n = (int64_t)stage.window * stage.window;
            /* A window that differs is a matter of the tables, which are resized (V1) or measured (V2). */
            const bool other = t && (int64_t)t->count != n * n && !k->f->resized && k->c->family == SWIN_V1;
            if (t && (other || !index_agrees(t)))
                wrong_values(k, t, "the index of a window of this configuration");
            snprintf(key, sizeof key, "layers.%d.blocks.%d.attn.relative_coords_table", s, b);
            t = swin_keys_tensor(k->keys, key);
            if (t && k->c->family == SWIN_V2) check_coords(k, s, t);
        }
}

static void check_unexpected(checker *k, const bool *used)
{
    int ranges = 0;
    for (size_t i = 0; i < swin_ckpt_count(k->ck); i++) {
        const swin_ckpt_tensor *t = swin_ckpt_at(k->ck, i);
        if (used[i] || derivable(t->key)) continue;
        if (quantizer_range(t->key)) {
            ranges++;
        } else {
            k->unexpected++;
            fprintf(k->report, "\n  unexpected: %s ", t->key);
            print_shape(k->report, t->ndim, t->shape);
        }
    }
    if (ranges)
        swin_note("%s: %d quantizer ranges are stored, which swin-calib --from-checkpoint takes", k->ck->path,
                  ranges);
}

/* ---- all at once ---- */

static void print_all(checker *k, bool *used)
{
    for (size_t i = 0; i < k->f->count; i++) {
        k->f->found[i] = swin_keys_find(k->keys, k->f->params[i].key);
        check_param(k, i);
        for (int n = 0; n < k->f->found[i].count; n++) used[k->f->found[i].tensor[n] - k->ck->tensors] = true;
    }
    check_buffers(k);
    check_unexpected(k, used);
}

static bool has(const checker *k, const char *key)
{
    return swin_keys_find(k->keys, key).count > 0;
}

/* The configuration that the tensors speak of, where it is not the one that was given. */
static void print_advice(const checker *k, FILE *out)
{
    swin_config c;
    const char *official;
    if (swin_config_guess(&c, k->ck) != SWIN_OK || swin_config_same_network(&c, k->c)) return;
    fprintf(out, ". Its tensors are those of %s: leave --cfg out", c.name);
    if (swin_config_official(&c, &official, 1)) fprintf(out, ", or take --cfg configs/%s.yaml", official);
}

/* Neither a list of differences nor a network: another kind of file. */
static swin_status other_kind(const checker *k)
{
    const char *path = k->ck->path;
    if (!has(k, "patch_embed.proj.weight"))
        return swin_fail(
            SWIN_ERR_MISMATCH,
            "%s is no Swin checkpoint under the names of Microsoft, timm, torchvision or transformers: it "
            "has %zu tensors, the first is %.200s",
            path, k->ck->count, k->ck->count ? k->ck->tensors[0].key : "none");
    if (!k->f->no_head && !has(k, "head.weight") && !has(k, "head.bias"))
        return swin_fail(
            SWIN_ERR_MISMATCH,
            "%s has no classification head (%s): a feature extractor's checkpoint. Evaluation needs one; "
            "swin-calib --no-head calibrates without",
            path, swin_keys_find(k->keys, "head.weight").name);
    return SWIN_OK;
}

static swin_status judge(const checker *k, const char *list, size_t size)
{
    SWIN_TRY(other_kind(k));
    char *advice = NULL;
    size_t length;
    FILE *f = open_memstream(&advice, &length);
    if (f) {
        print_advice(k, f);
        if (fclose(f) != 0) {
            free(advice);
            advice = NULL;
        }
    }
    const bool fits = size < MAX_REPORT;
    if (!fits) swin_warn("%s:%s", k->ck->path, list);
    const swin_status st =
        swin_fail(SWIN_ERR_MISMATCH,
                  "%s (%s names) does not fit %s: %d missing, %d unexpected, %d of wrong shape or type%s%s",
                  k->ck->path, swin_keys_source(k->keys), k->c->name, k->missing, k->unexpected, k->unfit,
                  advice ? advice : "", fits ? list : " (listed above)");
    free(advice);
    return st;
}

swin_status swin_fit_check(swin_fit *f)
{
    char *text = NULL;
    size_t size = 0;
    checker k = { .f = f, .c = f->c, .keys = f->keys, .ck = f->keys->ck };
    bool *used = calloc(swin_ckpt_count(k.ck) + 1, sizeof *used);
    swin_status st = SWIN_OK;
    k.report = open_memstream(&text, &size);
    if (used && k.report) print_all(&k, used);
    const bool closed = k.report && fclose(k.report) == 0;
    if (!used || !closed || !text)
        st = swin_fail(SWIN_ERR_MEM, "%s: no memory", k.ck->path);
    else if (k.missing || k.unexpected || k.unfit)
        st = judge(&k, text, size);
    free(used);
    free(text);
    return st;
}
