// The kernels around LoRA's matrix products (lora.cu): what dropout adds to them, and fp32 factors in pieces that
// tensor cores take. Launchers put a kernel on the stream and return its launch's error. T is bf16 or fp32 by `dtype`.
#pragma once
#include "kernels/backend.h"
#include <cuda_runtime_api.h>

// Dropout as kernels take it. Rows whose owner is -1 keep everything.
typedef struct LoraMask {
    uint64_t key, threshold;         // a feature is kept when its 32 random bits are at least threshold
    const int32_t *owner, *position; // of the kernel's rows
    float keep_scale;                // 1/(1-p)
} LoraMask;

// An fp32 factor is held as this many addends of type T: exact, since three bf16 hold the 24 bits of an fp32.
#define LORA_PARTS(dtype) ((dtype) == DTYPE_BF16 ? 3 : 1)

#ifdef __cplusplus
extern "C" {
#endif

// u = x where kept, else 0; T[n, in].
cudaError_t lora_mask_rows(DType dtype, const void *x, const LoraMask *mask, int32_t module, void *u, int32_t n,
                           int32_t in, cudaStream_t stream);
// to = sum * keep_scale (1 for rows that keep everything), rounded to T; [n, rank]. In fp32 `to` may be `sum`.
cudaError_t lora_scale_rows(DType dtype, const float *sum, const LoraMask *mask, void *to, int32_t n, int32_t rank,
                            cudaStream_t stream);
// dh fp32[n, count, r] as the sum over its parts bf16[n, count, LORA_PARTS, r].
cudaError_t lora_split(const float *dh, void *parts, int32_t n, int32_t count, int32_t r, cudaStream_t stream);
// stacked bf16[count, LORA_PARTS, r, in] = a bf16[count, r, in], repeated for every part.
cudaError_t lora_stack(const void *a, void *stacked, int32_t count, int32_t r, int32_t in, cudaStream_t stream);
// da fp32[count, r, in] += sum over the parts of sums fp32[count, LORA_PARTS of bf16, r, in], in order.
cudaError_t lora_add_parts(const float *sums, float *da, int32_t count, int32_t r, int32_t in, cudaStream_t stream);
// dx T[n, in] += the sum over modules of dh A where the module keeps the feature, rounded once; dh fp32[n, count, r], a
// T[count, r, in].
cudaError_t lora_add_masked(DType dtype, const float *dh, const void *a, const LoraMask *mask, const int32_t *modules,
                            int32_t count, int32_t r, void *dx, int32_t n, int32_t in, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
