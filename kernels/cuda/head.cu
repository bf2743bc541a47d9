// The softmax of rows of logits, for the LM head: a block takes a row, reads it once for all sums and once more for the
// gradient. The maximum is found on the way (online softmax, arXiv 1805.02867, algorithm 3). Every thread sums TILE
// logits at a time and then the tiles, so that 32,000 terms are about 40 roundings deep.
#include "kernels/cuda/head.h"
#include "kernels/cuda/launch.cuh"
#include <float.h>

enum { THREADS = 256, WARPS = THREADS / WARP, TILE = 8 };

// Of some of a row's logits z, with e = exp(z - max): sum of e, of e (z - max), of z.
typedef struct RowSums {
    float max, sum, moment, total;
} RowSums;

// The same sums about a larger maximum.
static __device__ inline RowSums about(RowSums s, float max) {
    const float d = s.max - max, e = expf(d);
    return {max, e * s.sum, e * (s.moment + d * s.sum), s.total};
}

static __device__ inline RowSums merge(RowSums a, RowSums b) {
    const float max = fmaxf(a.max, b.max);
    a = about(a, max);
    b = about(b, max);
    return {max, a.sum + b.sum, a.moment + b.moment, a.total + b.total};
}

static __device__ inline RowSums from_lane(RowSums s, int below) {
    return {__shfl_down_sync(ALL_LANES, s.max, below), __shfl_down_sync(ALL_LANES, s.sum, below),
            __shfl_down_sync(ALL_LANES, s.moment, below), __shfl_down_sync(ALL_LANES, s.total, below)};
}

// One thread's share of a row.
static __device__ inline RowSums thread_sums(const float *z, int32_t vocab) {
    RowSums all = {-FLT_MAX, 0, 0, 0};
    for (int32_t first = (int32_t)threadIdx.x; first < vocab; first += THREADS * TILE) {
        RowSums tile = {-FLT_MAX, 0, 0, 0};
        float value[TILE];
        for (int i = 0; i < TILE; i++)
            if (first + i * THREADS < vocab) {
                value[i] = z[first + i * THREADS];
                tile.max = fmaxf(tile.max, value[i]);
                tile.total += value[i];
            }
        tile.max = fmaxf(tile.max, all.max);
        for (int i = 0; i < TILE; i++)
            if (first + i * THREADS < vocab) {
                const float d = value[i] - tile.max, e = expf(d);
                tile.sum += e;
                tile.moment += e * d;
            }
        all = merge(all, tile);
    }
    return all;
}

struct HeadShared {
    RowSums warp[WARPS];
};

template <typename T>
KERNEL(THREADS)
softmax_rows(float *logits, int64_t stride, const int32_t *targets, float *logp, float *entropy, float *mean_logit,
             int32_t n_grad, int32_t vocab) {
    SHARED(HeadShared, s);
    const int32_t row = (int32_t)blockIdx.x, target = targets[row];
    float *z = logits + row * stride;
    const float at_target = z[target];

    RowSums sums = thread_sums(z, vocab);
    for (int below = WARP / 2; below > 0; below /= 2) sums = merge(sums, from_lane(sums, below));
    if (threadIdx.x % WARP == 0) s.warp[threadIdx.x / WARP] = sums;
    __syncthreads();
    sums = s.warp[0];
    for (int warp = 1; warp < WARPS; warp++) sums = merge(sums, s.warp[warp]);
    if (threadIdx.x == 0) {
        const double log_sum = log((double)sums.sum);
        logp[row] = (float)((double)(at_target - sums.max) - log_sum);
        entropy[row] = (float)(log_sum - (double)sums.moment / sums.sum);
        mean_logit[row] = sums.total / vocab;
    }
    if (row >= n_grad) return;

    // d logp / d z_j = onehot_j - softmax(z)_j, written where all threads have read: what is behind a tile's start.
    T *d = reinterpret_cast<T *>(z);
    const float inverse = 1.0f / sums.sum;
    for (int32_t start = 0; start < vocab; start += THREADS * TILE) {
        const int32_t first = start + (int32_t)threadIdx.x;
        float value[TILE];
        for (int i = 0; i < TILE; i++)
            if (first + i * THREADS < vocab) value[i] = z[first + i * THREADS];
        __syncthreads();
        for (int i = 0; i < TILE; i++) {
            const int32_t j = first + i * THREADS;
            if (j < vocab) from_float((j == target ? 1.0f : 0.0f) - expf(value[i] - sums.max) * inverse, &d[j]);
        }
    }
}

cudaError_t head_rows(DType dtype, float *z, int64_t stride, const int32_t *target, float *logp, float *entropy,
                      float *mean_logit, int32_t n, int32_t n_grad, int32_t vocab, cudaStream_t stream) {
    if (dtype == DTYPE_BF16)
        LAUNCH_BLOCKS(softmax_rows<__nv_bfloat16>, (unsigned)n, THREADS, 0, stream, z, stride, target, logp, entropy,
                      mean_logit, n_grad, vocab);
    else
        LAUNCH_BLOCKS(softmax_rows<float>, (unsigned)n, THREADS, 0, stream, z, stride, target, logp, entropy,
                      mean_logit, n_grad, vocab);
    return cudaGetLastError();
}
