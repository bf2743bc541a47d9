// The frozen linear layers, one after the other, straight from the mapped row-major weights: few rows by simd/thin.c,
// which reads it at the memory's speed, more by one GEMM.
#include "kernels/cpu/cpu.h"
#include <omp.h>

enum {
    // Measured: up to here the thin product is at least as fast on layers of 2,048 and more features, with AVX2,
    // AVX-512 and AVX512_BF16 (docs/speed.md). All rows that are decoded together lie within, so that an answer's bits
    // do not depend on its company.
    THIN_ROWS = 64,
    THREAD_OUTPUTS = 32,   // threads begin at multiples of it: in no cache line of y do two write
    THREAD_WORK = 1 << 16, // multiply-adds of a thread; with fewer, waking it costs more than it does
};

bool cpu_is_thin(int32_t n) {
    return n <= THIN_ROWS;
}

void cpu_thin(Device *device, const ThinCall *call) {
    const int64_t parts = (call->out + THREAD_OUTPUTS - 1) / THREAD_OUTPUTS;
    if ((int64_t)call->n * call->in * call->out < 2 * THREAD_WORK || parts < 2) {
        device->thin(call, 0, call->out);
        return;
    }
#pragma omp parallel num_threads(device->threads)
    {
        int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
        int64_t begin = parts * thread / threads * THREAD_OUTPUTS,
                end = parts * (thread + 1) / threads * THREAD_OUTPUTS;
        if (begin < end) device->thin(call, (int32_t)begin, (int32_t)(end < call->out ? end : call->out));
    }
}

static int32_t width_of(const Linear *layers, int32_t count) {
    int32_t width = 0;
    for (int32_t i = 0; i < count; i++) width += layers[i].out;
    return width;
}

static void *after(const void *base, int32_t elements, DType dtype) {
    return (char *)base + (size_t)elements * dtype_size(dtype);
}

// y of one layer, its rows ldy apart.
static Status linear_one(Device *device, const Linear *layer, const void *x, void *y, int32_t ldy, int32_t n) {
    DType dtype = device->dtype;
    if (cpu_is_thin(n)) {
        cpu_thin(device, &(ThinCall){.w = layer->weight,
                                     .x = x,
                                     .bias = layer->bias,
                                     .y = y,
                                     .n = n,
                                     .in = layer->in,
                                     .out = layer->out,
                                     .ldy = ldy,
                                     .type = dtype,
                                     .y_type = dtype});
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
                                              .ldc = ldy,
                                              .a_type = dtype,
                                              .b_type = dtype,
                                              .c_type = dtype,
                                              .b_transposed = true});
}

Status cpu_linear(Device *device, const Linear *layers, int32_t count, const void *x, void *y, int32_t n) {
    const int32_t width = width_of(layers, count);
    for (int32_t i = 0, first = 0; i < count; first += layers[i++].out)
        TRY(linear_one(device, &layers[i], x, after(y, first, device->dtype), width, n));
    return STATUS_OK;
}

Status cpu_linear_backward(Device *device, const Linear *layers, int32_t count, const void *dy, void *dx, int32_t n,
                           bool accumulate) {
    DType dtype = device->dtype;
    const int32_t width = width_of(layers, count);
    for (int32_t i = 0, first = 0; i < count; first += layers[i++].out)
        TRY(gemm_run(device->gemm, &(GemmCall){.m = n,
                                               .n = layers[i].in,
                                               .k = layers[i].out,
                                               .a = after(dy, first, dtype),
                                               .b = layers[i].weight,
                                               .c = dx,
                                               .lda = width,
                                               .ldb = layers[i].in,
                                               .ldc = layers[i].in,
                                               .a_type = dtype,
                                               .b_type = dtype,
                                               .c_type = dtype,
                                               .accumulate = accumulate || i > 0}));
    return STATUS_OK;
}
