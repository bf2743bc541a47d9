// The kernels on token rows and adapter vectors (vector.cu). Launchers put a kernel on the stream and return its
// launch's error; what they compute is documented at the op of the same name in kernels/backend.h. T is bf16 or fp32 by
// `dtype`.
#pragma once
#include "kernels/backend.h"
#include <cuda_runtime_api.h>

enum { VECTOR_SUM_PARTS = 256 }; // sum_squares: partial sums, each of an equal share of the elements

#ifdef __cplusplus
extern "C" {
#endif

cudaError_t vector_embed(DType dtype, const int32_t *tokens, const void *table, void *x, int32_t n, int32_t dim,
                         cudaStream_t stream);
cudaError_t vector_rmsnorm(DType dtype, const void *x, const void *delta, const void *w, float eps, void *sum, void *y,
                           float *rstd, int32_t n, int32_t dim, cudaStream_t stream);
cudaError_t vector_rmsnorm_backward(DType dtype, const void *dy, const void *x, const void *w, const float *rstd,
                                    void *dx, void *y, int32_t n, int32_t dim, cudaStream_t stream);
cudaError_t vector_rope(DType dtype, void *q, void *k, const int32_t *position, const float *cos, const float *sin,
                        int32_t first, int32_t n, int32_t heads, int32_t kv_heads, int32_t head_dim, int sign,
                        cudaStream_t stream);
cudaError_t vector_swiglu(DType dtype, const void *gate_up, void *act, int32_t n, int32_t width, cudaStream_t stream);
cudaError_t vector_swiglu_backward(DType dtype, const void *gate_up, const void *dact, void *dgate_up, void *act,
                                   int32_t n, int32_t width, cudaStream_t stream);
cudaError_t vector_scale_rows(DType dtype, const void *x, const float *factor, void *y, int32_t n, int32_t dim,
                              cudaStream_t stream);
cudaError_t vector_scale_add(DType dtype, const void *x, float factor, const void *base, void *y, size_t count,
                             cudaStream_t stream);
cudaError_t vector_scatter_rows(DType dtype, const void *from, const int32_t *index, void *to, int32_t n, int32_t dim,
                                cudaStream_t stream);
cudaError_t vector_cast(DType dtype, const float *from, void *to, size_t count, cudaStream_t stream);
// parts[VECTOR_SUM_PARTS], to be added up in order.
cudaError_t vector_sum_squares(const float *x, size_t count, double *parts, cudaStream_t stream);
cudaError_t vector_adamw(const AdamW *options, float *x, float *m, float *v, const float *dx, size_t count,
                         cudaStream_t stream);

#ifdef __cplusplus
}
#endif
