/* Make a Swin V1 checkpoint that is harder to quantize.
 *
 * usage: tool_harden IN OUT.safetensors inputs|outputs [SEED]
 *
 *   inputs   the same float network: of every norm before a Linear, and of every V, one channel in 24 grows 10 to 40 times, and
 *            the columns that read it shrink by as much
 *   outputs  another network: two output channels of every third block's fc2, and of every merge's reduction, grow 30 times
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/rng.h"
#include "runtime/swin/checkpoint.h"
#include "runtime/swin/session.h"

static double factor(swin_rng *r)
{
    return 10 * pow(4, (double)swin_rng_below(r, 1001) / 1000);
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
static void harden_norm(swin_rng *r, float *gamma, float *beta, float *w, int rows, int cols)
{
    for (int i = 0; i < cols / 24; i++) {
        const int k = (int)swin_rng_below(r, (uint64_t)cols);
        const double by = factor(r);
        gamma[k] *= (float)by;
        beta[k] *= (float)by;
        shrink_column(w, rows, cols, k, by);
    }
}

static void harden_values(swin_rng *r, swin_block_weights *b, int c)
{
    for (int i = 0; i < c / 24; i++) {
        const int k = (int)swin_rng_below(r, (uint64_t)c);
        const double by = factor(r);
        scale_row(b->qkv_weight, b->qkv_bias, 2 * c + k, c, by);
        shrink_column(b->proj_weight, c, c, k, by);
    }
}

static void harden_inputs(swin_rng *r, swin_weights *w, const swin_config *config)
{
    for (int i = 0; i < config->num_stages; i++) {
        const swin_stage s = swin_config_stage(config, i);
        const int c = s.channels;
        for (int j = 0; j < config->depths[i]; j++) {
            swin_block_weights *b = &w->stages[i].blocks[j];
            harden_norm(r, b->norm1_weight, b->norm1_bias, b->qkv_weight, 3 * c, c);
            harden_norm(r, b->norm2_weight, b->norm2_bias, b->fc1_weight, s.hidden, c);
            harden_values(r, b, c);
        }
        swin_stage_weights *m = &w->stages[i];
        if (m->reduction_weight)
            harden_norm(r, m->merge_norm_weight, m->merge_norm_bias, m->reduction_weight, 2 * c, 4 * c);
    }
}

static void harden_outputs(swin_rng *r, swin_weights *w, const swin_config *config)
{
    int block = 0;
    for (int i = 0; i < config->num_stages; i++) {
        const swin_stage s = swin_config_stage(config, i);
        const int c = s.channels;
        for (int j = 0; j < config->depths[i]; j++, block++) {
            swin_block_weights *b = &w->stages[i].blocks[j];
            for (int k = 0; block % 3 == 0 && k < 2; k++)
                scale_row(b->fc2_weight, b->fc2_bias, (int)swin_rng_below(r, (uint64_t)c), s.hidden, 30);
        }
        float *reduction = w->stages[i].reduction_weight;
        for (int k = 0; reduction && k < 2; k++)
            scale_row(reduction, NULL, (int)swin_rng_below(r, 2 * (uint64_t)c), 4 * c, 30);
    }
}

int main(int argc, char **argv)
{
    const bool inputs = argc > 3 && strcmp(argv[3], "inputs") == 0;
    if (argc < 4 || (!inputs && strcmp(argv[3], "outputs") != 0)) {
        fprintf(stderr, "usage: %s IN OUT.safetensors inputs|outputs [SEED]\n", argv[0]);
        return 2;
    }
    swin_common common = SWIN_COMMON_DEFAULTS;
    common.resume = argv[1];
    swin_config c;
    swin_weights w = { 0 };
    swin_rng r = { .state = argc > 4 ? strtoull(argv[4], NULL, 10) : 1 };
    swin_status st = swin_model_load(&w, &c, &common);
    if (st == SWIN_OK && c.family != SWIN_V1) st = swin_fail(SWIN_ERR_USAGE, "%s is no Swin V1", argv[1]);
    if (st == SWIN_OK && inputs) harden_inputs(&r, &w, &c);
    if (st == SWIN_OK && !inputs) harden_outputs(&r, &w, &c);
    if (st == SWIN_OK) st = swin_weights_save(&w, &c, argv[2]);
    swin_weights_free(&w);
    return swin_report(st);
}
