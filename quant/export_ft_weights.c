/* FasterTransformer's INT8 Swin takes one list of tensors, told apart by their place alone (reference/swin.md 4.2): float16
 * parameters, Linear weights as codes in the tiles of one kind of GPU (its own operator makes them, or --ft-layout does), each
 * block's scale list twice (the engine keeps one on the GPU, one on the host), the position bias and mask plain and in the
 * order its fused attention kernel reads them. What a network lacks is an empty tensor, never a missing one. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quant/export.h"
#include "quant/ft_list.h"
#include "quant/npz.h"
#include "runtime/base/file.h"
#include "runtime/base/half.h"
#include "runtime/swin/tables.h"

typedef struct pack {
    const swin_export_job *job;
    swin_named_tensor *tensors; /* each one's name and data are owned */
    size_t count, capacity;
} pack;

/* Add a tensor with room for its numbers. */
static swin_status add(pack *p, void **data, const char *prefix, const char *name, swin_dtype dtype, int ndim,
                       const int64_t *shape)
{
    if (p->count == p->capacity) {
        const size_t capacity = p->capacity ? 2 * p->capacity : 256;
        swin_named_tensor *grown = realloc(p->tensors, capacity * sizeof *grown);
        if (!grown) return swin_fail(SWIN_ERR_MEM, "no memory for %zu tensors", capacity);
        p->tensors = grown;
        p->capacity = capacity;
    }
    size_t n = 1;
    swin_named_tensor t = { .dtype = dtype, .ndim = ndim };
    for (int i = 0; i < ndim; i++) n *= (size_t)(t.shape[i] = shape[i]);
    *data = malloc(n * swin_dtype_size(dtype) + 1);
    t.data = *data;
    t.name = swin_format("%s%s", prefix, name);
    p->tensors[p->count++] = t;
    return t.data && t.name ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "%s%s: no memory", prefix, name);
}

static swin_status add_half(pack *p, const char *prefix, const char *name, const float *v, int ndim,
                            const int64_t *shape)
{
    void *data;
    SWIN_TRY(add(p, &data, prefix, name, SWIN_F16, ndim, shape));
    size_t n = 1;
    for (int i = 0; i < ndim; i++) n *= (size_t)shape[i];
    for (size_t i = 0; i < n; i++) {
        ((uint16_t *)data)[i] = swin_f32_to_f16(v[i]);
        if (!(fabsf(v[i]) < 65520.0f)) /* rounds to infinity */
            return swin_fail(SWIN_ERR_VALUE, "%s%s: %g does not fit float16", prefix, name, (double)v[i]);
    }
    return SWIN_OK;
}

static swin_status add_vector(pack *p, const char *prefix, const char *name, const float *v, int n)
{
    return add_half(p, prefix, name, v, 1, (int64_t[]){ n });
}

/* A Linear's weight [out][in]. As codes it is what the toolkit's operator returns: a flat float16 tensor whose first bytes are
 * the codes, for the engine looks at the first tensor's type and wants float16 there. */
static swin_status add_linear(pack *p, swin_site site, const float *w, int out, int in)
{
    char name[SWIN_SITE_NAME_MAX];
    void *data;
    swin_site_module(site, name);
    if (p->job->ft_layout == SWIN_FT_FLOAT16)
        return add_half(p, name, ".weight", w, 2, (int64_t[]){ out, in });
    const int64_t count = (int64_t)out * in;
    SWIN_TRY(add(p, &data, name, ".weight", SWIN_F16, 1, &count));
    memset(data, 0, (size_t)count * sizeof(uint16_t));
    const float amax = swin_calib_file_weight(p->job->calib, site)->amax;
    const swin_status st = swin_ft_codes(data, w, out, in, amax, p->job->ft_layout);
    return st == SWIN_OK ? SWIN_OK : swin_fail_context(st, "%s.weight", name);
}

/* ---- tables of the fused attention kernel --------------------------------------------------------------------------- */

enum { TILE = 16, QUADRANT = 8 };

