#include "tests/support/harden.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

const harden_kind harden_kinds[] = {
    { "inputs", "one channel in 24 of every norm before a Linear and of every V", 24, false, true, true,
      false },
    { "one", "one channel of each of these", 0, false, true, true, false },
    { "norms", "one channel in 8 of every norm, up or down", 8, true, true, false, false },
    { "values", "one channel in 4 of every V, up or down", 4, true, false, true, false },
    { "scores", "one channel in 6 of Q against K, up or down", 6, true, false, false, true },
    { "many", "every other channel of norms, V, and Q against K, up or down", 2, true, true, true, true },
    { NULL, NULL, 0, false, false, false, false },
};

const harden_kind *harden_find(const char *name)
{
    for (const harden_kind *k = harden_kinds; k->name; k++)
        if (strcmp(k->name, name) == 0) return k;
    return NULL;
}

typedef struct change {
    const harden_kind *kind;
    swin_rng rng;
} change;

static double factor(change *r)
{
    const double f = 10 * pow(4, (double)swin_rng_below(&r->rng, 1001) / 1000);
    return r->kind && r->kind->down && swin_rng_below(&r->rng, 2) ? 1 / f : f;
}

static int how_many(const change *r, int channels)
{
    return r->kind->every ? channels / r->kind->every : 1;
}

static void scale_row(float *w, float *bias, int row, int cols, double by)
{
    for (int k = 0; k < cols; k++) w[(size_t)row * (size_t)cols + (size_t)k] *= (float)by;
    if (bias) bias[row] *= (float)by;
}

static void shrink_column(float *w, int rows, int cols, int column, double by)
{
    for (int n = 0; n < rows; n++) w[(size_t)n * (size_t)cols + (size_t)column] /= (float)by;
}

/* Channels of a norm, and the columns of the weight that reads them. */
static void harden_norm(change *r, float *gamma, float *beta, float *w, int rows, int cols)
{
    if (!r->kind->norms) return;
    for (int i = 0; i < how_many(r, cols); i++) {
        const int k = (int)swin_rng_below(&r->rng, (uint64_t)cols);
        const double by = factor(r);
        gamma[k] *= (float)by;
        beta[k] *= (float)by;
        shrink_column(w, rows, cols, k, by);
    }
}

static void harden_values(change *r, swin_block_weights *b, int c)
{
    for (int i = 0; r->kind->values && i < how_many(r, c); i++) {
        const int k = (int)swin_rng_below(&r->rng, (uint64_t)c);
        const double by = factor(r);
        scale_row(b->qkv_weight, b->qkv_bias, 2 * c + k, c, by);
        shrink_column(b->proj_weight, c, c, k, by);
    }
}

static void harden_scores(change *r, swin_block_weights *b, int c)
{
    for (int i = 0; r->kind->scores && i < how_many(r, c); i++) {
        const int k = (int)swin_rng_below(&r->rng, (uint64_t)c);
        const double by = factor(r);
        scale_row(b->qkv_weight, b->qkv_bias, k, c, by);
        scale_row(b->qkv_weight, b->qkv_bias, c + k, c, 1 / by);
    }
}

void harden_inputs(swin_weights *w, const swin_config *config, const harden_kind *kind, uint64_t seed)
{
    change r = { .kind = kind, .rng = { .state = seed } };
    for (int i = 0; i < config->num_stages; i++) {
        const swin_stage s = swin_config_stage(config, i);
        const int c = s.channels;
        for (int j = 0; j < config->depths[i]; j++) {
            swin_block_weights *b = &w->stages[i].blocks[j];
            harden_norm(&r, b->norm1_weight, b->norm1_bias, b->qkv_weight, 3 * c, c);
            harden_norm(&r, b->norm2_weight, b->norm2_bias, b->fc1_weight, s.hidden, c);
            harden_values(&r, b, c);
            harden_scores(&r, b, c);
        }
        swin_stage_weights *m = &w->stages[i];
        if (m->reduction_weight)
            harden_norm(&r, m->merge_norm_weight, m->merge_norm_bias, m->reduction_weight, 2 * c, 4 * c);
    }
}

void harden_outputs(swin_weights *w, const swin_config *config, uint64_t seed)
{
    swin_rng r = { .state = seed };
    int block = 0;
    for (int i = 0; i < config->num_stages; i++) {
        const swin_stage s = swin_config_stage(config, i);
        const int c = s.channels;
        for (int j = 0; j < config->depths[i]; j++, block++) {
            swin_block_weights *b = &w->stages[i].blocks[j];
            for (int k = 0; block % 3 == 0 && k < 2; k++)
                scale_row(b->fc2_weight, b->fc2_bias, (int)swin_rng_below(&r, (uint64_t)c), s.hidden, 30);
        }
        float *reduction = w->stages[i].reduction_weight;
        for (int k = 0; reduction && k < 2; k++)
            scale_row(reduction, NULL, (int)swin_rng_below(&r, 2 * (uint64_t)c), 4 * c, 30);
    }
}
