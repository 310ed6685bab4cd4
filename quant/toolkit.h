/* quant/toolkit.h - FasterTransformer's PyTorch toolkit: how its state dicts call a site's range. */
#ifndef SWIN_QUANT_TOOLKIT_H
#define SWIN_QUANT_TOOLKIT_H

#include "runtime/swin/site.h"

#define SWIN_TOOLKIT_KEY_MAX (SWIN_SITE_NAME_MAX + 32)

/* "<module>.<suffix>_quantizer._amax", where what feeds an operator other than a Linear or a LayerNorm is called an input once
 * more (reference/swin.md 4.1): "layers.0.blocks.0.attn.matmul_q_input_quantizer._amax". */
void swin_toolkit_key(char key[SWIN_TOOLKIT_KEY_MAX], swin_site site);

#endif
