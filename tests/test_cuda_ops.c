/* The cuda backend against ref: every operator, every type, odd shapes and every stage's. Without a GPU each
 * test is skipped, and the last line says how many. */
#include "runtime/base/half.h"
#include "runtime/ops/ops.h"
#include "tests/support/testing.h"

#include <math.h>

#if SWIN_WITH_CUDA
#include "runtime/ops/kernels/cuda_dev.h"
#endif

static swin_dev *ref, *gpu, *gpu_tf32;
static int skipped;
static bool brief; /* SWIN_TEST_SMALL: small shapes alone, for compute-sanitizer */

#define NEED_GPU()                                                                                           \
    if (!gpu) {                                                                                              \
        skipped++;                                                                                           \
        skip();                                                                                              \
    }

/* ---- matrices in both memories
 * --------------------------------------------------------------------------------- */

enum { GUARD = 64 };

/* The same numbers for ref (float32, already rounded to the type) and for the GPU (in the type), with
 * poisoned guards. */
typedef struct pair {
    float *host;  /* [rows][cols], dense */
    char *staged; /* what the GPU holds, guards included */
    void *memory; /* device */
    size_t bytes;
    swin_tensor h, d;
} pair;

static void put(pair *m)
{
    const size_t unit = swin_dtype_size(m->d.dtype);
    for (int64_t r = 0; r < m->d.rows; r++)
        for (int64_t c = 0; c < m->d.cols; c++) {
            char *at = m->staged + (size_t)(GUARD + r * m->d.ld + c) * unit;
            const float v = m->host[r * m->d.cols + c];
            const uint16_t half = m->d.dtype == SWIN_F16 ? swin_f32_to_f16(v) : swin_f32_to_bf16(v);
            memcpy(at, m->d.dtype == SWIN_F32 ? (const void *)&v : (const void *)&half, unit);
        }
    CHECK_OK(gpu->ops->upload(gpu, m->memory, m->staged, m->bytes));
}

/* sd 0: left poisoned with NaN on the GPU, for outputs. */
static pair make(swin_rng *rng, swin_dtype t, int64_t rows, int64_t cols, int64_t ld, double sd)
{
    pair m = { .bytes = (size_t)(rows * ld + 2 * GUARD) * swin_dtype_size(t) };
    m.host = malloc((size_t)(rows * cols) * sizeof *m.host);
    m.staged = malloc(m.bytes);
    CHECK(m.host && m.staged, "no memory");
    memset(m.staged, 0xff, m.bytes);
    CHECK_OK(gpu->ops->alloc(gpu, &m.memory, m.bytes));
    m.h = swin_matrix(m.host, SWIN_F32, rows, cols);
    m.d = swin_matrix((char *)m.memory + GUARD * swin_dtype_size(t), t, rows, cols);
    m.d.ld = ld;
    swin_fill_normal(rng, m.host, (size_t)(rows * cols), sd);
    for (int64_t i = 0; i < rows * cols; i++) m.host[i] = swin_round_to(m.host[i], t);
    if (sd > 0)
        put(&m);
    else
        CHECK_OK(gpu->ops->upload(gpu, m.memory, m.staged, m.bytes));
    return m;
}

/* What the GPU has now, as float32; guards and padding must still be as they were. */
static float *get(const pair *m, const char *what)
{
    const size_t unit = swin_dtype_size(m->d.dtype);
    char *now = malloc(m->bytes);
    float *out = malloc((size_t)(m->d.rows * m->d.cols) * sizeof *out);
    CHECK(now && out, "no memory");
    CHECK_OK(gpu->ops->download(gpu, now, m->memory, m->bytes));
    for (int64_t i = 0; i < (int64_t)(m->bytes / unit); i++) {
        const int64_t at = i - GUARD, row = at / m->d.ld, col = at % m->d.ld;
        if (at >= 0 && row < m->d.rows && col < m->d.cols)
            swin_widen(out + row * m->d.cols + col, now + (size_t)i * unit, m->d.dtype, 1);
        else
            CHECK(memcmp(now + (size_t)i * unit, m->staged + (size_t)i * unit, unit) == 0,
                  "%s wrote outside: element %lld", what, (long long)at);
    }
    free(now);
    return out;
}

static void drop(pair *m)
{
    gpu->ops->free(gpu, m->memory);
    free(m->host);
    free(m->staged);
}

/* Relative error of the GPU's matrix against ref's. */
static double error_of(const pair *m, const char *what)
{
    float *got = get(m, what);
    const double e = swin_rel_l2(got, m->host, (size_t)(m->d.rows * m->d.cols));
    free(got);
    return e;
}

static double length(const float *v, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)v[i] * (double)v[i];
    return sqrt(sum);
}

static float *vector(swin_rng *rng, int n, double mean, double sd, float **device)
{
    float *v = malloc((size_t)n * sizeof *v);
    void *p;
    CHECK(v != NULL, "no memory");
    for (int i = 0; i < n; i++) v[i] = (float)(mean + sd * swin_rng_normal(rng));
    CHECK_OK(gpu->ops->alloc(gpu, &p, (size_t)n * sizeof *v));
    CHECK_OK(gpu->ops->upload(gpu, p, v, (size_t)n * sizeof *v));
    *device = p;
    return v;
}

static const swin_dtype types[] = { SWIN_F32, SWIN_F16, SWIN_BF16 };
/* One rounding of the result to the type, and float32 sums in another order. */
static const double tolerance[] = { 2e-6, 4e-4, 3e-3 };
static double worst;

#define WITHIN(e, limit, ...)                                                                                \
    do {                                                                                                     \
        const double within_ = (e);                                                                          \
        if (within_ > worst) worst = within_;                                                                \
        CHECK(within_ <= (limit), __VA_ARGS__);                                                              \
    } while (0)

static void say_worst(const char *what)
{
    print_message("  %s: worst relative error %.1e\n", what, worst);
    worst = 0;
}

/* ---- linear
 * ------------------------------------------------------------------------------------------------------ */

static const struct {
    int64_t m;
    int n, k;
} linears[] = {
    { 1, 1, 1 },        { 1, 200, 768 },   { 3, 5, 7 },       { 53, 101, 37 },   { 49, 288, 96 },
    { 200, 96, 96 },    { 130, 384, 96 },  { 129, 96, 384 },  { 64, 96, 48 },    { 33, 192, 384 },
    { 196, 1152, 384 }, { 65, 384, 1536 }, { 50, 768, 3072 }, { 49, 3072, 768 }, { 1000, 512, 128 },
    { 100, 768, 192 },  { 7, 1000, 1536 }, { 257, 104, 72 },
};

