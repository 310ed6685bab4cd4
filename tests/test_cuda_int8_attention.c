/* Attention of the cuda backend's integer network against ref, on forced inputs. As test_cuda_int8
 * otherwise. */
#include "tests/support/gpu_pair.h"

/* own: every head of q, k and v has a scale of its own, up to an eighth of the tensor's. */
static void attention_of(swin_rng *rng, int images, int window, int heads, int d, int shift,
                         swin_softmax kind, swin_dtype t, fill f, bool own)
{
    char what[128];
    const swin_windows g = {
        .images = brief ? 1 : images,
        .height = (brief && window > 8 ? 1 : 2) * window,
        .width = (brief ? 2 : 3) * window,
        .window = window,
        .shift = shift,
    };
    const int64_t rows = swin_windows_tokens(&g);
    const int n = window * window, c = heads * d;
    snprintf(what, sizeof what, "attention_s8 window %d, %d heads of %d, shift %d, softmax %d, %s, fill %d%s",
             window, heads, d, shift, (int)kind, swin_dtype_name(t), (int)f, own ? ", scales of heads" : "");
    pair q = codes(rng, rows, c, 3 * c, 0.02f, 0, f), k = codes(rng, rows, c, 3 * c, 0.03f, 0, f),
         v = codes(rng, rows, c, c + 16, 0.025f, 0, f), out = make(t, rows, c, c + (t == SWIN_S8 ? 16 : 8));
    /* Coarser than v: one code of the softmax at a tie moves one step at most. And no simple multiple of v's
     * scale: with 0.02, one sum in 508 would lie half way between two codes, as no scale of a real network
     * has it. */
    how(&out, 0.0303f, 0, -127);
    bias_mask b = tables(rng, heads, n, swin_windows_per_image(&g));
    const float scale = 1 / sqrtf((float)d);
    const swin_attention ar = { heads, d, scale, b.bias, shift ? b.mask : NULL, kind },
                         ag = { heads, d, scale, b.bias_d, shift ? b.mask_d : NULL, kind };
    swin_tensor h[3] = { q.h, k.h, v.h }, dev[3] = { q.d, k.d, v.d };
    float *factor[3] = { 0 }, *factor_d[3] = { 0 };
    for (int i = 0; own && i < 3; i++) {
        h[i].shrink = factor[i] = head_factors(rng, c, d, 1, &factor_d[i]);
        dev[i].shrink = factor_d[i];
    }
    CHECK_OK(ref->ops->attention_s8(ref, &out.h, h, &ar, 1.0f / 127, &g));
    CHECK_OK(gpu->ops->attention_s8(gpu, &out.d, dev, &ag, 1.0f / 127, &g));
    if (t == SWIN_S8)
        compare_codes(&out, what);
    else /* single codes of the softmax may fall to the other side of a tie */
        compare_floats(&out, one_rounding(t) + 2e-4, what);
    tables_free(&b);
    for (int i = 0; i < 3; i++) free(factor[i]), gpu->ops->free(gpu, factor_d[i]);
    drop(&q), drop(&k), drop(&v), drop(&out);
}

static void one_attention(swin_rng *rng, int images, int window, int heads, int d, int shift,
                          swin_softmax kind, swin_dtype t, fill f)
{
    attention_of(rng, images, window, heads, d, shift, kind, t, f, false);
}

