#include "tests/support/calib_set.h"

#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "tests/support/testing.h"
#include "tests/support/tiny.h"

void swin_calib_set_make(swin_calib_set *x, const char *name, int images, bool zip)
{
    *x = (swin_calib_set){ .folder = swin_scratch_make(name), .config = swin_tiny_config() };
    x->zipped = swin_format("%s/zipped", x->folder);
    CHECK(x->zipped && mkdir(x->zipped, 0755) == 0, "%s/zipped", x->folder);
    CHECK_OK(swin_tiny_weights(&x->weights, 7));
    CHECK_OK(swin_weights_sha256(&x->config, &x->weights, x->sha));
    CHECK_OK(swin_tiny_write_images(x->folder, images, 8));
    if (zip) CHECK_OK(swin_tiny_write_zip(x->zipped, images, 8));
    swin_log_set(SWIN_LOG_QUIET);
}

void swin_calib_set_free(swin_calib_set *x)
{
    swin_weights_free(&x->weights);
    free(x->zipped);
    swin_scratch_remove(x->folder);
}

swin_calib_opts swin_calib_set_opts(const swin_calib_set *x, size_t images, swin_int8_mode mode)
{
    return (swin_calib_opts){ .data_path = x->folder,
                              .split = "train",
                              .images = images,
                              .batch = 8,
                              .threads = 2,
                              .mode = mode,
                              .calibrator = swin_calibrator_find("percentile"),
                              .calibrator_opts = { .percentile = 99.99 } };
}

swin_status swin_calib_set_run(swin_calib_set *x, swin_calib_file *f, const swin_calib_opts *o)
{
    swin_dev *dev;
    swin_calib_timing t;
    CHECK_OK(swin_dev_open(&dev, "cpu", &(swin_dev_opts){ .threads = o->threads }));
    const swin_status st = swin_calib_run(f, dev, &x->config, &x->weights, x->sha, o, &t);
    swin_dev_close(dev);
    return st;
}

unsigned char *swin_calib_set_bytes(const swin_calib_set *x, const swin_calib_file *f, size_t *n)
{
    unsigned char *bytes = NULL;
    char *path = swin_format("%s/bytes.h5", x->folder);
    CHECK(path != NULL, "no memory");
    CHECK_OK(swin_calib_file_write(f, path));
    CHECK_OK(swin_read_file(path, &bytes, n));
    unlink(path);
    free(path);
    return bytes;
}