static void one_linear(swin_rng *rng, swin_dev *dev, size_t t, size_t s, swin_act act, bool residual,
                       double limit)
{
    const int64_t m = linears[s].m;
    const int n = linears[s].n, k = linears[s].k;
    if (brief && m * n * k > 1500000) return;
    float *w = malloc((size_t)n * (size_t)k * sizeof *w), *b = malloc((size_t)n * sizeof *b);
    CHECK(w && b, "no memory");
    swin_fill_normal(rng, w, (size_t)n * (size_t)k, 1 / sqrt(k));
    swin_fill_normal(rng, b, (size_t)n, 0.5);
    for (int64_t i = 0; i < (int64_t)n * k; i++) w[i] = swin_round_to(w[i], types[t]);
    pair x = make(rng, types[t], m, k, k % 8 ? k : k + 8, 1),
         y = make(rng, types[t], m, n, n + 8, residual ? 1 : 0);
    swin_linear lr, lg;
    CHECK_OK(ref->ops->linear_prepare(ref, &lr, w, b, n, k, SWIN_F32));
    CHECK_OK(dev->ops->linear_prepare(dev, &lg, w, b, n, k, types[t]));
    const double terms = fmax(residual ? length(y.host, m * n) : 0, length(b, n) * sqrt((double)m));
    if (residual) {
        CHECK_OK(ref->ops->linear_residual(ref, &y.h, &x.h, &lr, NULL));
        CHECK_OK(dev->ops->linear_residual(dev, &y.d, &x.d, &lg, NULL));
    } else {
        CHECK_OK(ref->ops->linear(ref, &y.h, &x.h, &lr, true, act));
        CHECK_OK(dev->ops->linear(dev, &y.d, &x.d, &lg, true, act));
    }
    CHECK_OK(dev->ops->sync(dev));
    /* A rounding is relative to what is rounded: both terms, whose sum may be far smaller in a handful of
     * numbers. */
    const double sum = length(y.host, m * n), e = error_of(&y, "linear") * sum / fmax(sum, terms);
    WITHIN(e, limit, "linear %s %lldx%dx%d act %d residual %d: %.1e", swin_dtype_name(types[t]), (long long)m,
           n, k, (int)act, residual, e);
    ref->ops->linear_release(ref, &lr);
    dev->ops->linear_release(dev, &lg);
    drop(&x), drop(&y);
    free(w), free(b);
}

static void test_linear(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 1 };
    worst = 0;
    for (size_t t = 0; t < SWIN_COUNT(types); t++) {
        for (size_t s = 0; s < SWIN_COUNT(linears); s++) {
            one_linear(&rng, gpu, t, s, SWIN_ACT_NONE, false, tolerance[t]);
            one_linear(&rng, gpu, t, s, SWIN_ACT_GELU, false, tolerance[t]);
            one_linear(&rng, gpu, t, s, SWIN_ACT_NONE, true, 1.5 * tolerance[t]);
        }
        say_worst(swin_dtype_name(types[t]));
    }
    for (size_t s = 0; s < SWIN_COUNT(linears); s++)
        one_linear(&rng, gpu_tf32, 0, s, SWIN_ACT_NONE, false, 5e-4);
    say_worst("tf32");
}

/* Rows do not depend on how many there are: the first rows of a long product equal a short one, bit for bit,
 * whatever tile either takes. */
static void test_linear_rows(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 2 };
    static const int shapes[][2] = { { 288, 96 }, { 384, 1536 }, { 3072, 768 }, { 200, 768 } };
    for (size_t t = 0; t < 4; t++)
        for (size_t s = 0; s < SWIN_COUNT(shapes); s++) {
            swin_dev *dev = t == 3 ? gpu_tf32 : gpu;
            const swin_dtype type = t == 3 ? SWIN_F32 : types[t];
            const int n = shapes[s][0], k = shapes[s][1], most = brief ? 150 : n > 384 ? 3000 : 20000;
            const int rows[] = { 1, 49, 130, 1000, most };
            if (brief && n > 384) continue;
            float *w = malloc((size_t)n * (size_t)k * sizeof *w);
            CHECK(w != NULL, "no memory");
            swin_fill_normal(&rng, w, (size_t)n * (size_t)k, 1 / sqrt(k));
            pair x = make(&rng, type, most, k, k, 1), y = make(&rng, type, most, n, n, 0);
            swin_linear l;
            CHECK_OK(dev->ops->linear_prepare(dev, &l, w, NULL, n, k, type));
            float *first = NULL;
            for (int i = 4; i >= 0; i--) {
                if (rows[i] > most) continue;
                const swin_tensor in = swin_rows(&x.d, 0, rows[i]);
                swin_tensor out = swin_rows(&y.d, 0, rows[i]);
                CHECK_OK(gpu->ops->upload(gpu, y.memory, y.staged, y.bytes));
                CHECK_OK(gpu->ops->sync(gpu));
                CHECK_OK(dev->ops->linear(dev, &out, &in, &l, true, SWIN_ACT_GELU));
                CHECK_OK(dev->ops->sync(dev));
                float *now = get(&y, "linear");
                if (first)
                    CHECK(memcmp(first, now, (size_t)rows[i] * (size_t)n * sizeof *now) == 0,
                          "type %zu, %d x %d: %d rows differ from %d", t, n, k, rows[i], most);
                if (first)
                    free(now);
                else
                    first = now;
            }
            free(first);
            dev->ops->linear_release(dev, &l);
            drop(&x), drop(&y);
            free(w);
        }
}

