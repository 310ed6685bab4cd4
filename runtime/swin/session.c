#include "runtime/swin/session.h"

#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/swin/checkpoint.h"

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

swin_status swin_session_open(swin_session *s, const swin_common *common, bool need_device)
{
    *s = (swin_session){ 0 };
    SWIN_TRY(swin_need_file("--cfg", common->cfg));
    SWIN_TRY(swin_need_file("--resume", common->resume));
    const double start = swin_now();
    SWIN_TRY(swin_config_load(&s->config, common->cfg, &common->opts));
    swin_status st = swin_weights_load(&s->weights, &s->config, common->resume);
    if (st == SWIN_OK) st = swin_weights_sha256(&s->config, &s->weights, s->sha256);
    if (st == SWIN_OK) swin_detail("model %s loaded in %.3f s", s->config.name, swin_now() - start);
    if (st == SWIN_OK && need_device) {
        const swin_dev_opts opts = { .device = common->device, .threads = common->threads };
        st = swin_dev_open(&s->dev, common->backend, &opts);
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
