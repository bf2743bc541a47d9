// Fuzzes the cache of reference log-probabilities (io/reference_cache.c): its bytes or, as reference_cache_made,
// well-formed HDF5 with contents that the input chooses. What does not fit leaves NaN everywhere.
#include "io/reference_cache.h"
#include "tests/fuzz/hdf5_check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 5 };

static void check(const char *path) {
    double *logp = malloc(ROWS * sizeof *logp), *logp_kl = malloc(ROWS * sizeof *logp_kl);
    bool found;
    Status status = reference_cache_read(path, "key", logp, logp_kl, ROWS, &found);
    fuzz_end(status);
    hdf5_check_closed();
    for (int i = 0; i < ROWS && status == STATUS_OK; i++) {
        FUZZ_CHECK(found || (isnan(logp[i]) && isnan(logp_kl[i])));
        // The file that a link or an external dataset of hdf5_make names.
        FUZZ_CHECK(memcmp(&logp[i], "\xA5\xA5\xA5\xA5\xA5\xA5\xA5\xA5", sizeof *logp) != 0);
    }
    free(logp);
    free(logp_kl);
}

#ifdef FUZZ_MADE
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *path, *outside;
    if (path == NULL) {
        char secret[256];
        memset(secret, 0xA5, sizeof secret);
        outside = fuzz_file("outside", secret, sizeof secret);
        path = fuzz_file("reference.h5", "", 0);
    }
    const Expected expected[] = {
        {.name = "key", .kind = TEXT, .text = "key"},
        {.name = "logp", .kind = VECTOR, .type = H5T_IEEE_F64LE, .length = ROWS},
        {.name = "logp_kl", .kind = VECTOR, .type = H5T_IEEE_F64LE, .length = ROWS},
    };
    hdf5_make(path, outside, expected, sizeof expected / sizeof *expected, data, size);
    check(path);
    return 0;
}
#else
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *path = fuzz_file("reference.h5", data, size);
    hdf5_seal_again(path);
    check(path);
    return 0;
}
#endif
