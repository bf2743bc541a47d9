// LoRA's low-rank products (lora.c), for the table in softmax.c; contracts in simd_matrix.h.
#pragma once
#include "kernels/backend.h"
#include "kernels/cpu/simd/lanes.h"

size_t SIMD_NAME(lora_scratch)(const LoraGroup *group, int32_t n, int threads);
void SIMD_NAME(lora)(const LoraGroup *group, const Dropout *dropout, const void *x, void *h, void *const *y, int32_t n,
                     DType dtype, int threads, void *scratch);
void SIMD_NAME(lora_backward)(const LoraGroup *group, const Dropout *dropout, const void *const *dy, float *dh,
                              void *dx, int32_t n, DType dtype, int threads, void *scratch);
void SIMD_NAME(lora_weight_backward)(const LoraGroup *group, const Dropout *dropout, const void *x, const void *h,
                                     const void *const *dy, const float *dh, int32_t n, DType dtype, int threads,
                                     void *scratch);
