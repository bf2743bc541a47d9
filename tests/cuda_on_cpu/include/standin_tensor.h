// The functions of kernels/cuda/tensor.cuh on a CPU: same names, same meaning, no PTX. Fragments are spread over the
// lanes as the hardware does it; the matrix functions meet the whole warp, and addresses must be aligned.
#pragma once
#include "standin.h"

namespace standin {

static inline float bf16_low(uint32_t pair) {
    return value_of<float>((uint64_t)(pair & 0xffffu) << 16);
}
static inline float bf16_high(uint32_t pair) {
    return value_of<float>((uint64_t)(pair & 0xffff0000u));
}

static inline void load_matrices_any(uint32_t (&to)[4], const void *row, bool transposed, int line) {
    if ((uintptr_t)row % 16 != 0) refuse("load_matrices (line %d) needs 16-byte alignment", line);
    const uint64_t *all = exchange(MATRIX, line, 0xffffffffu, (uint64_t)(uintptr_t)row);
    const int g = lane() / 4, t = lane() % 4;
    for (int i = 0; i < 4; i++) {
        uint32_t half[2];
        for (int e = 0; e < 2; e++) {
            const int r = transposed ? 2 * t + e : g, c = transposed ? g : 2 * t + e;
            half[e] = ((const uint16_t *)(uintptr_t)all[8 * i + r])[c];
        }
        to[i] = half[0] | half[1] << 16;
    }
}

} // namespace standin

static inline void load_matrices(uint32_t (&to)[4], const void *row, int line = __builtin_LINE()) {
    standin::load_matrices_any(to, row, false, line);
}
static inline void load_matrices_transposed(uint32_t (&to)[4], const void *row, int line = __builtin_LINE()) {
    standin::load_matrices_any(to, row, true, line);
}

static inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                int line = __builtin_LINE()) {
    const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
    const uint64_t *all = standin::exchange(standin::MATRIX, line, 0xffffffffu, (uint64_t)(uintptr_t)mine);
    const int g = standin::lane() / 4, t = standin::lane() % 4;
    for (int e = 0; e < 4; e++) {
        const int half = e / 2; // row g + 8 half, column 2t + e % 2
        float sum = c[e];
        for (int k = 0; k < 16; k += 2) { // columns k, k + 1 of a are lane 4g + k/2 % 4's; rows of b likewise
            const uint32_t *left = (const uint32_t *)(uintptr_t)all[4 * g + k / 2 % 4];
            const uint32_t *right = (const uint32_t *)(uintptr_t)all[4 * (2 * t + e % 2) + k / 2 % 4];
            const uint32_t x = left[half + k / 8 * 2], y = right[4 + k / 8];
            sum += standin::bf16_low(x) * standin::bf16_low(y);
            sum += standin::bf16_high(x) * standin::bf16_high(y);
        }
        c[e] = sum;
    }
    standin::exchange(standin::MATRIX, line, 0xffffffffu, 0); // `mine` lives until all have read it
}

static inline void copy_16(void *to, const void *from, bool valid) {
    standin::copy_begin(to, from, 16, valid);
}
static inline void copy_8(void *to, const void *from, bool valid) {
    standin::copy_begin(to, from, 8, valid);
}
static inline void copies_commit() {
    standin::copies_commit();
}
template <int PENDING> static inline void copies_wait(int line = __builtin_LINE()) {
    if (!standin::dropped(line)) standin::copies_wait(PENDING);
}

static inline float power_of_2(float x) {
    const float y = exp2f(x);
    return y < FLT_MIN ? 0.0f : y;
}
static inline uint32_t fresh(uint32_t x) {
    return x;
}
static inline uint32_t pack(float low, float high) {
    return (uint32_t)__float2bfloat16_rn(low).bits | (uint32_t)__float2bfloat16_rn(high).bits << 16;
}
