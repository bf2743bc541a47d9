#include "src/data/plan_walk.h"

#include "src/base/memory.h"

#include <stdlib.h>

Status plan_walk(const Dataset *dataset, const BatchOptions *options, int32_t stride, int32_t first_rank,
                 int32_t end_rank, PlanVisit visit, void *argument) {
    BatchRow *rows = NULL;
    BatchPlan plan = {0};
    BatchOptions of_rank = *options;
    TRY(MEMORY_ALLOC(rows, dataset->batch_size, "a batch"));
    Status status = STATUS_OK;
    for (int32_t batch = 0; batch < dataset->batch_count && status == STATUS_OK; batch += stride) {
        dataset_batch(dataset, batch, rows);
        for (of_rank.rank = first_rank; of_rank.rank < end_rank && status == STATUS_OK; of_rank.rank++) {
            status = batch_plan(rows, dataset_batch_rows(dataset, batch), &of_rank, &plan);
            if (status == STATUS_OK) status = visit(argument, batch, rows, &plan, &of_rank);
        }
    }
    batch_plan_free(&plan);
    free(rows);
    return status;
}
