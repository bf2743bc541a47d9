// The op table: everything the model computes, over device buffers, one table a device. Read this before src/model.
//
// Shapes are row-major. `n` counts tokens (rows). dtype T is the device's working type (DeviceOptions.dtype): weights
// and activations are T; every sum, softmax, norm and log-probability is computed in fp32. A gradient is `d` + name.
// All pointers are device buffers unless a name says host. Ops of one device run in the order of the calls and may
// return before they are done; download() and sync() wait. Ops never allocate: the scratch they need is reserved by
// open() and by reserve(). Every op returns STATUS_OK or sets the error (STATUS_FAILED).
//
// A product is rounded to T once. Where it is added to what is there (linear_backward's dx +=, LoRA's y += and dx +=)
// it may be rounded to T before, and the sum is rounded after: two roundings, as in cuBLASLt (beta = 1) and in
// autograd, which rounds each layer's dx, or LoRA's output, and then the sum.
#pragma once
#include "src/base/status.h"
#include <stddef.h>
#include <stdint.h>

typedef enum DType { DTYPE_F32 = 0, DTYPE_BF16 = 1 } DType;
static inline size_t dtype_size(DType t) {
    return t == DTYPE_BF16 ? 2 : 4;
}

typedef struct Device Device; // one open device of a backend

typedef struct DeviceOptions {
    DType dtype;
    int threads; // CPU: threads to use; 0: all this process may run on
    int index;   // GPU: this rank among those of its node; they take the visible GPUs in turn
    // What the user can do when there is no room for weights, and for anything else; NULL: the message ends without.
    const char *weights_advice, *memory_advice;
} DeviceOptions;

typedef struct DeviceInfo {
    char name[160];      // e.g. "CPU, 2 threads, avx512_core_bf16, oneDNN 2.6.3"; part of the reference cache's key
    char note[200];      // something the user should know, e.g. that bf16 is widened; "" if nothing
    char id[32];         // PCI address of a GPU, "0000:01:00.0"; "" of the CPU, whose memory a node's ranks share
    size_t total_memory; // bytes
    int threads;
    int index;         // of the GPU among the visible ones
    int32_t key_block; // see attention
} DeviceInfo;

// The largest shapes that will come, in elements.
typedef struct DeviceShapes {
    int32_t tokens;   // rows of any op, queries and keys of one attention call
    int32_t features; // widest input or output of a linear layer
    int32_t hidden, vocab, heads, kv_heads, head_dim, lora_rank;
} DeviceShapes;

// A frozen linear layer of the base model: y = x W^T + bias.
typedef struct Linear {
    const void *weight; // T[out, in], as mapped from safetensors
    const void *bias;   // T[out] or NULL
    int32_t in, out;
} Linear;

// A segment of a token forest: tokens [first, first+length) of the key/value arrays, at positions position, position+1,
// ... of their sequence. It attends to all tokens of its chain of parents and causally to itself. Parents come before
// their children. See src/data/batch.h.
typedef struct Segment {
    int32_t first, length, position, parent; // parent: index of a segment, or -1
} Segment;

// Rows of a query array: tokens [offset, offset+length) of segment `segment`, at rows row, row+1, ... of q, out, lse.
typedef struct QueryRange {
    int32_t segment, offset, length, row;
} QueryRange;

typedef struct Attention {
    int32_t heads, kv_heads, head_dim; // heads: a multiple of kv_heads; head h reads kv head h / (heads / kv_heads)
    float scale;                       // 1 / sqrt(head_dim)
    const Segment *segments;           // host, [segment_count]; read before the op returns, as queries are
    const QueryRange *queries;         // host, [query_count]
    int32_t segment_count, query_count;
} Attention;

#define LORA_GROUP_MAX 3 // q, k and v share an input; gate and up share one
#define LORA_DH_BYTES  8 // room for a number of dh: an fp32, or three bf16 that add up to it

// LoRA modules that share an input x[n, in]: y_m += scale * (dropout_m(x) A_m^T) B_m^T   (LoRA, arXiv 2106.09685, eq.
// 3).
typedef struct LoraModule {
    const void *a, *b; // T[r, in], T[out, r]; the a of a group's modules stand one after the other in memory
    float *da, *db;    // fp32, added to by lora_weight_backward; the da of a group's modules stand one after the other
    int32_t out, ld;   // ld: elements from one row of y or dy to the next
    int32_t id;        // of the module in the model, for dropout
} LoraModule;

typedef struct LoraGroup {
    int32_t count, in, r;
    float scale; // alpha / r
    LoraModule module[LORA_GROUP_MAX];
} LoraGroup;

// Dropout of a token's LoRA inputs. The mask of feature f in module m is drawn from
// philox(key, owner, position, RNG_DROPOUT, m << 20 | f / 4).v[f % 4]: kept when v >= p * 2^32, then scaled by
// 1/(1-p). `key` is made of seed and step. A token with owner -1 has none.
typedef struct Dropout {
    float p; // 0: none, and the rest is not read
    uint64_t key;
    const int32_t *owner, *position; // [n]
} Dropout;

