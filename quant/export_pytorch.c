#include <stdlib.h>
#include <string.h>

#include "quant/export.h"
#include "quant/npz.h"
#include "quant/toolkit.h"

typedef struct amax_entry {
    char key[SWIN_TOOLKIT_KEY_MAX];
    float amax;
} amax_entry;

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
        swin_toolkit_key(entries[i].key, s);
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
    .flags = SWIN_EXPORT_CALIB | SWIN_EXPORT_SYMMETRIC | SWIN_EXPORT_WHOLE_MODE,
    .write = save,
};
