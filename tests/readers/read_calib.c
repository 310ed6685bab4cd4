/* Reads a calibration file without the toolkit: cc read_calib.c $(pkg-config --cflags --libs hdf5) && ./a.out FILE.h5 */
#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>

static double number(hid_t at, const char *name)
{
    double v = 0;
    hid_t a = H5Aopen(at, name, H5P_DEFAULT);
    if (a < 0 || H5Aread(a, H5T_NATIVE_DOUBLE, &v) < 0) exit(1); /* HDF5 has said what is wrong */
    return H5Aclose(a), v;
}

/* real = (code - zero_point) * scale, code = clamp(round(real / scale) + zero_point, qmin, qmax) */
static herr_t site(hid_t sites, const char *name, const H5L_info_t *info, void *user)
{
    hid_t s = H5Gopen2(sites, name, H5P_DEFAULT);
    if (number(s, "enabled") != 0)
        printf("%s %.9g %.0f %.0f %.0f\n", name, number(s, "scale"), number(s, "zero_point"),
               number(s, "qmin"), number(s, "qmax"));
    return H5Gclose(s);
}

int main(int argc, char **argv)
{
    hid_t f = argc == 2 ? H5Fopen(argv[1], H5F_ACC_RDONLY, H5P_DEFAULT) : -1;
    if (f < 0 || number(f, "schema") > 1) return fprintf(stderr, "no file, or a newer schema\n"), 1;
    hid_t sites = H5Gopen2(f, "sites", H5P_DEFAULT);
    return H5Literate(sites, H5_INDEX_CRT_ORDER, H5_ITER_INC, NULL, site, NULL) < 0; /* forward order */
}
