/* Attention and half blocks of the cuda backend's float network against ref. As test_cuda_ops otherwise. */
#include "tests/support/gpu_float.h"

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
    pair qkv = floats(rng, types[t], rows, 3 * c, 3 * c + 8, 1), out = make(types[t], rows, c, c);
    pair s = make(types[t], rows * heads, n, n), again = make(types[t], rows, c, c);
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
    float *whole = values_of(&out, "attention"), *parts = values_of(&again, "weighted_sum");
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

typedef struct float_layer {
    swin_linear r, g;
} float_layer;

static float_layer make_layer(swin_rng *rng, size_t t, int out, int in, bool with_bias)
{
    float_layer l;
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

static void drop_layer(float_layer *l)
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
    pair x = floats(rng, types[t], rows, c, c, 1), first = make(types[t], each, c, c);
    pair merged = make(types[t], rows / 4, 2 * c, 2 * c), merged1 = make(types[t], each / 4, 2 * c, 2 * c);
    float_layer qkv = make_layer(rng, t, 3 * c, c, true), proj = make_layer(rng, t, c, c, true);
    float_layer fc1 = make_layer(rng, t, 4 * c, c, true), fc2 = make_layer(rng, t, c, 4 * c, true);
    float_layer reduction = make_layer(rng, t, 2 * c, 4 * c, false);
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
    float *all = values_of(&x, "halves"), *alone = values_of(&first, "halves");
    CHECK(memcmp(all, alone, (size_t)(each * c) * sizeof *all) == 0,
          "%s, %d channels: an image among %d has other bits than alone", swin_dtype_name(types[t]), c,
          images);
    free(all), free(alone);
    if (g.height % 2 == 0) {
        CHECK_OK(gpu->ops->merge(gpu, &merged1.d, &first.d, &ng, &reduction.g, &one));
        all = values_of(&merged, "merge"), alone = values_of(&merged1, "merge");
        CHECK(memcmp(all, alone, (size_t)(each / 2 * c) * sizeof *all) == 0, "merge, %d channels: other bits",
              c);
        free(all), free(alone);
    }
    float_layer *layers[] = { &qkv, &proj, &fc1, &fc2, &reduction };
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

/* An argument chooses tests by name, as cmocka's filter does: "test_atten*". */
int main(int argc, char **argv)
{
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_halves),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
