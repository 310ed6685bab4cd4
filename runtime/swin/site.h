/* runtime/swin/site.h - every place of the network that can be observed, quantized or dumped, and its only spelling.
 *
 * A site is an integer made of stage, block and kind. Kinds come from one list: the observer sites of reference/swin.md 4.1
 * (23 in a block, 25 in one of Swin V2, 3 in a patch merging: 285 for Swin-T, 309 for Swin V2-T), then outputs that are only dumped or forced. Names are official
 * module path + '.' + suffix: "layers.0.blocks.1.attn.qkv._input"; an output's name is the module path alone.
 */
#ifndef SWIN_SWIN_SITE_H
#define SWIN_SWIN_SITE_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/swin/config.h"

/* X(KIND, owner, module inside the owner, suffix, role). Order within a block is the order of the forward pass. */
#define SWIN_SITE_KINDS(X)                                                                                   \
    X(LAYERNORM_INPUT1, BLOCK, "", "layernorm_input1", OFF)                                                  \
    X(QKV_INPUT, BLOCK, "attn.qkv", "_input", INPUT)                                                         \
    X(QKV_WEIGHT, BLOCK, "attn.qkv", "_weight", WEIGHT)                                                      \
    X(QKV_AFTERGEMM, BLOCK, "attn.qkv", "_aftergemm", AFTERGEMM)                                             \
    X(MATMUL_Q, BLOCK, "attn", "matmul_q", MATMUL)                                                           \
    X(MATMUL_K, BLOCK, "attn", "matmul_k", MATMUL)                                                           \
    X(MATMUL_V, BLOCK, "attn", "matmul_v", MATMUL)                                                           \
    X(MHA_Q, BLOCK_V2, "attn", "mha_q", MATMUL)                                                              \
    X(MHA_K, BLOCK_V2, "attn", "mha_k", MATMUL)                                                              \
    X(SOFTMAX_INPUT, BLOCK, "attn", "softmax_input", OFF)                                                    \
    X(MATMUL_A, BLOCK, "attn", "matmul_a", SOFTMAX)                                                          \
    X(PROJ_INPUT, BLOCK, "attn.proj", "_input", INPUT)                                                       \
    X(PROJ_WEIGHT, BLOCK, "attn.proj", "_weight", WEIGHT)                                                    \
    X(PROJ_AFTERGEMM, BLOCK, "attn.proj", "_aftergemm", AFTERGEMM)                                           \
    X(ADD1_RESIDUAL, BLOCK, "", "add1_residual", OFF)                                                        \
    X(ADD1_LOCAL, BLOCK, "", "add1_local", OFF)                                                              \
    X(LAYERNORM_INPUT2, BLOCK, "", "layernorm_input2", OFF)                                                  \
    X(FC1_INPUT, BLOCK, "mlp.fc1", "_input", INPUT)                                                          \
    X(FC1_WEIGHT, BLOCK, "mlp.fc1", "_weight", WEIGHT)                                                       \
    X(FC1_AFTERGEMM, BLOCK, "mlp.fc1", "_aftergemm", AFTERGEMM)                                              \
    X(FC2_INPUT, BLOCK, "mlp.fc2", "_input", GELU)                                                           \
    X(FC2_WEIGHT, BLOCK, "mlp.fc2", "_weight", WEIGHT)                                                       \
    X(FC2_AFTERGEMM, BLOCK, "mlp.fc2", "_aftergemm", AFTERGEMM_WIDE)                                         \
    X(ADD2_RESIDUAL, BLOCK, "", "add2_residual", OFF)                                                        \
    X(ADD2_LOCAL, BLOCK, "", "add2_local", OFF)                                                              \
    X(REDUCTION_INPUT, MERGE, "reduction", "_input", INPUT)                                                  \
    X(REDUCTION_WEIGHT, MERGE, "reduction", "_weight", WEIGHT)                                               \
    X(REDUCTION_AFTERGEMM, MERGE, "reduction", "_aftergemm", AFTERGEMM_WIDE)                                 \
    X(PATCH_EMBED_OUT, MODEL, "patch_embed", "", OUTPUT)                                                     \
    X(BLOCK_OUT, BLOCK, "", "", OUTPUT)                                                                      \
    X(MERGE_OUT, MERGE, "", "", OUTPUT)                                                                      \
    X(NORM_OUT, MODEL, "norm", "", OUTPUT)                                                                   \
    X(LOGITS, MODEL, "head", "", OUTPUT)