#if SWIN_WITH_CUDA
/* Every tile there is gives the same bits: tuning can change the time alone. */
static void one_tile_set(swin_rng *rng, swin_dev *dev, swin_gemm_math math, size_t t, int n, int k)
{
    enum { M = 300 };
    swin_cuda *d = swin_cuda_of(dev);
    pair x = make(rng, types[t], M, k, k, 1), w = make(rng, types[t], n, k, k, 1 / sqrt(k)),
         y = make(rng, types[t], M, n, n, 0);
    float *bias_d, *bias = vector(rng, n, 0, 1, &bias_d), *first = NULL;
    int tried = 0;
    for (int c = 0; c < swin_gemm_configs(math); c++) {
        const swin_gemm p = { .math = math,
                              .m = M,
                              .n = n,
                              .k = k,
                              .x = x.d.data,
                              .ldx = k,
                              .w = w.d.data,
                              .ldw = k,
                              .bias = bias_d,
                              .act = SWIN_ACT_GELU,
                              .y = y.d.data,
                              .ldy = n };
        CHECK_OK(gpu->ops->upload(gpu, y.memory, y.staged, y.bytes));
        CHECK_OK(gpu->ops->sync(gpu));
        const cudaError_t e = swin_gemm_launch(d->stream, &p, c, d->multiprocessors);
        if (e == cudaErrorNotSupported) continue;
        CHECK(e == cudaSuccess, "tile %s: %s", swin_gemm_config_name(math, c), cudaGetErrorString(e));
        CHECK_OK(dev->ops->sync(dev));
        float *now = get(&y, swin_gemm_config_name(math, c));
        if (first)
            CHECK(memcmp(first, now, (size_t)(M * n) * sizeof *now) == 0,
                  "math %d, %dx%dx%d: tile %s has other bits", (int)math, M, n, k,
                  swin_gemm_config_name(math, c));
        else
            first = malloc((size_t)(M * n) * sizeof *first),
            memcpy(first, now, (size_t)(M * n) * sizeof *first);
        free(now);
        tried++;
    }
    CHECK(tried > 1, "math %d: %d tiles", (int)math, tried);
    free(first), free(bias);
    gpu->ops->free(gpu, bias_d);
    drop(&x), drop(&w), drop(&y);
}

static void test_tiles(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 10 };
    static const int shapes[][2] = { { 384, 384 }, { 200, 96 }, { 104, 72 }, { 768, 1536 } };
    for (size_t s = brief ? 1 : 0; s < (brief ? 3 : SWIN_COUNT(shapes)); s++) {
        const int n = shapes[s][0], k = shapes[s][1];
        one_tile_set(&rng, gpu, SWIN_GEMM_FP32, 0, n, k);
        one_tile_set(&rng, gpu_tf32, SWIN_GEMM_TF32, 0, n, k);
        one_tile_set(&rng, gpu, SWIN_GEMM_F16, 1, n, k);
        one_tile_set(&rng, gpu, SWIN_GEMM_BF16, 2, n, k);
    }
}
#else
static void test_tiles(void **state)
{
    (void)state;
    NEED_GPU();
}
#endif

/* ---- rows
 * -------------------------------------------------------------------------------------------------------- */

static void one_norm(swin_rng *rng, size_t t, int c, int form)
{
    const swin_windows g = { .images = 2, .height = 14, .width = 14, .window = 7, .shift = 3 };
    const int64_t rows = swin_windows_tokens(&g);
    const int cols = form == 2 ? 4 * c : c;
    pair x = make(rng, types[t], rows, c, c + 16, 2),
         y = make(rng, types[t], form == 2 ? rows / 4 : rows, cols, cols, 0);
    float *gamma_d, *beta_d, *gamma = vector(rng, cols, 1, 0.2, &gamma_d),
                             *beta = vector(rng, cols, 0, 0.2, &beta_d);
    const swin_norm nr = { gamma, beta, 1e-5f }, ng = { gamma_d, beta_d, 1e-5f };
    for (int with = 0; with < 2; with++) {
        const swin_norm *a = with ? &nr : NULL, *b = with ? &ng : NULL;
        if (form == 0 && !with) continue;
        if (form == 0) {
            CHECK_OK(ref->ops->layernorm(ref, &y.h, &x.h, a));
            CHECK_OK(gpu->ops->layernorm(gpu, &y.d, &x.d, b));
        } else if (form == 1) {
            CHECK_OK(ref->ops->layernorm_windows(ref, &y.h, &x.h, a, &g));
            CHECK_OK(gpu->ops->layernorm_windows(gpu, &y.d, &x.d, b, &g));
        } else {
            CHECK_OK(ref->ops->layernorm_merge(ref, &y.h, &x.h, a, &g));
            CHECK_OK(gpu->ops->layernorm_merge(gpu, &y.d, &x.d, b, &g));
        }
        const double e = error_of(&y, "layernorm");
        WITHIN(e, with ? tolerance[t] : 0, "layernorm form %d, %s, %d channels, norm %d: %.1e", form,
               swin_dtype_name(types[t]), c, with, e);
    }
    gpu->ops->free(gpu, gamma_d), gpu->ops->free(gpu, beta_d);
    free(gamma), free(beta);
    drop(&x), drop(&y);
}

static void test_norms(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 3 };
    static const int channels[] = { 1, 5, 30, 96, 128, 192, 256, 384, 512, 768, 1024, 1536 };
    for (size_t t = 0; t < SWIN_COUNT(types); t++) {
        for (size_t i = 0; i < SWIN_COUNT(channels); i++)
            for (int form = 0; form < 3; form++) one_norm(&rng, t, channels[i], form);
        say_worst(swin_dtype_name(types[t]));
    }
}

