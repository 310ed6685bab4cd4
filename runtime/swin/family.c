#include "runtime/swin/family.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A name there. In both patterns # stands for a number (the stage, then the block) and a final * for the rest. In `theirs`,
 * ^ is the source's prefix, {a,b,c} three tensors to be stacked, and [i/n] at the end the i-th of n parts; the stage becomes
 * mul * stage + add (mul 0: it stays). Of several rows for one name, the first whose tensors are there counts. */
typedef struct key_row {
    const char *official, *theirs;
    int mul, add;
} key_row;

struct swin_source {
    const char *name, *help;
    const char *const *marks;    /* tensors, behind a prefix, that only it has; NULL ends them */
    const char *const *prefixes; /* tried in order; NULL ends them */
    const key_row *rows;
    size_t count;
};

static const char *const no_prefix[] = { "", NULL };

/* ---- official, and timm before 0.9 ---- */
static const char *const official_marks[] = { "patch_embed.proj.weight", NULL };

/* ---- timm: a stage's merging stands before it ---- */
static const char *const timm_marks[] = { "patch_embed.proj.weight", "layers.1.downsample.reduction.weight",
                                          "!layers.0.downsample.reduction.weight", NULL };
static const key_row timm_rows[] = {
    { "layers.#.downsample.*", "layers.#.downsample.*", 1, 1 },
    { "head.*", "head.fc.*", 0, 0 },
    { "head.*", "head.*", 0, 0 },
};
static const char *const timm_old_marks[] = { "patch_embed.proj.weight", "head.fc.weight", NULL };
static const key_row timm_old_rows[] = { { "head.*", "head.fc.*", 0, 0 } };

/* ---- torchvision: one list of stages and mergings ---- */
static const char *const vision_marks[] = { "features.0.0.weight", "features.1.0.norm1.weight", NULL };
static const key_row vision_rows[] = {
    { "patch_embed.proj.*", "features.0.0.*", 0, 0 },
    { "patch_embed.norm.*", "features.0.2.*", 0, 0 },
    { "layers.#.blocks.#.mlp.fc1.*", "features.#.#.mlp.0.*", 2, 1 },
    { "layers.#.blocks.#.mlp.fc2.*", "features.#.#.mlp.3.*", 2, 1 },
    { "layers.#.blocks.#.attn.q_bias", "features.#.#.attn.qkv.bias[0/3]", 2, 1 },
    { "layers.#.blocks.#.attn.v_bias", "features.#.#.attn.qkv.bias[2/3]", 2, 1 },
    { "layers.#.blocks.#.*", "features.#.#.*", 2, 1 },
    { "layers.#.downsample.*", "features.#.*", 2, 2 },
};

/* ---- Hugging Face transformers: before version 5, and since (V1) ---- */
static const char *const hugging_marks[] = { "^embeddings.patch_embeddings.projection.weight", NULL };
static const char *const hugging_prefixes[] = { "swin.", "swinv2.", "", NULL };
#define HF "^encoder.layers.#.blocks.#."
static const key_row hugging_rows[] = {
    { "patch_embed.proj.*", "^embeddings.patch_embeddings.projection.*", 0, 0 },
    { "patch_embed.norm.*", "^embeddings.norm.*", 0, 0 },
    { "layers.#.blocks.#.norm1.*", HF "layernorm_before.*", 0, 0 },
    { "layers.#.blocks.#.norm2.*", HF "layernorm_after.*", 0, 0 },
    { "layers.#.blocks.#.attn.qkv.*", HF "attention.self.{query,key,value}.*", 0, 0 },
    { "layers.#.blocks.#.attn.qkv.*", HF "attention.{q,k,v}_proj.*", 0, 0 },
    { "layers.#.blocks.#.attn.q_bias", HF "attention.self.query.bias", 0, 0 },
    { "layers.#.blocks.#.attn.q_bias", HF "attention.q_proj.bias", 0, 0 },
    { "layers.#.blocks.#.attn.v_bias", HF "attention.self.value.bias", 0, 0 },
    { "layers.#.blocks.#.attn.v_bias", HF "attention.v_proj.bias", 0, 0 },
    { "layers.#.blocks.#.attn.proj.*", HF "attention.output.dense.*", 0, 0 },
    { "layers.#.blocks.#.attn.proj.*", HF "attention.o_proj.*", 0, 0 },
    { "layers.#.blocks.#.attn.cpb_mlp.*", HF "attention.self.continuous_position_bias_mlp.*", 0, 0 },
    { "layers.#.blocks.#.attn.*", HF "attention.self.*", 0, 0 },
    { "layers.#.blocks.#.attn.*", HF "attention.relative_position_bias.*", 0, 0 },
    { "layers.#.blocks.#.attn.*", HF "attention.*", 0, 0 },
    { "layers.#.blocks.#.mlp.fc1.*", HF "intermediate.dense.*", 0, 0 },
    { "layers.#.blocks.#.mlp.fc1.*", HF "mlp.fc1.*", 0, 0 },
    { "layers.#.blocks.#.mlp.fc2.*", HF "output.dense.*", 0, 0 },
    { "layers.#.blocks.#.mlp.fc2.*", HF "mlp.fc2.*", 0, 0 },
    { "layers.#.downsample.*", "^encoder.layers.#.downsample.*", 0, 0 },
    { "norm.*", "^layernorm.*", 0, 0 },
    { "head.*", "classifier.*", 0, 0 },
};
#undef HF

