// 64-bit hashes for identity (not for security): XXH3 of the xxHash library.
#pragma once
#include <stddef.h>
#include <stdint.h>

// Hash of `bytes` bytes, chained: pass the hash so far as `seed` (0 at first).
uint64_t hash_bytes(uint64_t seed, const void *data, size_t bytes);
