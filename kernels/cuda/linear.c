// The frozen linear layers: one GEMM each, straight from the mapped row-major weight.
#include "kernels/cuda/cuda.h"

Status cuda_linear(Device *device, const Linear *layer, const void *x, void *y, int32_t n) {
    return gemm_run(device, &(GemmCall){.m = n,
                                        .n = layer->out,
                                        .k = layer->in,
                                        .a = x,
                                        .b = layer->weight,
                                        .bias = layer->bias,
                                        .c = y,
                                        .lda = layer->in,
                                        .ldb = layer->in,
                                        .ldc = layer->out,
                                        .ab_type = device->dtype,
                                        .c_type = device->dtype,
                                        .b_transposed = true});
}

Status cuda_linear_backward(Device *device, const Linear *layer, const void *dy, void *dx, int32_t n, bool accumulate) {
    return gemm_run(device, &(GemmCall){.m = n,
                                        .n = layer->in,
                                        .k = layer->out,
                                        .a = dy,
                                        .b = layer->weight,
                                        .c = dx,
                                        .lda = layer->out,
                                        .ldb = layer->in,
                                        .ldc = layer->in,
                                        .ab_type = device->dtype,
                                        .c_type = device->dtype,
                                        .accumulate = accumulate});
}
