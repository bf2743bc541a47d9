// Inside of the CUDA device: the open device, and the ops that device.c puts into backend_cuda. What they compute is
// documented in kernels/backend.h. Host logic is C (*.c); kernels and their launchers are CUDA C (X.cu, declared in
// X.h).
//
// device.c opens a device and holds its memory; vector.c has the ops on token rows and adapter vectors, gemm.c
// cuBLASLt, linear.c, lora.c and head.c the matrix ops, attention.c (by attention_plan.c) attention. All ops run on one
// stream; nothing is allocated after reserve().
#pragma once
#include "kernels/backend.h"
#include <cuda_runtime_api.h>

typedef struct Gemm Gemm;                     // cuBLASLt's handle, workspace and the algorithms chosen so far: gemm.c
typedef struct AttentionPlans AttentionPlans; // attention.c
typedef struct Mapped Mapped;                 // device.c: copies that map() made

#define STAGES 2

struct Device {
    DType dtype;
    const char *weights_advice, *memory_advice; // of DeviceOptions
    int index;                                  // of the GPU
    int capability;                             // compute capability, 10 * major + minor
    char name[256];
    char id[32];                       // PCI address
    size_t total_memory, shared_bytes; // shared_bytes: of shared memory, what a block may ask for
    int multiprocessors;
    cudaStream_t stream;
    Gemm *gemm;
    AttentionPlans *attention;
    void *scratch; // see cuda_scratch
    size_t scratch_bytes;
    double *sums, *host_sums; // of sum_squares: device, and pinned host memory
    Mapped *mapped;
    char *stage[STAGES]; // pinned; what map() copies goes through them
    cudaEvent_t staged[STAGES];
};

// Turns a CUDA error into a Status whose text names the device and what was being done.
Status cuda_check(const Device *device, cudaError_t error, const char *what);
#define CUDA_TRY(device, call) TRY(cuda_check((device), (call), #call))

// Sets *out to at least `bytes` of 256-byte aligned device scratch, valid until the op's end: ops run in stream order,
// so the next op may use it again. Grows it when reserve() did not foresee the size (an op test calls no reserve),
// which allocates at most once a size.
Status cuda_scratch(Device *device, size_t bytes, void **out);

// --- gemm.c ---
Status gemm_open(Device *device, Gemm **out);
void gemm_close(Gemm *gemm); // NULL is allowed
// c[m, n] = alpha a b (+ c when accumulate) (+ bias[n] on every row), with a[m, k] and b[k, n] row-major; sums in fp32,
// rounded to c's type once, or with accumulate twice, before c is added and after. a_transposed: a is stored as [k, m];
// b_transposed: b is stored as [n, k]. ld: elements from one stored row to the next. a and b have the same type; bias
// has c's. The stored rows of a are tokens, a number that changes from batch to batch; the others are the model's.
typedef struct GemmCall {
    int64_t m, n, k;
    const void *a, *b, *bias;
    void *c;
    int64_t lda, ldb, ldc;
    DType ab_type, c_type;
    bool a_transposed, b_transposed, accumulate;
    float alpha; // 0 is read as 1
} GemmCall;
Status gemm_run(Device *device, const GemmCall *call);
// Backend.warm: gemm_run also chooses and loads what the same product of any count up to `tokens` will use; 0 ends it.
void gemm_warm(Gemm *gemm, int32_t tokens);

// --- attention.c ---
Status attention_open(Device *device);
void attention_close(Device *device);
Status attention_reserve(Device *device, const DeviceShapes *shapes); // room for plans,
size_t attention_reserved_bytes(const DeviceShapes *shapes);          // which takes so much of the device's memory
int32_t attention_key_block(const Device *device);                    // see DeviceInfo

// Scratch that the ops of a file need for these shapes.
size_t head_scratch_bytes(const DeviceShapes *shapes, DType dtype);
size_t attention_scratch_bytes(const DeviceShapes *shapes);

// --- ops ---
Status cuda_embed(Device *device, const int32_t *tokens, const void *table, void *x, int32_t n, int32_t dim);
Status cuda_rmsnorm(Device *device, const void *x, const void *delta, const void *w, float eps, void *sum, void *y,
                    float *rstd, int32_t n, int32_t dim);
Status cuda_rmsnorm_backward(Device *device, const void *dy, const void *x, const void *w, const float *rstd, void *dx,
                             void *y, int32_t n, int32_t dim);
Status cuda_rope(Device *device, void *q, void *k, const int32_t *position, const float *cos, const float *sin,
                 int32_t first, int32_t n, int32_t heads, int32_t kv_heads, int32_t head_dim, int sign);
Status cuda_swiglu(Device *device, const void *gate_up, void *act, int32_t n, int32_t width);
Status cuda_swiglu_backward(Device *device, const void *gate_up, const void *dact, void *dgate_up, void *act, int32_t n,
                            int32_t width);
Status cuda_scale_rows(Device *device, const void *x, const float *factor, void *y, int32_t n, int32_t dim);
Status cuda_scale_add(Device *device, const void *x, float factor, const void *base, void *y, size_t count);
Status cuda_scatter_rows(Device *device, const void *from, const int32_t *index, void *to, int32_t n, int32_t dim);
Status cuda_cast(Device *device, const float *from, void *to, size_t count);
Status cuda_sum_squares(Device *device, const float *x, size_t count, double *host_out);
Status cuda_adamw(Device *device, const AdamW *options, float *x, float *m, float *v, const float *dx, size_t count);
Status cuda_linear(Device *device, const Linear *layers, int32_t count, const void *x, void *y, int32_t n);
Status cuda_linear_backward(Device *device, const Linear *layers, int32_t count, const void *dy, void *dx, int32_t n,
                            bool accumulate);
Status cuda_lora(Device *device, const LoraGroup *group, const Dropout *dropout, const void *x, void *h, void *const *y,
                 int32_t n);
Status cuda_lora_backward(Device *device, const LoraGroup *group, const Dropout *dropout, const void *const *dy,
                          void *dh, void *dx, int32_t n);
Status cuda_lora_weight_backward(Device *device, const LoraGroup *group, const Dropout *dropout, const void *x,
                                 const void *h, const void *const *dy, const void *dh, int32_t n);
Status cuda_attention(Device *device, const Attention *shape, const void *q, const void *k, const void *v, void *out,
                      float *lse);
Status cuda_attention_backward(Device *device, const Attention *shape, const void *q, const void *k, const void *v,
                               const void *out, const float *lse, const void *dout, void *dq, void *dk, void *dv,
                               int32_t key_rows);
Status cuda_head(Device *device, const void *head, const void *x, const int32_t *target, float *logp, float *entropy,
                 float *mean_logit, void *unit_dx, int32_t n, int32_t n_grad, int32_t dim, int32_t vocab);
Status cuda_head_logits(Device *device, const void *head, const void *x, float *logits, int32_t n, int32_t dim,
                        int32_t vocab);
