/* The parameter list: official order, shapes, counts; the block's views; the hash's definition. */
#include "runtime/swin/weights.h"
#include "tests/support/testing.h"

static swin_config configured(const char *name)
{
    swin_config c;
    char path[1024];
    snprintf(path, sizeof path, "%s/configs/%s.yaml", SWIN_SOURCE_DIR, name);
    CHECK_OK(swin_config_load(&c, path, NULL));
    return c;
}

/* Parameters (with 1000 classes) and entries of swin.md sections 1 and 2. */
static void count_of(const swin_config *c, size_t params, size_t entries)
{
    swin_param *list;
    size_t n, total = 0;
    CHECK_OK(swin_weights_list(c, NULL, &list, &n));
    for (size_t i = 0; i < n; i++) total += list[i].count;
    CHECK(total == params && n == entries, "%s: %zu parameters in %zu entries", c->name, total, n);
    free(list);
}

static void test_counts(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        size_t params, entries;
    } v1[] = {
        { "swin_tiny_patch4_window7_224", 28288354, 173 },
        { "swin_small_patch4_window7_224", 49606258, 329 },
        { "swin_base_patch4_window7_224", 87768224, 329 },
        { "swin_base_patch4_window12_384_finetune", 87903584, 329 },
        { "swin_large_patch4_window7_224_22kto1k_finetune", 196532476, 329 },
        { "swin_large_patch4_window12_384_22kto1k_finetune", 196735516, 329 },
    };
    for (size_t i = 0; i < SWIN_COUNT(v1); i++) {
        const swin_config c = configured(v1[i].name);
        count_of(&c, v1[i].params, v1[i].entries);
    }
    static const char v2[] = "DATA: {IMG_SIZE: 256}\nMODEL: {TYPE: swinv2, SWINV2: {WINDOW_SIZE: 8}}\n";
    swin_config c;
    CHECK_OK(swin_config_parse(&c, v2, sizeof v2 - 1, "v2"));
    count_of(&c, 28347154, 250 - 12 - 12 - 5); /* of 250 entries: tables, indices, masks of stages 0 to 2 */
}

static void test_order(void **state)
{
    (void)state;
    static const struct {
        int at, ndim;
        const char *key;
        int64_t shape[4];
    } rows[] = {
        { 0, 4, "patch_embed.proj.weight", { 96, 3, 4, 4 } },
        { 3, 1, "patch_embed.norm.bias", { 96 } },
        { 4, 1, "layers.0.blocks.0.norm1.weight", { 96 } },
        { 6, 2, "layers.0.blocks.0.attn.relative_position_bias_table", { 169, 3 } },
        { 7, 2, "layers.0.blocks.0.attn.qkv.weight", { 288, 96 } },
        { 11, 1, "layers.0.blocks.0.norm2.weight", { 96 } },
        { 15, 2, "layers.0.blocks.0.mlp.fc2.weight", { 96, 384 } },
        { 30, 2, "layers.0.downsample.reduction.weight", { 192, 384 } },
        { 31, 1, "layers.0.downsample.norm.weight", { 384 } },
        { 169, 1, "norm.weight", { 768 } },
        { 171, 2, "head.weight", { 1000, 768 } },
        { 172, 1, "head.bias", { 1000 } },
    };
    const swin_config c = swin_config_default();
    swin_param *list;
    size_t n;
    CHECK_OK(swin_weights_list(&c, NULL, &list, &n));
    for (size_t i = 0; i < SWIN_COUNT(rows); i++) {
        const swin_param *p = &list[rows[i].at];
        CHECK(strcmp(p->key, rows[i].key) == 0, "entry %d is %s", rows[i].at, p->key);
        CHECK(p->ndim == rows[i].ndim && memcmp(p->shape, rows[i].shape, sizeof p->shape) == 0, "%s: shape",
              p->key);
    }
    free(list);
}

