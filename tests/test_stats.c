/* Statistics: the compat histogram against its definition, and what sites see whatever the split into batches. */
#include "tests/support/testing.h"

#include <math.h>

#include "calib/abs_hist.h"
#include "calib/stats.h"
#include "quant/linear_weight.h"
#include "tests/support/tiny.h"

static swin_dev *open_cpu(int threads)
{
    swin_dev *dev;
    CHECK_OK(swin_dev_open(&dev, "cpu", &(swin_dev_opts){ .threads = threads }));
    return dev;
}

/* ---- compat ---------------------------------------------------------------------------------------------------- */

/* The definition, element by element; grows like the reference does. */
typedef struct literal {
    double width;
    int bins;
    uint64_t *hist;
} literal;

static void literal_add(literal *l, const float *x, int rows, int cols, int ld)
{
    float amax = 0;
    for (int i = 0; i < rows * cols; i++) {
        const float v = fabsf(x[i / cols * ld + i % cols]);
        if (isfinite(v)) amax = fmaxf(amax, v);
    }
    if (l->width == 0) l->width = fmax((double)amax, 1e-30) / 2048;
    const int need = (int)fmax(ceil((double)amax / l->width), 2048);
    if (need > l->bins) {
        l->hist = realloc(l->hist, (size_t)need * sizeof *l->hist);
        for (; l->bins < need; l->bins++) l->hist[l->bins] = 0;
    }
    for (int i = 0; i < rows * cols; i++) {
        const float v = fabsf(x[i / cols * ld + i % cols]);
        if (!isfinite(v)) continue;
        const int at = (int)(v / (float)l->width);
        l->hist[at < l->bins ? at : l->bins - 1]++;
    }
}

static void test_compat(void **state)
{
    (void)state;
    static const struct {
        int rows, cols, ld;
        double sd;
    } tensors[] = {
        { 100, 96, 96, 1 }, { 3, 5, 7, 0.5 }, { 700, 96, 288, 1.7 }, { 1, 1, 1, 9 }, { 2, 700000, 700001, 2 }
    };
    for (int threads = 1; threads <= 4; threads *= 2) {
        const unsigned seed = 11;
        swin_rng r = { seed };
        swin_dev *dev = open_cpu(threads);
        swin_abs_scratch *scratch;
        CHECK_OK(swin_abs_scratch_create(&scratch, threads));
        swin_abs_counts c = { 0 };
        literal l = { 0 };
        uint64_t seen = 0;
        for (size_t t = 0; t < SWIN_COUNT(tensors); t++) {
            const int rows = tensors[t].rows, cols = tensors[t].cols, ld = tensors[t].ld;
            const size_t n = (size_t)rows * (size_t)ld;
            float *x = malloc(n * sizeof *x);
            swin_fill_normal(&r, x, n, tensors[t].sd);
            if (t == 2) x[0] = NAN, x[95] = INFINITY, x[288] = -INFINITY; /* counted, and nothing else */
            literal_add(&l, x, rows, cols, ld);
            void *copy;
            CHECK_OK(dev->ops->alloc(dev, &copy, n * sizeof *x));
            CHECK_OK(dev->ops->upload(dev, copy, x, n * sizeof *x));
            swin_tensor view = swin_matrix(copy, SWIN_F32, rows, cols);
            view.ld = ld;
            CHECK_OK(swin_abs_counts_add(&c, scratch, dev, &view));
            dev->ops->free(dev, copy);
            free(x);
            seen += (uint64_t)rows * (uint64_t)cols;
        }
        CHECK(c.count == seen && c.nonfinite == 3, "%llu seen, %llu not finite", (unsigned long long)c.count,
              (unsigned long long)c.nonfinite);
        CHECK(c.bins == l.bins && c.width == l.width, "%d bins of %g, literally %d of %g", c.bins, c.width,
              l.bins, l.width);
        CHECK(memcmp(c.hist, l.hist, (size_t)c.bins * sizeof *c.hist) == 0,
              "threads %d, seed %u: counts differ", threads, seed);
        free(c.hist);
        free(l.hist);
        swin_abs_scratch_free(scratch);
        swin_dev_close(dev);
    }
}

static swin_status add_one(swin_abs_counts *c, swin_abs_scratch *s, swin_dev *dev, float v)
{
    const swin_tensor x = swin_matrix(&v, SWIN_F32, 1, 1);
    return swin_abs_counts_add(c, s, dev, &x);
}

