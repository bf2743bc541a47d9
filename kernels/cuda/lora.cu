// The kernels around LoRA's matrix products: see lora.h. A thread has four features of a token where masks are drawn
// (philox gives four words), one element elsewhere; no thread waits for another. The sum under masks is a product of
// its own: with masks between the modules' products, GEMMs would write and read each of them once more in fp32.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/lora.h"

enum {
    THREADS = 256,
    COLUMNS = 128,      // threads of a block, and
    TOKENS = 8,         // tokens of one, in add_masked
    DROPOUT_STREAM = 4, // RNG_DROPOUT of src/base/rng.h
};

typedef struct Modules {
    int32_t id[LORA_GROUP_MAX];
} Modules;

static __device__ inline size_t thread_index() {
    return (size_t)blockIdx.x * THREADS + threadIdx.x;
}

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

// A block has a row.
template <typename T> KERNEL(THREADS) mask_rows(const T *x, LoraMask mask, int32_t module, T *u, int32_t in) {
    const int32_t row = (int32_t)blockIdx.x;
    for (int32_t quad = (int32_t)threadIdx.x; 4 * quad < in; quad += THREADS) {
        const uint32_t kept = kept_bits(mask, row, module, quad);
        const size_t first = (size_t)row * in + 4 * (size_t)quad;
        for (int f = 0; f < 4; f++)
            if (4 * quad + f < in) {
                T value = x[first + f];
                if (!(kept >> f & 1)) from_float(0.0f, &value);
                u[first + f] = value;
            }
    }
}

template <typename T> KERNEL(THREADS) scale_rows(const float *sum, LoraMask mask, T *to, int32_t n, int32_t rank) {
    const size_t i = thread_index();
    if (i >= (size_t)n * rank) return;
    from_float((mask.owner[i / rank] >= 0 ? mask.keep_scale : 1.0f) * sum[i], &to[i]);
}

// x = high + middle + low without error: each takes 8 of the 24 bits of what is left.
KERNEL(THREADS) split(const float *dh, __nv_bfloat16 *parts, int32_t n, int32_t rank, int32_t r) {
    const size_t i = thread_index();
    if (i >= (size_t)n * rank) return;
    float rest = dh[i];
    __nv_bfloat16 *to = parts + i / r * 3 * r + i % r;
    for (int part = 0; part < 3; part++) {
        from_float(rest, &to[(size_t)part * r]);
        rest -= to_float(to[(size_t)part * r]);
    }
}

KERNEL(THREADS) stack(const __nv_bfloat16 *a, __nv_bfloat16 *stacked, int32_t count, int32_t r, int32_t in) {
    const size_t i = thread_index(), module = (size_t)r * in;
    if (i >= count * module) return;
    for (int part = 0; part < 3; part++) stacked[(i / module * 3 + part) * module + i % module] = a[i];
}

KERNEL(THREADS) add_parts(const float *sums, float *da, int32_t count, int32_t r, int32_t in) {
    const size_t i = thread_index(), module = (size_t)r * in;
    if (i >= count * module) return;
    const float *of_module = sums + i / module * 3 * module + i % module;
    da[i] += of_module[0] + of_module[module] + of_module[2 * module];
}

// A thread has four features of TOKENS tokens, so that it uses a value of A for all of these tokens.
template <typename T>
KERNEL(COLUMNS)
add_masked(const float *dh, const T *a, LoraMask mask, Modules modules, int32_t count, int32_t r, T *dx, int32_t n,
           int32_t in) {
    const int32_t strips = (in + 4 * COLUMNS - 1) / (4 * COLUMNS), strip = (int32_t)blockIdx.x % strips;
    const int32_t row = (int32_t)blockIdx.x / strips * TOKENS, feature = 4 * (strip * COLUMNS + (int32_t)threadIdx.x);
    const int32_t tokens = n - row < TOKENS ? n - row : TOKENS;
    if (feature >= in) return;
    float sum[TOKENS][4] = {};
    for (int m = 0; m < LORA_GROUP_MAX; m++) {
        if (m >= count) break;
        float part[TOKENS][4] = {};
        for (int32_t j = m * r; j < (m + 1) * r; j++) {
            float weight[4];
            for (int f = 0; f < 4; f++) weight[f] = feature + f < in ? to_float(a[(size_t)j * in + feature + f]) : 0.0f;
            for (int t = 0; t < TOKENS; t++) {
                const float factor = t < tokens ? dh[(size_t)(row + t) * count * r + j] : 0.0f;
                for (int f = 0; f < 4; f++) part[t][f] += factor * weight[f];
            }
        }
        for (int t = 0; t < TOKENS; t++)
            if (t < tokens) {
                const uint32_t kept = kept_bits(mask, row + t, modules.id[m], feature / 4);
                for (int f = 0; f < 4; f++) sum[t][f] += kept >> f & 1 ? part[t][f] : 0.0f;
            }
    }
    for (int t = 0; t < TOKENS; t++)
        for (int f = 0; f < 4; f++)
            if (t < tokens && feature + f < in) {
                T *to = dx + (size_t)(row + t) * in + feature + f;
                from_float(to_float(*to) + sum[t][f], to);
            }
}

