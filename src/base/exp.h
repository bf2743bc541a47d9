// e^x for loops that the compiler makes vectors of, where libm's expf would be a call an element: softmax
// (kernels/cpu/simd) and drawing tokens (src/decode/draw.c). What has vectors of its own uses vexp of
// kernels/cpu/simd/vec.h.
#pragma once
#include <stdint.h>
#include <string.h>

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
