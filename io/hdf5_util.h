// What our HDF5 files share: opening, vectors with checksums, attributes, and errors as one line with the reason.
// Files are opened with H5F_CLOSE_STRONG: closing one releases whatever an error path left open in it.
#pragma once
#include "src/base/status.h"
#include <hdf5.h>
#include <stdint.h>

// error_set with "PATH: WHAT: reason". Call it right after the HDF5 function that failed: the reason (the system's,
// such as "No space left on device", where it has one) is on HDF5's error stack, which the next call clears.
Status hdf5_error(Status status, const char *path, const char *what);
// Whether the reason of the last failure is a lock that another process holds.
bool hdf5_was_locked(void);

// H5F_ACC_* flags; a negative id on failure. Create replaces a file of that name.
// A file whose writer may be killed at any time while it appends: its blocks lie in pages.
hid_t hdf5_create_growing(const char *path);
// One that is written once, with room for a seal in front: HDF5's contents begin at byte HDF5_SEAL_BYTES, which every
// reader finds.
#define HDF5_SEAL_BYTES 512
hid_t hdf5_create_sealed(const char *path);
// After closing: writes the digest of all that follows into the first bytes of the file. STATUS_FAILED naming the file.
Status hdf5_seal(const char *path);
// Before opening: whether every byte of the file is as it was when it was sealed. STATUS_DATA naming the file.
Status hdf5_check_seal(const char *path);
hid_t hdf5_open(const char *path, unsigned flags);
// For the one writer, who has a lock of its own: a reader's HDF5 lock does not keep it out. What is appended is written
// in the order that readers and a kill need.
hid_t hdf5_open_growing(const char *path);
// After a power cut: the header of a file may have reached the disk, and the end of it not. Adds zeros up to the length
// that the header names; what is no such file is left alone.
void hdf5_restore_length(const char *path);

// A chunked one-dimensional dataset with fletcher32 checksums, written in full. STATUS_FAILED naming the file.
Status hdf5_write_vector(hid_t file, const char *path, const char *name, hid_t file_type, hid_t memory_type,
                         const void *data, int64_t count);
// Opens one. Refused, here and below, is what is not such a dataset in the file itself (links, contents in other
// files). STATUS_DATA naming the file.
Status hdf5_open_vector(hid_t file, const char *path, const char *name, hid_t *data_set);
// Its length, believed only where the file holds that many bytes.
Status hdf5_vector_length(hid_t file, const char *path, const char *name, int64_t *count);
Status hdf5_read_vector(hid_t file, const char *path, const char *name, hid_t memory_type, void *data);

// Scalar attributes of `object`, in the layout of a native type. Put makes a new one.
Status hdf5_put(hid_t object, const char *path, const char *name, hid_t type, const void *value);
Status hdf5_get(hid_t object, const char *path, const char *name, hid_t type, void *value);
// UTF-8 text: `plain` is stored inline, under the header's checksum; otherwise as the variable-length string that
// Python shows as str. Get reads the form that its name says, *text is the caller's.
Status hdf5_put_text(hid_t object, const char *path, const char *name, const char *text, bool plain);
Status hdf5_get_text(hid_t object, const char *path, const char *name, char **text);
Status hdf5_get_variable_text(hid_t object, const char *path, const char *name, char **text);
