/* Any bytes as a map file: a list of whole, labelled image names or an error. */
#include <stdlib.h>

#include "data/source.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    swin_list list = { 0 };
    int classes = 0;
    const swin_status st = swin_zip_map_parse(&list, &classes, (const char *)data, size, "map");
    if (st == SWIN_OK && (list.count == 0 || classes < 1)) abort();
    for (size_t i = 0; st == SWIN_OK && i < list.count; i++) {
        if (list.label[i] < 0 || list.label[i] >= classes) abort();
        if (!swin_is_image_name(list.text + list.offset[i])) abort();
    }
    swin_list_free(&list);
    return 0;
}
