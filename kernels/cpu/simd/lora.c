// LoRA's low-rank products, forward and backward. With r of 8 the arithmetic is small and reading x, y and dy is what
// costs, so each is read once: a few tokens' rows are widened (and masked by dropout) into a buffer that stays in the
// first caches, and meet fp32 copies of A and B there. Nothing is rounded to bf16 between h and the sum into y or dx.
//
// A mask only zeroes; the factor 1/(1-p) is applied to the fp32 sums. Every sum's order depends on shapes alone.
#include "kernels/cpu/simd/lora.h"
#include "src/base/rng.h"
#include <immintrin.h>
#include <omp.h>

enum {
    TOKENS = 4,         // rows in a buffer: as many accumulators a weight vector is used for
    OUTER_TOKENS = 64,  // rows, and
    OUTER_WIDTH = 64,   // features of a tile of the sums over tokens: 16 KiB
    FEW = 16,           // rows up to which A and B are used as they lie, as decoding wants it
    FEW_WORK = 1 << 16, // multiply-adds of few rows below which waking a thread costs more than it does
};

// The scratch, cut by lora_layout().
typedef struct Layout {
    int32_t rank;              // of all modules together: columns of h
    int32_t in, widest;        // padded to whole vectors; the widest of all inputs and outputs
    int32_t mask_words;        // 32-bit words of one token's mask
    float *a;                  // [rank, in], zero in the padding
    float *bt[LORA_GROUP_MAX]; // scale * B^T: [r, padded out], zero in the padding
    float *h;                  // [n, rank], h widened and scaled
    uint32_t *mask;            // [count, n, mask_words], bit f % 32 of word f / 32: kept
    float *buffer;             // [threads, buffer_floats]
    size_t buffer_floats;
} Layout;

static int32_t padded(int32_t width) {
    return (width + OUTER_WIDTH - 1) / OUTER_WIDTH * OUTER_WIDTH;
}

// Sets the layout's sizes, and its pointers when base is given; returns the bytes.
static size_t lora_layout(const LoraGroup *group, int32_t n, int threads, char *base, Layout *out) {
    Layout l = {.rank = group->count * group->r, .in = padded(group->in), .mask_words = padded(group->in) / 32};
    l.widest = l.in;
    for (int m = 0; m < group->count; m++)
        if (padded(group->module[m].out) > l.widest) l.widest = padded(group->module[m].out);
    size_t rows = (size_t)TOKENS * (l.widest + l.rank);
    size_t tile = (size_t)OUTER_WIDTH * (OUTER_TOKENS + group->r);
    l.buffer_floats = ((rows > tile ? rows : tile) + 15) / 16 * 16;
    size_t at = 0;
#define CUT(pointer, count)                                                                                            \
    do {                                                                                                               \
        if (base) (pointer) = (void *)(base + at);                                                                     \
        at += ((size_t)(count)*4 + 63) / 64 * 64;                                                                      \
    } while (0)
    CUT(l.a, (size_t)l.rank * l.in);
    for (int m = 0; m < group->count; m++) CUT(l.bt[m], (size_t)group->r * padded(group->module[m].out));
    CUT(l.h, (size_t)n * l.rank);
    CUT(l.mask, (size_t)group->count * n * l.mask_words);
    CUT(l.buffer, threads * l.buffer_floats);
#undef CUT
    *out = l;
    return at;
}

size_t SIMD_NAME(lora_scratch)(const LoraGroup *group, int32_t n, int threads) {
    Layout layout;
    return lora_layout(group, n, threads, NULL, &layout);
}

static float load_one(const void *from, size_t i, DType dtype) {
    return dtype == DTYPE_BF16 ? from_bf16(((const uint16_t *)from)[i]) : ((const float *)from)[i];
}

// to[0, width) = from[first, first + width) as fp32.
static void load_row(const void *from, size_t first, int32_t width, DType dtype, float *to) {
    if (dtype == DTYPE_BF16) {
        const uint16_t *row = (const uint16_t *)from + first;
#pragma omp simd
        for (int32_t i = 0; i < width; i++) to[i] = from_bf16(row[i]);
    } else {
        memcpy(to, (const float *)from + first, (size_t)width * sizeof *to);
    }
}

