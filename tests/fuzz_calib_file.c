/* A calibration file changed anywhere: refused with a message or read, never a crash. HDF5 itself checks most of its
 * metadata by checksum, so the input is a list of changes to a sound file: offset (3 bytes), new byte. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "quant/calib_file.h"
#include "runtime/base/file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned char *sound;
static size_t sound_size;
static char path[64];

static swin_status make_sound(void)
{
    swin_calib_file f;
    swin_config c = swin_config_default();
    c.num_stages = 1;
    c.depths[0] = 1;
    c.heads[0] = 1;
    c.embed_dim = 32;
    c.image_size = 28;
    SWIN_TRY(swin_calib_file_init(&f, &c));
    memset(f.checkpoint_sha256, 'a', SWIN_SHA256_HEX - 1);
    memset(f.image_list_sha256, 'b', SWIN_SHA256_HEX - 1);
    for (int i = 0; i < f.nsites; i++) {
        swin_site_record *s = &f.sites[i];
        s->amax = s->max = 1;
        s->bin_width = 0.5;
        s->bins = 8;
        s->hist = calloc(8, sizeof *s->hist);
        if (s->hist) s->hist[5] = s->count = 9;
    }
    for (int i = 0; i < f.nweights; i++) f.weights[i].amax = f.weights[i].amax_channel[0] = 1;
    SWIN_TRY(swin_calib_file_derive(&f, SWIN_INT8_MODE_1));
    SWIN_TRY(swin_calib_file_write(&f, path));
    swin_calib_file_free(&f);
    SWIN_TRY(swin_calib_file_read(&f, path, true)); /* sound indeed */
    swin_calib_file_free(&f);
    return swin_read_file(path, &sound, &sound_size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!sound) {
        snprintf(path, sizeof path, "/tmp/swin-fuzz-calib-%d.h5", (int)getpid());
        if (make_sound() != SWIN_OK) abort();
    }
    unsigned char *bytes = malloc(sound_size);
    if (!bytes) return 0;
    memcpy(bytes, sound, sound_size);
    for (size_t i = 0; i + 4 <= size; i += 4) {
        const size_t at = (size_t)data[i] | (size_t)data[i + 1] << 8 | (size_t)data[i + 2] << 16;
        bytes[at % sound_size] = data[i + 3];
    }
    FILE *out = fopen(path, "wb");
    swin_calib_file f;
    const bool ok = out && fwrite(bytes, 1, sound_size, out) == sound_size;
    if (out && fclose(out) == 0 && ok && swin_calib_file_read(&f, path, true) == SWIN_OK)
        swin_calib_file_free(&f);
    unlink(path);
    free(bytes);
    return 0;
}
