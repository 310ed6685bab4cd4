/* Centering: channels of what is quantized are shifted so that their values lie evenly around zero, where symmetric codes
 * waste none. Exact in float: whoever reads the channel takes the shift back.
 *
 *   LayerNorm's shift      -> the bias of qkv, of fc1 (V1; reduction has no bias)
 *   the bias of keys       -> nothing: what all scores of a query share, softmax does not see (V1; V2 normalises keys)
 *   the bias of values     -> the bias of proj: a row of probabilities adds up to one
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "calib/recover_impl.h"
#include "runtime/swin/outputs.h"

/* The middle of each column's values. */
static void middles(float *m, const float *x, int rows, int cols, int ld)
{
    for (int k = 0; k < cols; k++) {
        float lo = INFINITY, hi = -INFINITY;
        for (int r = 0; r < rows; r++) {
            const float v = x[(size_t)r * (size_t)ld + (size_t)k];
            lo = fminf(lo, v);
            hi = fmaxf(hi, v);
        }
        m[k] = 0.5f * (lo + hi);
    }
}

/* bias [n] += w [n][k] m. */
static void add_product(float *bias, const float *w, const float *m, int n, int k)
{
    for (int i = 0; i < n; i++) {
        double sum = 0;
        for (int j = 0; j < k; j++) sum += (double)w[(size_t)i * (size_t)k + (size_t)j] * (double)m[j];
        bias[i] = (float)((double)bias[i] + sum);
    }
}

static void subtract(float *bias, const float *m, int n)
{
    for (int i = 0; i < n; i++) bias[i] -= m[i];
}

/* m: room for [C]. Keys and values first: their own shifts do not depend on their inputs' ones. */
static void center_block(recover_view *v, float *m, int *count)
{
    swin_block_weights *b = v->b;
    const int c = v->shape.channels, rows = v->qkv.rows;
    float *values = b->qkv_bias ? b->qkv_bias + 2 * c : b->v_bias;
    if (values) {
        middles(m, v->y + 2 * c, rows, c, 3 * c);
        subtract(values, m, c);
        add_product(b->proj_bias, b->proj_weight, m, c, c);
        *count += c;
    }
    if (v->r->config->family != SWIN_V1) return;
    middles(m, v->fc1.x, v->fc1.rows, c, c);
    subtract(b->norm2_bias, m, c);
    add_product(b->fc1_bias, b->fc1_weight, m, v->shape.hidden, c);
    *count += c;
    if (!b->qkv_bias) return;
    middles(m, v->y + c, rows, c, 3 * c);
    subtract(b->qkv_bias + c, m, c);
    middles(m, v->qkv.x, rows, c, c);
    subtract(b->norm1_bias, m, c);
    add_product(b->qkv_bias, b->qkv_weight, m, 3 * c, c);
    *count += 2 * c;
}

static swin_status center_part(recover_walk *k, int *count)
{
    recover_view v;
    SWIN_TRY(recover_view_open(&v, k, RECOVER_ROWS, 4));
    float *m = malloc(((size_t)v.shape.channels + 1) * sizeof *m);
    swin_status st = m ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "--recover: no memory for a block's shifts");
    if (st == SWIN_OK && !v.merge) st = recover_view_measure(&v);
    if (st == SWIN_OK && !v.merge) center_block(&v, m, count);
    free(m);
    recover_view_close(&v);
    return st;
}

static swin_status center(swin_recover *r, char *changed, size_t size)
{
    const int parts = swin_output_count(r->config);
    int count = 0;
    swin_net *net;
    recover_walk k = { 0 };
    SWIN_TRY(recover_net(r, &net));
    swin_status st = recover_walk_begin(&k, r, net, NULL);
    while (st == SWIN_OK && k.part < parts - 1) st = center_part(&k, &count);
    snprintf(changed, size, "%d channels", count);
    recover_walk_end(&k);
    return st;
}

const swin_recover_method swin_recover_center = {
    .name = "center",
    .help = "channels of norms, keys and values shifted to lie evenly around zero, exact in float",
    .levels = SWIN_RECOVER_BEST, /* alone it helps no network for sure, and outliers may leave it worse */
    .when = SWIN_RECOVER_BEFORE,
    .run = center,
};
