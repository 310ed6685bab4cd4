#include "calib/from_checkpoint.h"

#include <math.h>
#include <string.h>

#include "calib/run.h"
#include "quant/toolkit.h"
#include "runtime/base/log.h"

#define GELU_LEAST 0.17f /* GELU's smallest value is -0.16997 */

static swin_status read_amax(float *amax, const swin_ckpt_tensor *t)
{
    if (t->count != 1)
        return swin_fail(SWIN_ERR_FORMAT, "%s holds %zu numbers; a range per tensor is one", t->key,
                         t->count);
    SWIN_TRY(swin_ckpt_read(t, amax));
    if (!isfinite(*amax) || *amax <= 0)
        return swin_fail(SWIN_ERR_VALUE, "%s is %g: no range", t->key, (double)*amax);
    return SWIN_OK;
}

static swin_status read_site(swin_site_record *s, const swin_ckpt_tensor *t)
{
    const swin_site_role role = swin_site_role_of(s->site);
    SWIN_TRY(read_amax(&s->amax, t));
    s->max = s->amax;
    s->min = role == SWIN_ROLE_SOFTMAX ? 0 : role == SWIN_ROLE_GELU ? -fminf(s->amax, GELU_LEAST) : -s->amax;
    s->count = 1;
    return SWIN_OK;
}

static swin_status read_sites(swin_calib_file *f, const swin_ckpt *ck)
{
    int missing = 0;
    char first[SWIN_TOOLKIT_KEY_MAX] = "", key[SWIN_TOOLKIT_KEY_MAX];
    for (int i = 0; i < f->nsites; i++) {
        swin_toolkit_key(key, f->sites[i].site);
        const swin_ckpt_tensor *t = swin_ckpt_find(ck, key);
        if (t) {
            SWIN_TRY(read_site(&f->sites[i], t));
        } else if (missing++ == 0) {
            memcpy(first, key, sizeof first);
        }
    }
    if (missing == f->nsites)
        return swin_fail(
            SWIN_ERR_MISMATCH,
            "no quantizer ranges are stored (%s and its like): not a checkpoint that the PyTorch toolkit "
            "calibrated; swin-calib --data-path DIR calibrates from images",
            first);
    if (missing)
        return swin_fail(SWIN_ERR_MISMATCH, "%d of %d quantizer ranges are missing, the first is %s", missing,
                         f->nsites, first);
    return SWIN_OK;
}

/* The toolkit keeps a weight's range as it was calibrated, also while the weight is trained further. */
static void compare_weights(const swin_calib_file *f)
{
    int other = 0;
    for (int i = 0; i < f->nweights; i++) {
        const float stored = swin_calib_file_site(f, f->weights[i].site)->amax;
        other += fabsf(stored - f->weights[i].amax) > 0.01f * stored;
    }
    if (other)
        swin_note("%d of %d stored weight ranges are not those of the weights (trained after calibration?); "
                  "they are "
                  "kept where one scale for each tensor is used",
                  other, f->nweights);
}

static swin_status describe(swin_calib_file *f, const char *sha)
{
    unsigned char digest[SWIN_SHA256_BYTES];
    swin_sha256 *h;
    SWIN_TRY(swin_sha256_begin(&h));
    const swin_status st = swin_sha256_end(h, digest); /* of no image */
    swin_sha256_free(h);
    SWIN_TRY(st);
    swin_sha256_hex(f->image_list_sha256, digest);
    memcpy(f->checkpoint_sha256, sha, SWIN_SHA256_HEX);
    f->tool = strdup("swin-calib " SWIN_VERSION);
    f->engine = strdup("none: ranges stored in the checkpoint");
    f->calibrator = strdup("checkpoint");
    f->histogram = strdup("no");
    f->recover = strdup("none");
    f->preprocess = strdup("unknown");
    const bool ok = f->tool && f->engine && f->calibrator && f->histogram && f->recover && f->preprocess;
    return ok ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "no memory for the calibration file's attributes");
}

static swin_status fill(swin_calib_file *f, const swin_weights *w, const swin_ckpt *ck, const char *sha,
                        swin_int8_mode mode)
{
    SWIN_TRY(describe(f, sha));
    SWIN_TRY(read_sites(f, ck));
    SWIN_TRY(swin_calib_weight_ranges(f, w));
    compare_weights(f);
    for (int i = 0; i < f->nweights; i++)
        f->weights[i].amax = swin_calib_file_site(f, f->weights[i].site)->amax;
    return swin_calib_file_derive(f, mode);
}

swin_status swin_calib_from_checkpoint(swin_calib_file *f, const swin_config *c, const swin_weights *w,
                                       const swin_ckpt *ck, const char *sha, swin_int8_mode mode)
{
    SWIN_TRY(swin_calib_file_init(f, c));
    const swin_status st = fill(f, w, ck, sha, mode);
    if (st != SWIN_OK) swin_calib_file_free(f);
    return st;
}
