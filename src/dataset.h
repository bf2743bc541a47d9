// Rows of a JSONL file as tokens, their order, their global batches and their KL completions: everything about the data
// that is fixed before training. Tokens are made once a node, by all its ranks together, in memory that they share.
#pragma once
#include "comm/comm.h"
#include "io/chat_template.h"
#include "io/config.h"
#include "io/tokenizer.h"
#include "src/batch.h"

typedef struct Row {
    uint64_t first; // of the prompt in Dataset.tokens; the completion follows at `completion`
    uint64_t completion;
    int32_t prompt_length, completion_length; // tokens; the completion is uncut
    uint32_t line;                            // in the file
    float weight;
    int32_t label; // 1: desirable
} Row;

typedef struct DatasetCounts {
    int64_t read, bad, dropped, cut, desirable, undesirable; // cut: completions that max_length shortens
    int64_t tokens, completion_tokens;                       // after cutting
    int64_t longest;                                         // row, in tokens, after cutting (y and y')
    char first_bad[256];                                     // message of the first bad row skipped
} DatasetCounts;

typedef struct Dataset {
    const char *path;
    const Row *rows;       // [count], in file order (all chosen before all rejected for paired files); node-shared
    const int32_t *tokens; // node-shared
    const int32_t *owners; // [tokens] dropout owners of prompt tokens, or NULL; node-shared
    int32_t count;
    int64_t max_length;
    int32_t *order;  // [count] batch b is order[b * batch_size ..]
    int32_t *kl_row; // [count] row i's y' is the completion of row kl_row[i]; NULL: the loss needs none
    int32_t batch_size, batch_count;
    uint64_t hash; // of tokens, labels, weights, order and pairing
    DatasetCounts counts;
} Dataset;

typedef struct DatasetOptions {
    int64_t max_length, max_prompt_length;
    bool shuffle, skip_bad_rows, need_kl, need_owners;
    uint64_t seed;
    int32_t batch_size;
    ChatTemplate chat;
    int32_t vocab; // of the model: ids must be smaller
} DatasetOptions;

// Collective over all ranks. STATUS_DATA with FILE:LINE for a bad row (unless skip_bad_rows), or when no row is left.
Status dataset_open(Dataset *out, const char *path, const Tokenizer *tokenizer, const DatasetOptions *options,
                    Comm *comm);
void dataset_close(Dataset *dataset);

// Rows in global batch `batch` (the last may be smaller).
int32_t dataset_batch_rows(const Dataset *dataset, int32_t batch);
// Fills rows[dataset_batch_rows()] with prompts and completions y (and y' when the loss needs it), cut to max_length.
void dataset_batch(const Dataset *dataset, int32_t batch, BatchRow *rows);

// The batches of an epoch (0-based) in the order they are visited: epoch 0 and a sequential order as they stand, later
// ones shuffled by seed and epoch. visit[batch_count].
void dataset_epoch_order(const Dataset *dataset, bool shuffle, uint64_t seed, int64_t epoch, int32_t *visit);

// A prompt as tokens for sampling: through the chat template when it is messages. Caller frees *ids.
Status dataset_encode_prompt(const TextOrMessages *prompt, const Tokenizer *tokenizer, ChatTemplate chat, int32_t **ids,
                             int32_t *count);
// Tokens of a prompt and of a completion behind it, uncut, as a row of a data set has them. STATUS_DATA, without
// FILE:LINE, for a row that a data set refuses.
Status dataset_lengths(const TextOrMessages *prompt, const TextOrMessages *completion, const Tokenizer *tokenizer,
                       ChatTemplate chat, int32_t *prompt_length, int32_t *completion_length);
