// The LM head on chunks of tokens: logits of a chunk by one GEMM, the softmax row by row in place, and the gradient by
// a second GEMM from the same rows. Never [n, vocab] at once.
#include "kernels/cuda/head.h"
#include "kernels/cuda/cuda.h"

enum {
    CHUNK_BYTES = 64 << 20, // of a chunk's logits, where
    CHUNK_ROWS = 256,       // rows do not need more: the head's weight is read twice a chunk
    ROW_ALIGNMENT = 64,     // floats
    ROW_STEP = 64,          // rows of a chunk are a multiple, so that a GEMM's tiles are full
};

static int64_t row_stride(int32_t vocab) {
    return ((int64_t)vocab + ROW_ALIGNMENT - 1) / ROW_ALIGNMENT * ROW_ALIGNMENT;
}

static int32_t round_up(int64_t x, int32_t step) {
    return (int32_t)((x + step - 1) / step * step);
}

// Chunks of about even size.
static int32_t chunk_rows(int32_t n, int32_t vocab) {
    int64_t most = CHUNK_BYTES / (row_stride(vocab) * (int64_t)sizeof(float)) / ROW_STEP * ROW_STEP;
    if (most < CHUNK_ROWS) most = CHUNK_ROWS;
    if (n <= most) return n;
    const int64_t chunks = (n + most - 1) / most;
    return round_up((n + chunks - 1) / chunks, ROW_STEP);
}

// An upper bound that grows with tokens and vocab.
size_t head_scratch_bytes(const DeviceShapes *shapes, DType dtype) {
    (void)dtype;
    const size_t row_bytes = (size_t)row_stride(shapes->vocab) * sizeof(float),
                 all = (size_t)shapes->tokens * row_bytes;
    const size_t most = CHUNK_ROWS * row_bytes > CHUNK_BYTES ? CHUNK_ROWS * row_bytes : CHUNK_BYTES;
    return all < most ? all : most;
}

static Status logits(Device *device, const void *head, const void *x, float *z, int64_t stride, int32_t n, int32_t dim,
                     int32_t vocab) {
    return gemm_run(device, &(GemmCall){.m = n,
                                        .n = vocab,
                                        .k = dim,
                                        .a = x,
                                        .b = head,
                                        .c = z,
                                        .lda = dim,
                                        .ldb = dim,
                                        .ldc = stride,
                                        .ab_type = device->dtype,
                                        .c_type = DTYPE_F32,
                                        .b_transposed = true});
}

Status cuda_head(Device *device, const void *head, const void *x, const int32_t *target, float *logp, float *entropy,
                 float *mean_logit, void *unit_dx, int32_t n, int32_t n_grad, int32_t dim, int32_t vocab) {
    if (n == 0) return STATUS_OK;
    const DType dtype = device->dtype;
    const int32_t chunk = chunk_rows(n, vocab);
    const int64_t stride = row_stride(vocab);
    const size_t row_bytes = (size_t)dim * dtype_size(dtype);
    void *scratch;
    TRY(cuda_scratch(device, (size_t)chunk * (size_t)stride * sizeof(float), &scratch));
    float *z = scratch;
    for (int32_t first = 0; first < n; first += chunk) {
        const int32_t rows = n - first < chunk ? n - first : chunk;
        const int32_t gradient_rows = n_grad - first < 0 ? 0 : n_grad - first < rows ? n_grad - first : rows;
        const size_t at = (size_t)first * row_bytes;
        TRY(logits(device, head, (const char *)x + at, z, stride, rows, dim, vocab));
        CUDA_TRY(device, head_rows(dtype, z, stride, target + first, logp + first, entropy + first, mean_logit + first,
                                   rows, gradient_rows, vocab, device->stream));
        TRY(gemm_run(device, &(GemmCall){.m = gradient_rows,
                                         .n = dim,
                                         .k = vocab,
                                         .a = z,
                                         .b = head,
                                         .c = (char *)unit_dx + at,
                                         .lda = stride * (int64_t)(sizeof(float) / dtype_size(dtype)),
                                         .ldb = dim,
                                         .ldc = dim,
                                         .ab_type = dtype,
                                         .c_type = dtype}));
    }
    return STATUS_OK;
}

Status cuda_head_logits(Device *device, const void *head, const void *x, float *out, int32_t n, int32_t dim,
                        int32_t vocab) {
    return logits(device, head, x, out, vocab, n, dim, vocab);
}
