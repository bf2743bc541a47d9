// For the targets of HDF5 files: identifiers that a reader leaves open, and files in the form that our writers give
// them but with contents that the input chooses.
#pragma once
#include "tests/fuzz/fuzz.h"
#include <hdf5.h>

// Aborts when more HDF5 objects are open than at the first call.
void hdf5_check_closed(void);

// One attribute or dataset that a reader expects.
typedef struct Expected {
    const char *name; // "group/name" for a dataset in a group
    enum { NUMBER, TEXT, VECTOR } kind;
    hid_t type;       // of NUMBER and VECTOR, in the file
    const char *text; // of TEXT
    uint64_t length;  // of VECTOR
    const void *good; // the bytes of NUMBER or VECTOR where the input says nothing of them; NULL: the input's
} Expected;

// Puts the digest in front that our readers ask for, so that what lies behind that check is reached.
void hdf5_seal_again(const char *path);

// Writes `path`, an HDF5 file with these objects, one after the other, as the input says: right, missing, of another
// type, shape, chunk size or layout, a link to somewhere else (`outside`: a file that may not be read), a group.
void hdf5_make(const char *path, const char *outside, const Expected *expected, int count, const uint8_t *data,
               size_t size);
