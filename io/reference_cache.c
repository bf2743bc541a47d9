// The reference cache: two checksummed vectors under a key that names everything they depend on. The key is made
// elsewhere.
#include "io/reference_cache.h"
#include "io/files.h"
#include "io/hdf5_util.h"
#include "src/base/log.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Whether key and length fit, and if so the values. Any status but STATUS_OK: damaged.
static Status read_values(hid_t file, const char *path, const char *key, double *logp, double *logp_kl, int64_t count,
                          bool *fits) {
    char *stored = NULL;
    int64_t length, length_kl;
    TRY(hdf5_get_text(file, path, "key", &stored));
    *fits = strcmp(stored, key) == 0;
    free(stored);
    TRY(hdf5_vector_length(file, path, "logp", &length));
    TRY(hdf5_vector_length(file, path, "logp_kl", &length_kl));
    *fits = *fits && length == count && length_kl == count;
    if (!*fits) return STATUS_OK;
    TRY(hdf5_read_vector(file, path, "logp", H5T_NATIVE_DOUBLE, logp));
    return hdf5_read_vector(file, path, "logp_kl", H5T_NATIVE_DOUBLE, logp_kl);
}

Status reference_cache_read(const char *path, const char *key, double *logp, double *logp_kl, int64_t count,
                            bool *found) {
    *found = false;
    Status status = STATUS_OK;
    bool fits = false;
    if (file_exists(path)) {
        hid_t file = H5I_INVALID_HID;
        status = hdf5_check_seal(path);
        if (status == STATUS_OK && (file = hdf5_open(path, H5F_ACC_RDONLY)) < 0)
            status = hdf5_error(STATUS_DATA, path, "cannot be read");
        else if (status == STATUS_OK && H5Aexists(file, "key") == 0)
            status = error_set(STATUS_DATA, "%s: is not a reference cache; name another in data.reference_cache", path);
        else if (status == STATUS_OK)
            status = read_values(file, path, key, logp, logp_kl, count, &fits);
        bool ours = file < 0 ? H5Fis_hdf5(path) > 0 : H5Aexists(file, "key") != 0;
        if (file >= 0) H5Fclose(file);
        if (status != STATUS_OK && !ours) return status;
    }
    if (status != STATUS_OK) { // damaged: recomputing costs time, stopping would cost more
        log_warning("%s; the reference is computed anew", error_text());
        error_clear();
        fits = false;
    }
    *found = fits;
    for (int64_t i = 0; i < count && !fits; i++) logp[i] = logp_kl[i] = NAN;
    return STATUS_OK;
}

Status reference_cache_write(const char *path, const char *key, const double *logp, const double *logp_kl,
                             int64_t count) {
    if (count == 0) return STATUS_OK;
    char temporary[PATH_MAX], host[128] = ""; // runs on several hosts may share a cache
    gethostname(host, sizeof host - 1);
    snprintf(temporary, sizeof temporary, "%s.%s.%ld.tmp", path, host, (long)getpid());
    hid_t file = hdf5_create_sealed(temporary);
    if (file < 0) return hdf5_error(STATUS_FAILED, path, "cannot be made");
    Status status = hdf5_put_text(file, path, "key", key, true);
    if (status == STATUS_OK)
        status = hdf5_write_vector(file, path, "logp", H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, logp, count);
    if (status == STATUS_OK)
        status = hdf5_write_vector(file, path, "logp_kl", H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, logp_kl, count);
    if (H5Fclose(file) < 0 && status == STATUS_OK) status = hdf5_error(STATUS_FAILED, path, "cannot be written");
    if (status == STATUS_OK) status = hdf5_seal(temporary);
    if (status == STATUS_OK) return file_publish(temporary, path);
    unlink(temporary);
    return status;
}