// to[first, first + width) = T(to + add).
static void add_row(void *to, size_t first, int32_t width, DType dtype, const float *add) {
    if (dtype == DTYPE_BF16) {
        uint16_t *row = (uint16_t *)to + first;
#pragma omp simd
        for (int32_t i = 0; i < width; i++) row[i] = to_bf16(from_bf16(row[i]) + add[i]);
    } else {
        float *row = (float *)to + first;
#pragma omp simd
        for (int32_t i = 0; i < width; i++) row[i] += add[i];
    }
}

// Zeroes the features whose bit is clear; width is a multiple of 32.
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
static void apply_mask(float *x, const uint32_t *mask, int32_t width) {
    Bits lane_bit;
    for (int i = 0; i < LANES; i++) lane_bit[i] = 1u << i;
    for (int32_t f = 0; f < width; f += LANES) {
        Bits kept = (Bits)((lane_bit & (mask[f / 32] >> f % 32)) != 0);
        lanes_store(x + f, (Lanes)((Bits)lanes_load(x + f) & kept));
    }
}

// philox() of src/base/rng.h on COUNTERS counters abreast, each word in the low half of a 64-bit lane: the product of
// low halves leaves the next words in place, and what stands in the high halves is never read.
typedef uint64_t Words __attribute__((vector_size(4 * LANES)));
enum { COUNTERS = LANES / 2 };

static inline Words multiply_low(Words a, uint64_t b) {
#ifdef __AVX512F__
    return (Words)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64((long long)b));
#else
    return (Words)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x((long long)b));
#endif
}

// Whether v >= threshold for the 4 COUNTERS words v of philox(key, owner, position, RNG_DROPOUT, counter), counter + 1,
// ...
static inline uint32_t draw_bits(uint64_t key, uint32_t owner, uint32_t position, uint32_t counter,
                                 uint64_t threshold) {
    const Words zero = {0};
    Words lane;
    for (int i = 0; i < COUNTERS; i++) lane[i] = (uint64_t)i;
    Words c0 = zero + owner, c1 = zero + position, c2 = zero + RNG_DROPOUT, c3 = lane + counter;
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        Words p0 = multiply_low(c0, 0xD2511F53u), p1 = multiply_low(c2, 0xCD9E8D57u);
        c0 = (p1 >> 32) ^ c1 ^ k0;
        c2 = (p0 >> 32) ^ c3 ^ k1;
        c1 = p1;
        c3 = p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    const uint64_t low = 0xFFFFFFFFu;
    Words keep = ((Words)((c0 & low) >= threshold) & 1) | ((Words)((c1 & low) >= threshold) & 2) |
                 ((Words)((c2 & low) >= threshold) & 4) | ((Words)((c3 & low) >= threshold) & 8);
    keep <<= 4 * lane;
    uint64_t bits = 0;
    for (int i = 0; i < COUNTERS; i++) bits |= keep[i];
    return (uint32_t)bits;
}

// One token's mask of one module.
static void draw_mask(const Dropout *dropout, int32_t token, int32_t module, int32_t width, uint32_t *mask) {
    if (dropout->owner[token] < 0) {
        memset(mask, 0xFF, (size_t)width / 8);
        return;
    }
    double scaled = (double)dropout->p * 4294967296.0;
    uint64_t threshold = (uint64_t)scaled;
    threshold += (double)threshold < scaled; // v >= p 2^32 for integers v
    uint32_t owner = (uint32_t)dropout->owner[token], position = (uint32_t)dropout->position[token];
    for (int32_t f = 0; f < width; f += 32) {
        uint32_t bits = 0;
        for (int32_t part = 0; part < 32; part += 4 * COUNTERS)
            bits |=
                draw_bits(dropout->key, owner, position, (uint32_t)module << 20 | (uint32_t)(f + part) / 4, threshold)
                << part;
        mask[f / 32] = bits;
    }
}

