/* Accuracy sums, report forms and limits against hand-worked cases. */
#include <jansson.h>
#include <math.h>

#include "runtime/swin/accuracy.h"
#include "runtime/swin/eval_report.h"
#include "tests/support/testing.h"

#define CLASSES 7

static void test_ties_go_to_the_lowest_index(void **state)
{
    (void)state;
    const float tied[CLASSES] = { 0, 3, 3, 3, 1, 1, 1 };
    CHECK(swin_top1(tied, CLASSES) == 1, "top-1 is %d", swin_top1(tied, CLASSES));
    /* Ranks: 1, 2, 3, then 4, 5, 6, then 0. */
    const int label[] = { 1, 2, 5, 6, 0 };
    const uint64_t top1[] = { 1, 0, 0, 0, 0 }, top5[] = { 1, 1, 1, 0, 0 };
    for (int i = 0; i < 5; i++) {
        swin_accuracy a = { 0 };
        swin_accuracy_add(&a, tied, NULL, &label[i], 1, CLASSES);
        CHECK(a.top1 == top1[i] && a.top5 == top5[i], "label %d: top-1 %d, top-5 %d", label[i], (int)a.top1,
              (int)a.top5);
    }
    const float same[CLASSES] = { 0 };
    CHECK(swin_top1(same, CLASSES) == 0, "all equal: %d", swin_top1(same, CLASSES));
    const float zeros[2] = { -0.0f, 0.0f };
    CHECK(swin_top1(zeros, 2) == 0, "zeros of both signs are equal");
}

static void test_definitions(void **state)
{
    (void)state;
    const float ref[4 * 3] = { 1, 2, 3, 3, 2, 1, 0, 5, 0, 1, 1, 0 };
    const float got[4 * 3] = { 1, 2, 4, 1, 2, 3, 0, 5, 0, 0, 1, 0 };
    const int labels[4] = { 2, 0, 0, 1 };
    swin_accuracy r = { 0 }, a = { 0 };
    swin_accuracy_add(&r, ref, NULL, labels, 4, 3);
    swin_accuracy_add(&a, got, ref, labels, 4, 3);
    CHECK(r.top1 == 2 && a.top1 == 2 && a.top5 == 4 && a.images == 4, "%d %d %d", (int)r.top1, (int)a.top1,
          (int)a.top5);
    CHECK(swin_accuracy_agreement(&a) == 50, "agreement %g", swin_accuracy_agreement(&a));
    CHECK(swin_accuracy_agreement(&r) == 100, "the reference agrees with itself: %g",
          swin_accuracy_agreement(&r));
    /* signal 14 + 14 + 25 + 2 = 55; noise 1 + 8 + 0 + 1 = 10 */
    CHECK(a.signal == 55 && a.noise == 10, "sums %g %g", a.signal, a.noise);
    CHECK(fabs(swin_accuracy_sqnr(&a) - 10 * log10(5.5)) < 1e-12, "sqnr %g", swin_accuracy_sqnr(&a));
    CHECK(isinf(swin_accuracy_sqnr(&r)), "no error: %g", swin_accuracy_sqnr(&r));
    CHECK(isnan(swin_sqnr_of(0, 0)) && isinf(swin_sqnr_of(1, 0)) && isnan(swin_sqnr_of(INFINITY, 1)),
          "edge ratios");
    CHECK(swin_sqnr_of(0, 1) == -INFINITY, "a zero reference: %g", swin_sqnr_of(0, 1));
    CHECK(isnan(swin_accuracy_top1(&(swin_accuracy){ 0 })), "no images, no percentage");
}

static void test_bad_logits_are_never_ranked(void **state)
{
    (void)state;
    const float bad[] = { NAN, INFINITY, -INFINITY };
    for (int b = 0; b < 3; b++) {
        const float ref[2 * 3] = { 9, 1, 1, 1, 9, 1 };
        float got[2 * 3] = { 9, 1, 1, 1, 9, 1 };
        const int labels[2] = { 0, 1 };
        got[2] = bad[b]; /* the label's own logit stays the largest finite one */
        swin_accuracy a = { 0 };
        swin_accuracy_add(&a, got, ref, labels, 2, 3);
        CHECK(a.images == 2 && a.nonfinite == 1 && a.top1 == 1 && a.top5 == 1 && a.agree == 1,
              "case %d: %d %d %d %d", b, (int)a.nonfinite, (int)a.top1, (int)a.top5, (int)a.agree);
        CHECK(isnan(swin_accuracy_sqnr(&a)), "case %d: SQNR %g", b, swin_accuracy_sqnr(&a));
        swin_accuracy back = { 0 };
        swin_accuracy_add(&back, ref, got, labels, 2, 3); /* the reference is the bad one */
        CHECK(back.nonfinite == 0 && back.unreferenced == 1 && back.top1 == 2 && back.agree == 1, "case %d",
              b);
        CHECK(isnan(swin_accuracy_sqnr(&back)), "case %d: SQNR %g", b, swin_accuracy_sqnr(&back));
    }
}

