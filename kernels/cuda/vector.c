// The ops on token rows and adapter vectors: one kernel each (vector.cu).
#include "kernels/cuda/vector.h"
#include "kernels/cuda/cuda.h"

Status cuda_embed(Device *device, const int32_t *tokens, const void *table, void *x, int32_t n, int32_t dim) {
    if (n == 0) return STATUS_OK;
    CUDA_TRY(device, vector_embed(device->dtype, tokens, table, x, n, dim, device->stream));
    return STATUS_OK;
}

Status cuda_rmsnorm(Device *device, const void *x, const void *delta, const void *w, float eps, void *sum, void *y,
                    float *rstd, int32_t n, int32_t dim) {
    if (n == 0) return STATUS_OK;
    CUDA_TRY(device, vector_rmsnorm(device->dtype, x, delta, w, eps, sum, y, rstd, n, dim, device->stream));
    return STATUS_OK;
}

Status cuda_rmsnorm_backward(Device *device, const void *dy, const void *x, const void *w, const float *rstd, void *dx,
                             void *y, int32_t n, int32_t dim) {
    if (n == 0) return STATUS_OK;
    CUDA_TRY(device, vector_rmsnorm_backward(device->dtype, dy, x, w, rstd, dx, y, n, dim, device->stream));
    return STATUS_OK;
}

Status cuda_rope(Device *device, void *q, void *k, const int32_t *position, const float *cos, const float *sin,
                 int32_t first, int32_t n, int32_t heads, int32_t kv_heads, int32_t head_dim, int sign) {
    if (n == 0) return STATUS_OK;
    CUDA_TRY(device, vector_rope(device->dtype, q, k, position, cos, sin, first, n, heads, kv_heads, head_dim, sign,
                                 device->stream));
    return STATUS_OK;
}

Status cuda_swiglu(Device *device, const void *gate_up, void *act, int32_t n, int32_t width) {
    if (n == 0) return STATUS_OK;
    CUDA_TRY(device, vector_swiglu(device->dtype, gate_up, act, n, width, device->stream));
    return STATUS_OK;
}

Status cuda_swiglu_backward(Device *device, const void *gate_up, const void *dact, void *dgate_up, void *act, int32_t n,
                            int32_t width) {
    if (n == 0) return STATUS_OK;
    CUDA_TRY(device, vector_swiglu_backward(device->dtype, gate_up, dact, dgate_up, act, n, width, device->stream));
    return STATUS_OK;
}

Status cuda_scale_rows(Device *device, const void *x, const float *factor, void *y, int32_t n, int32_t dim) {
    if (n == 0) return STATUS_OK;
    CUDA_TRY(device, vector_scale_rows(device->dtype, x, factor, y, n, dim, device->stream));
    return STATUS_OK;
}

Status cuda_scale_add(Device *device, const void *x, float factor, const void *base, void *y, size_t count) {
    if (count == 0) return STATUS_OK;
    CUDA_TRY(device, vector_scale_add(device->dtype, x, factor, base, y, count, device->stream));
    return STATUS_OK;
}

Status cuda_scatter_rows(Device *device, const void *from, const int32_t *index, void *to, int32_t n, int32_t dim) {
    if (n == 0) return STATUS_OK;
    CUDA_TRY(device, vector_scatter_rows(device->dtype, from, index, to, n, dim, device->stream));
    return STATUS_OK;
}

Status cuda_cast(Device *device, const float *from, void *to, size_t count) {
    if (count == 0) return STATUS_OK;
    CUDA_TRY(device, vector_cast(device->dtype, from, to, count, device->stream));
    return STATUS_OK;
}

Status cuda_sum_squares(Device *device, const float *x, size_t count, double *host_out) {
    *host_out = 0;
    if (count == 0) return STATUS_OK;
    CUDA_TRY(device, vector_sum_squares(x, count, device->sums, device->stream));
    CUDA_TRY(device, cudaMemcpyAsync(device->host_sums, device->sums, VECTOR_SUM_PARTS * sizeof(double),
                                     cudaMemcpyDeviceToHost, device->stream));
    CUDA_TRY(device, cudaStreamSynchronize(device->stream));
    for (int i = 0; i < VECTOR_SUM_PARTS; i++) *host_out += device->host_sums[i];
    return STATUS_OK;
}

Status cuda_adamw(Device *device, const AdamW *options, float *x, float *m, float *v, const float *dx, size_t count) {
    if (count == 0) return STATUS_OK;
    CUDA_TRY(device, vector_adamw(options, x, m, v, dx, count, device->stream));
    return STATUS_OK;
}
