// The devices and the count of operations and bytes. docs/speed.md explains both.
#include "src/model/roofline.h"

#include <string.h>

// Rates: the data sheets' figures without sparsity. Memory: what CUDA reports, which is less than what the sheets say.
static const RooflineDevice devices[] = {
    {"l4", "NVIDIA L4, 24 GB", 22.0, 121, 30.3, 300, "NVIDIA L4 Tensor Core GPU datasheet", false},
    {"a10", "NVIDIA A10, 24 GB", 22.0, 125, 31.2, 600, "NVIDIA A10 Tensor Core GPU datasheet", false},
    {"4090", "NVIDIA GeForce RTX 4090, 24 GB", 23.5, 165.2, 82.6, 1008, "NVIDIA Ada GPU architecture white paper",
     false},
    {"l40s", "NVIDIA L40S, 48 GB", 44.0, 362, 91.6, 864, "NVIDIA L40S datasheet", false},
    {"a100-40", "NVIDIA A100 PCIe, 40 GB", 39.0, 312, 19.5, 1555, "NVIDIA A100 Tensor Core GPU datasheet", false},
    {"a100", "NVIDIA A100 SXM, 80 GB", 79.0, 312, 19.5, 2039, "NVIDIA A100 Tensor Core GPU datasheet", false},
    {"h100", "NVIDIA H100 SXM, 80 GB", 79.0, 989, 67, 3350, "NVIDIA H100 Tensor Core GPU datasheet", true},
    {"h200", "NVIDIA H200 SXM, 141 GB", 139.0, 989, 67, 4800, "NVIDIA H200 Tensor Core GPU datasheet", true},
};
enum { DEVICES = sizeof devices / sizeof *devices };

// What parts of a device's rates a class reaches. docs/gpu.md derives them from its report.
typedef struct Shares {
    const char *source;
    double products, products_rows;                     // of peak: products / (1 + products_rows / rows)
    double attention_forward[2], attention_backward[2]; // of peak, for head_dim up to 64 and above
    double attention_least, attention_backward_least;   // seconds of a layer that hardly has work
    double lora, rows, streams;                         // of bandwidth: LoRA; norms, rotations, SwiGLU; the rest
    double launch;                                      // seconds of the host
} Shares;

static const Shares hopper_bf16 = {
    .source = "measured on an H200 (docs/gpu.md); not measured: attention of rows between 107 and 2,048 tokens, AdamW; "
              "fitted: LoRA",
    .products = 0.90, // 714 TFLOP/s with 2,081 rows, 613 with 1,136
    .products_rows = 513,
    .attention_forward = {0.303, 0.362},  // 8 rows of 2,048 tokens: 474 us with 32 heads of 64, 785 us with 32 of 128
    .attention_backward = {0.250, 0.224}, // 1,439 and 3,154 us
    .attention_least = 16e-6, // 16 rows of 107 tokens: 20 us forward, 54 us backward, 4 and 8 of them by the shares
    .attention_backward_least = 46e-6,
    .lora = 0.80,    // products and LoRA together: 45 ms (real-all), 52 ms (wide)
    .rows = 0.61,    // 2.35 ms for the 6.88 GB of "plain"
    .streams = 0.75, // assumed
    .launch = 4.6e-6,
};
static const Shares others_bf16 = {
    .source = "assumed; attention and launches as on an H200",
    .products = 0.60,
    .attention_forward = {0.303, 0.362},
    .attention_backward = {0.250, 0.224},
    .attention_least = 16e-6,
    .attention_backward_least = 46e-6,
    .lora = 0.75,
    .rows = 0.75,
    .streams = 0.75,
    .launch = 4.6e-6,
};
static const Shares all_fp32 = {
    .source = "assumed",
    .products = 0.60,
    .attention_forward = {0.1, 0.1}, // kernels without tensor cores
    .attention_backward = {0.1, 0.1},
    .lora = 0.75,
    .rows = 0.75,
    .streams = 0.75,
    .launch = 4.6e-6,
};
static const Shares *shares_of(const RooflineDevice *device, DType dtype) {
    if (dtype != DTYPE_BF16) return &all_fp32;
    return device->hopper ? &hopper_bf16 : &others_bf16;
}

