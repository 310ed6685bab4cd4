/* Loops compiled for two instruction sets give the same bits. */
#include "runtime/base/wide.h"

#include "runtime/base/rng.h"
#include "tests/support/testing.h"

static SWIN_WIDE_BODY void mixed_body(float *restrict sum, const float *restrict x, int n, float low,
                                      float high)
{
    for (int i = 0; i < n; i++) {
        float v = x[i] * 1.7f + sum[i];
        v = v > low ? v : low;
        v = v < high ? v : high;
        sum[i] += v / 0.3f - x[i] * v;
    }
}
SWIN_WIDE(mixed, (float *sum, const float *x, int n, float low, float high), (sum, x, n, low, high))

static void test_same_bits(void **state)
{
    (void)state;
    enum { N = 1003, SEED = 5 };
    float x[N], a[N], b[N];
    swin_rng rng = { SEED };
    for (int n = 1; n <= N; n += 167) {
        swin_fill_normal(&rng, x, N, 1);
        swin_fill_normal(&rng, a, N, 1);
        memcpy(b, a, sizeof a);
        for (int t = 0; t < 3; t++) {
            mixed(a, x, n, swin_opaque(-0.8f), swin_opaque(0.9f));
            mixed_body(b, x, n, -0.8f, 0.9f);
        }
        CHECK(memcmp(a, b, sizeof a) == 0, "%d values, seed %d: other bits", n, SEED);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_same_bits) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