static void test_elementwise(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 4 };
    const swin_windows g = { .images = 1, .height = 14, .width = 21, .window = 7, .shift = 2 };
    const int64_t rows = swin_windows_tokens(&g);
    for (size_t t = 0; t < SWIN_COUNT(types); t++)
        for (int c = 37; c <= 96; c += 59) {
            pair y = make(&rng, types[t], rows, c, c + 8, 2), z = make(&rng, types[t], rows, c, c, 1);
            float *bias_d, *bias = vector(&rng, c, 0, 1, &bias_d);
            CHECK_OK(ref->ops->bias_act(ref, &y.h, bias, SWIN_ACT_GELU));
            CHECK_OK(gpu->ops->bias_act(gpu, &y.d, bias_d, SWIN_ACT_GELU));
            WITHIN(error_of(&y, "bias_act"), tolerance[t], "bias_act %d", c);
            CHECK_OK(ref->ops->residual_add(ref, &y.h, &z.h, &g));
            CHECK_OK(gpu->ops->residual_add(gpu, &y.d, &z.d, &g));
            WITHIN(error_of(&y, "residual_add"), 1.5 * tolerance[t], "residual_add %d", c);
            if (types[t] == SWIN_F32) {
                z.host[5] = 0.5f, z.host[6] = 1.5f, z.host[7] = -2.5f, z.host[8] = 1e30f,
                z.host[9] = -INFINITY;
                put(&z);
                CHECK_OK(ref->ops->fake_quant(ref, &z.h, 0.0371f, 3, -128, 127));
                CHECK_OK(gpu->ops->fake_quant(gpu, &z.d, 0.0371f, 3, -128, 127));
                WITHIN(error_of(&z, "fake_quant"), 0, "fake_quant differs");
                swin_fill_normal(&rng, z.host, (size_t)(rows * c), 100);
                put(&z);
                CHECK_OK(ref->ops->round_to(ref, &z.h, c == 37 ? SWIN_F16 : SWIN_BF16));
                CHECK_OK(gpu->ops->round_to(gpu, &z.d, c == 37 ? SWIN_F16 : SWIN_BF16));
                WITHIN(error_of(&z, "round_to"), 0, "round_to differs");
            }
            pair mean = make(&rng, types[t], rows / 49, c, c, 0);
            swin_fill_normal(&rng, z.host, (size_t)(rows * c), 1);
            for (int64_t i = 0; i < rows * c; i++) z.host[i] = swin_round_to(z.host[i], types[t]);
            put(&z);
            CHECK_OK(ref->ops->mean_tokens(ref, &mean.h, &z.h, 49));
            CHECK_OK(gpu->ops->mean_tokens(gpu, &mean.d, &z.d, 49));
            WITHIN(error_of(&mean, "mean_tokens"), tolerance[t], "mean_tokens %d", c);
            gpu->ops->free(gpu, bias_d);
            free(bias);
            drop(&y), drop(&z), drop(&mean);
        }
    say_worst("elementwise");
}

static void test_patch_embed(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 5 };
    for (size_t t = 0; t < SWIN_COUNT(types); t++)
        for (int with = 0; with < 2; with++) {
            const int c = 96, size = 32, batch = 3;
            float *images_d, *images = vector(&rng, batch * 3 * size * size, 0, 1, &images_d);
            float *gamma_d, *gamma = vector(&rng, c, 1, 0.2, &gamma_d), *w_d,
                            *w = vector(&rng, c * 48, 0, 0.15, &w_d);
            swin_linear lr, lg;
            CHECK_OK(ref->ops->linear_prepare(ref, &lr, w, gamma, c, 48, SWIN_F32));
            CHECK_OK(gpu->ops->linear_prepare(gpu, &lg, w, gamma, c, 48, types[t]));
            swin_patch_embed a = { 4, 3, c, &lr, { gamma, gamma, 1e-5f } },
                             b = { 4, 3, c, &lg, { gamma_d, gamma_d, 1e-5f } };
            if (!with) a.norm.gamma = b.norm.gamma = NULL;
            pair y = make(&rng, types[t], batch * 64, c, c, 0);
            CHECK_OK(ref->ops->patch_embed(ref, &y.h, images, batch, size, &a));
            CHECK_OK(gpu->ops->patch_embed(gpu, &y.d, images_d, batch, size, &b));
            WITHIN(error_of(&y, "patch_embed"), 3 * tolerance[t], "patch_embed, type %zu, norm %d", t, with);
            ref->ops->linear_release(ref, &lr);
            gpu->ops->linear_release(gpu, &lg);
            gpu->ops->free(gpu, images_d), gpu->ops->free(gpu, gamma_d), gpu->ops->free(gpu, w_d);
            free(images), free(gamma), free(w);
            drop(&y);
        }
    say_worst("patch_embed");
}

/* ---- attention
 * --------------------------------------------------------------------------------------------------- */

static void one_attention(swin_rng *rng, size_t t, int window, int heads, int d, int shift, swin_softmax kind)
{
    const swin_windows g = {
        .images = brief ? 1 : 2,
        .height = (brief && window > 8 ? 1 : 2) * window,
        .width = (brief ? 2 : 3) * window,
        .window = window,
        .shift = shift,
    };
    const int64_t rows = swin_windows_tokens(&g);
    const int n = window * window, c = heads * d, per_image = swin_windows_per_image(&g);
    pair qkv = make(rng, types[t], rows, 3 * c, 3 * c + 8, 1), out = make(rng, types[t], rows, c, c, 0);
    pair s = make(rng, types[t], rows * heads, n, n, 0), again = make(rng, types[t], rows, c, c, 0);
    float *bias_d, *bias = vector(rng, heads * n * n, 0, 1, &bias_d);
    float *mask = malloc((size_t)(per_image * n * n) * sizeof *mask);
    void *mask_d;
    CHECK(mask != NULL, "no memory");
    for (int i = 0; i < per_image * n * n; i++)
        mask[i] = i % n != i / n % n && swin_rng_below(rng, 3) == 0 ? -100.f : 0.f;
    CHECK_OK(gpu->ops->alloc(gpu, &mask_d, (size_t)(per_image * n * n) * sizeof *mask));
    CHECK_OK(gpu->ops->upload(gpu, mask_d, mask, (size_t)(per_image * n * n) * sizeof *mask));
    const float scale = 1 / sqrtf((float)d);
    const swin_attention a = { heads, d, scale, bias, shift ? mask : NULL, kind };
    const swin_attention b = { heads, d, scale, bias_d, shift ? mask_d : NULL, kind };
    const double limit = types[t] == SWIN_F32 ? 3e-6 : 2.5 * tolerance[t];

    CHECK_OK(ref->ops->attention(ref, &out.h, &qkv.h, &a, &g));
    CHECK_OK(gpu->ops->attention(gpu, &out.d, &qkv.d, &b, &g));
    double e = error_of(&out, "attention");
    WITHIN(e, limit, "attention %s window %d heads %d x %d shift %d kind %d: %.1e", swin_dtype_name(types[t]),
           window, heads, d, shift, (int)kind, e);

    CHECK_OK(ref->ops->scores(ref, &s.h, &qkv.h, &a, &g));
    CHECK_OK(gpu->ops->scores(gpu, &s.d, &qkv.d, &b, &g));
    WITHIN(error_of(&s, "scores"), tolerance[t], "scores, window %d", window);
    CHECK_OK(gpu->ops->softmax(gpu, &s.d, &b, &g));
    CHECK_OK(gpu->ops->weighted_sum(gpu, &again.d, &s.d, &qkv.d, &b, &g));
    float *whole = get(&out, "attention"), *parts = get(&again, "weighted_sum");
    e = swin_rel_l2(parts, whole, (size_t)(rows * c));
    WITHIN(e, types[t] == SWIN_F32 ? 0 : 3 * limit, "attention and its parts differ: %s window %d: %.1e",
           swin_dtype_name(types[t]), window, e);
    free(whole), free(parts);
    gpu->ops->free(gpu, bias_d), gpu->ops->free(gpu, mask_d);
    free(bias), free(mask);
    drop(&qkv), drop(&out), drop(&s), drop(&again);
}

