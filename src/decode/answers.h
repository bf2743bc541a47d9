// Answers of all ranks together: to prompts that are tokens, and to a file of them.
#pragma once
#include "comm/comm.h"
#include "io/chat_template.h"
#include "io/tokenizer.h"
#include "src/decode/generate.h"

// Who answers: the same model on every rank.
typedef struct Answering {
    Comm *comm;
    Model *model;
    const Tokenizer *tokenizer;
    const ChatTemplate *chat; // NULL: none
    const EndTokens *ends;    // of an answer
} Answering;

typedef struct SampleOptions {
    bool adapters, greedy;
    double temperature, top_p;
    int64_t top_k, seed, max_tokens, samples; // samples: answers a prompt
} SampleOptions;
extern const SampleOptions sample_defaults;

// Answers to prompts[count], which all ranks give alike: answer i is rank i % size's. Every rank gets lengths[count]
// and ids[count * max_tokens]. Collective.
Status answer_prompts(const Answering *who, const GeneratePrompt *prompts, int32_t count, const SampleOptions *options,
                      const EndTokens *ends, int32_t *lengths, int32_t *ids);

// Answers to the prompts file `path`; on rank 0 *lines gets one JSON object a line ({"step"} when step >= 0), NULL
// elsewhere. Caller frees. STATUS_STOPPED when the ranks were asked to stop. Collective.
Status answer_file(const Answering *who, const char *path, const SampleOptions *options, int64_t step, char **lines);
