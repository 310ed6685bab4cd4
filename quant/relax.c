#include "quant/relax.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quant/calib_file.h"
#include "quant/linear_weight.h"
#include "runtime/swin/outputs.h"

static bool is_on(const swin_calib_file *f, swin_site s)
{
    const swin_site_record *r = swin_calib_file_site(f, s);
    return r && r->enabled;
}

static void add_site(swin_relax_unit *u, const swin_calib_file *f, swin_site s)
{
    if (is_on(f, s)) u->sites[u->count++] = s;
}

/* Tokens of one image at a stage's blocks. */
static uint64_t tokens_of(const swin_stage *s)
{
    return (uint64_t)s->resolution * (uint64_t)s->resolution;
}

/* ---- a GEMM: kinds input, weight, aftergemm follow each other ------------------------------------------------------- */

static swin_site after(swin_site s, int by)
{
    return swin_site_make(swin_site_stage(s), swin_site_block(s),
                          (swin_site_kind)(swin_site_kind_of(s) + by));
}

/* Rows, inputs and outputs of the GEMM with that input. */
static swin_status gemm_shape(uint64_t *m, uint64_t *n, uint64_t *k, const swin_config *c, swin_site input)
{
    swin_linear_weight l;
    const swin_stage s = swin_config_stage(c, swin_site_stage(input));
    SWIN_TRY(swin_linear_shape_of(&l, c, after(input, 1)));
    *m = tokens_of(&s) / (swin_site_kind_of(input) == SWIN_SITE_REDUCTION_INPUT ? 4 : 1);
    *n = (uint64_t)l.out;
    *k = (uint64_t)l.in;
    return SWIN_OK;
}

static swin_status gemm_units(swin_relax_unit *u, int *count, const swin_calib_file *f, swin_site input)
{
    uint64_t m, n, k;
    SWIN_TRY(gemm_shape(&m, &n, &k, &f->config, input));
    const int part = swin_output_part(&f->config, input);
    const swin_site output = after(input, 2);
    if (is_on(f, output)) {
        u[*count] = (swin_relax_unit){ .part = part, .own = 1, .bytes = m * n };
        swin_site_name(output, u[*count].name);
        add_site(&u[(*count)++], f, output);
    }
    swin_relax_unit g = { .part = part, .bytes = m * k + n * k, .ops = 2 * m * n * k, .weights = n * k };
    swin_site_module(input, g.name);
    add_site(&g, f, input);
    add_site(&g, f, after(input, 1));
    g.own = g.count;
    add_site(&g, f, output);
    if (g.own) u[(*count)++] = g;
    return SWIN_OK;
}

/* ---- attention -------------------------------------------------------------------------------------------------------- */

static void attention_unit(swin_relax_unit *u, int *count, const swin_calib_file *f, swin_site probabilities)
{
    static const swin_site_kind operands[] = { SWIN_SITE_MATMUL_Q, SWIN_SITE_MATMUL_K, SWIN_SITE_MATMUL_V,
                                               SWIN_SITE_MHA_Q, SWIN_SITE_MHA_K };
    const int stage = swin_site_stage(probabilities), block = swin_site_block(probabilities);
    const swin_stage s = swin_config_stage(&f->config, stage);
    const uint64_t m = tokens_of(&s), c = (uint64_t)s.channels, n = (uint64_t)s.window * (uint64_t)s.window;
    swin_relax_unit a = { .part = swin_output_part(&f->config, probabilities),
                          .bytes = 3 * m * c,
                          .ops = 4 * m * n * c };
    swin_site_module(probabilities, a.name);
    for (size_t i = 0; i < SWIN_COUNT(operands); i++)
        add_site(&a, f, swin_site_make(stage, block, operands[i]));
    add_site(&a, f, probabilities);
    a.own = a.count;
    if (a.count) u[(*count)++] = a;
}

