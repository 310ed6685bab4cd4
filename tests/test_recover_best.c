/* Accuracy recovery: what is put back, what is left in float, ranges by what reads the tensor, and the shared checkpoint. */
#include "tests/support/testing.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "calib/recover_impl.h"
#include "quant/factor.h"
#include "quant/site_error.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/swin/accuracy.h"
#include "runtime/swin/session.h"
#include "tests/support/recovering.h"

/* ---- putting back --------------------------------------------------------------------------------------------------- */

static size_t weight_count(const swin_weights *w, const swin_config *c)
{
    swin_param *list = NULL;
    size_t n, count = 0;
    swin_weights views = *w;
    CHECK_OK(swin_weights_list(c, &views, &list, &n));
    for (size_t i = 0; i < n; i++) count += list[i].count;
    free(list);
    return count;
}

/* Whatever a method did to ranges, switches and weights is as it was. */
static void test_undo(void **state)
{
    (void)state;
    recovering x;
    swin_calib_file f;
    recovering_setup(&x, SWIN_V1);
    const swin_calib_opts o = recovering_options(&x, "none", SWIN_INT8_MODE_1);
    recovering_calibrate(&x, &f, &o);
    swin_recover r = { .config = &x.config, .f = &f };
    CHECK_OK(swin_weights_clone(&r.w, &x.weights, &x.config));
    const size_t count = weight_count(&x.weights, &x.config), sites = (size_t)f.nsites * sizeof *f.sites;
    swin_site_record *before = malloc(sites);
    memcpy(before, f.sites, sites);
    const float amax = f.weights[2].amax, channel = f.weights[2].amax_channel[3];

    recover_saved saved;
    CHECK_OK(recover_save(&saved, &r));
    for (int i = 0; i < f.nsites; i++) {
        f.sites[i].amax *= 2;
        f.sites[i].q.scale *= 2;
        f.sites[i].enabled = !f.sites[i].enabled;
    }
    f.weights[2].amax = 7;
    f.weights[2].amax_channel[3] = 8;
    for (size_t i = 0; i < count; i++) r.w.block[i] += 1;
    recover_restore(&r, &saved);
    recover_saved_free(&saved);
    CHECK(memcmp(before, f.sites, sites) == 0, "sites are not as they were");
    CHECK(f.weights[2].amax == amax && f.weights[2].amax_channel[3] == channel, "ranges of weights");
    CHECK(memcmp(r.w.block, x.weights.block, count * sizeof(float)) == 0, "weights are not as they were");
    free(before);
    swin_weights_free(&r.w);
    swin_calib_file_free(&f);
    recovering_teardown(&x);
}

/* ---- relaxing ------------------------------------------------------------------------------------------------------- */

/* What is off costs at most 3 % of the modelled time, the file says what it is, and all else is as without. */
static void check_relax(swin_int8_mode mode, bool expected)
{
    recovering x;
    swin_calib_file f, back;
    swin_relax_unit *units;
    int count, relaxed = 0;
    double all = 0, spent = 0;
    recovering_setup(&x, SWIN_V1);
    char *path = swin_format("%s/f.h5", x.folder);
    swin_calib_opts o = recovering_options(&x, "none", mode);
    recovering_calibrate(&x, &f, &o);
    const double plain = recovering_sqnr(&x, &f);
    CHECK_OK(swin_relax_units(&units, &count, &f));
    for (int i = 0; i < count; i++) all += swin_relax_time(&units[i]);
    free(units);
    swin_calib_file_free(&f);

    o = recovering_options(&x, "relax", mode);
    recovering_calibrate(&x, &f, &o);
    const double db = recovering_sqnr(&x, &f);
    CHECK_OK(swin_calib_file_write(&f, path));
    CHECK_OK(swin_calib_file_read(&back, path, false));
    for (int i = 0; i < back.nsites; i++)
        CHECK(back.sites[i].enabled == f.sites[i].enabled, "site %d in the file", i);
    if (f.relaxation.present) {
        CHECK(back.relaxation.nunits == count && f.relaxation.nunits == count, "%d units", count);
        for (int i = 0; i < count; i++) {
            const swin_relax_unit *u = &f.relaxation.units[i];
            CHECK(back.relaxation.units[i].relaxed == u->relaxed, "%s", u->name);
            if (!u->relaxed) continue;
            relaxed++;
            spent += swin_relax_time(u) / all;
            for (int k = 0; k < u->count; k++)
                CHECK(!swin_calib_file_site(&f, u->sites[k])->enabled, "%s is on", u->name);
        }
    }
    print_message("mode %d: %d of %d units in float, %.2f %% of the time; %.2f dB, without %.2f dB\n", mode,
                  relaxed, count, 100 * spent, db, plain);
    CHECK(spent <= 0.03, "%.2f %%", 100 * spent);
    CHECK(!expected || (relaxed > 0 && db > plain), "nothing gained: %d units, %.2f dB", relaxed, db);
    swin_calib_file_free(&back);
    swin_calib_file_free(&f);
    unlink(path);
    free(path);
    recovering_teardown(&x);
}

