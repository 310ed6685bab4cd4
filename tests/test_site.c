/* The list of sites: counts, order, names that read back. */
#include "runtime/swin/site.h"
#include "tests/support/testing.h"

static swin_config with_depth(int stage2)
{
    swin_config c = swin_config_default();
    c.depths[2] = stage2;
    return c;
}

static void test_counts(void **state)
{
    (void)state;
    const swin_config tiny = with_depth(6), small = with_depth(18);
    CHECK(swin_site_count(&tiny) == 285, "%d", swin_site_count(&tiny));
    CHECK(swin_site_count(&small) == 561, "%d", swin_site_count(&small));
    swin_config one = with_depth(6);
    one.num_stages = 1;
    CHECK(swin_site_count(&one) == 46, "%d", swin_site_count(&one));
    swin_config v2 = with_depth(6);
    v2.family = SWIN_V2;
    CHECK(swin_site_count(&v2) == 285 + 2 * 12, "V2: %d", swin_site_count(&v2));
}

/* How many sites the int8 modes find on: swin.md 4.1's 201, and the 15 of them that mode 2 switches off. */
static void test_roles(void **state)
{
    (void)state;
    const swin_config c = with_depth(6);
    int on = 0, wide = 0, weights = 0;
    for (int i = 0; i < swin_site_count(&c); i++) {
        const swin_site_role r = swin_site_role_of(swin_site_at(&c, i));
        CHECK(r != SWIN_ROLE_OUTPUT, "site %d is an output", i);
        on += r != SWIN_ROLE_OFF;
        wide += r == SWIN_ROLE_AFTERGEMM_WIDE;
        weights += r == SWIN_ROLE_WEIGHT;
    }
    CHECK(on == 201 && wide == 15 && weights == 51, "%d on, %d wide, %d weights", on, wide, weights);
}

static void round_trip(swin_family family)
{
    swin_config c = with_depth(18);
    c.family = family;
    for (int i = 0; i < swin_site_count(&c); i++) {
        char name[SWIN_SITE_NAME_MAX];
        const swin_site s = swin_site_at(&c, i);
        swin_site_name(s, name);
        CHECK(swin_site_index(&c, s) == i, "%s: index %d instead of %d", name, swin_site_index(&c, s), i);
        CHECK(swin_site_find(&c, name) == s, "%s is not found by its name", name);
    }
    const int beyond = family == SWIN_V2 ? 561 + 48 : 561;
    CHECK(swin_site_at(&c, -1) == SWIN_NO_SITE && swin_site_at(&c, beyond) == SWIN_NO_SITE, "out of range");
    const swin_site q = swin_site_find(&c, "layers.2.blocks.17.attn.mha_q");
    CHECK((q != SWIN_NO_SITE) == (family == SWIN_V2), "mha_q is V2's");
}

static void test_round_trip(void **state)
{
    (void)state;
    for (int family = SWIN_V1; family <= SWIN_V2; family++) round_trip((swin_family)family);
}

static void test_names(void **state)
{
    (void)state;
    static const struct {
        int index;
        const char *name;
    } names[] = {
        { 0, "layers.0.blocks.0.layernorm_input1" },
        { 1, "layers.0.blocks.0.attn.qkv._input" },
        { 8, "layers.0.blocks.0.attn.matmul_a" },
        { 22, "layers.0.blocks.0.add2_local" },
        { 23, "layers.0.blocks.1.layernorm_input1" },
        { 46, "layers.0.downsample.reduction._input" },
        { 48, "layers.0.downsample.reduction._aftergemm" },
        { 49, "layers.1.blocks.0.layernorm_input1" },
        { 284, "layers.3.blocks.1.add2_local" },
    };
    static const char *const outputs[] = { "patch_embed", "layers.2.blocks.5", "layers.0.downsample", "norm",
                                           "head" };
    static const char *const none[] = { "",
                                        "layers.3.downsample.reduction._input",
                                        "layers.2.blocks.6.attn.qkv._input",
                                        "layers.4.blocks.0.attn.qkv._input",
                                        "layers.0.blocks.0.attn.qkv",
                                        "layers.00.blocks.0.attn.qkv._input",
                                        "layers.256.blocks.0.attn.qkv._input",
                                        "layers.-1.blocks.0.attn.qkv._input",
                                        "layers.1.norm",
                                        "layers.0.blocks.0.attn.qkv._input " };
    const swin_config c = with_depth(6);
    char text[SWIN_SITE_NAME_MAX];
    for (size_t i = 0; i < SWIN_COUNT(names); i++) {
        swin_site_name(swin_site_at(&c, names[i].index), text);
        CHECK(strcmp(text, names[i].name) == 0, "site %d is %s", names[i].index, text);
    }
    for (size_t i = 0; i < SWIN_COUNT(outputs); i++) {
        const swin_site s = swin_site_find(&c, outputs[i]);
        CHECK(s != SWIN_NO_SITE && swin_site_role_of(s) == SWIN_ROLE_OUTPUT, "%s", outputs[i]);
        CHECK(swin_site_index(&c, s) == -1, "%s is no observer site", outputs[i]);
    }
    for (size_t i = 0; i < SWIN_COUNT(none); i++)
        CHECK(swin_site_find(&c, none[i]) == SWIN_NO_SITE, "'%s' is found", none[i]);
    swin_site_module(swin_site_make(2, 5, SWIN_SITE_FC2_AFTERGEMM), text);
    CHECK(strcmp(text, "layers.2.blocks.5.mlp.fc2") == 0, "%s", text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_roles),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
