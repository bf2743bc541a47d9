// One global batch on all ranks: plan, forward, exchange of records, loss, backward, all-reduce of the gradient.
// Training, evaluation and the reference pass are the same walk, so that the reference runs training's own
// micro-batches.
#pragma once
#include "comm/device_comm.h"
#include "src/dataset.h"
#include "src/kto.h"
#include "src/model.h"

// Log-probs of the reference model by dataset row (a pair has two: src/dataset.h); NaN: not computed yet. The same on
// every rank.
typedef struct Reference {
    double *logp, *logp_kl; // [count]
    int32_t count, missing;
    char key[512];   // what the values depend on
    char path[2048]; // of the cache file
    bool changed;    // since it was read or written
} Reference;

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
    TokenScores scores;
    float *dlogp;
    int64_t score_capacity;
    double *mine, *all; // records on the wire
    int *wire_counts;
    double *row_scores; // [batch rows][completions of a row][STEP_SCORES]
    KtoRecord *records; // of the last batch, in row order
    float *host_gradient;
} StepContext;

typedef enum StepMode { STEP_REFERENCE, STEP_EVALUATE, STEP_TRAIN } StepMode;

typedef struct StepTimes {
    double comm_seconds, wait_seconds; // gradient all-reduce; waiting for the other ranks' records
} StepTimes;

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

// Allocates, and reads the cache file in `folder` that fits (rank 0 reads, all get it).
Status reference_open(Reference *reference, const Dataset *dataset, const StepContext *context, const char *folder);
// Writes the cache file when it changed (rank 0). After a failure the next call tries again.
Status reference_save(Reference *reference, Comm *comm);
void reference_close(Reference *reference);
// Whether the batch's rows have their values.
bool reference_has(const Reference *reference, const Dataset *dataset, int32_t batch);
