/* --int8-mode auto: units and their cost, what measuring them finds, and the choice, on networks of a few thousand weights. */
#include "tests/support/testing.h"

#include <math.h>
#include <unistd.h>

#include "calib/run.h"
#include "quant/plan.h"
#include "quant/sensitivity.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/swin/accuracy.h"
#include "runtime/swin/outputs.h"
#include "tests/support/calib_set.h"
#include "tests/support/ranges.h"
#include "tests/support/tiny.h"

enum { IMAGES = 3, CLASSES = 5 };

typedef struct model {
    swin_config config;
    swin_weights weights;
    swin_dev *dev;
    float *images, fp32[IMAGES * CLASSES];
    swin_calib_file f;
} model;

static void model_open(model *m, swin_family family, swin_int8_mode mode)
{
    *m = (model){ .config = swin_tiny_config() };
    m->config.family = family;
    const size_t n = (size_t)IMAGES * 3 * (size_t)m->config.image_size * (size_t)m->config.image_size;
    swin_rng r = { 41 };
    swin_net *net;
    m->images = malloc(n * sizeof *m->images);
    swin_fill_normal(&r, m->images, n, 1);
    CHECK_OK(swin_dev_open(&m->dev, "cpu", &(swin_dev_opts){ .threads = 2 }));
    CHECK_OK(swin_tiny_weights_of(&m->weights, &m->config, 6));
    CHECK_OK(swin_ranges_of(&m->f, m->dev, &m->config, &m->weights, m->images, IMAGES, mode));
    CHECK_OK(swin_net_create(&net, m->dev, &m->config, &m->weights, &(swin_net_opts){ .dtype = SWIN_F32 }));
    CHECK_OK(swin_net_forward(net, m->images, IMAGES, m->fp32, NULL));
    swin_net_free(net);
}

static void model_close(model *m)
{
    swin_calib_file_free(&m->f);
    swin_weights_free(&m->weights);
    swin_dev_close(m->dev);
    free(m->images);
}

/* ---- units -------------------------------------------------------------------------------------------------------- */

static const swin_relax_unit *unit_named(const swin_relax_unit *u, int count, const char *name)
{
    for (int i = 0; i < count; i++)
        if (strcmp(u[i].name, name) == 0) return &u[i];
    return NULL;
}

/* Every enabled site's error is some unit's own exactly once; units come in the network's order, with names of their own. */
static void check_units(const model *m, const swin_relax_unit *u, int count)
{
    int own[1024] = { 0 };
    for (int i = 0; i < count; i++) {
        CHECK(u[i].part >= (i ? u[i - 1].part : 1), "%s comes too late", u[i].name);
        CHECK(unit_named(u, count, u[i].name) == &u[i], "%s twice", u[i].name);
        CHECK(u[i].own >= 1 && u[i].own <= u[i].count, "%s: %d of %d sites", u[i].name, u[i].own, u[i].count);
        for (int k = 0; k < u[i].own; k++) own[swin_site_index(&m->config, u[i].sites[k])]++;
    }
    for (int i = 0; i < m->f.nsites; i++) {
        char name[SWIN_SITE_NAME_MAX];
        swin_site_name(m->f.sites[i].site, name);
        CHECK(own[i] == (m->f.sites[i].enabled ? 1 : 0), "mode %d: %s belongs to %d units", (int)m->f.mode,
              name, own[i]);
    }
}

static void test_units(void **state)
{
    (void)state;
    for (int family = SWIN_V1; family <= SWIN_V2; family++)
        for (int mode = 1; mode <= 3; mode++) {
            model m;
            swin_relax_unit *u;
            int count;
            model_open(&m, (swin_family)family, (swin_int8_mode)mode);
            CHECK_OK(swin_relax_units(&u, &count, &m.f));
            check_units(&m, u, count);
            const int gemms = 3 * 4 + 1, rounded = mode == 1 ? gemms : mode == 2 ? gemms - 4 : 0;
            CHECK(count == gemms + 3 + rounded, "V%d mode %d: %d units", family + 1, mode, count);
            free(u);
            model_close(&m);
        }
}

