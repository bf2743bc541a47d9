// A data set's batches as ranks would plan them, without a model or a device: what memory, cost and the summary are
// counted from.
#pragma once
#include "src/data/dataset.h"

// Batch `batch` of the data set as rank options->rank plans it.
typedef Status (*PlanVisit)(void *argument, int32_t batch, const BatchRow *rows, const BatchPlan *plan,
                            const BatchOptions *options);

// Visits batches 0, stride, 2 stride, ... of `dataset`, each as ranks [first_rank, end_rank) of options->ranks plan it;
// ends with the first failure.
Status plan_walk(const Dataset *dataset, const BatchOptions *options, int32_t stride, int32_t first_rank,
                 int32_t end_rank, PlanVisit visit, void *argument);
