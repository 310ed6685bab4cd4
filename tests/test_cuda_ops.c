/* The cuda backend's float operators one by one against ref: every type, odd shapes and every stage's. Without a GPU each
 * test is skipped, and the last line says how many. */
#include "tests/support/gpu_float.h"

#if SWIN_WITH_CUDA
#include "runtime/ops/kernels/cuda_dev.h"
#endif

/* ---- linear
 * ------------------------------------------------------------------------------------------------------ */

static double length(const float *v, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)v[i] * (double)v[i];
    return sqrt(sum);
}

static swin_dev *open_tf32(void)
{
    swin_dev *dev;
    CHECK_OK(swin_dev_open(&dev, "cuda", &(swin_dev_opts){ .tf32 = true }));
    return dev;
}

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
    pair x = floats(rng, types[t], m, k, k % 8 ? k : k + 8, 1),
         y = residual ? floats(rng, types[t], m, n, n + 8, 1) : make(types[t], m, n, n + 8);
    swin_linear lr, lg;
    CHECK_OK(ref->ops->linear_prepare(ref, &lr, w, b, n, k, SWIN_F32));
    CHECK_OK(dev->ops->linear_prepare(dev, &lg, w, b, n, k, types[t]));
    const double terms = fmax(residual ? length(numbers(&y), m * n) : 0, length(b, n) * sqrt((double)m));
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
    const double sum = length(numbers(&y), m * n), e = error_of(&y, "linear") * sum / fmax(sum, terms);
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
    swin_dev *tf32 = open_tf32();
    for (size_t s = 0; s < SWIN_COUNT(linears); s++) one_linear(&rng, tf32, 0, s, SWIN_ACT_NONE, false, 5e-4);
    swin_dev_close(tf32);
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
    swin_dev *tf32 = open_tf32();
    for (size_t t = 0; t < 4; t++)
        for (size_t s = 0; s < SWIN_COUNT(shapes); s++) {
            swin_dev *dev = t == 3 ? tf32 : gpu;
            const swin_dtype type = t == 3 ? SWIN_F32 : types[t];
            const int n = shapes[s][0], k = shapes[s][1], most = brief ? 150 : n > 384 ? 3000 : 20000;
            const int rows[] = { 1, 49, 130, 1000, most };
            if (brief && n > 384) continue;
            float *w = malloc((size_t)n * (size_t)k * sizeof *w);
            CHECK(w != NULL, "no memory");
            swin_fill_normal(&rng, w, (size_t)n * (size_t)k, 1 / sqrt(k));
            pair x = floats(&rng, type, most, k, k, 1), y = make(type, most, n, n);
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
                float *now = values_of(&y, "linear");
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
    swin_dev_close(tf32);
}

#if SWIN_WITH_CUDA
/* Every tile there is gives the same bits: tuning can change the time alone. */
static void one_tile_set(swin_rng *rng, swin_dev *dev, swin_gemm_math math, size_t t, int n, int k)
{
    enum { M = 300 };
    swin_cuda *d = swin_cuda_of(dev);
    pair x = floats(rng, types[t], M, k, k, 1), w = floats(rng, types[t], n, k, k, 1 / sqrt(k)),
         y = make(types[t], M, n, n);
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
        float *now = values_of(&y, swin_gemm_config_name(math, c));
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
    swin_dev *tf32 = open_tf32();
    for (size_t s = brief ? 1 : 0; s < (brief ? 3 : SWIN_COUNT(shapes)); s++) {
        const int n = shapes[s][0], k = shapes[s][1];
        one_tile_set(&rng, gpu, SWIN_GEMM_FP32, 0, n, k);
        one_tile_set(&rng, tf32, SWIN_GEMM_TF32, 0, n, k);
        one_tile_set(&rng, gpu, SWIN_GEMM_F16, 1, n, k);
        one_tile_set(&rng, gpu, SWIN_GEMM_BF16, 2, n, k);
    }
    swin_dev_close(tf32);
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
    pair x = floats(rng, types[t], rows, c, c + 16, 2),
         y = make(types[t], form == 2 ? rows / 4 : rows, cols, cols);
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
            pair y = floats(&rng, types[t], rows, c, c + 8, 2), z = floats(&rng, types[t], rows, c, c, 1);
            float *bias_d, *bias = vector(&rng, c, 0, 1, &bias_d);
            CHECK_OK(ref->ops->bias_act(ref, &y.h, bias, SWIN_ACT_GELU));
            CHECK_OK(gpu->ops->bias_act(gpu, &y.d, bias_d, SWIN_ACT_GELU));
            WITHIN(error_of(&y, "bias_act"), tolerance[t], "bias_act %d", c);
            CHECK_OK(ref->ops->residual_add(ref, &y.h, &z.h, &g));
            CHECK_OK(gpu->ops->residual_add(gpu, &y.d, &z.d, &g));
            WITHIN(error_of(&y, "residual_add"), 1.5 * tolerance[t], "residual_add %d", c);
            if (types[t] == SWIN_F32) {
                numbers(&z)[5] = 0.5f, numbers(&z)[6] = 1.5f, numbers(&z)[7] = -2.5f, numbers(&z)[8] = 1e30f,
                numbers(&z)[9] = -INFINITY;
                put(&z);
                CHECK_OK(ref->ops->fake_quant(ref, &z.h, 0.0371f, 3, -128, 127));
                CHECK_OK(gpu->ops->fake_quant(gpu, &z.d, 0.0371f, 3, -128, 127));
                WITHIN(error_of(&z, "fake_quant"), 0, "fake_quant differs");
                swin_fill_normal(&rng, numbers(&z), (size_t)(rows * c), 100);
                put(&z);
                CHECK_OK(ref->ops->round_to(ref, &z.h, c == 37 ? SWIN_F16 : SWIN_BF16));
                CHECK_OK(gpu->ops->round_to(gpu, &z.d, c == 37 ? SWIN_F16 : SWIN_BF16));
                WITHIN(error_of(&z, "round_to"), 0, "round_to differs");
            }
            pair mean = make(types[t], rows / 49, c, c);
            swin_fill_normal(&rng, numbers(&z), (size_t)(rows * c), 1);
            for (int64_t i = 0; i < rows * c; i++) numbers(&z)[i] = swin_round_to(numbers(&z)[i], types[t]);
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
            pair y = make(types[t], batch * 64, c, c);
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
            pair x = floats(&rng, types[t], cases[i].rows, c, c + 8, 3),
                 y = make(types[t], cases[i].rows, c, c);
            if (i == 0)
                memset(numbers(&x), 0, 32 * sizeof *numbers(&x)), put(&x); /* a head of zeros stays one */
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

/* An argument chooses tests by name, as cmocka's filter does: "test_atten*". */
int main(int argc, char **argv)
{
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear),          cmocka_unit_test(test_linear_rows),
        cmocka_unit_test(test_norms),           cmocka_unit_test(test_elementwise),
        cmocka_unit_test(test_patch_embed),     cmocka_unit_test(test_tiles),
        cmocka_unit_test(test_normalise_heads), cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
