/* What other engines are compared with: images as the network takes them, its logits, and what passes the sites of int8-sim.
 *
 * usage: tool_sites --cfg Y --resume CKPT --data-path DIR [--split val] [--limit N] [--calib FILE.h5 [--sim-only]] --output DIR
 * Writes DIR/images.npy and logits.npy (float32 network); with --calib also DIR/sim.npy (corrected weights, one scale for each
 * output channel), corrected.npy (the float32 network of the corrected weights, of the first images) and, for the first image,
 * the first rows of each activation site after its quantization as DIR/sites.npz. --sim-only leaves out images.npy and
 * logits.npy, which are the same whatever the calibration file.
 */
#include <stdlib.h>
#include <string.h>

#include "data/loader.h"
#include "quant/corrections.h"
#include "quant/factor.h"
#include "quant/npz.h"
#include "quant/sim.h"
#include "runtime/base/file.h"
#include "runtime/swin/net.h"
#include "runtime/swin/session.h"

enum { BATCH = 8, WINDOWS = 2 /* of each site are kept */, CORRECTED = 32 /* images */ };

typedef struct options {
    swin_common common;
    const char *calib, *split, *output;
    int limit;
    bool sim_only;
} options;

#define F(member, kind, lo, hi, arg, help)                                                                   \
    {                                                                                                        \
#member, SWIN_FIELD_##kind, offsetof(options, member), lo, hi, arg, help, NULL                       \
    }

static const swin_field fields[] = {
    F(calib, STR, 0, 0, "FILE", "calibration file"),
    F(split, STR, 0, 0, "NAME", "part of the data set"),
    F(limit, INT, 1, 100000, "N", "images"),
    F(sim_only, BOOL, 0, 0, NULL, "without images.npy and logits.npy"),
    F(output, STR, 0, 0, "DIR", "folder, made by the caller"),
    SWIN_COMMON_FIELDS(options),
};
static const swin_program program = { "tool_sites", "what other engines are compared with", fields,
                                      SWIN_COUNT(fields), NULL };

/* ---- sites -------------------------------------------------------------------------------------------------- */

typedef struct keeper {
    const swin_config *config;
    swin_named_tensor *tensors; /* each name and data is owned */
    size_t count;
    bool done; /* the first image has passed */
} keeper;

/* Rows of a site that stand for its first WINDOWS windows; sites in image order keep as many rows. */
static int64_t rows_kept(const keeper *k, swin_site site, int64_t rows)
{
    const swin_stage s = swin_config_stage(k->config, swin_site_stage(site));
    const swin_site_kind kind = swin_site_kind_of(site);
    const bool scores = kind == SWIN_SITE_SOFTMAX_INPUT || kind == SWIN_SITE_MATMUL_A;
    const int64_t want = (int64_t)WINDOWS * s.window * s.window * (scores ? s.heads : 1);
    return want < rows ? want : rows;
}

static swin_status keep(void *user, const swin_tap_point *p)
{
    keeper *k = user;
    if (k->done || swin_site_role_of(p->site) == SWIN_ROLE_OUTPUT) return SWIN_OK;
    char name[SWIN_SITE_NAME_MAX];
    swin_site_name(p->site, name);
    const int64_t rows = rows_kept(k, p->site, p->x->rows), cols = p->x->cols;
    float *v = malloc((size_t)(rows * cols) * sizeof *v);
    char *copy = strdup(name);
    if (!v || !copy) return swin_fail(SWIN_ERR_MEM, "%s: no memory", name);
    for (int64_t r = 0; r < rows; r++) {
        const float *row = (const float *)p->x->data + r * p->x->ld;
        SWIN_TRY(p->dev->ops->download(p->dev, v + r * cols, row, (size_t)cols * sizeof *v));
    }
    k->tensors[k->count++] =
        (swin_named_tensor){ .name = copy, .dtype = SWIN_F32, .ndim = 2, .shape = { rows, cols }, .data = v };
    return SWIN_OK;
}

/* ---- networks ----------------------------------------------------------------------------------------------- */

typedef struct job {
    const options *o;
    swin_session session;
    swin_calib_file calib;
    swin_dataset *data;
    swin_loader *loader;
    swin_weights weights; /* corrected */
    swin_net *net, *corrected;
    swin_sim *sim;
    keeper keeper;
    float *images, *logits, *sim_logits, *corrected_logits;
    int n;
} job;

static swin_status open_calib(job *j)
{
    const char *path = j->o->calib;
    const swin_config *c = &j->session.config;
    SWIN_TRY(swin_calib_file_read(&j->calib, path, false));
    SWIN_TRY(swin_calib_file_match(&j->calib, path, c, j->session.sha256));
    SWIN_TRY(swin_weights_clone(&j->weights, &j->session.weights, c));
    SWIN_TRY(swin_corrections_apply(&j->weights, c, path));
    SWIN_TRY(swin_net_create(&j->corrected, j->session.dev, c, &j->weights, &(swin_net_opts){ SWIN_F32 }));
    return swin_sim_create(&j->sim, j->session.dev, &j->calib, &j->weights, SWIN_PER_CHANNEL);
}