static void test_attention(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 6 };
    for (size_t t = 0; t < SWIN_COUNT(types); t++) {
        one_attention(&rng, t, 7, 3, 32, 0, SWIN_SOFTMAX_EXACT);
        one_attention(&rng, t, 7, 6, 32, 3, SWIN_SOFTMAX_EXACT);
        one_attention(&rng, t, 7, 4, 32, 3, SWIN_SOFTMAX_EXACT);
        one_attention(&rng, t, 7, 1, 32, 3, SWIN_SOFTMAX_EXACT);
        one_attention(&rng, t, 7, 2, 24, 3, SWIN_SOFTMAX_EXACT);
        one_attention(&rng, t, 8, 4, 32, 4, SWIN_SOFTMAX_EXACT);
        one_attention(&rng, t, 12, 3, 32, 6, SWIN_SOFTMAX_EXACT);
        one_attention(&rng, t, 5, 2, 17, 2, SWIN_SOFTMAX_EXACT);
        one_attention(&rng, t, 16, 1, 32, 8, SWIN_SOFTMAX_EXACT);
        one_attention(&rng, t, 2, 1, 4, 1, SWIN_SOFTMAX_EXACT);
        if (!brief) one_attention(&rng, t, 24, 1, 32, 12, SWIN_SOFTMAX_EXACT);
        say_worst(swin_dtype_name(types[t]));
    }
    /* A code is a step of 1/255: a score that float32 puts on the other side of a tie moves it. */
    for (size_t t = 0; t < 1; t++) {
        one_attention(&rng, t, 7, 3, 32, 3, SWIN_SOFTMAX_U8);
        say_worst("u8 softmax");
    }
}

/* ---- half blocks
 * --------------------------------------------------------------------------------------------------- */

typedef struct layer {
    swin_linear r, g;
} layer;

static layer make_layer(swin_rng *rng, size_t t, int out, int in, bool with_bias)
{
    layer l;
    float *w = malloc((size_t)out * (size_t)in * sizeof *w), *b = malloc((size_t)out * sizeof *b);
    CHECK(w && b, "no memory");
    swin_fill_normal(rng, w, (size_t)out * (size_t)in, 1 / sqrt(in));
    swin_fill_normal(rng, b, (size_t)out, 0.3);
    for (int64_t i = 0; i < (int64_t)out * in; i++) w[i] = swin_round_to(w[i], types[t]);
    CHECK_OK(ref->ops->linear_prepare(ref, &l.r, w, with_bias ? b : NULL, out, in, SWIN_F32));
    CHECK_OK(gpu->ops->linear_prepare(gpu, &l.g, w, with_bias ? b : NULL, out, in, types[t]));
    free(w), free(b);
    return l;
}

static void drop_layer(layer *l)
{
    ref->ops->linear_release(ref, &l->r);
    gpu->ops->linear_release(gpu, &l->g);
}

/* Both halves and the merge of a block of c channels against ref's operators one after the other, and the
 * first image's rows alone against the same rows among all: equal bits. */
