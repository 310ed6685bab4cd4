/* Accuracy recovery: scales of single heads of q, k and v (int8-mode 3). */
#include "tests/support/testing.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "quant/site_error.h"
#include "runtime/base/file.h"
#include "runtime/swin/accuracy.h"
#include "tests/support/recovering.h"
#include "tests/support/tiny.h"

enum { PROBES = RECOVERING_PROBES };

/* The tiny network with four and eight heads. */
static void setup(recovering *x, swin_family family)
{
    swin_config c = swin_tiny_config();
    c.family = family;
    c.heads[0] = 4;
    c.heads[1] = 8;
    recovering_setup_of(x, &c);
}

static void scale_rows(swin_block_weights *b, int c, int row, int n, float by)
{
    for (int k = row; k < row + n; k++) {
        for (int i = 0; i < c; i++) b->qkv_weight[(size_t)k * (size_t)c + (size_t)i] *= by;
        if (b->qkv_bias) b->qkv_bias[k] *= by;
    }
}

/* q and k of every first head 8 times as large as those of the others: no factor between q and k can even that. What that
 * head makes of its values counts little, so that the noise is that of the others. V2, which normalises q and k: a logit
 * scale 20 times that of the others. */
static void make_unlike(recovering *x)
{
    for (int s = 0; s < x->config.num_stages; s++) {
        const swin_stage g = swin_config_stage(&x->config, s);
        for (int b = 0; b < g.depth; b++) {
            swin_block_weights *w = &x->weights.stages[s].blocks[b];
            for (int h = 0; w->logit_scale && h < g.heads; h++) w->logit_scale[h] = logf(h ? 5 : 100);
            for (int p = 0; !w->logit_scale && p < 2; p++)
                scale_rows(w, g.channels, p * g.channels, g.head_size, 8);
            if (!w->logit_scale) scale_rows(w, g.channels, 2 * g.channels, g.head_size, 0.05f);
        }
    }
    recovering_float(x, &x->weights, NULL, x->fp32);
}

static bool is_operand(const swin_site_record *r)
{
    return r->enabled && swin_site_role_of(r->site) == SWIN_ROLE_MATMUL;
}

/* Noise that q and k (V2: q, whose heads alone differ) make in the logits, in decibels of the signal. */
static double operands_db(recovering *x, const char *recover)
{
    swin_calib_file f;
    swin_eval_site *list;
    swin_weights w;
    int count;
    double noise = 0;
    const swin_calib_opts o = recovering_options(x, recover, SWIN_INT8_MODE_3);
    recovering_calibrate(x, &f, &o);
    recovering_correct(x, &f, &w);
    CHECK_OK(swin_site_errors(&list, &count, x->dev, &f, &w, SWIN_PER_CHANNEL, x->probes, PROBES));
    for (int i = 0; i < count; i++) {
        const swin_site_kind kind = swin_site_kind_of(list[i].site);
        if (kind == SWIN_SITE_MATMUL_Q || kind == SWIN_SITE_MATMUL_K || kind == SWIN_SITE_MHA_Q)
            noise += pow(10, -list[i].alone_db / 10);
    }
    free(list);
    swin_weights_free(&w);
    swin_calib_file_free(&f);
    return -10 * log10(noise);
}

static void test_gain(void **state)
{
    (void)state;
    for (int v2 = 0; v2 < 2; v2++) {
        recovering x;
        setup(&x, v2 ? SWIN_V2 : SWIN_V1);
        make_unlike(&x);
        const double ranges = operands_db(&x, "equalize,ranges"),
                     heads = operands_db(&x, "equalize,ranges,heads");
        print_message("V%d, heads of very different size, q and k: one scale %.1f dB, one for each "
                      "head %.1f dB\n",
                      v2 + 1, ranges, heads);
        CHECK(heads > ranges + 3, "V%d: %.2f and %.2f dB", v2 + 1, ranges, heads);
        recovering_teardown(&x);
    }
}

/* What the engines make of the file is as far from fp32 as int8-sim. */
static void test_engines(void **state)
{
    (void)state;
    static const char *const backends[] = { "ref", "cpu" };
    for (int v2 = 0; v2 < 2; v2++) {
        recovering x;
        swin_calib_file f;
        setup(&x, v2 ? SWIN_V2 : SWIN_V1);
        make_unlike(&x);
        const swin_calib_opts o = recovering_options(&x, "fast,heads", SWIN_INT8_MODE_3);
        recovering_calibrate(&x, &f, &o);
        const double sim = recovering_sqnr(&x, &f);
        for (size_t b = 0; b < SWIN_COUNT(backends); b++) {
            const double db = recovering_engine_sqnr(&x, &f, backends[b]);
            print_message("V%d, %s: %.2f dB, int8-sim %.2f dB\n", v2 + 1, backends[b], db, sim);
            CHECK(fabs(db - sim) < 1.5, "V%d, %s: %.2f dB, int8-sim %.2f dB", v2 + 1, backends[b], db, sim);
        }
        swin_calib_file_free(&f);
        recovering_teardown(&x);
    }
}

