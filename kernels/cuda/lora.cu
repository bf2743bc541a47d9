// LoRA's low-rank products: see lora.c. Each reads what is wide (x, y, dy, dx) once, in 16 bytes a lane where rows
// allow it, straight into the operands of tensor cores: the order of terms in a sum is free as long as both operands
// agree on it, so lane 4g + t takes neighbours in memory for its share, and nothing goes through shared memory but the
// sums that the warps of a block have in common. In fp32 the same shares meet in plain products.
//
// Sums are in an order that the shapes alone decide, and a token's h, y, dh and dx in one that its own row decides.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/lora.h"
#include "kernels/cuda/tensor.cuh"

enum {
    WARPS = 8,
    THREADS = WARPS * WARP,
    TOKENS = 16,     // of a tile of tokens
    COLUMNS = 48,    // of h or dh that a block has at once
    STRIP = 64,      // features of a block of weight_gradients, and
    STRIP_RANK = 16, // rows of A, or columns of B
    WARP_FEATURES = 32,
    ROW_TILES = 2,      // tiles of tokens, in add_products
    DROPOUT_STREAM = 4, // RNG_DROPOUT of src/base/rng.h
};

// Whether T is multiplied by tensor cores: then four lanes share a sum's terms. Else a lane has them all.
template <typename T> constexpr bool tensor = sizeof(T) == 2;
template <typename T> constexpr int lanes_of_sum = tensor<T> ? 4 : 1;
template <typename T> constexpr int parts_of_dh = tensor<T> ? 3 : 1;

template <typename T> static __device__ inline T zero() {
    T value;
    from_float(0.0f, &value);
    return value;
}

// row[first .. first + N), 0 from `end` on. whole: row + first is aligned for a Pack.
template <int N, typename T>
static __device__ inline Pack<T, N> take(const T *row, int32_t first, int32_t end, bool whole) {
    if (whole && first + N <= end) return *reinterpret_cast<const Pack<T, N> *>(row + first);
    Pack<T, N> to;
    for (int i = 0; i < N; i++) to.v[i] = first + i < end ? row[first + i] : zero<T>();
    return to;
}

template <int N, typename T> static __device__ inline Pack<T, N> nothing() {
    Pack<T, N> to;
    for (int i = 0; i < N; i++) to.v[i] = zero<T>();
    return to;
}

// Two neighbours as one operand word, the first in the lower half.
static __device__ inline uint32_t pair(__nv_bfloat16 low, __nv_bfloat16 high) {
    const __nv_bfloat16 both[2] = {low, high};
    uint32_t bits;
    memcpy(&bits, both, sizeof bits);
    return bits;
}
template <int N> static __device__ inline uint32_t word(const Pack<__nv_bfloat16, N> &from, int i) {
    return pair(from.v[2 * i], from.v[2 * i + 1]);
}

// --- dropout ---

