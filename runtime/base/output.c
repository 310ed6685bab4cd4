#include "runtime/base/output.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/file.h"

/* The folder that path lies in; the caller frees. */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash) return swin_format(".");
    return swin_format("%.*s", slash == path ? 1 : (int)(slash - path), path);
}

static const char *name_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static bool same_inode(const char *a, const char *b)
{
    struct stat sa, sb;
    return stat(a, &sa) == 0 && stat(b, &sb) == 0 && sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

static swin_status same_file(bool *same, const char *a, const char *b)
{
    *same = same_inode(a, b);
    if (*same || strcmp(name_of(a), name_of(b)) != 0) return SWIN_OK;
    char *fa = folder_of(a), *fb = folder_of(b);
    const bool known = fa && fb;
    *same = known && same_inode(fa, fb);
    free(fa);
    free(fb);
    return known ? SWIN_OK : swin_fail(SWIN_ERR_MEM, "no memory for a file name");
}

swin_status swin_output_apart(const char *flag, const char *path, const swin_file_use *others, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        bool same = false;
        if (others[i].path) SWIN_TRY(same_file(&same, path, others[i].path));
        if (same)
            return swin_fail(SWIN_ERR_USAGE, "%s %s: that file is %s's and would be overwritten", flag, path,
                             others[i].flag);
    }
    return SWIN_OK;
}

swin_status swin_output_check(const char *flag, const char *path, const swin_file_use *others, size_t n)
{
    struct stat s;
    if (!*path) return swin_fail(SWIN_ERR_USAGE, "%s: an empty name", flag);
    if (swin_is_dir(path))
        return swin_fail(SWIN_ERR_USAGE, "%s %s: is a folder, a file name is needed", flag, path);
    if (stat(path, &s) == 0 && !S_ISREG(s.st_mode))
        return swin_fail(SWIN_ERR_USAGE, "%s %s: is no ordinary file", flag, path);
    char *folder = folder_of(path);
    if (!folder) return swin_fail(SWIN_ERR_MEM, "no memory for a file name");
    swin_status st = SWIN_OK;
    if (!swin_is_dir(folder))
        st = swin_fail(SWIN_ERR_USAGE, "%s %s: the folder %s is not there", flag, path, folder);
    else if (access(folder, W_OK) != 0)
        st = swin_fail(SWIN_ERR_USAGE, "%s %s: cannot write in the folder %s", flag, path, folder);
    free(folder);
    return st == SWIN_OK ? swin_output_apart(flag, path, others, n) : st;
}