static void one_block(swin_rng *rng, size_t t, int c, int window, int across, int images, int shift)
{
    const swin_windows g = { .images = images,
                             .height = across * window,
                             .width = across * window,
                             .window = window,
                             .shift = shift };
    swin_windows one = g;
    one.images = 1;
    const int heads = c % 32 ? 1 : c / 32, n = window * window, each = g.height * g.width;
    const int64_t rows = swin_windows_tokens(&g);
    pair x = make(rng, types[t], rows, c, c, 1), first = make(rng, types[t], each, c, c, 0);
    pair merged = make(rng, types[t], rows / 4, 2 * c, 2 * c, 0),
         merged1 = make(rng, types[t], each / 4, 2 * c, 2 * c, 0);
    layer qkv = make_layer(rng, t, 3 * c, c, true), proj = make_layer(rng, t, c, c, true);
    layer fc1 = make_layer(rng, t, 4 * c, c, true), fc2 = make_layer(rng, t, c, 4 * c, true);
    layer reduction = make_layer(rng, t, 2 * c, 4 * c, false);
    float *gamma_d, *beta_d, *bias_d, *gamma = vector(rng, 4 * c, 1, 0.2, &gamma_d),
                                      *beta = vector(rng, 4 * c, 0, 0.2, &beta_d),
                                      *bias = vector(rng, heads * n * n, 0, 1, &bias_d);
    const swin_norm nr = { gamma, beta, 1e-5f }, ng = { gamma_d, beta_d, 1e-5f };
    const swin_attention ar = { heads, c / heads, 1 / sqrtf((float)(c / heads)),
                                bias,  NULL,      SWIN_SOFTMAX_EXACT };
    swin_attention ag = ar;
    ag.bias = bias_d;
    float *a = malloc((size_t)(rows * c) * sizeof *a), *wide = malloc((size_t)(rows * 4 * c) * sizeof *wide);
    CHECK(a && wide, "no memory");
    swin_tensor ta = swin_matrix(a, SWIN_F32, rows, c), tq = swin_matrix(wide, SWIN_F32, rows, 3 * c),
                tw = swin_matrix(wide, SWIN_F32, rows, 4 * c),
                tm = swin_matrix(wide, SWIN_F32, rows / 4, 4 * c);
    const size_t unit = swin_dtype_size(types[t]);
    CHECK_OK(gpu->ops->copy(gpu, first.d.data, x.d.data, (size_t)(each * c) * unit));

    CHECK_OK(ref->ops->layernorm_windows(ref, &ta, &x.h, &nr, &g));
    CHECK_OK(ref->ops->linear(ref, &tq, &ta, &qkv.r, true, SWIN_ACT_NONE));
    CHECK_OK(ref->ops->attention(ref, &ta, &tq, &ar, &g));
    CHECK_OK(ref->ops->linear_residual(ref, &x.h, &ta, &proj.r, &g));
    CHECK_OK(gpu->ops->attention_half(gpu, &x.d, &ng, &qkv.g, &proj.g, &ag, &g));
    double e = error_of(&x, "attention_half");
    WITHIN(e, 2 * tolerance[t], "attention_half %s, %d channels, %d images: %.1e", swin_dtype_name(types[t]),
           c, images, e);
    CHECK_OK(ref->ops->layernorm(ref, &ta, &x.h, &nr));
    CHECK_OK(ref->ops->linear(ref, &tw, &ta, &fc1.r, true, SWIN_ACT_GELU));
    CHECK_OK(ref->ops->linear_residual(ref, &x.h, &tw, &fc2.r, NULL));
    CHECK_OK(gpu->ops->mlp_half(gpu, &x.d, &ng, &fc1.g, &fc2.g));
    e = error_of(&x, "mlp_half");
    WITHIN(e, 3 * tolerance[t], "mlp_half %s, %d channels, %d images: %.1e", swin_dtype_name(types[t]), c,
           images, e);
    if (g.height % 2 == 0) {
        CHECK_OK(ref->ops->layernorm_merge(ref, &tm, &x.h, &nr, &g));
        CHECK_OK(ref->ops->linear(ref, &merged.h, &tm, &reduction.r, true, SWIN_ACT_NONE));
        CHECK_OK(gpu->ops->merge(gpu, &merged.d, &x.d, &ng, &reduction.g, &g));
        e = error_of(&merged, "merge");
        WITHIN(e, 5 * tolerance[t], "merge %s, %d channels, %d images: %.1e", swin_dtype_name(types[t]), c,
               images, e);
    }

    CHECK_OK(gpu->ops->attention_half(gpu, &first.d, &ng, &qkv.g, &proj.g, &ag, &one));
    CHECK_OK(gpu->ops->mlp_half(gpu, &first.d, &ng, &fc1.g, &fc2.g));
    float *all = get(&x, "halves"), *alone = get(&first, "halves");
    CHECK(memcmp(all, alone, (size_t)(each * c) * sizeof *all) == 0,
          "%s, %d channels: an image among %d has other bits than alone", swin_dtype_name(types[t]), c,
          images);
    free(all), free(alone);
    if (g.height % 2 == 0) {
        CHECK_OK(gpu->ops->merge(gpu, &merged1.d, &first.d, &ng, &reduction.g, &one));
        all = get(&merged, "merge"), alone = get(&merged1, "merge");
        CHECK(memcmp(all, alone, (size_t)(each / 2 * c) * sizeof *all) == 0, "merge, %d channels: other bits",
              c);
        free(all), free(alone);
    }
    layer *layers[] = { &qkv, &proj, &fc1, &fc2, &reduction };
    for (size_t i = 0; i < SWIN_COUNT(layers); i++) drop_layer(layers[i]);
    gpu->ops->free(gpu, gamma_d), gpu->ops->free(gpu, beta_d), gpu->ops->free(gpu, bias_d);
    free(gamma), free(beta), free(bias), free(a), free(wide);
    drop(&x), drop(&first), drop(&merged), drop(&merged1);
}

static void test_halves(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 8 };
    worst = 0;
    static const int channels[] = { 24, 96, 128, 192, 256, 384, 768 };
    for (size_t t = 0; t < SWIN_COUNT(types); t++) {
        for (size_t i = 0; i < SWIN_COUNT(channels); i++) {
            if ((brief && channels[i] > 96) || (channels[i] > 384 && t != 1)) continue;
            one_block(&rng, t, channels[i], 7, 2, channels[i] < 384 ? 3 : 2, 3);
            if (channels[i] <= 192) one_block(&rng, t, channels[i], 7, 1, 5, 0);
        }
        if (brief) continue;
        one_block(&rng, t, 96, 7, 4, 8, 3);
        one_block(&rng, t, 128, 12, 2, 2, 6);
        say_worst(swin_dtype_name(types[t]));
    }
}

static void test_normalise_heads(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 9 };
    static const struct {
        int64_t rows;
        int heads, size;
    } cases[] = { { 64, 3, 32 }, { 1, 1, 1 }, { 131, 4, 24 }, { 7, 24, 32 }, { 50, 5, 17 } };
    for (size_t t = 0; t < SWIN_COUNT(types); t++) {
        for (size_t i = 0; i < SWIN_COUNT(cases); i++) {
            const int c = cases[i].heads * cases[i].size;
            pair x = make(&rng, types[t], cases[i].rows, c, c + 8, 3),
                 y = make(&rng, types[t], cases[i].rows, c, c, 0);
            if (i == 0) memset(x.host, 0, 32 * sizeof *x.host), put(&x); /* a head of zeros stays one */
            float *scale_d, *scale = vector(&rng, cases[i].heads, 20, 5, &scale_d);
            for (int with = 0; with < 2; with++) {
                CHECK_OK(ref->ops->normalise_heads(ref, &y.h, &x.h, cases[i].heads, with ? scale : NULL));
                CHECK_OK(gpu->ops->normalise_heads(gpu, &y.d, &x.d, cases[i].heads, with ? scale_d : NULL));
                const double e = error_of(&y, "normalise_heads");
                WITHIN(e, tolerance[t], "normalise_heads %s %d x %d: %.1e", swin_dtype_name(types[t]),
                       cases[i].heads, cases[i].size, e);
            }
            CHECK_OK(ref->ops->normalise_heads(ref, &x.h, &x.h, cases[i].heads, scale));
            CHECK_OK(gpu->ops->normalise_heads(gpu, &x.d, &x.d, cases[i].heads, scale_d));
            WITHIN(error_of(&x, "normalise_heads"), tolerance[t], "normalise_heads in place");
            gpu->ops->free(gpu, scale_d);
            free(scale);
            drop(&x), drop(&y);
        }
        say_worst(swin_dtype_name(types[t]));
    }
}

/* ---- observers
 * --------------------------------------------------------------------------------------------------- */