// Bit i: feature 4 quad + i of the module is kept for the token. philox() of src/base/rng.h, which is the host's.
static __device__ inline uint32_t kept_bits(const LoraMask &mask, int32_t row, int32_t module, int32_t quad) {
    if (mask.owner[row] < 0) return 15;
    uint32_t c0 = (uint32_t)mask.owner[row], c1 = (uint32_t)mask.position[row], c2 = DROPOUT_STREAM;
    uint32_t c3 = (uint32_t)module << 20 | (uint32_t)quad;
    uint32_t k0 = (uint32_t)mask.key, k1 = (uint32_t)(mask.key >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (uint32_t)(c0 >= mask.threshold) | (uint32_t)(c1 >= mask.threshold) << 1 |
           (uint32_t)(c2 >= mask.threshold) << 2 | (uint32_t)(c3 >= mask.threshold) << 3;
}

// Of eight features from `feature` on, a multiple of 8.
static __device__ inline uint32_t kept_of_eight(const LoraMask &mask, int32_t row, int32_t module, int32_t feature) {
    return kept_bits(mask, row, module, feature / 4) | kept_bits(mask, row, module, feature / 4 + 1) << 4;
}

static __device__ inline float keep_scale(const LoraMask &mask, int32_t row) {
    return mask.owner != nullptr && mask.owner[row] >= 0 ? mask.keep_scale : 1.0f;
}

// Eight features of a token's row as the module sees them.
template <typename T>
static __device__ inline Pack<T, 8> take_masked(const T *x, int32_t row, int32_t ld, int32_t width, int32_t feature,
                                                bool whole, const LoraMask &mask, int32_t module) {
    Pack<T, 8> to = take<8>(x + (size_t)row * ld, feature, width, whole);
    if (mask.owner == nullptr) return to;
    const uint32_t kept = kept_of_eight(mask, row, module, feature);
    for (int i = 0; i < 8; i++)
        if (!(kept >> i & 1)) to.v[i] = zero<T>();
    return to;
}

// --- sums over features: h and dh ---

struct LowShared {
    float part[WARPS][TOKENS][COLUMNS];
};

// s.part[warp] = the warp's share of sum over f of left(token)[f] right(column)[f], for the tokens of a tile and
// `columns` columns. left(token, f) and right(column, f) give eight terms from f on.
template <typename T, typename Left, typename Right>
static __device__ inline void sum_features(LowShared &s, int32_t width, int32_t columns, Left left, Right right) {
    enum { TURN = 8 * lanes_of_sum<T> };
    const int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    float c[COLUMNS / 8][4] = {};
#pragma unroll 2
    for (int32_t first = warp * TURN; first < width; first += WARPS * TURN) {
        const int32_t f = first + (tensor<T> ? 8 * t : 0);
        const Pack<T, 8> low = left(g, f), high = left(g + 8, f);
#pragma unroll
        for (int tile = 0; tile < COLUMNS / 8; tile++) {
            if (8 * tile >= columns) break;
            if constexpr (tensor<T>) {
                const Pack<T, 8> r = right(8 * tile + g, f);
                const uint32_t a[2][4] = {{word(low, 0), word(high, 0), word(low, 1), word(high, 1)},
                                          {word(low, 2), word(high, 2), word(low, 3), word(high, 3)}};
                multiply_add(c[tile], a[0], word(r, 0), word(r, 1));
                multiply_add(c[tile], a[1], word(r, 2), word(r, 3));
            } else {
                for (int e = 0; e < 2; e++) {
                    const Pack<T, 8> r = right(8 * tile + 2 * t + e, f);
                    for (int i = 0; i < 8; i++) c[tile][e] += low.v[i] * r.v[i];
                    for (int i = 0; i < 8; i++) c[tile][2 + e] += high.v[i] * r.v[i];
                }
            }
        }
    }
    for (int tile = 0; tile < COLUMNS / 8; tile++)
        for (int i = 0; i < 4; i++) s.part[warp][g + 8 * (i / 2)][8 * tile + 2 * t + i % 2] = c[tile][i];
}

// Gives store(token, column, sum) the tile's sums.
template <typename Store> static __device__ inline void add_warps(const LowShared &s, int32_t columns, Store store) {
    __syncthreads();
    for (int i = (int)threadIdx.x; i < TOKENS * COLUMNS; i += THREADS) {
        const int token = i / COLUMNS, column = i % COLUMNS;
        if (column >= columns) continue;
        float sum = 0;
        for (int warp = 0; warp < WARPS; warp++) sum += s.part[warp][token][column];
        store(token, column, sum);
    }
}

static __device__ inline int32_t at_most(int32_t x, int32_t most) {
    return x < most ? x : most;
}

// Columns [block * COLUMNS, ...) of one of `spans` spans of `rank` columns: a module under a mask of its own, or all.
template <typename T>
KERNEL_BLOCKS(THREADS, tensor<T> ? 2 : 1)
low(LoraGroup group, LoraMask mask, const T *x, T *h, int32_t n, int32_t spans, bool whole) {
    SHARED(LowShared, s);
    const int32_t rank = group.count * group.r, width = rank / spans, blocks = (width + COLUMNS - 1) / COLUMNS;
    const int32_t span = (int32_t)blockIdx.y / blocks, first = (int32_t)blockIdx.y % blocks * COLUMNS;
    const int32_t columns = at_most(width - first, COLUMNS), base = span * width + first;
    const int32_t row = (int32_t)blockIdx.x * TOKENS, in = group.in, id = group.module[span].id;
    const T *a = static_cast<const T *>(group.module[0].a) + (size_t)base * in;
    sum_features<T>(
        s, in, columns,
        [&](int token, int32_t f) {
            return row + token < n ? take_masked(x, row + token, in, in, f, whole, mask, id) : nothing<8, T>();
        },
        [&](int column, int32_t f) {
            return column < columns ? take<8>(a + (size_t)column * in, f, in, whole) : nothing<8, T>();
        });
    add_warps(s, columns, [&](int token, int column, float sum) {
        if (row + token < n)
            from_float(keep_scale(mask, row + token) * sum, &h[(size_t)(row + token) * rank + base + column]);
    });
}

template <typename T>
KERNEL_BLOCKS(THREADS, tensor<T> ? 2 : 1)
low_gradient(LoraGroup group, LoraMask mask, LoraRows dy, T *parts, int32_t n, bool whole) {
    SHARED(LowShared, s);
    const int32_t rank = group.count * group.r, r = group.r, blocks = (r + COLUMNS - 1) / COLUMNS;
    const int32_t m = (int32_t)blockIdx.y / blocks, first = (int32_t)blockIdx.y % blocks * COLUMNS;
    const int32_t columns = at_most(r - first, COLUMNS), row = (int32_t)blockIdx.x * TOKENS, out = group.module[m].out;
    const int32_t ld = group.module[m].ld;
    const T *b = static_cast<const T *>(group.module[m].b) + first, *rows = static_cast<const T *>(dy.of[m]);
    sum_features<T>(
        s, out, columns,
        [&](int token, int32_t f) {
            return row + token < n ? take<8>(rows + (size_t)(row + token) * ld, f, out, whole) : nothing<8, T>();
        },
        [&](int column, int32_t f) {
            Pack<T, 8> to;
            for (int i = 0; i < 8; i++)
                to.v[i] = column < columns && f + i < out ? b[(size_t)(f + i) * r + column] : zero<T>();
            return to;
        });
    add_warps(s, columns, [&](int token, int column, float sum) {
        if (row + token >= n) return;
        float rest = group.scale * keep_scale(mask, row + token) * sum;
        T *to = parts + (size_t)(row + token) * rank + m * r + first + column;
        for (int part = 0; part < parts_of_dh<T>; part++, to += (size_t)n * rank) {
            from_float(rest, to);
            rest -= to_float(*to); // exact: a part takes 8 of the 24 bits of what is left
        }
    });
}

// --- sums over tokens: da and db ---

struct StripShared {
    float part[WARPS][STRIP][STRIP_RANK + 1]; // 1: other banks
};

// A block has STRIP features of x or dy, and STRIP_RANK columns of dh or h, over all tokens; its warps take turns. In
// tensor cores' terms the features are rows, the tokens a sum's terms: lane 4g + t has features 8g .. 8g + 7 of tokens
// 4t .. 4t + 3, and product i of four has features 8g + 2i as its row g, 8g + 2i + 1 as row g + 8.
template <typename T>
KERNEL_BLOCKS(THREADS, tensor<T> ? 2 : 1)
weight_gradients(LoraGroup group, LoraMask mask, const T *x, const T *h, LoraRows dy, const T *parts, int32_t n,
                 bool whole) {
    enum { TURN = 4 * lanes_of_sum<T> };
    SHARED(StripShared, s);
    const int32_t rank = group.count * group.r, r = group.r, strips_in = (group.in + STRIP - 1) / STRIP;
    int32_t m = 0, strip = (int32_t)blockIdx.x;
    for (; m < LORA_GROUP_MAX - 1; m++) {
        const int32_t strips = strips_in + (group.module[m].out + STRIP - 1) / STRIP;
        if (strip < strips) break;
        strip -= strips;
    }
    const bool of_a = strip < strips_in;
    const LoraModule module = group.module[m];
    const int32_t width = of_a ? group.in : module.out, feature = (of_a ? strip : strip - strips_in) * STRIP;
    const int32_t ld = of_a ? width : module.ld;
    const int32_t column = (int32_t)blockIdx.y * STRIP_RANK, columns = at_most(r - column, STRIP_RANK);
    const T *rows = of_a ? x : static_cast<const T *>(dy.of[m]), *low = (of_a ? parts : h) + m * r + column;
    const int planes = of_a ? parts_of_dh<T> : 1;
    const LoraMask masked = of_a ? mask : LoraMask{0, 0, nullptr, nullptr, 1.0f};

    const int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    float c[4][STRIP_RANK / 8][4] = {};
    for (int32_t first = warp * TURN; first < n; first += WARPS * TURN) {
        const int32_t token = first + (tensor<T> ? 4 * t : 0);
        Pack<T, 8> wide[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            wide[i] = token + i < n ? take_masked(rows, token + i, ld, width, feature + 8 * g, whole, masked, module.id)
                                    : nothing<8, T>();
        for (int plane = 0; plane < planes; plane++) {
            const T *plane_rows = low + (size_t)plane * n * rank;
            const auto at = [&](int i, int j) {
                return token + i < n && j < columns ? plane_rows[(size_t)(token + i) * rank + j] : zero<T>();
            };
#pragma unroll
            for (int tile = 0; tile < STRIP_RANK / 8; tile++) {
                if (8 * tile >= columns) break;
                if constexpr (tensor<T>) {
                    const int j = 8 * tile + g;
                    const uint32_t b0 = pair(at(0, j), at(1, j)), b1 = pair(at(2, j), at(3, j));
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        const uint32_t a[4] = {
                            pair(wide[0].v[2 * i], wide[1].v[2 * i]), pair(wide[0].v[2 * i + 1], wide[1].v[2 * i + 1]),
                            pair(wide[2].v[2 * i], wide[3].v[2 * i]), pair(wide[2].v[2 * i + 1], wide[3].v[2 * i + 1])};
                        multiply_add(c[i][tile], a, b0, b1);
                    }
                } else {
                    for (int e = 0; e < 2; e++)
                        for (int k = 0; k < 4; k++) {
                            const float factor = at(k, 8 * tile + 2 * t + e);
                            for (int i = 0; i < 8; i++) c[i / 2][tile][2 * (i % 2) + e] += wide[k].v[i] * factor;
                        }
                }
            }
        }
    }
    for (int i = 0; i < 4; i++)
        for (int tile = 0; tile < STRIP_RANK / 8; tile++)
            for (int e = 0; e < 4; e++) s.part[warp][8 * g + 2 * i + e / 2][8 * tile + 2 * t + e % 2] = c[i][tile][e];
    __syncthreads();
    for (int i = (int)threadIdx.x; i < STRIP * STRIP_RANK; i += THREADS) { // neighbours in memory side by side
        const int f = of_a ? i % STRIP : i / STRIP_RANK, j = of_a ? i / STRIP : i % STRIP_RANK;
        if (feature + f >= width || j >= columns) continue;
        float sum = 0;
        for (int w = 0; w < WARPS; w++) sum += s.part[w][f][j];
        if (of_a)
            module.da[(size_t)(column + j) * width + feature + f] += sum;
        else
            module.db[(size_t)(feature + f) * r + column + j] += group.scale * sum;
    }
}

// --- products with a short sum, added to y or dx ---

// What a warp multiplies: the rank's share of tokens by that of features.
template <typename T> struct Factors {
    const T *low;    // h or parts, of the module: [n, ld], and planes of them
    int32_t ld;      // count * r
    int planes;      // of n * ld
    const T *weight; // b[out, r], or a[r, in] where `transposed`
    int32_t width;   // features: out, or in
    bool transposed;
    bool low_whole, weight_whole; // rows are aligned for a pack
};

// The four rows j .. j + 3 (0 from r on) of column `feature` + i, i < 4: to[i].
template <typename T>
static __device__ inline void take_columns(const Factors<T> &of, int32_t feature, int32_t j, int32_t r,
                                           Pack<T, 4> (&to)[4]) {
    if (!of.transposed) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            to[i] = feature + i < of.width ? take<4>(of.weight + (size_t)(feature + i) * r, j, r, of.weight_whole)
                                           : nothing<4, T>();
        return;
    }
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const Pack<T, 4> row = j + k < r
                                   ? take<4>(of.weight + (size_t)(j + k) * of.width, feature, of.width, of.weight_whole)
                                   : nothing<4, T>();
        for (int i = 0; i < 4; i++) to[i].v[k] = row.v[i];
    }
}

