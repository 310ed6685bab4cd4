#include "quant/ft_list.h"

#include <float.h>
#include <math.h>
#include <string.h>

typedef struct lister {
    const swin_calib_file *f;
    int stage, block;
    double v[SWIN_FT_LIST];
} lister;

static double amax(const lister *l, swin_site_kind kind)
{
    const int block = swin_site_owner_of((swin_site)kind) == SWIN_OWNER_MERGE ? 0 : l->block;
    const swin_site s = swin_site_make(l->stage, block, kind);
    if (swin_site_role_of(s) == SWIN_ROLE_WEIGHT) return swin_calib_file_weight(l->f, s)->amax;
    return swin_calib_file_site(l->f, s)->amax;
}

/* amax, amax/127, amax/127/127, 127/amax: what dequantization, a product of two codes and quantization multiply by. */
static void group(lister *l, int at, swin_site_kind kind)
{
    const double a = amax(l, kind);
    l->v[at] = a;
    l->v[at + 1] = a / 127;
    l->v[at + 2] = a / 127 / 127;
    l->v[at + 3] = 127 / a;
}

/* What turns a GEMM's INT32 sum into an int8 code of its output. */
static double requantize(const lister *l, swin_site_kind a, swin_site_kind b, swin_site_kind out)
{
    return amax(l, a) * amax(l, b) / (127 * amax(l, out));
}

static const struct {
    int at;
    swin_site_kind kind;
} block_groups[] = {
    { 0, SWIN_SITE_QKV_INPUT },       { 4, SWIN_SITE_QKV_AFTERGEMM },  { 8, SWIN_SITE_PROJ_INPUT },
    { 12, SWIN_SITE_PROJ_AFTERGEMM }, { 16, SWIN_SITE_MATMUL_Q },      { 20, SWIN_SITE_MATMUL_K },
    { 24, SWIN_SITE_MATMUL_V },       { 28, SWIN_SITE_MATMUL_A },      { 32, SWIN_SITE_SOFTMAX_INPUT },
    { 36, SWIN_SITE_FC1_INPUT },      { 40, SWIN_SITE_FC1_AFTERGEMM }, { 44, SWIN_SITE_FC2_INPUT },
    { 48, SWIN_SITE_FC2_AFTERGEMM },
};

/* The operands of Q K: V2's are normalised first, and quantized again. */
static swin_site_kind query(const lister *l)
{
    return l->f->config.family == SWIN_V2 ? SWIN_SITE_MHA_Q : SWIN_SITE_MATMUL_Q;
}
static swin_site_kind key(const lister *l)
{
    return l->f->config.family == SWIN_V2 ? SWIN_SITE_MHA_K : SWIN_SITE_MATMUL_K;
}

static void products(lister *l)
{
    double *v = l->v;
    v[72] = amax(l, SWIN_SITE_QKV_WEIGHT);
    v[73] = amax(l, SWIN_SITE_PROJ_WEIGHT);
    v[74] = amax(l, SWIN_SITE_FC1_WEIGHT);
    v[75] = amax(l, SWIN_SITE_FC2_WEIGHT);
    v[77] = requantize(l, SWIN_SITE_QKV_INPUT, SWIN_SITE_QKV_WEIGHT, SWIN_SITE_QKV_AFTERGEMM);
    v[78] = requantize(l, SWIN_SITE_PROJ_INPUT, SWIN_SITE_PROJ_WEIGHT, SWIN_SITE_PROJ_AFTERGEMM);
    v[79] = requantize(l, SWIN_SITE_FC1_INPUT, SWIN_SITE_FC1_WEIGHT, SWIN_SITE_FC1_AFTERGEMM);
    v[80] = requantize(l, SWIN_SITE_FC2_INPUT, SWIN_SITE_FC2_WEIGHT, SWIN_SITE_FC2_AFTERGEMM);
    v[81] = requantize(l, query(l), key(l), SWIN_SITE_SOFTMAX_INPUT);
    v[82] = requantize(l, SWIN_SITE_MATMUL_A, SWIN_SITE_MATMUL_V, SWIN_SITE_PROJ_INPUT);
    v[85] = amax(l, query(l)) * amax(l, key(l)) / (127.0 * 127.0);
    v[86] = 127 / amax(l, SWIN_SITE_MATMUL_A);
    v[87] = v[82];
}

/* A stage's merge values stand in each of its blocks; the last stage has zeros there. */
static void merge(lister *l)
{
    group(l, 60, SWIN_SITE_REDUCTION_INPUT);
    group(l, 64, SWIN_SITE_REDUCTION_AFTERGEMM);
    l->v[76] = amax(l, SWIN_SITE_REDUCTION_WEIGHT);
    l->v[83] =
        requantize(l, SWIN_SITE_REDUCTION_INPUT, SWIN_SITE_REDUCTION_WEIGHT, SWIN_SITE_REDUCTION_AFTERGEMM);
}

swin_status swin_ft_list(float list[SWIN_FT_LIST], const swin_calib_file *f, int stage, int block)
{
    lister l = { .f = f, .stage = stage, .block = block };
    for (size_t i = 0; i < SWIN_COUNT(block_groups); i++) group(&l, block_groups[i].at, block_groups[i].kind);
    const bool v2 = f->config.family == SWIN_V2;
    group(&l, 52, v2 ? SWIN_SITE_MHA_Q : SWIN_SITE_ADD1_RESIDUAL);
    group(&l, 56, v2 ? SWIN_SITE_MHA_K : SWIN_SITE_ADD2_RESIDUAL);
    products(&l);
    if (stage + 1 < f->config.num_stages) merge(&l);
    for (int i = 0; i < SWIN_FT_LIST; i++) {
        if (!(l.v[i] <= FLT_MAX) || (l.v[i] > 0 && l.v[i] < FLT_MIN))
            return swin_fail(SWIN_ERR_VALUE,
                             "layers.%d.blocks.%d: value %d of the scale list, %g, does not fit float32",
                             stage, block, i, l.v[i]);
        list[i] = (float)l.v[i];
    }
    return SWIN_OK;
}