typedef enum swin_site_kind {
#define SWIN_SITE_ENUM(kind, owner, module, suffix, role) SWIN_SITE_##kind,
    SWIN_SITE_KINDS(SWIN_SITE_ENUM)
#undef SWIN_SITE_ENUM
        SWIN_SITE_KIND_COUNT
} swin_site_kind;

/* BLOCK_V2: a block, in Swin V2 only. */
typedef enum swin_site_owner {
    SWIN_OWNER_MODEL,
    SWIN_OWNER_BLOCK,
    SWIN_OWNER_BLOCK_V2,
    SWIN_OWNER_MERGE
} swin_site_owner;

/* What a site is for. OFF: observed and stored, never quantized. OUTPUT: not an observer site. */
typedef enum swin_site_role {
    SWIN_ROLE_INPUT, /* a GEMM's input */
    SWIN_ROLE_GELU,  /* a GEMM's input that GELU makes: one-sided (fc2) */
    SWIN_ROLE_WEIGHT,
    SWIN_ROLE_AFTERGEMM,      /* a GEMM's output before the bias */
    SWIN_ROLE_AFTERGEMM_WIDE, /* the same, relaxed in mode 2 (fc2, reduction) */
    SWIN_ROLE_MATMUL, /* q, k, v after the bias; V2: also q and k normalised, q times the logit scale (mha_q, mha_k) */
    SWIN_ROLE_SOFTMAX, /* attention probabilities */
    SWIN_ROLE_OFF,
    SWIN_ROLE_OUTPUT
} swin_site_role;

/* stage << 16 | block << 8 | kind. A merge's block is 0; a model-wide site has stage 0, block 0. */
typedef uint32_t swin_site;

#define SWIN_SITE_NAME_MAX 96
#define SWIN_NO_SITE       UINT32_MAX

static inline swin_site swin_site_make(int stage, int block, swin_site_kind kind)
{
    return (swin_site)stage << 16 | (swin_site)block << 8 | (swin_site)kind;
}
static inline int swin_site_stage(swin_site s)
{
    return (int)(s >> 16);
}
static inline int swin_site_block(swin_site s)
{
    return (int)(s >> 8 & 255);
}
static inline swin_site_kind swin_site_kind_of(swin_site s)
{
    return (swin_site_kind)(s & 255);
}

swin_site_role swin_site_role_of(swin_site s);
swin_site_owner swin_site_owner_of(swin_site s);
const char *
swin_site_role_name(swin_site_role r); /* "input", "gelu", "weight", ...: the file's `kind` attribute */

/* Write the site's name, e.g. "layers.2.blocks.5.mlp.fc2._aftergemm". */
void swin_site_name(swin_site s, char name[SWIN_SITE_NAME_MAX]);

/* The module path alone: "layers.2.blocks.5.mlp.fc2", as /weights/<module> and checkpoints spell it. */
void swin_site_module(swin_site s, char name[SWIN_SITE_NAME_MAX]);

/* The observer sites of a network, in forward order. site_at: i in [0, count). index: -1 when s is not one of them. */
int swin_site_count(const swin_config *c);
swin_site swin_site_at(const swin_config *c, int i);
int swin_site_index(const swin_config *c, swin_site s);

/* The site of that name in this network (observer or output), SWIN_NO_SITE when there is none. */
swin_site swin_site_find(const swin_config *c, const char *name);

#endif
