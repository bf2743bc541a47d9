// One vector register of fp32 and what the loops of this folder do with it, for AVX2 and AVX-512: partial loads and
// stores of fp32 and bf16, fused multiply-add, horizontal sums, exp. Elementwise + - * / work by operators.
#pragma once
#include "kernels/backend.h"
#include "kernels/cpu/simd/lanes.h"
#include <immintrin.h>
#include <string.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline, unused))

#ifdef __AVX512F__
#define VL 16 // fp32 lanes
typedef __m512 vf;
#define V(name) _mm512_##name
#else
#define VL      8
typedef __m256 vf;
#define V(name) _mm256_##name
#endif
typedef int32_t vlanes __attribute__((vector_size(VL * 4)));

ALWAYS_INLINE vf vset(float x) {
    return V(set1_ps)(x);
}
ALWAYS_INLINE vf vzero(void) {
    return V(setzero_ps)();
}
ALWAYS_INLINE vf vfma(vf a, vf b, vf c) {
    return V(fmadd_ps)(a, b, c);
}
// The instructions return the second operand when one is NaN: here the second is the one whose NaN must survive.
ALWAYS_INLINE vf vmax(vf bound, vf x) {
    return V(max_ps)(bound, x);
}
ALWAYS_INLINE vf vmin(vf bound, vf x) {
    return V(min_ps)(bound, x);
}
ALWAYS_INLINE vf vsqrt(vf x) {
    return V(sqrt_ps)(x);
}

// --- fp32 and bf16 in memory ---
ALWAYS_INLINE vf vload(const float *p) {
    return V(loadu_ps)(p);
}
ALWAYS_INLINE void vstore(float *p, vf x) {
    V(storeu_ps)(p, x);
}

#ifdef __AVX512F__
ALWAYS_INLINE vf bf16_widen(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
// Round to nearest even (the carry of an added half, less one when the kept bit is 0); a NaN stays one.
ALWAYS_INLINE __m256i bf16_narrow(vf x) {
    __m512i bits = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x00400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}
ALWAYS_INLINE vf load(DType t, const void *p, int64_t i) {
    return t == DTYPE_F32 ? vload((const float *)p + i)
                          : bf16_widen(_mm256_loadu_si256((const __m256i *)((const uint16_t *)p + i)));
}
ALWAYS_INLINE void store(DType t, void *p, int64_t i, vf x) {
    if (t == DTYPE_F32)
        vstore((float *)p + i, x);
    else
        _mm256_storeu_si256((__m256i *)((uint16_t *)p + i), bf16_narrow(x));
}
ALWAYS_INLINE float hsum(vf x) {
    return _mm512_reduce_add_ps(x);
}
ALWAYS_INLINE float hmax(vf x) {
    return _mm512_reduce_max_ps(x);
}
#else
ALWAYS_INLINE vf bf16_widen(__m128i x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
ALWAYS_INLINE __m128i bf16_narrow(vf x) {
    __m256i bits = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x00400000));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    rounded = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
}
ALWAYS_INLINE vf load(DType t, const void *p, int64_t i) {
    return t == DTYPE_F32 ? vload((const float *)p + i)
                          : bf16_widen(_mm_loadu_si128((const __m128i *)((const uint16_t *)p + i)));
}
ALWAYS_INLINE void store(DType t, void *p, int64_t i, vf x) {
    if (t == DTYPE_F32)
        vstore((float *)p + i, x);
    else
        _mm_storeu_si128((__m128i *)((uint16_t *)p + i), bf16_narrow(x));
}
ALWAYS_INLINE float hsum(vf x) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
ALWAYS_INLINE float hmax(vf x) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
#endif

