// The LM head on chunks of tokens: logits of a chunk by one GEMM, the softmax row by row in place, and the gradient by
// a second GEMM from the same rows. Never [n, vocab] at once. Logits to sample from are a thin product where few rows
// ask.
#include "kernels/cpu/cpu.h"

enum { HEAD_CHUNK = 256 }; // rows: the head's weight is read once a chunk

// Floats from one row of logits to the next: whole cache lines and an odd number of them, so that a column of rows
// does not fall into few sets of the cache.
static int64_t row_stride(int32_t vocab) {
    int64_t lines = (vocab + 15) / 16;
    return 16 * (lines + (lines % 2 == 0));
}

static int32_t chunk_rows(int32_t n) { // chunks of even size
    int32_t chunks = (n + HEAD_CHUNK - 1) / HEAD_CHUNK;
    return (n + chunks - 1) / chunks;
}

size_t cpu_head_scratch(int32_t max_tokens, int32_t vocab) {
    int32_t rows = max_tokens < HEAD_CHUNK ? max_tokens : HEAD_CHUNK;
    return (size_t)rows * (size_t)row_stride(vocab) * sizeof(float);
}

static Status logits(Device *device, const void *head, const void *x, float *z, int64_t stride, int32_t n, int32_t dim,
                     int32_t vocab) {
    return gemm_run(device->gemm, &(GemmCall){.m = n,
                                              .n = vocab,
                                              .k = dim,
                                              .a = x,
                                              .b = head,
                                              .c = z,
                                              .lda = dim,
                                              .ldb = dim,
                                              .ldc = stride,
                                              .a_type = device->dtype,
                                              .b_type = device->dtype,
                                              .c_type = DTYPE_F32,
                                              .b_transposed = true});
}

Status cpu_head(Device *device, const void *head, const void *x, const int32_t *target, float *logp, float *entropy,
                float *mean_logit, void *unit_dx, int32_t n, int32_t n_grad, int32_t dim, int32_t vocab) {
    if (n == 0) return STATUS_OK;
    int32_t chunk = chunk_rows(n);
    // Where products are in fp32 anyway, the gradient of the logits stays fp32.
    DType gradient_type = device->bf16_gemm ? device->dtype : DTYPE_F32;
    int64_t stride = row_stride(vocab), gradient_stride = gradient_type == DTYPE_BF16 ? 2 * stride : stride;
    size_t row_bytes = (size_t)dim * dtype_size(device->dtype);
    void *scratch;
    TRY(cpu_scratch(device, cpu_head_scratch(chunk, vocab), &scratch));
    float *z = scratch;

    for (int32_t first = 0; first < n; first += chunk) {
        int32_t rows = n - first < chunk ? n - first : chunk;
        int32_t gradient_rows = n_grad - first < 0 ? 0 : n_grad - first < rows ? n_grad - first : rows;
        TRY(logits(device, head, (const char *)x + first * row_bytes, z, stride, rows, dim, vocab));
#pragma omp parallel for schedule(static) num_threads(device->threads)
        for (int32_t i = 0; i < rows; i++) {
            HeadRow row =
                device->matrix->head_row(z + i * stride, vocab, target[first + i], i < gradient_rows, gradient_type);
            logp[first + i] = row.logp;
            entropy[first + i] = row.entropy;
            mean_logit[first + i] = row.mean_logit;
        }
        TRY(gemm_run(device->gemm, &(GemmCall){.m = gradient_rows,
                                               .n = dim,
                                               .k = vocab,
                                               .a = z,
                                               .b = head,
                                               .c = (char *)unit_dx + first * row_bytes,
                                               .lda = gradient_stride,
                                               .ldb = dim,
                                               .ldc = dim,
                                               .a_type = gradient_type,
                                               .b_type = device->dtype,
                                               .c_type = device->dtype}));
    }
    return STATUS_OK;
}

Status cpu_head_logits(Device *device, const void *head, const void *x, float *out, int32_t n, int32_t dim,
                       int32_t vocab) {
    if (cpu_is_thin(n)) {
        cpu_thin(device, &(ThinCall){.w = head,
                                     .x = x,
                                     .y = out,
                                     .n = n,
                                     .in = dim,
                                     .out = vocab,
                                     .ldy = vocab,
                                     .type = device->dtype,
                                     .y_type = DTYPE_F32});
        return STATUS_OK;
    }
    return logits(device, head, x, out, vocab, n, dim, vocab);
}