/* Counted by hand: 14 x 14 tokens of 32 channels, then 7 x 7 of 64. */
static void test_cost(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        uint64_t bytes, ops;
    } want[] = {
        { "layers.0.blocks.0.attn.qkv", 196 * 32 + 96 * 32, 2 * 196 * 96 * 32 },
        { "layers.0.blocks.0.attn.qkv._aftergemm", 196 * 96, 0 },
        { "layers.0.blocks.1.attn", 3 * 196 * 32, 2 * 2 * 196 * 49 * 32 },
        { "layers.0.blocks.1.mlp.fc2", 196 * 128 + 32 * 128, 2 * 196 * 32 * 128 },
        { "layers.0.downsample.reduction", 49 * 128 + 64 * 128, 2 * 49 * 64 * 128 },
        { "layers.0.downsample.reduction._aftergemm", 49 * 64, 0 },
        { "layers.1.blocks.0.mlp.fc1", 49 * 64 + 256 * 64, 2 * 49 * 256 * 64 },
    };
    model m;
    swin_relax_unit *u;
    int count;
    model_open(&m, SWIN_V1, SWIN_INT8_MODE_1);
    CHECK_OK(swin_relax_units(&u, &count, &m.f));
    for (size_t i = 0; i < SWIN_COUNT(want); i++) {
        const swin_relax_unit *x = unit_named(u, count, want[i].name);
        CHECK(x != NULL, "no unit %s", want[i].name);
        CHECK(x->bytes == want[i].bytes && x->ops == want[i].ops, "%s: %llu bytes, %llu operations", x->name,
              (unsigned long long)x->bytes, (unsigned long long)x->ops);
    }
    free(u);
    model_close(&m);
}

/* ---- what is measured ---------------------------------------------------------------------------------------------- */

/* Squared error of the logits against ref, with f as it stands, image by image. */
static double brute(const model *m, const float *ref, float *logits)
{
    swin_sim *sim;
    double total = 0;
    CHECK_OK(swin_sim_create(&sim, m->dev, &m->f, &m->weights, SWIN_PER_CHANNEL));
    CHECK_OK(swin_sim_forward(sim, m->images, IMAGES, logits, NULL));
    swin_sim_free(sim);
    for (int i = 0; i < IMAGES; i++) {
        double noise = 0;
        for (int k = i * CLASSES; k < (i + 1) * CLASSES; k++) {
            const double d = (double)logits[k] - (double)ref[k];
            noise += d * d;
        }
        total += noise;
    }
    return total;
}

static void all_sites(model *m, bool on)
{
    for (int i = 0; i < m->f.nsites; i++)
        m->f.sites[i].enabled = on && swin_mode_enabled(m->f.mode, m->config.family, m->f.sites[i].site);
}

static void turn(model *m, const swin_site *sites, int count, bool on)
{
    for (int i = 0; i < count; i++) m->f.sites[swin_site_index(&m->config, sites[i])].enabled = on;
}

