// Attention's loops (attention.c), for the table in elementwise.c; contracts in simd.h.
#pragma once
#include "kernels/cpu/simd/lanes.h"
#include "kernels/cpu/simd/simd.h"

enum {
    KEY_BLOCK = 64,                  // keys at a time, counted from their segment's start
    ROW_BLOCK = ATTENTION_GROUP_MAX, // at most so many rows (query token, head of the group) at a time
};

// A thread's buffers, fp32. Rows of head_dim stand `stride` apart: head_dim rounded up to a vector, zero in between.
typedef struct AttentionScratch {
    float q[ROW_BLOCK * ATTENTION_HEAD_DIM_MAX]; // scale * q
    float dout[ROW_BLOCK * ATTENTION_HEAD_DIM_MAX];
    float sum[ROW_BLOCK * ATTENTION_HEAD_DIM_MAX]; // out before its division, or dq before its scale
    float k[KEY_BLOCK * ATTENTION_HEAD_DIM_MAX], v[KEY_BLOCK * ATTENTION_HEAD_DIM_MAX];
    float kt[ATTENTION_HEAD_DIM_MAX * KEY_BLOCK], vt[ATTENTION_HEAD_DIM_MAX * KEY_BLOCK]; // transposed
    float dk[KEY_BLOCK * ATTENTION_HEAD_DIM_MAX], dv[KEY_BLOCK * ATTENTION_HEAD_DIM_MAX];
    float s[ROW_BLOCK * KEY_BLOCK], ds[ROW_BLOCK * KEY_BLOCK]; // scores, then probabilities; and their gradients
    float row_max[ROW_BLOCK], row_sum[ROW_BLOCK];
    float lse[ROW_BLOCK], d[ROW_BLOCK]; // d = dout . out
} AttentionScratch;
#define ATTENTION_SCRATCH sizeof(AttentionScratch) // a multiple of 64

void SIMD_NAME(attention)(AttentionCall *call, void *scratch);
void SIMD_NAME(attention_query_gradient)(AttentionCall *call, void *scratch);
void SIMD_NAME(attention_key_gradient)(AttentionCall *call, void *scratch);
