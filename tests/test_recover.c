/* Accuracy recovery: what it may change and what it may not, on small networks with and without outlier channels. */
#include "tests/support/testing.h"

#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "calib/run.h"
#include "quant/factor.h"
#include "quant/linear_weight.h"
#include "quant/plan.h"
#include "quant/sim.h"
#include "quant/site_error.h"
#include "runtime/base/file.h"
#include "runtime/base/h5.h"
#include "runtime/base/log.h"
#include "runtime/swin/outputs.h"
#include "tests/support/recovering.h"
#include "tests/support/trained.h"

enum { IMAGES = RECOVERING_IMAGES, PROBES = RECOVERING_PROBES, CLASSES = RECOVERING_CLASSES };

/* ---- the walk in parts ------------------------------------------------------------------------------------------- */

/* Any cut gives the bits of the whole walk. */
static void test_parts(void **state)
{
    (void)state;
    recovering x;
    swin_net *net;
    recovering_setup(&x, SWIN_V1);
    const int parts = swin_output_count(&x.config);
    float *stream = malloc((size_t)PROBES * 14 * 14 * 32 * sizeof *stream), logits[PROBES * CLASSES];
    CHECK_OK(swin_net_create(&net, x.dev, &x.config, &x.weights, &(swin_net_opts){ .dtype = SWIN_F32 }));
    for (int cut = 1; cut < parts; cut++) {
        int tokens, channels;
        swin_net_stream(&x.config, cut, &tokens, &channels);
        CHECK(tokens * channels <= 14 * 14 * 32, "part %d: %d x %d", cut, tokens, channels);
        CHECK_OK(swin_net_forward_parts(net, 0, cut, x.probes, PROBES, stream, NULL));
        CHECK_OK(swin_net_forward_parts(net, cut, parts, stream, PROBES, logits, NULL));
        CHECK(memcmp(logits, x.fp32, sizeof logits) == 0, "cut before part %d: other logits", cut);
    }
    CHECK_FAILS(swin_net_forward_parts(net, 2, 2, stream, 1, NULL, NULL), SWIN_ERR_VALUE, "parts 2 to 2");
    CHECK_FAILS(swin_net_forward_parts(net, 0, parts + 1, x.probes, 1, NULL, NULL), SWIN_ERR_VALUE, "parts");
    CHECK_FAILS(swin_net_reload(net, 0, &x.weights), SWIN_ERR_UNSUPPORTED, "part 0");
    swin_net_free(net);
    free(stream);
    recovering_teardown(&x);
}

static bool is_position_bias(const recovering *x, const float *p)
{
    for (int s = 0; s < x->config.num_stages; s++)
        for (int b = 0; b < x->config.depths[s]; b++) {
            const float *table = x->weights.stages[s].blocks[b].bias_table;
            if (p >= table && p < table + 13 * 13 * x->config.heads[s]) return true;
        }
    return false;
}

/* A part with other weights is that part of a network made with them. */
static void test_reload(void **state)
{
    (void)state;
    recovering x;
    swin_net *net;
    swin_weights other;
    float want[PROBES * CLASSES], logits[PROBES * CLASSES];
    recovering_setup(&x, SWIN_V1);
    CHECK_OK(swin_trained_weights(&other, &x.config, 12));
    CHECK_OK(swin_net_create(&net, x.dev, &x.config, &x.weights, &(swin_net_opts){ .dtype = SWIN_F32 }));
    for (int part = 1; part + 1 < swin_output_count(&x.config); part++) {
        size_t at, count;
        CHECK_OK(swin_weights_part(&x.weights, &x.config, part, &at, &count));
        for (size_t i = 0; i < count; i++) { /* position biases are no part of a reload */
            if (is_position_bias(&x, x.weights.block + at + i)) continue;
            x.weights.block[at + i] = other.block[at + i];
        }
        recovering_float(&x, &x.weights, NULL, want);
        CHECK_OK(swin_net_reload(net, part, &x.weights));
        CHECK_OK(swin_net_forward(net, x.probes, PROBES, logits, NULL));
        CHECK(memcmp(logits, want, sizeof logits) == 0, "part %d: other logits", part);
    }
    swin_net_free(net);
    swin_weights_free(&other);
    recovering_teardown(&x);
}

