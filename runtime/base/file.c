#include "runtime/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

swin_status swin_map_open(swin_map *m, const char *path)
{
    *m = (swin_map){ 0 };
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return swin_fail(SWIN_ERR_IO, "%s: %s", path, strerror(errno));
    struct stat s;
    swin_status st = SWIN_OK;
    if (fstat(fd, &s) != 0) {
        st = swin_fail(SWIN_ERR_IO, "%s: %s", path, strerror(errno));
    } else if (!S_ISREG(s.st_mode)) {
        st = swin_fail(SWIN_ERR_IO, "%s: not a regular file", path);
    } else if (s.st_size > 0) {
        void *p = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) {
            st = swin_fail(SWIN_ERR_IO, "%s: cannot map: %s", path, strerror(errno));
        } else {
            *m = (swin_map){ .data = p, .size = (size_t)s.st_size, .owner = p };
        }
    }
    close(fd);
    return st;
}

void swin_map_close(swin_map *m)
{
    if (m->owner) munmap(m->owner, m->size);
    *m = (swin_map){ 0 };
}

void swin_map_drop(const swin_map *m, const void *data, size_t size)
{
    const uintptr_t base = (uintptr_t)m->data, from = (uintptr_t)data,
                    page = (uintptr_t)sysconf(_SC_PAGESIZE);
    if (!m->owner || from < base || from - base > m->size || size > m->size - (from - base)) return;
    /* Only whole pages: the others hold a neighbour's bytes too. */
    const uintptr_t first = (from + page - 1) / page * page, last = (from + size) / page * page;
    if (first < last) madvise((void *)first, last - first, MADV_DONTNEED);
}

char *swin_format(const char *fmt, ...)
{
    char *text = NULL;
    va_list args;
    va_start(args, fmt);
    if (vasprintf(&text, fmt, args) < 0) text = NULL;
    va_end(args);
    return text;
}

swin_status swin_outfile_open(swin_outfile *o, const char *path)
{
    *o = (swin_outfile){ .path = strdup(path), .tmp = swin_format("%s.tmp", path) };
    if (!o->path || !o->tmp) {
        swin_outfile_discard(o);
        return swin_fail(SWIN_ERR_MEM, "%s: no memory to write it", path);
    }
    if (swin_is_dir(path)) {
        free(o->tmp);
        o->tmp = NULL;
        swin_outfile_discard(o);
        return swin_fail(SWIN_ERR_IO, "%s: is a directory", path);
    }
    o->f = fopen(o->tmp, "wb");
    if (o->f) return SWIN_OK;
    const int reason = errno;
    free(o->tmp); /* not ours to remove */
    o->tmp = NULL;
    swin_outfile_discard(o);
    return swin_fail(SWIN_ERR_IO, "%s: cannot write: %s", path, strerror(reason));
}

swin_status swin_commit_tmp(const char *tmp, const char *path)
{
    int reason = 0;
    struct stat s;
    if (stat(path, &s) == 0 && !S_ISREG(s.st_mode)) { /* a device must not become a file */
        unlink(tmp);
        return swin_fail(SWIN_ERR_IO, "%s: cannot write: it is no ordinary file", path);
    }
    const int fd = open(tmp, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) != 0) reason = errno;
    if (fd >= 0) close(fd);
    if (!reason && rename(tmp, path) != 0) reason = errno;
    if (!reason) return SWIN_OK;
    unlink(tmp);
    return swin_fail(SWIN_ERR_IO, "%s: cannot write: %s", path, strerror(reason));
}

swin_status swin_outfile_commit(swin_outfile *o)
{
    const bool bad = fflush(o->f) != 0 || ferror(o->f);
    const int reason = errno;
    const bool bad_close = fclose(o->f) != 0;
    o->f = NULL;
    swin_status st = SWIN_OK;
    if (bad || bad_close) {
        unlink(o->tmp);
        st = swin_fail(SWIN_ERR_IO, "%s: cannot write: %s", o->path, strerror(bad ? reason : errno));
    } else {
        st = swin_commit_tmp(o->tmp, o->path);
    }
    free(o->tmp);
    o->tmp = NULL;
    swin_outfile_discard(o);
    return st;
}

swin_status swin_outfile_commit_all(swin_outfile *files, size_t count)
{
    swin_status st = SWIN_OK;
    for (size_t i = 0; i < count && st == SWIN_OK; i++)
        if (fflush(files[i].f) != 0 || ferror(files[i].f) || fsync(fileno(files[i].f)) != 0)
            st = swin_fail(SWIN_ERR_IO, "%s: cannot write: %s", files[i].path, strerror(errno));
    for (size_t i = 0; i < count; i++) {
        if (st == SWIN_OK)
            st = swin_outfile_commit(&files[i]);
        else
            swin_outfile_discard(&files[i]);
    }
    return st;
}

void swin_outfile_discard(swin_outfile *o)
{
    if (o->f) fclose(o->f);
    if (o->tmp) unlink(o->tmp);
    free(o->tmp);
    free(o->path);
    *o = (swin_outfile){ 0 };
}

swin_status swin_write_file(const char *path, const void *data, size_t size)
{
    swin_outfile o;
    SWIN_TRY(swin_outfile_open(&o, path));
    if (size && fwrite(data, 1, size, o.f) != size) {
        const swin_status st = swin_fail(SWIN_ERR_IO, "%s: cannot write: %s", path, strerror(errno));
        swin_outfile_discard(&o);
        return st;
    }
    return swin_outfile_commit(&o);
}

swin_status swin_read_file(const char *path, unsigned char **data, size_t *size)
{
    *data = NULL;
    *size = 0;
    swin_map m;
    SWIN_TRY(swin_map_open(&m, path));
    unsigned char *copy = malloc(m.size + 1);
    if (!copy) {
        swin_map_close(&m);
        return swin_fail(SWIN_ERR_MEM, "%s: no memory for its %zu bytes", path, m.size);
    }
    if (m.size) memcpy(copy, m.data, m.size);
    copy[m.size] = 0;
    *data = copy;
    *size = m.size;
    swin_map_close(&m);
    return SWIN_OK;
}

bool swin_is_dir(const char *path)
{
    struct stat s;
    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

bool swin_is_file(const char *path)
{
    struct stat s;
    return stat(path, &s) == 0 && S_ISREG(s.st_mode);
}

static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
    (void)sig;
    interrupted = 1;
}

void swin_catch_interrupts(void)
{
    struct sigaction a = { .sa_handler = on_signal,
                           .sa_flags = (int)SA_RESETHAND }; /* the second signal kills */
    sigemptyset(&a.sa_mask);
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
}

swin_status swin_check_interrupt(void)
{
    return interrupted ? swin_fail(SWIN_ERR_INTERRUPTED, "interrupted") : SWIN_OK;
}
