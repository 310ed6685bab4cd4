#include <hdf5.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/file.h"
#include "runtime/base/h5_impl.h"

#define NAME_MAX_H5 1024

static hid_t memory_type(swin_dtype t)
{
    switch (t) {
    case SWIN_F32:
        return H5T_NATIVE_FLOAT;
    case SWIN_F64:
        return H5T_NATIVE_DOUBLE;
    case SWIN_S8:
        return H5T_NATIVE_INT8;
    case SWIN_U8:
        return H5T_NATIVE_UINT8;
    case SWIN_S32:
        return H5T_NATIVE_INT32;
    case SWIN_S64:
        return H5T_NATIVE_INT64;
    default:
        return H5I_INVALID_HID;
    }
}

static hid_t file_type(swin_dtype t)
{
    switch (t) {
    case SWIN_F32:
        return H5T_IEEE_F32LE;
    case SWIN_F64:
        return H5T_IEEE_F64LE;
    case SWIN_S8:
        return H5T_STD_I8LE;
    case SWIN_U8:
        return H5T_STD_U8LE;
    case SWIN_S32:
        return H5T_STD_I32LE;
    case SWIN_S64:
        return H5T_STD_I64LE;
    default:
        return H5I_INVALID_HID;
    }
}

swin_status h5_bad(const swin_h5 *f, const char *what, const char *at, const char *name)
{
    return swin_fail(SWIN_ERR_FORMAT, "%s: %s %s%s%s", f->path, what, at, name ? " attribute " : "",
                     name ? name : "");
}

static swin_h5 *new_handle(const char *path)
{
    /* Its work at exit closes what is still open and crashes on a file whose disk was full; we close all we open. */
    H5dont_atexit();
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* our messages, not HDF5's stack */
    swin_h5 *f = calloc(1, sizeof *f);
    if (!f) return NULL;
    f->id = H5I_INVALID_HID;
    f->path = strdup(path);
    if (f->path) return f;
    free(f);
    return NULL;
}

/* No times, and one fixed on-disk format, whatever the library's version. */
static hid_t creation_plist(void)
{
    const hid_t p = H5Pcreate(H5P_FILE_CREATE);
    if (p >= 0) H5Pset_link_creation_order(p, H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED);
    if (p >= 0) H5Pset_obj_track_times(p, 0);
    return p;
}

swin_status swin_h5_create(swin_h5 **out, const char *path)
{
    *out = NULL;
    if (swin_is_dir(path)) return swin_fail(SWIN_ERR_IO, "%s: is a directory", path);
    swin_h5 *f = new_handle(path);
    if (!f) return swin_fail(SWIN_ERR_MEM, "%s: no memory to write it", path);
    f->tmp = swin_format("%s.tmp", path);
    const hid_t fcpl = creation_plist(), fapl = H5Pcreate(H5P_FILE_ACCESS);
    if (fapl >= 0) H5Pset_libver_bounds(fapl, H5F_LIBVER_V18, H5F_LIBVER_V18);
    if (f->tmp && fcpl >= 0 && fapl >= 0) f->id = H5Fcreate(f->tmp, H5F_ACC_TRUNC, fcpl, fapl);
    if (fcpl >= 0) H5Pclose(fcpl);
    if (fapl >= 0) H5Pclose(fapl);
    if (f->id < 0) {
        free(f->tmp);
        f->tmp = NULL; /* not made by us: do not remove it */
        swin_h5_close(f);
        return swin_fail(SWIN_ERR_IO, "%s: cannot write (is the folder there and writable?)", path);
    }
    *out = f;
    return SWIN_OK;
}

swin_status swin_h5_open(swin_h5 **out, const char *path)
{
    *out = NULL;
    swin_map probe; /* gives the system's own reason when the file cannot be read at all */
    SWIN_TRY(swin_map_open(&probe, path));
    swin_map_close(&probe);
    swin_h5 *f = new_handle(path);
    if (!f) return swin_fail(SWIN_ERR_MEM, "%s: no memory to read it", path);
    f->id = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if (f->id < 0) {
        swin_h5_close(f);
        return swin_fail(SWIN_ERR_FORMAT, "%s: not an HDF5 file, or a damaged one", path);
    }
    *out = f;
    return SWIN_OK;
}

