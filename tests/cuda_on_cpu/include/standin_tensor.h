// The functions of kernels/cuda/tensor.cuh for the stand-in.
#pragma once
#include <standin.h>

static inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                int line = __builtin_LINE()) {
    const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
    const uint64_t *all = standin::exchange(standin::TILE, line, 0xffffffffu, (uint64_t)(uintptr_t)mine);
    const int g = standin::lane() / 4, t = standin::lane() % 4;
    for (int e = 0; e < 4; e++) {
        const int half = e / 2; // row g + 8 half, column 2t + e % 2
        float sum = c[e];
        for (int k = 0; k < 16; k += 2) { // columns k, k + 1 of a are lane 4g + k/2 % 4's; rows of b likewise
            const uint32_t *left = (const uint32_t *)(uintptr_t)all[4 * g + k / 2 % 4];
            const uint32_t *right = (const uint32_t *)(uintptr_t)all[4 * (2 * t + e % 2) + k / 2 % 4];
            const uint32_t x = left[half + k / 8 * 2], y = right[4 + k / 8];
            sum += __uint_as_float(x << 16) * __uint_as_float(y << 16);
            sum += __uint_as_float(x & 0xffff0000u) * __uint_as_float(y & 0xffff0000u);
        }
        c[e] = sum;
    }
    standin::exchange(standin::TILE, line, 0xffffffffu, 0); // `mine` lives until all have read it
}