// The first n < VL lanes; the others are read as 0.
ALWAYS_INLINE vf load_part(DType t, const void *p, int64_t i, int64_t n) {
    float part[VL] = {0};
    size_t size = dtype_size(t);
    memcpy(part, (const char *)p + (size_t)i * size, (size_t)n * size);
    return load(t, part, 0);
}
ALWAYS_INLINE void store_part(DType t, void *p, int64_t i, int64_t n, vf x) {
    float part[VL];
    size_t size = dtype_size(t);
    store(t, part, 0, x);
    memcpy((char *)p + (size_t)i * size, part, (size_t)n * size);
}
// The lanes of elements i, i+1, ... of a row of `end`.
ALWAYS_INLINE vf load_to(DType t, const void *p, int64_t i, int64_t end, int64_t offset) {
    return end - i >= VL ? load(t, p, offset + i) : load_part(t, p, offset + i, end - i);
}
ALWAYS_INLINE void store_to(DType t, void *p, int64_t i, int64_t end, int64_t offset, vf x) {
    if (end - i >= VL)
        store(t, p, offset + i, x);
    else
        store_part(t, p, offset + i, end - i, x);
}

// The sums of the lanes of each of four vectors.
ALWAYS_INLINE __m128 sums_of_lanes(const vf v[4]) {
    vf a = V(unpacklo_ps)(v[0], v[1]) + V(unpackhi_ps)(v[0], v[1]);
    vf b = V(unpacklo_ps)(v[2], v[3]) + V(unpackhi_ps)(v[2], v[3]);
    vf s = V(shuffle_ps)(a, b, 0x44) + V(shuffle_ps)(a, b, 0xEE); // each 128 bits hold a part of every sum
#ifdef __AVX512F__
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps(s, 1));
#else
    __m256 half = s;
#endif
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

// --- functions ---

// Lanes from `n` on become `other`.
ALWAYS_INLINE vf keep_first(vf x, int32_t n, float other) {
#ifdef __AVX512F__
    return _mm512_mask_blend_ps((__mmask16)((1u << n) - 1), vset(other), x);
#else
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_blendv_ps(vset(other), x, _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane)));
#endif
}

// e^x to about 1 ulp, 0 below -87.3 (also for -infinity), infinity above 88.4; a NaN stays one. Cody-Waite reduction to
// |r| <= ln(2)/2 and the polynomial of Cephes' expf.
ALWAYS_INLINE vf vexp(vf x) {
    const float round = 12582912.0f; // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    const float least = -87.3f;
    vf y = vmin(vset(88.7f), vmax(vset(least), x));
    vf shifted = vfma(y, vset(1.44269504f), vset(round));
    vf n = shifted - vset(round);
    vf r = vfma(n, vset(-0.693359375f), y);
    r = vfma(n, vset(2.12194440e-4f), r);
    vf p = vset(1.9875691500e-4f);
    p = vfma(p, r, vset(1.3981999507e-3f));
    p = vfma(p, r, vset(8.3334519073e-3f));
    p = vfma(p, r, vset(4.1665795894e-2f));
    p = vfma(p, r, vset(1.6666665459e-1f));
    p = vfma(p, r, vset(5.0000001201e-1f));
    p = vfma(p * r, r, r) + vset(1.0f);
    vlanes power = ((vlanes)shifted << 23) + 0x3f800000; // 2^n, infinity for n = 128
    vf result = p * (vf)power;
#ifdef __AVX512F__
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, vset(least), _CMP_NLT_UQ), result);
#else
    return _mm256_and_ps(result, _mm256_cmp_ps(x, vset(least), _CMP_NLT_UQ));
#endif
}
ALWAYS_INLINE vf vsigmoid(vf x) {
    return vset(1.0f) / (vset(1.0f) + vexp(vzero() - x));
}

#if VL == 16
#define LOW_HALVES  0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGH_HALVES 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#else
#define LOW_HALVES  0, 8, 1, 9, 2, 10, 3, 11
#define HIGH_HALVES 4, 12, 5, 13, 6, 14, 7, 15
#endif
#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (vlanes){__VA_ARGS__})
#endif
// r[i][j] <-> r[j][i]. Each round interleaves row i with row i + VL/2; log2(VL) rounds swap row and column numbers.
ALWAYS_INLINE void transpose(vf r[VL]) {
    vf s[VL];
#pragma GCC unroll 4
    for (int round = 1; round < VL; round *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < VL / 2; i++) {
            s[2 * i] = SHUFFLE(r[i], r[i + VL / 2], LOW_HALVES);
            s[2 * i + 1] = SHUFFLE(r[i], r[i + VL / 2], HIGH_HALVES);
        }
#pragma GCC unroll 16
        for (int i = 0; i < VL; i++) r[i] = s[i];
    }
}
