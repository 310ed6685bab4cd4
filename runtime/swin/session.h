/* runtime/swin/session.h - what every program opens first: the model that the common flags name, and where it
 * runs. */
#ifndef SWIN_SWIN_SESSION_H
#define SWIN_SWIN_SESSION_H

#include <stdbool.h>

#include "runtime/base/field.h"
#include "runtime/base/sha256.h"
#include "runtime/ops/ops.h"
#include "runtime/swin/config.h"
#include "runtime/swin/weights.h"

typedef struct swin_session {
    swin_config config;           /* class count already settled with the checkpoint */
    swin_weights weights;         /* owned; host memory */
    char sha256[SWIN_SHA256_HEX]; /* checkpoint_sha256 (DESIGN.md rule 2) */
    swin_dev *dev;                /* owned; NULL when no device was asked for */
} swin_session;

/*
 * The model of the common flags: --resume under --cfg and --opts, or, without --cfg, under what its tensors point to (with a
 * note; --opts still overrides). --map22k and --no-head as checkpoint.h has them. w and c are overwritten; caller frees w.
 *
 * SWIN_ERR_USAGE names the flag whose file is not given or not there; SWIN_ERR_MISMATCH: the tensors do not determine the
 * network (--cfg is needed), or are not its.
 */
swin_status swin_model_load(swin_weights *w, swin_config *c, const swin_common *common);

/*
 * Load the model, hash it, and with need_device open --backend, --device, --threads.
 *
 * s is overwritten, and empty again after a failure. Errors are those of swin_model_load and
 * swin_dev_open.
 */
swin_status swin_session_open(swin_session *s, const swin_common *common, bool need_device);
void swin_session_close(swin_session *s); /* a zeroed struct is fine */

/* SWIN_ERR_USAGE, naming the flag ("--calib"), unless path is given and is a regular file. */
swin_status swin_need_file(const char *flag, const char *path);
/* The same for a folder or a file (--data-path takes both). */
swin_status swin_need_path(const char *flag, const char *path);

#endif
