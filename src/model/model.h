// A Llama, or a model of its kind (docs/models.md), with LoRA adapters on one device: forward and backward over
// micro-batches. Written once for all devices: it calls only the op table (kernels/backend.h). What is computed is what
// transformers computes. Decoding is src/model/decode.h's.
#pragma once
#include "src/data/batch.h"
#include "src/model/arch.h"

struct Comm;

typedef struct ModelOptions {
    const Backend *backend;
    DeviceOptions device;
    Device *opened; // the device, open already and from then on the model's; NULL: model_open opens one
    int32_t lora_r; // 0: no adapters at all
    double lora_alpha, lora_dropout;
    bool lora_target[ARCH_MODULES];
    bool recompute;        // keep only each layer's input and compute the rest again in backward
    bool paged_moments;    // Adam's moments in memory that the device may page to the host
    int32_t max_positions; // of the longest sequence that will come
} ModelOptions;

// Device bytes by lifetime.
typedef struct ModelMemory {
    size_t weights, adapters, activations, scratch;
} ModelMemory;

typedef struct Model {
    ModelConfig config;
    ModelOptions options;
    uint64_t hash; // of the base weights, as this rank reads them
    Device *device;
    AdapterTable table;                          // cuts each of the four vectors
    float *adapter, *gradient, *adam_m, *adam_v; // device, fp32 [table.count]
    ModelMemory memory;
    struct ModelState *state;
} Model;

// Maps the weights of `model_dir` (converted once a node where the file's dtype is another) and makes zeroed adapters.
// STATUS_DATA for model files that do not fit. Collective over the node's ranks.
Status model_open(Model *model, const char *model_dir, const ModelOptions *options, struct Comm *comm);
void model_close(Model *model);

// A fresh adapter: A uniform in +-1/sqrt(in) (PEFT's kaiming_uniform with a = sqrt(5)), B zero.
Status model_init_adapter(Model *model, uint64_t seed);
// Between the flat vectors and host memory; `which` is one of the model's four vectors.
Status model_get(Model *model, const float *which, float *host);
Status model_set(Model *model, float *which, const float *host);
// To be called after the adapter vector changed: refreshes the working copies in the device's dtype.
Status model_adapter_changed(Model *model);

// Makes room for micro-batches up to this many tokens in the first two regions and in all. To be called between steps.
Status model_reserve(Model *model, int64_t keep_tokens, int64_t all_tokens);
// Bytes of activations that model_reserve(keep, all) takes, from the configuration alone.
size_t model_activation_bytes(const ModelConfig *config, const ModelOptions *options, int64_t keep_tokens,
                              int64_t all_tokens);
// Bytes of scratch that the device's ops take beside them for `tokens` tokens; needs no open model.
size_t model_scratch_bytes(const ModelConfig *config, const ModelOptions *options, int64_t tokens);
// The same for weights of this configuration, in the working dtype.
size_t model_weight_bytes(const ModelConfig *config, DType dtype);

typedef struct Pass {
    bool adapters;        // off: the reference model
    bool keep;            // keep what model_backward needs
    bool dropout;         // lora_dropout applies: in training, not in evaluation
    uint64_t dropout_key; // made of seed and step
} Pass;

// Per scored token (the scored regions of `batch`, in order), host, fp32: log-prob of the target, entropy (nats) and
// mean logit of the next-token distribution.
typedef struct TokenScores {
    float *logp, *entropy, *mean_logit; // [n_total - n_prefix]
} TokenScores;

Status model_forward(Model *model, const MicroBatch *batch, const Pass *pass, const TokenScores *out);
// Adds the adapter gradient of sum_t dlogp[t] * logp[t] to model->gradient; t over the y region (host, fp32). The last
// model_forward must have been of this batch, with keep.
Status model_backward(Model *model, const MicroBatch *batch, const Pass *pass, const float *dlogp);
Status model_zero_gradient(Model *model);