/* ---- equalization is exact ------------------------------------------------------------------------------------------ */

static void check_exact(swin_family family, swin_int8_mode mode)
{
    recovering x;
    swin_calib_file f;
    swin_weights w;
    float logits[PROBES * CLASSES];
    recovering_setup(&x, family);
    const swin_calib_opts o = recovering_options(&x, "center,equalize", mode);
    recovering_calibrate(&x, &f, &o);
    recovering_correct(&x, &f, &w);
    recovering_float(&x, &w, &f, logits);
    double worst = 0, top = 0;
    for (size_t i = 0; i < SWIN_COUNT(logits); i++) {
        worst = fmax(worst, fabs((double)logits[i] - (double)x.fp32[i]));
        top = fmax(top, fabs((double)x.fp32[i]));
    }
    print_message("V%d mode %d: logits differ by %.1e of the largest; %s\n", family == SWIN_V2 ? 2 : 1, mode,
                  worst / top, f.corrections.steps[1].changed);
    CHECK(worst <= 1e-5 * top, "V%d mode %d: %.2e", family == SWIN_V2 ? 2 : 1, mode, worst / top);
    CHECK(f.corrections.nweights > 0, "nothing changed");
    swin_weights_free(&w);
    swin_calib_file_free(&f);
    recovering_teardown(&x);
}

static void test_exact(void **state)
{
    (void)state;
    check_exact(SWIN_V1, SWIN_INT8_MODE_3);
    check_exact(SWIN_V1, SWIN_INT8_MODE_1);
    check_exact(SWIN_V2, SWIN_INT8_MODE_3);
    check_exact(SWIN_V2, SWIN_INT8_MODE_1);
}

/* ---- what it is worth ------------------------------------------------------------------------------------------------ */

static void scale_channel(float *gamma, float *beta, float *w, int rows, int cols, int k, float by)
{
    gamma[k] *= by;
    beta[k] *= by;
    for (int n = 0; n < rows; n++) w[n * cols + k] /= by;
}

/* Channels that need 16 to 32 times the others' range, and weights that undo it: the same network in float. Powers of two,
 * so to the last bit. */
static void make_outliers(recovering *x)
{
    for (int s = 0; s < 2; s++)
        for (int b = 0; b < x->config.depths[s]; b++) {
            const int c = 32 << s;
            swin_block_weights *w = &x->weights.stages[s].blocks[b];
            for (int k = 3; k < c; k += 11) {
                scale_channel(w->norm1_weight, w->norm1_bias, w->qkv_weight, 3 * c, c, k, 32);
                scale_channel(w->norm2_weight, w->norm2_bias, w->fc1_weight, 4 * c, c, k, 16);
                for (int i = 0; i < c; i++) w->qkv_weight[(2 * c + k) * c + i] *= 16;
                w->qkv_bias[2 * c + k] *= 16;
                for (int n = 0; n < c; n++) w->proj_weight[n * c + k] /= 16;
            }
        }
    float again[PROBES * CLASSES];
    recovering_float(x, &x->weights, NULL, again);
    CHECK(memcmp(again, x->fp32, sizeof again) == 0, "the outliers changed the float network");
}