// out[t][j] = sum over i of x[t][i] w[j][i] for `tokens` <= TOKENS rows of x and `rows` of w, both `width` long (whole
// vectors, zero padded). Four by four accumulators; a tail of rows is done alone.
static void dot_rows(const float *x, int32_t tokens, const float *w, int32_t rows, int32_t width, int32_t ld,
                     float *out, int32_t out_ld) {
    int32_t j = 0;
    for (; j + 4 <= rows && tokens == TOKENS; j += 4) {
        Lanes sum[TOKENS][4] = {{{0}}};
        for (int32_t i = 0; i < width; i += LANES) {
            Lanes v[4];
            for (int c = 0; c < 4; c++) v[c] = lanes_load(w + (size_t)(j + c) * width + i);
            for (int t = 0; t < TOKENS; t++) {
                Lanes u = lanes_load(x + (size_t)t * ld + i);
                for (int c = 0; c < 4; c++) sum[t][c] += u * v[c];
            }
        }
        for (int t = 0; t < TOKENS; t++)
            for (int c = 0; c < 4; c++) out[(size_t)t * out_ld + j + c] = lanes_sum(sum[t][c]);
    }
    for (; j < rows; j++)
        for (int32_t t = 0; t < tokens; t++) {
            Lanes sum = {0};
            for (int32_t i = 0; i < width; i += LANES)
                sum += lanes_load(x + (size_t)t * ld + i) * lanes_load(w + (size_t)j * width + i);
            out[(size_t)t * out_ld + j] = lanes_sum(sum);
        }
}

// out[t][i] = (add: out[t][i] +) sum over j of coefficient[t][j] * w[j][i].
static void combine_rows(const float *coefficient, int32_t coefficient_ld, int32_t tokens, const float *w, int32_t rows,
                         int32_t width, float *out, int32_t ld, bool add) {
    for (int32_t i = 0; i < width; i += LANES) {
        Lanes sum[TOKENS] = {{0}};
        if (tokens == TOKENS) {
            for (int32_t j = 0; j < rows; j++) {
                Lanes v = lanes_load(w + (size_t)j * width + i);
                for (int t = 0; t < TOKENS; t++) sum[t] += coefficient[(size_t)t * coefficient_ld + j] * v;
            }
        } else {
            for (int32_t j = 0; j < rows; j++) {
                Lanes v = lanes_load(w + (size_t)j * width + i);
                for (int32_t t = 0; t < tokens; t++) sum[t] += coefficient[(size_t)t * coefficient_ld + j] * v;
            }
        }
        for (int32_t t = 0; t < tokens; t++) {
            float *to = out + (size_t)t * ld + i;
            lanes_store(to, add ? lanes_load(to) + sum[t] : sum[t]);
        }
    }
}

