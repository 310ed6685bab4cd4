/* libFuzzer: any bytes are a pickle or an error; as a legacy .pth the same, tensors' bounds included. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/base/log.h"
#include "runtime/swin/checkpoint.h"
#include "runtime/swin/pickle.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static void open_and_read(const char *path)
{
    swin_ckpt *ck;
    if (swin_ckpt_open(&ck, path) != SWIN_OK) return;
    for (size_t i = 0; i < swin_ckpt_count(ck); i++) {
        const swin_ckpt_tensor *t = swin_ckpt_at(ck, i);
        if (t->count > 1u << 16) continue; /* strides of 0 make as many as they like */
        float *copy = malloc((t->count + 1) * sizeof *copy);
        if (copy) (void)swin_ckpt_read(t, copy);
        free(copy);
    }
    swin_ckpt_close(ck);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    static const char head[] =
        "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";
    swin_pickle pk = { 0 };
    swin_pk_value *root;
    swin_log_set(SWIN_LOG_QUIET);
    (void)swin_pickle_read(&pk, data, size, &root, NULL);
    swin_pickle_free(&pk);
    const int fd = memfd_create("fuzz", 0);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (fd >= 0 && write(fd, head, sizeof head - 1) > 0 && write(fd, data, size) == (ssize_t)size)
        open_and_read(path);
    if (fd >= 0) close(fd);
    return 0;
}
