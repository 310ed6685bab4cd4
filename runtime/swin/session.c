#include "runtime/swin/session.h"

#include <string.h>

#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/swin/checkpoint.h"
#include "runtime/swin/guess.h"

swin_status swin_need_path(const char *flag, const char *path)
{
    if (!path || !*path) return swin_fail(SWIN_ERR_USAGE, "%s is needed (--help says what it takes)", flag);
    if (!swin_is_file(path) && !swin_is_dir(path))
        return swin_fail(SWIN_ERR_USAGE, "%s %s: no such file or folder", flag, path);
    return SWIN_OK;
}

swin_status swin_need_file(const char *flag, const char *path)
{
    SWIN_TRY(swin_need_path(flag, path));
    if (!swin_is_file(path))
        return swin_fail(SWIN_ERR_USAGE, "%s %s: a file is needed, not a folder", flag, path);
    return SWIN_OK;
}

/* From --cfg with --opts, or else what the checkpoint's tensors point to. */
static swin_status find_config(swin_config *c, const swin_common *o, const swin_ckpt *ck)
{
    if (o->cfg) return swin_config_load(c, o->cfg, &o->opts);
    const swin_status st = swin_config_guess(c, ck);
    if (st != SWIN_OK) return swin_fail_context(st, "%s", o->resume);
    SWIN_TRY(swin_config_override(c, &o->opts));
    swin_note("no --cfg: the checkpoint's tensors are those of %s, image %d, window %d", c->name,
              c->image_size, c->window);
    return SWIN_OK;
}

swin_status swin_model_load(swin_weights *w, swin_config *c, const swin_common *o)
{
    swin_ckpt *ck;
    *w = (swin_weights){ 0 };
    if (o->cfg) SWIN_TRY(swin_need_file("--cfg", o->cfg));
    SWIN_TRY(swin_need_file("--resume", o->resume));
    if (o->map22k) SWIN_TRY(swin_need_file("--map22k", o->map22k));
    SWIN_TRY(swin_ckpt_open(&ck, o->resume));
    swin_status st = find_config(c, o, ck);
    const swin_load_opts load = { .no_head = o->no_head, .map22k = o->map22k };
    if (st == SWIN_OK) st = swin_weights_load_from(w, c, ck, &load);
    swin_ckpt_close(ck);
    return st;
}

swin_status swin_session_open(swin_session *s, const swin_common *common, bool need_device)
{
    *s = (swin_session){ 0 };
    const double start = swin_now();
    swin_status st = swin_model_load(&s->weights, &s->config, common);
    if (st == SWIN_OK) st = swin_weights_sha256(&s->config, &s->weights, s->sha256);
    if (st == SWIN_OK) swin_detail("model %s loaded in %.3f s", s->config.name, swin_now() - start);
    if (st == SWIN_OK && need_device) {
        const swin_dev_opts opts = { .device = common->device,
                                     .threads = common->threads,
                                     .tf32 = common->tf32 };
        st = swin_dev_open(&s->dev, common->backend, &opts);
        if (st == SWIN_OK && common->tf32 && strcmp(s->dev->ops->name, "cuda") != 0)
            swin_warn("--tf32: only the cuda backend has it, not %s", s->dev->ops->name);
    }
    if (st != SWIN_OK) swin_session_close(s);
    return st;
}

void swin_session_close(swin_session *s)
{
    swin_dev_close(s->dev);
    swin_weights_free(&s->weights);
    *s = (swin_session){ 0 };
}