static swin_status open_all(job *j)
{
    const options *o = j->o;
    SWIN_TRY(swin_session_open(&j->session, &o->common, true));
    const swin_config *c = &j->session.config;
    const size_t image = (size_t)3 * (size_t)c->image_size * (size_t)c->image_size, n = (size_t)o->limit;
    SWIN_TRY(swin_dataset_open(&j->data, o->common.data_path, o->split));
    const swin_loader_opts lo = { .count = n,
                                  .batch = BATCH,
                                  .preprocess = { .size = c->image_size, .crop = c->test_crop } };
    SWIN_TRY(swin_loader_open(&j->loader, j->data, &lo));
    SWIN_TRY(swin_net_create(&j->net, j->session.dev, c, &j->session.weights, &(swin_net_opts){ SWIN_F32 }));
    if (o->calib) SWIN_TRY(open_calib(j));
    j->keeper.config = c;
    j->keeper.tensors = calloc((size_t)swin_site_count(c), sizeof *j->keeper.tensors);
    j->images = o->sim_only ? NULL : malloc(n * image * sizeof(float));
    j->logits = malloc(n * (size_t)c->num_classes * sizeof(float));
    j->sim_logits = malloc(n * (size_t)c->num_classes * sizeof(float));
    j->corrected_logits = malloc(n * (size_t)c->num_classes * sizeof(float));
    return j->keeper.tensors && (j->images || o->sim_only) && j->logits && j->sim_logits &&
                   j->corrected_logits
               ? SWIN_OK
               : swin_fail(SWIN_ERR_MEM, "no memory");
}

static swin_status forward(job *j)
{
    const swin_config *c = &j->session.config;
    const size_t image = (size_t)3 * (size_t)c->image_size * (size_t)c->image_size;
    const swin_tap tap = { .user = &j->keeper, .at = keep };
    swin_factor_tap factors = { .f = &j->calib };
    const swin_tap divide = swin_factor_tap_of(&factors);
    for (swin_batch b;;) {
        SWIN_TRY(swin_loader_next(j->loader, &b));
        if (b.n == 0) return SWIN_OK;
        const size_t at = (size_t)j->n * (size_t)c->num_classes;
        if (j->images) {
            memcpy(j->images + (size_t)j->n * image, b.pixels, (size_t)b.n * image * sizeof(float));
            SWIN_TRY(swin_net_forward(j->net, b.pixels, b.n, j->logits + at, NULL));
        }
        if (j->sim && !j->keeper.done) {
            SWIN_TRY(swin_sim_forward(j->sim, b.pixels, 1, j->sim_logits, &tap));
            j->keeper.done = true;
        }
        if (j->sim) SWIN_TRY(swin_sim_forward(j->sim, b.pixels, b.n, j->sim_logits + at, NULL));
        if (j->corrected && j->n < CORRECTED)
            SWIN_TRY(swin_net_forward(j->corrected, b.pixels, b.n, j->corrected_logits + at, &divide));
        j->n += b.n;
    }
}

static swin_status write_npy(const job *j, const char *name, const float *v, int n, int ndim,
                             const int64_t *rest)
{
    char *path = swin_format("%s/%s", j->o->output, name);
    swin_named_tensor t = { .name = name, .dtype = SWIN_F32, .ndim = ndim, .shape = { n }, .data = v };
    for (int i = 1; i < ndim; i++) t.shape[i] = rest[i - 1];
    const swin_status st = path ? swin_npy_write(path, &t) : swin_fail(SWIN_ERR_MEM, "no memory");
    free(path);
    return st;
}

static swin_status write_all(const job *j)
{
    const int64_t size = j->session.config.image_size, classes = j->session.config.num_classes;
    if (j->images) SWIN_TRY(write_npy(j, "images.npy", j->images, j->n, 4, (int64_t[]){ 3, size, size }));
    if (j->images) SWIN_TRY(write_npy(j, "logits.npy", j->logits, j->n, 2, &classes));
    if (!j->sim) return SWIN_OK;
    SWIN_TRY(write_npy(j, "sim.npy", j->sim_logits, j->n, 2, &classes));
    const int corrected = j->n < CORRECTED ? j->n : CORRECTED;
    SWIN_TRY(write_npy(j, "corrected.npy", j->corrected_logits, corrected, 2, &classes));
    char *path = swin_format("%s/sites.npz", j->o->output);
    const swin_status st = path ? swin_npz_write(path, j->keeper.tensors, j->keeper.count)
                                : swin_fail(SWIN_ERR_MEM, "no memory");
    free(path);
    return st;
}

static void close_all(job *j)
{
    for (size_t i = 0; i < j->keeper.count; i++) {
        free((void *)j->keeper.tensors[i].name);
        free((void *)j->keeper.tensors[i].data);
    }
    free(j->keeper.tensors);
    free(j->images);
    free(j->logits);
    free(j->sim_logits);
    free(j->corrected_logits);
    swin_sim_free(j->sim);
    swin_net_free(j->corrected);
    swin_weights_free(&j->weights);
    swin_net_free(j->net);
    swin_loader_close(j->loader);
    swin_dataset_close(j->data);
    swin_calib_file_free(&j->calib);
    swin_session_close(&j->session);
}

int main(int argc, char **argv)
{
    options o = { .common = SWIN_COMMON_DEFAULTS, .split = "val", .limit = 256 };
    swin_status st = swin_fields_parse(&program, &o, argc, argv, NULL, NULL);
    if (st == SWIN_OK && !o.output) st = swin_fail(SWIN_ERR_USAGE, "--output is needed");
    if (st == SWIN_OK && o.sim_only && !o.calib)
        st = swin_fail(SWIN_ERR_USAGE, "--sim-only: --calib is needed");
    if (st == SWIN_OK) st = swin_need_path("--data-path", o.common.data_path);
    if (st != SWIN_OK) return swin_report(st);
    static job j; /* zeroed, whatever its members' shapes */
    j.o = &o;
    st = open_all(&j);
    if (st == SWIN_OK) st = forward(&j);
    if (st == SWIN_OK) st = write_all(&j);
    close_all(&j);
    return swin_report(st);
}
