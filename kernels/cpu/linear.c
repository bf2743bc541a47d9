// The frozen linear layers, straight from the mapped row-major weight: few rows by simd/thin.c, which reads it at the
// memory's speed, more by one GEMM.
#include "kernels/cpu/cpu.h"
#include <omp.h>

enum {
    THIN_ROWS = 64,
    OUTPUTS_STEP = 16,     // threads begin at multiples of it: a cache line of y is not shared
    THREAD_WORK = 1 << 16, // multiply-adds: below, waking a thread costs more than it does
};

bool cpu_is_thin(const Device *device, int32_t n) {
    (void)device;
    return n <= THIN_ROWS;
}

void cpu_thin(Device *device, const ThinCall *call) {
    int64_t steps = (call->out + OUTPUTS_STEP - 1) / OUTPUTS_STEP, work = (int64_t)call->n * call->in * call->out;
    if (work < 2 * THREAD_WORK || steps < 2) {
        device->thin(call, 0, call->out);
        return;
    }
#pragma omp parallel num_threads(device->threads)
    {
        int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
        int64_t begin = steps * thread / threads * OUTPUTS_STEP, end = steps * (thread + 1) / threads * OUTPUTS_STEP;
        device->thin(call, (int32_t)begin, (int32_t)(end < call->out ? end : call->out));
    }
}

Status cpu_linear(Device *device, const Linear *layer, const void *x, void *y, int32_t n) {
    DType dtype = device->dtype;
    if (cpu_is_thin(device, n)) {
        cpu_thin(device, &(ThinCall){layer->weight, x, layer->bias, y, n, layer->in, layer->out, dtype, dtype});
        return STATUS_OK;
    }
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
