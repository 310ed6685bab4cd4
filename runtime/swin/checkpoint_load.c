/* From an indexed checkpoint to a network's parameters. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/base/log.h"
#include "runtime/base/pool.h"
#include "runtime/swin/checkpoint_fit.h"
#include "runtime/swin/checkpoint_impl.h"
#include "runtime/swin/class_map.h"
#include "runtime/swin/resize_table.h"

#define MAX_THREADS 8 /* more do not make memory faster */

typedef struct loader {
    const swin_ckpt *ck;
    const swin_load_opts *o;
    swin_keys keys;
    swin_fit fit;
    swin_param *params;
} loader;

/* The rows of a tensor that a piece takes. */
static swin_ckpt_tensor rows_of(const swin_pieces *q, int k)
{
    swin_ckpt_tensor t = *q->tensor[k];
    if (q->parts == 1 || !t.count) return t;
    t.shape[0] /= q->parts;
    t.count /= (size_t)q->parts;
    t.data = (const char *)t.data + (size_t)(q->part * t.shape[0] * t.stride[0]) * swin_dtype_size(t.dtype);
    return t;
}

static swin_status read_table(float *out, const swin_param *p, const swin_ckpt_tensor *t, bool *finite)
{
    float *stored = malloc(t->count * sizeof *stored + 1);
    if (!stored) return swin_fail(SWIN_ERR_MEM, "no memory for %s", p->key);
    swin_status st = swin_ckpt_read_checked(t, stored, finite);
    if (st == SWIN_OK)
        st = swin_resize_table(out, swin_table_side(p->shape[0]), stored, swin_table_side(t->shape[0]),
                               (int)p->shape[1]);
    free(stored);
    return st;
}

static swin_status read_param(void *user, size_t i, int worker)
{
    (void)worker;
    const loader *l = user;
    const swin_param *p = &l->params[i];
    const swin_pieces *q = &l->fit.found[i];
    float *out = *p->slot;
    for (int k = 0; k < q->count; k++) {
        const swin_ckpt_tensor t = rows_of(q, k);
        bool finite = true;
        const swin_status st = swin_fit_exact(p, q) ? swin_ckpt_read_checked(&t, out, &finite)
                                                    : read_table(out, p, &t, &finite);
        swin_map_drop(&l->ck->map, t.data,
                      t.count * swin_dtype_size(t.dtype)); /* one copy in memory, not two */
        if (st != SWIN_OK) return swin_fail_context(st, "%s", l->ck->path);
        if (!finite)
            return swin_fail(SWIN_ERR_VALUE, "%s: tensor %s holds NaN or infinity", l->ck->path, t.key);
        out += t.count;
    }
    return SWIN_OK;
}

static swin_status read_all(loader *l)
{
    swin_pool *pool = NULL;
    const int n = swin_processors();
    SWIN_TRY(swin_pool_create(&pool, n < MAX_THREADS ? n : MAX_THREADS));
    const swin_status st = swin_pool_run(pool, l->fit.count, read_param, l);
    swin_pool_free(pool);
    return st;
}

/* The class count that the checkpoint's head has, where the configuration leaves it open. */
static void follow_head(swin_config *c, const loader *l)
{
    const swin_ckpt_tensor *head = swin_keys_tensor(&l->keys, "head.weight");
    if (!head && l->o->no_head) {
        swin_note("%s: it has no classification head; one class of zeros stands for it", l->ck->path);
        c->num_classes = 1;
        return;
    }
    /* With a map, the configuration speaks of the classes that it leaves. */
    if ((c->classes_given && !l->o->map22k) || !head || head->ndim != 2 || head->shape[0] == c->num_classes)
        return;
    if (head->shape[0] < 1 || head->shape[0] > 10000000 ||
        head->shape[1] != c->embed_dim << (c->num_stages - 1))
        return;
    if (!l->o->map22k)
        swin_note("%s: its head has %" PRId64 " classes; MODEL.NUM_CLASSES (%d by default) follows",
                  l->ck->path, head->shape[0], c->num_classes);
    c->num_classes = (int)head->shape[0];
}

/* The 22k head becomes that of the classes which the map names. */
static swin_status pick_classes(swin_weights *w, swin_config *fitted, const swin_config *given,
                                const char *path)
{
    swin_class_map map;
    SWIN_TRY(swin_class_map_read(&map, path, fitted->num_classes));
    swin_status st = SWIN_OK;
    if (given->classes_given && map.count != given->num_classes)
        st = swin_fail(SWIN_ERR_MISMATCH, "--map22k %s has %d lines, but MODEL.NUM_CLASSES is %d", path,
                       map.count, given->num_classes);
    if (st == SWIN_OK) st = swin_class_map_apply(&map, w, fitted);
    if (st == SWIN_OK) swin_note("--map22k %s: %d classes of the head are used", path, map.count);
    swin_class_map_free(&map);
    return st;
}

static swin_status load(loader *l, swin_weights *w, swin_config *fitted)
{
    follow_head(fitted, l);
    SWIN_TRY(swin_weights_list(fitted, NULL, &l->params, &l->fit.count));
    l->fit.params = l->params;
    l->fit.found = calloc(l->fit.count, sizeof *l->fit.found);
    if (!l->fit.found) return swin_fail(SWIN_ERR_MEM, "%s: no memory", l->ck->path);
    SWIN_TRY(swin_fit_check(&l->fit)); /* before any large allocation */
    if (l->fit.resized)
        swin_note("%s: %d position bias tables are of another window and were resized (bicubic)", l->ck->path,
                  l->fit.resized);
    free(l->params);
    l->params = NULL;
    SWIN_TRY(swin_weights_create(w, fitted));
    SWIN_TRY(swin_weights_list(fitted, w, &l->params, &l->fit.count));
    return read_all(l);
}

swin_status swin_weights_load_from(swin_weights *w, swin_config *c, const swin_ckpt *ck,
                                   const swin_load_opts *o)
{
    static const swin_load_opts plain = { 0 };
    swin_config fitted = *c;
    loader l = { .ck = ck, .o = o ? o : &plain, .keys = swin_keys_of(ck) };
    *w = (swin_weights){ 0 };
    l.fit = (swin_fit){ .c = &fitted, .keys = &l.keys, .no_head = l.o->no_head };
    swin_status st = load(&l, w, &fitted);
    free(l.fit.found);
    free(l.params);
    if (st == SWIN_OK && l.o->map22k) st = pick_classes(w, &fitted, c, l.o->map22k);
    if (st == SWIN_OK)
        *c = fitted;
    else
        swin_weights_free(w);
    return st;
}

swin_status swin_weights_load(swin_weights *w, swin_config *c, const char *path)
{
    swin_ckpt *ck;
    *w = (swin_weights){ 0 };
    SWIN_TRY(swin_ckpt_open(&ck, path));
    const swin_status st = swin_weights_load_from(w, c, ck, NULL);
    swin_ckpt_close(ck);
    return st;
}