static void test_attention(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 35 };
    for (int kind = 0; kind < 2; kind++) {
        const swin_softmax s = kind ? SWIN_SOFTMAX_U8 : SWIN_SOFTMAX_EXACT;
        one_attention(&rng, 2, 7, 3, 32, 0, s, SWIN_S8, RANDOM);
        one_attention(&rng, 2, 7, 6, 32, 3, s, SWIN_S8, RANDOM);
        one_attention(&rng, 2, 7, 1, 32, 3, s, SWIN_S8, EXTREME);
        one_attention(&rng, 2, 7, 2, 32, 3, s, SWIN_S8, HIGH);
        one_attention(&rng, 2, 7, 4, 32, 3, s, SWIN_F16, RANDOM);
        one_attention(&rng, 2, 7, 4, 32, 3, s, SWIN_F32, RANDOM);
        one_attention(&rng, 2, 7, 4, 32, 3, s, SWIN_BF16, RANDOM);
        one_attention(&rng, 2, 8, 4, 32, 4, s, SWIN_S8, RANDOM);
        one_attention(&rng, 2, 12, 3, 32, 6, s, SWIN_S8, RANDOM);
        one_attention(&rng, 2, 12, 2, 32, 6, s, SWIN_S8, HIGH);
        one_attention(&rng, 2, 12, 2, 32, 0, s, SWIN_F16, EXTREME);
        one_attention(&rng, 2, 7, 2, 24, 3, s, SWIN_S8, RANDOM);
        one_attention(&rng, 2, 5, 2, 17, 2, s, SWIN_S8, RANDOM);
        one_attention(&rng, 2, 5, 2, 17, 2, s, SWIN_F16, RANDOM);
        one_attention(&rng, 2, 16, 1, 32, 8, s, SWIN_S8, RANDOM);
        one_attention(&rng, 2, 24, 1, 32, 12, s, SWIN_S8, RANDOM);
        one_attention(&rng, 2, 2, 1, 4, 1, s, SWIN_S8, RANDOM);
        one_attention(&rng, 2, 8, 4, 24, 4, s, SWIN_S8, RANDOM);
        one_attention(&rng, 2, 8, 2, 24, 0, s, SWIN_F16, EXTREME);
        one_attention(&rng, 2, 16, 1, 24, 8, s, SWIN_S8, HIGH);
        if (brief) continue;
        /* enough images for blocks that walk several */
        one_attention(&rng, 25, 8, 12, 32, 4, s, SWIN_S8, RANDOM);
        one_attention(&rng, 17, 12, 4, 32, 6, s, SWIN_S8, RANDOM);
        one_attention(&rng, 13, 16, 3, 32, 8, s, SWIN_S8, RANDOM);
        one_attention(&rng, 5, 24, 1, 32, 12, s, SWIN_S8, EXTREME);
        judge(kind ? "attention_s8, u8 softmax" : "attention_s8, exact softmax");
    }
}

/* Every kernel, and blocks that walk several images. Windows of 576 tokens as codes: in a head of small scores every
 * probability is near half a step, and one that falls the other way is a fiftieth of its row. */
static void test_own_scales(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 40 };
    static const struct {
        int images, window, heads, d, shift;
        swin_dtype t;
    } cases[] = {
        { 2, 7, 3, 32, 3, SWIN_S8 },   { 2, 7, 6, 32, 0, SWIN_F32 },  { 2, 8, 4, 32, 4, SWIN_S8 },
        { 2, 12, 3, 32, 6, SWIN_S8 },  { 2, 8, 4, 24, 4, SWIN_S8 },   { 2, 16, 3, 32, 8, SWIN_S8 },
        { 2, 24, 2, 32, 12, SWIN_S8 }, { 2, 5, 2, 17, 2, SWIN_S8 },   { 2, 7, 2, 24, 3, SWIN_F16 },
        { 25, 7, 12, 32, 3, SWIN_S8 }, { 17, 12, 4, 32, 6, SWIN_S8 },
    };
    for (int kind = 0; kind < 2; kind++) {
        for (size_t i = 0; i < (brief ? 6 : SWIN_COUNT(cases)); i++)
            attention_of(&rng, cases[i].images, cases[i].window, cases[i].heads, cases[i].d, cases[i].shift,
                         kind ? SWIN_SOFTMAX_U8 : SWIN_SOFTMAX_EXACT, cases[i].t, RANDOM, true);
        judge(kind ? "scales of heads, u8 softmax" : "scales of heads, exact softmax");
    }
}

/* q, k and v of a product, each head's codes with its scale; after > 0: rounded before the bias, which no lean kernel does
 * for such codes. */
