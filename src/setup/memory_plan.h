// How many tokens a micro-batch may have, and the memory that a run's micro-batches take: from the configuration, the
// rows and the devices' total memory alone, so that a resumed run finds the same.
#pragma once
#include "src/train/run.h"

#define MEMORY_PLAN_SHARE 0.8 // of a device's memory, which a run takes at most

// What some ranks will lay out of all of a data set's batches.
typedef struct LayoutSize {
    int64_t keep, all; // most tokens of a micro-batch: in the first two regions, in all three
    int32_t batch;     // that has the latter
    TokenCount total;  // tokens of all batches (prefixes of a two-pass plan once)
} LayoutSize;

// Adds what ranks [first_rank, end_rank) lay out of `dataset` to *size.
Status memory_plan_measure(const Run *run, const Dataset *dataset, int first_rank, int end_rank, LayoutSize *size);

// Bytes of activations and scratch; where the backend is NULL (a device that is not built here), of an assumed scratch.
double memory_plan_working_bytes(const ModelConfig *model, const ModelOptions *options, int64_t keep, int64_t all);
// The largest train.micro_batch_tokens that needs at most `room` working bytes; 0: none does.
int64_t memory_plan_largest_micro_batch(const ModelConfig *model, const ModelOptions *options, double room);

// Sets run->step.micro_batch_tokens, whose only writer in a run this is: train.micro_batch_tokens, or `saved` (that of
// the checkpoint that the run goes on from; 0: none), or the largest budget that fits on every rank. Collective.
Status memory_plan_choose(Run *run, int64_t saved);
// Makes room for this rank's largest micro-batches, so that no step allocates on the device. STATUS_USAGE, with what
// would fit, where they need more than there is.
Status memory_plan_reserve(Run *run);
