/* Accuracy recovery: a scale for each channel of what fc2 and merging give, and ranges with the residual stream in view. */
#include "tests/support/testing.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "calib/recover_impl.h"
#include "quant/plan.h"
#include "quant/site_error.h"
#include "runtime/base/file.h"
#include "runtime/base/h5.h"
#include "runtime/base/log.h"
#include "runtime/swin/accuracy.h"
#include "tests/support/recovering.h"

enum { PROBES = RECOVERING_PROBES, CLASSES = RECOVERING_CLASSES };

/* Rows of fc2 and reduction 30 times as large as the others. */
static void make_outliers(recovering *x)
{
    for (int s = 0; s < x->config.num_stages; s++) {
        const swin_stage shape = swin_config_stage(&x->config, s);
        const int c = shape.channels;
        for (int b = 0; b < shape.depth; b++)
            for (int k = 0; k < shape.hidden; k++) {
                x->weights.stages[s].blocks[b].fc2_weight[5 * shape.hidden + k] *= 30;
                x->weights.stages[s].blocks[b].fc2_weight[(c - 3) * shape.hidden + k] *= 30;
            }
        for (int k = 0; x->weights.stages[s].reduction_weight && k < 4 * c; k++)
            x->weights.stages[s].reduction_weight[9 * 4 * c + k] *= 30;
    }
    recovering_float(x, &x->weights, NULL, x->fp32);
}

static bool wide(const swin_site_record *r)
{
    return swin_site_role_of(r->site) == SWIN_ROLE_AFTERGEMM_WIDE;
}

/* Noise that the wide products alone make in the logits, in parts of the signal. */
static double noise_of_products(recovering *x, const swin_calib_file *f)
{
    swin_eval_site *list;
    swin_weights w;
    int count;
    double noise = 0;
    recovering_correct(x, f, &w);
    CHECK_OK(swin_site_errors(&list, &count, x->dev, f, &w, SWIN_PER_CHANNEL, x->probes, PROBES));
    for (int i = 0; i < count; i++)
        if (swin_site_role_of(list[i].site) == SWIN_ROLE_AFTERGEMM_WIDE)
            noise += pow(10, -list[i].alone_db / 10);
    free(list);
    swin_weights_free(&w);
    return noise;
}

static double products_db(recovering *x, const char *recover)
{
    swin_calib_file f;
    const swin_calib_opts o = recovering_options(x, recover, SWIN_INT8_MODE_1);
    recovering_calibrate(x, &f, &o);
    const double noise = noise_of_products(x, &f);
    swin_calib_file_free(&f);
    return -10 * log10(noise);
}

/* Each channel by its own range: nearly undoes the outliers, where one range for all cannot. */
static void test_gain(void **state)
{
    (void)state;
    for (int v2 = 0; v2 < 2; v2++) {
        recovering x;
        recovering_setup(&x, v2 ? SWIN_V2 : SWIN_V1);
        const double even = products_db(&x, "ranges"), even_channels = products_db(&x, "ranges,outputs");
        make_outliers(&x);
        const double plain = products_db(&x, "none"), one = products_db(&x, "ranges"),
                     channels = products_db(&x, "ranges,outputs");
        print_message(
            "V%d, wide products alone: one range %.1f dB, one for each channel %.1f dB; with outliers: plain "
            "%.1f dB, one range %.1f dB, one for each channel %.1f dB\n",
            v2 + 1, even, even_channels, plain, one, channels);
        CHECK(even_channels > even, "%.2f and %.2f dB", even, even_channels);
        CHECK(channels > one + 3, "%.2f and %.2f dB", one, channels);
        recovering_teardown(&x);
    }
}

