/* Write a network of trained-like seeded weights under another library's names, for shell tests.
 *
 * usage: tool_form CFG.yaml OUT.safetensors official|timm|timm-old|torchvision|transformers|transformers-5
 *                  [no-head] [buffers]
 */
#include <stdio.h>
#include <string.h>

#include "runtime/base/log.h"
#include "tests/support/forms.h"
#include "tests/support/trained.h"

static const char *const forms[] = { "official",    "timm",         "timm-old",
                                     "torchvision", "transformers", "transformers-5" };
_Static_assert(SWIN_COUNT(forms) == SWIN_FORM_COUNT, "a word for every form");

int main(int argc, char **argv)
{
    int form = 0;
    while (argc > 3 && form < SWIN_FORM_COUNT && strcmp(forms[form], argv[3]) != 0) form++;
    if (argc < 4 || form == SWIN_FORM_COUNT) {
        fprintf(stderr, "usage: %s CFG.yaml OUT.safetensors FORM [no-head] [buffers]\n", argv[0]);
        return 2;
    }
    swin_form_opts o = { 0 };
    for (int i = 4; i < argc; i++) {
        o.no_head = o.no_head || strcmp(argv[i], "no-head") == 0;
        o.buffers = o.buffers || strcmp(argv[i], "buffers") == 0;
    }
    swin_config c;
    swin_weights w = { 0 };
    swin_status st = swin_config_load(&c, argv[1], NULL);
    if (st == SWIN_OK) st = swin_trained_weights(&w, &c, 1);
    if (st == SWIN_OK) st = swin_form_write(argv[2], &c, &w, (swin_form)form, &o);
    swin_weights_free(&w);
    return swin_report(st);
}