/* Any split of the images gives the same bits, and ranks are those of a sort. */
static void test_split_and_sort(void **state)
{
    (void)state;
    enum { IMAGES = 101, K = 23 };
    static float ref[IMAGES * K], got[IMAGES * K];
    int labels[IMAGES];
    const unsigned seed = 20;
    swin_rng r = { .state = seed };
    for (size_t i = 0; i < IMAGES * K; i++) { /* coarse values, so that ties are many */
        ref[i] = (float)swin_rng_below(&r, 9) - 4;
        got[i] = ref[i] + 0.25f * ((float)swin_rng_below(&r, 3) - 1);
    }
    uint64_t top1 = 0, top5 = 0;
    for (int i = 0; i < IMAGES; i++) {
        const float *x = got + (size_t)i * K;
        labels[i] = (int)swin_rng_below(&r, K);
        bool taken[K] = { false };
        for (int place = 0; place < 5; place++) { /* pick the best five in turn */
            int best = -1;
            for (int k = 0; k < K; k++)
                if (!taken[k] && (best < 0 || x[k] > x[best])) best = k;
            taken[best] = true;
            top1 += place == 0 && best == labels[i];
            top5 += best == labels[i];
        }
    }
    swin_accuracy whole = { 0 };
    swin_accuracy_add(&whole, got, ref, labels, IMAGES, K);
    CHECK(whole.top1 == top1 && whole.top5 == top5 && top5 > top1, "seed %u: %d %d, by sorting %d %d", seed,
          (int)whole.top1, (int)whole.top5, (int)top1, (int)top5);
    const int steps[] = { 1, 7, 64 };
    for (size_t s = 0; s < 3; s++) {
        swin_accuracy parts = { 0 };
        for (int at = 0; at < IMAGES; at += steps[s]) {
            const int n = IMAGES - at < steps[s] ? IMAGES - at : steps[s];
            swin_accuracy_add(&parts, got + (size_t)at * K, ref + (size_t)at * K, labels + at, n, K);
        }
        CHECK(memcmp(&parts, &whole, sizeof whole) == 0, "batches of %d: noise %.17g, whole %.17g", steps[s],
              parts.noise, whole.noise);
    }
}

/* ---- reports --------------------------------------------------------------------------------- */

static swin_eval_report sample(const swin_config *c)
{
    static const swin_eval_skipped skipped[] = { { "a/\"b\".JPEG", "truncated <file> & more" } };
    return (swin_eval_report){
        .config = c,
        .checkpoint_sha256 = "c0ffee",
        .engine = "cpu, \"test\"",
        .preprocess = "bicubic",
        .split = "val",
        .image_list_sha256 = "1157",
        .images = 1000,
        .nrows = 3,
        .skipped = skipped,
        .nskipped = 1,
        .rows = { { .precision = "fp32",
                    .listed = true,
                    .acc = { .images = 1000, .top1 = 811, .top5 = 950, .agree = 1000, .signal = 1 } },
                  { .precision = "fp16",
                    .listed = true,
                    .emulated = true,
                    .acc = { .images = 1000,
                             .top1 = 812,
                             .top5 = 950,
                             .agree = 999,
                             .signal = 1e6,
                             .noise = 1 } },
                  { .precision = "int8-sim",
                    .listed = true,
                    .emulated = true,
                    .acc = { .images = 1000,
                             .top1 = 805,
                             .top5 = 951,
                             .agree = 970,
                             .signal = 1e3,
                             .noise = 1 } } },
    };
}