/* What the engines make of the file is as far from fp32 as int8-sim. */
static void test_engines(void **state)
{
    (void)state;
    static const char *const backends[] = { "ref", "cpu" };
    recovering x;
    swin_calib_file f;
    recovering_setup(&x, SWIN_V1);
    make_outliers(&x);
    const swin_calib_opts o = recovering_options(&x, "equalize,ranges,outputs", SWIN_INT8_MODE_1);
    recovering_calibrate(&x, &f, &o);
    const double sim = recovering_sqnr(&x, &f);
    for (int i = 0; i < f.corrections.nsteps; i++)
        print_message("%s: %.2f to %.2f dB, %s\n", f.corrections.steps[i].method,
                      f.corrections.steps[i].before_db, f.corrections.steps[i].after_db,
                      f.corrections.steps[i].changed);
    for (size_t b = 0; b < SWIN_COUNT(backends); b++) {
        const double db = recovering_engine_sqnr(&x, &f, backends[b]);
        print_message("%s: %.2f dB, int8-sim %.2f dB\n", backends[b], db, sim);
        CHECK(fabs(db - sim) < 1.5, "%s: %.2f dB, int8-sim %.2f dB", backends[b], db, sim);
    }
    swin_calib_file_free(&f);
    recovering_teardown(&x);
}

static void check_same_scales(const swin_calib_file *f, const swin_calib_file *back)
{
    int count = 0, of_mode = 0;
    for (int i = 0; i < f->nsites; i++) {
        const swin_site_record *a = &f->sites[i], *b = &back->sites[i];
        of_mode += wide(a) && a->enabled;
        CHECK(!a->channel_scale == !b->channel_scale, "site %d", i);
        if (!a->channel_scale) continue;
        count++;
        CHECK(wide(a) && a->channels == b->channels, "site %d: %d and %d channels", i, a->channels,
              b->channels);
        CHECK(memcmp(a->channel_scale, b->channel_scale, (size_t)a->channels * sizeof(float)) == 0, "site %d",
              i);
    }
    print_message("%d of %d products have scales of their own\n", count, of_mode);
    CHECK(count == of_mode && count > 0, "%d of %d", count, of_mode);
}

/* To the file and back; in mode 3, or with numbers that cannot be scales, such a file is refused by name. */
static void test_file(void **state)
{
    (void)state;
    recovering x;
    swin_calib_file f, back;
    recovering_setup(&x, SWIN_V1);
    const swin_calib_opts o = recovering_options(&x, "outputs", SWIN_INT8_MODE_1);
    char *path = swin_format("%s/f.h5", x.folder);
    recovering_calibrate(&x, &f, &o);
    CHECK_OK(swin_calib_file_write(&f, path));
    CHECK_OK(swin_calib_file_read(&back, path, false));
    check_same_scales(&f, &back);
    swin_calib_file_free(&back);
    CHECK_OK(swin_calib_file_derive(&f, SWIN_INT8_MODE_3));
    CHECK_OK(swin_calib_file_write(&f, path));
    CHECK_FAILS(swin_calib_file_read(&back, path, false), SWIN_ERR_UNSUPPORTED, "fc2._aftergemm");
    CHECK_OK(swin_calib_file_derive(&f, SWIN_INT8_MODE_1));
    for (int i = 0; i < f.nsites; i++)
        if (f.sites[i].channel_scale) f.sites[i].channel_scale[1] = -1;
    CHECK_OK(swin_calib_file_write(&f, path));
    CHECK_FAILS(swin_calib_file_read(&back, path, false), SWIN_ERR_VALUE, "positive numbers");
    swin_calib_file_free(&f);
    unlink(path);
    free(path);
    recovering_teardown(&x);
}

/* One file for every way of running. */
static void test_one_file(void **state)
{
    (void)state;
    recovering x;
    recovering_setup(&x, SWIN_V1);
    recovering_one_file(&x, "ranges,outputs", SWIN_INT8_MODE_1);
    recovering_teardown(&x);
}

