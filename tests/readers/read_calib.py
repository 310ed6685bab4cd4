"""Reads a calibration file without the toolkit: python read_calib.py FILE.h5 (needs h5py)."""
import sys

import h5py

SCHEMA = 1  # the newest one this reader knows


def read(path):
    """Returns ({site: attributes}, {module: [amax of each output channel]}), both in forward order."""
    with h5py.File(path, "r") as f:
        if f.attrs["schema"] > SCHEMA:
            raise SystemExit(f"{path}: schema {f.attrs['schema']} is newer than this reader")
        group = f["sites"]
        sites = {name: dict(group[name].attrs) for name in group}
        weights = {name: f["weights"][name]["amax_channel"][:].tolist() for name in f["weights"]}
    return sites, weights


if __name__ == "__main__":
    for name, site in read(sys.argv[1])[0].items():
        if site["enabled"]:
            # real = (code - zero_point) * scale, code = clamp(round(real / scale) + zero_point, qmin, qmax)
            print(f"{name} {site['scale']:.9g} {site['zero_point']} {site['qmin']} {site['qmax']}")