#define ROWS(r) r, SWIN_COUNT(r)

/* Official names come last: they are also what an unknown file is read under. */
static const swin_source sources[] = {
    { "timm", "PyTorch Image Models", timm_marks, no_prefix, ROWS(timm_rows) },
    { "timm", "PyTorch Image Models, merging at the end of a stage", timm_old_marks, no_prefix,
      ROWS(timm_old_rows) },
    { "torchvision", "torchvision.models", vision_marks, no_prefix, ROWS(vision_rows) },
    { "transformers", "Hugging Face transformers", hugging_marks, hugging_prefixes, ROWS(hugging_rows) },
    { "official", "Microsoft's names, which timm had too before version 0.9", official_marks, no_prefix, NULL,
      0 },
};

/* ---- patterns ---- */

typedef struct match {
    int numbers[2];
    const char *rest;
} match;

static bool matches(const char *pattern, const char *key, match *m)
{
    int n = 0;
    *m = (match){ .rest = "" };
    for (; *pattern; pattern++) {
        if (*pattern == '*') {
            m->rest = key;
            return true;
        }
        if (*pattern == '#') {
            char *end;
            if (!isdigit((unsigned char)*key) || n == 2) return false;
            m->numbers[n++] = (int)strtol(key, &end, 10);
            key = end;
        } else if (*pattern != *key++) {
            return false;
        }
    }
    return *key == 0;
}

/* The braces' `which`-th word, or the whole of what stands outside them. */
static void expand(char *out, size_t size, const swin_keys *k, const key_row *row, const match *m, int which)
{
    size_t at = 0;
    int number = 0, word = -1; /* word: inside braces, its place */
    out[0] = 0;
    for (const char *p = row->theirs; *p && *p != '[' && at + 1 < size; p++) {
        const char *text = NULL;
        char digits[16], one[2] = { *p, 0 };
        if (*p == '{')
            word = 0;
        else if (*p == '}')
            word = -1;
        else if (*p == ',' && word >= 0)
            word++;
        else if (word >= 0 && word != which)
            continue;
        else if (*p == '^')
            text = k->prefix;
        else if (*p == '*')
            text = m->rest;
        else if (*p == '#') {
            const int v = m->numbers[number] * (row->mul && number == 0 ? row->mul : 1);
            snprintf(digits, sizeof digits, "%d", number == 0 ? v + row->add : v);
            number++;
            text = digits;
        } else
            text = one;
        if (text) at += (size_t)snprintf(out + at, size - at, "%s", text);
        if (at >= size) at = size - 1;
    }
}

static swin_pieces pieces_of(const swin_keys *k, const key_row *row, const match *m)
{
    swin_pieces p = { .parts = 1 };
    const char *slice = strchr(row->theirs, '[');
    const int count = strchr(row->theirs, '{') ? 3 : 1;
    if (slice) p.part = slice[1] - '0', p.parts = slice[3] - '0';
    for (int i = 0; i < count; i++) {
        char key[SWIN_PARAM_KEY_MAX + 64];
        expand(key, sizeof key, k, row, m, i);
        if (i == 0) snprintf(p.name, sizeof p.name, "%s", key);
        p.tensor[i] = swin_ckpt_find(k->ck, key);
        if (!p.tensor[i]) {
            snprintf(p.name, sizeof p.name, "%s", key);
            return p;
        }
    }
    p.count = count;
    return p;
}

swin_pieces swin_keys_find(const swin_keys *k, const char *key)
{
    swin_pieces first = { 0 };
    match m;
    for (size_t i = 0; i < k->source->count; i++) {
        const key_row *row = &k->source->rows[i];
        if (!matches(row->official, key, &m)) continue;
        const swin_pieces p = pieces_of(k, row, &m);
        if (p.count) return p;
        if (!first.parts) first = p;
    }
    if (first.parts) return first;
    const key_row same = { "*", "*", 0, 0 };
    matches(same.official, key, &m);
    return pieces_of(k, &same, &m);
}

const swin_ckpt_tensor *swin_keys_tensor(const swin_keys *k, const char *key)
{
    const swin_pieces p = swin_keys_find(k, key);
    return p.count == 1 && p.parts == 1 ? p.tensor[0] : NULL;
}

/* ---- recognising ---- */

static bool has_marks(const swin_ckpt *ck, const swin_source *s, const char *prefix)
{
    for (const char *const *mark = s->marks; *mark; mark++) {
        const bool absent = **mark == '!', behind = **mark == '^';
        char key[SWIN_PARAM_KEY_MAX + 64];
        snprintf(key, sizeof key, "%s%s", behind ? prefix : "", *mark + (absent || behind));
        if ((swin_ckpt_find(ck, key) != NULL) == absent) return false;
    }
    return true;
}

swin_keys swin_keys_of(const swin_ckpt *ck)
{
    for (size_t i = 0; i < SWIN_COUNT(sources); i++)
        for (const char *const *prefix = sources[i].prefixes; *prefix; prefix++)
            if (has_marks(ck, &sources[i], *prefix)) return (swin_keys){ ck, &sources[i], *prefix };
    return (swin_keys){ ck, &sources[SWIN_COUNT(sources) - 1], "" };
}

const char *swin_keys_source(const swin_keys *k)
{
    return k->source->name;
}

const char *swin_keys_help(const swin_keys *k)
{
    return k->source->help;
}
