/* libFuzzer: any file is a checkpoint or an error. The container is found from the bytes, so seeds decide which reader is
 * meant: .safetensors, zip or legacy; a file that begins with '{' is taken as a header and gets its size put before it. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/base/log.h"
#include "runtime/swin/checkpoint.h"
#include "runtime/swin/guess.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

/* As a whole network, with a head or without. */
static void load(const swin_ckpt *ck, swin_config c)
{
    swin_weights w;
    const swin_load_opts o = { .no_head = swin_ckpt_count(ck) % 2 };
    if (swin_weights_load_from(&w, &c, ck, &o) == SWIN_OK) swin_weights_free(&w);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    const int fd = memfd_create("fuzz", 0);
    char path[64];
    swin_log_set(SWIN_LOG_QUIET);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    const uint64_t header = size && data[0] == '{' ? (uint64_t)size : 0;
    bool ready = fd >= 0 && (!header || write(fd, &header, 8) == 8) && write(fd, data, size) == (ssize_t)size;
    swin_ckpt *ck;
    if (ready && swin_ckpt_open(&ck, path) == SWIN_OK) {
        swin_config c;
        for (size_t i = 0; i < swin_ckpt_count(ck); i++) {
            const swin_ckpt_tensor *t = swin_ckpt_at(ck, i);
            float *copy = t->count <= 1u << 16 ? malloc((t->count + 1) * sizeof *copy) : NULL;
            if (copy) (void)swin_ckpt_read(t, copy);
            free(copy);
        }
        load(ck, swin_config_guess(&c, ck) == SWIN_OK ? c : swin_config_default());
        swin_ckpt_close(ck);
    }
    if (fd >= 0) close(fd);
    return 0;
}