static void test_relax(void **state)
{
    (void)state;
    check_relax(SWIN_INT8_MODE_1, true); /* outputs cost bytes alone */
    check_relax(SWIN_INT8_MODE_3, false);
}

/* Rows of fc2 and reduction that are 30 times as large as others, in mode 1, whose outputs have one scale: at least as good
 * as mode 2, which does not round them, without recovery. */
static void test_outlier_outputs(void **state)
{
    (void)state;
    recovering x;
    recovering_setup(&x, SWIN_V1);
    for (int i = 0; i < 2; i++) {
        swin_block_weights *b = &x.weights.stages[0].blocks[i];
        for (int k = 0; k < 128; k++) b->fc2_weight[(5 + i) * 128 + k] *= 30;
        b->fc2_bias[5 + i] *= 30;
    }
    for (int k = 0; k < 128; k++) x.weights.stages[0].reduction_weight[9 * 128 + k] *= 30;
    for (int k = 0; k < 128; k++) x.weights.stages[1].blocks[0].fc2_weight[3 * 256 + k] *= 30;
    recovering_float(&x, &x.weights, NULL, x.fp32);
    const double plain1 = recovering_result(&x, "none", SWIN_INT8_MODE_1),
                 plain2 = recovering_result(&x, "none", SWIN_INT8_MODE_2),
                 best = recovering_result(&x, "best", SWIN_INT8_MODE_1);
    print_message("outlier outputs: mode 1 %.2f dB, mode 2 %.2f dB, mode 1 with best %.2f dB\n", plain1,
                  plain2, best);
    CHECK(plain1 < plain2 - 1, "the outliers do no harm: %.2f and %.2f dB", plain1, plain2);
    CHECK(best >= plain2, "%.2f and %.2f dB", best, plain2);
    recovering_teardown(&x);
}

/* ---- ranges by what reads the tensor ---------------------------------------------------------------------------------- */

static double error_alone(recovering *x, const char *calibrator)
{
    swin_calib_file f;
    swin_eval_site *list;
    int count;
    double noise = 0;
    swin_calib_opts o = recovering_options(x, "none", SWIN_INT8_MODE_3);
    o.calibrator = swin_calibrator_find(calibrator);
    recovering_calibrate(x, &f, &o);
    CHECK(strcmp(f.calibrator, calibrator) == 0 && strcmp(f.recover, "none") == 0, "%s, %s", f.calibrator,
          f.recover);
    CHECK(f.corrections.nweights == 0, "%s changes weights", calibrator);
    CHECK_OK(swin_site_errors(&list, &count, x->dev, &f, &x->weights, SWIN_PER_CHANNEL, x->probes,
                              RECOVERING_PROBES));
    for (int i = 0; i < count; i++)
        if (swin_site_role_of(list[i].site) != SWIN_ROLE_WEIGHT) noise += pow(10, -list[i].alone_db / 10);
    free(list);
    swin_calib_file_free(&f);
    return -10 * log10(noise);
}

