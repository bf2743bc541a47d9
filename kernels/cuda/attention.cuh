// What the files of attention kernels share on the device: which tile a block of threads has, where its rows and keys
// lie, and the sum of the parts of dk and dv.
#pragma once
#include "kernels/cuda/attention.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/tensor.cuh"

// Block x has key/value head x % kv_heads of tile x / kv_heads, or of block of keys x / kv_heads.
static __device__ inline const AttentionKeys &keys_of_block(const AttentionPlan &plan) {
    return plan.keys[fresh(blockIdx.x) / (unsigned)plan.kv_heads];
}
static __device__ inline const AttentionTile &tile_of_block(const AttentionPlan &plan) {
    return plan.tiles[fresh(blockIdx.x) / (unsigned)plan.kv_heads];
}
static __device__ inline int32_t kv_head_of_block(const AttentionPlan &plan) {
    return (int32_t)(fresh(blockIdx.x) % (unsigned)plan.kv_heads);
}

// A tile's rows of one key/value head: row m is token m / group, query head kv_head * group + m % group.
struct Rows {
    int32_t row, tokens, kv_head;
    __device__ int count(const AttentionPlan &plan) const {
        return tokens * plan.group;
    }
    // Index into [rows, heads] of the first token, and from there on of row m.
    __device__ int64_t base(const AttentionPlan &plan) const {
        return (int64_t)row * plan.heads;
    }
    __device__ int32_t offset(const AttentionPlan &plan, int m) const {
        const int token = m * plan.group_inverse >> 16;
        return token * (plan.heads - plan.group) + kv_head * plan.group + m;
    }
};

static __device__ inline Rows rows_of_block(const AttentionPlan &plan) {
    const AttentionTile &tile = tile_of_block(plan);
    return {tile.row, tile.tokens, kv_head_of_block(plan)};
}

// Where a tile's keys and values lie, by position. Asked for blocks in rising order.
struct KeyReader {
    const AttentionLink *link; // that of the block's first position
    AttentionLink now;
    __device__ KeyReader(const AttentionPlan &plan, const AttentionTile &tile)
        : link(plan.links + tile.link), now(tile.first_link) {
    }
    __device__ void start_block(int32_t start) {
        while (start >= now.end) now = *++link;
    }
    // Row of a position of the block.
    __device__ int32_t row(int32_t position) const {
        AttentionLink holds = now;
        for (const AttentionLink *next = link; position >= holds.end;) holds = *++next;
        return position + holds.shift;
    }
};

enum { SUM_THREADS = 256 };

// The parts of one block of keys, in order; without parts zeros. Block (x, y) has dk (y even) or dv of key/value head
// y / 2.
template <typename T>
KERNEL(SUM_THREADS)
sum_parts(AttentionPlan plan, int32_t block_keys, const float *partial, T *dk, T *dv) {
    const AttentionSum sum = plan.sums[blockIdx.x];
    const int32_t kv_head = (int32_t)(blockIdx.y / 2), half = (int32_t)(blockIdx.y % 2);
    const int64_t block = (int64_t)block_keys * plan.head_dim, half_slot = plan.kv_heads * block;
    const float *from = partial + (2 * (int64_t)sum.slot + half) * half_slot + kv_head * block;
    T *to = (half == 0 ? dk : dv) + ((int64_t)sum.row * plan.kv_heads + kv_head) * plan.head_dim;
    for (int32_t e = (int32_t)threadIdx.x; e < sum.count * plan.head_dim; e += SUM_THREADS) {
        float total = 0;
        for (int32_t part = 0; part < sum.parts; part++) total += from[2 * half_slot * part + e];
        const int32_t j = e / plan.head_dim, d = e % plan.head_dim;
        from_float(total, &to[(int64_t)j * plan.kv_heads * plan.head_dim + d]);
    }
}

template <typename T>
static cudaError_t start_sums(const AttentionInstance *keys, const AttentionPlan *plan, const float *partial, void *dk,
                              void *dv, cudaStream_t stream) {
    if (plan->sum_count == 0) return cudaSuccess;
    LAUNCH(sum_parts<T>, dim3((unsigned)plan->sum_count, 2 * (unsigned)plan->kv_heads), SUM_THREADS, stream, *plan,
           keys->keys, partial, (T *)dk, (T *)dv);
    return cudaGetLastError();
}

// Blocks of threads for `count` tiles or blocks of keys.
static inline unsigned blocks_for(const AttentionPlan *plan, int32_t count) {
    return (unsigned)count * (unsigned)plan->kv_heads;
}

#define LAUNCH_INSTANCE(kernel, instance, blocks, stream, ...)                                                         \
    LAUNCH_NAMED((instance)->name, kernel, blocks, (unsigned)(instance)->threads, (instance)->shared_bytes, stream,    \
                 __VA_ARGS__)
#define ATTENTION_INSTANCES(array)                                                                                     \
    { array, (int32_t)(sizeof(array) / sizeof *(array)) }
