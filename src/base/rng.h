// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
// The same (key, counter) gives the same numbers on every rank, thread and device.
#pragma once
#include <stdint.h>

typedef struct Philox4 {
    uint32_t v[4];
} Philox4;

// Inline because kernels call it per four elements.
static inline Philox4 philox(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (Philox4){{c0, c1, c2, c3}};
}

// Streams keep the uses of one seed apart: the third counter word.
enum { RNG_DATA_ORDER = 1, RNG_EPOCH_ORDER = 2, RNG_LORA_INIT = 3, RNG_DROPOUT = 4, RNG_SAMPLE = 5, RNG_SPLIT = 6 };

// A sequence of 32-bit numbers: blocks of philox(seed, block low, block high, stream, substream).
typedef struct Rng {
    uint64_t seed, block;
    uint32_t stream, substream;
    Philox4 buffer;
    int used;
} Rng;

Rng rng_make(uint64_t seed, uint32_t stream, uint32_t substream);
uint32_t rng_u32(Rng *rng);
double rng_uniform(Rng *rng);                      // in [0, 1), 32 bits
uint32_t rng_below(Rng *rng, uint32_t n);          // in [0, n), unbiased; n > 0
void rng_shuffle(Rng *rng, int32_t *v, int32_t n); // Fisher-Yates, from the end
