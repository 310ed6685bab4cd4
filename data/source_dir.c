/* A folder with one subfolder for each class. Files are found at any depth below it and symbolic links are
 * followed, as the usual Python loaders do; names that begin with a dot are left out, and so is what has no
 * image's extension. */
#include "data/source.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/file.h"
#include "runtime/base/log.h"

/* A folder being walked, and those that it is in: a link back to one of them is not followed. */
typedef struct folder {
    const struct folder *parent;
    const char *path; /* on the disk */
    size_t relative;  /* where the path inside the set begins in it */
    dev_t device;
    ino_t inode;
} folder;

typedef struct walk {
    swin_list *list;
    size_t hidden, links, loose; /* left out: dot names, links back, images outside of any class */
} walk;

static int visible(const struct dirent *e)
{
    return strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static bool is_folder(const struct dirent *e, const char *path)
{
    struct stat s;
    if (e->d_type == DT_DIR) return true;
    if (e->d_type != DT_LNK && e->d_type != DT_UNKNOWN) return false;
    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

static swin_status enter(folder *f, const folder *parent, const char *path, bool *again)
{
    struct stat s;
    if (stat(path, &s) != 0) return swin_fail(SWIN_ERR_IO, "%s: %s", path, strerror(errno));
    *f = (folder){ parent, path, parent ? parent->relative : strlen(path) + 1, s.st_dev, s.st_ino };
    *again = false;
    for (const folder *p = parent; p; p = p->parent) *again |= p->device == s.st_dev && p->inode == s.st_ino;
    return SWIN_OK;
}

static swin_status walk_folder(walk *w, const folder *f, int label);

static swin_status walk_entry(walk *w, const folder *f, const struct dirent *e, int label)
{
    folder inner;
    bool again;
    swin_status st = SWIN_OK;
    if (e->d_name[0] == '.') {
        w->hidden++;
        return SWIN_OK;
    }
    char *path = swin_format("%s/%s", f->path, e->d_name);
    if (!path) return swin_fail(SWIN_ERR_MEM, "no memory for a path");
    if (is_folder(e, path)) {
        st = enter(&inner, f, path, &again);
        if (st == SWIN_OK && again) w->links++;
        if (st == SWIN_OK && !again) st = walk_folder(w, &inner, label);
    } else if (swin_is_image_name(e->d_name)) {
        st = swin_list_add(w->list, path + f->relative, strlen(path + f->relative), label);
    }
    free(path);
    return st;
}

static swin_status walk_folder(walk *w, const folder *f, int label)
{
    struct dirent **entries;
    const int n = scandir(f->path, &entries, visible, by_bytes);
    if (n < 0) return swin_fail(SWIN_ERR_IO, "%s: %s", f->path, strerror(errno));
    swin_status st = SWIN_OK;
    for (int i = 0; i < n; i++) {
        if (st == SWIN_OK) st = walk_entry(w, f, entries[i], label);
        free(entries[i]);
    }
    free(entries);
    return st;
}

/* One entry of the split's folder: a class, or something that is none. */
static swin_status walk_class(walk *w, const folder *top, const struct dirent *e, int *classes, size_t *empty)
{
    folder class;
    bool again;
    if (e->d_name[0] == '.') {
        w->hidden++;
        return SWIN_OK;
    }
    char *path = swin_format("%s/%s", top->path, e->d_name);
    swin_status st = path ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "no memory for a path");
    if (st == SWIN_OK && is_folder(e, path)) {
        const size_t before = w->list->count;
        st = enter(&class, top, path, &again);
        if (st == SWIN_OK && !again) st = walk_folder(w, &class, *classes);
        if (st == SWIN_OK && w->list->count == before) ++*empty;
        ++*classes;
    } else if (st == SWIN_OK && swin_is_image_name(e->d_name)) {
        w->loose++;
    }
    free(path);
    return st;
}

static swin_status walk_classes(walk *w, const char *dir, int *classes, size_t *empty)
{
    folder top;
    bool again;
    struct dirent **entries;
    SWIN_TRY(enter(&top, NULL, dir, &again));
    const int n = scandir(dir, &entries, visible, by_bytes);
    if (n < 0) return swin_fail(SWIN_ERR_IO, "%s: %s", dir, strerror(errno));
    swin_status st = SWIN_OK;
    for (int i = 0; i < n; i++) {
        if (st == SWIN_OK) st = walk_class(w, &top, entries[i], classes, empty);
        free(entries[i]);
    }
    free(entries);
    return st;
}

static void tell_left_out(const walk *w, const char *dir, size_t empty)
{
    if (w->hidden) swin_note("%s: %zu hidden files or folders left out", dir, w->hidden);
    if (w->links) swin_note("%s: %zu links back to a folder above them not followed", dir, w->links);
    if (w->loose) swin_note("%s: %zu images outside of any class folder left out", dir, w->loose);
    if (empty)
        swin_note("%s: %zu class folders hold no image; they keep their place in the numbering", dir, empty);
}

swin_status swin_source_dir_open(void **state, swin_list *list, int *classes, const char *dir)
{
    walk w = { .list = list };
    size_t empty = 0;
    *classes = 0;
    SWIN_TRY(walk_classes(&w, dir, classes, &empty));
    if (*classes == 0 && w.loose)
        return swin_fail(
            SWIN_ERR_FORMAT,
            "%s: %zu images lie in it directly, so they have no label; looked for %s/<class>/<image>", dir,
            w.loose, dir);
    if (*classes == 0)
        return swin_fail(SWIN_ERR_FORMAT, "%s: no class folders; looked for %s/<class>/<image>", dir, dir);
    if (list->count == 0)
        return swin_fail(SWIN_ERR_FORMAT,
                         "%s: no images in its %d class folders; looked for "
                         "%s/<class>/*.{jpg,jpeg,png,ppm,bmp,pgm,tif}",
                         dir, *classes, dir);
    tell_left_out(&w, dir, empty);
    *state = swin_format("%s", dir);
    return *state ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "no memory for a path");
}