swin_status swin_relax_units(swin_relax_unit **units, int *count, const swin_calib_file *f)
{
    *count = 0;
    swin_relax_unit *u = calloc((size_t)f->nsites + 1, sizeof *u);
    *units = u;
    if (!u) return swin_fail(SWIN_ERR_MEM, "no memory for %d units", f->nsites);
    swin_status st = SWIN_OK;
    for (int i = 0; i < f->nsites && st == SWIN_OK; i++) {
        const swin_site s = f->sites[i].site;
        const swin_site_role role = swin_site_role_of(s);
        if (role == SWIN_ROLE_INPUT || role == SWIN_ROLE_GELU) st = gemm_units(u, count, f, s);
        if (role == SWIN_ROLE_SOFTMAX) attention_unit(u, count, f, s);
    }
    for (int i = 0; i < *count; i++) u[i].alone_db = u[i].share = u[i].gain_db = NAN;
    if (st == SWIN_OK) return SWIN_OK;
    free(u);
    *units = NULL;
    return st;
}

double swin_relax_time(const swin_relax_unit *u)
{
    const double batch = 64, bytes = (double)(u->bytes - u->weights) + (double)u->weights / batch;
    return (double)u->ops / 1.19e15 + bytes / 3.0e12;
}

void swin_relax_set(swin_calib_file *f, const swin_relax_unit *u, bool relaxed)
{
    for (int i = 0; i < u->count; i++) {
        const int at = swin_site_index(&f->config, u->sites[i]);
        if (at >= 0)
            f->sites[at].enabled = !relaxed && swin_mode_enabled(f->mode, f->config.family, u->sites[i]);
    }
}

/* ---- weights --------------------------------------------------------------------------------------------------------- */

typedef struct vector {
    float *to, *from; /* NULL: the network has none */
    int count;
} vector;

static void copy(const vector *v)
{
    if (v->to && v->from) memcpy(v->to, v->from, (size_t)v->count * sizeof *v->to);
}

/* What stands behind a block's Linear. */
static void copy_biases(swin_block_weights *to, const swin_block_weights *from, const swin_stage *s,
                        swin_site_kind weight, bool v2)
{
    const int c = s->channels;
    switch (weight) {
    case SWIN_SITE_QKV_WEIGHT:
        copy(&(vector){ to->qkv_bias, from->qkv_bias, 3 * c });
        copy(&(vector){ to->q_bias, from->q_bias, c });
        copy(&(vector){ to->v_bias, from->v_bias, c });
        break;
    case SWIN_SITE_PROJ_WEIGHT:
        copy(&(vector){ to->proj_bias, from->proj_bias, c });
        if (v2) copy(&(vector){ to->norm1_bias, from->norm1_bias, c });
        break;
    case SWIN_SITE_FC1_WEIGHT:
        copy(&(vector){ to->fc1_bias, from->fc1_bias, s->hidden });
        break;
    case SWIN_SITE_FC2_WEIGHT:
        copy(&(vector){ to->fc2_bias, from->fc2_bias, c });
        if (v2) copy(&(vector){ to->norm2_bias, from->norm2_bias, c });
        break;
    default: /* reduction has no bias */
        break;
    }
}

swin_status swin_relax_layer(swin_weights *to, const swin_weights *from, const swin_config *c,
                             swin_site weight, bool bias)
{
    swin_linear_weight a, b;
    const int stage = swin_site_stage(weight), block = swin_site_block(weight);
    SWIN_TRY(swin_linear_weight_of(&a, c, to, weight));
    SWIN_TRY(swin_linear_weight_of(&b, c, from, weight));
    memcpy(a.data, b.data, (size_t)a.out * (size_t)a.in * sizeof *a.data);
    if (!bias || swin_site_owner_of(weight) != SWIN_OWNER_BLOCK) return SWIN_OK;
    const swin_stage s = swin_config_stage(c, stage);
    copy_biases(&to->stages[stage].blocks[block], &from->stages[stage].blocks[block], &s,
                swin_site_kind_of(weight), c->family == SWIN_V2);
    return SWIN_OK;
}

swin_status swin_relax_weights(swin_weights *w, const swin_weights *exact, const swin_calib_file *f)
{
    for (int i = 0; i < f->nweights; i++)
        if (!is_on(f, f->weights[i].site))
            SWIN_TRY(swin_relax_layer(w, exact, &f->config, f->weights[i].site, true));
    return SWIN_OK;
}
