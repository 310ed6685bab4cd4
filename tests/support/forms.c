#include "tests/support/forms.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/swin/safetensors_write.h"

enum { NAME = 160, MOST = 4096 };

typedef struct out {
    const swin_config *c;
    swin_form form;
    const swin_form_opts *o;
    swin_named_tensor *list; /* [MOST] */
    char (*names)[NAME];     /* [MOST] */
    void **owned;            /* [MOST] */
    size_t count, nowned;
} out;

const char *swin_form_source(swin_form form)
{
    static const char *const names[] = { "official",    "timm",         "timm",
                                         "torchvision", "transformers", "transformers" };
    return names[form];
}

static void put(out *o, const char *name, swin_dtype dtype, int ndim, const int64_t *shape, const void *data)
{
    swin_named_tensor *t = &o->list[o->count];
    snprintf(o->names[o->count], NAME, "%s", name);
    *t = (swin_named_tensor){ .name = o->names[o->count], .dtype = dtype, .ndim = ndim, .data = data };
    for (int i = 0; i < ndim; i++) t->shape[i] = shape[i];
    o->count++;
}

static void *own(out *o, size_t bytes)
{
    void *p = calloc(1, bytes);
    o->owned[o->nowned++] = p;
    return p;
}

/* Replace the first `from` in text. */
static bool swap(char text[NAME], const char *from, const char *to)
{
    char *at = strstr(text, from), rest[NAME];
    if (!at) return false;
    snprintf(rest, sizeof rest, "%s", at + strlen(from));
    snprintf(at, NAME - (size_t)(at - text), "%s%.*s", to, NAME / 2, rest);
    return true;
}

static void rename_timm(char key[NAME], bool old)
{
    int stage;
    char from[32], to[32];
    swap(key, "head.", "head.fc.");
    if (!old && strstr(key, "downsample") && sscanf(key, "layers.%d.", &stage) == 1) {
        snprintf(from, sizeof from, "layers.%d.", stage);
        snprintf(to, sizeof to, "layers.%d.", stage + 1);
        swap(key, from, to);
    }
}

static void rename_torchvision(char key[NAME])
{
    int stage;
    char from[32], to[32];
    swap(key, "patch_embed.proj.", "features.0.0.");
    swap(key, "patch_embed.norm.", "features.0.2.");
    if (sscanf(key, "layers.%d.", &stage) != 1) return;
    const bool merge = strstr(key, "downsample") != NULL;
    snprintf(from, sizeof from, merge ? "layers.%d.downsample." : "layers.%d.blocks.", stage);
    snprintf(to, sizeof to, "features.%d.", 2 * stage + 1 + merge);
    swap(key, from, to);
    swap(key, ".mlp.fc1.", ".mlp.0.");
    swap(key, ".mlp.fc2.", ".mlp.3.");
}

static void rename_hugging(char key[NAME], bool five, const char *prefix)
{
    static const char *const pairs[][3] = {
        { "patch_embed.proj.", "embeddings.patch_embeddings.projection.",
          "embeddings.patch_embeddings.projection." },
        { "patch_embed.norm.", "embeddings.norm.", "embeddings.norm." },
        { ".norm1.", ".layernorm_before.", ".layernorm_before." },
        { ".norm2.", ".layernorm_after.", ".layernorm_after." },
        { ".attn.proj.", ".attention.output.dense.", ".attention.o_proj." },
        { ".attn.relative_position_bias_table", ".attention.self.relative_position_bias_table",
          ".attention.relative_position_bias.relative_position_bias_table" },
        { ".attn.cpb_mlp.", ".attention.self.continuous_position_bias_mlp.",
          ".attention.self.continuous_position_bias_mlp." },
        { ".attn.", ".attention.self.", ".attention." },
        { ".mlp.fc1.", ".intermediate.dense.", ".mlp.fc1." },
        { ".mlp.fc2.", ".output.dense.", ".mlp.fc2." },
    };
    if (swap(key, "head.", "classifier.")) return; /* outside the prefix */
    char whole[NAME];
    if (strncmp(key, "norm.", 5) == 0) swap(key, "norm.", "layernorm.");
    for (size_t i = 0; i < SWIN_COUNT(pairs); i++) swap(key, pairs[i][0], pairs[i][five ? 2 : 1]);
    snprintf(whole, sizeof whole, "%s%s%.100s", prefix, strncmp(key, "layers.", 7) == 0 ? "encoder." : "",
             key);
    memcpy(key, whole, NAME);
}

/* Query, key and value of their own. */
static void put_split(out *o, const char *key, const swin_param *p)
{
    static const char *const words[2][3] = { { "query", "key", "value" }, { "q_proj", "k_proj", "v_proj" } };
    const size_t third = p->count / 3;
    int64_t shape[4] = { p->shape[0] / 3 + o->o->extra_rows, p->shape[1] };
    for (int i = 0; i < 3; i++) {
        char name[NAME];
        float *data = own(o, (third + 4096) * sizeof *data);
        memcpy(data, *p->slot + (size_t)i * third, third * sizeof *data);
        snprintf(name, sizeof name, "%s", key);
        swap(name, "qkv", words[o->form == SWIN_FORM_HUGGING_5][i]);
        put(o, name, SWIN_F32, p->ndim, shape, data);
    }
}

