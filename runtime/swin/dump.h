/* runtime/swin/dump.h - a file of logits and layer outputs, made for comparing engines.
 *
 * Layout (HDF5), schema 1
 *   /                attributes: dump_schema, tool, engine, model, checkpoint_sha256, image_list_sha256,
 *                    images, dump_images
 *   /labels          int64 [images]
 *   /names           uint8: the images' paths inside the data set, each followed by a newline
 *   /E/logits        float32 [images][classes]; E: fp32, fp16, bf16, int8, int8-sim
 *   /E/taps/MODULE   float32 [dump_images][tokens][channels] in image order (token = y * side + x); MODULE:
 *                    patch_embed, every block ("layers.2.blocks.5") and merge ("layers.0.downsample"), norm
 *
 * Row i of two dumps is the same picture when their image_list_sha256 are equal; then their rows subtract.
 * The file depends on the inputs alone, byte for byte: not on the batch size.
 */
#ifndef SWIN_SWIN_DUMP_H
#define SWIN_SWIN_DUMP_H

#include "runtime/swin/outputs.h"

/* Most images whose layer outputs one dump holds. Rows of logits are written in blocks of as many. */
#define SWIN_DUMP_IMAGES_MAX 256

typedef struct swin_dump swin_dump;

/* A new file with room for the named engines. c and the names themselves must outlive the dump. */
swin_status swin_dump_create(swin_dump **d, const char *path, const swin_config *c, const char *const *names,
                             int engines);

/* One image's output i of an engine, image by image in list order. */
swin_status swin_dump_output(swin_dump *d, int engine, int i, const float *x, int64_t rows, int64_t cols);

/* The next image: logits[e] points at the row of engine e. */
swin_status swin_dump_image(swin_dump *d, const char *name, int label, const float *const *logits);

/* Root attributes, then the rename. */
swin_status swin_dump_commit(swin_dump *d, const char *engine, const char *checkpoint_sha256,
                             const char *image_list_sha256);
void swin_dump_close(swin_dump *d); /* an uncommitted file vanishes; NULL is fine */

#endif