// sum[tile][i][2 half + e] = sum over j of low[row + 16 tile + 8 half + g][j] weight(feature + 8t + 4e + i)[j]. Column
// g of product i is feature 4g + i, so that a lane's sums are those of eight neighbours.
template <typename T>
static __device__ inline void multiply_rank(const Factors<T> &of, int32_t row, int32_t n, int32_t feature, int32_t r,
                                            float (&sum)[ROW_TILES][4][4]) {
    const int lane = (int)threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    for (int32_t first = 0; first < r; first += 4 * lanes_of_sum<T>) {
        const int32_t j = first + (tensor<T> ? 4 * t : 0);
        Pack<T, 4> right[2][4];
        if constexpr (tensor<T>) {
            take_columns(of, feature + 4 * g, j, r, right[0]);
        } else {
            take_columns(of, feature + 8 * t, j, r, right[0]);
            take_columns(of, feature + 8 * t + 4, j, r, right[1]);
        }
        for (int plane = 0; plane < of.planes; plane++)
#pragma unroll
            for (int tile = 0; tile < ROW_TILES; tile++) {
                Pack<T, 4> left[2];
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const int32_t at = row + 16 * tile + 8 * half + g;
                    left[half] = at < n ? take<4>(of.low + ((size_t)plane * n + at) * of.ld, j, r, of.low_whole)
                                        : nothing<4, T>();
                }
                if constexpr (tensor<T>) {
                    const uint32_t a[4] = {word(left[0], 0), word(left[1], 0), word(left[0], 1), word(left[1], 1)};
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        multiply_add(sum[tile][i], a, word(right[0][i], 0), word(right[0][i], 1));
                } else {
                    for (int i = 0; i < 4; i++)
                        for (int e = 0; e < 4; e++)
                            for (int k = 0; k < 4; k++) sum[tile][i][e] += left[e / 2].v[k] * right[e % 2][i].v[k];
                }
            }
    }
}

