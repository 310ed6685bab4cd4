#include "runtime/swin/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A growing list: with list NULL, only counts. */
typedef struct lister {
    swin_param *list;
    size_t count;
} lister;

/* Add "<prefix><name>" with up to 4 dimensions, the unused ones 0. */
static void add4(lister *l, float **slot, const char *prefix, const char *name, const int64_t shape[4])
{
    if (l->list) {
        swin_param *p = &l->list[l->count];
        *p = (swin_param){ .slot = slot, .count = 1 };
        snprintf(p->key, sizeof p->key, "%s%s", prefix, name);
        for (int i = 0; i < 4 && shape[i] > 0; i++) {
            p->shape[p->ndim++] = shape[i];
            p->count *= (size_t)shape[i];
        }
    }
    l->count++;
}

static void add(lister *l, float **slot, const char *prefix, const char *name, int64_t rows, int64_t cols)
{
    add4(l, slot, prefix, name, (const int64_t[4]){ rows, cols });
}

/* The slot of a member of *p, or NULL when there is nothing to fill. */
#define SLOT(p, member) ((p) ? &(p)->member : NULL)

static void list_attention(lister *l, const swin_config *c, const swin_stage *s, swin_block_weights *b,
                           const char *prefix)
{
    const int64_t dim = s->channels, side = 2 * s->window - 1;
    if (c->family == SWIN_V1) {
        add(l, SLOT(b, bias_table), prefix, "attn.relative_position_bias_table", side * side, s->heads);
    } else {
        add4(l, SLOT(b, logit_scale), prefix, "attn.logit_scale", (const int64_t[4]){ s->heads, 1, 1 });
        if (c->qkv_bias) {
            add(l, SLOT(b, q_bias), prefix, "attn.q_bias", dim, 0);
            add(l, SLOT(b, v_bias), prefix, "attn.v_bias", dim, 0);
        }
        add(l, SLOT(b, cpb0_weight), prefix, "attn.cpb_mlp.0.weight", SWIN_CPB_HIDDEN, 2);
        add(l, SLOT(b, cpb0_bias), prefix, "attn.cpb_mlp.0.bias", SWIN_CPB_HIDDEN, 0);
        add(l, SLOT(b, cpb2_weight), prefix, "attn.cpb_mlp.2.weight", s->heads, SWIN_CPB_HIDDEN);
    }
    add(l, SLOT(b, qkv_weight), prefix, "attn.qkv.weight", 3 * dim, dim);
    if (c->family == SWIN_V1 && c->qkv_bias) add(l, SLOT(b, qkv_bias), prefix, "attn.qkv.bias", 3 * dim, 0);
    add(l, SLOT(b, proj_weight), prefix, "attn.proj.weight", dim, dim);
    add(l, SLOT(b, proj_bias), prefix, "attn.proj.bias", dim, 0);
}

static void list_block(lister *l, const swin_config *c, const swin_stage *s, swin_block_weights *b,
                       const char *prefix)
{
    const int64_t dim = s->channels;
    add(l, SLOT(b, norm1_weight), prefix, "norm1.weight", dim, 0);
    add(l, SLOT(b, norm1_bias), prefix, "norm1.bias", dim, 0);
    list_attention(l, c, s, b, prefix);
    add(l, SLOT(b, norm2_weight), prefix, "norm2.weight", dim, 0);
    add(l, SLOT(b, norm2_bias), prefix, "norm2.bias", dim, 0);
    add(l, SLOT(b, fc1_weight), prefix, "mlp.fc1.weight", s->hidden, dim);
    add(l, SLOT(b, fc1_bias), prefix, "mlp.fc1.bias", s->hidden, 0);
    add(l, SLOT(b, fc2_weight), prefix, "mlp.fc2.weight", dim, s->hidden);
    add(l, SLOT(b, fc2_bias), prefix, "mlp.fc2.bias", dim, 0);
}

static void list_stage(lister *l, const swin_config *c, int i, swin_stage_weights *w)
{
    const swin_stage s = swin_config_stage(c, i);
    char prefix[48];
    for (int b = 0; b < s.depth; b++) {
        snprintf(prefix, sizeof prefix, "layers.%d.blocks.%d.", i, b);
        list_block(l, c, &s, w ? &w->blocks[b] : NULL, prefix);
    }
    if (!s.merge) return;
    const int64_t dim = s.channels, norm = c->family == SWIN_V2 ? 2 * dim : 4 * dim;
    snprintf(prefix, sizeof prefix, "layers.%d.downsample.", i);
    add(l, SLOT(w, reduction_weight), prefix, "reduction.weight", 2 * dim, 4 * dim);
    add(l, SLOT(w, merge_norm_weight), prefix, "norm.weight", norm, 0);
    add(l, SLOT(w, merge_norm_bias), prefix, "norm.bias", norm, 0);
}

static void list_model(lister *l, const swin_config *c, swin_weights *w)
{
    const int64_t dim = c->embed_dim, last = dim << (c->num_stages - 1);
    add4(l, SLOT(w, patch_weight), "", "patch_embed.proj.weight",
         (const int64_t[4]){ dim, c->in_chans, c->patch_size, c->patch_size });
    add(l, SLOT(w, patch_bias), "", "patch_embed.proj.bias", dim, 0);
    if (c->patch_norm) {
        add(l, SLOT(w, patch_norm_weight), "", "patch_embed.norm.weight", dim, 0);
        add(l, SLOT(w, patch_norm_bias), "", "patch_embed.norm.bias", dim, 0);
    }
    for (int i = 0; i < c->num_stages; i++) list_stage(l, c, i, w ? &w->stages[i] : NULL);
    add(l, SLOT(w, norm_weight), "", "norm.weight", last, 0);
    add(l, SLOT(w, norm_bias), "", "norm.bias", last, 0);
    add(l, SLOT(w, head_weight), "", "head.weight", c->num_classes, last);
    add(l, SLOT(w, head_bias), "", "head.bias", c->num_classes, 0);
}