// sum[j][f] = sum over all n tokens of coefficient[t][j] * row_t[first + f], f < OUTER_WIDTH, with row_t of rows T[n,
// width], ld apart, masked when mask is given. `tile` is OUTER_TOKENS rows of OUTER_WIDTH.
static void outer_tile(const void *rows, int32_t width, int32_t ld, DType dtype, const uint32_t *mask,
                       int32_t mask_words, const float *coefficient, int32_t coefficient_ld, int32_t r, int32_t n,
                       int32_t first, float *tile, float *sum) {
    int32_t valid = width - first < OUTER_WIDTH ? width - first : OUTER_WIDTH;
    memset(sum, 0, (size_t)r * OUTER_WIDTH * sizeof *sum);
    if (valid < OUTER_WIDTH) memset(tile, 0, (size_t)OUTER_TOKENS * OUTER_WIDTH * sizeof *tile);
    for (int32_t begin = 0; begin < n; begin += OUTER_TOKENS) {
        int32_t tokens = n - begin < OUTER_TOKENS ? n - begin : OUTER_TOKENS;
        for (int32_t t = 0; t < tokens; t++) {
            float *row = tile + (size_t)t * OUTER_WIDTH;
            load_row(rows, (size_t)(begin + t) * ld + first, valid, dtype, row);
            if (mask) apply_mask(row, mask + (size_t)(begin + t) * mask_words + first / 32, OUTER_WIDTH);
        }
        const float *c = coefficient + (size_t)begin * coefficient_ld;
        for (int32_t j = 0; j < r; j += 4) {
            int32_t columns = r - j < 4 ? r - j : 4;
            for (int32_t f = 0; f < OUTER_WIDTH; f += 2 * LANES) {
                Lanes s[4][2];
                for (int32_t q = 0; q < columns; q++)
                    for (int p = 0; p < 2; p++)
                        s[q][p] = lanes_load(sum + (size_t)(j + q) * OUTER_WIDTH + f + p * LANES);
                if (columns == 4) {
                    for (int32_t t = 0; t < tokens; t++)
                        for (int q = 0; q < 4; q++)
                            for (int p = 0; p < 2; p++)
                                s[q][p] += c[(size_t)t * coefficient_ld + j + q] *
                                           lanes_load(tile + (size_t)t * OUTER_WIDTH + f + p * LANES);
                } else {
                    for (int32_t q = 0; q < columns; q++)
                        for (int32_t t = 0; t < tokens; t++)
                            for (int p = 0; p < 2; p++)
                                s[q][p] += c[(size_t)t * coefficient_ld + j + q] *
                                           lanes_load(tile + (size_t)t * OUTER_WIDTH + f + p * LANES);
                }
                for (int32_t q = 0; q < columns; q++)
                    for (int p = 0; p < 2; p++)
                        lanes_store(sum + (size_t)(j + q) * OUTER_WIDTH + f + p * LANES, s[q][p]);
            }
        }
    }
}

static void draw_masks(const LoraGroup *group, const Dropout *dropout, int32_t n, int threads, const Layout *l) {
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
    for (int m = 0; m < group->count; m++)
        for (int32_t t = 0; t < n; t++)
            draw_mask(dropout, t, group->module[m].id, l->in, l->mask + ((size_t)m * n + t) * l->mask_words);
}

// fp32 copies of A and scale * B^T; the masks too when dropout is on.
static void prepare(const LoraGroup *group, const Dropout *dropout, bool masks, int32_t n, DType dtype, int threads,
                    const Layout *l) {
    int32_t r = group->r;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static) nowait
        for (int32_t row = 0; row < l->rank; row++) {
            float *a = l->a + (size_t)row * l->in;
            load_row(group->module[row / r].a, (size_t)(row % r) * group->in, group->in, dtype, a);
            memset(a + group->in, 0, (size_t)(l->in - group->in) * sizeof *a);
        }
        for (int m = 0; m < group->count; m++) {
            const LoraModule *module = &group->module[m];
            int32_t width = padded(module->out);
#pragma omp for schedule(static) nowait
            for (int32_t o = 0; o < width; o++)
                for (int32_t j = 0; j < r; j++)
                    l->bt[m][(size_t)j * width + o] =
                        o < module->out ? group->scale * load_one(module->b, (size_t)o * r + j, dtype) : 0.0f;
        }
    }
    if (masks) draw_masks(group, dropout, n, threads, l);
}

// x's rows [first, first + tokens), x_ld apart, as fp32, padded to whole vectors by zeros.
static void load_rows(const void *x, int32_t x_ld, int32_t first, int32_t tokens, int32_t width, int32_t ld,
                      DType dtype, float *to) {
    for (int32_t t = 0; t < tokens; t++) {
        load_row(x, (size_t)(first + t) * x_ld, width, dtype, to + (size_t)t * ld);
        memset(to + (size_t)t * ld + width, 0, (size_t)(padded(width) - width) * sizeof *to);
    }
}

// 1/(1-p) for a token that has dropout.
static float keep_scale(const Dropout *dropout, bool masks, int32_t token) {
    return masks && dropout->owner[token] >= 0 ? 1.0f / (1.0f - dropout->p) : 1.0f;
}