#define LAUNCHES_A_LAYER 48 // 1,073 for the 22 layers of "plain"

const char *const roofline_class_names[ROOFLINE_CLASSES] = {
    "linear layers", "LM head", "attention, forward", "attention, backward", "LoRA", "norms, rotations, SwiGLU",
    "AdamW"};

Status roofline_device(const char *name, const RooflineDevice **out) {
    char known[128] = "";
    for (int i = 0; i < DEVICES; i++) {
        if (strcmp(name, devices[i].name) == 0) {
            *out = &devices[i];
            return STATUS_OK;
        }
        if (i > 0) strcat(known, i + 1 < DEVICES ? ", " : " and ");
        strcat(known, devices[i].name);
    }
    if (name[0] == '\0') return error_set(STATUS_USAGE, "--device needs a name; there are %s", known);
    return error_set(STATUS_USAGE, "--device \"%.40s\": no such device; there are %s", name, known);
}

// --- shapes ---

typedef struct Shapes {
    double in[ARCH_MODULES], out[ARCH_MODULES];
} Shapes;

static Shapes shapes_of(const ModelConfig *c) {
    Shapes shapes;
    for (int i = 0; i < ARCH_MODULES; i++) {
        const ArchTensor *row = arch_tensor(c, (ArchRole)i);
        shapes.in[i] = (double)arch_size(c, row->cols);
        shapes.out[i] = (double)arch_size(c, row->rows);
    }
    return shapes;
}

int64_t roofline_adapter_count(const ModelConfig *config, const ModelOptions *options) {
    const Shapes shapes = shapes_of(config);
    double features = 0;
    for (int i = 0; i < ARCH_MODULES; i++)
        if (options->lora_target[i]) features += shapes.in[i] + shapes.out[i];
    return (int64_t)(features * options->lora_r * config->layers);
}

size_t roofline_adapter_bytes(const ModelConfig *config, const ModelOptions *options) {
    const size_t working = options->device.dtype == DTYPE_BF16 ? dtype_size(DTYPE_BF16) : 0;
    return (size_t)roofline_adapter_count(config, options) * (4 * sizeof(float) + working);
}

// --- the count ---

// How many tokens go through what, over a step's passes.
typedef struct Passes {
    double forward, scored;                    // all tokens; those of the last layer's query, output, MLP and head
    double again;                              // computed a second time for backward
    double kept, gradient;                     // tokens of backward: prefixes and y; y alone (last layer)
    double reads, reads_again, reads_backward; // of the weights
} Passes;

static Passes passes_of(const ModelOptions *options, const RooflineTokens *t) {
    const double visits = t->two_pass ? 2 : 1; // of a prefix in forward
    return (Passes){.forward = visits * t->prefix + t->policy + t->kl,
                    .scored = t->policy + t->kl,
                    .again = options->recompute ? t->prefix + t->policy : 0,
                    .kept = t->prefix + t->policy,
                    .gradient = t->policy,
                    .reads = visits * t->micro_batches,
                    .reads_again = options->recompute ? t->micro_batches : 0,
                    .reads_backward = t->micro_batches};
}

// A product of `tokens` rows with a weight that is read `reads` times.
static void add_product(RooflineWork *work, RooflineClass class, double tokens, double reads, double in, double out,
                        double element) {
    work->flops[class] += 2 * tokens * in * out;
    work->bytes[class] += element * (tokens * (in + out) + reads * in * out);
}

static bool is_key_or_value(int target) {
    return target == ARCH_K || target == ARCH_V;
}

