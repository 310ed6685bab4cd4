/* quant/export_json.h - JSON files of exporters. */
#ifndef SWIN_QUANT_EXPORT_JSON_H
#define SWIN_QUANT_EXPORT_JSON_H

#include <jansson.h>

#include "runtime/base/status.h"

/* Write atomically: two-space indent, insertion order, reals with the 9 digits that give a float32 back. */
swin_status swin_export_write_json(const char *path, const json_t *root);

#endif