static void test_json(void **state)
{
    (void)state;
    swin_config c = swin_config_default();
    snprintf(c.name, sizeof c.name, "demo \"quoted\"");
    const swin_eval_report r = sample(&c);
    char *text = swin_eval_report_json(&r);
    json_t *root = json_loads(text, 0, NULL),
           *int8 = json_object_get(json_object_get(root, "results"), "int8-sim");
    CHECK(root && int8, "%s", text);
    CHECK(json_number_value(json_object_get(int8, "top1")) == 80.5, "top1 in %s", text);
    CHECK(json_number_value(json_object_get(int8, "top5")) == 95.1, "top5 in %s", text);
    CHECK(json_number_value(json_object_get(int8, "top1_drop")) == 0.7, "drop in %s", text);
    CHECK(json_number_value(json_object_get(int8, "agreement")) == 97, "agreement in %s", text);
    CHECK(fabs(json_number_value(json_object_get(int8, "sqnr_db")) - 30) < 1e-9, "sqnr in %s", text);
    CHECK(json_integer_value(json_object_get(int8, "images")) == 1000, "images in %s", text);
    json_t *fp32 = json_object_get(json_object_get(root, "results"), "fp32");
    CHECK(json_is_null(json_object_get(fp32, "sqnr_db")), "fp32 against itself is null: %s", text);
    CHECK(json_is_true(json_object_get(int8, "emulated")) && json_is_false(json_object_get(fp32, "emulated")),
          "%s", text);
    CHECK(json_is_null(json_object_get(root, "calibration")), "%s", text);
    json_decref(root);
    free(text);
}

/* A form's text; the caller frees it. */
static char *form(void (*write)(const swin_eval_report *, FILE *), const swin_eval_report *r)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    write(r, out);
    fclose(out);
    return text;
}

static void test_text_forms(void **state)
{
    (void)state;
    const swin_config c = swin_config_default();
    const swin_eval_report r = sample(&c);
    char *text = form(swin_eval_report_text, &r), *csv = form(swin_eval_report_csv, &r),
         *html = form(swin_eval_report_html, &r);
    CHECK(strstr(text, "80.50 (-0.70)") && strstr(text, "95.10 (+0.10)"), "published form: %s", text);
    CHECK(strstr(text, "fp16*") && strstr(text, "* emulated"), "emulation is labelled: %s", text);
    CHECK(strstr(text, "truncated <file>"), "broken images are named: %s", text);
    CHECK(strstr(csv, "int8-sim,yes,1000,80.5,95.1,0.7,-0.1,97,30,0,"), "%s", csv);
    CHECK(strstr(csv, "fp32,no,1000,81.1,95,0.1,0,100,,0,"), "%s", csv);
    CHECK(strstr(csv, "\"cpu, \"\"test\"\"\""), "quotes are doubled: %s", csv);
    CHECK(strstr(html, "truncated &lt;file&gt; &amp; more") && !strstr(html, "<file>"), "%s", html);
    CHECK(strstr(html, "int8-sim (emulated)"), "%s", html);
    free(text);
    free(csv);
    free(html);
}

static void test_limits(void **state)
{
    (void)state;
    const swin_config c = swin_config_default();
    swin_eval_report r = sample(&c);
    CHECK_OK(swin_eval_report_judge(&r, 100, 0));
    CHECK_OK(swin_eval_report_judge(&r, 0.7, 97)); /* a limit that is just met */
    CHECK_FAILS(swin_eval_report_judge(&r, 0.6, 0), SWIN_ERR_LIMIT,
                "--max-drop 0.6: int8-sim lost 0.7 points");
    CHECK_FAILS(swin_eval_report_judge(&r, 100, 97.1), SWIN_ERR_LIMIT,
                "--min-agreement 97.1: int8-sim agrees on 97 percent");
    CHECK_FAILS(swin_eval_report_judge(&r, 0, 100), SWIN_ERR_LIMIT, "fp16 agrees on 99.9");
    r.rows[2].listed = false; /* it ran, but nobody asked about it */
    CHECK_OK(swin_eval_report_judge(&r, 0, 99));
    r.rows[2].acc.nonfinite = 3;
    CHECK_FAILS(swin_eval_report_judge(&r, 100, 0), SWIN_ERR_VALUE, "int8-sim: logits of 3 of 1000 images");
}

static void test_report_names(void **state)
{
    (void)state;
    const swin_config c = swin_config_default();
    const swin_eval_report r = sample(&c);
    const char *const bad[] = { "report", "report.txt", ".json", "report.json.gz", "" };
    for (size_t i = 0; i < SWIN_COUNT(bad); i++)
        CHECK_FAILS(swin_eval_report_write(&r, bad[i]), SWIN_ERR_USAGE, "must end in");
    CHECK_FAILS(swin_eval_report_write(&r, "/nowhere/at/all/r.csv"), SWIN_ERR_IO, "/nowhere/at/all/r.csv");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ties_go_to_the_lowest_index),
        cmocka_unit_test(test_definitions),
        cmocka_unit_test(test_bad_logits_are_never_ranked),
        cmocka_unit_test(test_split_and_sort),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_text_forms),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_report_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