static void check_observed(swin_observer *a, swin_observer *b, const char *what)
{
    swin_observed *x = malloc(sizeof *x), *y = malloc(sizeof *y);
    CHECK(x && y, "no memory");
    CHECK_OK(ref->ops->observer_read(ref, a, x));
    CHECK_OK(gpu->ops->observer_read(gpu, b, y));
    CHECK(x->count == y->count && x->nonfinite == y->nonfinite, "%s: count %llu, %llu; bad %llu, %llu", what,
          (unsigned long long)x->count, (unsigned long long)y->count, (unsigned long long)x->nonfinite,
          (unsigned long long)y->nonfinite);
    CHECK(x->min == y->min && x->max == y->max, "%s: [%g, %g] and [%g, %g]", what, (double)x->min,
          (double)x->max, (double)y->min, (double)y->max);
    CHECK(x->bin_width == y->bin_width, "%s: width %g and %g", what, (double)x->bin_width,
          (double)y->bin_width);
    for (int i = 0; i < SWIN_HIST_BINS; i++)
        CHECK(x->hist[i] == y->hist[i], "%s: bin %d: %llu and %llu", what, i, (unsigned long long)x->hist[i],
              (unsigned long long)y->hist[i]);
    free(x), free(y);
}

static void observe(swin_observer *a, swin_observer *b, pair *m)
{
    CHECK_OK(ref->ops->observe(ref, a, &m->h));
    CHECK_OK(gpu->ops->observe(gpu, b, &m->d));
}

static void test_observers(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 7 };
    for (size_t t = 0; t < SWIN_COUNT(types); t++) {
        swin_observer *a, *b;
        CHECK_OK(ref->ops->observer_create(ref, &a));
        CHECK_OK(gpu->ops->observer_create(gpu, &b));
        check_observed(a, b, "nothing");
        pair nan = make(&rng, types[t], 3, 5, 9, 1);
        for (int i = 0; i < 15; i++) nan.host[i] = i % 3 ? NAN : -INFINITY;
        put(&nan);
        observe(a, b, &nan);
        check_observed(a, b, "nothing finite");
        static const double sds[] = { 1e-6, 1e-6, 0.5, 0.3, 40, 1e-3, 900, 7 };
        for (size_t i = 0; i < SWIN_COUNT(sds); i++) {
            const int64_t cols = i % 2 ? 33 : 96;
            pair m = make(&rng, types[t], i % 3 ? 2000 : 7, cols, cols + 8 * (int)(i % 4), sds[i]);
            if (i == 3) m.host[3] = NAN, m.host[50] = -0.f, m.host[51] = 1e-42f, m.host[52] = -1e-42f;
            if (i == 4)
                m.host[9] = -4096 * 0x1p-4f, m.host[10] = 4096 * 0x1p-5f; /* the ends of a histogram */
            for (int64_t k = 0; k < m.h.rows * m.h.cols; k++) m.host[k] = swin_round_to(m.host[k], types[t]);
            put(&m);
            observe(a, b, &m);
            char what[64];
            snprintf(what, sizeof what, "%s tensor %zu", swin_dtype_name(types[t]), i);
            check_observed(a, b, what);
            drop(&m);
        }
        pair zero = make(&rng, types[t], 10, 8, 8, 0);
        for (int i = 0; i < 80; i++) zero.host[i] = 0;
        put(&zero);
        swin_observer *za, *zb;
        CHECK_OK(ref->ops->observer_create(ref, &za));
        CHECK_OK(gpu->ops->observer_create(gpu, &zb));
        observe(za, zb, &zero);
        check_observed(za, zb, "zeros");
        drop(&zero), drop(&nan);
        ref->ops->observer_free(ref, a), ref->ops->observer_free(ref, za);
        gpu->ops->observer_free(gpu, b), gpu->ops->observer_free(gpu, zb);
    }
}

/* Observers a and b of the GPU have seen the same. */
static void check_same(swin_observer *a, swin_observer *b, const char *what)
{
    swin_observed *x = calloc(1, sizeof *x), *y = calloc(1, sizeof *y);
    CHECK(x && y, "no memory");
    CHECK_OK(gpu->ops->observer_read(gpu, a, x));
    CHECK_OK(gpu->ops->observer_read(gpu, b, y));
    CHECK(x->count > 0 && memcmp(x, y, sizeof *x) == 0,
          "%s: other observations (width %g and %g, %llu and %llu values)", what, (double)x->bin_width,
          (double)y->bin_width, (unsigned long long)x->count, (unsigned long long)y->count);
    free(x), free(y);
}

enum { SEEN = 4 };

static void same_bytes(pair *a, pair *b, const char *what)
{
    float *x = get(a, what), *y = get(b, what);
    CHECK(memcmp(x, y, (size_t)(a->d.rows * a->d.cols) * sizeof *x) == 0, "%s: other results", what);
    free(x), free(y);
}

/* Bias and activation, plainly into one[] and observed on the way into two[]. */
static void observed_bias(swin_observer **one, swin_observer **two, swin_rng *rng, swin_dtype t, int64_t rows,
                          int64_t cols, int parts, double sd, const char *what)
{
    pair a = make(rng, t, rows, cols, cols, sd), b = make(rng, t, rows, cols, cols, sd);
    memcpy(b.host, a.host, (size_t)(rows * cols) * sizeof *a.host);
    if (rows > 2) b.host[3] = NAN, b.host[7] = -INFINITY, b.host[9] = -0.f;
    memcpy(a.host, b.host, (size_t)(rows * cols) * sizeof *a.host);
    put(&a), put(&b);
    float *bias, *host = vector(rng, (int)cols, 0, sd / 3, &bias);
    const swin_act act = parts == 1 ? SWIN_ACT_GELU : SWIN_ACT_NONE;
    CHECK_OK(gpu->ops->observe(gpu, one[0], &a.d));
    CHECK_OK(gpu->ops->bias_act(gpu, &a.d, bias, act));
    for (int i = 0; i < parts; i++) {
        const swin_tensor part = swin_columns(&a.d, i * (cols / parts), cols / parts);
        CHECK_OK(gpu->ops->observe(gpu, one[i + 1], &part));
    }
    CHECK_OK(gpu->ops->bias_act_observed(gpu, &b.d, bias, act, two[0], two + 1, parts));
    same_bytes(&a, &b, what);
    for (int i = 0; i <= parts; i++) check_same(one[i], two[i], what);
    gpu->ops->free(gpu, bias), free(host), drop(&a), drop(&b);
}