// to[token, feature ..] += factor * sum, rounded once.
template <typename T>
static __device__ inline void add_rows(T *to, int32_t row, int32_t n, int32_t ld, int32_t width, int32_t feature,
                                       bool whole, float factor, const float (&sum)[ROW_TILES][4][4]) {
    const int lane = (int)threadIdx.x % WARP, g = lane / 4, f = feature + 8 * (lane % 4);
#pragma unroll
    for (int tile = 0; tile < ROW_TILES; tile++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int32_t at = row + 16 * tile + 8 * half + g;
            if (at >= n || f >= width) continue;
            T *const of_row = to + (size_t)at * ld;
            Pack<T, 8> value = take<8>(of_row, f, width, whole);
            for (int i = 0; i < 8; i++)
                from_float(to_float(value.v[i]) + factor * sum[tile][i % 4][2 * half + i / 4], &value.v[i]);
            if (whole && f + 8 <= width)
                *reinterpret_cast<Pack<T, 8> *>(of_row + f) = value;
            else
                for (int i = 0; i < 8; i++)
                    if (f + i < width) of_row[f + i] = value.v[i];
        }
}

// A block has ROW_TILES * 16 tokens and WARPS * WARP_FEATURES features of one module's y.
template <typename T>
KERNEL_BLOCKS(THREADS, tensor<T> ? 2 : 1)
add_outputs(LoraGroup group, const T *h, LoraRows y, int32_t n, bool rank_whole, bool whole) {
    int32_t m = 0, strip = (int32_t)blockIdx.y;
    for (; m < LORA_GROUP_MAX - 1; m++) {
        const int32_t strips = (group.module[m].out + WARPS * WARP_FEATURES - 1) / (WARPS * WARP_FEATURES);
        if (strip < strips) break;
        strip -= strips;
    }
    const int32_t row = (int32_t)blockIdx.x * ROW_TILES * TOKENS, r = group.r, out = group.module[m].out;
    const int32_t feature = (strip * WARPS + (int32_t)threadIdx.x / WARP) * WARP_FEATURES;
    const Factors<T> factors = {h + m * r, group.count * r, 1,          static_cast<const T *>(group.module[m].b),
                                out,       false,           rank_whole, rank_whole};
    float sum[ROW_TILES][4][4] = {};
    multiply_rank(factors, row, n, feature, r, sum);
    add_rows(static_cast<T *>(y.of[m]), row, n, group.module[m].ld, out, feature, whole, group.scale, sum);
}