static void count_linear(const ModelConfig *c, const Passes *p, double element, RooflineWork *work) {
    const Shapes s = shapes_of(c);
    for (int i = 0; i < ARCH_MODULES; i++)
        for (int l = 0; l < c->layers; l++) {
            const bool first = l == 0 && c->layers > 1, last = l == c->layers - 1;
            const bool narrow = last && !is_key_or_value(i); // only scored tokens go on
            add_product(work, ROOFLINE_LINEAR, narrow ? p->scored : p->forward, p->reads, s.in[i], s.out[i], element);
            if (!last) add_product(work, ROOFLINE_LINEAR, p->again, p->reads_again, s.in[i], s.out[i], element);
            if (first && arch_tensor(c, (ArchRole)i)->group == ARCH_GROUP_QKV) continue; // nothing flows below it
            add_product(work, ROOFLINE_LINEAR, narrow ? p->gradient : p->kept, p->reads_backward, s.in[i], s.out[i],
                        element);
        }
}

// Logits are written and read in fp32; unit_dx is a second product over the softmax.
static void count_head(const ModelConfig *c, const Passes *p, double element, RooflineWork *work) {
    const double logits = (double)c->vocab * sizeof(float);
    add_product(work, ROOFLINE_HEAD, p->scored, p->reads, c->hidden, c->vocab, element);
    add_product(work, ROOFLINE_HEAD, p->gradient, p->reads_backward, c->hidden, c->vocab, element);
    work->bytes[ROOFLINE_HEAD] += 2 * logits * p->scored;
}

// Two products a key forward (scores, values), five backward (scores again, dV, dP, dQ, dK): arXiv 2205.14135.
static void count_attention(const ModelConfig *c, const ModelOptions *options, const RooflineTokens *t, const Passes *p,
                            double element, RooflineWork *work) {
    const double q = (double)c->heads * c->head_dim, kv = (double)c->kv_heads * c->head_dim, inner = c->layers - 1;
    const double scored = t->policy_keys + t->kl_keys, kept = t->prefix_keys + t->policy_keys;
    const double forward = (t->two_pass ? 2 : 1) * t->prefix_keys + scored, again = options->recompute ? kept : 0;
    work->flops[ROOFLINE_ATTENTION] += 4 * q * (inner * (forward + again) + scored);
    work->flops[ROOFLINE_ATTENTION_BACKWARD] += 10 * q * (inner * kept + t->policy_keys);
    // q, out, k, v forward; those, their gradients and the output's backward.
    const double rows = inner * (p->forward + p->again) + p->scored;
    work->bytes[ROOFLINE_ATTENTION] += element * (2 * q + 2 * kv) * rows;
    work->bytes[ROOFLINE_ATTENTION_BACKWARD] += element * (4 * q + 4 * kv) * (inner * p->kept + p->gradient);
    work->passes[ROOFLINE_ATTENTION] = (p->reads + p->reads_again) * c->layers;
    work->passes[ROOFLINE_ATTENTION_BACKWARD] = p->reads_backward * c->layers;
}

// Forward reads x, writes h, reads and writes y; backward reads dy twice, x, h, and reads and writes dx.
static void count_lora(const ModelConfig *c, const ModelOptions *options, const Passes *p, double element,
                       RooflineWork *work) {
    const Shapes s = shapes_of(c);
    const double r = options->lora_r;
    for (int i = 0; i < ARCH_MODULES; i++) {
        if (!options->lora_target[i]) continue;
        const double inner = c->layers - 1, last_forward = is_key_or_value(i) ? p->forward : p->scored;
        const double last_backward = is_key_or_value(i) ? p->kept : p->gradient;
        const double forward = inner * (p->forward + p->again) + last_forward;
        const double backward = inner * p->kept + last_backward;
        work->flops[ROOFLINE_LORA] += 2 * r * (s.in[i] + s.out[i]) * (forward + 2 * backward);
        work->bytes[ROOFLINE_LORA] += element * (s.in[i] + r + 2 * s.out[i]) * forward;
        work->bytes[ROOFLINE_LORA] += element * (3 * s.in[i] + r + 2 * s.out[i]) * backward;
    }
}