static int32_t rows_from(int32_t n, int32_t first) {
    return n - first < TOKENS ? n - first : TOKENS;
}

// The value as h holds it: y is made from the h that backward will see.
static float store_h(float value, void *h, size_t i, DType dtype) {
    if (dtype == DTYPE_F32) return ((float *)h)[i] = value;
    return from_bf16(((uint16_t *)h)[i] = to_bf16(value));
}

// out[t] = row_t . a for `tokens` <= TOKENS rows of x (fp32, `ld` apart, zero past the features); sums as in dot_rows.
static void dot_as_it_lies(const float *x, int32_t tokens, const void *a, size_t first, int32_t in, int32_t ld,
                           DType dtype, float *out) {
    Lanes sum[TOKENS] = {{0}};
    int32_t whole = in / LANES * LANES;
    float part[LANES];
    for (int32_t i = 0; i < whole; i += LANES) {
        load_row(a, first + i, LANES, dtype, part);
        Lanes v = lanes_load(part);
        for (int32_t t = 0; t < tokens; t++) sum[t] += lanes_load(x + (size_t)t * ld + i) * v;
    }
    if (whole < in) {
        memset(part, 0, sizeof part);
        load_row(a, first + whole, in - whole, dtype, part);
        for (int32_t t = 0; t < tokens; t++) sum[t] += lanes_load(x + (size_t)t * ld + whole) * lanes_load(part);
    }
    for (int32_t t = 0; t < tokens; t++) out[t] = lanes_sum(sum[t]);
}

// to[j][i] = scale * B[first + i][j] for `width` rows of B[., r], rows of `to` OUTER_WIDTH apart and zero behind.
static void transpose_scaled(const void *b, int32_t first, int32_t width, int32_t r, float scale, DType dtype,
                             float *to) {
    if (width < OUTER_WIDTH) memset(to, 0, (size_t)r * OUTER_WIDTH * sizeof *to);
    for (int32_t j = 0; j < r; j++)
        for (int32_t i = 0; i < width; i++)
            to[j * OUTER_WIDTH + i] = scale * load_one(b, (size_t)(first + i) * r + j, dtype);
}

// The forward product for few rows without dropout: no copies of A and B, threads share out the rank and then the
// outputs. The bits are those of the way below.
static void lora_few(const LoraGroup *group, const void *x, void *h, void *const *y, int32_t n, DType dtype,
                     int threads, const Layout *l) {
    int32_t r = group->r, tiles = 0;
    int64_t work = (int64_t)l->rank * group->in;
    for (int m = 0; m < group->count; m++) {
        tiles += padded(group->module[m].out) / OUTER_WIDTH;
        work += (int64_t)r * group->module[m].out;
    }
    if (work * n < FEW_WORK) threads = 1;
#pragma omp parallel num_threads(threads)
    {
        float *buffer = l->buffer + (size_t)omp_get_thread_num() * l->buffer_floats;
        for (int32_t first = 0; first < n; first += TOKENS) {
            int32_t tokens = rows_from(n, first);
            load_rows(x, group->in, first, tokens, group->in, l->in, dtype, buffer);
#pragma omp for schedule(static) nowait
            for (int32_t j = 0; j < l->rank; j++) {
                float sum[TOKENS];
                dot_as_it_lies(buffer, tokens, group->module[j / r].a, (size_t)(j % r) * group->in, group->in, l->in,
                               dtype, sum);
                for (int32_t t = 0; t < tokens; t++) {
                    size_t to = (size_t)(first + t) * l->rank + j;
                    l->h[to] = store_h(sum[t], h, to, dtype);
                }
            }
        }
#pragma omp barrier
#pragma omp for schedule(static)
        for (int32_t i = 0; i < tiles; i++) {
            int m = 0;
            int32_t tile = i;
            while (tile >= padded(group->module[m].out) / OUTER_WIDTH)
                tile -= padded(group->module[m++].out) / OUTER_WIDTH;
            const LoraModule *module = &group->module[m];
            int32_t o = tile * OUTER_WIDTH, width = module->out - o < OUTER_WIDTH ? module->out - o : OUTER_WIDTH;
            float *bt = buffer, add[TOKENS * OUTER_WIDTH]; // scale * B^T: [r, OUTER_WIDTH]
            transpose_scaled(module->b, o, width, r, group->scale, dtype, bt);
            for (int32_t first = 0; first < n; first += TOKENS) {
                int32_t tokens = rows_from(n, first);
                combine_rows(l->h + (size_t)first * l->rank + m * r, l->rank, tokens, bt, r, OUTER_WIDTH, add,
                             OUTER_WIDTH, false);
                for (int32_t t = 0; t < tokens; t++)
                    add_row(y[m], (size_t)(first + t) * module->ld + o, width, dtype, add + t * OUTER_WIDTH);
            }
        }
    }
}