/* torchvision's V2: q_bias begins a joint bias, v_bias ends it. */
static void put_joint(out *o, const swin_param *q, const swin_param *v)
{
    char name[NAME];
    const size_t n = q->count;
    const int64_t rows = (int64_t)(3 * n) + o->o->extra_rows;
    float *data = own(o, (size_t)(rows + 1) * sizeof *data);
    memcpy(data, *q->slot, n * sizeof *data);
    for (size_t i = 0; i < n; i++) data[n + i] = 7;
    memcpy(data + 2 * n, *v->slot, n * sizeof *data);
    snprintf(name, sizeof name, "%s", q->key);
    rename_torchvision(name);
    swap(name, "q_bias", "qkv.bias");
    put(o, name, SWIN_F32, 1, &rows, data);
}

static void put_param(out *o, const swin_param *p)
{
    const bool hugging = o->form == SWIN_FORM_HUGGING || o->form == SWIN_FORM_HUGGING_5;
    const bool five = o->form == SWIN_FORM_HUGGING_5;
    char key[NAME];
    snprintf(key, sizeof key, "%s", p->key);
    if (o->o->no_head && strncmp(key, "head.", 5) == 0) return;
    if (o->o->drop && strcmp(key, o->o->drop) == 0) return;
    if (o->form == SWIN_FORM_TORCHVISION && strstr(key, "q_bias")) {
        put_joint(o, p, p + 1);
        return;
    }
    if (o->form == SWIN_FORM_TORCHVISION && strstr(key, "v_bias")) return;
    if (o->form == SWIN_FORM_TIMM || o->form == SWIN_FORM_TIMM_OLD)
        rename_timm(key, o->form == SWIN_FORM_TIMM_OLD);
    if (o->form == SWIN_FORM_TORCHVISION) rename_torchvision(key);
    if (hugging) {
        rename_hugging(key, five, o->o->bare ? "" : o->c->family == SWIN_V2 ? "swinv2." : "swin.");
        swap(key, ".q_bias", five ? ".q_proj.bias" : ".query.bias");
        swap(key, ".v_bias", five ? ".v_proj.bias" : ".value.bias");
    }
    if (hugging && strstr(key, "qkv"))
        put_split(o, key, p);
    else
        put(o, key, SWIN_F32, p->ndim, p->shape, *p->slot);
}

static void put_index(out *o, int stage, int block, int w)
{
    char name[NAME];
    const int64_t n = (int64_t)w * w, shape[2] = { n, n }, flat = n * n;
    int64_t *index = own(o, (size_t)flat * sizeof *index);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++)
            index[i * n + j] = (i / w - j / w + w - 1) * (2 * w - 1) + (i % w - j % w + w - 1);
    const bool vision = o->form == SWIN_FORM_TORCHVISION;
    snprintf(name, sizeof name, "layers.%d.blocks.%d.attn.relative_position_index", stage, block);
    if (vision) rename_torchvision(name);
    put(o, name, SWIN_S64, vision ? 1 : 2, vision ? &flat : shape, index);
}

static void put_coords(out *o, int stage, int block, int w, int pretrained)
{
    char name[NAME];
    const int64_t side = 2 * w - 1, shape[4] = { 1, side, side, 2 };
    float *coords = own(o, (size_t)(side * side * 2) * sizeof *coords);
    for (int64_t y = 0; y < side; y++)
        for (int64_t x = 0; x < side; x++)
            for (int i = 0; i < 2; i++) {
                const double t = 8.0 * (double)((i ? x : y) - (w - 1)) / (pretrained - 1);
                coords[(y * side + x) * 2 + i] = (float)copysign(log2(fabs(t) + 1) / 3, t);
            }
    snprintf(name, sizeof name, "layers.%d.blocks.%d.attn.relative_coords_table", stage, block);
    if (o->form == SWIN_FORM_TORCHVISION) rename_torchvision(name);
    put(o, name, SWIN_F32, 4, shape, coords);
}

static void put_buffers(out *o)
{
    for (int s = 0; s < o->c->num_stages; s++)
        for (int b = 0; b < o->c->depths[s]; b++) {
            const int w = swin_config_stage(o->c, s).window, pretrained = o->c->pretrained_window[s];
            put_index(o, s, b, w);
            if (o->c->family == SWIN_V2) put_coords(o, s, b, w, pretrained ? pretrained : w);
        }
}

swin_status swin_form_write(const char *path, const swin_config *c, const swin_weights *w, swin_form form,
                            const swin_form_opts *opts)
{
    swin_weights view = *w;
    swin_param *params = NULL;
    size_t count;
    out o = { .c = c, .form = form, .o = opts };
    o.list = calloc(MOST, sizeof *o.list);
    o.names = calloc(MOST, sizeof *o.names);
    o.owned = calloc(MOST, sizeof *o.owned);
    swin_status st = swin_weights_list(c, &view, &params, &count);
    for (size_t i = 0; st == SWIN_OK && i < count; i++) put_param(&o, &params[i]);
    if (st == SWIN_OK && opts->buffers) put_buffers(&o);
    if (st == SWIN_OK) st = swin_safetensors_write(path, o.list, o.count);
    for (size_t i = 0; i < o.nowned; i++) free(o.owned[i]);
    free(o.owned);
    free(o.names);
    free(o.list);
    free(params);
    return st;
}