/* Both defaults' float steps undo outlier channels: those of fast, and those of best with `round`. */
static void test_outliers(void **state)
{
    (void)state;
    static const swin_int8_mode modes[] = { SWIN_INT8_MODE_1, SWIN_INT8_MODE_3 };
    static const char without[] = "center,equalize,ranges,round,bias";
    for (size_t i = 0; i < SWIN_COUNT(modes); i++) {
        recovering x;
        recovering_setup(&x, SWIN_V1);
        const double plain = recovering_result(&x, "none", modes[i]),
                     fast = recovering_result(&x, "fast", modes[i]),
                     rounded = recovering_result(&x, without, modes[i]);
        make_outliers(&x);
        const double hard = recovering_result(&x, "none", modes[i]),
                     mended = recovering_result(&x, "fast", modes[i]),
                     again = recovering_result(&x, without, modes[i]);
        print_message("mode %d: %.2f dB, fast %.2f dB, rounded %.2f dB; with outlier channels %.2f, %.2f, "
                      "%.2f dB\n",
                      modes[i], plain, fast, rounded, hard, mended, again);
        CHECK(hard < plain - 6, "the outliers do no harm: %.2f and %.2f dB", plain, hard);
        CHECK(fast > plain - 0.5, "fast loses: %.2f and %.2f dB", plain, fast);
        CHECK(mended > fast - 1, "fast does not undo them: %.2f and %.2f dB", fast, mended);
        CHECK(again > rounded - 1, "equalization does not undo them: %.2f and %.2f dB", rounded, again);
        recovering_teardown(&x);
    }
}

/* Codes alone: the weights are quantized and nothing else. */
static double weights_alone(recovering *x, const char *recover)
{
    swin_calib_file f;
    const swin_calib_opts o = recovering_options(x, recover, SWIN_INT8_MODE_3);
    recovering_calibrate(x, &f, &o);
    for (int i = 0; i < f.nsites; i++)
        if (swin_site_role_of(f.sites[i].site) != SWIN_ROLE_WEIGHT) f.sites[i].enabled = false;
    for (int i = 0; i < f.nweights; i++) { /* all rounded weights lie on their channel's grid */
        swin_linear_weight l;
        swin_weights w;
        if (strcmp(recover, "round") != 0) break;
        recovering_correct(x, &f, &w);
        CHECK_OK(swin_linear_weight_of(&l, &x->config, &w, f.weights[i].site));
        for (int k = 0; k < l.out * l.in; k++) {
            const double code = (double)l.data[k] * 127 / (double)f.weights[i].amax_channel[k / l.in];
            CHECK(fabs(code - rint(code)) < 1e-4 && fabs(code) < 127.001, "weight %d: %g", i, code);
        }
        swin_weights_free(&w);
    }
    const double db = recovering_sqnr(x, &f);
    swin_calib_file_free(&f);
    return db;
}

static void test_round(void **state)
{
    (void)state;
    recovering x;
    recovering_setup(&x, SWIN_V1);
    const double plain = weights_alone(&x, "none"), rounded = weights_alone(&x, "round");
    print_message("weights alone: %.2f dB, rounded with the inputs in view %.2f dB\n", plain, rounded);
    CHECK(rounded > plain + 1, "%.2f and %.2f dB", plain, rounded);
    recovering_teardown(&x);
}

/* ---- engines and files ------------------------------------------------------------------------------------------------ */

/* The integer network applies the factors: it is as far from fp32 as int8-sim. */
static void test_engines(void **state)
{
    (void)state;
    static const char *const backends[] = { "ref", "cpu" };
    recovering x;
    swin_calib_file f;
    recovering_setup(&x, SWIN_V1);
    const swin_calib_opts o = recovering_options(&x, "fast", SWIN_INT8_MODE_3);
    recovering_calibrate(&x, &f, &o);
    for (int relaxed = 0; relaxed < 2; relaxed++) {
        if (relaxed) { /* a layer that stays float reads what nobody divided */
            const swin_site site = swin_site_find(&x.config, "layers.0.blocks.1.mlp.fc2._input");
            f.sites[swin_site_index(&x.config, site)].enabled = false;
        }
        const double sim = recovering_sqnr(&x, &f);
        for (size_t b = 0; b < SWIN_COUNT(backends); b++) {
            const double db = recovering_engine_sqnr(&x, &f, backends[b]);
            print_message("%s%s: %.2f dB, int8-sim %.2f dB\n", backends[b],
                          relaxed ? ", one layer float" : "", db, sim);
            CHECK(fabs(db - sim) < 1.5, "%s: %.2f dB, int8-sim %.2f dB", backends[b], db, sim);
        }
    }
    swin_calib_file_free(&f);
    recovering_teardown(&x);
}