swin_status swin_h5_commit(swin_h5 *f)
{
    const bool bad_flush = H5Fflush(f->id, H5F_SCOPE_GLOBAL) < 0;
    const bool bad_close = H5Fclose(f->id) < 0;
    f->id = H5I_INVALID_HID;
    swin_status st;
    if (bad_flush || bad_close) {
        unlink(f->tmp);
        st = swin_fail(SWIN_ERR_IO, "%s: cannot write (disk full?)", f->path);
    } else {
        st = swin_commit_tmp(f->tmp, f->path);
    }
    free(f->tmp);
    f->tmp = NULL;
    return st;
}

void swin_h5_close(swin_h5 *f)
{
    if (!f) return;
    if (f->id >= 0) H5Fclose(f->id);
    if (f->tmp) unlink(f->tmp);
    free(f->tmp);
    free(f->path);
    free(f);
}

/* Links on the way must exist one by one: H5Lexists fails on a missing parent. */
bool swin_h5_exists(swin_h5 *f, const char *name)
{
    char part[NAME_MAX_H5];
    if (strcmp(name, "/") == 0) return true;
    if (strlen(name) >= sizeof part) return false;
    for (const char *end = name + 1;; end++) {
        if (*end && *end != '/') continue;
        memcpy(part, name, (size_t)(end - name));
        part[end - name] = 0;
        if (H5Lexists(f->id, part, H5P_DEFAULT) <= 0) return false;
        if (!*end) return H5Oexists_by_name(f->id, name, H5P_DEFAULT) > 0;
    }
}

static hid_t link_plist(void)
{
    const hid_t p = H5Pcreate(H5P_LINK_CREATE);
    if (p >= 0) H5Pset_create_intermediate_group(p, 1);
    return p;
}

/* Groups are made one level at a time, so that each tracks its creation order. */
swin_status h5_make_groups(swin_h5 *f, const char *name)
{
    char part[NAME_MAX_H5];
    if (strlen(name) >= sizeof part) return h5_bad(f, "too long a name", name, NULL);
    for (const char *end = name + 1; *name && name[1]; end++) {
        if (*end && *end != '/') continue;
        memcpy(part, name, (size_t)(end - name));
        part[end - name] = 0;
        if (H5Lexists(f->id, part, H5P_DEFAULT) <= 0) {
            const hid_t gcpl = H5Pcreate(H5P_GROUP_CREATE);
            if (gcpl >= 0) H5Pset_link_creation_order(gcpl, H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED);
            if (gcpl >= 0) H5Pset_obj_track_times(gcpl, 0);
            const hid_t g = H5Gcreate2(f->id, part, H5P_DEFAULT, gcpl, H5P_DEFAULT);
            if (gcpl >= 0) H5Pclose(gcpl);
            if (g < 0) return swin_fail(SWIN_ERR_IO, "%s: cannot make the group %s", f->path, part);
            H5Gclose(g);
        }
        if (!*end) break;
    }
    return SWIN_OK;
}

static swin_status make_parent(swin_h5 *f, const char *name)
{
    char part[NAME_MAX_H5];
    const char *slash = strrchr(name, '/');
    if (!slash || slash == name) return SWIN_OK;
    if ((size_t)(slash - name) >= sizeof part) return h5_bad(f, "too long a name", name, NULL);
    memcpy(part, name, (size_t)(slash - name));
    part[slash - name] = 0;
    return h5_make_groups(f, part);
}

/* Chunks of about 1 MiB along the first dimension. */
static hid_t dataset_plist(swin_dtype dtype, int ndim, const hsize_t *dims, bool growing, bool deflate)
{
    const hid_t p = H5Pcreate(H5P_DATASET_CREATE);
    if (p < 0) return p;
    H5Pset_obj_track_times(p, 0);
    if (!growing && !deflate) return p;
    hsize_t chunk[4], row = swin_dtype_size(dtype);
    for (int i = 1; i < ndim; i++) row *= chunk[i] = dims[i] ? dims[i] : 1;
    chunk[0] = (1u << 20) / (row ? row : 1);
    if (!growing && chunk[0] > dims[0]) chunk[0] = dims[0];
    if (chunk[0] < 1) chunk[0] = 1;
    H5Pset_chunk(p, ndim, chunk);
    if (deflate) H5Pset_shuffle(p);
    if (deflate) H5Pset_deflate(p, 4);
    return p;
}

