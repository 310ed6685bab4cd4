/* Any bytes through both ways of decoding: they must agree, and nothing may be read or written out of
 * place. */
#include <stdlib.h>
#include <string.h>

#include "data/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum { SIDE = 32 };
    static swin_resizer *r;
    uint8_t whole[SIDE * SIDE * 3] = { 0 }, rows[SIDE * SIDE * 3] = { 0 };
    swin_image im = { 0 };
    const swin_preprocess p = { SIDE, size % 2 == 0 };
    if (!r && swin_resizer_create(&r) != SWIN_OK) abort();
    const swin_status streamed = swin_image_load(r, rows, data, size, &p, NULL);
    if (streamed == SWIN_OK) {
        if (swin_image_decode(&im, data, size, NULL) != SWIN_OK) abort();
        if (swin_image_preprocess(r, whole, &im, &p) != SWIN_OK) abort();
        if (memcmp(whole, rows, sizeof whole) != 0) abort();
    }
    swin_image_free(&im);
    return 0;
}
