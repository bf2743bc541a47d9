// Sampling from the model: many sequences decoded together over one paged key/value cache. Sequences join and leave
// between steps (continuous batching), each with its own options; prompts that begin alike are computed once.
#pragma once
#include "src/model/model.h"
#include "io/generation_config.h"
#include "src/model/model.h"

typedef struct GenerateOptions {
    bool adapters; // off: the base model
    bool greedy;
    double temperature, top_p; // top_p 1: off
    int32_t top_k;             // 0: off
    int32_t max_tokens;        // an answer also ends where the model's positions do
    uint64_t seed;
    EndTokens ends; // each ends an answer
} GenerateOptions;

typedef struct GeneratePrompt {
    const int32_t *tokens; // [length], length >= 1
    int32_t length;
    uint32_t id; // names the random numbers: the same id, seed and prompt give the same answer in any company
} GeneratePrompt;

// --- sequences that come and go -------------------------------------------------------------------------------------

typedef struct Generator Generator;

typedef struct GeneratorSize {
    int32_t sequences;      // decoded together
    int64_t cache_tokens;   // of all of them: prompts and answers; prompts of the past stay as long as there is room
    int32_t prefill_tokens; // of prompts, computed between two tokens of those that answer
} GeneratorSize;

// One at a time a model. `model` stays the caller's.
Status generator_open(Generator **out, Model *model, const GeneratorSize *size);
void generator_close(Generator *generator); // NULL is allowed

typedef enum GenerateEnd { GENERATE_GOES_ON, GENERATE_EOS, GENERATE_LENGTH } GenerateEnd;

typedef struct GenerateEvent {
    void *owner;
    int32_t token; // the next of the answer; none (-1) with GENERATE_EOS
    GenerateEnd end;
} GenerateEvent;

// Takes the prompt up, if there is room for it and its whole answer now (*taken); its tokens are copied. `owner` (not
// NULL) comes back with each token. STATUS_USAGE when it can never fit: the model's positions, or the whole cache.
Status generator_add(Generator *generator, const GeneratePrompt *prompt, const GenerateOptions *options, void *owner,
                     bool *taken);
// The owner's sequence ends without another event.
void generator_cancel(Generator *generator, const void *owner);
int32_t generator_active(const Generator *generator);
// Computes some tokens of waiting prompts, then the next token of every sequence that answers; events[sequences] gets
// one a sequence, *count how many. Where a sequence has ended its place is free.
Status generator_step(Generator *generator, GenerateEvent *events, int32_t *count);

// --- all at once ----------------------------------------------------------------------------------------------------

typedef struct GenerateAnswer {
    int32_t *tokens; // [length], without the token that ended it; freed by the caller
    int32_t length;
} GenerateAnswer;

// STATUS_USAGE when a prompt does not fit the model's positions. After a failure there is no answer to free.
Status generate(Model *model, const GeneratePrompt *prompts, int32_t count, const GenerateOptions *options,
                GenerateAnswer *answers);
