#include "tests/support/recovering.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "quant/factor.h"
#include "quant/plan.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/swin/accuracy.h"
#include "tests/support/testing.h"
#include "tests/support/tiny.h"
#include "tests/support/trained.h"

void recovering_float(recovering *x, const swin_weights *w, const swin_calib_file *f, float *logits)
{
    swin_net *net;
    swin_factor_tap factors = { .f = f };
    const swin_tap tap = swin_factor_tap_of(&factors);
    CHECK_OK(swin_net_create(&net, x->dev, &x->config, w, &(swin_net_opts){ .dtype = SWIN_F32 }));
    CHECK_OK(swin_net_forward(net, x->probes, RECOVERING_PROBES, logits, f ? &tap : NULL));
    swin_net_free(net);
}

static void load_probes(recovering *x)
{
    const size_t n = 3 * (size_t)x->config.image_size * (size_t)x->config.image_size;
    swin_dataset *data;
    swin_loader *l;
    swin_batch b;
    char *other = swin_format("%s/probes", x->folder);
    CHECK(mkdir(other, 0755) == 0, "%s", other);
    CHECK_OK(swin_tiny_write_images(other, RECOVERING_PROBES, 9));
    CHECK_OK(swin_dataset_open(&data, other, "train"));
    CHECK_OK(swin_loader_open(
        &l, data,
        &(swin_loader_opts){ .batch = RECOVERING_PROBES,
                             .workers = 1,
                             .preprocess = { .size = x->config.image_size, .crop = true } }));
    CHECK_OK(swin_loader_next(l, &b));
    CHECK(b.n == RECOVERING_PROBES, "%d probes", b.n);
    x->probes = malloc(RECOVERING_PROBES * n * sizeof *x->probes);
    memcpy(x->probes, b.pixels, RECOVERING_PROBES * n * sizeof *x->probes);
    swin_loader_close(l);
    swin_dataset_close(data);
    free(other);
}

void recovering_setup(recovering *x, swin_family family)
{
    swin_config c = swin_tiny_config();
    c.family = family;
    recovering_setup_of(x, &c);
}

void recovering_setup_of(recovering *x, const swin_config *c)
{
    *x = (recovering){ .backend = "cpu", .folder = swin_scratch_make("recover"), .config = *c };
    CHECK_OK(swin_dev_open(&x->dev, "cpu", &(swin_dev_opts){ .threads = 2 }));
    CHECK_OK(swin_trained_weights(&x->weights, &x->config, 11));
    CHECK_OK(swin_tiny_write_images(x->folder, RECOVERING_IMAGES, 8));
    load_probes(x);
    recovering_float(x, &x->weights, NULL, x->fp32);
    swin_log_set(SWIN_LOG_QUIET);
}

void recovering_teardown(recovering *x)
{
    swin_dev_close(x->dev);
    swin_weights_free(&x->weights);
    free(x->probes);
    swin_scratch_remove(x->folder);
}

swin_calib_opts recovering_options(const recovering *x, const char *recover, swin_int8_mode mode)
{
    swin_calib_opts o = { .data_path = x->folder,
                          .split = "train",
                          .images = RECOVERING_IMAGES,
                          .batch = 8,
                          .threads = 2,
                          .mode = mode,
                          .calibrator = swin_calibrator_find("percentile"),
                          .calibrator_opts = { .percentile = 99.99 },
                          .recover_name = recover };
    CHECK_OK(swin_recover_choose(&o.recover, recover));
    return o;
}

void recovering_calibrate(recovering *x, swin_calib_file *f, const swin_calib_opts *o)
{
    swin_dev *dev;
    swin_calib_timing t;
    char sha[SWIN_SHA256_HEX];
    CHECK_OK(swin_weights_sha256(&x->config, &x->weights, sha));
    CHECK_OK(swin_dev_open(&dev, x->backend ? x->backend : "cpu", &(swin_dev_opts){ .threads = o->threads }));
    CHECK_OK(swin_calib_run(f, dev, &x->config, &x->weights, sha, o, &t));
    swin_dev_close(dev);
}

/* The checkpoint's weights with the file's corrections, by way of the file. */
void recovering_correct(recovering *x, const swin_calib_file *f, swin_weights *w)
{
    char *path = swin_format("%s/corrected.h5", x->folder);
    CHECK_OK(swin_calib_file_write(f, path));
    CHECK_OK(swin_weights_clone(w, &x->weights, &x->config));
    CHECK_OK(swin_corrections_apply(w, &x->config, path));
    unlink(path);
    free(path);
}

double recovering_sqnr(recovering *x, const swin_calib_file *f)
{
    swin_weights w;
    swin_sim *sim;
    float logits[RECOVERING_PROBES * RECOVERING_CLASSES];
    recovering_correct(x, f, &w);
    CHECK_OK(swin_sim_create(&sim, x->dev, f, &w, SWIN_PER_CHANNEL));
    CHECK_OK(swin_sim_forward(sim, x->probes, RECOVERING_PROBES, logits, NULL));
    swin_sim_free(sim);
    swin_weights_free(&w);
    return swin_sqnr_db(logits, x->fp32, SWIN_COUNT(logits));
}

double recovering_engine_sqnr(recovering *x, const swin_calib_file *f, const char *backend)
{
    swin_weights w;
    swin_dev *dev;
    swin_net *net;
    swin_plan plan;
    float logits[RECOVERING_PROBES * RECOVERING_CLASSES];
    recovering_correct(x, f, &w);
    CHECK_OK(swin_dev_open(&dev, backend, &(swin_dev_opts){ .threads = 2 }));
    CHECK_OK(swin_plan_create(&plan, f, SWIN_PER_CHANNEL));
    CHECK_OK(
        swin_net_create(&net, dev, &x->config, &w, &(swin_net_opts){ .dtype = SWIN_F32, .plan = &plan }));
    CHECK_OK(swin_net_forward(net, x->probes, RECOVERING_PROBES, logits, NULL));
    swin_net_free(net);
    swin_plan_free(&plan);
    swin_dev_close(dev);
    swin_weights_free(&w);
    return swin_sqnr_db(logits, x->fp32, SWIN_COUNT(logits));
}

double recovering_result(recovering *x, const char *recover, swin_int8_mode mode)
{
    swin_calib_file f;
    const swin_calib_opts o = recovering_options(x, recover, mode);
    recovering_calibrate(x, &f, &o);
    const double db = recovering_sqnr(x, &f);
    swin_calib_file_free(&f);
    return db;
}

void recovering_one_file(recovering *x, const char *recover, swin_int8_mode mode)
{
    static const struct {
        int batch, threads;
    } ways[] = { { 8, 2 }, { 1, 1 }, { 7, 3 } };
    unsigned char *first = NULL, *bytes;
    size_t size = 0, n;
    char *path = swin_format("%s/f.h5", x->folder);
    for (size_t i = 0; i < SWIN_COUNT(ways); i++) {
        swin_calib_file f;
        swin_calib_opts o = recovering_options(x, recover, mode);
        o.batch = ways[i].batch;
        o.threads = ways[i].threads;
        recovering_calibrate(x, &f, &o);
        CHECK_OK(swin_calib_file_write(&f, path));
        swin_calib_file_free(&f);
        CHECK_OK(swin_read_file(path, &bytes, &n));
        if (first) {
            CHECK(n == size && memcmp(first, bytes, n) == 0, "batch %d, %d threads: another file",
                  ways[i].batch, ways[i].threads);
            free(bytes);
        } else {
            first = bytes;
            size = n;
        }
    }
    free(first);
    unlink(path);
    free(path);
}