static void test_options(void **state)
{
    (void)state;
    swin_config c = swin_config_default();
    swin_weights w;
    c.qkv_bias = false;
    c.patch_norm = false;
    c.mlp_ratio = 2.5;
    count_of(&c,
             28288354 - 3 * (2 * 96 + 2 * 192 + 6 * 384 + 2 * 768) - 2 * 96 -
                 3 * (2 * 96 * 96 + 2 * 192 * 192 + 6 * 384 * 384 + 2 * 768 * 768) -
                 3 * (2 * 96 + 2 * 192 + 6 * 384 + 2 * 768) / 2,
             173 - 12 - 2);
    CHECK_OK(swin_weights_create(&w, &c));
    CHECK(!w.patch_norm_weight && !w.stages[0].blocks[0].qkv_bias && !w.stages[0].blocks[0].logit_scale,
          "NULL views");
    CHECK(!w.stages[3].reduction_weight, "the last stage merges nothing");
    swin_weights_free(&w);
}

/* Views lie side by side in official order, a clone is independent, and the hash sees numbers, keys and shapes. */
static void test_block(void **state)
{
    (void)state;
    static const char text[] =
        "DATA: {IMG_SIZE: 28}\nMODEL: {NUM_CLASSES: 3, SWIN: {EMBED_DIM: 8, DEPTHS: [2], "
        "NUM_HEADS: [2]}}\n";
    swin_config c;
    swin_weights w, copy;
    swin_param *list;
    size_t n;
    char a[SWIN_SHA256_HEX], b[SWIN_SHA256_HEX];
    CHECK_OK(swin_config_parse(&c, text, sizeof text - 1, "text"));
    CHECK_OK(swin_weights_create(&w, &c));
    CHECK_OK(swin_weights_list(&c, &w, &list, &n));
    const float *at = w.block;
    for (size_t i = 0; i < n; at += list[i].count, i++)
        CHECK(*list[i].slot == at, "%s is out of order", list[i].key);
    CHECK(at == w.block + w.count, "count");
    for (size_t i = 0; i < w.count; i++) CHECK(w.block[i] == 0, "not zeroed");
    for (size_t i = 0; i < w.count; i++) w.block[i] = (float)i / 64;
    CHECK_OK(swin_weights_clone(&copy, &w, &c));
    CHECK_OK(swin_weights_sha256(&c, &w, a));
    CHECK_OK(swin_weights_sha256(&c, &copy, b));
    CHECK(strcmp(a, b) == 0, "a clone hashes alike");
    copy.stages[0].blocks[1].fc2_bias[7] += 0x1p-17f;
    CHECK_OK(swin_weights_sha256(&c, &copy, b));
    CHECK(strcmp(a, b) != 0 && w.stages[0].blocks[1].fc2_bias[7] != copy.stages[0].blocks[1].fc2_bias[7],
          "the hash misses one bit, or the clone shares memory");
    /* The definition, spelled out: key, zero, ndim, dimensions, values. */
    swin_sha256 *h;
    unsigned char digest[SWIN_SHA256_BYTES];
    CHECK_OK(swin_sha256_begin(&h));
    for (size_t i = 0; i < n; i++) {
        const int64_t ndim = list[i].ndim;
        CHECK_OK(swin_sha256_add(h, list[i].key, strlen(list[i].key) + 1));
        CHECK_OK(swin_sha256_add(h, &ndim, 8));
        CHECK_OK(swin_sha256_add(h, list[i].shape, 8 * (size_t)ndim));
        CHECK_OK(swin_sha256_add(h, *list[i].slot, 4 * list[i].count));
    }
    CHECK_OK(swin_sha256_end(h, digest));
    swin_sha256_hex(b, digest);
    CHECK(strcmp(a, b) == 0, "%s instead of %s", a, b);
    swin_sha256_free(h);
    free(list);
    swin_weights_free(&w);
    swin_weights_free(&copy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_block),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
