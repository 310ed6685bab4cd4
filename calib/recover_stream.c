/* What an error in a channel of the residual stream is worth: by the layers that read the stream from there to the stage's
 * end. LayerNorm divides all channels of a token by the same number, so a channel counts by its gain and by the weights that
 * read it. Readers count alike, whatever the size of their outputs. */
#include "calib/recover_impl.h"

typedef struct reader {
    const float *gamma; /* [groups C]; NULL: 1 */
    const float *w;     /* [rows][groups C] */
    int rows, groups;
} reader;

static double channel_worth(const reader *o, int channels, int k)
{
    double sum = 0;
    for (int g = 0; g < o->groups; g++) {
        const int at = g * channels + k;
        const double gain = o->gamma ? (double)o->gamma[at] : 1;
        sum += gain * gain * recover_column_energy(o->w, o->rows, o->groups * channels, at);
    }
    return sum;
}

/* worth [channels] += the reader's, scaled to a mean of 1. */
static void add_reader(float *worth, const reader *o, int channels)
{
    double mean = 0;
    for (int k = 0; k < channels; k++) mean += channel_worth(o, channels, k) / channels;
    for (int k = 0; mean > 0 && k < channels; k++) worth[k] += (float)(channel_worth(o, channels, k) / mean);
}

static void add_block(float *worth, const swin_recover *r, const swin_stage *s, const swin_block_weights *b,
                      bool second)
{
    const bool v1 = r->config->family == SWIN_V1;
    const int c = s->channels;
    if (!second) add_reader(worth, &(reader){ v1 ? b->norm1_weight : NULL, b->qkv_weight, 3 * c, 1 }, c);
    add_reader(worth, &(reader){ v1 ? b->norm2_weight : NULL, b->fc1_weight, s->hidden, 1 }, c);
}

static void add_end(float *worth, const swin_recover *r, int stage, int c)
{
    const swin_stage_weights *s = &r->w.stages[stage];
    if (s->reduction_weight) {
        const float *gamma = r->config->family == SWIN_V1 ? s->merge_norm_weight : NULL;
        add_reader(worth, &(reader){ gamma, s->reduction_weight, 2 * c, 4 }, c);
    } else if (r->w.head_weight) {
        add_reader(worth, &(reader){ r->w.norm_weight, r->w.head_weight, r->config->num_classes, 1 }, c);
    }
}

/* Swin V2 puts a LayerNorm behind the product: its gain comes on top. */
static const float *norm_behind(const swin_recover *r, swin_site product)
{
    const swin_stage_weights *s = &r->w.stages[swin_site_stage(product)];
    const swin_site_kind kind = swin_site_kind_of(product);
    if (r->config->family == SWIN_V1) return NULL;
    if (kind == SWIN_SITE_REDUCTION_AFTERGEMM) return s->merge_norm_weight;
    const swin_block_weights *b = &s->blocks[swin_site_block(product)];
    return kind == SWIN_SITE_PROJ_AFTERGEMM ? b->norm1_weight : b->norm2_weight;
}

void recover_stream_worth(float *worth, const swin_recover *r, swin_site product)
{
    const swin_site_kind kind = swin_site_kind_of(product);
    const bool merge = kind == SWIN_SITE_REDUCTION_AFTERGEMM, first = kind == SWIN_SITE_PROJ_AFTERGEMM;
    const int stage = swin_site_stage(product) + merge, block = swin_site_block(product);
    const swin_stage s = swin_config_stage(r->config, stage);
    for (int k = 0; k < s.channels; k++) worth[k] = 0;
    if (first) add_block(worth, r, &s, &r->w.stages[stage].blocks[block], true);
    for (int i = merge ? 0 : block + 1; i < s.depth; i++)
        add_block(worth, r, &s, &r->w.stages[stage].blocks[i], false);
    add_end(worth, r, stage, s.channels);
    const float *gamma = norm_behind(r, product);
    float most = 0;
    for (int k = 0; k < s.channels; k++) {
        if (gamma) worth[k] *= gamma[k] * gamma[k];
        most = worth[k] > most ? worth[k] : most;
    }
    for (int k = 0; most == 0 && k < s.channels; k++)
        worth[k] = 1; /* nobody reads it: no reason to prefer any */
}