/* Nothing to do in modes that round none of these products. */
static void test_nothing(void **state)
{
    (void)state;
    recovering x;
    recovering_setup(&x, SWIN_V1);
    for (int mode = 2; mode <= 3; mode++) {
        swin_calib_file f;
        const swin_calib_opts o = recovering_options(&x, "outputs", (swin_int8_mode)mode);
        recovering_calibrate(&x, &f, &o);
        for (int i = 0; i < f.nsites; i++) CHECK(!f.sites[i].channel_scale, "mode %d: site %d", mode, i);
        CHECK(f.corrections.nsteps == 0, "mode %d: a step without work", mode);
        swin_calib_file_free(&f);
    }
    recovering_teardown(&x);
}

/* A method that is put back leaves no scales, and loses none that were there. */
static void test_undo(void **state)
{
    (void)state;
    recovering x;
    swin_calib_file f;
    recover_saved saved;
    recovering_setup(&x, SWIN_V1);
    const swin_calib_opts o = recovering_options(&x, "none", SWIN_INT8_MODE_1);
    recovering_calibrate(&x, &f, &o);
    swin_recover r = { .config = &x.config, .f = &f };
    CHECK_OK(swin_weights_clone(&r.w, &x.weights, &x.config));
    swin_site_record *kept = NULL, *new = NULL;
    for (int i = 0; i < f.nsites; i++)
        if (wide(&f.sites[i])) kept = new, new = &f.sites[i];
    CHECK(kept && new, "too few products");
    kept->channel_scale = calloc(8, sizeof(float));
    const float *before = kept->channel_scale;
    CHECK_OK(recover_save(&saved, &r));
    new->channel_scale = calloc(8, sizeof(float));
    recover_restore(&r, &saved);
    recover_saved_free(&saved);
    CHECK(!new->channel_scale && kept->channel_scale == before, "scales are not as they were");
    swin_weights_free(&r.w);
    swin_calib_file_free(&f);
    recovering_teardown(&x);
}

/* ---- the residual stream -------------------------------------------------------------------------------------------------- */

/* Worth follows gains and weights of what reads the stream, and does not change when a channel of a norm grows and the columns
 * that read it shrink, or rows of what reads it grow. */
static void test_worth(void **state)
{
    (void)state;
    recovering x;
    float before[64], after[64];
    recovering_setup(&x, SWIN_V1);
    swin_recover r = { .config = &x.config };
    CHECK_OK(swin_weights_clone(&r.w, &x.weights, &x.config));
    const swin_stage s = swin_config_stage(&x.config, 1);
    const int c = s.channels;
    swin_block_weights *next = &r.w.stages[1].blocks[0];
    CHECK_OK(recover_merge_worth(before, &r, 0));
    next->norm1_weight[3] *= 16;
    for (int n = 0; n < 3 * c; n++) next->qkv_weight[n * c + 3] /= 16;
    for (int k = 0; k < c; k++) next->qkv_weight[7 * c + k] *= 32;
    CHECK_OK(recover_merge_worth(after, &r, 0));
    for (int k = 0; k < c; k++)
        CHECK(before[k] > 0 && fabs((double)after[k] / (double)before[k] - 1) < 1e-5, "channel %d: %g and %g",
              k, (double)before[k], (double)after[k]);
    for (int b = 0; b < s.depth; b++) /* nobody reads channel 5 */
        r.w.stages[1].blocks[b].norm1_weight[5] = r.w.stages[1].blocks[b].norm2_weight[5] = 0;
    r.w.norm_weight[5] = 0;
    CHECK_OK(recover_merge_worth(after, &r, 0));
    CHECK(after[5] == 0 && after[6] > 0, "a channel that nobody reads is worth %g", (double)after[5]);
    swin_weights_free(&r.w);
    recovering_teardown(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gain),     cmocka_unit_test(test_engines), cmocka_unit_test(test_file),
        cmocka_unit_test(test_one_file), cmocka_unit_test(test_nothing), cmocka_unit_test(test_undo),
        cmocka_unit_test(test_worth),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
