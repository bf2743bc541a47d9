#include "src/base/rng.h"

Rng rng_make(uint64_t seed, uint32_t stream, uint32_t substream) {
    return (Rng){.seed = seed, .stream = stream, .substream = substream, .used = 4};
}

uint32_t rng_u32(Rng *rng) {
    if (rng->used == 4) {
        rng->buffer =
            philox(rng->seed, (uint32_t)rng->block, (uint32_t)(rng->block >> 32), rng->stream, rng->substream);
        rng->block++;
        rng->used = 0;
    }
    return rng->buffer.v[rng->used++];
}

double rng_uniform(Rng *rng) {
    return rng_u32(rng) * 0x1p-32;
}

uint32_t rng_below(Rng *rng, uint32_t n) {
    // Lemire 2019, "Fast random integer generation in an interval", algorithm 5.
    uint64_t product = (uint64_t)rng_u32(rng) * n;
    if ((uint32_t)product < n) {
        uint32_t threshold = -n % n;
        while ((uint32_t)product < threshold) product = (uint64_t)rng_u32(rng) * n;
    }
    return (uint32_t)(product >> 32);
}

void rng_shuffle(Rng *rng, int32_t *v, int32_t n) {
    for (int32_t i = n - 1; i > 0; i--) {
        int32_t j = (int32_t)rng_below(rng, (uint32_t)i + 1);
        int32_t t = v[i];
        v[i] = v[j];
        v[j] = t;
    }
}