/* The shortcut through parts of two networks gives the very sums that whole networks give. */
static void check_measures(model *m)
{
    enum { WHAT = SWIN_SENSE_ALONE | SWIN_SENSE_WITHOUT | SWIN_SENSE_UPTO };
    const size_t pixels = (size_t)3 * (size_t)m->config.image_size * (size_t)m->config.image_size;
    float logits[IMAGES * CLASSES], base[IMAGES * CLASSES];
    swin_relax_unit *u;
    swin_sense_group groups[64];
    swin_sense *s, *split;
    int count;
    CHECK_OK(swin_relax_units(&u, &count, &m->f));
    for (int i = 0; i < count; i++)
        groups[i] = (swin_sense_group){ u[i].part, u[i].sites, u[i].own, u[i].count };
    CHECK_OK(swin_sense_create(&s, m->dev, &m->f, &m->weights, &m->weights, SWIN_PER_CHANNEL, groups, count,
                               WHAT));
    CHECK_OK(swin_sense_add(s, m->images, IMAGES, m->fp32, NULL, NULL));
    CHECK_OK(swin_sense_create(&split, m->dev, &m->f, &m->weights, &m->weights, SWIN_PER_CHANNEL, groups,
                               count, WHAT));
    for (int i = 0; i < IMAGES; i++)
        CHECK_OK(swin_sense_add(split, m->images + (size_t)i * pixels, 1, m->fp32 + i * CLASSES, NULL, NULL));
    all_sites(m, false);
    CHECK(brute(m, m->fp32, base) == swin_sense_total(s)->residual, "nothing quantized");
    for (int i = 0; i < count; i++) {
        const swin_sense_sums *got = swin_sense_get(s, i), *one = swin_sense_get(split, i);
        CHECK(memcmp(got, one, sizeof *got) == 0, "%s: other sums one image at a time", u[i].name);
        all_sites(m, false);
        turn(m, u[i].sites, u[i].own, true);
        const double alone = brute(m, base, logits);
        CHECK(alone > 0 && got->alone == alone, "%s alone: %g, whole networks say %g", u[i].name, got->alone,
              alone);
        all_sites(m, true);
        turn(m, u[i].sites, u[i].count, false);
        const double without = brute(m, m->fp32, logits);
        CHECK(got->without == without, "all but %s: %g, whole networks say %g", u[i].name, got->without,
              without);
        all_sites(m, false);
        for (int k = 0; k <= i; k++) turn(m, u[k].sites, u[k].own, true);
        const double upto = brute(m, m->fp32, logits);
        CHECK(got->upto == upto, "up to %s: %g, whole networks say %g", u[i].name, got->upto, upto);
    }
    CHECK(swin_sense_get(s, count - 1)->upto == swin_sense_total(s)->noise, "the last is not the whole");
    all_sites(m, true);
    CHECK(brute(m, m->fp32, logits) == swin_sense_total(s)->noise, "everything quantized");
    print_message("V%d mode %d: %d units, each as whole networks have it\n", m->config.family + 1,
                  (int)m->f.mode, count);
    swin_sense_free(s);
    swin_sense_free(split);
    free(u);
}

static void test_measures(void **state)
{
    (void)state;
    for (int k = 0; k < 3; k++) {
        model m;
        model_open(&m, k == 2 ? SWIN_V2 : SWIN_V1, k == 0 ? SWIN_INT8_MODE_1 : SWIN_INT8_MODE_3);
        check_measures(&m);
        model_close(&m);
    }
}

/* Attention relaxed in one block of mode 3: the simulation has its exact softmax there, the engine follows. */
static void test_engine(void **state)
{
    (void)state;
    model m;
    float sim[IMAGES * CLASSES], engine[IMAGES * CLASSES];
    swin_relax_unit *u;
    int count;
    model_open(&m, SWIN_V1, SWIN_INT8_MODE_3);
    CHECK_OK(swin_relax_units(&u, &count, &m.f));
    for (int i = 0; i <= count; i++) { /* all units but one, and none: what is left decides the error */
        for (int k = 0; k < count; k++) swin_relax_set(&m.f, &u[k], k != i);
        const double noise = brute(&m, m.fp32, sim);
        swin_plan plan;
        swin_net *net;
        CHECK_OK(swin_plan_create(&plan, &m.f, SWIN_PER_CHANNEL));
        CHECK_OK(swin_net_create(&net, m.dev, &m.config, &m.weights,
                                 &(swin_net_opts){ .dtype = SWIN_F32, .plan = &plan }));
        CHECK_OK(swin_net_forward(net, m.images, IMAGES, engine, NULL));
        const double apart = swin_rel_l2(engine, sim, IMAGES * CLASSES),
                     error = swin_rel_l2(sim, m.fp32, IMAGES * CLASSES);
        CHECK(i == count ? noise == 0 && apart < 1e-5 : apart <= 0.3 * error, /* codes flip, but few */
              "%s alone on integers: engine and simulation %g apart, the simulation's error %g",
              i < count ? u[i].name : "nothing", apart, error);
        swin_net_free(net);
        swin_plan_free(&plan);
    }
    free(u);
    model_close(&m);
}

/* ---- limits and images ----------------------------------------------------------------------------------------------- */

