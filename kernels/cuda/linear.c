// The frozen linear layers, straight from the mapped row-major weights: one GEMM for all layers of an input whose
// weights (and biases) lie one after the other, as map() lays them; else one each.
#include "kernels/cuda/cuda.h"

static const void *after(const void *base, size_t elements, DType dtype) {
    return (const char *)base + elements * dtype_size(dtype);
}

// The first layers of `count` as one, if they lie so; *taken: how many.
static Linear joined(const Linear *layers, int32_t count, DType dtype, int32_t *taken) {
    Linear all = layers[0];
    for (*taken = 1; *taken < count; ++*taken) {
        const Linear *next = &layers[*taken];
        const bool weights = next->weight == after(all.weight, (size_t)all.out * (size_t)all.in, dtype);
        const bool biases =
            all.bias == NULL ? next->bias == NULL : next->bias == after(all.bias, (size_t)all.out, dtype);
        if (!weights || !biases) break;
        all.out += next->out;
    }
    return all;
}

static int32_t width_of(const Linear *layers, int32_t count) {
    int32_t width = 0;
    for (int32_t i = 0; i < count; i++) width += layers[i].out;
    return width;
}

Status cuda_linear(Device *device, const Linear *layers, int32_t count, const void *x, void *y, int32_t n) {
    const DType dtype = device->dtype;
    const int32_t width = width_of(layers, count);
    for (int32_t done = 0, first = 0, taken; done < count; done += taken) {
        const Linear layer = joined(layers + done, count - done, dtype, &taken);
        TRY(gemm_run(device, &(GemmCall){.m = n,
                                         .n = layer.out,
                                         .k = layer.in,
                                         .a = x,
                                         .b = layer.weight,
                                         .bias = layer.bias,
                                         .c = (void *)after(y, (size_t)first, dtype),
                                         .lda = layer.in,
                                         .ldb = layer.in,
                                         .ldc = width,
                                         .ab_type = dtype,
                                         .c_type = dtype,
                                         .b_transposed = true}));
        first += layer.out;
    }
    return STATUS_OK;
}

Status cuda_linear_backward(Device *device, const Linear *layers, int32_t count, const void *dy, void *dx, int32_t n,
                            bool accumulate) {
    const DType dtype = device->dtype;
    const int32_t width = width_of(layers, count);
    for (int32_t done = 0, first = 0, taken; done < count; done += taken) {
        const Linear layer = joined(layers + done, count - done, dtype, &taken);
        TRY(gemm_run(device, &(GemmCall){.m = n,
                                         .n = layer.in,
                                         .k = layer.out,
                                         .a = after(dy, (size_t)first, dtype),
                                         .b = layer.weight,
                                         .c = dx,
                                         .lda = width,
                                         .ldb = layer.in,
                                         .ldc = layer.in,
                                         .ab_type = dtype,
                                         .c_type = dtype,
                                         .accumulate = accumulate || done > 0}));
        first += layer.out;
    }
    return STATUS_OK;
}