static void test_compat_edges(void **state)
{
    (void)state;
    swin_dev *dev = open_cpu(1);
    swin_abs_scratch *s;
    CHECK_OK(swin_abs_scratch_create(&s, 1));
    swin_abs_counts c = { 0 };
    CHECK_OK(add_one(&c, s, dev, NAN));
    CHECK(c.count == 1 && c.nonfinite == 1 && c.bins == 0, "%d bins after a NaN", c.bins);
    CHECK_OK(add_one(&c, s, dev, -2));
    CHECK(c.min == -2 && c.max == -2 && c.width == 2.0 / 2048, "[%g, %g]", (double)c.min, (double)c.max);
    CHECK_OK(add_one(&c, s, dev, 3));
    CHECK(c.min == -2 && c.max == 3 && c.bins == 3072 && c.count == 3, "[%g, %g]", (double)c.min,
          (double)c.max);
    CHECK_FAILS(add_one(&c, s, dev, 1e9f), SWIN_ERR_VALUE, "--histogram exact");
    free(c.hist);
    c = (swin_abs_counts){ 0 };
    CHECK_OK(add_one(&c, s, dev, 0));
    CHECK(c.bins == 2048 && c.hist[0] == 1 && c.min == 0 && c.max == 0, "a zero");
    free(c.hist);
    swin_abs_scratch_free(s);
    swin_dev_close(dev);
}

/* ---- sites of a network ---------------------------------------------------------------------------------------- */

/* How sites come to be seen: by observers inside of operators, by the tap alone, or by turns. */
typedef enum looking { FUSED, TAPPED, MIXED } looking;

static swin_observer *every_other(void *user, swin_site site)
{
    return swin_site_kind_of(site) % 2 ? swin_stats_tap(user).observer(user, site) : NULL;
}

static swin_stats *observe_net(swin_dev *dev, const swin_config *config, const swin_weights *w,
                               const float *images, int count, int batch, swin_hist_kind kind, looking how)
{
    const swin_config c = *config;
    const swin_net_opts opts = { .dtype = SWIN_F32, .chunk = kind == SWIN_HIST_COMPAT ? batch : 0 };
    const size_t per_image = 3 * (size_t)c.image_size * (size_t)c.image_size;
    swin_net *net;
    swin_stats *s;
    float logits[64];
    CHECK_OK(swin_net_create(&net, dev, &c, w, &opts));
    CHECK_OK(swin_stats_create(&s, dev, &c, kind));
    swin_tap tap = swin_stats_tap(s);
    if (how != FUSED) tap.observer = how == MIXED ? every_other : NULL;
    for (int at = 0; at < count; at += batch) {
        const int n = count - at < batch ? count - at : batch;
        CHECK_OK(swin_net_forward(net, images + (size_t)at * per_image, n, logits, &tap));
    }
    CHECK_OK(swin_stats_weights(s, w));
    swin_net_free(net);
    return s;
}

static swin_stats *observe(swin_dev *dev, const swin_weights *w, const float *images, int count, int batch,
                           swin_hist_kind kind)
{
    const swin_config c = swin_tiny_config();
    return observe_net(dev, &c, w, images, count, batch, kind, FUSED);
}

static void check_equal_net(const swin_config *c, swin_stats *a, swin_stats *b, const char *what)
{
    for (int i = 0; i < swin_site_count(c); i++) {
        swin_site_stats x, y;
        char name[SWIN_SITE_NAME_MAX];
        swin_site_name(swin_site_at(c, i), name);
        CHECK_OK(swin_stats_read(a, i, &x));
        CHECK_OK(swin_stats_read(b, i, &y));
        CHECK(x.count == y.count && x.min == y.min && x.max == y.max && x.bin_width == y.bin_width &&
                  x.bins == y.bins,
              "%s: %s: %llu in [%g, %g], %llu in [%g, %g]", what, name, (unsigned long long)x.count,
              (double)x.min, (double)x.max, (unsigned long long)y.count, (double)y.min, (double)y.max);
        CHECK(memcmp(x.hist, y.hist, (size_t)x.bins * sizeof *x.hist) == 0, "%s: histogram of %s", what,
              name);
        free(x.hist);
        free(y.hist);
    }
}

static void check_equal(swin_stats *a, swin_stats *b, const char *what)
{
    const swin_config c = swin_tiny_config();
    check_equal_net(&c, a, b, what);
}

/* Operators that feed observers and a tap that looks at whole tensors see the same, in V1 and V2. */
static void test_looking(void **state)
{
    (void)state;
    enum { IMAGES = 3 };
    for (int family = SWIN_V1; family <= SWIN_V2; family++) {
        swin_config c = swin_tiny_config();
        c.family = (swin_family)family;
        c.embed_dim = 48, c.heads[0] = 2, c.heads[1] = 4;
        const size_t n = (size_t)IMAGES * 3 * (size_t)c.image_size * (size_t)c.image_size;
        float *images = malloc(n * sizeof *images);
        swin_rng r = { 23 };
        swin_weights w;
        swin_fill_normal(&r, images, n, 1);
        CHECK_OK(swin_tiny_weights_of(&w, &c, 5));
        swin_dev *dev = open_cpu(2);
        swin_stats *s[3];
        for (int how = FUSED; how <= MIXED; how++)
            s[how] = observe_net(dev, &c, &w, images, IMAGES, 2, SWIN_HIST_EXACT, (looking)how);
        check_equal_net(&c, s[FUSED], s[TAPPED], family == SWIN_V1 ? "V1, tap" : "V2, tap");
        check_equal_net(&c, s[MIXED], s[TAPPED], family == SWIN_V1 ? "V1, mixed" : "V2, mixed");
        for (int how = FUSED; how <= MIXED; how++) swin_stats_free(s[how]);
        swin_dev_close(dev);
        swin_weights_free(&w);
        free(images);
    }
}