/* One padded matrix: tiles of 16 x 16, each as its quadrants (0,0) (0,8) (8,0) (8,8) of 8 x 8 row-major numbers. A pass of the
 * kernel covers `down` x `across` tiles, numbered down its columns; passes are numbered along rows. */
static void pack_tiles(float *out, const float *in, int n, int padded, int down, int across)
{
    for (int row = 0; row < padded; row += down * TILE)
        for (int col = 0; col < padded; col += across * TILE)
            for (int t = 0; t < down * across; t++) {
                const int y0 = row + t % down * TILE, x0 = col + t / down * TILE;
                for (int e = 0; e < TILE * TILE; e++) {
                    const int quadrant = e / (QUADRANT * QUADRANT), within = e % (QUADRANT * QUADRANT);
                    const int y = y0 + quadrant / 2 * QUADRANT + within / QUADRANT;
                    const int x = x0 + quadrant % 2 * QUADRANT + within % QUADRANT;
                    *out++ = y < n && x < n ? in[y * n + x]
                                            : -30000.0f; /* what the kernel's softmax turns into 0 */
                }
            }
}

/* The kernel has sizes 64 and 256 and head size 32 (stage 0's, which stands for all); otherwise the tensor is empty. */
static swin_status add_packed(pack *p, const char *prefix, const char *name, const float *v, int count, int n)
{
    const int padded = n <= 64 ? 64 : 256;
    if (n > 256 || swin_config_stage(p->job->config, 0).head_size != 32)
        return add_half(p, prefix, name, NULL, 1, (int64_t[]){ 0 });
    const size_t each = (size_t)padded * (size_t)padded;
    float *out = malloc((size_t)count * each * sizeof *out);
    if (!out) return swin_fail(SWIN_ERR_MEM, "%s%s: no memory", prefix, name);
    for (int i = 0; i < count; i++)
        pack_tiles(out + (size_t)i * each, v + (size_t)i * (size_t)n * (size_t)n, n, padded,
                   padded == 64 ? 2 : 1, padded == 64 ? 2 : 4);
    const swin_status st = add_half(p, prefix, name, out, 3, (int64_t[]){ count, padded, padded });
    free(out);
    return st;
}

/* A table of `count` matrices, plain and packed. */
static swin_status add_table(pack *p, const char *prefix, const char *name, const char *packed,
                             const float *v, int count, int n)
{
    SWIN_TRY(add_half(p, prefix, name, v, 3, (int64_t[]){ count, n, n }));
    return add_packed(p, prefix, packed, v, count, n);
}

/* ---- the list ------------------------------------------------------------------------------------------------------- */

static swin_status add_scales(pack *p, const char *prefix, int stage, int block)
{
    void *device, *host;
    SWIN_TRY(add(p, &device, prefix, "amaxList", SWIN_F32, 1, (int64_t[]){ SWIN_FT_LIST }));
    SWIN_TRY(add(p, &host, prefix, "h_amaxList", SWIN_F32, 1, (int64_t[]){ SWIN_FT_LIST }));
    SWIN_TRY(swin_ft_list(device, p->job->calib, stage, block));
    memcpy(host, device, SWIN_FT_LIST * sizeof(float));
    return SWIN_OK;
}

/* V2 stores the biases of queries and values; keys have none. */
static swin_status add_qkv_bias(pack *p, const char *prefix, const swin_block_weights *w, int c)
{
    if (!w->q_bias) return add_vector(p, prefix, "attn.qkv.bias", w->qkv_bias, 3 * c);
    float *all = calloc((size_t)c, 3 * sizeof *all);
    if (!all) return swin_fail(SWIN_ERR_MEM, "%s: no memory for a bias", prefix);
    memcpy(all, w->q_bias, (size_t)c * sizeof *all);
    memcpy(all + 2 * c, w->v_bias, (size_t)c * sizeof *all);
    const swin_status st = add_vector(p, prefix, "attn.qkv.bias", all, 3 * c);
    free(all);
    return st;
}

