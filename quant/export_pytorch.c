#include <stdlib.h>
#include <string.h>

#include "quant/export.h"
#include "quant/npz.h"

typedef struct amax_entry {
    char key[SWIN_SITE_NAME_MAX + 32];
    float amax;
} amax_entry;

/* The toolkit's buffer of a site: "<module>.<suffix>_quantizer._amax", where what feeds an operator other than a Linear or a
 * LayerNorm is called an input once more (reference/swin.md 4.1). */
static void toolkit_key(char *key, size_t size, swin_site site)
{
    char name[SWIN_SITE_NAME_MAX];
    swin_site_name(site, name);
    const swin_site_kind k = swin_site_kind_of(site);
    const bool plain = k == SWIN_SITE_SOFTMAX_INPUT || k == SWIN_SITE_LAYERNORM_INPUT1 ||
                       k == SWIN_SITE_LAYERNORM_INPUT2;
    const swin_site_role role = swin_site_role_of(site);
    const bool operand = role == SWIN_ROLE_MATMUL || role == SWIN_ROLE_SOFTMAX ||
                         (role == SWIN_ROLE_OFF && !plain);
    snprintf(key, size, "%s%s_quantizer._amax", name, operand ? "_input" : "");
}

static swin_status write_table(const swin_export_job *job, const swin_named_tensor *tensors, size_t count)
{
    const char *dot = strrchr(job->output, '.');
    if (dot && strcmp(dot, ".npz") == 0) return swin_npz_write(job->output, tensors, count);
    if (dot && strcmp(dot, ".safetensors") == 0) return swin_safetensors_write(job->output, tensors, count);
    return swin_fail(SWIN_ERR_USAGE, "--output %s: pytorch writes .safetensors or .npz", job->output);
}

static swin_status save(const swin_export_job *job)
{
    const swin_calib_file *f = job->calib;
    const size_t count = (size_t)f->nsites;
    amax_entry *entries = calloc(count, sizeof *entries);
    swin_named_tensor *tensors = calloc(count, sizeof *tensors);
    swin_status st = entries && tensors ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "no memory for %zu sites", count);
    for (size_t i = 0; i < count && st == SWIN_OK; i++) {
        const swin_site s = f->sites[i].site;
        toolkit_key(entries[i].key, sizeof entries[i].key, s);
        entries[i].amax = swin_site_role_of(s) == SWIN_ROLE_WEIGHT ? swin_calib_file_weight(f, s)->amax
                                                                   : f->sites[i].amax;
        tensors[i] =
            (swin_named_tensor){ .name = entries[i].key, .dtype = SWIN_F32, .data = &entries[i].amax };
    }
    if (st == SWIN_OK) st = write_table(job, tensors, count);
    free(tensors);
    free(entries);
    return st;
}

const swin_export_format swin_export_pytorch = {
    .name = "pytorch",
    .help = "FasterTransformer's PyTorch toolkit: every quantizer's _amax under its literal key, "
            ".safetensors or .npz",
    .flags = SWIN_EXPORT_CALIB | SWIN_EXPORT_SYMMETRIC,
    .write = save,
};
