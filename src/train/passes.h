// What a rank does for one batch, in order: forward passes over its micro-batches, the exchange of records with all
// other ranks, backward passes. Plain integer C; step.c carries it out.
//
// KTO's z0 is of the whole batch, and no gradient can be had before it. With one micro-batch a rank the exchange comes
// between its forward and its backward pass. With several (activations of one alone fit), the y' are computed first,
// all of them, then the exchange gives z0, and each micro-batch has forward and backward at a time; a last exchange
// brings the records of the y. A loss without z0 needs the last exchange alone, for its metrics.
#pragma once
#include "src/data/batch.h"

typedef enum PassKind {
    PASS_FORWARD,  // of micro-batch `micro`, completions of `roles`
    PASS_EXCHANGE, // every rank's records to every rank
    PASS_BACKWARD  // of the micro-batch of the forward pass before it
} PassKind;

typedef struct StepPass {
    PassKind kind;
    int32_t micro;  // of the plan; -1: PASS_EXCHANGE
    unsigned roles; // PASS_FORWARD
} StepPass;

// Passes of a batch that is planned so; `train`: with backward; `needs_z0`: the loss has a reference point. Every rank
// has the same number of exchanges, whatever its number of micro-batches. passes[step_passes_max(plan)].
int32_t step_passes(const BatchPlan *plan, bool train, bool needs_z0, StepPass *passes);
int32_t step_passes_max(const BatchPlan *plan);