template <typename T>
KERNEL_BLOCKS(THREADS, tensor<T> ? 2 : 1)
add_inputs(LoraGroup group, LoraMask mask, const T *parts, T *dx, int32_t n, bool rank_whole, bool whole) {
    const int32_t row = (int32_t)blockIdx.x * ROW_TILES * TOKENS, r = group.r, in = group.in;
    const int32_t feature = ((int32_t)blockIdx.y * WARPS + (int32_t)threadIdx.x / WARP) * WARP_FEATURES;
    const int lane = (int)threadIdx.x % WARP, g = lane / 4, f = feature + 8 * (lane % 4);
    float total[ROW_TILES][4][4] = {};
    for (int m = 0; m < group.count; m++) {
        const Factors<T> factors = {
            parts + m * r, group.count * r, parts_of_dh<T>, static_cast<const T *>(group.module[m].a), in,
            true,          rank_whole,      whole};
        if (mask.owner == nullptr) {
            multiply_rank(factors, row, n, feature, r, total);
            continue;
        }
        float sum[ROW_TILES][4][4] = {};
        multiply_rank(factors, row, n, feature, r, sum);
        for (int tile = 0; tile < ROW_TILES; tile++)
            for (int half = 0; half < 2; half++) {
                const int32_t at = row + 16 * tile + 8 * half + g;
                const uint32_t kept = at < n ? kept_of_eight(mask, at, group.module[m].id, f) : 0;
                for (int i = 0; i < 8; i++)
                    if (kept >> i & 1) total[tile][i % 4][2 * half + i / 4] += sum[tile][i % 4][2 * half + i / 4];
            }
    }
    add_rows(dx, row, n, in, in, feature, whole, 1.0f, total);
}