typedef struct AdamW { // decoupled weight decay, arXiv 1711.05101 algorithm 2; torch.optim.AdamW's order of operations
    float learning_rate, beta1, beta2, epsilon, weight_decay;
    float gradient_scale; // multiplies the gradient first (clipping)
    int64_t step;         // 1-based, for bias correction
} AdamW;

// Host memory for map().
typedef struct HostPiece {
    const void *host;
    size_t bytes;
    const void **out;
} HostPiece;

typedef struct Backend {
    const char *name; // "cpu", "cuda"

    // --- memory -----------------------------------------------------------------------------------------------------
    Status (*open)(const DeviceOptions *options, Device **out);
    void (*close)(Device *device); // NULL is allowed
    void (*info)(const Device *device, DeviceInfo *out);
    // Scratch for the largest shapes that will come; called before the first op, and again when they grow.
    Status (*reserve)(Device *device, const DeviceShapes *shapes);
    // The bytes that reserve would take; needs no device, so that memory can be planned without one.
    size_t (*scratch_bytes)(const DeviceOptions *options, const DeviceShapes *shapes);
    // Between warm(device, n) and warm(device, 0), ops also prepare what they will need for any count of tokens up to
    // n, so that a batch of another size costs nothing; what they compute meanwhile is no result. NULL: ops of this
    // device need no preparing.
    void (*warm)(Device *device, int32_t tokens);
    Status (*alloc)(Device *device, size_t bytes, const char *what, void **out); // zeroed, 64-byte aligned
    // Like alloc, but the memory may live on the host until an op needs it (CUDA: managed memory): for paged
    // optimizers.
    Status (*alloc_paged)(Device *device, size_t bytes, const char *what, void **out);
    void (*release)(Device *device, void *buffer); // NULL is allowed
    // Makes `count` pieces of host memory that stay mapped for the device's life readable by ops, *pieces[i].out: the
    // CPU as they lie there, a device with memory of its own one after the other.
    Status (*map)(Device *device, const HostPiece *pieces, int32_t count);
    Status (*upload)(Device *device, void *to, const void *host, size_t bytes);
    Status (*download)(Device *device, void *host, const void *from, size_t bytes); // waits
    Status (*zero)(Device *device, void *buffer, size_t bytes);
    Status (*sync)(Device *device);
    // The queue that ops run in, as libraries of the same device know it (a cudaStream_t); NULL on the CPU.
    void *(*stream)(Device *device);

    // --- token rows -------------------------------------------------------------------------------------------------
    // x[i] = table[tokens[i]]; table T[vocab, dim], x T[n, dim].
    Status (*embed)(Device *, const int32_t *tokens, const void *table, void *x, int32_t n, int32_t dim);
    // sum = x + delta (delta NULL: x; sum may be x, and is not written when delta is NULL);
    // y = sum * rstd * w, rstd = 1/sqrt(mean(sum^2) + eps)   (RMSNorm, arXiv 1910.07467 eq. 4; transformers'
    // LlamaRMSNorm: the normalised value is rounded to T before the product with w). x, delta, sum, y: T[n, dim]; w:
    // T[dim]; rstd fp32[n].
    Status (*rmsnorm)(Device *, const void *x, const void *delta, const void *w, float eps, void *sum, void *y,
                      float *rstd, int32_t n, int32_t dim);
    // dx += gradient of y with respect to x, given dy; x is the norm's input (`sum` above). y once more unless it is
    // NULL.
    Status (*rmsnorm_backward)(Device *, const void *dy, const void *x, const void *w, const float *rstd, void *dx,
                               void *y, int32_t n, int32_t dim);
    // In place rotation of q T[n - first, heads, head_dim], the queries of tokens [first, n), and k T[n, kv_heads,
    // head_dim] by cos/sin fp32[max_position, head_dim/2], rotate-half form as transformers' Llama (RoFormer, arXiv
    // 2104.09864 eq. 34); position[n]; sign -1 is the transpose (backward).
    Status (*rope)(Device *, void *q, void *k, const int32_t *position, const float *cos, const float *sin,
                   int32_t first, int32_t n, int32_t heads, int32_t kv_heads, int32_t head_dim, int sign);
    // act = silu(gate) * up; act T[n, width]; a row of gate_up T[n, 2 * width] is gate, then up.
    Status (*swiglu)(Device *, const void *gate_up, void *act, int32_t n, int32_t width);
    // dgate_up from dact, and act once more unless it is NULL; dgate_up may be gate_up.
    Status (*swiglu_backward)(Device *, const void *gate_up, const void *dact, void *dgate_up, void *act, int32_t n,
                              int32_t width);
    // y[i] = x[i] * factor[i]; x, y: T[n, dim], factor fp32[n].
    Status (*scale_rows)(Device *, const void *x, const float *factor, void *y, int32_t n, int32_t dim);
    // y = base + factor x (base NULL: factor x), the product rounded to T before the sum; all T[count], and y may be x
    // or base.
    Status (*scale_add)(Device *, const void *x, float factor, const void *base, void *y, size_t count);
    // to[index[i]] = from[i]: rows of T[dim]; index[i] are distinct.
    Status (*scatter_rows)(Device *, const void *from, const int32_t *index, void *to, int32_t n, int32_t dim);

    // --- matrices ---------------------------------------------------------------------------------------------------
    // y = x W^T + bias of `count` layers that share an input x T[n, in]; y T[n, sum of out], their outputs side by
    // side.
    Status (*linear)(Device *, const Linear *layers, int32_t count, const void *x, void *y, int32_t n);
    // dx = the sum over the layers of dy W, or dx += it when accumulate; dy T[n, sum of out], dx T[n, in]. No weight
    // gradient: the base is frozen. Weights that lie one after the other in memory give one product; of others, each
    // but the first is added to dx as rounded so far. What is added may be rounded twice (above).
    Status (*linear_backward)(Device *, const Linear *layers, int32_t count, const void *dy, void *dx, int32_t n,
                              bool accumulate);
    // h_m = dropout_m(x) A_m^T; y_m += scale * h_m B_m^T. h T[n, count * r] is kept for backward; y[m] T[n, out_m], its
    // rows ld_m elements apart.
    Status (*lora)(Device *, const LoraGroup *group, const Dropout *dropout, const void *x, void *h, void *const *y,
                   int32_t n);
    // dh = scale * dy B, scaled by 1/(1-p) where dropout is, for lora_weight_backward; dx += the gradient (dx NULL: dh
    // only). dy[m] as y[m]; dh: [n, count * r] of LORA_DH_BYTES, fp32 by value in a form of the device's own.
    Status (*lora_backward)(Device *, const LoraGroup *group, const Dropout *dropout, const void *const *dy, void *dh,
                            void *dx, int32_t n);
    // da, db += ...; x, h and dy as they were given before.
    Status (*lora_weight_backward)(Device *, const LoraGroup *group, const Dropout *dropout, const void *x,
                                   const void *h, const void *const *dy, const void *dh, int32_t n);
    // out = softmax(scale * q k^T) v over each query's chain of segments; lse = log-sum-exp of the scaled scores, for
    // backward. q, out T[query rows, heads, head_dim]; k, v T[key rows, kv_heads, head_dim]; lse fp32[query rows,
    // heads]. Flash-like (arXiv 2205.14135): keys come in blocks that are counted from their segment's or their
    // sequence's start, never from the flat array, so that bits do not depend on packing; nor on how a sequence is cut
    // into segments, as long as it is cut at multiples of DeviceInfo.key_block.
    Status (*attention)(Device *, const Attention *shape, const void *q, const void *k, const void *v, void *out,
                        float *lse);
    // dq over the query rows, dk and dv over `key_rows` rows (all written, zero where no query reached). Every segment
    // that is a query's or an ancestor of one lies within key_rows. Sums in an order that the shapes alone decide.
    Status (*attention_backward)(Device *, const Attention *shape, const void *q, const void *k, const void *v,
                                 const void *out, const float *lse, const void *dout, void *dq, void *dk, void *dv,
                                 int32_t key_rows);
    // LM head in chunks of tokens, never [n, vocab] at once. head T[vocab, dim], x T[n, dim], target[n] in [0, vocab).
    // z = x head^T (fp32): logp[i] = log_softmax(z_i)[target_i], entropy[i] of softmax(z_i) in nats, mean_logit[i] =
    // mean(z_i); fp32[n]. For the first `n_grad` rows also unit_dx[i] = d logp[i] / d x_i = (onehot - softmax(z_i))
    // head, T[n_grad, dim]: a row's gradient is this times d loss / d logp, so backward needs no second look at the
    // vocabulary.
    Status (*head)(Device *, const void *head, const void *x, const int32_t *target, float *logp, float *entropy,
                   float *mean_logit, void *unit_dx, int32_t n, int32_t n_grad, int32_t dim, int32_t vocab);
    // logits fp32[n, vocab] = x head^T, for sampling (n is small).
    Status (*head_logits)(Device *, const void *head, const void *x, float *logits, int32_t n, int32_t dim,
                          int32_t vocab);

    // --- adapter vectors (fp32, flat) -------------------------------------------------------------------------------
    Status (*cast)(Device *, const float *from, void *to, size_t count); // to T[count], rounded to nearest even
    // Sum of squares in fp64, in an order that count alone decides; waits.
    Status (*sum_squares)(Device *, const float *x, size_t count, double *host_out);
    Status (*adamw)(Device *, const AdamW *options, float *x, float *m, float *v, const float *dx, size_t count);
} Backend;

extern const Backend backend_cpu;

// The backend called `name`; NULL when there is none, or one that lacks an op, and *why then says so and how to get it.
// "cuda" is a module that is loaded when first asked for (src/base/module.h), so that the program starts on machines
// without a driver or toolkit.
const Backend *backend_find(const char *name, const char **why);
// The first op that a backend lacks, by its name in the table; NULL: it has all.
const char *backend_missing(const Backend *backend);