static void test_limits(void **state)
{
    (void)state;
    static const struct {
        double percent;
        size_t images;
        bool ok;
    } cases[] = { { 98.75, 80, true },  { 98.76, 80, false }, { 99.9, 80, false },
                  { 99.9, 1000, true }, { 100, 1000, false }, { 0, 1, true },
                  { 50, 2, true },      { 50.1, 2, false },   { 200.0 / 3, 3, true } };
    for (size_t i = 0; i < SWIN_COUNT(cases); i++) {
        const swin_auto_limit l = { .min_agreement = cases[i].percent };
        if (cases[i].ok)
            CHECK_OK(swin_auto_check(&l, cases[i].images));
        else
            CHECK_FAILS(swin_auto_check(&l, cases[i].images), SWIN_ERR_USAGE, "--min-agreement");
    }
}

static void test_hold_back(void **state)
{
    (void)state;
    for (int how = 0; how < 3; how++)
        for (size_t total = 1; total <= 40; total++)
            for (size_t count = 0; count <= total; count += 3) {
                size_t calib[40], held[40], want = total / 2 + 1;
                bool used[40] = { false };
                const size_t n = swin_sample_choose((swin_sample)how, 5, total, count, calib);
                const size_t h = swin_auto_hold_back(held, (swin_sample)how, 5, total, calib, n, want);
                CHECK(h == (want < total - n ? want : total - n), "%zu held of %zu - %zu", h, total, n);
                for (size_t i = 0; i < n; i++) used[calib[i]] = true;
                for (size_t i = 0; i < h; i++) {
                    CHECK(held[i] < total && !used[held[i]] && (i == 0 || held[i] > held[i - 1]),
                          "sample %d, %zu of %zu: image %zu is held back", how, n, total, held[i]);
                    used[held[i]] = true;
                }
            }
}

/* ---- the whole run --------------------------------------------------------------------------------------------------- */

enum { CALIBRATED = 12, HELD = 12 };

static swin_calib_opts defaults(const swin_calib_set *x, swin_int8_mode mode, const char *recover)
{
    swin_calib_opts o = swin_calib_set_opts(x, CALIBRATED, mode);
    o.recover_name = recover;
    o.auto_images = HELD;
    CHECK_OK(swin_recover_choose(&o.recover, recover));
    return o;
}

static void check_file(swin_calib_set *x, const swin_calib_file *f, const swin_calib_opts *o)
{
    char *path = swin_format("%s/f.h5", x->folder);
    swin_calib_file back;
    const swin_relaxation *r = &f->relaxation;
    int relaxed = 0, off = 0, wanted = 0;
    CHECK(r->present && r->images == HELD, "%llu images held back", (unsigned long long)r->images);
    CHECK(r->after_db >= o->limit.min_sqnr, "%.2f dB after, %.2f asked for", r->after_db, o->limit.min_sqnr);
    CHECK(strcmp(r->image_list_sha256, f->image_list_sha256) != 0, "the same images");
    for (int i = 0; i < r->nunits; i++) {
        relaxed += r->units[i].relaxed;
        for (int k = 0; r->units[i].relaxed && k < r->units[i].count; k++)
            CHECK(!swin_calib_file_site(f, r->units[i].sites[k])->enabled, "%s is on", r->units[i].name);
        wanted += r->units[i].relaxed ? r->units[i].own : 0;
    }
    for (int i = 0; i < f->nsites; i++)
        off += f->sites[i].enabled != swin_mode_enabled(f->mode, f->config.family, f->sites[i].site);
    CHECK(off >= wanted && (off > 0) == (relaxed > 0), "%d sites off for %d units", off, relaxed);
    CHECK_OK(swin_calib_file_write(f, path));
    CHECK_OK(swin_calib_file_read(&back, path, false));
    CHECK(back.relaxation.nunits == r->nunits && back.mode == o->mode, "%d units read",
          back.relaxation.nunits);
    for (int i = 0; i < r->nunits; i++)
        CHECK(strcmp(back.relaxation.units[i].name, r->units[i].name) == 0 &&
                  back.relaxation.units[i].relaxed == r->units[i].relaxed &&
                  back.relaxation.units[i].ops == r->units[i].ops,
              "%s was not kept", r->units[i].name);
    for (int i = 0; i < f->nsites; i++)
        CHECK(back.sites[i].enabled == f->sites[i].enabled, "a site's flag was not kept");
    print_message("mode %d, %s, %.0f dB: %.2f -> %.2f dB, %d of %d units, %d sites\n", (int)f->mode,
                  f->recover, o->limit.min_sqnr, r->before_db, r->after_db, relaxed, r->nunits, off);
    swin_calib_file_free(&back);
    unlink(path);
    free(path);
}