/* The bias that each pair of a window's tokens adds to its score, plain and packed. */
static swin_status add_position_bias(pack *p, const char *prefix, int stage, const swin_block_weights *w)
{
    const swin_stage s = swin_config_stage(p->job->config, stage);
    const size_t heads = (size_t)s.heads, n = (size_t)s.window * (size_t)s.window,
                 side = 2 * (size_t)s.window - 1;
    float *bias = malloc(heads * n * n * sizeof *bias), *made = NULL;
    swin_status st = SWIN_OK;
    if (!w->bias_table) {
        made = malloc(side * side * heads * sizeof *made);
        if (made)
            st = swin_position_table(made, w, s.window, s.heads, p->job->config->pretrained_window[stage]);
    }
    if (!bias || (!w->bias_table && !made))
        st = swin_fail(SWIN_ERR_MEM, "%s: no memory for a position bias", prefix);
    if (st == SWIN_OK) {
        swin_position_bias(bias, made ? made : w->bias_table, s.window, s.heads);
        st = add_table(p, prefix, "attn.relative_position_bias", "attn.trt_relative_position_bias", bias,
                       s.heads, (int)n);
    }
    free(made);
    free(bias);
    return st;
}

/* V2: what normalised queries are multiplied by. The toolkit computes it from the float16 parameter. */
static swin_status add_logit_scale(pack *p, const char *prefix, const swin_block_weights *w, int heads)
{
    float *scale = malloc((size_t)heads * sizeof *scale);
    if (!scale) return swin_fail(SWIN_ERR_MEM, "%s: no memory for logit scales", prefix);
    for (int h = 0; h < heads; h++)
        scale[h] = expf(fminf(swin_f16_to_f32(swin_f32_to_f16(w->logit_scale[h])), logf(100.0f)));
    const swin_status st = add_half(p, prefix, "attn.exp_logit_scale", scale, 3, (int64_t[]){ heads, 1, 1 });
    free(scale);
    return st;
}

static swin_status add_block(pack *p, int stage, int block)
{
    const swin_stage s = swin_config_stage(p->job->config, stage);
    const swin_block_weights *w = &p->job->weights->stages[stage].blocks[block];
    const int c = s.channels;
    char prefix[48];
    snprintf(prefix, sizeof prefix, "layers.%d.blocks.%d.", stage, block);
    SWIN_TRY(add_linear(p, swin_site_make(stage, block, SWIN_SITE_QKV_WEIGHT), w->qkv_weight, 3 * c, c));
    SWIN_TRY(add_qkv_bias(p, prefix, w, c));
    SWIN_TRY(add_linear(p, swin_site_make(stage, block, SWIN_SITE_PROJ_WEIGHT), w->proj_weight, c, c));
    SWIN_TRY(add_vector(p, prefix, "attn.proj.bias", w->proj_bias, c));
    SWIN_TRY(add_linear(p, swin_site_make(stage, block, SWIN_SITE_FC1_WEIGHT), w->fc1_weight, s.hidden, c));
    SWIN_TRY(add_vector(p, prefix, "mlp.fc1.bias", w->fc1_bias, s.hidden));
    SWIN_TRY(add_linear(p, swin_site_make(stage, block, SWIN_SITE_FC2_WEIGHT), w->fc2_weight, c, s.hidden));
    SWIN_TRY(add_vector(p, prefix, "mlp.fc2.bias", w->fc2_bias, c));
    SWIN_TRY(add_vector(p, prefix, "norm1.weight", w->norm1_weight, c));
    SWIN_TRY(add_vector(p, prefix, "norm1.bias", w->norm1_bias, c));
    SWIN_TRY(add_vector(p, prefix, "norm2.weight", w->norm2_weight, c));
    SWIN_TRY(add_vector(p, prefix, "norm2.bias", w->norm2_bias, c));
    SWIN_TRY(add_scales(p, prefix, stage, block));
    SWIN_TRY(add_position_bias(p, prefix, stage, w));
    return w->logit_scale ? add_logit_scale(p, prefix, w, s.heads) : SWIN_OK;
}

