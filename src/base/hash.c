#include "src/base/hash.h"

#include <xxhash.h>

uint64_t hash_bytes(uint64_t seed, const void *data, size_t bytes) {
    return XXH3_64bits_withSeed(data, bytes, seed);
}
