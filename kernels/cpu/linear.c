// The frozen linear layers: one GEMM each, straight from the mapped row-major weight.
#include "kernels/cpu/cpu.h"

Status cpu_linear(Device *device, const Linear *layer, const void *x, void *y, int32_t n) {
    DType dtype = device->dtype;
    return gemm_run(device->gemm, &(GemmCall){.m = n,
                                              .n = layer->out,
                                              .k = layer->in,
                                              .a = x,
                                              .b = layer->weight,
                                              .bias = layer->bias,
                                              .c = y,
                                              .lda = layer->in,
                                              .ldb = layer->in,
                                              .ldc = layer->out,
                                              .a_type = dtype,
                                              .b_type = dtype,
                                              .c_type = dtype,
                                              .b_transposed = true});
}

Status cpu_linear_backward(Device *device, const Linear *layer, const void *dy, void *dx, int32_t n, bool accumulate) {
    DType dtype = device->dtype;
    return gemm_run(device->gemm, &(GemmCall){.m = n,
                                              .n = layer->in,
                                              .k = layer->out,
                                              .a = dy,
                                              .b = layer->weight,
                                              .c = dx,
                                              .lda = layer->out,
                                              .ldb = layer->in,
                                              .ldc = layer->in,
                                              .a_type = dtype,
                                              .b_type = dtype,
                                              .c_type = dtype,
                                              .accumulate = accumulate});
}
