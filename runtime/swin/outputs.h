/* runtime/swin/outputs.h - the tensors between modules, and a tap that hands them over in host memory.
 *
 * They are, in forward order: patch_embed, every block, every merge, the final norm: what can be compared
 * between engines that cut the network differently inside a block. Names are the module paths that
 * swin_site_name prints.
 */
#ifndef SWIN_SWIN_OUTPUTS_H
#define SWIN_SWIN_OUTPUTS_H

#include <stddef.h>

#include "runtime/swin/tap.h"

/* How many there are; the i-th, i in [0, count). */
int swin_output_count(const swin_config *c);
swin_site swin_output_at(const swin_config *c, int i);

/* The output that the site's block or merge makes: its number. A site of the whole model: -1. */
int swin_output_part(const swin_config *c, swin_site site);

/* x: host float32, dense [rows][cols] in image order; valid during the call. i: as for swin_output_at. */
typedef swin_status (*swin_output_fn)(void *user, int i, const float *x, int64_t rows, int64_t cols);

/* Buffers of the tap; zero it, set the first three, free it at the end. */
typedef struct swin_outputs {
    const swin_config *config;
    swin_output_fn fn;
    void *user;
    float *host; /* owned */
    void *raw;   /* owned: the rows as the device holds them */
    size_t host_size, raw_size;
} swin_outputs;

/* A tap over o, which must outlive it. Give it forwards of one image, so that each call covers a whole
 * tensor. */
swin_tap swin_outputs_tap(swin_outputs *o);
void swin_outputs_free(swin_outputs *o); /* a zeroed struct is fine */

#endif