// The ops of kernels/backend.h between the products, each reading and writing its rows once: two norms with their
// residual (4 rows of hidden each), two rotations, SwiGLU (3 rows of intermediate; 5 backward).
static void count_rows(const ModelConfig *c, const Passes *p, double element, RooflineWork *work) {
    const double q = (double)c->heads * c->head_dim, kv = (double)c->kv_heads * c->head_dim, inner = c->layers - 1;
    const double common = 8.0 * c->hidden + 2 * (q + kv);
    const double forward = inner * (p->forward + p->again) + p->scored, backward = inner * p->kept + p->gradient;
    work->bytes[ROOFLINE_ROWS] += element * (common + 3.0 * c->intermediate) * forward;
    work->bytes[ROOFLINE_ROWS] += element * (common + 5.0 * c->intermediate) * backward;
}

// Adapter, moments and gradient read, the first three written; the gradient zeroed, summed into and read for its norm;
// the copy in bfloat16 written.
static void count_adamw(const ModelConfig *c, const ModelOptions *options, RooflineWork *work) {
    const double floats = 10, copy = options->device.dtype == DTYPE_BF16 ? 2 : 0;
    work->bytes[ROOFLINE_ADAMW] += (double)roofline_adapter_count(c, options) * (floats * sizeof(float) + copy);
}

void roofline_work(const ModelConfig *config, const ModelOptions *options, const RooflineTokens *tokens,
                   RooflineWork *out) {
    const Passes passes = passes_of(options, tokens);
    const double element = (double)dtype_size(options->device.dtype);
    *out = (RooflineWork){.rows = (tokens->prefix + tokens->policy + tokens->kl) / tokens->micro_batches,
                          .launches = LAUNCHES_A_LAYER * config->layers * tokens->micro_batches,
                          .head_dim = config->head_dim};
    count_linear(config, &passes, element, out);
    count_head(config, &passes, element, out);
    count_attention(config, options, tokens, &passes, element, out);
    count_lora(config, options, &passes, element, out);
    count_rows(config, &passes, element, out);
    count_adamw(config, options, out);
}

const char *roofline_shares_source(const RooflineDevice *device, DType dtype) {
    return shares_of(device, dtype)->source;
}

double roofline_seconds(const RooflineDevice *device, DType dtype, const RooflineWork *work,
                        double seconds[ROOFLINE_CLASSES], double *host) {
    const Shares *s = shares_of(device, dtype);
    const double peak = 1e12 * (dtype == DTYPE_BF16 ? device->bf16_tflops : device->fp32_tflops);
    const double bandwidth = 1e9 * device->gigabytes_per_second;
    const int wide = work->head_dim > 64;
    const double products = s->products / (1 + s->products_rows / work->rows);
    const struct {
        double peak, bandwidth, least;
    } reached[ROOFLINE_CLASSES] = {
        [ROOFLINE_LINEAR] = {products, s->streams, 0},
        [ROOFLINE_HEAD] = {products, s->streams, 0},
        [ROOFLINE_ATTENTION] = {s->attention_forward[wide], s->streams, s->attention_least},
        [ROOFLINE_ATTENTION_BACKWARD] = {s->attention_backward[wide], s->streams, s->attention_backward_least},
        [ROOFLINE_LORA] = {products, s->lora, 0},
        [ROOFLINE_ROWS] = {1, s->rows, 0},
        [ROOFLINE_ADAMW] = {1, s->streams, 0}};
    double total = 0;
    for (int i = 0; i < ROOFLINE_CLASSES; i++) {
        const double compute = work->flops[i] / (reached[i].peak * peak);
        const double move = work->bytes[i] / (reached[i].bandwidth * bandwidth);
        seconds[i] = (compute > move ? compute : move) + work->passes[i] * reached[i].least;
        total += seconds[i];
    }
    *host = work->launches * s->launch;
    return total > *host ? total : *host;
}