static int relaxed_units(const swin_calib_file *f)
{
    int n = 0;
    for (int i = 0; i < f->relaxation.nunits; i++) n += f->relaxation.units[i].relaxed;
    return n;
}

/* A tighter limit relaxes more; one below what there is, nothing; one above all, everything, which is the float network. */
static void test_run(void **state)
{
    (void)state;
    static const double db[] = { 20, 41, 110 };
    swin_calib_set x;
    swin_calib_set_make(&x, "auto", CALIBRATED + HELD, true);
    for (int mode = 1; mode <= 3; mode += 2)
        for (int fast = 0; fast < 2; fast++) {
            int before = 0;
            for (size_t i = 0; i < SWIN_COUNT(db); i++) {
                if (fast && (i == 1 || mode == 1)) continue; /* recovery takes its time */
                swin_calib_opts o = defaults(&x, (swin_int8_mode)mode, fast ? "fast" : "none");
                swin_calib_file f;
                o.limit.min_sqnr = db[i];
                CHECK_OK(swin_calib_set_run(&x, &f, &o));
                check_file(&x, &f, &o);
                const int n = relaxed_units(&f);
                CHECK(n >= before, "%g dB: %d units, fewer than the %d of %g dB", db[i], n, before,
                      db[i - 1]);
                CHECK(i > 0 || n == 0, "20 dB: %d units for nothing", n);
                CHECK(i != SWIN_COUNT(db) - 1 || n == f.relaxation.nunits, "110 dB: %d units", n);
                before = n;
                swin_calib_file_free(&f);
            }
        }
    swin_calib_set_free(&x);
}

/* What was relaxed is needed: with any one unit quantized again, the images held back miss the limit. Measured from outside,
 * on the images that the file's hash stands for. */
static void test_fewest(void **state)
{
    (void)state;
    swin_calib_set x;
    swin_calib_file f;
    swin_dataset *ds;
    swin_loader *l;
    swin_batch b;
    swin_dev *dev;
    swin_net *net;
    size_t calib[CALIBRATED], held[HELD];
    swin_calib_set_make(&x, "auto", CALIBRATED + HELD, true);
    swin_calib_opts o = defaults(&x, SWIN_INT8_MODE_3, "none");
    o.limit.min_sqnr = 42;
    CHECK_OK(swin_calib_set_run(&x, &f, &o));
    CHECK_OK(swin_dataset_open(&ds, x.folder, "train"));
    swin_sample_choose(SWIN_SAMPLE_SPREAD, 0, CALIBRATED + HELD, CALIBRATED, calib);
    swin_auto_hold_back(held, SWIN_SAMPLE_SPREAD, 0, CALIBRATED + HELD, calib, CALIBRATED, HELD);
    const swin_loader_opts lo = { .indices = held,
                                  .count = HELD,
                                  .batch = HELD,
                                  .preprocess = { .size = x.config.image_size, .crop = x.config.test_crop } };
    CHECK_OK(swin_loader_open(&l, ds, &lo));
    CHECK_OK(swin_loader_next(l, &b));
    CHECK(b.n == HELD, "%d images", b.n);
    float ref[HELD * CLASSES], got[HELD * CLASSES];
    CHECK_OK(swin_dev_open(&dev, "cpu", &(swin_dev_opts){ .threads = 2 }));
    CHECK_OK(swin_net_create(&net, dev, &x.config, &x.weights, &(swin_net_opts){ .dtype = SWIN_F32 }));
    CHECK_OK(swin_net_forward(net, b.pixels, HELD, ref, NULL));
    const swin_relaxation *r = &f.relaxation;
    int needed = 0;
    for (int i = -1; i < r->nunits; i++) {
        if (i >= 0 && !r->units[i].relaxed) continue;
        swin_sim *sim;
        if (i >= 0) swin_relax_set(&f, &r->units[i], false);
        CHECK_OK(swin_sim_create(&sim, dev, &f, &x.weights, SWIN_PER_CHANNEL));
        CHECK_OK(swin_sim_forward(sim, b.pixels, HELD, got, NULL));
        const double db = swin_sqnr_db(got, ref, HELD * CLASSES);
        CHECK(i < 0 ? fabs(db - r->after_db) < 1e-6 : db < o.limit.min_sqnr, "with %s quantized: %.3f dB",
              i < 0 ? "what the file says" : r->units[i].name, db);
        swin_sim_free(sim);
        if (i >= 0) swin_relax_set(&f, &r->units[i], true);
        needed += i >= 0;
    }
    CHECK(needed > 1, "only %d units relaxed: the test shows little", needed);
    swin_net_free(net);
    swin_dev_close(dev);
    swin_loader_close(l);
    swin_dataset_close(ds);
    swin_calib_file_free(&f);
    swin_calib_set_free(&x);
}

