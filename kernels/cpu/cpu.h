// Inside of the CPU device: the open device, the GEMM behind all matrix ops, and the ops that device.c puts into
// backend_cpu. What the ops compute is documented in kernels/backend.h.
//
// vector.c holds the ops on token rows, attention and the adapter vectors; linear.c, lora.c and head.c the matrix ops.
// Loops that need vector instructions live in simd/, compiled once an instruction set and reached through two tables.
#pragma once
#include "kernels/backend.h"
#include "kernels/cpu/simd/simd.h"
#include "kernels/cpu/simd/simd_matrix.h"
#include "kernels/cpu/simd/thin.h"

typedef struct Gemm Gemm; // oneDNN's engine, stream and the primitives made so far

struct Device {
    DType dtype;
    int threads;             // OpenMP's thread count too, set by open
    const SimdOps *simd;     // one instruction set's compilation of simd/*.c
    const MatrixOps *matrix; // likewise
    ThinProduct *thin;       // likewise
    const char *isa;         // oneDNN's name of the instruction set
    bool bf16_gemm;          // see gemm_multiplies_bf16
    Gemm *gemm;
    void *scratch; // see cpu_scratch
    size_t scratch_bytes;
};

// Sets *out to at least `bytes` of 64-byte aligned scratch, valid until the op's end (one scratch a device, so one call
// an op). Grows it when reserve() did not foresee the size, which allocates at most once a size.
Status cpu_scratch(Device *device, size_t bytes, void **out);

// --- gemm.c ---

// Whether bf16 operands are multiplied as bf16 (oneDNN's fast way on this CPU) or widened to fp32 first.
bool gemm_multiplies_bf16(void);
Status gemm_open(const MatrixOps *matrix, Gemm **out);
void gemm_close(Gemm *gemm); // NULL is allowed

// c[m, n] = a b (+ c when accumulate) (+ bias[n] on every row), with a[m, k], b[k, n]; sums in fp32, rounded to c's
// type once. When b_transposed, b is stored as [n, k]. ld: elements from one stored row to the next. k > 0.
typedef struct GemmCall {
    int64_t m, n, k;
    const void *a, *b, *bias; // bias has c_type; NULL for none
    void *c;
    int64_t lda, ldb, ldc;
    DType a_type, b_type, c_type;
    bool b_transposed, accumulate;
} GemmCall;
Status gemm_run(Gemm *gemm, const GemmCall *call);

// --- linear.c ---

// Whether a product of n rows is one for cpu_thin, the product of few rows on the device's threads.
bool cpu_is_thin(int32_t n);
void cpu_thin(Device *device, const ThinCall *call);

// --- vector.c ---
Status cpu_embed(Device *device, const int32_t *tokens, const void *table, void *x, int32_t n, int32_t dim);
Status cpu_rmsnorm(Device *device, const void *x, const void *delta, const void *w, float eps, void *sum, void *y,
                   float *rstd, int32_t n, int32_t dim);
Status cpu_rmsnorm_backward(Device *device, const void *dy, const void *x, const void *w, const float *rstd, void *dx,
                            void *y, int32_t n, int32_t dim);
Status cpu_rope(Device *device, void *q, void *k, const int32_t *position, const float *cos, const float *sin,
                int32_t first, int32_t n, int32_t heads, int32_t kv_heads, int32_t head_dim, int sign);
Status cpu_swiglu(Device *device, const void *gate_up, void *act, int32_t n, int32_t width);
Status cpu_swiglu_backward(Device *device, const void *gate_up, const void *dact, void *dgate_up, void *act, int32_t n,
                           int32_t width);
Status cpu_scale_rows(Device *device, const void *x, const float *factor, void *y, int32_t n, int32_t dim);
Status cpu_scale_add(Device *device, const void *x, float factor, const void *base, void *y, size_t count);
Status cpu_scatter_rows(Device *device, const void *from, const int32_t *index, void *to, int32_t n, int32_t dim);
Status cpu_attention(Device *device, const Attention *shape, const void *q, const void *k, const void *v, void *out,
                     float *lse);
Status cpu_attention_backward(Device *device, const Attention *shape, const void *q, const void *k, const void *v,
                              const void *out, const float *lse, const void *dout, void *dq, void *dk, void *dv,
                              int32_t key_rows);
Status cpu_cast(Device *device, const float *from, void *to, size_t count);
Status cpu_sum_squares(Device *device, const float *x, size_t count, double *host_out);
Status cpu_adamw(Device *device, const AdamW *options, float *x, float *m, float *v, const float *dx, size_t count);

// --- linear.c, lora.c, head.c ---
Status cpu_linear(Device *device, const Linear *layers, int32_t count, const void *x, void *y, int32_t n);
Status cpu_linear_backward(Device *device, const Linear *layers, int32_t count, const void *dy, void *dx, int32_t n,
                           bool accumulate);
Status cpu_lora(Device *device, const LoraGroup *group, const Dropout *dropout, const void *x, void *h, void *const *y,
                int32_t n);
Status cpu_lora_backward(Device *device, const LoraGroup *group, const Dropout *dropout, const void *const *dy,
                         void *dh, void *dx, int32_t n);
Status cpu_lora_weight_backward(Device *device, const LoraGroup *group, const Dropout *dropout, const void *x,
                                const void *h, const void *const *dy, const void *dh, int32_t n);
Status cpu_head(Device *device, const void *head, const void *x, const int32_t *target, float *logp, float *entropy,
                float *mean_logit, void *unit_dx, int32_t n, int32_t n_grad, int32_t dim, int32_t vocab);
size_t cpu_head_scratch(int32_t max_tokens, int32_t vocab); // bytes that cpu_head needs
Status cpu_head_logits(Device *device, const void *head, const void *x, float *logits, int32_t n, int32_t dim,
                       int32_t vocab);