/* Bias and residual add, in window order. */
static void observed_residual(swin_observer **one, swin_observer **two, swin_rng *rng, swin_dtype t,
                              int64_t cols, bool sum, double sd, const char *what)
{
    const swin_windows g = { .images = 3, .height = 14, .width = 14, .window = 7, .shift = 3 };
    const int64_t rows = swin_windows_tokens(&g);
    pair r = make(rng, t, rows, cols, cols, sd), a = make(rng, t, rows, cols, cols, sd);
    pair rr = make(rng, t, rows, cols, cols, sd), b = make(rng, t, rows, cols, cols, sd);
    memcpy(rr.host, r.host, (size_t)(rows * cols) * sizeof *a.host);
    memcpy(b.host, a.host, (size_t)(rows * cols) * sizeof *a.host);
    put(&rr), put(&b);
    float *bias, *host = vector(rng, (int)cols, 0, sd / 3, &bias);
    CHECK_OK(gpu->ops->observe(gpu, one[0], &a.d));
    CHECK_OK(gpu->ops->bias_act(gpu, &a.d, bias, SWIN_ACT_NONE));
    CHECK_OK(gpu->ops->observe(gpu, one[1], &a.d));
    CHECK_OK(gpu->ops->residual_add(gpu, &r.d, &a.d, &g));
    if (sum) CHECK_OK(gpu->ops->observe(gpu, one[2], &r.d));
    CHECK_OK(
        gpu->ops->residual_add_observed(gpu, &rr.d, &b.d, bias, &g, two[0], two[1], sum ? two[2] : NULL));
    same_bytes(&r, &rr, what);
    for (int i = 0; i < (sum ? 3 : 2); i++) check_same(one[i], two[i], what);
    gpu->ops->free(gpu, bias), free(host), drop(&a), drop(&b), drop(&r), drop(&rr);
}

static void make_observers(swin_observer *o[2 * SEEN])
{
    for (int i = 0; i < 2 * SEEN; i++) CHECK_OK(gpu->ops->observer_create(gpu, &o[i]));
}

static void free_observers(swin_observer *o[2 * SEEN])
{
    for (int i = 0; i < 2 * SEEN; i++) gpu->ops->observer_free(gpu, o[i]);
}

/* Operators that observe on their way see and leave what the plain ones do, also where values outgrow the histogram. */
static void test_observing(void **state)
{
    (void)state;
    NEED_GPU();
    static const double sds[] = { 0.02, 0.5, 1e-3, 40, 3, 6000 };
    swin_rng rng = { 11 };
    for (size_t t = 0; t < SWIN_COUNT(types); t++)
        for (int shape = 0; shape < 5; shape++) {
            static const int64_t cols[] = { 288, 384, 9216, 33, 24 };
            if (brief && (shape < 3 || t > 0)) continue;
            swin_observer *o[2 * SEEN], *p[2 * SEEN];
            make_observers(o), make_observers(p);
            for (size_t i = 0; i < SWIN_COUNT(sds); i++) {
                if (brief && i % 3) continue;
                char what[96];
                snprintf(what, sizeof what, "%s, %lld columns, tensor %zu", swin_dtype_name(types[t]),
                         (long long)cols[shape], i);
                observed_bias(o, o + SEEN, &rng, types[t], i == 2 ? 1 : 1500 / (shape == 2 ? 10 : 1),
                              cols[shape], shape % 2 ? 1 : 3, sds[i], what);
                if (shape != 2)
                    observed_residual(p, p + SEEN, &rng, types[t], cols[shape], shape % 2 == 0, sds[i], what);
            }
            free_observers(o), free_observers(p);
        }
}

/* ---- refusals
 * ---------------------------------------------------------------------------------------------------- */

static void test_refusals(void **state)
{
    (void)state;
    NEED_GPU();
    swin_dev *dev;
    CHECK_FAILS(gpu->ops->open(&dev, &(swin_dev_opts){ .device = 999 }), SWIN_ERR_DEVICE, "--device 999");
    swin_tensor x = swin_matrix(NULL, SWIN_F32, 10, 8), y = swin_matrix(NULL, SWIN_F16, 10, 8);
    CHECK_FAILS(gpu->ops->layernorm(gpu, &y, &x, NULL), SWIN_ERR_UNSUPPORTED, "float16");
    y = swin_matrix(NULL, SWIN_F32, 10, 9);
    CHECK_FAILS(gpu->ops->layernorm(gpu, &y, &x, NULL), SWIN_ERR_VALUE, "layernorm");
    const swin_windows g = { .images = 1, .height = 10, .width = 1, .window = 7 };
    y = x;
    CHECK_FAILS(gpu->ops->layernorm_windows(gpu, &y, &x, NULL, &g), SWIN_ERR_VALUE, "windows of 7");
    void *p;
    CHECK_FAILS(gpu->ops->alloc(gpu, &p, (size_t)1 << 50), SWIN_ERR_MEM, "GPU");
    CHECK_OK(gpu->ops->sync(gpu));
}

static int open_devices(void **state)
{
    (void)state;
    brief = getenv("SWIN_TEST_SMALL") != NULL;
    CHECK_OK(swin_dev_open(&ref, "ref", &(swin_dev_opts){ 0 }));
    if (swin_dev_open(&gpu, "cuda", &(swin_dev_opts){ 0 }) != SWIN_OK)
        print_message("no GPU: %s\n", swin_error_message());
    else
        CHECK_OK(swin_dev_open(&gpu_tf32, "cuda", &(swin_dev_opts){ .tf32 = true }));
    return 0;
}

static int close_devices(void **state)
{
    (void)state;
    swin_dev_close(ref);
    swin_dev_close(gpu);
    swin_dev_close(gpu_tf32);
    if (skipped) print_message("skipped: %d tests need a GPU\n", skipped);
    return 0;
}

/* An argument chooses tests by name, as cmocka's filter does: "test_atten*". */
int main(int argc, char **argv)
{
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear),          cmocka_unit_test(test_linear_rows),
        cmocka_unit_test(test_norms),           cmocka_unit_test(test_elementwise),
        cmocka_unit_test(test_patch_embed),     cmocka_unit_test(test_attention),
        cmocka_unit_test(test_tiles),           cmocka_unit_test(test_halves),
        cmocka_unit_test(test_normalise_heads), cmocka_unit_test(test_observers),
        cmocka_unit_test(test_observing),       cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