static unsigned char *file_bytes(swin_calib_set *x, const swin_calib_opts *o, size_t *n)
{
    swin_calib_file f;
    CHECK_OK(swin_calib_set_run(x, &f, o));
    CHECK(relaxed_units(&f) > 0, "nothing was relaxed");
    unsigned char *bytes = swin_calib_set_bytes(x, &f, n);
    swin_calib_file_free(&f);
    return bytes;
}

static void test_one_file(void **state)
{
    (void)state;
    static const struct {
        int batch, threads;
        bool zip;
    } ways[] = { { 8, 2, false }, { 1, 1, true }, { 12, 4, false } };
    swin_calib_set x;
    unsigned char *first = NULL;
    size_t n = 0;
    swin_calib_set_make(&x, "auto", CALIBRATED + HELD, true);
    for (size_t i = 0; i < SWIN_COUNT(ways); i++) {
        swin_calib_opts o = defaults(&x, SWIN_INT8_MODE_1, "none");
        size_t m;
        o.limit = (swin_auto_limit){ .min_agreement = 90, .min_sqnr = 39 };
        o.batch = ways[i].batch;
        o.threads = ways[i].threads;
        o.data_path = ways[i].zip ? x.zipped : x.folder;
        unsigned char *bytes = file_bytes(&x, &o, &m);
        if (!first) {
            first = bytes, n = m;
            continue;
        }
        CHECK(n == m && memcmp(first, bytes, n) == 0, "batch %d, %d threads: another file", o.batch,
              o.threads);
        free(bytes);
    }
    free(first);
    swin_calib_set_free(&x);
}

/* A set too small for all: half of it at most is held back, and the limit is judged by what there is. */
static void test_small_set(void **state)
{
    (void)state;
    swin_calib_set x;
    swin_calib_file f;
    swin_calib_set_make(&x, "auto", CALIBRATED + HELD, true);
    swin_calib_opts o = defaults(&x, SWIN_INT8_MODE_3, "none");
    o.images = 1000;
    o.auto_images = 1000;
    o.limit.min_agreement = 50;
    CHECK_OK(swin_calib_set_run(&x, &f, &o));
    CHECK(f.images == CALIBRATED && f.relaxation.images == HELD, "%llu and %llu images",
          (unsigned long long)f.images, (unsigned long long)f.relaxation.images);
    swin_calib_file_free(&f);
    o.limit.min_agreement = 95;
    CHECK_FAILS(swin_calib_set_run(&x, &f, &o), SWIN_ERR_USAGE, "12 images are held back");
    swin_calib_set_free(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_units),     cmocka_unit_test(test_cost),   cmocka_unit_test(test_measures),
        cmocka_unit_test(test_engine),    cmocka_unit_test(test_limits), cmocka_unit_test(test_hold_back),
        cmocka_unit_test(test_run),       cmocka_unit_test(test_fewest), cmocka_unit_test(test_one_file),
        cmocka_unit_test(test_small_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
