// Sampling from the model: batches of prompts decoded together over one key/value cache, shared prefixes stored once.
#pragma once
#include "src/model.h"

typedef struct GenerateOptions {
    bool adapters; // off: the base model
    bool greedy;
    double temperature, top_p; // top_p 1: off
    int32_t top_k;             // 0: off
    int32_t max_tokens;        // an answer also ends where the model's positions do
    uint64_t seed;
    int32_t eos; // ends an answer
} GenerateOptions;

typedef struct GeneratePrompt {
    const int32_t *tokens; // [length], length >= 1
    int32_t length;
    uint32_t id; // names the random numbers: the same id, seed and prompt give the same answer in any company
} GeneratePrompt;

typedef struct GenerateAnswer {
    int32_t *tokens; // [length], without eos; freed by the caller
    int32_t length;
} GenerateAnswer;

// Logits are divided by the temperature, cut to top_k, then to the smallest set that holds top_p (transformers' order).
// STATUS_USAGE when a prompt does not fit the model's positions.
Status generate(Model *model, const GeneratePrompt *prompts, int32_t count, const GenerateOptions *options,
                GenerateAnswer *answers);