static void one_product(swin_rng *rng, int64_t rows, int heads, float after)
{
    char what[96];
    const int c = 32 * heads;
    const float size = typical(c, 0.03f);
    snprintf(what, sizeof what, "q, k, v of %lld rows, %d heads, rounded to %g", (long long)rows, heads,
             (double)after);
    pair x = codes(rng, rows, c, c, 0.03f, 0, RANDOM), y = make(SWIN_S8, rows, 3 * c, 3 * c);
    layer l = layer_make(rng, 3 * c, c, 0, true, RANDOM);
    swin_tensor h[3], d[3];
    float *factor[3], *factor_d[3];
    how(&y, after > 0 ? size / 5 : size / 20, 0, -127); /* a step before the bias is less than one after it */
    for (int i = 0; i < 3; i++) {
        h[i] = swin_columns(&y.h, i * c, c), d[i] = swin_columns(&y.d, i * c, c);
        h[i].shrink = factor[i] = head_factors(rng, c, 32, 0.5, &factor_d[i]);
        d[i].shrink = factor_d[i];
    }
    CHECK_OK(ref->ops->linear_s8(ref, h, 3, &x.h, &l.r, after * size, SWIN_ACT_NONE));
    CHECK_OK(gpu->ops->linear_s8(gpu, d, 3, &x.d, &l.g, after * size, SWIN_ACT_NONE));
    compare_codes(&y, what);
    for (int i = 0; i < 3; i++) free(factor[i]), gpu->ops->free(gpu, factor_d[i]);
    layer_free(&l);
    drop(&x), drop(&y);
}

static void test_own_products(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 41 };
    one_product(&rng, 300, 3, 0);
    one_product(&rng, 97, 4, 0);
    one_product(&rng, 49, 6, 0);
    if (!brief) one_product(&rng, 2500, 12, 0);
    judge("q, k, v with scales of heads");
    one_product(&rng, 300, 3, 0.0317f);
    judge("the same, rounded before the bias");
}

/* ---- Swin V2's heads
 * ---------------------------------------------------------------------------------------------- */

static void test_heads(void **state)
{
    (void)state;
    NEED_GPU();
    swin_rng rng = { 38 };
    static const int shapes[][2] = { { 3, 32 }, { 6, 32 }, { 2, 24 }, { 1, 5 } };
    for (size_t i = 0; i < SWIN_COUNT(shapes); i++)
        for (int form = 0; form < 4; form++) {
            const int heads = shapes[i][0], c = heads * shapes[i][1];
            float *scale_d, *scale = vector(&rng, heads, 10, 3, &scale_d);
            pair x = form < 2 ? codes(&rng, 97, c, 3 * c, 0.02f, 0, RANDOM)
                              : floats(&rng, SWIN_F32, 97, c, 3 * c, form == 2 ? 1 : 0),
                 y = make(SWIN_S8, 97, c, c + 8);
            how(&y, form % 2 ? 0.01f : 0.05f, 0, -127);
            float *factor_d, *factor = head_factors(&rng, c, shapes[i][1], 0.5, &factor_d);
            if (form > 1) y.h.shrink = factor, y.d.shrink = factor_d;
            CHECK_OK(ref->ops->normalise_heads(ref, &y.h, &x.h, heads, form % 2 ? NULL : scale));
            CHECK_OK(gpu->ops->normalise_heads(gpu, &y.d, &x.d, heads, form % 2 ? NULL : scale_d));
            compare_codes(&y, "normalise_heads");
            gpu->ops->free(gpu, scale_d), gpu->ops->free(gpu, factor_d);
            free(scale), free(factor);
            drop(&x), drop(&y);
        }
    judge("normalise_heads");
}

/* An argument chooses tests by name, as cmocka's filter does: "test_atten*". */
int main(int argc, char **argv)
{
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_own_scales),
        cmocka_unit_test(test_own_products),
        cmocka_unit_test(test_heads),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
