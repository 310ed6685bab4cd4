#include <stdlib.h>

#include "quant/export.h"
#include "quant/ft_list.h"
#include "quant/npz.h"

typedef struct block_list {
    char name[48];
    float list[SWIN_FT_LIST];
} block_list;

static swin_status save(const swin_export_job *job)
{
    const swin_config *c = &job->calib->config;
    size_t count = 0, at = 0;
    for (int s = 0; s < c->num_stages; s++) count += (size_t)c->depths[s];
    block_list *blocks = calloc(count, sizeof *blocks);
    swin_named_tensor *tensors = calloc(count, sizeof *tensors);
    swin_status st = blocks && tensors ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "no memory for %zu blocks", count);
    for (int s = 0; s < c->num_stages && st == SWIN_OK; s++)
        for (int b = 0; b < c->depths[s] && st == SWIN_OK; b++, at++) {
            snprintf(blocks[at].name, sizeof blocks[at].name, "layers.%d.blocks.%d", s, b);
            st = swin_ft_list(blocks[at].list, job->calib, s, b);
            tensors[at] = (swin_named_tensor){ .name = blocks[at].name,
                                               .dtype = SWIN_F32,
                                               .ndim = 1,
                                               .shape = { SWIN_FT_LIST },
                                               .data = blocks[at].list };
        }
    if (st == SWIN_OK) st = swin_npz_write(job->output, tensors, count);
    free(tensors);
    free(blocks);
    return st;
}

const swin_export_format swin_export_ft_scales = {
    .name = "ft-scales",
    .help = "FasterTransformer: .npz with one list of 96 float32 for each block, per-tensor weights",
    .flags = SWIN_EXPORT_CALIB | SWIN_EXPORT_SYMMETRIC | SWIN_EXPORT_WHOLE_MODE | SWIN_EXPORT_FT,
    .write = save,
};
