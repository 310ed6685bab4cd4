/* What swin-bench times: a checkpoint or made-up weights, a calibration file's INT8 network or made-up ranges. */
#include <stdlib.h>
#include <string.h>

#include "quant/corrections.h"
#include "quant/plan.h"
#include "runtime/base/log.h"
#include "runtime/base/rng.h"
#include "runtime/main_bench.h"

static swin_status random_weights(swin_weights *w, const swin_config *c)
{
    swin_param *list = NULL;
    size_t count = 0;
    swin_rng rng = { 20 };
    SWIN_TRY(swin_weights_create(w, c));
    SWIN_TRY(swin_weights_list(c, w, &list, &count));
    for (size_t i = 0; i < count; i++) {
        const bool norm = strstr(list[i].key, "norm") && strstr(list[i].key, ".weight");
        for (size_t k = 0; k < list[i].count; k++)
            (*list[i].slot)[k] = norm ? 1.f : (float)(0.04 * (swin_rng_uniform(&rng) - 0.5));
    }
    free(list);
    return SWIN_OK;
}

static void note_calib(const bench *b)
{
    const swin_calib_file *f = &b->calib;
    int relaxed = 0;
    for (int i = 0; i < f->nsites; i++)
        relaxed += swin_mode_enabled(f->mode, f->config.family, f->sites[i].site) && !f->sites[i].enabled;
    swin_note("%s: int8-mode %d, %s, recovery %s, %d sites of the mode in float", b->o->calib, (int)f->mode,
              f->calibrator, f->recover, relaxed);
}

/* The file's scales, and the weights as it changes them. */
static swin_status open_calib(bench *b)
{
    const char *path = b->o->calib;
    if (!strstr(b->o->precision, "int8")) {
        swin_note("--calib %s: no precision listed needs it", path);
        return SWIN_OK;
    }
    SWIN_TRY(swin_calib_file_read(&b->calib, path, false));
    SWIN_TRY(swin_calib_file_match(&b->calib, path, &b->model.config, b->model.sha256));
    SWIN_TRY(swin_weights_clone(&b->corrected, &b->model.weights, &b->model.config));
    SWIN_TRY(swin_corrections_apply(&b->corrected, &b->model.config, path));
    note_calib(b);
    return SWIN_OK;
}

swin_status bench_model_open(bench *b)
{
    const swin_common *c = &b->o->common;
    if (b->o->calib) {
        SWIN_TRY(swin_need_file("--calib", b->o->calib));
        if (!c->resume)
            return swin_fail(SWIN_ERR_USAGE, "--calib %s: --resume has to name the checkpoint that it is of",
                             b->o->calib);
    }
    if (c->resume) {
        SWIN_TRY(swin_session_open(&b->model, c, false));
        return b->o->calib ? open_calib(b) : SWIN_OK;
    }
    SWIN_TRY(swin_need_file("--cfg", c->cfg));
    SWIN_TRY(swin_config_load(&b->model.config, c->cfg, &c->opts));
    return random_weights(&b->model.weights, &b->model.config);
}

void bench_model_close(bench *b)
{
    swin_calib_file_free(&b->calib);
    swin_weights_free(&b->corrected);
    swin_session_close(&b->model);
}

swin_status bench_int8(bench *b, bench_run *r)
{
    const swin_granularity g = strcmp(b->o->weight_granularity, "tensor") == 0 ? SWIN_PER_TENSOR
                                                                               : SWIN_PER_CHANNEL;
    r->net_opts.plan = &r->plan;
    r->net_opts.dtype = r->ops->native_half ? SWIN_F16 : SWIN_F32; /* of what stays float */
    if (!b->calib.nsites)
        return swin_plan_uniform(&r->plan, &b->model.config, (swin_int8_mode)b->o->int8_mode, 4);
    r->weights = &b->corrected;
    return swin_plan_create(&r->plan, &b->calib, g);
}
