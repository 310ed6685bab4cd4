/* Accuracy recovery: outlier channels that leave the float network as it is. Equalization finds the same network whatever was
 * done to it, so everything after it does too. */
#include "tests/support/testing.h"

#include <math.h>
#include <string.h>

#include "quant/factor.h"
#include "runtime/base/log.h"
#include "tests/support/harden.h"
#include "tests/support/recovering.h"

enum { PROBES = RECOVERING_PROBES, CLASSES = RECOVERING_CLASSES, SEEDS = 1 };

/* Returns how far its logits are from those of the network that it came from, in parts of the largest. */
static double equalized(recovering *x, swin_int8_mode mode, swin_weights *w)
{
    swin_calib_file f;
    float logits[PROBES * CLASSES];
    double worst = 0, top = 0;
    const swin_calib_opts o = recovering_options(x, "equalize", mode);
    recovering_calibrate(x, &f, &o);
    recovering_correct(x, &f, w);
    recovering_float(x, w, &f, logits);
    for (size_t i = 0; i < SWIN_COUNT(logits); i++) {
        worst = fmax(worst, fabs((double)logits[i] - (double)x->fp32[i]));
        top = fmax(top, fabs((double)x->fp32[i]));
    }
    swin_calib_file_free(&f);
    return worst / top;
}

/* a [n] and b [n] are the same but for one common factor: how far they are from it. */
static double spread(const float *a, const float *b, int n)
{
    double lo = INFINITY, hi = 0;
    for (int k = 0; k < n; k++) {
        if (a[k] == 0 && b[k] == 0) continue;
        const double r = (double)a[k] / (double)b[k];
        lo = fmin(lo, r);
        hi = fmax(hi, r);
    }
    return hi > 0 ? hi / lo - 1 : 0;
}

/* Largest spread of gains and of biases, which belong to the rows of qkv. */
static double difference(const recovering *x, const swin_weights *a, const swin_weights *b)
{
    double worst = 0;
    for (int s = 0; s < x->config.num_stages; s++) {
        const int c = swin_config_stage(&x->config, s).channels;
        for (int i = 0; i < x->config.depths[s]; i++) {
            const swin_block_weights *p = &a->stages[s].blocks[i], *q = &b->stages[s].blocks[i];
            worst = fmax(worst, spread(p->norm1_weight, q->norm1_weight, c));
            worst = fmax(worst, spread(p->norm2_weight, q->norm2_weight, c));
            for (int part = 0; part < 3; part++)
                worst = fmax(worst, spread(p->qkv_bias + part * c, q->qkv_bias + part * c, c));
        }
        if (a->stages[s].merge_norm_weight)
            worst =
                fmax(worst, spread(a->stages[s].merge_norm_weight, b->stages[s].merge_norm_weight, 4 * c));
    }
    return worst;
}

/* Whatever channels were scaled, the equalized network is one and the same. */
static void test_same_network(void **state)
{
    (void)state;
    static const swin_int8_mode modes[] = { SWIN_INT8_MODE_1, SWIN_INT8_MODE_3 };
    for (size_t m = 0; m < SWIN_COUNT(modes); m++) {
        recovering x;
        swin_weights plain, hard, original;
        recovering_setup(&x, SWIN_V1);
        (void)equalized(&x, modes[m], &plain);
        CHECK_OK(swin_weights_clone(&original, &x.weights, &x.config));
        for (const harden_kind *k = harden_kinds; k->name; k++)
            for (uint64_t seed = 1; seed <= SEEDS; seed++) {
                memcpy(x.weights.block, original.block, original.count * sizeof *original.block);
                harden_inputs(&x.weights, &x.config, k, seed);
                recovering_float(&x, &x.weights, NULL, x.fp32);
                const double exact = equalized(&x, modes[m], &hard);
                const double d = difference(&x, &hard, &plain),
                             before = difference(&x, &x.weights, &original);
                print_message("mode %d, %s, seed %d: channels differ by factors up to %.0f, equalized by "
                              "%.1e; logits by "
                              "%.1e\n",
                              modes[m], k->name, (int)seed, before + 1, d, exact);
                CHECK(exact <= 1e-5, "%s, seed %d: equalization changed logits by %.2e", k->name, (int)seed,
                      exact);
                CHECK(before > 5, "%s: not hardened", k->name);
                CHECK(d < 1e-4, "%s, seed %d: equalized otherwise, by %.2e", k->name, (int)seed, d);
                swin_weights_free(&hard);
            }
        swin_weights_free(&original);
        swin_weights_free(&plain);
        recovering_teardown(&x);
    }
}

/* With everything after it: plain falls, `fast` does not, on the average of all kinds. */
static void test_fast(void **state)
{
    (void)state;
    recovering x;
    swin_weights original;
    double plain = 0, fast = 0;
    int count = 0;
    recovering_setup(&x, SWIN_V1);
    CHECK_OK(swin_weights_clone(&original, &x.weights, &x.config));
    const double was_plain = recovering_result(&x, "none", SWIN_INT8_MODE_3),
                 was_fast = recovering_result(&x, "fast", SWIN_INT8_MODE_3);
    for (const harden_kind *k = harden_kinds; k->name; k++) {
        memcpy(x.weights.block, original.block, original.count * sizeof *original.block);
        harden_inputs(&x.weights, &x.config, k, 1);
        const double a = recovering_result(&x, "none", SWIN_INT8_MODE_3),
                     b = recovering_result(&x, "fast", SWIN_INT8_MODE_3);
        print_message("%s: none %.2f dB, fast %.2f dB\n", k->name, a, b);
        plain += a;
        fast += b;
        count++;
    }
    print_message("all: none %.2f dB (%.2f without outliers), fast %.2f dB (%.2f)\n", plain / count,
                  was_plain, fast / count, was_fast);
    CHECK(plain / count < was_plain - 6, "the outliers do no harm: %.2f and %.2f dB", was_plain,
          plain / count);
    CHECK(fast / count > was_fast - 1, "fast does not undo them: %.2f and %.2f dB", was_fast, fast / count);
    swin_weights_free(&original);
    recovering_teardown(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_same_network), cmocka_unit_test(test_fast) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
