// Vector loops behind the matrix ops, one table an instruction set.
#pragma once
#include "kernels/backend.h"

// What the LM head says about one row of logits.
typedef struct HeadRow {
    float logp, entropy, mean_logit;
} HeadRow;

typedef struct MatrixOps {
    // One thread each; bf16 is held in uint16_t.
    void (*widen)(const uint16_t *from, float *to, size_t count);
    // to = T(from + bias + to when accumulate); bias may be NULL.
    void (*narrow)(const float *from, const uint16_t *bias, uint16_t *to, size_t count, bool accumulate);
    void (*add_bias)(const float *bias, float *to, size_t count);
    // Log-softmax of z[vocab] at `target`. When gradient, z then holds onehot - softmax as values of `gradient_type`,
    // bf16 packed from z's start; else z's contents are lost.
    HeadRow (*head_row)(float *z, int32_t vocab, int32_t target, bool gradient, DType gradient_type);

    // kernels/backend.h's ops of the same name for n > 0, dh in fp32; scratch of lora_scratch() bytes.
    size_t (*lora_scratch)(const LoraGroup *group, int32_t n, int threads);
    void (*lora)(const LoraGroup *group, const Dropout *dropout, const void *x, void *h, void *const *y, int32_t n,
                 DType dtype, int threads, void *scratch);
    void (*lora_backward)(const LoraGroup *group, const Dropout *dropout, const void *const *dy, float *dh, void *dx,
                          int32_t n, DType dtype, int threads, void *scratch);
    void (*lora_weight_backward)(const LoraGroup *group, const Dropout *dropout, const void *x, const void *h,
                                 const void *const *dy, const float *dh, int32_t n, DType dtype, int threads,
                                 void *scratch);
} MatrixOps;

extern const MatrixOps matrix_ops_avx2, matrix_ops_avx512;
