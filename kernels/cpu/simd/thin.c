// y = x W^T + bias for few rows of x, as decoding has them: bound by reading W, so W is read once, where it is mapped,
// and never copied or widened in memory. A tile is a few rows of x against OUTPUTS rows of W, both read as they are.
//
// Each sum of a tile runs over the features from the first to the last, vector by vector, one fused multiply-add after
// the other, and its lanes are added up in one fixed tree. So a row's bits do not depend on the rows beside it, nor on
// how the rows of W are shared out.
#include "kernels/cpu/simd/thin.h"
#include "kernels/cpu/simd/vec.h"

#if defined(__AVX512BF16__)
enum { ROWS = 6 }; // of x in a tile: with OUTPUTS sums each they fill the registers
#elif defined(__AVX512F__)
enum { ROWS = 4 };
#else
enum { ROWS = 2 };
#endif
enum {
    OUTPUTS = 4,                // rows of W in a tile
    OUTPUT_BLOCK = 4 * OUTPUTS, // rows of W that all rows of x pass before the next ones do: what a core's cache holds
};

// --- one vector of memory: VL fp32 or 2 VL bf16 ---
#ifdef __AVX512F__
typedef __m512i Raw;
ALWAYS_INLINE Raw raw_load(const char *p) {
    return _mm512_loadu_si512(p);
}
ALWAYS_INLINE Raw raw_load_part(const char *p, size_t bytes) { // the rest is zero
    return _mm512_maskz_loadu_epi8(((__mmask64)1 << bytes) - 1, p);
}
ALWAYS_INLINE vf raw_float(Raw x) {
    return _mm512_castsi512_ps(x);
}
ALWAYS_INLINE vf raw_even(Raw x) { // of bf16: element 2 i as fp32 in lane i
    return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
}
ALWAYS_INLINE vf raw_odd(Raw x) {
    return _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32((int)0xFFFF0000)));
}
#else
typedef __m256i Raw;
ALWAYS_INLINE Raw raw_load(const char *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}
ALWAYS_INLINE Raw raw_load_part(const char *p, size_t bytes) {
    Raw x = _mm256_setzero_si256();
    memcpy(&x, p, bytes);
    return x;
}
ALWAYS_INLINE vf raw_float(Raw x) {
    return _mm256_castsi256_ps(x);
}
ALWAYS_INLINE vf raw_even(Raw x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16));
}
ALWAYS_INLINE vf raw_odd(Raw x) {
    return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32((int)0xFFFF0000)));
}
#endif

// sum + the products of one vector of W's row and one of x's.
ALWAYS_INLINE vf multiply(DType t, Raw w, Raw x, vf sum) {
    if (t == DTYPE_F32) return vfma(raw_float(w), raw_float(x), sum);
#ifdef __AVX512BF16__
    return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)x);
#else
    return vfma(raw_odd(w), raw_odd(x), vfma(raw_even(w), raw_even(x), sum));
#endif
}

// The first `count` <= OUTPUTS elements of y_type at p; the others are 0.
ALWAYS_INLINE __m128 load_outputs(DType t, const void *p, int count) {
    float x[OUTPUTS] = {0};
    for (int i = 0; i < count; i++) x[i] = t == DTYPE_F32 ? ((const float *)p)[i] : from_bf16(((const uint16_t *)p)[i]);
    return _mm_loadu_ps(x);
}
ALWAYS_INLINE void store_outputs(DType t, void *p, int count, __m128 x) {
    if (t == DTYPE_F32) {
        if (count == OUTPUTS)
            _mm_storeu_ps(p, x);
        else
            memcpy(p, &x, (size_t)count * sizeof(float));
        return;
    }
#ifdef __AVX512BF16__
    __m128i narrowed = (__m128i)_mm_cvtneps_pbh(x);
#else
    __m128i bits = _mm_castps_si128(x), odd = _mm_and_si128(_mm_srli_epi32(bits, 16), _mm_set1_epi32(1));
    __m128i rounded = _mm_add_epi32(bits, _mm_add_epi32(odd, _mm_set1_epi32(0x7fff))); // as bf16_narrow does
    __m128i quiet = _mm_or_si128(bits, _mm_set1_epi32(0x00400000));
    rounded = _mm_blendv_epi8(rounded, quiet, _mm_castps_si128(_mm_cmpunord_ps(x, x)));
    __m128i narrowed = _mm_packus_epi32(_mm_srli_epi32(rounded, 16), _mm_setzero_si128());
#endif
    if (count == OUTPUTS)
        _mm_storel_epi64(p, narrowed);
    else
        memcpy(p, &narrowed, (size_t)count * sizeof(uint16_t));
}