static swin_status write_new(swin_h5 *f, const char *name, swin_dtype dtype, const void *data, int ndim,
                             const int64_t *dims, bool growing, bool deflate)
{
    hsize_t size[4], most[4];
    size_t count = 1;
    for (int i = 0; i < ndim; i++) {
        size[i] = most[i] = (hsize_t)dims[i];
        count *= (size_t)dims[i];
    }
    if (growing) most[0] = H5S_UNLIMITED;
    SWIN_TRY(make_parent(f, name));
    swin_status st = SWIN_ERR_IO;
    const hid_t space = H5Screate_simple(ndim, size, most);
    const hid_t dcpl = dataset_plist(dtype, ndim, size, growing, deflate && count > 0), lcpl = link_plist();
    hid_t set = H5I_INVALID_HID;
    if (space >= 0 && dcpl >= 0 && lcpl >= 0)
        set = H5Dcreate2(f->id, name, file_type(dtype), space, lcpl, dcpl, H5P_DEFAULT);
    if (set >= 0) st = SWIN_OK;
    if (set >= 0 && count && H5Dwrite(set, memory_type(dtype), H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0)
        st = SWIN_ERR_IO;
    if (set >= 0 && H5Dclose(set) < 0) st = SWIN_ERR_IO;
    if (lcpl >= 0) H5Pclose(lcpl);
    if (dcpl >= 0) H5Pclose(dcpl);
    if (space >= 0) H5Sclose(space);
    return st == SWIN_OK ? st : swin_fail(st, "%s: cannot write %s", f->path, name);
}

swin_status swin_h5_write(swin_h5 *f, const char *name, swin_dtype dtype, const void *data, int ndim,
                          const int64_t *dims, bool deflate)
{
    return write_new(f, name, dtype, data, ndim, dims, false, deflate);
}

swin_status swin_h5_append(swin_h5 *f, const char *name, swin_dtype dtype, const void *rows, int64_t nrows,
                           int ndim, const int64_t *dims)
{
    if (!swin_h5_exists(f, name)) {
        int64_t empty[4] = { 0 };
        for (int i = 1; i < ndim; i++) empty[i] = dims[i];
        SWIN_TRY(write_new(f, name, dtype, NULL, ndim, empty, true, false));
    }
    if (nrows == 0) return SWIN_OK;
    swin_status st = SWIN_ERR_IO;
    hsize_t size[4] = { 0 }, start[4] = { 0 }, block[4];
    hid_t fspace = H5I_INVALID_HID, mspace = H5I_INVALID_HID;
    const hid_t set = H5Dopen2(f->id, name, H5P_DEFAULT);
    if (set < 0) goto done;
    fspace = H5Dget_space(set);
    if (fspace < 0 || H5Sget_simple_extent_ndims(fspace) != ndim) goto done;
    H5Sget_simple_extent_dims(fspace, size, NULL);
    H5Sclose(fspace);
    memcpy(block, size, sizeof block);
    start[0] = size[0];
    block[0] = (hsize_t)nrows;
    size[0] += (hsize_t)nrows;
    fspace = H5I_INVALID_HID;
    if (H5Dset_extent(set, size) < 0) goto done;
    fspace = H5Dget_space(set);
    mspace = H5Screate_simple(ndim, block, NULL);
    if (fspace < 0 || mspace < 0) goto done;
    if (H5Sselect_hyperslab(fspace, H5S_SELECT_SET, start, NULL, block, NULL) < 0) goto done;
    if (H5Dwrite(set, memory_type(dtype), mspace, fspace, H5P_DEFAULT, rows) >= 0) st = SWIN_OK;
done:
    if (mspace >= 0) H5Sclose(mspace);
    if (fspace >= 0) H5Sclose(fspace);
    if (set >= 0 && H5Dclose(set) < 0) st = SWIN_ERR_IO;
    return st == SWIN_OK ? st : swin_fail(st, "%s: cannot append to %s", f->path, name);
}

swin_status swin_h5_shape(swin_h5 *f, const char *name, int *ndim, int64_t dims[8])
{
    if (!swin_h5_exists(f, name)) return h5_bad(f, "lacks", name, NULL);
    hsize_t size[H5S_MAX_RANK];
    int n = -1;
    const hid_t set = H5Dopen2(f->id, name, H5P_DEFAULT);
    const hid_t space = set >= 0 ? H5Dget_space(set) : H5I_INVALID_HID;
    if (space >= 0) n = H5Sget_simple_extent_ndims(space);
    if (n >= 0 && n <= 8) H5Sget_simple_extent_dims(space, size, NULL);
    if (space >= 0) H5Sclose(space);
    if (set >= 0) H5Dclose(set);
    if (n < 0 || n > 8) return h5_bad(f, "no dataset of at most 8 dimensions at", name, NULL);
    *ndim = n;
    for (int i = 0; i < n; i++) dims[i] = (int64_t)size[i];
    return SWIN_OK;
}

swin_status swin_h5_read(swin_h5 *f, const char *name, swin_dtype dtype, void **data, size_t *count)
{
    int ndim;
    int64_t dims[8];
    *data = NULL;
    *count = 0;
    SWIN_TRY(swin_h5_shape(f, name, &ndim, dims));
    size_t n = 1;
    for (int i = 0; i < ndim; i++)
        if (__builtin_mul_overflow(n, (size_t)dims[i], &n) || n > SIZE_MAX / 16)
            return h5_bad(f, "too large:", name, NULL);
    void *p = malloc(n ? n * swin_dtype_size(dtype) : 1);
    if (!p) return swin_fail(SWIN_ERR_MEM, "%s: no memory for the %zu elements of %s", f->path, n, name);
    const hid_t set = H5Dopen2(f->id, name, H5P_DEFAULT);
    const bool ok = set >= 0 && H5Dread(set, memory_type(dtype), H5S_ALL, H5S_ALL, H5P_DEFAULT, p) >= 0;
    if (set >= 0) H5Dclose(set);
    if (!ok) {
        free(p);
        return h5_bad(f, "cannot read", name, NULL);
    }
    *data = p;
    *count = n;
    return SWIN_OK;
}

typedef struct each_link {
    swin_status (*fn)(void *user, const char *name);
    void *user;
    swin_status st;
} each_link;

static herr_t visit(hid_t group, const char *name, const H5L_info_t *info, void *op)
{
    (void)group, (void)info;
    each_link *e = op;
    e->st = e->fn(e->user, name);
    return e->st == SWIN_OK ? 0 : 1;
}

swin_status swin_h5_each(swin_h5 *f, const char *group, swin_status (*fn)(void *user, const char *name),
                         void *user)
{
    if (!swin_h5_exists(f, group)) return h5_bad(f, "lacks", group, NULL);
    each_link e = { .fn = fn, .user = user, .st = SWIN_OK };
    const hid_t g = H5Gopen2(f->id, group, H5P_DEFAULT);
    if (g < 0) return h5_bad(f, "not a group:", group, NULL);
    unsigned order = 0;
    const hid_t gcpl = H5Gget_create_plist(g);
    if (gcpl >= 0) H5Pget_link_creation_order(gcpl, &order);
    if (gcpl >= 0) H5Pclose(gcpl);
    const H5_index_t by = order & H5P_CRT_ORDER_TRACKED ? H5_INDEX_CRT_ORDER : H5_INDEX_NAME;
    const herr_t done = H5Literate(g, by, H5_ITER_INC, NULL, visit, &e);
    H5Gclose(g);
    if (e.st != SWIN_OK) return e.st;
    return done < 0 ? h5_bad(f, "cannot list", group, NULL) : SWIN_OK;
}

const char *swin_h5_version(void)
{
    static char text[32];
    unsigned major = 0, minor = 0, release = 0;
    H5get_libversion(&major, &minor, &release);
    snprintf(text, sizeof text, "%u.%u.%u", major, minor, release);
    return text;
}
