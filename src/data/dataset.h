// Rows of a JSONL file as tokens, their order, their global batches and their KL completions: everything about the data
// that is fixed before training. Tokens are made once a node, by all its ranks together, in memory that they share.
#pragma once
#include "comm/comm.h"
#include "io/chat_template.h"
#include "io/config.h"
#include "io/tokenizer.h"
#include "src/data/batch.h"

typedef struct Row {
    uint64_t first;                           // of the prompt in Dataset.tokens
    uint64_t completion;                      // of the completion there
    int32_t prompt_length, completion_length; // tokens; the completion is uncut
    uint32_t line;                            // in the file
    float weight;
    int32_t label; // 1: desirable
} Row;

typedef struct DatasetCounts {
    int64_t read, bad, dropped, cut, desirable, undesirable; // cut: completions that max_length shortens
    int64_t tokens, completion_tokens;                       // after cutting; a pair's prompt with each completion
    int64_t longest;                                         // row, in tokens, after cutting (y and y')
    char first_bad[256];                                     // message of the first bad row skipped
} DatasetCounts;

typedef struct Dataset {
    const char *path;
    const Row *rows;       // [row_count], in file order (all chosen before all rejected for paired files); node-shared
    const int32_t *tokens; // node-shared
    const int32_t *owners; // [tokens] dropout owners of prompt tokens, or NULL; node-shared
    bool pairs;            // row i is a chosen completion, and row count + i the rejected one to the same prompt
    int32_t count;         // what batches are made of: rows, or pairs, which their chosen rows stand for
    int32_t row_count;
    int64_t max_length;
    int32_t *order;  // [count] batch b is order[b * batch_size ..]
    int32_t *kl_row; // [count] row i's y' is the completion of row kl_row[i]; NULL: the loss needs none
    int32_t batch_size, batch_count;
    uint64_t hash; // of tokens, labels, weights, order, pairs and pairing with y'
    DatasetCounts counts;
} Dataset;

typedef struct DatasetOptions {
    int64_t max_length, max_prompt_length;
    bool shuffle, skip_bad_rows, need_kl, need_owners;
    bool pairs;       // the loss takes pairs; a row that is none is a bad one
    const char *loss; // its word, for that message
    uint64_t seed;
    int32_t batch_size;
    const ChatTemplate *chat; // NULL: none
    int32_t vocab;            // of the model: ids must be smaller
} DatasetOptions;

// Collective over all ranks. STATUS_DATA with FILE:LINE for a bad row (unless skip_bad_rows), or when no row is left.
Status dataset_open(Dataset *out, const char *path, const Tokenizer *tokenizer, const DatasetOptions *options,
                    Comm *comm);
void dataset_close(Dataset *dataset);

// Rows, or pairs, in global batch `batch` (the last may be smaller).
int32_t dataset_batch_rows(const Dataset *dataset, int32_t batch);
// Fills rows[dataset_batch_rows()] with prompts and completions, cut to max_length: y, and a pair's rejected one or y'
// when the loss needs it.
void dataset_batch(const Dataset *dataset, int32_t batch, BatchRow *rows);

// The batches of an epoch (0-based) in the order they are visited: epoch 0 and a sequential order as they stand, later
// ones shuffled by seed and epoch. visit[batch_count].
void dataset_epoch_order(const Dataset *dataset, bool shuffle, uint64_t seed, int64_t epoch, int32_t *visit);

// A prompt as tokens for sampling: through the chat template when it is messages. Caller frees *ids.
Status dataset_encode_prompt(const TextOrMessages *prompt, const Tokenizer *tokenizer, const ChatTemplate *chat,
                             int32_t **ids, int32_t *count);

typedef struct TokenList {
    int32_t *id; // [count]
    int32_t count, capacity;
} TokenList;

// A completion behind its prompt: all tokens of both, and which of them training has.
typedef struct AnswerTokens {
    TokenList all;
    int32_t first; // all[0, first) is what max_prompt_length cuts
    int32_t seam;  // all[first, seam) is the prompt, all[seam, end) the completion, which is scored
    int32_t end;   // all[end, count) is what max_length cuts
    bool dropped;  // the prompt alone fills max_length: the row is left out, and end is seam
} AnswerTokens;

// The rows that one line of a file gives, as tokens. Zeroed before its first line; the memory serves the next one.
typedef struct RowTokens {
    AnswerTokens answer[2]; // [count], chosen and rejected ones of a pair
    int count;
    TokenList prompt; // and scratch: what the encoder works with
    JinjaScratch scratch;
} RowTokens;

// A line as dataset_open has it, which makes its rows by this. STATUS_DATA, without FILE:LINE, for a row that it
// refuses.
Status dataset_encode_row(RowTokens *out, const JsonlRow *row, const Tokenizer *tokenizer,
                          const DatasetOptions *options);
void row_tokens_free(RowTokens *tokens);