swin_status swin_weights_list(const swin_config *c, swin_weights *w, swin_param **list, size_t *count)
{
    lister counting = { 0 };
    list_model(&counting, c, NULL);
    lister l = { .list = calloc(counting.count, sizeof *l.list) };
    *list = l.list;
    *count = counting.count;
    if (!l.list) return swin_fail(SWIN_ERR_MEM, "no memory for a list of %zu parameters", counting.count);
    list_model(&l, c, w);
    return SWIN_OK;
}

static swin_status allocate(swin_weights *w, const swin_config *c)
{
    for (int i = 0; i < c->num_stages; i++) {
        w->stages[i].blocks = calloc((size_t)c->depths[i], sizeof *w->stages[i].blocks);
        if (!w->stages[i].blocks) return swin_fail(SWIN_ERR_MEM, "no memory for %d blocks", c->depths[i]);
    }
    swin_param *list;
    size_t n;
    SWIN_TRY(swin_weights_list(c, w, &list, &n));
    for (size_t i = 0; i < n; i++) w->count += list[i].count;
    w->block = w->count <= SIZE_MAX / 2 / sizeof *w->block ? calloc(w->count, sizeof *w->block) : NULL;
    if (!w->block) {
        free(list);
        return swin_fail(SWIN_ERR_MEM, "no memory for %zu parameters (%.0f MB)", w->count,
                         (double)w->count * 4e-6);
    }
    float *at = w->block;
    for (size_t i = 0; i < n; at += list[i].count, i++) *list[i].slot = at;
    free(list);
    return SWIN_OK;
}

swin_status swin_weights_create(swin_weights *w, const swin_config *c)
{
    *w = (swin_weights){ 0 };
    const swin_status st = allocate(w, c);
    if (st == SWIN_OK) return st;
    swin_weights_free(w);
    return st;
}

swin_status swin_weights_clone(swin_weights *dst, const swin_weights *src, const swin_config *c)
{
    SWIN_TRY(swin_weights_create(dst, c));
    if (dst->count != src->count) {
        swin_weights_free(dst);
        return swin_fail(SWIN_ERR_MISMATCH, "weights of %zu numbers do not fit a network of %zu", src->count,
                         dst->count);
    }
    memcpy(dst->block, src->block, src->count * sizeof *src->block);
    return SWIN_OK;
}

void swin_weights_free(swin_weights *w)
{
    for (int i = 0; i < SWIN_MAX_STAGES; i++) free(w->stages[i].blocks);
    free(w->block);
    *w = (swin_weights){ 0 };
}

/* Key, its final zero, the number of dimensions, the dimensions (all little-endian 64-bit), the values. */
static swin_status hash_param(swin_sha256 *h, const swin_param *p)
{
    unsigned char head[SWIN_PARAM_KEY_MAX + 8 * 5];
    size_t n = strlen(p->key) + 1;
    memcpy(head, p->key, n);
    for (int i = -1; i < p->ndim; i++) {
        const uint64_t v = i < 0 ? (uint64_t)p->ndim : (uint64_t)p->shape[i];
        for (int byte = 0; byte < 8; byte++) head[n++] = (unsigned char)(v >> (8 * byte));
    }
    SWIN_TRY(swin_sha256_add(h, head, n));
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the hash is defined over little-endian float32: add a swap here"
#endif
    return swin_sha256_add(h, *p->slot, p->count * sizeof(float));
}

swin_status swin_weights_sha256(const swin_config *c, const swin_weights *w, char hex[SWIN_SHA256_HEX])
{
    swin_weights view =
        *w; /* the list's slots point into a swin_weights that may be written; this one may not */
    swin_param *list = NULL;
    swin_sha256 *h = NULL;
    size_t n = 0;
    unsigned char digest[SWIN_SHA256_BYTES];
    swin_status st;
    SWIN_TRY_GOTO(st, swin_weights_list(c, &view, &list, &n), done);
    SWIN_TRY_GOTO(st, swin_sha256_begin(&h), done);
    for (size_t i = 0; i < n; i++) SWIN_TRY_GOTO(st, hash_param(h, &list[i]), done);
    SWIN_TRY_GOTO(st, swin_sha256_end(h, digest), done);
    swin_sha256_hex(hex, digest);
done:
    swin_sha256_free(h);
    free(list);
    return st;
}

swin_status swin_weights_part(const swin_weights *w, const swin_config *c, int part, size_t *at,
                              size_t *count)
{
    int place = part - 1, stage = 0;
    while (stage + 1 < c->num_stages && place > c->depths[stage]) place -= c->depths[stage++] + 1;
    const swin_stage s = swin_config_stage(c, stage);
    const swin_stage_weights *g = &w->stages[stage];
    if (place < 0 || place > s.depth || (place == s.depth && !s.merge))
        return swin_fail(SWIN_ERR_VALUE, "part %d of the network is no block and no merge", part);
    /* Official order: a block begins with norm1.weight and ends with fc2.bias, a merge with reduction and norm. */
    const bool merge = place == s.depth;
    const float *first = merge ? g->reduction_weight : g->blocks[place].norm1_weight;
    const float *end = merge ? g->merge_norm_bias + (c->family == SWIN_V2 ? 2 : 4) * s.channels
                             : g->blocks[place].fc2_bias + s.channels;
    *at = (size_t)(first - w->block);
    *count = (size_t)(end - first);
    return SWIN_OK;
}