static void test_gemm_mse(void **state)
{
    (void)state;
    recovering x;
    recovering_setup(&x, SWIN_V1);
    const double by_use = error_alone(&x, "gemm-mse"), max = error_alone(&x, "max");
    print_message("activations' errors alone, together: gemm-mse %.2f dB, max %.2f dB\n", by_use, max);
    CHECK(by_use > max, "%.2f and %.2f dB", by_use, max);
    recovering_teardown(&x);
}

/* ---- the shared checkpoint ---------------------------------------------------------------------------------------------- */

enum { SEEN = 5, JUDGED = 2 };

/* What changes weights before ranges are chosen does not change the float network. */
static void test_shared_exact(void **state)
{
    (void)state;
    SWIN_TEST_FILE(checkpoint, "weights/swin_tiny_patch4_window7_224_tin200_fp16.pth");
    SWIN_TEST_FILE(images, "tiny-imagenet");
    recovering x = { .folder = swin_scratch_make("recover") };
    swin_calib_file f;
    swin_weights w;
    swin_loader *l;
    swin_dataset *data;
    swin_batch batch;
    CHECK_OK(swin_dev_open(&x.dev, "cpu", &(swin_dev_opts){ .threads = 2 }));
    swin_common common = SWIN_COMMON_DEFAULTS;
    common.resume = checkpoint;
    swin_log_set(SWIN_LOG_QUIET);
    CHECK_OK(swin_model_load(&x.weights, &x.config, &common));
    swin_calib_opts o = recovering_options(&x, "center,equalize", SWIN_INT8_MODE_3);
    o.data_path = images;
    o.images = SEEN;
    recovering_calibrate(&x, &f, &o);
    recovering_correct(&x, &f, &w);

    CHECK_OK(swin_dataset_open(&data, images, "val"));
    CHECK_OK(swin_loader_open(
        &l, data,
        &(swin_loader_opts){ .batch = JUDGED, .workers = 1, .preprocess = { .size = 224, .crop = true } }));
    CHECK_OK(swin_loader_next(l, &batch));
    const size_t n = JUDGED * (size_t)x.config.num_classes;
    float *logits[2];
    for (int i = 0; i < 2; i++) {
        swin_net *net;
        swin_factor_tap factors = { .f = &f };
        const swin_tap tap = swin_factor_tap_of(&factors);
        logits[i] = malloc(n * sizeof *logits[i]);
        CHECK_OK(swin_net_create(&net, x.dev, &x.config, i ? &w : &x.weights,
                                 &(swin_net_opts){ .dtype = SWIN_F32 }));
        CHECK_OK(swin_net_forward(net, batch.pixels, JUDGED, logits[i], i ? &tap : NULL));
        swin_net_free(net);
    }
    double worst = 0, top = 0;
    for (size_t i = 0; i < n; i++) {
        worst = fmax(worst, fabs((double)logits[1][i] - (double)logits[0][i]));
        top = fmax(top, fabs((double)logits[0][i]));
    }
    print_message("shared checkpoint: logits differ by %.1e of the largest; %s; %s\n", worst / top,
                  f.corrections.steps[0].changed, f.corrections.steps[1].changed);
    CHECK(worst <= 1e-5 * top, "%.2e", worst / top);
    free(logits[0]);
    free(logits[1]);
    swin_loader_close(l);
    swin_dataset_close(data);
    swin_weights_free(&w);
    swin_weights_free(&x.weights);
    swin_calib_file_free(&f);
    swin_dev_close(x.dev);
    swin_scratch_remove(x.folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_undo),
        cmocka_unit_test(test_relax),
        cmocka_unit_test(test_outlier_outputs),
        cmocka_unit_test(test_gemm_mse),
        cmocka_unit_test(test_shared_exact),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