/* Every operand has them, each head one number; they come back from the file as they went. */
static void check_scales(const swin_calib_file *f, const swin_calib_file *back)
{
    int count = 0;
    for (int i = 0; i < f->nsites; i++) {
        const swin_site_record *a = &f->sites[i], *b = &back->sites[i];
        const swin_stage s = swin_config_stage(&f->config, swin_site_stage(a->site));
        CHECK(!a->channel_scale == !is_operand(a) && !b->channel_scale == !is_operand(a), "site %d", i);
        if (!a->channel_scale) continue;
        count++;
        CHECK(a->channels == s.channels && b->channels == s.channels, "site %d: %d and %d channels", i,
              a->channels, b->channels);
        for (int c = 0; c < s.channels; c++)
            CHECK(a->channel_scale[c] == a->channel_scale[c - c % s.head_size] &&
                      a->channel_scale[c] == b->channel_scale[c],
                  "site %d, channel %d: %g and %g", i, c, (double)a->channel_scale[c],
                  (double)b->channel_scale[c]);
    }
    print_message("%d sites with scales of heads\n", count);
    CHECK(count == 9, "%d sites", count);
}

static swin_site_record *first_operand(swin_calib_file *f)
{
    for (int i = 0; i < f->nsites; i++)
        if (is_operand(&f->sites[i])) return &f->sites[i];
    CHECK(false, "no operand");
    return NULL;
}

static void test_file(void **state)
{
    (void)state;
    for (int v2 = 0; v2 < 2; v2++) {
        recovering x;
        swin_calib_file f, back;
        setup(&x, v2 ? SWIN_V2 : SWIN_V1);
        const swin_calib_opts o = recovering_options(&x, "heads", SWIN_INT8_MODE_3);
        char *path = swin_format("%s/f.h5", x.folder);
        recovering_calibrate(&x, &f, &o);
        CHECK_OK(swin_calib_file_write(&f, path));
        CHECK_OK(swin_calib_file_read(&back, path, false));
        check_scales(&f, &back);
        swin_calib_file_free(&back);

        swin_site_record *r = first_operand(&f); /* relaxed: nothing of it is left */
        r->enabled = false;
        CHECK_OK(swin_calib_file_write(&f, path));
        CHECK_OK(swin_calib_file_read(&back, path, false));
        CHECK(!back.sites[r - f.sites].channel_scale, "a site that is off has scales");
        swin_calib_file_free(&back);
        r->enabled = true;

        r->channel_scale[0] = -1;
        CHECK_OK(swin_calib_file_write(&f, path));
        CHECK_FAILS(swin_calib_file_read(&back, path, false), SWIN_ERR_VALUE, "4 positive numbers");
        CHECK_OK(swin_calib_file_derive(&f, SWIN_INT8_MODE_1));
        CHECK_OK(swin_calib_file_write(&f, path));
        CHECK_FAILS(swin_calib_file_read(&back, path, false), SWIN_ERR_UNSUPPORTED,
                    v2 ? "blocks.0.attn.m" : "blocks.0.attn.matmul_q");
        swin_calib_file_free(&f);
        unlink(path);
        free(path);
        recovering_teardown(&x);
    }
}

/* One file for every way of running. */
static void test_one_file(void **state)
{
    (void)state;
    recovering x;
    setup(&x, SWIN_V1);
    recovering_one_file(&x, "ranges,heads", SWIN_INT8_MODE_3);
    recovering_teardown(&x);
}

/* Modes 1 and 2 round q, k and v together before the bias: nothing is done there. */
static void test_other_modes(void **state)
{
    (void)state;
    recovering x;
    setup(&x, SWIN_V1);
    for (int mode = 1; mode <= 2; mode++) {
        swin_calib_file f;
        const swin_calib_opts o = recovering_options(&x, "heads", (swin_int8_mode)mode);
        recovering_calibrate(&x, &f, &o);
        for (int i = 0; i < f.nsites; i++) CHECK(!f.sites[i].channel_scale, "mode %d: site %d", mode, i);
        CHECK(f.corrections.nsteps == 0, "mode %d: a step without work", mode);
        swin_calib_file_free(&f);
    }
    recovering_teardown(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gain),     cmocka_unit_test(test_engines),     cmocka_unit_test(test_file),
        cmocka_unit_test(test_one_file), cmocka_unit_test(test_other_modes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
