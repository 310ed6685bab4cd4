/* Attributes of HDF5 files: scalars and texts. */
#include <hdf5.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/h5_impl.h"

static swin_status set_attr(swin_h5 *f, const char *at, const char *name, hid_t ftype, hid_t mtype,
                            const void *v)
{
    swin_status st = SWIN_ERR_IO;
    if (!swin_h5_exists(f, at)) SWIN_TRY(h5_make_groups(f, at));
    const hid_t space = H5Screate(H5S_SCALAR);
    hid_t attr = H5I_INVALID_HID;
    if (space >= 0)
        attr = H5Acreate_by_name(f->id, at, name, ftype, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    if (attr >= 0 && H5Awrite(attr, mtype, v) >= 0) st = SWIN_OK;
    if (attr >= 0 && H5Aclose(attr) < 0) st = SWIN_ERR_IO;
    if (space >= 0) H5Sclose(space);
    return st == SWIN_OK ? st : swin_fail(st, "%s: cannot write attribute %s of %s", f->path, name, at);
}

swin_status swin_h5_set_i64(swin_h5 *f, const char *at, const char *name, int64_t v)
{
    return set_attr(f, at, name, H5T_STD_I64LE, H5T_NATIVE_INT64, &v);
}

swin_status swin_h5_set_f64(swin_h5 *f, const char *at, const char *name, double v)
{
    return set_attr(f, at, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &v);
}

swin_status swin_h5_set_f32(swin_h5 *f, const char *at, const char *name, float v)
{
    return set_attr(f, at, name, H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, &v);
}

swin_status swin_h5_set_str(swin_h5 *f, const char *at, const char *name, const char *v)
{
    const hid_t type = H5Tcopy(H5T_C_S1);
    if (type < 0) return swin_fail(SWIN_ERR_IO, "%s: cannot write attribute %s of %s", f->path, name, at);
    H5Tset_size(type, strlen(v) + 1);
    H5Tset_cset(type, H5T_CSET_UTF8);
    const swin_status st = set_attr(f, at, name, type, type, v);
    H5Tclose(type);
    return st;
}

bool swin_h5_has_attr(swin_h5 *f, const char *at, const char *name)
{
    return swin_h5_exists(f, at) && H5Aexists_by_name(f->id, at, name, H5P_DEFAULT) > 0;
}

static swin_status open_attr(swin_h5 *f, const char *at, const char *name, hid_t *attr)
{
    if (!swin_h5_has_attr(f, at, name)) return h5_bad(f, "lacks", at, name);
    *attr = H5Aopen_by_name(f->id, at, name, H5P_DEFAULT, H5P_DEFAULT);
    return *attr < 0 ? h5_bad(f, "cannot open", at, name) : SWIN_OK;
}

/* A scalar, or an array of one element as some writers make. */
static swin_status get_number(swin_h5 *f, const char *at, const char *name, hid_t mtype, void *v)
{
    hid_t attr = H5I_INVALID_HID;
    SWIN_TRY(open_attr(f, at, name, &attr));
    const hid_t space = H5Aget_space(attr), type = H5Aget_type(attr);
    const H5T_class_t class = type >= 0 ? H5Tget_class(type) : H5T_NO_CLASS;
    const bool number = class == H5T_INTEGER || class == H5T_FLOAT;
    const bool ok = number && space >= 0 && H5Sget_simple_extent_npoints(space) == 1 &&
                    H5Aread(attr, mtype, v) >= 0;
    if (type >= 0) H5Tclose(type);
    if (space >= 0) H5Sclose(space);
    H5Aclose(attr);
    return ok ? SWIN_OK : h5_bad(f, "no single number in", at, name);
}

swin_status swin_h5_get_i64(swin_h5 *f, const char *at, const char *name, int64_t *v)
{
    return get_number(f, at, name, H5T_NATIVE_INT64, v);
}

swin_status swin_h5_get_f64(swin_h5 *f, const char *at, const char *name, double *v)
{
    return get_number(f, at, name, H5T_NATIVE_DOUBLE, v);
}

static char *read_fixed(hid_t attr, hid_t type)
{
    const size_t n = H5Tget_size(type);
    char *text = n && n < (1u << 26) ? calloc(n + 1, 1) : NULL;
    if (text && H5Aread(attr, type, text) >= 0) return text;
    free(text);
    return NULL;
}

static char *read_variable(hid_t attr, hid_t space)
{
    char *theirs = NULL, *text = NULL;
    const hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, H5T_VARIABLE);
    const hid_t given = H5Aget_type(attr);
    H5Tset_cset(type, H5Tget_cset(given));
    if (H5Aread(attr, type, &theirs) >= 0 && theirs) text = strdup(theirs);
    if (theirs) H5Dvlen_reclaim(type, space, H5P_DEFAULT, &theirs);
    H5Tclose(given);
    H5Tclose(type);
    return text;
}

swin_status swin_h5_get_str(swin_h5 *f, const char *at, const char *name, char **v)
{
    *v = NULL;
    hid_t attr = H5I_INVALID_HID;
    SWIN_TRY(open_attr(f, at, name, &attr));
    const hid_t type = H5Aget_type(attr), space = H5Aget_space(attr);
    if (type >= 0 && space >= 0 && H5Tget_class(type) == H5T_STRING &&
        H5Sget_simple_extent_npoints(space) == 1)
        *v = H5Tis_variable_str(type) > 0 ? read_variable(attr, space) : read_fixed(attr, type);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    H5Aclose(attr);
    return *v ? SWIN_OK : h5_bad(f, "no text in", at, name);
}