// --- launchers ---

static unsigned blocks(size_t threads) {
    return (unsigned)((threads + THREADS - 1) / THREADS);
}

cudaError_t lora_mask_rows(DType dtype, const void *x, const LoraMask *mask, int32_t module, void *u, int32_t n,
                           int32_t in, cudaStream_t stream) {
    if (dtype == DTYPE_BF16)
        LAUNCH(mask_rows<__nv_bfloat16>, (unsigned)n, THREADS, stream, (const __nv_bfloat16 *)x, *mask, module,
               (__nv_bfloat16 *)u, in);
    else
        LAUNCH(mask_rows<float>, (unsigned)n, THREADS, stream, (const float *)x, *mask, module, (float *)u, in);
    return cudaGetLastError();
}

cudaError_t lora_scale_rows(DType dtype, const float *sum, const LoraMask *mask, void *to, int32_t n, int32_t rank,
                            cudaStream_t stream) {
    const unsigned grid = blocks((size_t)n * rank);
    if (dtype == DTYPE_BF16)
        LAUNCH(scale_rows<__nv_bfloat16>, grid, THREADS, stream, sum, *mask, (__nv_bfloat16 *)to, n, rank);
    else
        LAUNCH(scale_rows<float>, grid, THREADS, stream, sum, *mask, (float *)to, n, rank);
    return cudaGetLastError();
}

cudaError_t lora_split(const float *dh, void *parts, int32_t n, int32_t count, int32_t r, cudaStream_t stream) {
    LAUNCH(split, blocks((size_t)n * count * r), THREADS, stream, dh, (__nv_bfloat16 *)parts, n, count * r, r);
    return cudaGetLastError();
}

cudaError_t lora_stack(const void *a, void *stacked, int32_t count, int32_t r, int32_t in, cudaStream_t stream) {
    LAUNCH(stack, blocks((size_t)count * r * in), THREADS, stream, (const __nv_bfloat16 *)a, (__nv_bfloat16 *)stacked,
           count, r, in);
    return cudaGetLastError();
}

cudaError_t lora_add_parts(const float *sums, float *da, int32_t count, int32_t r, int32_t in, cudaStream_t stream) {
    LAUNCH(add_parts, blocks((size_t)count * r * in), THREADS, stream, sums, da, count, r, in);
    return cudaGetLastError();
}

cudaError_t lora_add_masked(DType dtype, const float *dh, const void *a, const LoraMask *mask, const int32_t *modules,
                            int32_t count, int32_t r, void *dx, int32_t n, int32_t in, cudaStream_t stream) {
    Modules ids = {{0}};
    for (int32_t m = 0; m < count; m++) ids.id[m] = modules[m];
    const unsigned strips = (unsigned)((in + 4 * COLUMNS - 1) / (4 * COLUMNS));
    const unsigned grid = strips * (unsigned)((n + TOKENS - 1) / TOKENS);
    if (dtype == DTYPE_BF16)
        LAUNCH(add_masked<__nv_bfloat16>, grid, COLUMNS, stream, dh, (const __nv_bfloat16 *)a, *mask, ids, count, r,
               (__nv_bfloat16 *)dx, n, in);
    else
        LAUNCH(add_masked<float>, grid, COLUMNS, stream, dh, (const float *)a, *mask, ids, count, r, (float *)dx, n,
               in);
    return cudaGetLastError();
}
