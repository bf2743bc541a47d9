// What a training step would take on a device that is not here: its memory by class and its seconds by a roofline
// (Williams et al., CACM 52(4), 2009), from data sheets, the configuration and the layout of the rows. docs/speed.md
// has the formula, docs/gpu.md says where the shares come from. Plain arithmetic: it opens no device.
#pragma once
#include "src/model/model.h"

typedef struct RooflineDevice {
    const char *name, *title;        // as --device takes it; as a person reads it
    double memory_gib;               // that CUDA reports, rounded down
    double bf16_tflops, fp32_tflops; // dense matrix products with fp32 sums; fp32 without tensor cores
    double gigabytes_per_second;     // 1e9
    const char *source;              // of the rates
    bool hopper;                     // the chip whose shares of these rates were measured
} RooflineDevice;

// STATUS_USAGE naming the known devices when there is none called `name`.
Status roofline_device(const char *name, const RooflineDevice **out);

// What one rank computes in a step, on average.
typedef struct RooflineTokens {
    double prefix, policy, kl;                // tokens laid out (src/data/batch.h); prefixes once a micro-batch
    double prefix_keys, policy_keys, kl_keys; // keys that these tokens see, summed over them
    double micro_batches;
    bool two_pass; // z0 needs a first pass over prefixes and y' (src/data/batch.h)
} RooflineTokens;

typedef enum RooflineClass {
    ROOFLINE_LINEAR, // linear layers of the base model, forward and backward
    ROOFLINE_HEAD,
    ROOFLINE_ATTENTION,
    ROOFLINE_ATTENTION_BACKWARD,
    ROOFLINE_LORA,
    ROOFLINE_ROWS, // norms, rotations, SwiGLU: bytes only
    ROOFLINE_ADAMW,
    ROOFLINE_CLASSES
} RooflineClass;
extern const char *const roofline_class_names[ROOFLINE_CLASSES];

typedef struct RooflineWork {
    double flops[ROOFLINE_CLASSES], bytes[ROOFLINE_CLASSES]; // of a step
    double passes[ROOFLINE_CLASSES];                         // of a layer's attention; 0 for other classes
    double rows;                                             // tokens of a micro-batch
    double launches;
    int32_t head_dim;
} RooflineWork;

// Uses dtype, lora_r, lora_target and recompute of `options`.
void roofline_work(const ModelConfig *config, const ModelOptions *options, const RooflineTokens *tokens,
                   RooflineWork *out);
// seconds[class] = max(flops / (share * peak), bytes / (share * bandwidth)) + passes * what one takes at least. *host
// gets what the host takes to launch it all, beside that. Returns the larger of the classes' sum and *host.
double roofline_seconds(const RooflineDevice *device, DType dtype, const RooflineWork *work,
                        double seconds[ROOFLINE_CLASSES], double *host);
// Where the shares for this device and type come from, for people.
const char *roofline_shares_source(const RooflineDevice *device, DType dtype);

// Adapter elements: r * (in + out) summed over the modules that are adapted.
int64_t roofline_adapter_count(const ModelConfig *config, const ModelOptions *options);
// Bytes of the four fp32 vectors (adapter, gradient, two moments) and the working copy in bfloat16.
size_t roofline_adapter_bytes(const ModelConfig *config, const ModelOptions *options);
