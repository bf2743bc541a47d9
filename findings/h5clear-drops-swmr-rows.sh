#!/usr/bin/env bash
# HDF5 1.10.8's `h5clear -s`, made to reopen a file whose SWMR writer died, takes away every row that was flushed.
#
# Expected: a writer flushes each row (H5Dflush, h5py's dataset.flush()) and is killed. A SWMR reader sees all rows. The
#   manual sends whoever wants to open the file again to `h5clear -s`, which clears a flag in the superblock; the rows
#   stay.
# Happens: H5Dflush does not bring the superblock's end of file up to date. `h5clear -s` opens the file read-write, takes
#   that old end for the true one and cuts the file there: exit code 0, no word, and the data are gone for good.
# Seen:
#   reader   1000 rows, the last 999.0
#   h5clear  exit code 0, ''
#   after    cut to less than a tenth: True; the rows: addr overflow
#   with --increment=0 in the same call: 1000 rows, the last 999.0
# So: H5Fflush of the file after each row, or `h5clear -s --increment=0 FILE` in one call.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check h5py==3.16.0 numpy==2.4.6
apt-get download -q hdf5-tools=1.10.8+repack1-1 libhdf5-103-1=1.10.8+repack1-1 libaec0=1.0.6-1+b1 libsz2=1.0.6-1+b1 >/dev/null 2>&1
for package in *.deb; do dpkg -x "$package" tools; done
cat >look.py <<'END'
import glob, os, shutil, signal, subprocess
import h5py

if os.fork() == 0:  # the writer
    file = h5py.File("log.h5", "w", libver="latest")
    rows = file.create_dataset("rows", (0,), maxshape=(None,), chunks=(64,), dtype="f8")
    file.swmr_mode = True
    for i in range(1000):
        rows.resize((i + 1,))
        rows[i] = i
        rows.flush()
    os.kill(os.getpid(), signal.SIGKILL)
os.wait()
with h5py.File("log.h5", "r", swmr=True) as file:
    print(f"reader   {len(file['rows'])} rows, the last {file['rows'][-1]}")
shutil.copy("log.h5", "copy.h5")
size = os.path.getsize("log.h5")


def h5clear(*words):
    folder = os.path.dirname(glob.glob("tools/usr/lib/*/libhdf5_serial.so.103")[0])
    return subprocess.run(["tools/usr/bin/h5clear", *words], env=dict(os.environ, LD_LIBRARY_PATH=folder),
                          capture_output=True, text=True)


done = h5clear("-s", "log.h5")
print(f"h5clear  exit code {done.returncode}, {done.stdout + done.stderr!r}")
try:
    with h5py.File("log.h5", "r") as file:
        left = f"{len(file['rows'][:])}"
except OSError as error:
    left = "addr overflow" if "addr overflow" in str(error) else str(error)
print(f"after    cut to less than a tenth: {os.path.getsize('log.h5') < size / 10}; the rows: {left}")
h5clear("-s", "--increment=0", "copy.h5")
with h5py.File("copy.h5", "r") as file:
    print(f"with --increment=0 in the same call: {len(file['rows'])} rows, the last {file['rows'][-1]}")
END
venv/bin/python look.py | tee seen
diff - seen <<'END'
reader   1000 rows, the last 999.0
h5clear  exit code 0, ''
after    cut to less than a tenth: True; the rows: addr overflow
with --increment=0 in the same call: 1000 rows, the last 999.0
END
