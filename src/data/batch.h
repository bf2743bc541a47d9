// The batch layout: rows of a global batch as a forest of token segments, without padding and with nothing computed
// twice.
//
// A micro-batch is one flat array of tokens in three contiguous regions
//     [ prefixes | scored, with gradient (y) | scored, without gradient (y') ]
// cut into segments (kernels/backend.h). The prefixes are the token trie of the prompts x_0 .. x_{p-2}; under each
// prompt hangs one scored segment per completion with input tokens [x_{p-1}, c_0 .. c_{n-2}], predicting c_0 ..
// c_{n-1}. Both completions of a preference pair are y, and its prompt is computed once. Every token of a scored
// segment is scored and no token of a prefix is. Plain integer C: it knows no device and no model.
#pragma once
#include "kernels/backend.h"
#include "src/base/status.h"
#include <stdint.h>

typedef enum Role {
    ROLE_POLICY = 0,   // y, of a pair the chosen one: with gradient
    ROLE_REJECTED = 1, // of a pair: with gradient too
    ROLE_KL = 2        // y': without
} Role;
#define BATCH_COMPLETIONS_MAX 2

typedef struct Completion {
    const int32_t *tokens; // [length], cut to what fits behind the prompt; length >= 1
    int32_t length;
    Role role;
} Completion;

// A row as the layout sees it. Pointers are borrowed.
typedef struct BatchRow {
    int32_t row;           // index in the dataset, the dropout owner of the row's scored tokens
    int32_t rejected_row;  // the same of a pair's rejected completion
    const int32_t *prompt; // [prompt_length], prompt_length >= 1
    const int32_t *owner;  // [prompt_length] dropout owners of the prompt's tokens, or NULL
    int32_t prompt_length;
    int32_t completion_count;
    Completion completion[BATCH_COMPLETIONS_MAX];
} BatchRow;

// Who computes what of one global batch. The same on every rank.
typedef struct BatchPlan {
    int32_t *slot; // [count] indices of BatchRow, prompts in lexicographic order, so that common headers are neighbours
    int32_t *rank_first;  // [ranks + 1] rank r has slot[rank_first[r] .. rank_first[r+1])
    int32_t *micro_first; // [micro_count + 1] this rank's micro-batches, as ranges of slot
    int32_t *scratch;     // [2 * (count + 1)] for batch_count of any range of slot
    int32_t count, ranks, micro_count;
    bool two_pass; // some rank has several micro-batches and there are KL completions: z0 comes from a pass of its own
} BatchPlan;

typedef struct BatchOptions {
    int32_t rank, ranks;
    int64_t micro_batch_tokens; // largest micro-batch, except that a row is never cut; 0: no limit
    bool share;                 // share common prefixes of different prompts
} BatchOptions;

// Plans rows[count]. Ranks get contiguous ranges of the prompt order whose token costs (after sharing; a token with
// gradient counts twice) have the smallest possible maximum; a rank may stay idle. Reuses the arrays of a zeroed or
// earlier plan. STATUS_FAILED when out of memory.
Status batch_plan(const BatchRow *rows, int32_t count, const BatchOptions *options, BatchPlan *plan);
void batch_plan_free(BatchPlan *plan);

typedef struct Scored {
    int32_t slot, completion; // of BatchRow
    int32_t first, length;    // rows of the scored regions (0 = first token after the prefixes)
} Scored;

typedef struct MicroBatch {
    int32_t n_prefix, n_grad, n_total; // prefixes [0, n_prefix), y [n_prefix, n_grad), y' [n_grad, n_total)
    int32_t *token, *position, *owner; // [n_total]; owner -1: no dropout
    int32_t *target;                   // [n_total - n_prefix]
    Segment *segment;                  // [segment_count], regions in order, parents before children
    Scored *scored;                    // [scored_count], y first, in the order of the flat array
    int32_t segment_count, prefix_segments, grad_segments; // segments of the first one and the first two regions
    int32_t scored_count, scored_grad;
    int32_t capacity[3]; // of tokens, segments, scored
} MicroBatch;

// Lays out rows[slot[0 .. count)] (in prompt order) with the completions whose role is in `roles` (bits 1 << Role).
// Reuses the arrays of a zeroed or earlier micro-batch.
Status batch_layout(const BatchRow *rows, const int32_t *slot, int32_t count, unsigned roles, bool share,
                    MicroBatch *out);
void micro_batch_free(MicroBatch *batch);

#define ROLES_POLICY  (1u << ROLE_POLICY | 1u << ROLE_REJECTED)
#define ROLES_ALL     (ROLES_POLICY | 1u << ROLE_KL)
#define ROLES_KL_ONLY (1u << ROLE_KL)

// Tokens that batch_layout would lay out: prefixes, y (of pairs both), y'.
typedef struct TokenCount {
    int64_t prefix, policy, kl;
} TokenCount;
// Tokens that all ranks together compute for a planned batch, prefixes of a two-pass plan counted twice.
TokenCount batch_computed(const BatchRow *rows, const BatchPlan *plan, const BatchOptions *options);
// scratch: [2 * (count + 1)], e.g. the plan's.
TokenCount batch_count(const BatchRow *rows, const int32_t *slot, int32_t count, unsigned roles, bool share,
                       int32_t *scratch);
