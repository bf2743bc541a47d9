// Vectors of one instruction set's width in GCC's vector extensions, and the scalar steps (bf16, exp) written so that
// the compiler vectorises the loops around them. Included only by the files of this folder.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define SIMD_NAME_(name, isa)    name##_##isa
#define SIMD_NAME_ISA(name, isa) SIMD_NAME_(name, isa)
#define SIMD_NAME(name)          SIMD_NAME_ISA(name, KTO_ISA) // name_avx2, name_avx512

#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef float LanesInMemory __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static inline Lanes lanes_load(const float *from) {
    return *(const LanesInMemory *)from;
}
static inline void lanes_store(float *to, Lanes v) {
    *(LanesInMemory *)to = v;
}
// Sum by halves: the same order whatever the compiler.
static inline float lanes_sum(Lanes v) {
    float t[LANES];
    lanes_store(t, v);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) t[i] += t[i + width];
    return t[0];
}

static inline uint32_t float_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}
static inline float bits_float(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}
static inline float from_bf16(uint16_t x) {
    return bits_float((uint32_t)x << 16);
}
// To nearest, ties to even; a NaN stays one.
static inline uint16_t to_bf16(float x) {
    uint32_t u = float_bits(x);
    uint32_t rounded = (u + 0x7FFFu + ((u >> 16) & 1u)) >> 16, nan = (u >> 16) | 0x40u;
    return (uint16_t)((u & 0x7FFFFFFFu) > 0x7F800000u ? nan : rounded);
}

// e^x for x <= 0, relative error below 2e-7; 0 below -87 (Cephes' expf: x = k ln 2 + r, polynomial in r, scaled by
// 2^k).
static inline float exp_nonpositive(float x) {
    float clamped = x < -87.0f ? -87.0f : x;
    float shifted = clamped * 1.44269504088896341f + 12582912.0f; // 1.5 * 2^23: the fraction's low bits become k
    float k = shifted - 12582912.0f;
    float r = clamped - k * 0.693359375f;
    r = r - k * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    float scale = bits_float((float_bits(shifted) - float_bits(12582912.0f) + 127u) << 23);
    return x < -87.0f ? 0.0f : p * scale;
}