/* The file that a way of running gives. Caller frees. */
static unsigned char *file_of(recovering *x, swin_calib_opts o, int batch, int threads, size_t *size)
{
    swin_calib_file f;
    unsigned char *bytes;
    char *path = swin_format("%s/f.h5", x->folder);
    o.batch = batch;
    o.threads = threads;
    recovering_calibrate(x, &f, &o);
    CHECK_OK(swin_calib_file_write(&f, path));
    swin_calib_file_free(&f);
    CHECK_OK(swin_read_file(path, &bytes, size));
    unlink(path);
    free(path);
    return bytes;
}

/* images, at most; the first `count` of the ways. */
static void one_file(recovering *x, const char *backend, swin_int8_mode mode, size_t images, size_t count)
{
    static const struct {
        int batch, threads;
    } ways[] = { { 8, 2 }, { 7, 3 }, { 8, 2 }, { 1, 1 } };
    swin_calib_opts o = recovering_options(x, "best", mode);
    size_t size, n;
    o.images = images;
    x->backend = backend;
    unsigned char *first = file_of(x, o, ways[0].batch, ways[0].threads, &size);
    for (size_t i = 1; i < count; i++) {
        unsigned char *other = file_of(x, o, ways[i].batch, ways[i].threads, &n);
        CHECK(n == size && memcmp(first, other, n) == 0, "%s, mode %d, batch %d, %d threads: another file",
              backend, mode, ways[i].batch, ways[i].threads);
        free(other);
    }
    free(first);
}

/* One file for every way of running and every time, with all methods. */
static void test_one_file(void **state)
{
    (void)state;
    recovering x;
    swin_dev *gpu = NULL;
    recovering_setup(&x, SWIN_V1);
    one_file(&x, "cpu", SWIN_INT8_MODE_3, 20, 4);
    one_file(&x, "cpu", SWIN_INT8_MODE_1, 12, 2);
    one_file(&x, "ref", SWIN_INT8_MODE_3, 3, 2);
    const bool has_gpu = swin_dev_open(&gpu, "cuda", &(swin_dev_opts){ 0 }) == SWIN_OK;
    swin_dev_close(gpu);
    if (has_gpu)
        one_file(&x, "cuda", SWIN_INT8_MODE_3, 20, 4);
    else
        print_message("no GPU: cuda is left out\n");
    recovering_teardown(&x);
}

static void test_file(void **state)
{
    (void)state;
    recovering x;
    swin_calib_file f, back;
    recovering_setup(&x, SWIN_V1);
    const swin_calib_opts o = recovering_options(&x, "fast", SWIN_INT8_MODE_3);
    char *path = swin_format("%s/f.h5", x.folder);
    recovering_calibrate(&x, &f, &o);
    CHECK_OK(swin_calib_file_write(&f, path));
    CHECK_OK(swin_calib_file_read(&back, path, false));
    CHECK(back.corrections.nsteps == 3, "%d steps", back.corrections.nsteps);
    static const char *const names[] = { "equalize", "ranges", "bias" };
    for (int i = 0; i < back.corrections.nsteps; i++) {
        const swin_recover_step *a = &f.corrections.steps[i], *b = &back.corrections.steps[i];
        CHECK(strcmp(b->method, names[i]) == 0, "step %d is %s", i, b->method);
        CHECK(a->before_db == b->before_db && a->after_db == b->after_db && !strcmp(a->changed, b->changed),
              "step %d", i);
        CHECK(isfinite(b->after_db) && b->after_db > 0, "step %d: %g dB", i, b->after_db);
    }
    int factors = 0;
    for (int i = 0; i < f.nsites; i++) {
        CHECK(!f.sites[i].factor == !back.sites[i].factor, "site %d", i);
        if (!f.sites[i].factor) continue;
        factors++;
        CHECK(memcmp(f.sites[i].factor, back.sites[i].factor, (size_t)f.sites[i].channels * sizeof(float)) ==
                  0,
              "site %d", i);
    }
    print_message("%d sites with factors\n", factors);
    CHECK(factors > 0, "no factors");
    /* What cannot be divided by is refused. */
    for (int i = 0; i < f.nsites; i++)
        if (f.sites[i].factor) f.sites[i].factor[1] = 0;
    swin_calib_file_free(&back);
    CHECK_OK(swin_calib_file_write(&f, path));
    CHECK_FAILS(swin_calib_file_read(&back, path, false), SWIN_ERR_VALUE, "positive numbers");
    swin_calib_file_free(&f);
    unlink(path);
    free(path);
    recovering_teardown(&x);
}

