#include "tests/support/tiny.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zip.h>

#include "runtime/base/file.h"
#include "runtime/base/rng.h"
#include "runtime/swin/checkpoint.h"

enum { CLASSES = 5, HEADER = 64 };

swin_config swin_tiny_config(void)
{
    swin_config c = swin_config_default();
    snprintf(c.name, sizeof c.name, "tiny_test");
    c.image_size = 56;
    c.num_classes = CLASSES;
    c.classes_given = true;
    c.embed_dim = 32;
    c.num_stages = 2;
    c.depths[0] = 2;
    c.depths[1] = 1;
    c.depths[2] = c.depths[3] = 0;
    c.heads[0] = 1;
    c.heads[1] = 2;
    c.heads[2] = c.heads[3] = 0;
    return c;
}

swin_status swin_tiny_weights(swin_weights *w, uint64_t seed)
{
    const swin_config c = swin_tiny_config();
    return swin_tiny_weights_of(w, &c, seed);
}

swin_status swin_tiny_weights_of(swin_weights *w, const swin_config *c, uint64_t seed)
{
    swin_param *list;
    size_t count;
    swin_rng r = { seed };
    SWIN_TRY(swin_weights_create(w, c));
    SWIN_TRY(swin_weights_list(c, w, &list, &count));
    for (size_t i = 0; i < count; i++) {
        const bool norm = strstr(list[i].key, "norm") && strstr(list[i].key, "weight");
        const double sd = list[i].ndim > 1 ? 1.5 / sqrt((double)list[i].count / (double)list[i].shape[0])
                                           : 0.1;
        for (size_t k = 0; k < list[i].count; k++)
            (*list[i].slot)[k] = (float)(norm + sd * swin_rng_normal(&r));
    }
    free(list);
    return SWIN_OK;
}

swin_status swin_tiny_write_model(const char *folder, uint64_t seed)
{
    const swin_config c = swin_tiny_config();
    swin_weights w;
    char *yaml = swin_format("%s/model.yaml", folder), *ckpt = swin_format("%s/model.safetensors", folder);
    char *text = swin_config_text(&c);
    swin_status st = swin_write_file(yaml, text, strlen(text));
    if (st == SWIN_OK) st = swin_tiny_weights(&w, seed);
    if (st == SWIN_OK) st = swin_weights_save(&w, &c, ckpt);
    swin_weights_free(&w);
    free(text);
    free(yaml);
    free(ckpt);
    return st;
}

/* Picture i: a coloured gradient with noise; sizes differ. Caller frees. */
static unsigned char *picture(int i, uint64_t seed, size_t *size)
{
    swin_rng r = { seed * 1000003u + (uint64_t)i };
    const int w = 60 + (int)swin_rng_below(&r, 40), h = 60 + (int)swin_rng_below(&r, 40);
    unsigned char *p = malloc(HEADER + (size_t)w * (size_t)h * 3);
    if (!p) return NULL;
    const int at = snprintf((char *)p, HEADER, "P6\n%d %d\n255\n", w, h);
    const int base = (int)swin_rng_below(&r, 128);
    for (int k = 0; k < w * h * 3; k++)
        p[at + k] = (unsigned char)(base + (k % 3 * k / (3 * w)) % 64 + (int)swin_rng_below(&r, 64));
    *size = (size_t)at + (size_t)w * (size_t)h * 3;
    return p;
}

/* In the order that a folder has: by class, then by name. */
static void name_of(char *name, size_t n, int i, int count)
{
    const int each = (count + CLASSES - 1) / CLASSES;
    snprintf(name, n, "c%d/%06d.ppm", i / each, i);
}

swin_status swin_tiny_write_images(const char *folder, int count, uint64_t seed)
{
    char *path = swin_format("%s/train", folder);
    mkdir(path, 0755);
    free(path);
    for (int i = 0; i < count; i++) {
        char name[64];
        size_t size;
        name_of(name, sizeof name, i, count);
        path = swin_format("%s/train/%.2s", folder, name);
        mkdir(path, 0755);
        free(path);
        path = swin_format("%s/train/%s", folder, name);
        unsigned char *bytes = picture(i, seed, &size);
        const swin_status st = swin_write_file(path, bytes, size);
        free(bytes);
        free(path);
        SWIN_TRY(st);
    }
    return SWIN_OK;
}

swin_status swin_tiny_write_zip(const char *folder, int count, uint64_t seed)
{
    char *zip_path = swin_format("%s/train.zip", folder), *map_path = swin_format("%s/train_map.txt", folder);
    FILE *map = fopen(map_path, "w");
    zip_t *z = zip_open(zip_path, ZIP_CREATE | ZIP_TRUNCATE, NULL);
    swin_status st = map && z ? SWIN_OK : swin_fail(SWIN_ERR_IO, "%s: cannot write", zip_path);
    for (int i = 0; st == SWIN_OK && i < count; i++) {
        char name[64];
        size_t size;
        name_of(name, sizeof name, i, count);
        unsigned char *bytes = picture(i, seed, &size);
        zip_source_t *s = zip_source_buffer(z, bytes, size, 1); /* frees bytes */
        if (zip_file_add(z, name, s, ZIP_FL_OVERWRITE) < 0)
            st = swin_fail(SWIN_ERR_IO, "%s: cannot add", zip_path);
        fprintf(map, "%s\t%c\n", name, name[1]);
    }
    if (map && fclose(map) != 0) st = SWIN_ERR_IO;
    if (z && zip_close(z) != 0) st = swin_fail(SWIN_ERR_IO, "%s: cannot close", zip_path);
    free(zip_path);
    free(map_path);
    return st;
}
