/* runtime/swin/guess.h - the configuration that a checkpoint's tensors point to. */
#ifndef SWIN_SWIN_GUESS_H
#define SWIN_SWIN_GUESS_H

#include "runtime/swin/checkpoint.h"

/*
 * Read family, widths, depths, heads, window and class count off the tensors' names and shapes. The image size is what a
 * stored attention mask says, else the smallest that the windows of the last stage allow; TEST.CROP follows the official
 * files (384: squashed). NAME becomes an official one where variant and sizes match it.
 *
 * SWIN_ERR_MISMATCH says which tensor is not as a Swin has it; where only the window is unknown (timm and transformers do not
 * store Swin V2's), *c has everything else, and window 0.
 */
swin_status swin_config_guess(swin_config *c, const swin_ckpt *ck);

/* "tiny", "small", "base", "large" by width and depth, "tiny_c24" for four heads of 24; "custom" otherwise. */
const char *swin_config_variant(const swin_config *c);

/* The official files (configs/NAME.yaml) that describe this network, or with window 0 could: up to max names; returns how many. */
int swin_config_official(const swin_config *c, const char *names[], int max);

#endif
