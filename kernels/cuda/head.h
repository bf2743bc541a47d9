// The kernel of the LM head (head.cu): the softmax of rows of logits. The launcher puts it on the stream and returns
// its launch's error.
#pragma once
#include "kernels/backend.h"
#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

// For rows z fp32[n], `stride` floats apart: logp, entropy and mean_logit fp32[n] as Backend.head defines them. The
// first n_grad rows are overwritten by onehot(target) - softmax(z) in T, from the row's start on.
cudaError_t head_rows(DType dtype, float *z, int64_t stride, const int32_t *target, float *logp, float *entropy,
                      float *mean_logit, int32_t n, int32_t n_grad, int32_t vocab, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
