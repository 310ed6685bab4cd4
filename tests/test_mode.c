/* Which sites a mode quantizes, and how a range becomes scale, zero point and codes. */
#include "tests/support/testing.h"

#include <float.h>
#include <math.h>

#include "quant/mode.h"

static void test_counts(void **state)
{
    (void)state;
    /* Swin-T, weights included: reference/swin.md 4.1 for modes 1 and 2; mode 3 drops every _aftergemm (51) of mode 1. */
    static const int want[] = { 201, 186, 150 };
    const swin_config c = swin_config_default();
    CHECK(swin_site_count(&c) == 285, "%d sites", swin_site_count(&c));
    for (int mode = 1; mode <= 3; mode++) {
        int on = 0;
        for (int i = 0; i < swin_site_count(&c); i++)
            on += swin_mode_enabled((swin_int8_mode)mode, c.family, swin_site_at(&c, i));
        CHECK(on == want[mode - 1], "mode %d: %d sites, not %d", mode, on, want[mode - 1]);
    }
}

static void test_symmetric(void **state)
{
    (void)state;
    const swin_config c = swin_config_default();
    for (int mode = 1; mode <= 3; mode++)
        for (int i = 0; i < swin_site_count(&c); i++) {
            const swin_site s = swin_site_at(&c, i);
            const swin_site_role role = swin_site_role_of(s);
            if (mode == 3 && (role == SWIN_ROLE_GELU || role == SWIN_ROLE_SOFTMAX)) continue;
            swin_quant q;
            CHECK_OK(swin_quant_derive(&q, (swin_int8_mode)mode, s, 2.54f, -9, 9));
            CHECK(q.scale == 2.54f / 127 && q.zero_point == 0 && q.qmin == -127 && q.qmax == 127,
                  "mode %d site %d: scale %g, zero %d, [%d, %d]", mode, i, (double)q.scale, q.zero_point,
                  q.qmin, q.qmax);
        }
}

static void test_gelu(void **state)
{
    (void)state;
    const swin_site s = swin_site_make(1, 0, SWIN_SITE_FC2_INPUT);
    static const struct {
        float amax, min, max;
        double lo, hi; /* what must be representable to half a step */
    } cases[] = {
        { 5, -0.17f, 7, -0.17, 5 },
        { 5, -0.17f, 3, -0.17, 3 },
        { 0.1f, -0.17f, 3, -0.1, 0.1 },
        { 5, 0.5f, 3, 0, 3 },
        { 5, -3, -1, -3, 0 },
        { 1e-5f, -1e-6f, 1, -1e-6, 1e-5 },
        { 3e4f, -0.17f, 1e9f, -0.17, 3e4 },
    };
    for (size_t i = 0; i < SWIN_COUNT(cases); i++) {
        swin_quant q;
        CHECK_OK(swin_quant_derive(&q, SWIN_INT8_MODE_3, s, cases[i].amax, cases[i].min, cases[i].max));
        const double step = (double)q.scale, lo = (q.qmin - q.zero_point) * step,
                     hi = (q.qmax - q.zero_point) * step;
        CHECK(q.qmin == -128 && q.qmax == 127, "codes [%d, %d]", q.qmin, q.qmax);
        CHECK(q.zero_point >= -128 && q.zero_point <= 127, "zero point %d", q.zero_point);
        CHECK(fabs(lo - cases[i].lo) <= 0.501 * step && fabs(hi - cases[i].hi) <= 0.501 * step,
              "case %zu: codes reach [%g, %g] for [%g, %g]", i, lo, hi, cases[i].lo, cases[i].hi);
        CHECK(fabs(step * 255 - (cases[i].hi - cases[i].lo)) <= 1e-6 * step * 255, "case %zu: step %g", i,
              step);
    }
    swin_quant q;
    CHECK_FAILS(swin_quant_derive(&q, SWIN_INT8_MODE_3, s, 1, NAN, 1), SWIN_ERR_VALUE,
                "layers.1.blocks.0.mlp.fc2._input");
    CHECK_FAILS(swin_quant_derive(&q, SWIN_INT8_MODE_3, s, 1, 2, 1), SWIN_ERR_VALUE, "observed range");
    CHECK_FAILS(swin_quant_derive(&q, SWIN_INT8_MODE_3, s, 1, 0, 0), SWIN_ERR_VALUE, "zero");
}

static void test_softmax(void **state)
{
    (void)state;
    swin_quant q;
    const swin_site s = swin_site_make(0, 1, SWIN_SITE_MATMUL_A);
    CHECK_OK(swin_quant_derive(&q, SWIN_INT8_MODE_3, s, 0.4f, 0, 0.5f));
    CHECK(q.scale == 1.0f / 255 && q.zero_point == 0 && q.qmin == 0 && q.qmax == 255, "scale %g",
          (double)q.scale);
}

static void test_refusals(void **state)
{
    (void)state;
    static const float bad[] = { 0, -0.0f, -1, NAN, INFINITY, -INFINITY, FLT_MIN, 1e-40f };
    const swin_site sites[] = { swin_site_make(2, 5, SWIN_SITE_QKV_INPUT),
                                swin_site_make(2, 5, SWIN_SITE_FC2_INPUT),
                                swin_site_make(2, 5, SWIN_SITE_MATMUL_A) };
    for (int mode = 1; mode <= 3; mode++)
        for (size_t s = 0; s < SWIN_COUNT(sites); s++)
            for (size_t i = 0; i < SWIN_COUNT(bad); i++) {
                swin_quant q;
                CHECK_FAILS(swin_quant_derive(&q, (swin_int8_mode)mode, sites[s], bad[i], -1, 1),
                            SWIN_ERR_VALUE, "layers.2.blocks.5.");
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),  cmocka_unit_test(test_symmetric), cmocka_unit_test(test_gelu),
        cmocka_unit_test(test_softmax), cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
