#include "quant/toolkit.h"

#include <stdio.h>

void swin_toolkit_key(char key[SWIN_TOOLKIT_KEY_MAX], swin_site site)
{
    char name[SWIN_SITE_NAME_MAX];
    swin_site_name(site, name);
    const swin_site_kind k = swin_site_kind_of(site);
    const bool plain = k == SWIN_SITE_SOFTMAX_INPUT || k == SWIN_SITE_LAYERNORM_INPUT1 ||
                       k == SWIN_SITE_LAYERNORM_INPUT2;
    const swin_site_role role = swin_site_role_of(site);
    const bool operand = role == SWIN_ROLE_MATMUL || role == SWIN_ROLE_SOFTMAX ||
                         (role == SWIN_ROLE_OFF && !plain);
    snprintf(key, SWIN_TOOLKIT_KEY_MAX, "%s%s_quantizer._amax", name, operand ? "_input" : "");
}
