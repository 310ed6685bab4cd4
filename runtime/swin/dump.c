#include "runtime/swin/dump.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/h5.h"

/* Rows wait here and go out in blocks of a fixed size: HDF5 places chunks in the order of its calls, and that
 * order must not follow the batch size. */
enum { BLOCK = SWIN_DUMP_IMAGES_MAX };

struct swin_dump {
    swin_h5 *file;
    const swin_config *config;
    const char **names; /* owned array, borrowed strings */
    int engines;
    int rows;               /* waiting */
    int64_t images, tapped; /* written or waiting; of them, with layer outputs */
    float *logits;          /* owned: [engines][BLOCK][classes] */
    int64_t labels[BLOCK];
    char *text; /* owned: waiting names */
    size_t text_size, text_capacity;
};

swin_status swin_dump_create(swin_dump **out, const char *path, const swin_config *c,
                             const char *const *names, int engines)
{
    *out = NULL;
    swin_dump *d = calloc(1, sizeof *d);
    if (!d) return swin_fail(SWIN_ERR_MEM, "%s: no memory to write it", path);
    d->config = c;
    d->names = calloc((size_t)engines, sizeof *d->names);
    d->engines = engines;
    d->logits = calloc((size_t)engines * BLOCK * (size_t)c->num_classes, sizeof *d->logits);
    if (d->names) memcpy(d->names, names, (size_t)engines * sizeof *names);
    const swin_status st = d->names && d->logits ? swin_h5_create(&d->file, path)
                                                 : swin_fail(SWIN_ERR_MEM, "%s: no memory to write it", path);
    if (st != SWIN_OK) {
        swin_dump_close(d);
        return st;
    }
    *out = d;
    return SWIN_OK;
}

void swin_dump_close(swin_dump *d)
{
    if (!d) return;
    swin_h5_close(d->file);
    free(d->names);
    free(d->logits);
    free(d->text);
    free(d);
}

swin_status swin_dump_output(swin_dump *d, int engine, int i, const float *x, int64_t rows, int64_t cols)
{
    char site[SWIN_SITE_NAME_MAX], path[SWIN_SITE_NAME_MAX + 64];
    swin_site_name(swin_output_at(d->config, i), site);
    snprintf(path, sizeof path, "/%s/taps/%s", d->names[engine], site);
    const int64_t dims[3] = { 0, rows, cols };
    if (engine == 0 && i == 0) d->tapped++;
    return swin_h5_append(d->file, path, SWIN_F32, x, 1, 3, dims);
}

static swin_status flush(swin_dump *d)
{
    const int64_t classes = d->config->num_classes, dims[2] = { 0, classes };
    if (d->rows == 0) return SWIN_OK;
    for (int e = 0; e < d->engines; e++) {
        char path[64];
        snprintf(path, sizeof path, "/%s/logits", d->names[e]);
        const float *rows = d->logits + (size_t)e * BLOCK * (size_t)classes;
        SWIN_TRY(swin_h5_append(d->file, path, SWIN_F32, rows, d->rows, 2, dims));
    }
    SWIN_TRY(swin_h5_append(d->file, "/labels", SWIN_S64, d->labels, d->rows, 1, dims));
    SWIN_TRY(swin_h5_append(d->file, "/names", SWIN_U8, d->text, (int64_t)d->text_size, 1, dims));
    d->rows = 0;
    d->text_size = 0;
    return SWIN_OK;
}

static swin_status add_name(swin_dump *d, const char *name)
{
    const size_t n = strlen(name);
    if (d->text_size + n + 1 > d->text_capacity) {
        const size_t want = 2 * (d->text_size + n + 1);
        char *grown = realloc(d->text, want);
        if (!grown) return swin_fail(SWIN_ERR_MEM, "no memory for the names of a dump");
        d->text = grown;
        d->text_capacity = want;
    }
    memcpy(d->text + d->text_size, name, n);
    d->text[d->text_size + n] = '\n';
    d->text_size += n + 1;
    return SWIN_OK;
}

swin_status swin_dump_image(swin_dump *d, const char *name, int label, const float *const *logits)
{
    const size_t classes = (size_t)d->config->num_classes;
    SWIN_TRY(add_name(d, name));
    d->labels[d->rows] = label;
    for (int e = 0; e < d->engines; e++)
        memcpy(d->logits + ((size_t)e * BLOCK + (size_t)d->rows) * classes, logits[e],
               classes * sizeof *d->logits);
    d->images++;
    return ++d->rows == BLOCK ? flush(d) : SWIN_OK;
}

swin_status swin_dump_commit(swin_dump *d, const char *engine, const char *checkpoint_sha256,
                             const char *image_list_sha256)
{
    SWIN_TRY(flush(d));
    char *model = swin_config_text(d->config);
    if (!model) return swin_fail(SWIN_ERR_MEM, "no memory for the model's description");
    swin_status st = swin_h5_set_i64(d->file, "/", "dump_schema", 1);
    if (st == SWIN_OK) st = swin_h5_set_str(d->file, "/", "tool", "swin-eval " SWIN_VERSION);
    if (st == SWIN_OK) st = swin_h5_set_str(d->file, "/", "engine", engine);
    if (st == SWIN_OK) st = swin_h5_set_str(d->file, "/", "model", model);
    if (st == SWIN_OK) st = swin_h5_set_str(d->file, "/", "checkpoint_sha256", checkpoint_sha256);
    if (st == SWIN_OK) st = swin_h5_set_str(d->file, "/", "image_list_sha256", image_list_sha256);
    if (st == SWIN_OK) st = swin_h5_set_i64(d->file, "/", "images", d->images);
    if (st == SWIN_OK) st = swin_h5_set_i64(d->file, "/", "dump_images", d->tapped);
    if (st == SWIN_OK) st = swin_h5_commit(d->file);
    free(model);
    return st;
}