// `rows` rows of x from `row` on against W's rows o to o + OUTPUTS - 1, as far as `end`. With `ahead` the rows two
// tiles further are fetched meanwhile, in the order in which they lie: OUTPUTS rows abreast, each about a page long,
// defeat the hardware's own prefetch (18 GB/s a core where this gives 27).
ALWAYS_INLINE void tile(DType t, int rows, bool ahead, const ThinCall *c, int32_t row, int32_t o, int32_t end) {
    const size_t bytes = (size_t)c->in * dtype_size(t);
    const char *x[ROWS], *w[OUTPUTS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) x[r] = (const char *)c->x + (size_t)(row + r) * bytes;
#pragma GCC unroll 4
    for (int i = 0; i < OUTPUTS; i++) w[i] = (const char *)c->w + (size_t)(o + i < end ? o + i : end - 1) * bytes;
    vf sum[ROWS][OUTPUTS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int i = 0; i < OUTPUTS; i++) sum[r][i] = vzero();
    size_t at = 0;
    for (; at + sizeof(Raw) <= bytes; at += sizeof(Raw)) {
        Raw part[ROWS];
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) part[r] = raw_load(x[r] + at);
#pragma GCC unroll 4
        for (int i = 0; i < OUTPUTS; i++) {
            Raw weight = raw_load(w[i] + at);
            if (ahead) __builtin_prefetch(w[0] + 2 * OUTPUTS * bytes + OUTPUTS * at + i * sizeof(Raw), 0, 2);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) sum[r][i] = multiply(t, weight, part[r], sum[r][i]);
        }
    }
    if (at < bytes) {
        Raw part[ROWS];
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) part[r] = raw_load_part(x[r] + at, bytes - at);
#pragma GCC unroll 4
        for (int i = 0; i < OUTPUTS; i++) {
            Raw weight = raw_load_part(w[i] + at, bytes - at);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) sum[r][i] = multiply(t, weight, part[r], sum[r][i]);
        }
    }
    const int count = end - o < OUTPUTS ? end - o : OUTPUTS;
    const size_t y_size = dtype_size(c->y_type), row_bytes = (size_t)c->ldy * y_size;
    char *y = (char *)c->y + (size_t)row * row_bytes + (size_t)o * y_size;
    __m128 bias =
        c->bias ? load_outputs(c->y_type, (const char *)c->bias + (size_t)o * y_size, count) : _mm_setzero_ps();
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++, y += row_bytes)
        store_outputs(c->y_type, y, count, _mm_add_ps(sums_of_lanes(sum[r]), bias));
}

// `rows` rows of x against outputs [begin, end).
ALWAYS_INLINE void strip(DType t, int rows, const ThinCall *c, int32_t row, int32_t begin, int32_t end) {
    for (int32_t o = begin; o < end; o += OUTPUTS) {
        if (row == 0)
            tile(t, rows, true, c, row, o, end);
        else
            tile(t, rows, false, c, row, o, end);
    }
}

ALWAYS_INLINE void product(DType t, const ThinCall *c, int32_t begin, int32_t end) {
    for (int32_t block = begin; block < end; block += OUTPUT_BLOCK) {
        int32_t block_end = end - block < OUTPUT_BLOCK ? end : block + OUTPUT_BLOCK, row = 0;
        for (; c->n - row >= ROWS; row += ROWS) strip(t, ROWS, c, row, block, block_end);
        switch (c->n - row) {
#if defined(__AVX512BF16__)
        case 5:
            strip(t, 5, c, row, block, block_end);
            break;
        case 4:
            strip(t, 4, c, row, block, block_end);
            break;
#endif
#if defined(__AVX512F__)
        case 3:
            strip(t, 3, c, row, block, block_end);
            break;
        case 2:
            strip(t, 2, c, row, block, block_end);
            break;
#endif
        case 1:
            strip(t, 1, c, row, block, block_end);
            break;
        default:
            break;
        }
    }
}

void SIMD_NAME(thin)(const ThinCall *call, int32_t begin, int32_t end) {
    if (call->type == DTYPE_BF16)
        product(DTYPE_BF16, call, begin, end);
    else
        product(DTYPE_F32, call, begin, end);
}
