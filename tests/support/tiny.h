/* tests/support/tiny.h - a network of a few thousand weights and a data set of made pictures, for tests that need both. */
#ifndef SWIN_TESTS_TINY_H
#define SWIN_TESTS_TINY_H

#include "runtime/swin/config.h"
#include "runtime/swin/weights.h"

/* 56 x 56 pixels, two stages of depth 2 and 1, 32 channels, window 7, 5 classes. */
swin_config swin_tiny_config(void);

/* Random weights of that network, or of another; activations stay of the order of one. */
swin_status swin_tiny_weights(swin_weights *w, uint64_t seed);
swin_status swin_tiny_weights_of(swin_weights *w, const swin_config *c, uint64_t seed);

/* FOLDER/model.yaml and FOLDER/model.safetensors. */
swin_status swin_tiny_write_model(const char *folder, uint64_t seed);

/* `count` PPM files in FOLDER/train/<class>/. */
swin_status swin_tiny_write_images(const char *folder, int count, uint64_t seed);
/* The same files, in the same order, as FOLDER/train.zip and train_map.txt. */
swin_status swin_tiny_write_zip(const char *folder, int count, uint64_t seed);

#endif
