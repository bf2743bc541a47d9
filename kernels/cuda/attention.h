// The kernels of attention over segment forests (attention.cu), and the plan of a shape that attention.c makes for
// them.
//
// A tile is up to ATTENTION_ROWS rows: some query tokens times all query heads of one key/value head (row m is token
// m / group, head m % group), so that keys and values are read once for the whole group. Keys come in blocks of
// ATTENTION_KEYS, counted from their segment's start.
#pragma once
#include "kernels/backend.h"
#include <cuda_runtime_api.h>

#define ATTENTION_KEYS         32
#define ATTENTION_HEAD_DIM_MAX 128
#define ATTENTION_GROUP_MAX    16 // query heads of one key/value head

// Rows of a tile: what fits the shared memory of every device (99 KiB on an L4).
static inline int attention_rows(DType dtype, int head_dim) {
    return dtype == DTYPE_F32 && head_dim > 64 ? 16 : 32;
}

// Tokens [offset, offset + tokens) of a segment, at rows row, row + 1, ... of q.
typedef struct AttentionTile {
    int32_t segment, offset, tokens, row;
} AttentionTile;

// The keys [start, start + ATTENTION_KEYS) of a segment and those of the tiles that attend to them whose places in the
// segment's list are [begin, end). slot: where the partial sums go; -1: to dk and dv themselves.
typedef struct AttentionKeys {
    int32_t segment, start, begin, end, slot;
} AttentionKeys;

// Partial sums of one block of keys: `count` slots from `slot` on.
typedef struct AttentionSum {
    int32_t segment, start, slot, count;
} AttentionSum;

// Device pointers.
typedef struct AttentionPlan {
    const Segment *segments;
    const int32_t *chain_begin, *chain; // segment s attends to chain[chain_begin[s] .. chain_begin[s + 1]), itself last
    const AttentionTile *tiles;
    const int32_t *list; // tiles of each segment's queries and its descendants', in order
    const AttentionKeys *keys;
    const AttentionSum *sums;
    int32_t tile_count, key_count, sum_count;
    int32_t heads, kv_heads, head_dim;
    float scale;
} AttentionPlan;

#ifdef __cplusplus
extern "C" {
#endif

cudaError_t attention_forward(DType dtype, const AttentionPlan *plan, const void *q, const void *k, const void *v,
                              void *out, float *lse, cudaStream_t stream);
// delta[row, head] = sum(dout * out), for `rows` rows of all heads.
cudaError_t attention_delta(DType dtype, const void *dout, const void *out, float *delta, size_t rows, int32_t head_dim,
                            cudaStream_t stream);
cudaError_t attention_query_gradient(DType dtype, const AttentionPlan *plan, const void *q, const void *k,
                                     const void *v, const float *lse, const float *delta, const void *dout, void *dq,
                                     cudaStream_t stream);
// partial: fp32[slots, 2 (dk, dv), kv_heads, ATTENTION_KEYS, head_dim].
cudaError_t attention_key_gradient(DType dtype, const AttentionPlan *plan, const void *q, const void *k, const void *v,
                                   const float *lse, const float *delta, const void *dout, float *partial, void *dk,
                                   void *dv, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