void SIMD_NAME(lora)(const LoraGroup *group, const Dropout *dropout, const void *x, void *h, void *const *y, int32_t n,
                     DType dtype, int threads, void *scratch) {
    Layout l;
    lora_layout(group, n, threads, scratch, &l);
    bool masks = dropout && dropout->p > 0;
    if (n <= FEW && !masks) {
        lora_few(group, x, h, y, n, dtype, threads, &l);
        return;
    }
    prepare(group, dropout, masks, n, dtype, threads, &l);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int32_t first = 0; first < n; first += TOKENS) {
        float *rows = l.buffer + (size_t)omp_get_thread_num() * l.buffer_floats,
              *sums = rows + (size_t)TOKENS * l.widest;
        int32_t tokens = rows_from(n, first);
        if (!masks) {
            load_rows(x, group->in, first, tokens, group->in, l.in, dtype, rows);
            dot_rows(rows, tokens, l.a, l.rank, l.in, l.in, sums, l.rank);
        } else {
            for (int m = 0; m < group->count; m++) {
                load_rows(x, group->in, first, tokens, group->in, l.in, dtype, rows);
                for (int32_t t = 0; t < tokens; t++)
                    apply_mask(rows + (size_t)t * l.in, l.mask + ((size_t)m * n + first + t) * l.mask_words, l.in);
                dot_rows(rows, tokens, l.a + (size_t)m * group->r * l.in, group->r, l.in, l.in, sums + m * group->r,
                         l.rank);
            }
        }
        for (int32_t i = 0; i < tokens * l.rank; i++) {
            size_t to = (size_t)first * l.rank + i;
            float value = keep_scale(dropout, masks, first + i / l.rank) * sums[i];
            sums[i] = store_h(value, h, to, dtype);
        }
        for (int m = 0; m < group->count; m++) {
            int32_t out = group->module[m].out;
            combine_rows(sums + m * group->r, l.rank, tokens, l.bt[m], group->r, padded(out), rows, padded(out), false);
            for (int32_t t = 0; t < tokens; t++)
                add_row(y[m], (size_t)(first + t) * group->module[m].ld, out, dtype, rows + (size_t)t * padded(out));
        }
    }
}

