// The loops that need vector instructions: token rows, attention and adapter vectors. Every file of this folder is
// compiled once an instruction set (KTO_ISA=avx2 or avx512), and the device picks a table when it opens.
//
// The functions work on a span [begin, end) of rows or elements, on the calling thread, without allocating; threads are
// vector.c's. Shapes and formulas are those of the op of the same name in kernels/backend.h. A row's or element's bits
// do not depend on the span it is computed in.
#pragma once
#include "kernels/backend.h"

#define ATTENTION_HEAD_DIM_MAX 256
#define ATTENTION_GROUP_MAX    128 // query heads of one key/value head

// What the threads of one attention call share. Each takes tasks from next_task until none is left.
typedef struct AttentionCall {
    DType dtype;
    const Attention *shape;
    const void *q, *k, *v, *dout;
    void *out; // read only in backward
    float *lse;
    void *dq, *dk, *dv;
    int64_t next_task; // 0 at first
} AttentionCall;

typedef struct SimdOps {
    void (*rmsnorm)(DType t, const void *x, const void *delta, const void *w, float eps, void *sum, void *y,
                    float *rstd, int64_t begin, int64_t end, int32_t dim);
    void (*rmsnorm_backward)(DType t, const void *dy, const void *x, const void *w, const float *rstd, void *dx,
                             void *y, int64_t begin, int64_t end, int32_t dim);
    void (*rope)(DType t, void *x, const int32_t *position, const float *cos, const float *sin, int64_t begin,
                 int64_t end, int32_t heads, int32_t head_dim, int sign);
    void (*swiglu)(DType t, const void *gate_up, void *act, int64_t begin, int64_t end, int32_t width);
    void (*swiglu_backward)(DType t, const void *gate_up, const void *dact, void *dgate_up, void *act, int64_t begin,
                            int64_t end, int32_t width);
    void (*scale_rows)(DType t, const void *x, const float *factor, void *y, int64_t begin, int64_t end, int32_t dim);
    void (*scale_add)(DType t, const void *x, float factor, const void *base, void *y, int64_t begin, int64_t end);
    void (*cast)(DType t, const float *from, void *to, int64_t begin, int64_t end);
    double (*sum_squares)(const float *x, int64_t begin, int64_t end);
    void (*adamw)(const AdamW *options, float *x, float *m, float *v, const float *dx, int64_t begin, int64_t end);

    // Run by every thread of a team with its own scratch of attention_scratch bytes, 64-byte aligned.
    size_t attention_scratch;
    int32_t attention_key_block;                           // keys at a time, counted from their segment's start
    void (*attention)(AttentionCall *call, void *scratch); // out, lse
    void (*attention_query_gradient)(AttentionCall *call, void *scratch); // dq
    // dk and dv of the keys that a query reaches; the others keep what they hold.
    void (*attention_key_gradient)(AttentionCall *call, void *scratch);
} SimdOps;

extern const SimdOps simd_ops_avx2, simd_ops_avx512;