static void test_split(void **state)
{
    (void)state;
    enum { IMAGES = 7 };
    const swin_config c = swin_tiny_config();
    const size_t n = (size_t)IMAGES * 3 * (size_t)c.image_size * (size_t)c.image_size;
    float *images = malloc(n * sizeof *images);
    swin_rng r = { 21 };
    swin_weights w;
    swin_fill_normal(&r, images, n, 1);
    CHECK_OK(swin_tiny_weights(&w, 3));
    swin_dev *one = open_cpu(1), *two = open_cpu(2);
    swin_stats *whole = observe(one, &w, images, IMAGES, IMAGES, SWIN_HIST_EXACT);
    for (int batch = 1; batch <= 3; batch++) {
        swin_stats *s = observe(two, &w, images, IMAGES, batch, SWIN_HIST_EXACT);
        check_equal(whole, s, "exact, other batches");
        swin_stats_free(s);
    }
    swin_stats_free(whole);
    swin_stats *a = observe(one, &w, images, IMAGES, 3, SWIN_HIST_COMPAT);
    swin_stats *b = observe(two, &w, images, IMAGES, 3, SWIN_HIST_COMPAT);
    check_equal(a, b, "compat, other threads");
    swin_stats_free(a);
    swin_stats_free(b);
    swin_dev_close(one);
    swin_dev_close(two);
    swin_weights_free(&w);
    free(images);
}

/* Every site sees every element of its tensor: counts from the shapes, and the weights' own numbers. */
static void test_counts(void **state)
{
    (void)state;
    enum { IMAGES = 2 };
    const swin_config c = swin_tiny_config();
    const size_t n = (size_t)IMAGES * 3 * (size_t)c.image_size * (size_t)c.image_size;
    float *images = malloc(n * sizeof *images);
    swin_rng r = { 22 };
    swin_weights w;
    swin_fill_normal(&r, images, n, 1);
    CHECK_OK(swin_tiny_weights(&w, 4));
    swin_dev *dev = open_cpu(2);
    swin_stats *s = observe(dev, &w, images, IMAGES, IMAGES, SWIN_HIST_EXACT);
    for (int i = 0; i < swin_site_count(&c); i++) {
        const swin_site site = swin_site_at(&c, i);
        const swin_stage g = swin_config_stage(&c, swin_site_stage(site));
        const uint64_t tokens = (uint64_t)IMAGES * (uint64_t)g.resolution * (uint64_t)g.resolution;
        const uint64_t map = tokens * (uint64_t)g.channels,
                       scores = tokens * (uint64_t)(g.heads * g.window * g.window);
        swin_linear_weight l;
        uint64_t want = map;
        switch (swin_site_kind_of(site)) {
        case SWIN_SITE_QKV_AFTERGEMM:
            want = 3 * map;
            break;
        case SWIN_SITE_SOFTMAX_INPUT:
        case SWIN_SITE_MATMUL_A:
            want = scores;
            break;
        case SWIN_SITE_FC1_AFTERGEMM:
        case SWIN_SITE_FC2_INPUT:
            want = tokens * (uint64_t)g.hidden;
            break;
        case SWIN_SITE_REDUCTION_INPUT:
            want = map;
            break;
        case SWIN_SITE_REDUCTION_AFTERGEMM:
            want = map / 2;
            break;
        default:
            break;
        }
        swin_site_stats seen;
        char name[SWIN_SITE_NAME_MAX];
        swin_site_name(site, name);
        CHECK_OK(swin_stats_read(s, i, &seen));
        if (swin_site_role_of(site) == SWIN_ROLE_WEIGHT) {
            CHECK_OK(swin_linear_weight_of(&l, &c, &w, site));
            want = (uint64_t)l.out * (uint64_t)l.in;
            float max = l.data[0];
            for (uint64_t k = 0; k < want; k++) max = fmaxf(max, l.data[k]);
            CHECK(seen.max == max, "%s: max %g, not %g", name, (double)seen.max, (double)max);
        }
        uint64_t total = 0;
        for (int b = 0; b < seen.bins; b++) total += seen.hist[b];
        CHECK(seen.count == want && total == want && seen.nonfinite == 0,
              "%s: %llu seen, %llu binned, %llu expected", name, (unsigned long long)seen.count,
              (unsigned long long)total, (unsigned long long)want);
        if (swin_site_role_of(site) == SWIN_ROLE_SOFTMAX)
            CHECK(seen.min >= 0 && seen.max <= 1, "%s: [%g, %g]", name, (double)seen.min, (double)seen.max);
        free(seen.hist);
    }
    swin_stats_free(s);
    swin_dev_close(dev);
    swin_weights_free(&w);
    free(images);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_compat), cmocka_unit_test(test_compat_edges), cmocka_unit_test(test_looking),
        cmocka_unit_test(test_split),  cmocka_unit_test(test_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
