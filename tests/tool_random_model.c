/* Write a network of seeded random weights, for tests of everything but accuracy.
 *
 * usage: tool_random_model CFG.yaml OUT.safetensors [SEED [FAULT]]
 * LayerNorm gains are near 1, other weights small, so that activations stay of order 1. FAULT "overflow"
 * makes the head so large that its products leave float16's range.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/rng.h"
#include "runtime/swin/checkpoint.h"

static bool ends_with(const char *text, const char *ending)
{
    const size_t n = strlen(text), m = strlen(ending);
    return n >= m && strcmp(text + n - m, ending) == 0;
}

static void fill(const swin_param *p, swin_rng *r, bool overflow)
{
    const bool gain = strstr(p->key, "norm") && ends_with(p->key, ".weight");
    const bool head = strcmp(p->key, "head.weight") == 0;
    /* A Linear keeps the size of its input when its weights have a variance of 1 / inputs. */
    const double inputs = p->ndim > 1 ? (double)(p->count / (size_t)p->shape[0]) : 100;
    const double sd = ends_with(p->key, "bias_table") ? 0.5 : 1 / sqrt(inputs),
                 scale = overflow && head ? 1e6 : 1;
    for (size_t i = 0; i < p->count; i++)
        (*p->slot)[i] = (float)(gain ? 1 + 0.2 * swin_rng_normal(r) : scale * sd * swin_rng_normal(r));
}

int main(int argc, char **argv)
{
    if (argc < 3 || argc > 5) {
        fprintf(stderr, "usage: %s CFG.yaml OUT.safetensors [SEED [overflow]]\n", argv[0]);
        return 2;
    }
    swin_config c;
    swin_weights w = { 0 };
    swin_param *list = NULL;
    size_t count = 0;
    swin_rng r = { .state = argc > 3 ? strtoull(argv[3], NULL, 10) : 1 };
    const bool overflow = argc > 4 && strcmp(argv[4], "overflow") == 0;
    swin_status st = swin_config_load(&c, argv[1], NULL);
    if (st == SWIN_OK) st = swin_weights_create(&w, &c);
    if (st == SWIN_OK) st = swin_weights_list(&c, &w, &list, &count);
    for (size_t i = 0; st == SWIN_OK && i < count; i++) fill(&list[i], &r, overflow);
    if (st == SWIN_OK) st = swin_weights_save(&w, &c, argv[2]);
    free(list);
    swin_weights_free(&w);
    return swin_report(st);
}
