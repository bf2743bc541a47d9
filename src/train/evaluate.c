// Evaluation: the loss and metrics of the current adapters on data.eval, by the same walk as training.
#include "src/train/evaluate.h"

#include "comm/stop.h"
#include "src/base/clock.h"

#include <math.h>
#include <stddef.h>

// Columns that are means of batch means (a batch without rows of a kind does not count), as TRL logs them.
static const size_t mean_columns[] = {offsetof(MetricsRow, kl),
                                      offsetof(MetricsRow, entropy),
                                      offsetof(MetricsRow, rewards_chosen),
                                      offsetof(MetricsRow, rewards_rejected),
                                      offsetof(MetricsRow, rewards_margins),
                                      offsetof(MetricsRow, rewards_accuracies),
                                      offsetof(MetricsRow, logps_chosen),
                                      offsetof(MetricsRow, logps_rejected),
                                      offsetof(MetricsRow, logits_chosen),
                                      offsetof(MetricsRow, logits_rejected)};
enum { MEANS = sizeof mean_columns / sizeof *mean_columns };
static const size_t sum_columns[] = {offsetof(MetricsRow, rows), offsetof(MetricsRow, rows_chosen),
                                     offsetof(MetricsRow, scored_tokens), offsetof(MetricsRow, computed_tokens)};
enum { SUMS = sizeof sum_columns / sizeof *sum_columns };

static double *column(MetricsRow *row, size_t offset) {
    return (double *)((char *)row + offset);
}

Status evaluate(Run *run, MetricsRow *out) {
    const double start = clock_seconds();
    const Dataset *dataset = &run->eval;
    StepTimes times = {0};
    double reference_seconds = 0, means[MEANS] = {0}, sums[SUMS] = {0}, loss = 0;
    int32_t counted[MEANS] = {0};
    for (int32_t batch = 0; batch < dataset->batch_count; batch++) {
        MetricsRow row = {0};
        if (batch % BATCHES_PER_AGREEMENT == BATCHES_PER_AGREEMENT - 1) {
            unsigned said;
            TRY(stop_agree(run->comm, 0, &said));
            if (said & SAY_STOP) return STATUS_STOPPED;
        }
        if (!reference_has(&run->eval_reference, dataset, batch)) {
            double before = clock_seconds();
            TRY(step_run(&run->step, dataset, batch, STEP_REFERENCE, 0, &run->eval_reference, &row, &times));
            reference_seconds += clock_seconds() - before;
        }
        TRY(step_run(&run->step, dataset, batch, STEP_EVALUATE, 0, &run->eval_reference, &row, &times));
        loss += row.loss * row.rows;
        for (int i = 0; i < MEANS; i++) {
            double value = *column(&row, mean_columns[i]);
            if (isnan(value)) continue;
            means[i] += value;
            counted[i]++;
        }
        for (int i = 0; i < SUMS; i++) sums[i] += *column(&row, sum_columns[i]);
    }
    for (int i = 0; i < MEANS; i++) *column(out, mean_columns[i]) = means[i] / counted[i]; // 0/0: NaN, none had rows
    for (int i = 0; i < SUMS; i++) *column(out, sum_columns[i]) = sums[i];
    out->loss = loss / out->rows;
    out->grad_norm = out->learning_rate = NAN;
    out->reference_seconds = reference_seconds;
    out->comm_seconds = times.comm_seconds;
    out->wait_seconds = times.wait_seconds;
    out->skipped = 0;
    out->step_seconds = clock_seconds() - start;
    out->tokens_per_second = out->computed_tokens / out->step_seconds;
    return STATUS_OK;
}
