// Vectors of one instruction set's width in GCC's vector extensions, and the scalar steps of bf16 written so that
// the compiler vectorises the loops around them. Included only by the files of this folder.
#pragma once
#include "src/base/exp.h"
#include <stddef.h>
#include <stdint.h>

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

static inline float from_bf16(uint16_t x) {
    return bits_float((uint32_t)x << 16);
}
// To nearest, ties to even; a NaN stays one.
static inline uint16_t to_bf16(float x) {
    uint32_t u = float_bits(x);
    uint32_t rounded = (u + 0x7FFFu + ((u >> 16) & 1u)) >> 16, nan = (u >> 16) | 0x40u;
    return (uint16_t)((u & 0x7FFFFFFFu) > 0x7F800000u ? nan : rounded);
}
