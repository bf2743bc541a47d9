// Takes the place of two functions inside libhdf5, so that a fuzzer gets further in the same time. H5_nanosleep: a
// reader beside a writer waits for a damaged block to become whole, a quarter of a second each. H5_checksum_metadata,
// where KTO_FUZZ_HDF5_CHECKSUMS=ignore is set: gives the checksum that stands behind the block, as every changed byte
// is refused otherwise. (Damage by chance does not pass the checksums; only a file forged with them does.)
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

void H5_nanosleep(uint64_t nanoseconds);
uint32_t H5_checksum_metadata(const void *data, size_t length, uint32_t start);

void H5_nanosleep(uint64_t nanoseconds) {
    (void)nanoseconds;
}

uint32_t H5_checksum_metadata(const void *data, size_t length, uint32_t start) {
    static uint32_t (*real)(const void *, size_t, uint32_t);
    static int ignore = -1;
    if (ignore < 0) {
        const char *setting = getenv("KTO_FUZZ_HDF5_CHECKSUMS");
        ignore = setting != NULL && strcmp(setting, "ignore") == 0;
        *(void **)&real = dlsym(RTLD_NEXT, "H5_checksum_metadata");
    }
    uint32_t stored;
    if (!ignore && real != NULL) return real(data, length, start);
    memcpy(&stored, (const char *)data + length, sizeof stored);
    return stored;
}