static swin_status add_merge(pack *p, const char *prefix, int stage)
{
    const swin_stage s = swin_config_stage(p->job->config, stage);
    const swin_stage_weights *w = &p->job->weights->stages[stage];
    const int c = s.merge ? s.channels : 0, norm = p->job->config->family == SWIN_V2 ? 2 * c : 4 * c;
    SWIN_TRY(add_vector(p, prefix, "downsample.norm.weight", w->merge_norm_weight, norm));
    SWIN_TRY(add_vector(p, prefix, "downsample.norm.bias", w->merge_norm_bias, norm));
    if (!c) return add_vector(p, prefix, "downsample.reduction.weight", NULL, 0);
    return add_linear(p, swin_site_make(stage, 0, SWIN_SITE_REDUCTION_WEIGHT), w->reduction_weight, 2 * c,
                      4 * c);
}

static swin_status add_mask(pack *p, const char *prefix, int stage)
{
    const swin_stage s = swin_config_stage(p->job->config, stage);
    if (!s.shift || s.depth < 2) {
        SWIN_TRY(add_vector(p, prefix, "attn_mask", NULL, 0));
        return add_vector(p, prefix, "trt_attn_mask", NULL, 0);
    }
    const int n = s.window * s.window, across = s.resolution / s.window, windows = across * across;
    float *mask = malloc((size_t)windows * (size_t)n * (size_t)n * sizeof *mask);
    if (!mask) return swin_fail(SWIN_ERR_MEM, "%s: no memory for a mask", prefix);
    swin_attention_mask(mask, &s);
    const swin_status st = add_table(p, prefix, "attn_mask", "trt_attn_mask", mask, windows, n);
    free(mask);
    return st;
}

static swin_status add_all(pack *p)
{
    const swin_config *c = p->job->config;
    const swin_weights *w = p->job->weights;
    const int last = c->embed_dim << (c->num_stages - 1);
    char prefix[24];
    for (int s = 0; s < c->num_stages; s++) {
        for (int b = 0; b < c->depths[s]; b++) SWIN_TRY(add_block(p, s, b));
        snprintf(prefix, sizeof prefix, "layers.%d.", s);
        SWIN_TRY(add_merge(p, prefix, s));
        SWIN_TRY(add_mask(p, prefix, s));
    }
    const int64_t patch[] = { c->embed_dim, c->in_chans, c->patch_size, c->patch_size };
    SWIN_TRY(add_half(p, "", "patch_embed.proj.weight", w->patch_weight, 4, patch));
    SWIN_TRY(add_vector(p, "", "patch_embed.proj.bias", w->patch_bias, c->embed_dim));
    SWIN_TRY(add_vector(p, "", "patch_embed.norm.weight", w->patch_norm_weight, c->embed_dim));
    SWIN_TRY(add_vector(p, "", "patch_embed.norm.bias", w->patch_norm_bias, c->embed_dim));
    SWIN_TRY(add_vector(p, "", "norm.weight", w->norm_weight, last));
    return add_vector(p, "", "norm.bias", w->norm_bias, last);
}

static swin_status save(const swin_export_job *job)
{
    if (!job->config->qkv_bias || !job->config->patch_norm)
        return swin_fail(SWIN_ERR_UNSUPPORTED,
                         "ft-weights: the engine wants %s, which this network does not have",
                         job->config->qkv_bias ? "patch_embed.norm" : "attn.qkv.bias");
    pack p = { .job = job };
    swin_status st = add_all(&p);
    if (st == SWIN_OK) st = swin_npz_write(job->output, p.tensors, p.count);
    for (size_t i = 0; i < p.count; i++) {
        free((void *)p.tensors[i].name);
        free((void *)p.tensors[i].data);
    }
    free(p.tensors);
    return st;
}

const swin_export_format swin_export_ft_weights = {
    .name = "ft-weights",
    .help = "FasterTransformer: .npz, its INT8 op's tensors in their order (head apart); Linear weights as "
            "float16, "
            "or as --ft-layout's codes",
    .flags = SWIN_EXPORT_CALIB | SWIN_EXPORT_WEIGHTS | SWIN_EXPORT_SYMMETRIC | SWIN_EXPORT_WHOLE_MODE |
             SWIN_EXPORT_FT,
    .write = save,
};