/* ---- reading ------------------------------------------------------------------------------------------- */

static swin_status read_all(int fd, const char *path, swin_bytes *out)
{
    struct stat s;
    if (fstat(fd, &s) != 0) return swin_fail(SWIN_ERR_IO, "%s: %s", path, strerror(errno));
    if (!S_ISREG(s.st_mode)) return swin_fail(SWIN_ERR_IO, "%s: not a regular file", path);
    if ((uint64_t)s.st_size > SWIN_MAX_FILE)
        return swin_fail(SWIN_ERR_IO, "%s: %lld bytes are too many for an image", path, (long long)s.st_size);
    SWIN_TRY(swin_bytes_reserve(out, (size_t)s.st_size + 1));
    out->size = 0;
    while (out->size < (size_t)s.st_size) {
        const ssize_t n = read(fd, out->data + out->size, (size_t)s.st_size - out->size);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return swin_fail(SWIN_ERR_IO, "%s: %s", path, strerror(errno));
        if (n == 0) break; /* it became shorter meanwhile: the decoder will see */
        out->size += (size_t)n;
    }
    return SWIN_OK;
}

static swin_status dir_read(void *state, const swin_list *list, size_t i, swin_bytes *out)
{
    char *path = swin_format("%s/%s", (const char *)state, list->text + list->offset[i]);
    if (!path) return swin_fail(SWIN_ERR_MEM, "no memory for a path");
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not make it wait */
    swin_status st = fd >= 0 ? read_all(fd, path, out)
                             : swin_fail(SWIN_ERR_IO, "%s: %s", path, strerror(errno));
    if (fd >= 0) close(fd);
    free(path);
    return st;
}

const swin_source swin_source_dir = { "folder", dir_read, free };
