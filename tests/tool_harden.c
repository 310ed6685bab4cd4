/* Make a Swin V1 checkpoint that is harder to quantize.
 *
 * usage: tool_harden IN OUT.safetensors KIND [SEED]
 *
 * KIND is `outputs`, or one of tests/support/harden.c's kinds, which leave the float network as it is. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/swin/checkpoint.h"
#include "runtime/swin/session.h"
#include "tests/support/harden.h"

static int usage(const char *name)
{
    fprintf(stderr, "usage: %s IN OUT.safetensors KIND [SEED]\n", name);
    for (const harden_kind *k = harden_kinds; k->name; k++) fprintf(stderr, "  %-8s %s\n", k->name, k->help);
    fprintf(stderr,
            "  outputs  another network: outputs of some channels of fc2 and merging 30 times as large\n");
    return 2;
}

int main(int argc, char **argv)
{
    const harden_kind *kind = argc > 3 ? harden_find(argv[3]) : NULL;
    if (argc < 4 || (!kind && strcmp(argv[3], "outputs") != 0)) return usage(argv[0]);
    const uint64_t seed = argc > 4 ? strtoull(argv[4], NULL, 10) : 1;
    swin_common common = SWIN_COMMON_DEFAULTS;
    common.resume = argv[1];
    swin_config c;
    swin_weights w = { 0 };
    swin_status st = swin_model_load(&w, &c, &common);
    if (st == SWIN_OK && c.family != SWIN_V1) st = swin_fail(SWIN_ERR_USAGE, "%s is no Swin V1", argv[1]);
    if (st == SWIN_OK && kind) harden_inputs(&w, &c, kind, seed);
    if (st == SWIN_OK && !kind) harden_outputs(&w, &c, seed);
    if (st == SWIN_OK) st = swin_weights_save(&w, &c, argv[2]);
    swin_weights_free(&w);
    return swin_report(st);
}