// With u = dropout(x), h = u A^T, y += s h B^T:  dB += s dy^T h,  dh = s dy B,  dA += dh^T u,  dx += mask/(1-p) dh A.
void SIMD_NAME(lora_backward)(const LoraGroup *group, const Dropout *dropout, const void *const *dy, float *dh_rows,
                              void *dx, int32_t n, DType dtype, int threads, void *scratch) {
    Layout l;
    lora_layout(group, n, threads, scratch, &l);
    bool masks = dropout && dropout->p > 0;
    int32_t r = group->r;
    prepare(group, dropout, masks, n, dtype, threads, &l);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int32_t first = 0; first < n; first += TOKENS) {
        float *rows = l.buffer + (size_t)omp_get_thread_num() * l.buffer_floats, *part = rows + l.widest;
        int32_t tokens = rows_from(n, first);
        float *dh = dh_rows + (size_t)first * l.rank;
        for (int m = 0; m < group->count; m++) {
            int32_t out = group->module[m].out;
            load_rows(dy[m], group->module[m].ld, first, tokens, out, padded(out), dtype, rows);
            dot_rows(rows, tokens, l.bt[m], r, padded(out), padded(out), dh + m * r, l.rank);
        }
        for (int32_t i = 0; i < tokens * l.rank; i++) dh[i] *= keep_scale(dropout, masks, first + i / l.rank);
        if (!dx) continue;
        if (!masks) {
            combine_rows(dh, l.rank, tokens, l.a, l.rank, l.in, rows, l.in, false);
            for (int32_t t = 0; t < tokens; t++)
                add_row(dx, (size_t)(first + t) * group->in, group->in, dtype, rows + (size_t)t * l.in);
        } else {
            for (int32_t t = 0; t < tokens; t++) {
                memset(rows, 0, (size_t)l.in * sizeof *rows);
                for (int m = 0; m < group->count; m++) {
                    combine_rows(dh + (size_t)t * l.rank + m * r, l.rank, 1, l.a + (size_t)m * r * l.in, r, l.in, part,
                                 l.in, false);
                    apply_mask(part, l.mask + ((size_t)m * n + first + t) * l.mask_words, l.in);
#pragma omp simd
                    for (int32_t i = 0; i < l.in; i++) rows[i] += part[i];
                }
                add_row(dx, (size_t)(first + t) * group->in, group->in, dtype, rows);
            }
        }
    }
}

// The sums over tokens, cut by features: every thread sums its features over all tokens in order.
void SIMD_NAME(lora_weight_backward)(const LoraGroup *group, const Dropout *dropout, const void *x, const void *h,
                                     const void *const *dy, const float *dh, int32_t n, DType dtype, int threads,
                                     void *scratch) {
    Layout l;
    lora_layout(group, n, threads, scratch, &l);
    bool masks = dropout && dropout->p > 0;
    int32_t r = group->r;
    if (masks) draw_masks(group, dropout, n, threads, &l);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int32_t t = 0; t < n; t++)
        for (int32_t j = 0; j < l.rank; j++)
            l.h[(size_t)t * l.rank + j] = group->scale * load_one(h, (size_t)t * l.rank + j, dtype);
    int32_t tiles_in = l.in / OUTER_WIDTH, tiles_out = 0;
    for (int m = 0; m < group->count; m++) tiles_out += padded(group->module[m].out) / OUTER_WIDTH;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int32_t i = 0; i < group->count * tiles_in + tiles_out; i++) {
        float *tile = l.buffer + (size_t)omp_get_thread_num() * l.buffer_floats,
              *sum = tile + OUTER_TOKENS * OUTER_WIDTH;
        if (i < group->count * tiles_in) {
            int m = i / tiles_in;
            int32_t first = i % tiles_in * OUTER_WIDTH;
            outer_tile(x, group->in, group->in, dtype, masks ? l.mask + (size_t)m * n * l.mask_words : NULL,
                       l.mask_words, dh + m * r, l.rank, r, n, first, tile, sum);
            for (int32_t j = 0; j < r; j++)
                for (int32_t f = 0; f < OUTER_WIDTH && first + f < group->in; f++)
                    group->module[m].da[(size_t)j * group->in + first + f] += sum[j * OUTER_WIDTH + f];
        } else {
            int m = 0;
            int32_t tile_index = i - group->count * tiles_in;
            while (tile_index >= padded(group->module[m].out) / OUTER_WIDTH)
                tile_index -= padded(group->module[m++].out) / OUTER_WIDTH;
            const LoraModule *module = &group->module[m];
            int32_t first = tile_index * OUTER_WIDTH;
            outer_tile(dy[m], module->out, module->ld, dtype, NULL, 0, l.h + m * r, l.rank, r, n, first, tile, sum);
            for (int32_t f = 0; f < OUTER_WIDTH && first + f < module->out; f++)
                for (int32_t j = 0; j < r; j++) module->db[(size_t)(first + f) * r + j] += sum[j * OUTER_WIDTH + f];
        }
    }
}
