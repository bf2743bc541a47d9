#!/usr/bin/env bash
# pyfive 1.3.0, the reader of HDF5 without the HDF5 library that xarray's users reach for, cannot read what a SWMR log must be.
#
# Expected: a chunked dataset of the file format of HDF5 1.10 (2016), the oldest that allows a reader while a writer
#   appends, is read like one of 1.8.
# Happens: from libver "v110" on h5py writes layout version 4 for every chunked dataset, compressed or not, growing or not;
#   pyfive opens the file, lists the dataset and raises when its values are asked for.
# Seen:
#   earliest [0. 1. 2.]
#   v108     [0. 1. 2.]
#   v110     RuntimeError: Pyfive cannot yet read HDF5 files with layout class 4
#   v110, not chunked [0. 1. 2.]
# So a log that is to be read by such readers needs another form once it no longer grows.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check h5py==3.16.0 pyfive==1.3.0 numpy==2.4.6
cat >look.py <<'END'
import h5py, numpy, pyfive


def show(name, low, **how):
    with h5py.File("f.h5", "w", libver=(low, "latest")) as file:
        file.create_dataset("x", data=numpy.arange(3.0), **how)
    try:
        print(f"{name:8} {pyfive.File('f.h5')['x'][:]}")
    except RuntimeError as error:
        print(f"{name:8} RuntimeError: {error}")


for low in "earliest", "v108", "v110":
    show(low, low, chunks=(2,), maxshape=(None,))
show("v110, not chunked", "v110")
END
venv/bin/python look.py | tee seen
diff - seen <<'END'
earliest [0. 1. 2.]
v108     [0. 1. 2.]
v110     RuntimeError: Pyfive cannot yet read HDF5 files with layout class 4
v110, not chunked [0. 1. 2.]
END
