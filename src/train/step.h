// One global batch on all ranks: plan, forward, exchange of records, loss, backward, all-reduce of the gradient.
// Training, evaluation and the reference pass are the same walk, so that the reference runs training's own
// micro-batches.
#pragma once
#include "comm/device_comm.h"
#include "src/data/dataset.h"
#include "src/model/model.h"
#include "src/train/kto.h"
#include "src/train/passes.h"
#include "src/train/reference.h"

typedef struct StepContext {
    Comm *comm;
    DeviceComm *device_comm; // sums gradients on the device; NULL: over comm, through host memory
    Model *model;
    KtoOptions kto;
    int64_t micro_batch_tokens;
    bool share_prefixes;
    uint64_t seed;
    // scratch, sized by step_open
    BatchRow *rows;
    BatchPlan plan;
    MicroBatch micro;
    StepPass *passes;
    int32_t pass_capacity;
    TokenScores scores;
    float *dlogp;
    int64_t score_capacity;
    char *mine, *all;   // records on the wire
    size_t *wire_bytes; // [ranks]
    double *row_scores; // [batch rows][completions of a row][STEP_SCORES]
    KtoRecord *records; // of the last batch, in row order
    float *host_gradient;
} StepContext;

typedef enum StepMode { STEP_REFERENCE, STEP_EVALUATE, STEP_TRAIN } StepMode;

typedef struct StepTimes {
    double comm_seconds, wait_seconds; // gradient all-reduce; waiting for the other ranks' records
} StepTimes;

// How the run's batches are planned, as this rank sees it.
BatchOptions step_batch_options(const StepContext *context);

Status step_open(StepContext *context, int32_t batch_rows);
void step_close(StepContext *context);

// Runs batch `batch` of `dataset`. STEP_REFERENCE: fills `reference` for its rows. Otherwise the batch's reference
// values must be there; fills *out with kto_metrics' fields, rows, computed_tokens and the tokens of prompt and y (a
// pair's prompt with each) in num_tokens; STEP_TRAIN also leaves the gradient, summed over all ranks, in
// model->gradient. `step` keys dropout.
Status step_run(StepContext *context, const Dataset *dataset, int32_t batch, StepMode mode, int64_t step,
                Reference *reference, MetricsRow *out, StepTimes *times);

// Lets a device that has such a thing (Backend.warm) prepare for micro-batches of up to `tokens` tokens, before the
// first step: forward and backward of this rank's largest micro-batch of batch `batch`, without a result.
Status step_warm(StepContext *context, const Dataset *dataset, int32_t batch, int64_t tokens);

// For a step whose numbers are not finite: "FILE:LINE, LINE ..." of the last batch's rows, those whose log-probs are
// not finite alone where there are such. `size` is enough for the path and 400 bytes.
void step_name_rows(const StepContext *context, const Dataset *dataset, char *text, size_t size);
