// The kernels of LoRA's low-rank products (lora.cu), one launch for all modules of a group. Launchers put a kernel on
// the stream and return its launch's error. T is bf16 or fp32 by `dtype`; h, u, dh and s as in lora.c.
#pragma once
#include "kernels/backend.h"
#include <cuda_runtime_api.h>

// Dropout as kernels take it. Rows whose owner is -1 keep everything.
typedef struct LoraMask {
    uint64_t key, threshold;         // a feature is kept when its 32 random bits are at least threshold
    const int32_t *owner, *position; // [n]; NULL: nothing is masked
    float keep_scale;                // 1/(1-p)
} LoraMask;

// One array a module: y or dy, T[n, out], its rows ld apart.
typedef struct LoraRows {
    void *of[LORA_GROUP_MAX];
} LoraRows;

#ifdef __cplusplus
extern "C" {
#endif

// h = u A^T
cudaError_t lora_low(DType dtype, const LoraGroup *group, const LoraMask *mask, const void *x, void *h, int32_t n,
                     cudaStream_t stream);
// y += s h B^T, rounded once
cudaError_t lora_add_outputs(DType dtype, const LoraGroup *group, const void *h, const LoraRows *y, int32_t n,
                             cudaStream_t stream);
// dh = s dy B, to its parts: addends of type T, planes T[n, count * r] one after the other. Three bf16 hold the 24 bits
// of an fp32 exactly; of fp32 there is one.
cudaError_t lora_low_gradient(DType dtype, const LoraGroup *group, const LoraMask *mask, const LoraRows *dy,
                              void *parts, int32_t n, cudaStream_t stream);
// da += dh^T u, db += s dy^T h
cudaError_t lora_weight_gradients(DType dtype, const LoraGroup *group, const LoraMask *mask, const void *x,
                                  const void *h, const LoraRows *dy, const void *parts, int32_t n, cudaStream_t stream);
// dx += the sum over modules of dh A where the module keeps the feature, rounded once
cudaError_t lora_add_inputs(DType dtype, const LoraGroup *group, const LoraMask *mask, const void *parts, void *dx,
                            int32_t n, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
