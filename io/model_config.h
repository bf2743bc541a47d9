// config.json of a Hugging Face model folder.
#pragma once
#include "src/base/status.h"
#include <stdint.h>

// What model_type names. src/model/arch.h has the tensors of each.
typedef enum ModelFamily {
    MODEL_LLAMA,
    MODEL_MISTRAL,
    MODEL_QWEN2,
    MODEL_QWEN3,
    MODEL_GRANITE,
    MODEL_SMOLLM3,
    MODEL_OLMO2,
    MODEL_FAMILIES
} ModelFamily;

#define MODEL_LAYERS_MAX 1024

typedef struct ModelConfig {
    ModelFamily family;
    int32_t hidden, intermediate, layers, heads, kv_heads, head_dim, vocab, max_position;
    float rms_norm_eps;
    double rope_theta;
    bool rope_llama3; // rope_scaling of type "llama3", with the next four
    double rope_factor, rope_low_freq_factor, rope_high_freq_factor;
    int32_t rope_original_max_position;
    bool no_rope[MODEL_LAYERS_MAX]; // layers whose queries and keys are not rotated
    bool tied_head;                 // lm_head is the embedding
    bool qkv_bias, o_bias;          // q, k and v have biases; o has one
    bool windowed;                  // max_position is where a sliding window would begin to matter
    // Granite's, 1 elsewhere, and 1 / sqrt(head_dim): embeddings are multiplied, what a sublayer adds, scores; logits
    // are divided.
    float embedding_multiplier, residual_multiplier, attention_scale, logits_scaling;
} ModelConfig;

// max_position is sliding_window where that is smaller: up to there, attention in windows is attention over everything.
// STATUS_DATA with the file, the key and what is supported: another family (by name, with what it would need),
// other activations, other rope scaling, mlp_bias, sizes out of range (each limited by a named constant) or that do not
// divide. Reads the transformers 4 layout (rope_theta, rope_scaling) and the transformers 5 layout (rope_parameters).
Status model_config_read(ModelConfig *out, const char *model_dir);
// The key that max_position is from.
const char *model_config_limit(const ModelConfig *config);
// Copies config.json of `model_dir` to the file `to`, written durably: byte for byte where it says `dtype` ("bfloat16")
// already, else with that as its dtype, under the key that it has (torch_dtype of transformers 4, dtype of 5).
Status model_config_copy(const char *model_dir, const char *dtype, const char *to);