/* Site by site: every enabled site once; what is alone is better than all together; shares are parts of a whole. */
static void test_sites(void **state)
{
    (void)state;
    recovering x;
    swin_calib_file f;
    swin_eval_site *list;
    int count, enabled = 0;
    recovering_setup(&x, SWIN_V1);
    const swin_calib_opts o = recovering_options(&x, "none", SWIN_INT8_MODE_3);
    recovering_calibrate(&x, &f, &o);
    for (int i = 0; i < f.nsites; i++) enabled += f.sites[i].enabled;
    CHECK_OK(swin_site_errors(&list, &count, x.dev, &f, &x.weights, SWIN_PER_CHANNEL, x.probes, PROBES));
    const double all = recovering_sqnr(&x, &f);
    double share = 0, noise = 0;
    CHECK(count == enabled, "%d sites of %d", count, enabled);
    for (int i = 0; i < count; i++) {
        const swin_eval_site *e = &list[i];
        const bool weight = swin_site_role_of(e->site) == SWIN_ROLE_WEIGHT;
        CHECK(e->alone_db > all, "site %d alone: %.2f dB, all together %.2f dB", i, e->alone_db, all);
        CHECK(isnan(e->accumulated_db) == weight && (weight || e->accumulated_db > 10), "site %d: %g dB", i,
              e->accumulated_db);
        share += e->share;
        noise += pow(10, -e->alone_db / 10);
    }
    print_message("%d sites: together %.2f dB, the sum of them alone %.2f dB\n", count, all,
                  -10 * log10(noise));
    CHECK(fabs(share - 100) < 1e-6, "shares add up to %g", share);
    CHECK(fabs(-10 * log10(noise) - all) < 3, "the sum is far from the whole");
    free(list);
    swin_calib_file_free(&f);
    recovering_teardown(&x);
}

static void test_choose(void **state)
{
    (void)state;
    unsigned none, fast, best, two, more;
    CHECK_OK(swin_recover_choose(&none, "none"));
    CHECK_OK(swin_recover_choose(&fast, "fast"));
    CHECK_OK(swin_recover_choose(&best, "best"));
    CHECK_OK(swin_recover_choose(&two, "bias,equalize"));
    CHECK(none == 0 && fast && (best & fast) == fast && best != fast, "%x %x %x", none, fast, best);
    CHECK((two & fast) == two && two, "%x of %x", two, fast);
    CHECK_FAILS(swin_recover_choose(&two, ""), SWIN_ERR_USAGE, "--recover");
    CHECK_FAILS(swin_recover_choose(&two, "bias,"), SWIN_ERR_USAGE, "--recover");
    CHECK_OK(swin_recover_choose(&more, "heads"));
    CHECK_OK(swin_recover_choose(&two, "fast,heads"));
    CHECK(more && !(fast & more) && two == (fast | more), "%x of %x and %x", two, fast, more);
    CHECK_FAILS(swin_recover_choose(&two, "none,bias"), SWIN_ERR_USAGE, "none");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts),    cmocka_unit_test(test_reload), cmocka_unit_test(test_exact),
        cmocka_unit_test(test_outliers), cmocka_unit_test(test_round),  cmocka_unit_test(test_engines),
        cmocka_unit_test(test_one_file), cmocka_unit_test(test_file),   cmocka_unit_test(test_choose),
        cmocka_unit_test(test_sites),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