// --- launchers ---

static unsigned parts_of(int32_t n, int32_t size) {
    return (unsigned)((n + size - 1) / size);
}

static bool is_whole(const void *base, int32_t width, DType dtype, size_t bytes) {
    return (((size_t)base | (size_t)width * dtype_size(dtype)) & (bytes - 1)) == 0;
}

static bool rows_are_whole(const LoraGroup *group, const LoraRows *rows, DType dtype) {
    bool whole = true;
    for (int m = 0; m < group->count; m++) whole = whole && is_whole(rows->of[m], group->module[m].ld, dtype, 16);
    return whole;
}

// Whether four neighbours of h's (or a part's) and B's rows may be loaded at once.
static bool rank_is_whole(const LoraGroup *group, const void *low, DType dtype) {
    const size_t bytes = 4 * dtype_size(dtype);
    bool whole = is_whole(low, group->r, dtype, bytes);
    for (int m = 0; m < group->count; m++) whole = whole && is_whole(group->module[m].b, group->r, dtype, bytes);
    return whole;
}

cudaError_t lora_low(DType dtype, const LoraGroup *group, const LoraMask *mask, const void *x, void *h, int32_t n,
                     cudaStream_t stream) {
    const int32_t spans = mask->owner != nullptr ? group->count : 1;
    const dim3 grid(parts_of(n, TOKENS), (unsigned)spans * parts_of(group->count * group->r / spans, COLUMNS));
    const bool whole = is_whole(x, group->in, dtype, 16) && is_whole(group->module[0].a, group->in, dtype, 16);
    BY_DTYPE(dtype,
             LAUNCH_BLOCKS(low<T>, grid, THREADS, 0, stream, *group, *mask, (const T *)x, (T *)h, n, spans, whole));
    return cudaGetLastError();
}

