// reference-<hash>.h5: log-probs of the reference model, two doubles a row (completion y, KL completion y').
#pragma once
#include "src/base/status.h"
#include <stdint.h>

// Reads the file into logp[count] and logp_kl[count] (NaN: not yet computed). A missing file, another key or another
// count leaves them all NaN; *found says whether the file fitted. STATUS_DATA only for a file that cannot be ours.
Status reference_cache_read(const char *path, const char *key, double *logp, double *logp_kl, int64_t count,
                            bool *found);
// Writes all (unique temporary name, fsync, rename).
Status reference_cache_write(const char *path, const char *key, const double *logp, const double *logp_kl,
                             int64_t count);