cudaError_t lora_add_outputs(DType dtype, const LoraGroup *group, const void *h, const LoraRows *y, int32_t n,
                             cudaStream_t stream) {
    unsigned strips = 0;
    for (int m = 0; m < group->count; m++) strips += parts_of(group->module[m].out, WARPS * WARP_FEATURES);
    const dim3 grid(parts_of(n, ROW_TILES * TOKENS), strips);
    const bool whole = rows_are_whole(group, y, dtype), rank_whole = rank_is_whole(group, h, dtype);
    BY_DTYPE(dtype,
             LAUNCH_BLOCKS(add_outputs<T>, grid, THREADS, 0, stream, *group, (const T *)h, *y, n, rank_whole, whole));
    return cudaGetLastError();
}

cudaError_t lora_low_gradient(DType dtype, const LoraGroup *group, const LoraMask *mask, const LoraRows *dy,
                              void *parts, int32_t n, cudaStream_t stream) {
    const dim3 grid(parts_of(n, TOKENS), (unsigned)group->count * parts_of(group->r, COLUMNS));
    const bool whole = rows_are_whole(group, dy, dtype);
    BY_DTYPE(dtype, LAUNCH_BLOCKS(low_gradient<T>, grid, THREADS, 0, stream, *group, *mask, *dy, (T *)parts, n, whole));
    return cudaGetLastError();
}

cudaError_t lora_weight_gradients(DType dtype, const LoraGroup *group, const LoraMask *mask, const void *x,
                                  const void *h, const LoraRows *dy, const void *parts, int32_t n,
                                  cudaStream_t stream) {
    unsigned strips = 0;
    for (int m = 0; m < group->count; m++) strips += parts_of(group->in, STRIP) + parts_of(group->module[m].out, STRIP);
    const dim3 grid(strips, parts_of(group->r, STRIP_RANK));
    const bool whole = is_whole(x, group->in, dtype, 16) && rows_are_whole(group, dy, dtype);
    BY_DTYPE(dtype, LAUNCH_BLOCKS(weight_gradients<T>, grid, THREADS, 0, stream, *group, *mask, (const T *)x,
                                  (const T *)h, *dy, (const T *)parts, n, whole));
    return cudaGetLastError();
}

cudaError_t lora_add_inputs(DType dtype, const LoraGroup *group, const LoraMask *mask, const void *parts, void *dx,
                            int32_t n, cudaStream_t stream) {
    const dim3 grid(parts_of(n, ROW_TILES * TOKENS), parts_of(group->in, WARPS * WARP_FEATURES));
    const bool whole = is_whole(dx, group->in, dtype, 16) && is_whole(group->module[0].a, group->in, dtype, 16);
    const bool rank_whole = rank_is_whole(group, parts, dtype);
    BY_DTYPE(dtype, LAUNCH_BLOCKS(add_inputs<T>, grid, THREADS, 0, stream, *group, *mask, (const T *)parts, (T *)dx, n,
                                  rank_whole, whole));
    return cudaGetLastError();
}
